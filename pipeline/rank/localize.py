"""Methods by their localization on annotated images."""

from collections.abc import Callable, Sequence

from pipeline.run.execution import ComputeOptions
from pipeline.score import score
from pipeline.store import Atlas
from pipeline.truth import TruthSet
from schemas.errors import UsageError
from schemas.rank import LocalizationScore, RankedMethod


def localize(
    atlas: Atlas,
    out: str,
    target: str,
    truth: TruthSet,
    rows: Sequence[RankedMethod],
    options: ComputeOptions,
    log: Callable[[str], None],
) -> tuple[RankedMethod, ...]:
    """Return the rows with their localization, best first: PxAP where the truth has masks, else MaxBoxAccV2.

    Args:
        atlas: with the maps.
        out: folder of scores; each truth has a folder in it.
        target: target kind of the maps.
        truth: of some images of the atlas.
        rows: of the ranking.
        options: where it is computed.
        log: called with a message for each group of images that is left out.

    Raises:
        UsageError: see ``pipeline.score.score``; or no image of the atlas has an object in the truth.
    """
    folder = f"{out}/{truth.digest.removeprefix('sha256:')[:16]}"
    methods = [row.method for row in rows]
    table = score(atlas, truth, target, methods, subset=True, out=folder, options=options, log=log)
    scores = {row["method"]: row for row in table.to_pylist() if row["method"] in methods}
    name = next(
        (name for name in ("pxap", "maxboxacc_v2") if any(row[name] is not None for row in scores.values())), None
    )
    if name is None:
        raise UsageError(f"{truth.name}: has no object in any image of {atlas.objects.url}")

    def with_score(row: RankedMethod) -> RankedMethod:
        found = scores.get(row.method)
        if found is None or found[name] is None:
            return row
        low, high = (found["interval"] or {}).get(name) or (None, None)
        localization = LocalizationScore(score=name, value=found[name], low=low, high=high)
        return row.model_copy(update={"localization": localization})

    scored = [with_score(row) for row in rows]
    return tuple(sorted(scored, key=lambda row: -row.localization.value if row.localization else 1.0))
