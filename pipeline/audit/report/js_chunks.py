"""Maps and pictures in shards of a few images each, which a page loads as they come into view."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.audit.report.js_encoding import to_base64, to_script, to_uint8
from pipeline.audit.report.thumbnails import thumbnails
from pipeline.store import Atlas, AtlasShard, ObjectStore
from pipeline.store.parquet import from_parquet
from schemas.audit_tables import MAP_STATISTICS
from schemas.samples import SampleStatus
from schemas.scores import is_control

IMAGES_PER_CHUNK = 8
"""In a shard, at most. Images are sorted by all sorts of things, so that neighbours are rarely wanted together."""
CHUNKS = "data/shards"
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ShardSelection:
    """What the report shows of a shard.

    Attributes:
        ordinals: of the samples, ascending.
        first: number of its first shard.
    """

    shard: str
    ordinals: tuple[int, ...]
    first: int


@dataclass(frozen=True)
class ImageColumns:
    """What is known of the images of a shard without looking at a shard.

    Attributes:
        keys: n of them.
        images: by name, [n].
        flags: uint8 [methods, targets, n], see ``schemas.layout.Flag``.
        numbers: float32 [methods, NUMBERS, n], NaN where nothing is known.
    """

    keys: list[str]
    images: dict[str, NDArray[Any]]
    flags: NDArray[np.uint8]
    numbers: Floats


def sample_images(atlas: Atlas, images: int, seed: int) -> list[ShardSelection]:
    """So many samples that have maps, at random, in the order of their rows."""
    samples = atlas.samples(["shard", "ordinal", "status"])
    good = samples.filter(pc.equal(samples["status"].cast(pa.string()), SampleStatus.OK))
    drawn = good.take(np.sort(np.random.default_rng(seed).permutation(len(good))[:images])).to_pylist()
    by_shard: dict[str, list[int]] = {}
    for sample in drawn:
        by_shard.setdefault(sample["shard"], []).append(sample["ordinal"])
    parts, first = [], 0
    for shard, ordinals in by_shard.items():
        parts.append(ShardSelection(shard, tuple(ordinals), first))
        first += -(-len(ordinals) // IMAGES_PER_CHUNK)
    return parts


def chunk_name(number: int) -> str:
    """Where a shard stands in the report."""
    return f"{CHUNKS}/{number}.js"


def write_chunks(
    url: str, audit: str, out: str, methods: Sequence[str], pictures: bool, part: ShardSelection
) -> tuple[str, ImageColumns]:
    """Write the shards of a shard.

    ``atlas.shard(number, {thumbnails, blocks, maps, flags, numbers})``: JPEGs; for each image and target which block of
    maps is its (one for both where they explain the same class); uint8 [blocks, methods, h, w]; uint8 [blocks,
    methods]; and float32 [images, methods, NUMBERS].

    Args:
        audit: folder whose numbers are taken.
        out: folder of the report.
        methods: in the order in which they are stored.

    Raises:
        CorruptShardError: see ``thumbnails``.
    """
    atlas, objects = Atlas.open(url), ObjectStore(out)
    shard, chosen = atlas.shard(part.shard), np.array(part.ordinals)
    targets = atlas.run.spec.targets
    maps = np.stack([[to_uint8(shard.maps(name, each)[chosen]) for each in targets] for name in methods])
    flags = np.stack([[shard.flags(name, each)[chosen] for each in targets] for name in methods])
    small = thumbnails(atlas, shard, part.ordinals) if pictures else {}
    numbers = _numbers(ObjectStore(audit), part, shard, methods)
    for begin in range(0, len(chosen), IMAGES_PER_CHUNK):
        here = slice(begin, begin + IMAGES_PER_CHUNK)
        blocks, which = _blocks(maps[:, :, here], flags[:, :, here])
        data = {
            "thumbnails": [to_base64(small[ordinal]) for ordinal in part.ordinals[here]] if pictures else None,
            "blocks": which,
            "maps": to_base64(np.stack([block[0] for block in blocks])),
            "flags": to_base64(np.stack([block[1] for block in blocks])),
            "numbers": to_base64(numbers[:, :, here].transpose(2, 0, 1)),
        }
        number = part.first + begin // IMAGES_PER_CHUNK
        objects.put(chunk_name(number), to_script("shard", number, data))
    return part.shard, _columns(ObjectStore(audit), part, shard, flags, numbers)


def _blocks(
    maps: NDArray[np.uint8], flags: NDArray[np.uint8]
) -> tuple[list[tuple[NDArray[np.uint8], NDArray[np.uint8]]], list[list[int]]]:
    """Maps [methods, targets, n, h, w] and flags as blocks, each once, and which of them is whose."""
    blocks: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]] = []
    which: list[list[int]] = []
    for image in range(maps.shape[2]):
        places: dict[bytes, int] = {}
        own: list[int] = []
        for kind in range(maps.shape[1]):
            block = maps[:, kind, image], flags[:, kind, image]
            content = block[0].tobytes() + block[1].tobytes()
            if content not in places:
                places[content] = len(blocks)
                blocks.append(block)
            own.append(places[content])
        which.append(own)
    return blocks, which


def _numbers(objects: ObjectStore, part: ShardSelection, shard: AtlasShard, methods: Sequence[str]) -> Floats:
    """Numbers of the audit: [methods, NUMBERS, n]; NaN of a method that it leaves out."""
    table = from_parquet(objects.get(f"images/{part.shard}.parquet"), ["row", "method", *MAP_STATISTICS])
    rows = shard.samples["row"].to_numpy()[list(part.ordinals)]
    found = np.full((len(methods), len(MAP_STATISTICS), len(rows)), np.nan, np.float32)
    names = table["method"].cast(pa.string())
    for place, method in enumerate(methods):
        own = table.filter(pc.equal(names, method))
        if len(own):
            at = np.searchsorted(own["row"].to_numpy(), rows)
            for which, name in enumerate(MAP_STATISTICS):
                found[place, which] = pc.fill_null(own[name], np.nan).to_numpy()[at]
    return found


def _columns(
    audit: ObjectStore, part: ShardSelection, shard: AtlasShard, flags: NDArray[np.uint8], numbers: Floats
) -> ImageColumns:
    samples = shard.samples.take(pa.array(part.ordinals))
    place = np.arange(len(part.ordinals))
    images = {
        "row": samples["row"].to_numpy().astype(np.float64),  # a script has no whole numbers of 64 bits
        "label": pc.fill_null(samples["label"], -1).to_numpy(),
        "prediction": pc.fill_null(samples["prediction"], -1).to_numpy(),
        "probability": pc.fill_null(samples["probability"], np.nan).to_numpy(),
        "labelProbability": pc.fill_null(samples["label_probability"], np.nan).to_numpy(),
        "agreement": _agreement(audit, part, samples["row"].to_numpy()),
        "shard": (part.first + place // IMAGES_PER_CHUNK).astype(np.uint32),
        "place": (place % IMAGES_PER_CHUNK).astype(np.uint8),
    }
    return ImageColumns(samples["key"].to_pylist(), images, flags, numbers)


def _agreement(audit: ObjectStore, part: ShardSelection, rows: NDArray[np.int64]) -> Floats:
    """Mean rank correlation of each two methods that are no controls: [n], NaN where there are no two."""
    table = from_parquet(audit.get(f"pairs/{part.shard}.parquet"), ["row", "first", "second", "spearman"])
    names = {name for each in ("first", "second") for name in table[each].unique().to_pylist()}
    own = pa.array(sorted(name for name in names if not is_control(name)), pa.string())
    inside = pc.and_(*(pc.is_in(table[each].cast(pa.string()), own) for each in ("first", "second")))
    table = table.filter(inside)
    means = table.group_by("row", use_threads=False).aggregate([("spearman", "mean")]).sort_by("row")
    found = np.full(len(rows), np.nan, np.float32)
    if len(means):
        at = np.searchsorted(means["row"].to_numpy(), rows).clip(max=len(means) - 1)
        known = pc.fill_null(means["spearman_mean"], np.nan).to_numpy()[at]
        found[:] = np.where(means["row"].to_numpy()[at] == rows, known, np.nan)
    return found
