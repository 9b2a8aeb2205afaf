"""Redaction of credentials and local paths in URLs, errors, logs and records."""

import re
from pathlib import PurePath

from schemas.errors import UsageError

_NAMES = r"signature|credential|token|secret|passw(?:or)?d|api[-_]?key|(?:access|private)[-_]?key(?:[-_]?id)?"
_LOCAL_PREFIX = "local-dir:"
# Group 1 is the text before a secret, which stays; the rest is the secret. A shell variable is not a secret.
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


def public_model_name(name: str) -> str:
    """Return the name of a network; for a local folder without the path to it."""
    return _LOCAL_PREFIX + PurePath(name.removeprefix(_LOCAL_PREFIX)).name if name.startswith(_LOCAL_PREFIX) else name


def redact(text: str) -> str:
    """Return a text, such as a URL or an error, with asterisks in place of every secret."""
    for pattern in _SECRETS:
        text = pattern.sub(r"\1***", text)
    return text


def refuse_credentials(url: str) -> None:
    """Refuse a URL or ``pipe:`` command with a secret.

    Raises:
        UsageError: it has one; the message shows the redacted text.
    """
    if (redacted := redact(url)) != url:
        raise UsageError(f"{redacted}: carries credentials; set them in the environment, see docs/howto/storage.md")
