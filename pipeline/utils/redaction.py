"""Credentials have no place in a URL: it is written into ``run.json``, into logs and into errors."""

import re

from schemas.errors import UsageError

_NAMES = r"signature|credential|token|secret|passw(?:or)?d|api[-_]?key|(?:access|private)[-_]?key(?:[-_]?id)?"
# What comes before a secret, which is kept, and the secret. A variable of the shell is none.
_SECRETS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(://[^/\s:@]*:)(?!\$)[^/\s@]+(?=@)",
        r"()\bA[KS]IA[A-Z0-9]{12,}(?::[^\s@]+(?=@))?",
        rf"((?:^|[?&;:,\s'\"({{]|--)(?:[\w-]*(?:{_NAMES})|sig|pwd)=['\"]?)[^\s&'\"$][^\s&'\"]*",
        rf"(--[\w-]*(?:{_NAMES})\s+['\"]?)[^\s'\"$-][^\s'\"]*",
        r"(\bcurl\s(?:[^|;]*\s)?(?:-\w*?u|--user)[\s=]*['\"]?[^\s:'\"]+:)(?!\d+(?:['\"\s]|$))[^\s'\"$][^\s'\"]*",
        r"(\b(?:authorization|cookie|[\w-]*-(?:token|key)):\s*(?:(?:bearer|basic|token)\s+)?+)[^\s'\"$][^\s'\"]*",
    )
)


def redact(text: str) -> str:
    """A text, such as a URL or an error, with asterisks for every secret in it."""
    for pattern in _SECRETS:
        text = pattern.sub(r"\1***", text)
    return text


def refuse_credentials(url: str) -> None:
    """Let only those URLs and ``pipe:`` commands pass that carry no secret.

    Raises:
        UsageError: it does; the message shows it without.
    """
    if (shown := redact(url)) != url:
        raise UsageError(f"{shown}: carries credentials; give them by the environment, see docs/howto/storage.md")
