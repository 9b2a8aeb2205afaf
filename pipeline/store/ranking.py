"""The ranking of the methods of an atlas, as ``vitatlas rank`` has written it."""

from pipeline.store.map_reader import MapReader
from pipeline.store.object_store import ObjectStore
from schemas.rank import RECORD, RankedMethod, RankRecord, default_folder


def read_ranking(atlas: MapReader, target: str) -> RankRecord | None:
    """Return the ranking in an atlas of the maps of a target; None if there is none of this run.

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
    return ranking if (ranking.run, ranking.target) == (atlas.run.run_hash, target) else None


def read_ranked_methods(atlas: MapReader, target: str) -> dict[str, RankedMethod]:
    """Return the rows of all rankings in an atlas, or in those that are joined, by the names that methods have there.

    Args:
        atlas: one atlas, or several that are joined.
        target: target kind, by its name there.

    Raises:
        UsageError: see ``read_ranking``.
    """
    rows: dict[str, RankedMethod] = {}
    for network, reader in (atlas.networks or {"": atlas}).items():
        prefix = f"{network}:" if network else ""
        for ranking in (read_ranking(each, target) for each in reader.atlases):
            rows |= {prefix + row.method: row for row in (ranking.methods if ranking else ())}
    return rows
