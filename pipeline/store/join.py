"""Joining of atlases: of one run over several lists of shards, and of several runs over the same images."""

from collections.abc import Sequence

from pipeline.store.atlas_reader import AtlasReader
from pipeline.store.joined_methods import JoinedMethods
from pipeline.store.joined_shards import JoinedShards
from pipeline.store.map_reader import MapReader
from schemas.errors import UsageError

_MAX_NAMED = 3
"""Fields that a message names."""


def join(named: Sequence[tuple[str, AtlasReader]], subset: bool = False) -> MapReader:
    """Return the reader of several atlases; of one, itself.

    Atlases of one run, over different shards, are one with more rows. What is then left, such as atlases of several
    networks, is joined image by image.

    Args:
        named: atlases with their names, in the order of their rows.
        subset: leave out images that not all have.

    Raises:
        UsageError: there is no atlas; or see ``group_by_run`` and ``JoinedMethods``.
    """
    groups = group_by_run(named)
    if not groups:
        raise UsageError("there is no atlas to open; name one")
    return JoinedMethods(groups, subset) if len(groups) > 1 else next(iter(groups.values()))


def group_by_run(named: Sequence[tuple[str, AtlasReader]]) -> dict[str, MapReader]:
    """Return atlases by name. Those that differ in their list of shards alone are one, with the name of the first.

    Args:
        named: atlases with their names.

    Raises:
        UsageError: one is a part of another atlas; or two of one name are of other runs, or share a shard.
    """
    groups: dict[str, list[AtlasReader]] = {}
    for name, atlas in named:
        if atlas.own.extends and len(named) > 1:
            raise UsageError(f"{atlas.url}: is a part of an atlas; name the atlas that it extends")
        if name in groups and (fault := _explain(groups[name][0], atlas)):
            raise UsageError(
                f"{groups[name][0].url} and {atlas.url}: have one name, {name}, and are not of one run: {fault}; give "
                "each another name, as NAME=PATH"
            )
        group = name if name in groups else next((of for of, first in groups.items() if _fits(first[0], atlas)), name)
        groups.setdefault(group, []).append(atlas)
    return {name: atlases[0] if len(atlases) == 1 else JoinedShards(atlases) for name, atlases in groups.items()}


def _fits(first: AtlasReader, other: AtlasReader) -> bool:
    """Return whether two atlases are of one run and share no shard, as two machines that are compared would."""
    shards, others = ({shard.name for shard in atlas.own.shards} for atlas in (first, other))
    return shards.isdisjoint(others) and not first.run.differences_to(other.run)


def _explain(first: MapReader, other: MapReader) -> str:
    """Return how two atlases differ; empty if they are of one run."""
    differences = first.run.differences_to(other.run)
    more = f" and {len(differences) - _MAX_NAMED} more" if len(differences) > _MAX_NAMED else ""
    return "; ".join(differences[:_MAX_NAMED]) + more
