"""A small world with known truth, and a network that knows its way in it."""
