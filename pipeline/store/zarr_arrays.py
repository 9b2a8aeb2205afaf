"""Zarr arrays of an atlas: their metadata, and the rows of a shard as one Zarr shard.

The rows of a shard are encoded by zarr in memory and written as one object: each object is written once and whole, its
checksum is known before, and no writer reads, merges or touches metadata.
"""

import json
import warnings
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import MemoryStore

from pipeline.store.object_store import ObjectStore
from pipeline.utils.concurrency import concurrent_map
from schemas import layout
from schemas.layout import MAPS, STORED_FLAGS, ArraySpec, shard_object
from schemas.run_record import RunRecord


def create_arrays(objects: ObjectStore, run: RunRecord) -> None:
    """Write the metadata of the group and of all its arrays, whose length is that of the rows of all shards."""
    contents = _metadata(run)
    for key in sorted(contents, reverse=True):  # the group's own metadata last
        objects.put(f"{MAPS}/{key}", contents[key].to_bytes())


def metadata_faults(objects: ObjectStore, run: RunRecord, earlier: RunRecord | None = None) -> list[str]:
    """Return a sentence for each metadata object that is not as planned.

    Args:
        objects: objects of the atlas.
        run: its record.
        earlier: the same with fewer shards; metadata of these are no fault either.
    """
    earlier_metadata = _metadata(earlier) if earlier else {}

    def verify(item: tuple[str, Buffer]) -> str | None:
        name = f"{MAPS}/{item[0]}"
        try:
            data = objects.get(name)
        except FileNotFoundError:
            return f"{name}: is missing"
        allowed = [item[1], *filter(None, [earlier_metadata.get(item[0])])]
        if any(_is_equivalent(data, each.to_bytes()) for each in allowed):
            return None
        return f"{name}: is not what the plan wrote"

    return [fault for fault in concurrent_map(verify, _metadata(run).items()) if fault is not None]


def metadata_objects(run: RunRecord) -> dict[str, int]:
    """Return names and sizes of the objects that ``create_arrays`` writes."""
    return {f"{MAPS}/{key}": len(value.to_bytes()) for key, value in _metadata(run).items()}


def _is_equivalent(data: bytes, expected: bytes) -> bool:
    """Return whether metadata are equal but for the spaces and additional fields of another version of zarr."""
    if data == expected:
        return True
    try:
        content, expected_content = (json.loads(text) for text in (data, expected))
    except (ValueError, RecursionError):
        return False
    return _contains(content, expected_content)


def _contains(content: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return isinstance(content, dict) and all(
            name in content and _contains(content[name], value) for name, value in expected.items()
        )
    if isinstance(expected, list):
        return isinstance(content, list) and len(content) == len(expected) and all(map(_contains, content, expected))
    return bool(content == expected)


def _metadata(run: RunRecord) -> dict[str, Buffer]:
    """Return the metadata objects of the plan by their key in the Zarr store."""
    contents: dict[str, Buffer] = {}
    store = MemoryStore(contents)
    group = zarr.create_group(store, attributes={"targets": list(run.stored_targets), "run": run.run_hash})
    targets = len(run.stored_targets)
    target = group.create_array("target", shape=(targets,), dtype=str, dimension_names=("target",))
    target[:] = np.asarray(run.stored_targets, dtype=object)
    for name, spec in run.arrays.items():
        attributes = dict(run.methods[name]) if spec is layout.MAP else _ATTRIBUTES.get(spec, {})
        _create_array(group, name, spec, (run.rows, *row_shape(spec, run)), run, attributes)
    with warnings.catch_warnings():
        # Consolidated metadata is an extension of Zarr v3 that other readers may ignore. It is always written with all
        # others, and opens a remote atlas with one request.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(store)
    return contents


_ATTRIBUTES: dict[ArraySpec, dict[str, Any]] = {
    layout.RANGE: {"bounds": ["min", "max"]},
    layout.FLAG: {
        "flag_values": [int(flag) for flag in STORED_FLAGS],
        "flag_meanings": " ".join(flag.name.lower() for flag in STORED_FLAGS),
    },
}


def row_shape(spec: ArraySpec, run: RunRecord) -> tuple[int, ...]:
    """Return the shape of one row of an array.

    Args:
        spec: description of the array.
        run: record of the run.
    """
    sizes = dict(zip(("target", "y", "x", "bound"), (len(run.stored_targets), *run.model.grid, 2), strict=True))
    return tuple(sizes[dim] for dim in spec.dims[1:])


def empty_slot(spec: ArraySpec, run: RunRecord) -> NDArray[Any]:
    """Return the rows of a shard in an array, [slot, …], without any map.

    Args:
        spec: description of the array.
        run: record of the run.
    """
    return np.full((run.slot, *row_shape(spec, run)), spec.empty, spec.dtype)


def _create_array(
    group: zarr.Group,
    name: str,
    spec: ArraySpec,
    shape: tuple[int, ...],
    run: RunRecord,
    attributes: dict[str, Any],
    write_empty: bool = False,
) -> Any:
    """Create an array whose Zarr shards are the slots of shards."""
    return group.create_array(
        name,
        shape=shape,
        dtype=spec.dtype,
        chunks=(run.chunk, *shape[1:]),
        shards=(run.slot, *shape[1:]),
        fill_value=spec.empty,
        compressors=BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
        dimension_names=spec.dims,
        attributes=attributes,
        config={"write_empty_chunks": write_empty},
    )


def encode_slot(run: RunRecord, spec: ArraySpec, values: NDArray[Any]) -> bytes:
    """Return the rows of a shard in one array as a Zarr shard, also where all values are empty.

    Args:
        run: record of the run.
        spec: description of the array.
        values: [slot, …], ``spec.empty`` where there is no map.
    """
    key = shard_object("slot", 0, values.ndim).removeprefix(f"{MAPS}/")
    for write_empty in (False, True):  # zarr has no object for a Zarr shard of which all values are empty
        contents: dict[str, Buffer] = {}
        group = zarr.create_group(MemoryStore(contents))
        _create_array(group, "slot", spec, values.shape, run, {}, write_empty)[:] = values
        if key in contents:
            break
    return contents[key].to_bytes()


def decode_slot(run: RunRecord, spec: ArraySpec, data: bytes | None) -> NDArray[Any]:
    """Return the rows of a shard in one array, [slot, …].

    Args:
        run: record of the run.
        spec: description of the array.
        data: a Zarr shard; None is none, as atlases have of earlier versions where all values are empty.
    """
    if data is None:
        return empty_slot(spec, run)
    contents: dict[str, Buffer] = {}
    shape = (run.slot, *row_shape(spec, run))
    array = _create_array(zarr.create_group(MemoryStore(contents)), "slot", spec, shape, run, {})
    key = shard_object("slot", 0, len(shape)).removeprefix(f"{MAPS}/")
    contents[key] = default_buffer_prototype().buffer.from_bytes(data)
    return np.asarray(array[:])
