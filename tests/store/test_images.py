"""Pictures come once more from their shard, and only those that the maps are of."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import jpeg, samples, write_tar

from pipeline.image import PreprocessConfig
from pipeline.label import iter_labels
from pipeline.read import decode_image
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.store import Atlas
from pipeline.store.images import read_images
from schemas.errors import CorruptShardError
from schemas.policy import Pamr, Policy, Threshold
from schemas.run import ModelSpec, RunSpec

Members = list[tuple[str, bytes]]
MEMBERS = samples(12)
MEMBERS[3] = (MEMBERS[3][0], b"no picture")  # of the second sample
GOOD = [0, *range(2, 12)]
POLICY = Policy(name="sharp", methods=("legrad",), threshold=Threshold(kind="otsu"), refine=Pamr())


@pytest.fixture(scope="module")
def atlas(checkpoint: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    folder = tmp_path_factory.mktemp("pictures")
    shard = str(write_tar(folder / "a.tar", MEMBERS))
    plan(RunSpec(shards=(shard,), model=checkpoint, methods=("legrad",), batch_size=4), str(folder / "atlas"))
    return run(str(folder / "atlas"), INLINE)


@pytest.mark.parametrize(("ordinals", "sizes"), [(GOOD, [4, 4, 3]), ([2, 7, 8], [3]), ([11], [1]), ([], [])])
def test_all_that_are_asked_for_come_in_order_and_full_groups(
    atlas: Atlas, ordinals: list[int], sizes: list[int]
) -> None:
    found = list(read_images(atlas.shard("a"), ordinals, 4))
    assert [len(some) for some, _ in found] == sizes
    assert [ordinal for some, _ in found for ordinal in some] == ordinals
    frame = PreprocessConfig.for_model(atlas.run.model, atlas.run.spec.geometry)
    for some, pixels in found:
        for ordinal, seen in zip(some, pixels, strict=True):
            assert np.array_equal(seen, decode_image(MEMBERS[3 * ordinal][1], frame).pixels)


@pytest.mark.parametrize("labels", [False, True], ids=["pictures", "labels"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda members: [("s0000.jpg", jpeg(99)), *members[1:]], "the image of s0000 is not the one in the atlas"),
        (lambda members: [("other.jpg", members[0][1]), *members[3:]], "the image of other is not the one"),
        (lambda members: members[:-6], "lacks samples that the atlas has maps of; is it another shard"),
    ],
    ids=["exchanged", "renamed", "shorter"],
)
def test_a_tar_of_other_pictures_is_refused(
    atlas: Atlas, tmp_path: Path, change: Callable[[Members], Members], says: str, labels: bool
) -> None:
    other = str(write_tar(tmp_path / "a.tar", change(MEMBERS)))
    shard = replace(atlas.run.shards[0], url=other, fault="it was truncated, and is mended now")  # so it may hold any
    moved = Atlas(atlas.objects, atlas.run.model_copy(update={"shards": (shard,)}))
    with pytest.raises(CorruptShardError, match=says):
        list(iter_labels(moved, "a", POLICY) if labels else read_images(moved.shard("a"), GOOD, 4))


def test_samples_without_maps_are_labelled_in_their_place(atlas: Atlas) -> None:
    found = list(iter_labels(atlas, "a", POLICY))
    assert [label.sample["ordinal"] for label in found] == list(range(12))
    assert [label.status == "undecodable" for label in found] == [number == 1 for number in range(12)]
