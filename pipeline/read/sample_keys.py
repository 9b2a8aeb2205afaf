"""Keys of samples: the path of a file up to the first dot of its name, as in WebDataset, or up to the last.

The rule is written out because the package ``webdataset`` imports torch.
"""

import re

from schemas.run import KeySeparator

_NAMES: dict[KeySeparator, re.Pattern[str]] = {
    "first-dot": re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)$"),
    "last-dot": re.compile(r"((?:.*/|)[^/]+)[.]([^/.]*)\Z", re.DOTALL),
}


def split_name(name: str, separator: KeySeparator = "first-dot") -> tuple[str, str]:
    """Split the name of a file into key and extension; both are empty if it has no extension.

    Args:
        name: of the file, with its folders.
        separator: dot of the file name that ends the key.
    """
    match = _NAMES[separator].match(name)
    return (match[1], match[2]) if match else ("", "")


def sample_key(name: str, separator: KeySeparator = "first-dot") -> str:
    """Return the key of a file without a leading ``./``; its name if it has no extension.

    Args:
        name: of the file, with its folders.
        separator: dot of the file name that ends the key.
    """
    return (split_name(name, separator)[0] or name).removeprefix("./")


def escape_bytes(name: str) -> str:
    """Escape the bytes of a name that are not UTF-8, which Python keeps as lone surrogates."""
    return name.encode("utf-8", "backslashreplace").decode()


def is_unsafe_key(key: str) -> bool:
    """Return whether a key would lead out of the folder that it is extracted to."""
    return key.startswith("/") or "\\" in key or "\0" in key or ".." in key.split("/")
