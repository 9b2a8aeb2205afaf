"""Layout of an atlas: every object path below it, and the arrays of its Zarr group."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

RUN = "run.json"
MAPS = "maps.zarr"
SAMPLES = "samples"
COMMITS = "commits"
QUARANTINED = "quarantined"
STAGED = "staged"
LEASE = "lease.json"
PARTS = "parts"
DROPPED = "dropped.json"
APPENDED = "appended.json"
LABELS = "labels"
SCORES = "scores"
AUDIT = "audit"
RANK = "rank"
ABOUT = "about.json"
COMPARISON = "comparison.json"
"""Record of a derived product, in its folder: what it is made from. Written first."""

POLICY = "policy.json"
"""The same record of labels."""

PRODUCT = "product.json"
"""Record of a derived product, in its folder: what belongs to it. Written last."""

FORMAT = 3
"""Version of the layout on disk. Readers refuse a later one."""


@dataclass(frozen=True)
class ArraySpec:
    """Description of an array that has the rows of the atlas as its first dimension.

    Attributes:
        dims: names of its dimensions.
        dtype: NumPy dtype.
        empty: value where there is no map.
    """

    dims: tuple[str, ...]
    dtype: str
    empty: float


MAP = ArraySpec(("row", "target", "y", "x"), "float16", float("nan"))
RANGE = ArraySpec(("row", "target", "bound"), "float32", float("nan"))
FLAG = ArraySpec(("row", "target"), "uint8", 255)
EXTRA_OUTPUT = ArraySpec(("row", "target"), "float32", float("nan"))


class Flag(IntEnum):
    """Degeneracy of a map. A map that is not finite is stored as 0 everywhere, with bounds 0 and 0.

    ``ISOLATED`` is not stored: the map holds values, and is judged where it is read (see ``is_isolated``).
    """

    OK = 0
    CONSTANT = 1
    NOT_FINITE = 2
    ISOLATED = 3


STORED_FLAGS = (Flag.OK, Flag.CONSTANT, Flag.NOT_FINITE)
"""Flags in the arrays of an atlas."""


def range_name(method: str) -> str:
    """Return the name of the array with the bounds of a method's maps."""
    return f"{method}_range"


def flag_name(method: str) -> str:
    """Return the name of the array with a ``Flag`` for each of a method's maps."""
    return f"{method}_flag"


def arrays(method: str, extra_outputs: Iterable[str]) -> dict[str, ArraySpec]:
    """Return all arrays of a method by name: maps, their bounds, their flags, and its extra outputs.

    Args:
        method: name of the maps.
        extra_outputs: names of the numbers that the method reports beside each map.
    """
    return {
        method: MAP,
        range_name(method): RANGE,
        flag_name(method): FLAG,
        **{f"{method}_{output}": EXTRA_OUTPUT for output in extra_outputs},
    }


def shard_object(array: str, shard_index: int, dims: int) -> str:
    """Return the path of the Zarr shard with a shard's rows of an array.

    Args:
        array: name of the array.
        shard_index: index of the shard in the run.
        dims: number of dimensions of the array.
    """
    return f"{MAPS}/{array}/c/{shard_index}" + "/0" * (dims - 1)


def samples_object(shard: str) -> str:
    """Return the path of a shard's sample table."""
    return f"{SAMPLES}/{shard}.parquet"


def staged_object(shard_index: int, replaces: str, digest: str) -> str:
    """Return the path of an object that a commit names, until it is in its place.

    It contains the commit that is to be replaced: once another has replaced that one, no commit can name the object any
    more, and it can be removed. And it contains its own contents: it is never written with others.

    Args:
        shard_index: index of the shard in the run.
        replaces: SHA-256 of the commit that is replaced; empty: none.
        digest: SHA-256 of the object.
    """
    return f"{staged_prefix(shard_index, replaces)}{digest.removeprefix('sha256:')[:32]}"


def staged_prefix(shard_index: int, replaces: str) -> str:
    """Return how the paths of all objects begin that are staged for one commit; see ``staged_object``.

    Args:
        shard_index: index of the shard in the run.
        replaces: SHA-256 of the commit that is replaced; empty: none.
    """
    return f"{STAGED}/{shard_index}.{replaces.removeprefix('sha256:')[:16] or 'first'}."


def quarantine_object(shard: str) -> str:
    """Return the path of a shard's quarantine record."""
    return f"{QUARANTINED}/{shard}.json"


def part_folder(run_hash: str) -> str:
    """Return the folder of a part, which is an atlas of further methods for the same shards.

    Args:
        run_hash: of its run, so that the name tells everything that is in it.
    """
    return f"{PARTS}/{run_hash.removeprefix('sha256:')[:16]}"


def extended_url(url: str) -> str:
    """Return the URL of the atlas that the part at a URL extends."""
    return url.rstrip("/").rsplit(f"/{PARTS}/", 1)[0]


def commit_object(shard: str) -> str:
    """Return the path of a shard's commit record, which is written last."""
    return f"{COMMITS}/{shard}.json"
