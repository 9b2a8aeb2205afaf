"""Data of the gallery as scripts: columns of all images, and chunks of a few images with maps and thumbnails."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from pipeline.audit.join_metrics import values_at_rows
from pipeline.audit.report.js_encoding import to_base64, to_uint8
from pipeline.store import MapReader, ObjectStore, ShardMaps
from pipeline.store.images import read_images
from pipeline.store.parquet import from_parquet
from pipeline.utils.json_script import to_script
from schemas.audit_tables import MAP_STATISTICS
from schemas.layout import Flag
from schemas.scores import is_control

IMAGES_PER_CHUNK = 8
"""Largest number of images in a chunk. The gallery sorts by many columns, so neighbors are rarely needed together."""
CHUNKS = "data/chunks"
SORTABLE_STATISTICS = ("agreement", "entropy", "effective_area", "border_mass", "object_mass")
"""Statistics of a map that the gallery sorts by."""
DISAGREEMENT_SHARE = 0.1
"""Share of the images, those of least agreement, that the gallery marks as high disagreement."""
THUMBNAIL_SIDE = 128
"""Longest side of a thumbnail in pixels."""
NO_MAP = len(Flag)
"""Flag of a map that there is not, in the report."""
_JPEG_QUALITY = 80
_BATCH_SIZE = 32
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ShardSelection:
    """Samples of a shard that the report shows.

    Attributes:
        shard: short name of the shard.
        ordinals: positions of the samples, ascending.
        first_chunk: number of the first chunk of these samples.
    """

    shard: str
    ordinals: tuple[int, ...]
    first_chunk: int


@dataclass(frozen=True)
class ImageColumns:
    """Columns by which the gallery filters and sorts images without loading chunks.

    Attributes:
        keys: keys of the n images.
        images: further columns by name, [n].
        flags: uint8 [methods, targets, n], see ``schemas.layout.Flag``; ``NO_MAP`` where a sample has no such target.
        statistics: float32 [methods, MAP_STATISTICS, n], NaN where undefined.
    """

    keys: list[str]
    images: dict[str, NDArray[Any]]
    flags: NDArray[np.uint8]
    statistics: Floats

    @classmethod
    def concat(cls, parts: "Sequence[ImageColumns]") -> "ImageColumns":
        """Concatenate the columns of at least one shard."""
        return cls(
            [key for part in parts for key in part.keys],
            {name: np.concatenate([part.images[name] for part in parts]) for name in parts[0].images},
            np.concatenate([part.flags for part in parts], axis=-1),
            np.concatenate([part.statistics for part in parts], axis=-1),
        )


def sample_images(atlas: MapReader, images: int, seed: int) -> list[ShardSelection]:
    """Choose samples that have maps at random.

    Args:
        atlas: the atlas.
        images: largest number of samples.
        seed: random seed.

    Returns:
        The samples by shard, in the order of their rows.
    """
    samples = atlas.samples_with_maps(["shard", "ordinal"])
    chosen = samples.take(np.sort(np.random.default_rng(seed).permutation(len(samples))[:images])).to_pylist()
    ordinals_by_shard: dict[str, list[int]] = {}
    for sample in chosen:
        ordinals_by_shard.setdefault(sample["shard"], []).append(sample["ordinal"])
    selections, first_chunk = [], 0
    for shard, ordinals in ordinals_by_shard.items():
        selections.append(ShardSelection(shard, tuple(ordinals), first_chunk))
        first_chunk += -(-len(ordinals) // IMAGES_PER_CHUNK)
    return selections


def chunk_name(number: int) -> str:
    """Return the path of a chunk in the report."""
    return f"{CHUNKS}/{number}.js"


def write_chunks(
    atlas: MapReader, audit: str, out: str, methods: Sequence[str], thumbnails: bool, selection: ShardSelection
) -> tuple[str, ImageColumns]:
    """Write the chunks of a shard.

    ``atlas.chunk(number, {thumbnails, blocks, maps, flags, statistics})``: JPEGs; for each image and target kind the
    index of its block of maps (one block for both where they explain the same class); uint8 [blocks, methods, h, w];
    uint8 [blocks, methods]; and float32 [images, methods, MAP_STATISTICS].

    Args:
        atlas: the atlas.
        audit: folder or URL of the audit.
        out: folder or URL of the report.
        methods: names of methods, in the order in which their maps are stored.
        thumbnails: write small copies of the images.
        selection: samples of the shard.

    Returns:
        Name of the shard, and the columns of its samples.

    Raises:
        CorruptShardError: images cannot be read, or are not those of the atlas.
    """
    objects = ObjectStore(out)
    shard, ordinals = atlas.shard(selection.shard), np.array(selection.ordinals)
    targets = atlas.run.stored_targets
    maps = np.stack([[to_uint8(shard.maps(name, target)[ordinals]) for target in targets] for name in methods])
    flags = np.stack([[shard.flags(name, target)[ordinals] for target in targets] for name in methods]).clip(max=NO_MAP)
    jpegs = _make_thumbnails(atlas, shard, selection.ordinals) if thumbnails else {}
    statistics = _read_statistics(ObjectStore(audit), selection, shard, methods)
    for begin in range(0, len(ordinals), IMAGES_PER_CHUNK):
        part = slice(begin, begin + IMAGES_PER_CHUNK)
        blocks, block_index = _unique_blocks(maps[:, :, part], flags[:, :, part])
        data = {
            "thumbnails": [to_base64(jpegs[ordinal]) for ordinal in selection.ordinals[part]] if thumbnails else None,
            "blocks": block_index,
            "maps": to_base64(np.stack([block[0] for block in blocks])),
            "flags": to_base64(np.stack([block[1] for block in blocks])),
            "statistics": to_base64(statistics[:, :, part].transpose(2, 0, 1)),
        }
        number = selection.first_chunk + begin // IMAGES_PER_CHUNK
        objects.put(chunk_name(number), to_script("chunk", number, data))
    return selection.shard, _image_columns(ObjectStore(audit), selection, shard, flags, statistics)


def _unique_blocks(
    maps: NDArray[np.uint8], flags: NDArray[np.uint8]
) -> tuple[list[tuple[NDArray[np.uint8], NDArray[np.uint8]]], list[list[int]]]:
    """Return distinct blocks of maps [methods, targets, n, h, w] with flags, and the block of each image and target."""
    blocks: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]] = []
    block_index: list[list[int]] = []
    for image in range(maps.shape[2]):
        index_by_content: dict[bytes, int] = {}
        indices: list[int] = []
        for target in range(maps.shape[1]):
            block = maps[:, target, image], flags[:, target, image]
            content = block[0].tobytes() + block[1].tobytes()
            if content not in index_by_content:
                index_by_content[content] = len(blocks)
                blocks.append(block)
            indices.append(index_by_content[content])
        block_index.append(indices)
    return blocks, block_index


def _read_statistics(audit: ObjectStore, selection: ShardSelection, shard: ShardMaps, methods: Sequence[str]) -> Floats:
    """Return the statistics of the audit: [methods, MAP_STATISTICS, n]; NaN for a method that it leaves out."""
    table = from_parquet(audit.get(f"images/{selection.shard}.parquet"), ["row", "method", *MAP_STATISTICS])
    rows = shard.samples["row"].to_numpy()[list(selection.ordinals)]
    statistics = np.empty((len(methods), len(MAP_STATISTICS), len(rows)), np.float32)
    names = table["method"].cast(pa.string())
    for place, method in enumerate(methods):
        method_table = table.filter(pc.equal(names, method))
        columns = [pc.fill_null(method_table[name], np.nan).to_numpy() for name in MAP_STATISTICS]
        statistics[place] = [values_at_rows(method_table["row"].to_numpy(), values, rows) for values in columns]
    return statistics


def _image_columns(
    audit: ObjectStore,
    selection: ShardSelection,
    shard: ShardMaps,
    flags: NDArray[np.uint8],
    statistics: Floats,
) -> ImageColumns:
    samples = shard.samples.take(pa.array(selection.ordinals))
    place = np.arange(len(selection.ordinals))
    images = {
        "row": samples["row"].to_numpy().astype(np.float64),  # JavaScript has no 64-bit integers
        "label": pc.fill_null(samples["label"], -1).to_numpy(),
        "prediction": pc.fill_null(samples["prediction"], -1).to_numpy(),
        "probability": pc.fill_null(samples["probability"], np.nan).to_numpy(),
        "labelProbability": pc.fill_null(samples["label_probability"], np.nan).to_numpy(),
        "agreement": _read_agreement(audit, selection, samples["row"].to_numpy()),
        "chunk": (selection.first_chunk + place // IMAGES_PER_CHUNK).astype(np.uint32),
        "place": (place % IMAGES_PER_CHUNK).astype(np.uint8),
    }
    return ImageColumns(samples["key"].to_pylist(), images, flags, statistics)


def _read_agreement(audit: ObjectStore, selection: ShardSelection, rows: NDArray[np.int64]) -> Floats:
    """Return the mean rank correlation of all pairs of methods without controls: [n], NaN without a pair."""
    table = from_parquet(audit.get(f"pairs/{selection.shard}.parquet"), ["row", "first", "second", "spearman"])
    names = {name for column in ("first", "second") for name in table[column].unique().to_pylist()}
    methods = pa.array(sorted(name for name in names if not is_control(name)), pa.string())
    table = table.filter(pc.and_(*(pc.is_in(table[name].cast(pa.string()), methods) for name in ("first", "second"))))
    means = table.group_by("row", use_threads=False).aggregate([("spearman", "mean")]).sort_by("row")
    values = pc.fill_null(means["spearman_mean"], np.nan).to_numpy()
    return values_at_rows(means["row"].to_numpy(), values, rows).astype(np.float32)


def disagreement_threshold(agreement: Floats) -> float | None:
    """Return the agreement that a tenth of the images does not exceed; None if none has any."""
    finite = agreement[np.isfinite(agreement)]
    return float(np.quantile(finite, DISAGREEMENT_SHARE)) if len(finite) else None


def index_script(columns: ImageColumns) -> bytes:
    """Return ``atlas.index({count, keys, …})`` with the columns of ``ImageColumns.images`` as base64."""
    images = {name: to_base64(values) for name, values in columns.images.items()}
    return to_script("index", {"count": len(columns.keys), "keys": columns.keys, **images})


def method_scripts(columns: ImageColumns) -> Iterator[tuple[str, bytes]]:
    """Yield the path and the script ``atlas.method(number, {flags, …})`` of each method.

    ``flags`` are uint8 [targets, n], and ``SORTABLE_STATISTICS`` float32 [n], as base64.
    """
    names = list(MAP_STATISTICS)
    for number, (flags, statistics) in enumerate(zip(columns.flags, columns.statistics, strict=True)):
        data = {name: to_base64(statistics[names.index(name)]) for name in SORTABLE_STATISTICS}
        yield f"data/methods/{number}.js", to_script("method", number, {"flags": to_base64(flags), **data})


def _make_thumbnails(atlas: MapReader, shard: ShardMaps, ordinals: Sequence[int]) -> dict[int, bytes]:
    """Return JPEGs of the network's input by ordinal, so that maps align with their edges."""
    return {
        ordinal: _encode_thumbnail(pixels)
        for batch, images in read_images(shard, ordinals, _BATCH_SIZE)
        for ordinal, pixels in zip(batch, images, strict=True)
    }


def _encode_thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    """Encode an image [3, H, W] as a small JPEG."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return buffer.getvalue()
