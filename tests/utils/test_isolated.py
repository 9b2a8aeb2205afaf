"""Maps of few isolated patches: by what they are, and not on maps that show an object."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.explain import Flag, flags
from pipeline.store import Atlas
from pipeline.utils.isolated import is_isolated


def spikes(*places: tuple[int, int], side: int = 16) -> NDArray[np.float64]:
    values = np.tile(np.linspace(-0.01, 0.01, side), (side, 1))  # median 0
    for place in places:
        values[place] = 1.0
    return values


def test_single_patches_are_isolated_up_to_one_in_64() -> None:
    places = [(0, 0), (4, 9), (9, 3), (15, 15), (2, 13)]
    for count in (1, 4):  # of 256
        assert is_isolated(spikes(*places[:count]))
    assert not is_isolated(spikes(*places))
    assert is_isolated(spikes((3, 3), side=8))
    assert not is_isolated(spikes((3, 3), side=7))  # where one patch may be an object


def test_a_neighbor_above_an_eighth_makes_it_no_longer_single() -> None:
    for beside in ((5, 5), (5, 6), (6, 7)):
        values = spikes((5, 6)) if beside != (5, 6) else spikes((5, 7))
        values[beside] = 0.12
        assert is_isolated(values)
        values[beside] = 0.13
        assert not is_isolated(values)
    assert not is_isolated(spikes((5, 5), (6, 6)))
    values = spikes((5, 5))
    values[9, 9] = 0.48  # no peak, so its neighbors do not matter
    values[9, 10] = 0.47
    assert is_isolated(values)
    values[9, 9] = 0.52
    assert not is_isolated(values)


def test_scale_and_offset_do_not_matter_and_batches_are_judged_one_by_one() -> None:
    rng = np.random.default_rng(0)
    maps = np.stack([spikes((5, 6)), rng.random((16, 16)), np.ones((16, 16)), np.full((16, 16), np.nan)])
    expected = [True, False, False, False]
    assert is_isolated(maps).tolist() == expected
    assert is_isolated(3e4 * maps - 7e5).tolist() == expected
    assert is_isolated(maps.reshape(2, 2, 16, 16)).tolist() == [expected[:2], expected[2:]]
    assert not is_isolated(-maps[:1]).any()  # one low patch is no peak
    scaled = ((maps[0] - maps[0].min()) / np.ptp(maps[0])).astype(np.float16)
    assert is_isolated(scaled)
    assert is_isolated(maps[:0]).shape == (0,)


def test_flags_name_them() -> None:
    maps = torch.from_numpy(np.stack([spikes((5, 6)), np.ones((16, 16)), np.full((16, 16), np.inf), np.eye(16)]))
    assert flags(maps).tolist() == [Flag.ISOLATED, Flag.CONSTANT, Flag.NOT_FINITE, Flag.OK]
    assert flags(maps.to(torch.bfloat16)).tolist() == flags(maps).tolist()


def test_maps_of_the_demo_that_show_objects_are_not(atlas: Atlas) -> None:
    for method, most in (("legrad", 0.0), ("center", 0.0), ("reciprocam_single", 0.2), ("attention", 0.2)):
        found = np.concatenate([atlas.shard(shard).flags(method) == Flag.ISOLATED for shard in atlas.shard_names])
        assert found.mean() <= most, method


@pytest.mark.parametrize("isolated", [True, False])
def test_atlases_judge_them_where_they_are_read(atlas: Atlas, monkeypatch: pytest.MonkeyPatch, isolated: bool) -> None:
    shard = atlas.shard(atlas.shard_names[0])
    read = shard.values

    def values(array: str, target: str) -> NDArray[np.float32]:
        found = read(array, target)
        if array == "legrad" and isolated:
            found[3] = spikes((2, 5), side=8)
        return found

    monkeypatch.setattr(shard, "values", values)
    assert shard.flags("legrad")[3] == (Flag.ISOLATED if isolated else Flag.OK)
    assert shard.has_values("legrad")[3]
    assert shard.flags("uniform")[3] == Flag.CONSTANT
    assert not shard.has_values("uniform")[3]
