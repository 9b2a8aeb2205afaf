"""A file of a source that is empty, cut or something else is refused by name, or its images are listed."""

from pathlib import Path

import pack_sources as sources
import pytest
from pack_sources import left_out_of, read_samples
from support import soak_after

from pipeline.pack import pack
from schemas.errors import UsageError

FAULTS = {
    "empty": lambda data: b"",
    "binary": lambda data: b"\x00\xff\xfe garbage",
    "words": lambda data: b"words of another file\n",
    "cut": lambda data: data[: len(data) // 2],
    "shifted": lambda data: data.replace(b"1", b"x", 1),
    "doubled": lambda data: data + b"\n" + data,
}
IMAGES = {".jpg", ".jpeg"}


def texts_of(root: Path) -> list[Path]:
    """One file of each kind that is no image: the first in its folder with its extension."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix.lower() not in IMAGES)
    return list(
        {(path.parent, path.suffix if path.suffix in (".xml", ".png") else path.name): path for path in files}.values()
    )


def pack_or_refuse(kind: str, source: Path, out: Path, split: str | None) -> str:
    """Return the sentence of a refusal; empty if it was packed. Any other error is a failure."""
    try:
        pack(kind, source, out, split)
    except UsageError as error:
        return str(error)
    return ""


LISTS = ("val.txt", "image_ids.txt", "images.txt", "train_test_split.txt")
"""Files that choose the images: nothing else knows that a line is missing."""


@pytest.mark.parametrize(
    "name",
    soak_after(3, ["cub", "kaggle", "validation", *sorted(sources.ALL.keys() - {"cub", "kaggle", "validation"})]),
)
def test_a_broken_file_is_refused_by_name_or_costs_only_what_is_listed(name: str, tmp_path: Path) -> None:
    kind, source, split = sources.ALL[name](tmp_path / "in")
    pack(kind, source, tmp_path / "whole", split)
    whole = set(read_samples(tmp_path / "whole"))
    refused = 0
    for number, file in enumerate(texts_of(tmp_path / "in")):
        data = file.read_bytes()
        for fault, change in FAULTS.items():
            out = tmp_path / f"{number} {fault}"
            file.write_bytes(change(data))
            if said := pack_or_refuse(kind, source, out, split):
                assert str(tmp_path / "in") in said, fault
                refused += 1
            elif file.name not in LISTS:
                assert len(left_out_of(out)) >= len(whole - set(read_samples(out))), fault
        file.write_bytes(data)
    assert refused or name in ("folder", "train")
