"""Values that JSON can express."""

import math
from collections.abc import Mapping
from typing import Any


def replace_nonfinite(value: Any) -> Any:
    """Return a value, such as a mapping with lists of numbers, with None in place of NaN and infinity."""
    if isinstance(value, Mapping):
        return {name: replace_nonfinite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [replace_nonfinite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
