"""Data as scripts: a page that is opened from a disk may load scripts, but cannot fetch files."""

import json
from typing import Any

from pipeline.utils.json_values import replace_nonfinite


def to_script(function: str, *arguments: Any) -> bytes:
    """Return a script that calls ``atlas.<function>`` with JSON values; null for NaN and infinity.

    Nothing in it can end a script element, whatever the values are.

    Args:
        function: name of the function.
        *arguments: values that JSON can express.
    """
    texts = [json.dumps(replace_nonfinite(value), allow_nan=False, separators=(",", ":")) for value in arguments]
    text = ", ".join(texts).replace("<", "\\u003c")
    return f"atlas.{function}({text});\n".encode("ascii")
