"""Where things stand in an atlas. Every path below an atlas is made here and nowhere else."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

RUN = "run.json"
MAPS = "maps.zarr"
SAMPLES = "samples"
COMMITS = "commits"
QUARANTINED = "quarantined"
LEASE = "lease.json"
LABELS = "labels"
SCORES = "scores"
AUDIT = "audit"
ABOUT = "about.json"
"""Of what is derived from an atlas: what it is made from, in the folder that holds it. Written first."""

FORMAT = 2
"""Version of the layout on disk. Readers refuse a larger one."""


@dataclass(frozen=True)
class ArraySpec:
    """What an array holds for each row.

    Attributes:
        dims: names of its dimensions.
        dtype: of NumPy.
        empty: what stands where there is no map.
    """

    dims: tuple[str, ...]
    dtype: str
    empty: float


MAP = ArraySpec(("row", "target", "y", "x"), "float16", float("nan"))
RANGE = ArraySpec(("row", "target", "bound"), "float32", float("nan"))
FLAG = ArraySpec(("row", "target"), "uint8", 255)
EXTRA_OUTPUT = ArraySpec(("row", "target"), "float32", float("nan"))


class Flag(IntEnum):
    """Whether a map says anything. A map that is not finite is stored as 0 everywhere, with bounds 0 and 0."""

    OK = 0
    CONSTANT = 1
    NOT_FINITE = 2


def range_name(method: str) -> str:
    """Name of the array that holds the bounds of a method's maps."""
    return f"{method}_range"


def flag_name(method: str) -> str:
    """Name of the array that holds a ``Flag`` of each of a method's maps."""
    return f"{method}_flag"


def arrays(method: str, extra_outputs: Iterable[str]) -> dict[str, ArraySpec]:
    """All arrays of a method: maps, their bounds, their flags, and one for each extra output."""
    return {
        method: MAP,
        range_name(method): RANGE,
        flag_name(method): FLAG,
        **{f"{method}_{output}": EXTRA_OUTPUT for output in extra_outputs},
    }


def shard_object(array: str, shard_index: int, dims: int) -> str:
    """The one Zarr object that holds a shard's rows of an array of so many dimensions."""
    return f"{MAPS}/{array}/c/{shard_index}" + "/0" * (dims - 1)


def samples_object(shard: str) -> str:
    """A shard's sample table."""
    return f"{SAMPLES}/{shard}.parquet"


def quarantine_object(shard: str) -> str:
    """Why a shard could not be done, as long as it is not."""
    return f"{QUARANTINED}/{shard}.json"


def commit_object(shard: str) -> str:
    """A shard's commit record, the last thing that is written of it."""
    return f"{COMMITS}/{shard}.json"
