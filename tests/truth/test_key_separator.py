"""Keys of a truth whose file names have dots, as the run of the images has them."""

from pathlib import Path

import pytest
from truth.writers import WRITERS, drawn

from pipeline.truth import read_truth
from schemas.errors import UsageError


@pytest.mark.parametrize("kind", WRITERS)
def test_keys_end_at_the_last_dot_in_every_format(kind: str, tmp_path: Path) -> None:
    writer = WRITERS[kind]
    writer.write(tmp_path, [drawn("a/22.05"), drawn("a/22.06")])
    assert list(read_truth(tmp_path / writer.file, key_separator="last-dot")) == ["a/22.05", "a/22.06"]
    with pytest.raises(UsageError, match=r"key a/22; rename one .* by --key-separator last-dot"):
        read_truth(tmp_path / writer.file)


@pytest.mark.parametrize("kind", WRITERS)
def test_both_separators_agree_on_names_with_one_dot(kind: str, tmp_path: Path) -> None:
    writer = WRITERS[kind]
    writer.write(tmp_path, [drawn("a/x"), drawn("a/y")])
    assert list(read_truth(tmp_path / writer.file, key_separator="last-dot")) == ["a/x", "a/y"]
