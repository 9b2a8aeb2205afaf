"""The pages of the documentation, and the blocks of code in them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    ROOT / "k8s" / "README.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts),
]

_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<excuse>.+) -->\n+)?"
    r"^(?P<indent> *)```(?P<language>[^\s`]*).*\n(?P<text>(?:.*\n)*?)(?P=indent)```$",
    re.MULTILINE,
)


class Block(NamedTuple):
    """A block of code.

    Attributes:
        page: that it stands in; line: where it begins.
        language: of it.
        excuse: why it cannot be run, said in front of it as ``<!-- not run: … -->``.
    """

    page: Path
    line: int
    language: str
    text: str
    excuse: str | None

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """All blocks in these languages, or all there are."""
    return [block for page in PAGES for block in _blocks(page) if not languages or block.language in languages]


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    for found in _BLOCK.finditer(text):
        indent = len(found["indent"])
        code = "".join(line[indent:] for line in found["text"].splitlines(keepends=True))
        line = text.count("\n", 0, found.start("indent")) + 1
        yield Block(page, line, found["language"], code, found["excuse"])
