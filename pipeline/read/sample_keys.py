"""Keys of samples by WebDataset's rule: the path of a file up to the first dot of its name.

The rule is written out because the package ``webdataset`` imports torch.
"""

import re

_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)$")


def split_name(name: str) -> tuple[str, str]:
    """Split the name of a file into key and extension; both are empty if it has no extension."""
    match = _NAME.match(name)
    return (match[1], match[2]) if match else ("", "")


def sample_key(name: str) -> str:
    """Return the key of a file without a leading ``./``; its name if it has no extension."""
    return (split_name(name)[0] or name).removeprefix("./")


def is_unsafe_key(key: str) -> bool:
    """Return whether a key would lead out of the folder that it is extracted to."""
    return key.startswith("/") or "\\" in key or "\0" in key or ".." in key.split("/")
