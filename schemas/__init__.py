"""The contracts: everything that is written to disk or read from a user."""
