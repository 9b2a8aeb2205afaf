"""The Zarr side of an atlas, read by zarr and xarray through a network that fails."""

from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr
from s3.faults import Fault, Proxy, each

from pipeline.store import Atlas, ObjectStore
from pipeline.store.zarr_store import ReadOnlyStore
from schemas.layout import MAPS


@pytest.fixture
def uploaded(undisturbed: Path, bucket: str) -> ReadOnlyStore:
    """The atlas in a bucket, without a run."""
    here, there = ObjectStore(str(undisturbed)), ObjectStore(f"{bucket}/atlas")
    for name, _ in here.list_all():
        there.put(name, here.get(name))
    return ReadOnlyStore(there, MAPS)


def test_arrays_are_read_whole_and_in_parts(undisturbed: Path, uploaded: ReadOnlyStore, proxy: Proxy) -> None:
    expected = Atlas.open(str(undisturbed)).maps("legrad").values
    proxy.fail(each(0.1))
    array = zarr.open_group(uploaded, mode="r", zarr_format=3)["legrad"]
    assert isinstance(array, zarr.Array)
    assert np.array_equal(np.asarray(array[...]), expected, equal_nan=True)
    assert np.array_equal(np.asarray(array[8, 0]), expected[8, 0])
    maps = xarray.open_zarr(uploaded, zarr_format=3)["legrad"]
    assert np.array_equal(maps.sel(target="label").values, expected[:, 0], equal_nan=True)
    assert proxy.injected.total() > 3


def test_what_is_there_is_listed(uploaded: ReadOnlyStore) -> None:
    group = zarr.open_group(uploaded, mode="r", zarr_format=3, use_consolidated=False)
    assert set(group.array_keys()) == {"target"} | {
        f"{method}{kind}" for method in ("attention", "legrad", "random") for kind in ("", "_range", "_flag")
    }


def test_nothing_can_be_written_through_it(uploaded: ReadOnlyStore) -> None:
    with pytest.raises(ValueError, match="read-only"):
        zarr.open_group(uploaded, mode="r", zarr_format=3)["legrad"][0] = 0  # type: ignore[index]


def test_a_server_that_is_gone_is_not_taken_for_an_empty_map(uploaded: ReadOnlyStore, proxy: Proxy) -> None:
    array = zarr.open_group(uploaded, mode="r", zarr_format=3)["legrad"]
    proxy.fail({Fault.ERROR: 1.0})
    with pytest.raises(OSError, match="6 times in"):
        array[...]  # type: ignore[index]
