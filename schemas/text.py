"""Text of strangers, fit for a terminal."""


def printable(text: str) -> str:
    """A text whose control and formatting characters, but for newlines, are written as escapes."""
    return "".join(each if each.isprintable() or each == "\n" else _escape(each) for each in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
