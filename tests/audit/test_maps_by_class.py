"""Maps class by class are those of the shards, each once, without those that say nothing."""

import numpy as np
import pytest

from pipeline.audit.shortcuts import read_maps_by_class
from pipeline.store import Atlas
from schemas.samples import explained_class


@pytest.mark.parametrize("target", ["label", "predicted"])
@pytest.mark.parametrize("method", ["legrad", "uniform"])
def test_each_map_is_given_once_with_its_row_and_class(atlas: Atlas, target: str, method: str) -> None:
    expected = {}
    for name in atlas.commits:
        shard = atlas.shard(name)
        for place, sample in enumerate(shard.samples.to_pylist()):
            if shard.has_values(method, target)[place]:
                expected[sample["row"]] = (explained_class(sample, target, ())[0], shard.maps(method, target)[place])
    found = list(read_maps_by_class(atlas, method, target))
    assert [each.class_id for each in found] == sorted({number for number, _ in expected.values()})
    rows = [int(row) for each in found for row in each.rows]
    assert sorted(rows) == sorted(expected)
    for each in found:
        assert (np.diff(each.rows) > 0).all()
        for row, values in zip(each.rows, each.maps, strict=True):
            assert expected[int(row)][0] == each.class_id
            assert np.array_equal(expected[int(row)][1], values)
    assert bool(rows) == (method == "legrad")  # uniform maps say nothing
