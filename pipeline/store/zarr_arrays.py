"""The Zarr side of an atlas: the arrays it has, and a shard's rows of them as finished objects.

A shard's rows are encoded here, by zarr, in memory, and written as one object by the same hand as everything
else: so each object is written once and whole, its checksum is known before it is written, and no writer
ever reads, merges or touches metadata.
"""

import json
import warnings
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from pipeline.store.object_store import ObjectStore
from pipeline.utils.concurrency import concurrent_map
from schemas import layout
from schemas.commits import ObjectRecord
from schemas.layout import MAPS, ArraySpec, Flag, shard_object
from schemas.run import RunRecord


def create(objects: ObjectStore, run: RunRecord) -> None:
    """Write the metadata of the group and of all its arrays. Nothing else ever writes metadata."""
    contents = _metadata(run)
    for key in sorted(contents, reverse=True):  # the group's own metadata last
        objects.put(f"{MAPS}/{key}", contents[key].to_bytes())


def wrong(objects: ObjectStore, run: RunRecord) -> list[str]:
    """A sentence for each part of the metadata that is not as it was created."""

    def look(item: tuple[str, Buffer]) -> str | None:
        name = f"{MAPS}/{item[0]}"
        try:
            found = objects.get(name)
        except FileNotFoundError:
            return f"{name}: is missing"
        return None if _same(found, item[1].to_bytes()) else f"{name}: is not what the plan wrote"

    return [problem for problem in concurrent_map(look, _metadata(run).items()) if problem is not None]


def metadata_objects(run: RunRecord) -> dict[str, int]:
    """Names and lengths of the objects that ``create`` writes."""
    return {f"{MAPS}/{key}": len(value.to_bytes()) for key, value in _metadata(run).items()}


def _same(found: bytes, expected: bytes) -> bool:
    """Equal but for how another version of zarr writes the same: spaces, and fields that it adds."""
    if found == expected:
        return True
    try:
        there, wanted = (json.loads(data) for data in (found, expected))
    except ValueError:
        return False
    return _holds(there, wanted)


def _holds(there: Any, wanted: Any) -> bool:
    """Whether all that is wanted is there."""
    if isinstance(wanted, dict):
        return isinstance(there, dict) and all(name in there and _holds(there[name], wanted[name]) for name in wanted)
    if isinstance(wanted, list):
        return isinstance(there, list) and len(there) == len(wanted) and all(map(_holds, there, wanted))
    return bool(there == wanted)


def _metadata(run: RunRecord) -> dict[str, Buffer]:
    """All that the plan writes into the Zarr store, by key."""
    contents: dict[str, Buffer] = {}
    store = MemoryStore(contents)
    group = zarr.create_group(store, attributes={"targets": list(run.spec.targets), "spec": run.spec_hash})
    targets = len(run.spec.targets)
    target = group.create_array("target", shape=(targets,), dtype=str, dimension_names=("target",))
    target[:] = np.asarray(run.spec.targets, dtype=object)
    for method, options in run.methods.items():
        for name, kind in layout.arrays(method, run.extra_outputs.get(method, ())).items():
            attributes = dict(options) if kind is layout.MAP else _ATTRIBUTES.get(kind, {})
            _create(group, name, kind, (run.rows, *row_shape(kind, run)), run, attributes)
    with warnings.catch_warnings():
        # Consolidated metadata is an extension of Zarr v3 that other readers may ignore. Since nothing here
        # changes metadata later, it cannot go stale, and it opens a remote atlas with one request.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(store)
    return contents


_ATTRIBUTES: dict[ArraySpec, dict[str, Any]] = {
    layout.RANGE: {"bounds": ["min", "max"]},
    layout.FLAG: {
        "flag_values": [int(flag) for flag in Flag],
        "flag_meanings": " ".join(flag.name.lower() for flag in Flag),
    },
}


def row_shape(kind: ArraySpec, run: RunRecord) -> tuple[int, ...]:
    """Shape of what an array holds for one row."""
    sizes = dict(zip(("target", "y", "x", "bound"), (len(run.spec.targets), *run.model.grid, 2), strict=True))
    return tuple(sizes[dim] for dim in kind.dims[1:])


def empty(kind: ArraySpec, run: RunRecord) -> NDArray[Any]:
    """A shard's slot of an array, in which no row has a map yet."""
    return np.full((run.slot, *row_shape(kind, run)), kind.empty, kind.dtype)


def _create(
    group: zarr.Group, name: str, kind: ArraySpec, shape: tuple[int, ...], run: RunRecord, attributes: dict[str, Any]
) -> Any:
    """An array whose Zarr shard is exactly one shard's slot."""
    return group.create_array(
        name,
        shape=shape,
        dtype=kind.dtype,
        chunks=(run.chunk, *shape[1:]),
        shards=(run.slot, *shape[1:]),
        fill_value=kind.empty,
        compressors=BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
        dimension_names=kind.dims,
        attributes=attributes,
    )


def put(
    objects: ObjectStore, run: RunRecord, name: str, kind: ArraySpec, shard_index: int, values: NDArray[Any]
) -> ObjectRecord | None:
    """Write a shard's slot of one array: [slot, …], ``kind.empty`` where there is no map.

    Returns:
        None where all is empty: Zarr keeps no object for that.
    """
    contents: dict[str, Buffer] = {}
    group = zarr.create_group(MemoryStore(contents))
    _create(group, name, kind, values.shape, run, {})[:] = values
    first = shard_object(name, 0, values.ndim).removeprefix(f"{MAPS}/")
    target = shard_object(name, shard_index, values.ndim)
    if first not in contents:
        objects.delete(target)  # an earlier attempt may have had maps
        return None
    return objects.put(target, contents[first].to_bytes())
