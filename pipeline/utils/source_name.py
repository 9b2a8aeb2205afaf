"""Names of atlases and other sources on the command line: ``NAME=PATH``."""

import re
from pathlib import PurePath

from schemas.errors import UsageError

_NAME = re.compile(r"[^/\\:=\x00-\x1f\x7f]{1,80}")


def split_source_name(text: str) -> tuple[str, str]:
    """Return name and path of ``NAME=PATH``; without a name, that of the folder, or of the file without its suffix.

    What is before the first ``=`` is a name unless it has a slash, so a path with that sign begins with ``./``.

    Args:
        text: of the user.

    Raises:
        UsageError: the name is empty or has control characters, or the path is empty.
    """
    name, equals, path = text.partition("=")
    if not equals or "/" in name or "\\" in name:
        name, path = "", text
    elif not _NAME.fullmatch(name) or not path:
        raise UsageError(f"{text}: is no NAME=PATH; write a name of at most 80 characters without : and a path")
    last = PurePath(path.rstrip("/"))
    return name or (last.stem if last.suffix.lower() in (".tar", ".json", ".csv", ".txt") else last.name), path
