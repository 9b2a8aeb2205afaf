"""Schemas of everything that is written to disk or read from a user: records, tables, paths, errors."""
