"""Helpers without a stage of their own: storage access, process pools, concurrency, timing."""
