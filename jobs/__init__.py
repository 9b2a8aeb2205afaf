"""The front door: one file for each command of ``vitatlas``."""
