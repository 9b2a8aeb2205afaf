"""The ranking of the methods of an atlas, as ``vitatlas rank`` has written it."""

from pipeline.store.map_reader import MapReader
from pipeline.store.object_store import ObjectStore
from schemas.rank import RECORD, RankRecord, default_folder


def read_ranking(atlas: MapReader, target: str) -> RankRecord | None:
    """Return the ranking in an atlas of the maps of a target; None if there is none of this run.

    Methods that were dropped since are left out, and those that were added again, such as with another artifact.

    Args:
        atlas: one atlas.
        target: target kind, by its name in the atlas.

    Raises:
        UsageError: it is damaged, or of another version.
    """
    name = f"{default_folder(target)}/{RECORD}"
    try:
        data = ObjectStore(atlas.url).get(name)
    except FileNotFoundError:
        return None
    ranking = RankRecord.read(data, f"{atlas.url}/{name}")
    if (ranking.run, ranking.target) != (atlas.run.run_hash, target):
        return None
    shard = atlas.run.shards[0].name
    now = {row.method: atlas.run_of(shard, row.method) for row in ranking.methods}
    same = [row.method for row in ranking.methods if now[row.method] and row.run in ("", now[row.method])]
    return ranking.of_methods(same) if same else None


def read_rankings(atlas: MapReader, target: str) -> list[RankRecord]:
    """Return all rankings in an atlas, or in those that are joined, with the names that methods have there.

    Args:
        atlas: one atlas, or several that are joined.
        target: target kind, by its name there.

    Raises:
        UsageError: see ``read_ranking``.
    """
    rankings = []
    for network, reader in (atlas.networks or {"": atlas}).items():
        found = (read_ranking(each, target) for each in reader.atlases)
        rankings += [ranking.with_prefix(f"{network}:" if network else "") for ranking in found if ranking]
    return rankings
