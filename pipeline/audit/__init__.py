"""What an auditor reads of an atlas: its maps in numbers, suspicious classes, and whether all of it is as published."""
