"""Matching of the images of two atlases by key and hash, whatever their shards and rows."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.store.map_reader import MapReader
from pipeline.utils.concurrency import concurrent_map
from schemas.samples import SampleStatus

NO_ROW = -1
"""In place of the row of an image that the other atlas has no map of."""

Rows = NDArray[np.int64]
Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class ImageMatch:
    """The images of one atlas in another.

    Attributes:
        rows: by shard of the one, for each of its samples the row in the other, or ``NO_ROW``: int64 [n].
        missing: rows in the one of images that have maps there, and none or several in the other.
        changed: number of these whose key is in the other, of an image with other bytes.
        further: rows in the other of images that have maps there alone.
        common: number of images that have maps in both.
    """

    rows: Mapping[str, Rows]
    missing: Rows
    changed: int
    further: Rows
    common: int


def match_images(one: MapReader, other: MapReader) -> ImageMatch:
    """Find the images of an atlas in another: those whose key and whose bytes, by their hash, are the same.

    Identities are hashes of 64 bits here, since there may be very many images: whoever reads the matched rows compares
    their keys and hashes in full.
    """
    own, theirs = _Images.read(one), _Images.read(other)
    distinct, first, counts = np.unique(theirs.identities, return_index=True, return_counts=True)
    row_of = np.where(counts == 1, theirs.rows[first], NO_ROW)  # of several, none can be chosen
    place = np.searchsorted(distinct, own.identities)
    place[place == len(distinct)] = 0
    matched = np.full(len(own.rows), NO_ROW)
    if len(distinct):
        matched = np.where(distinct[place] == own.identities, row_of[place], NO_ROW)
    rows = {shard: np.full(samples, NO_ROW) for shard, samples in own.samples.items()}
    shard_of, ordinals = np.divmod(own.rows, one.run.slot)
    for index in np.unique(shard_of):
        of_shard = shard_of == index
        rows[one.run.shards[index].name][ordinals[of_shard]] = matched[of_shard]
    is_missing = matched == NO_ROW
    return ImageMatch(
        rows=rows,
        missing=own.rows[is_missing],
        changed=int((np.isin(own.keys, theirs.keys) & ~np.isin(own.identities, distinct)).sum()),
        further=theirs.rows[~np.isin(theirs.identities, own.identities)],
        common=int((~is_missing).sum()),
    )


@dataclass(frozen=True)
class _Images:
    """The images of an atlas that have maps.

    Attributes:
        samples: number of all samples by finished shard.
        rows: row of each image with maps.
        keys: hash of its key.
        identities: hash of its key and its bytes.
    """

    samples: dict[str, int]
    rows: Rows
    keys: Hashes
    identities: Hashes

    @classmethod
    def read(cls, atlas: MapReader) -> "_Images":
        samples: dict[str, int] = {}
        rows, keys, identities = [np.empty(0, np.int64)], [_hash([])], [_hash([])]
        columns = ["row", "key", "image_sha256", "status"]
        tables = concurrent_map(partial(atlas.samples_of, columns=columns), atlas.shard_names)
        for shard, table in zip(atlas.shard_names, tables, strict=True):
            samples[shard] = len(table)
            table = table.filter(pc.equal(table["status"].cast(pa.string()), SampleStatus.OK))
            own_keys, images = table["key"].to_pylist(), table["image_sha256"].to_pylist()
            rows.append(table["row"].to_numpy())
            keys.append(_hash(own_keys))
            identities.append(_hash([f"{image} {key}" for key, image in zip(own_keys, images, strict=True)]))
        return cls(samples, np.concatenate(rows), np.concatenate(keys), np.concatenate(identities))


def _hash(texts: list[str]) -> Hashes:
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, np.uint64)
