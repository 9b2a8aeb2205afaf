"""Maps that are computed again are those that are stored, and one that was exchanged is found."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from support import jpeg, recommit, samples, write_tar

from pipeline.run.recompute_maps import recompute
from pipeline.run.sample_batches import group_by_shard, sample_batches
from pipeline.store import Atlas
from pipeline.store.verify import verify


def test_maps_that_are_computed_again_are_equal_bit_by_bit(finished: Path) -> None:
    again = recompute(Atlas.open(str(finished)), 5)
    assert (again.maps, again.equal, again.faults) == (5 * 3 * 2, 5 * 3 * 2, [])
    assert recompute(Atlas.open(str(finished)), 99).maps == 16 * 3 * 2


def test_a_map_that_was_exchanged_is_found_although_all_checksums_are_right(finished: Path) -> None:
    maps = zarr.open_group(str(finished / "maps.zarr"), mode="r+")["legrad"]
    values = maps[:7]
    values[[2, 3]] = values[[3, 2]]
    maps[:7] = values
    recommit(finished)
    assert verify(Atlas.open(str(finished))).faults == []
    again = recompute(Atlas.open(str(finished)), 16)
    faults = again.faults
    assert (len(faults), again.damaged) == (4, ["part-0"])
    assert faults[0].startswith("part-0: the legrad map of s0002 (label) is not what is computed now, it is ")


def test_a_tar_that_is_gone_is_noted_and_one_of_other_pictures_is_a_fault(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "shards" / "part-1.tar").unlink()
    members = samples(4, 12)
    members[0] = (members[0][0], jpeg(99))
    write_tar(tmp_path / "shards" / "part-2.tar", members)
    again = recompute(Atlas.open(str(finished)), 16)
    (note,) = again.notes
    assert re.fullmatch(r"part-1: cannot be computed again: .*/part-1.tar: there is no such file", note)
    assert again.faults == ["part-2: s0012 cannot be computed again: its image_sha256 changed in the shard; restore it"]
    assert again.damaged == []
    assert again.maps == (5 + 3) * 3 * 2


@pytest.mark.parametrize("count", [1, 16])
def test_another_machine_may_differ_in_the_last_bits(finished: Path, count: int) -> None:
    ranges = zarr.open_group(str(finished / "maps.zarr"), mode="r+")["legrad_range"]
    ranges[:] = ranges[:] * np.float32(1 + 1e-6)
    recommit(finished)
    again = recompute(Atlas.open(str(finished)), count)
    assert again.faults == []
    assert again.equal == again.maps - count * 2


def test_if_not_a_single_map_can_be_computed_again_that_is_a_fault(finished: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "shards")
    (fault,) = recompute(Atlas.open(str(finished)), 4).faults
    assert fault.startswith("not one of 4 samples could be computed again; part-")


def test_a_label_that_was_changed_is_a_fault_of_the_shard(finished: Path, tmp_path: Path) -> None:
    members = [(name, b"9" if name == "s0012.cls" else data) for name, data in samples(4, 12)]
    write_tar(tmp_path / "shards" / "part-2.tar", members)
    again = recompute(Atlas.open(str(finished)), 16)
    assert again.faults == ["part-2: s0012 cannot be computed again: its label changed in the shard; restore it"]


def test_of_a_batch_that_time_allows_all_samples_are_compared_and_at_least_one_batch_is(finished: Path) -> None:
    atlas = Atlas.open(str(finished))
    (_, first), *others = sample_batches(atlas, None, 0)
    assert others
    assert len(first) > 1
    none = recompute(atlas, seconds=0)
    assert (none.maps, none.equal) == (len(first) * 3 * 2, len(first) * 3 * 2)
    enough = recompute(atlas, seconds=3600)
    assert (enough.maps, enough.equal) == (16 * 3 * 2, 16 * 3 * 2)


@pytest.mark.parametrize("count", [1, 5, 16, None])
def test_samples_are_chosen_batch_by_batch(finished: Path, count: int | None) -> None:
    atlas = Atlas.open(str(finished))
    size, chosen = atlas.run.spec.batch_size, sample_batches(atlas, count, 1)
    assert sum(len(ordinals) for _, ordinals in chosen) == (count or 16)
    places = [(shard, {ordinal // size for ordinal in ordinals}) for shard, ordinals in chosen]
    assert all(len(batches) == 1 for _, batches in places)
    assert len({(shard, *batches) for shard, batches in places}) == len(places)
    assert chosen[:-1] == sample_batches(atlas, None, 1)[: len(chosen) - 1]  # only the last may be a part
    by_shard = group_by_shard(chosen)
    assert [shard for shard, _ in by_shard] == sorted({shard for shard, _ in chosen})
    assert {(shard, o) for shard, part in by_shard for o in part} == {
        (shard, o) for shard, part in chosen for o in part
    }


def test_without_any_map_there_is_nothing_to_compute(finished: Path) -> None:
    shutil.rmtree(finished / "commits")
    assert recompute(Atlas.open(str(finished)), 4).maps == 0
