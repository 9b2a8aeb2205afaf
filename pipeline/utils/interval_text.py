"""Numbers and intervals in sentences and tables for people."""


def format_number(value: float, decimals: int) -> str:
    """Return a number with a minus sign, not a hyphen, before a negative one; −0 is 0."""
    return f"{value:z.{decimals}f}".replace("-", "−")


def format_interval(low: float, high: float, decimals: int = 1) -> str:
    """Return the ends of an interval: ``66.9–77.6``; where one is negative ``−0.17 to −0.02``."""
    ends = [format_number(end, decimals) for end in (low, high)]
    return (" to " if any(end.startswith("−") for end in ends) else "–").join(ends)
