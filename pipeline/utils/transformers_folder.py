"""Folders of models as ``save_pretrained`` of ``transformers`` writes them."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from schemas.errors import UsageError
from schemas.text import first_line


@contextmanager
def quiet(logging: Any) -> Iterator[None]:
    """Show no progress bars and no warnings of transformers; what a warning would say is refused."""
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def read_json(folder: str, name: str, required: bool = True) -> dict[str, Any]:
    """Return the mapping in a file of a folder.

    Args:
        folder: the folder.
        name: of the file.
        required: refuse a folder without it; otherwise it is empty there.

    Raises:
        UsageError: the file is missing, or is no mapping in JSON.
    """
    path = os.path.join(folder, name)
    try:
        with open(path, "rb") as file:
            content = json.load(file)
    except FileNotFoundError:
        if not required:
            return {}
        raise UsageError(f"{path}: no such file; name a folder as save_pretrained of transformers writes it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as JSON ({first_line(error)})") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: must be a mapping, as save_pretrained of transformers writes it")
    return content
