"""Where things stand in an atlas. Every path below an atlas is made here and nowhere else."""

RUN = "run.json"
MAPS = "maps.zarr"
SAMPLES = "samples"
COMMITS = "commits"
LABELS = "labels"
SCORES = "scores"

FORMAT = 1
"""Version of the layout on disk. Readers refuse a larger one."""

MAP_DIMS = ("row", "target", "y", "x")
RANGE_DIMS = ("row", "target", "bound")


def range_name(method: str) -> str:
    """Name of the array that holds the bounds of a method's maps."""
    return f"{method}_range"


def shard_object(array: str, tar_index: int, dims: int) -> str:
    """The one Zarr object that holds a tar's rows of an array of so many dimensions."""
    return f"{MAPS}/{array}/c/{tar_index}" + "/0" * (dims - 1)


def samples_object(tar: str) -> str:
    """A tar's sample table."""
    return f"{SAMPLES}/{tar}.parquet"


def commit_object(tar: str) -> str:
    """A tar's commit record, the last thing that is written of it."""
    return f"{COMMITS}/{tar}.json"
