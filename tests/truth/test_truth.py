"""Truth of many images: whose it is, which part of it, and its digest."""

import pickle
import shutil
from pathlib import Path

import pytest
from truth.writers import WRITERS, Drawn, drawn

from pipeline.truth import TruthSet, read_truth
from schemas.errors import UsageError


def boxes(folder: Path, *keys: str) -> TruthSet:
    """Truth of these images, each with a box of its own."""
    rows = [f"{key}.jpeg,0,0,{number},1" for number, key in enumerate(keys)]
    (folder / "boxes.txt").write_text("\n".join(["image_id,x0,y0,x1,y1", *rows]))
    return read_truth(folder / "boxes.txt")


@pytest.mark.parametrize(
    ("keys", "asked", "expected"),
    [
        (["a/s1", "b/s1"], "a/s1", "a/s1"),
        (["a/s1", "b/s1"], "./b/s1", "b/s1"),
        (["a/s1", "b/s1"], "c/s1", None),  # another image
        (["val2/0/7", "val2/1/7"], "1/7", "val2/1/7"),
        (["val2/0/7", "val2/1/7"], "2/7", None),
        (["0/7", "1/7"], "val2/1/7", "1/7"),
        (["val/v1", "val/v2"], "v1", "val/v1"),
        (["v1", "v2"], "n01/v1", "v1"),
        (["val/v1", "val/v2"], "n01/v1", "val/v1"),  # ILSVRC, sorted into folders of classes
        (["val/v1", "val/v2"], "n01/v3", None),
        (["val/v12"], "2", None),
        (["cat/1", "dog/2"], "dog/1", None),  # the truth has the folder, and not this image
        (["a/cat/1", "a/dog/2"], "dog/1", None),
        (["cat/1", "dog/2"], "a/dog/1", None),
        (["a/1", "2"], "1", "a/1"),
        (["1", "b/2"], "c/1", "1"),
        (["s1", "a/s1"], "s1", "s1"),
    ],
)
def test_an_image_is_found_by_its_path_or_by_a_name_that_is_its_own(
    keys: list[str], asked: str, expected: str | None, tmp_path: Path
) -> None:
    truths = boxes(tmp_path, *keys)
    for truth_set in (truths, truths.subset([asked, *keys])):
        truth = truth_set.find(asked)
        assert (truth.key if truth else None) == expected
    assert len(truths.subset([asked])) == (expected is not None)


@pytest.mark.parametrize(("keys", "asked"), [(["a/s1", "b/s1"], "s1"), (["x/0/7", "y/0/7", "z/1/7"], "0/7")])
def test_two_truths_of_one_image_are_named(keys: list[str], asked: str, tmp_path: Path) -> None:
    truths = boxes(tmp_path, *keys)
    for look in (truths.find, lambda key: truths.subset([key])):
        with pytest.raises(UsageError, match=f"boxes.txt: {keys[0]} and {keys[1]} are both the truth of {asked}"):
            look(asked)


def test_a_part_answers_as_the_whole_does(tmp_path: Path) -> None:
    """The whole knows that names are not unique; a part of it would not see that."""
    truths = boxes(tmp_path, "a/s1", "b/s1", "b/s2")
    assert truths.find("c/s2") is None
    assert truths.subset(["b/s2"]).find("c/s2") is None
    truths = boxes(tmp_path, "cat/1", "dog/2")
    assert truths.subset(["cat/1", "dog/1"]).find("dog/1") is None


def test_a_part_is_small_and_has_a_digest_of_its_own(tmp_path: Path) -> None:
    truths = boxes(tmp_path, *(f"a/s{number}" for number in range(1000)))
    part = truths.subset(["s3", "./a/s5", "nobody"])
    assert list(part) == ["a/s3", "a/s5"]
    assert (len(part), part.name) == (2, "boxes.txt")
    assert len(pickle.dumps(part)) < 1500
    assert part.find("s5").boxes.tolist() == [[0, 0, 5, 1]]
    assert len({truths.digest, part.digest, truths.subset(["s3"]).digest}) == 3
    assert part.digest == truths.subset(["s3", "a/s5"]).digest


@pytest.mark.parametrize("kind", WRITERS)
def test_the_digest_is_of_all_that_is_said_and_not_of_where(kind: str, tmp_path: Path) -> None:
    writer, digests = WRITERS[kind], []
    first = drawn()
    objects = first.objects.copy()
    objects[1, 1] = 1
    for name, made in {"a/x": first, "b/x": first, "c/x": Drawn(first.key, objects, first.ignore)}.items():
        folder = tmp_path / name
        folder.mkdir(parents=True)
        writer.write(folder, [made, drawn("n02/p1")])
        digests.append(read_truth(folder / writer.file).digest)
        shutil.rmtree(folder)
    assert digests[0] == digests[1] != digests[2]
    assert digests[0].startswith("sha256:")


@pytest.mark.parametrize("kind", WRITERS)
def test_truth_of_an_image_of_another_size_is_refused(kind: str, tmp_path: Path) -> None:
    writer = WRITERS[kind]
    writer.write(tmp_path, [drawn()])
    truth = read_truth(tmp_path / writer.file).find("n01/p0")
    if writer.sizes or writer.masks:
        says = (
            "is 30×21 pixels, but 30×20 in the truth" if writer.sizes else "its mask is 30×20 pixels, the image 30×21"
        )
        with pytest.raises(UsageError, match=f"n01/p0: {says}"):
            truth.with_size(30, 21)
    assert truth.with_size(30, 20).key == "n01/p0"
