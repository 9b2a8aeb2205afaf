"""What a user should know of labels: before they are made, of the methods of the policy; and after, of the masks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.label.label_product import MaskTotals
from pipeline.store import MapReader
from pipeline.store.ranking import read_rankings
from pipeline.utils.interval_text import format_interval
from schemas.policy import Policy
from schemas.rank import LocalizationScore, RankedMethod, RankRecord
from schemas.targets import is_text

MUCH_IGNORED = 1 / 3
"""Share of ignored pixels."""
MANY_ON_BORDER = 0.5
"""Share of masks that lie mostly in the frame of the image."""
MUCH_ALIKE = 0.8
"""Mean IoU of successive masks."""


@dataclass(frozen=True)
class PolicyReview:
    """What rankings of an atlas say of a policy.

    Attributes:
        warnings: a sentence for each method that no ranking confirms.
        choice: what its masks are worth on new images, if truth in a ranking has chosen it, method and threshold; then
            there are no warnings. Else None.
    """

    warnings: tuple[str, ...] = ()
    choice: str | None = None


def review_policy(atlas: MapReader, policy: Policy) -> PolicyReview:
    """Look up the methods of a policy in the rankings of an atlas.

    Args:
        atlas: that is labelled.
        policy: how maps become masks.

    Raises:
        UsageError: a ranking cannot be read.
    """
    target = atlas.find_target(policy.target)
    if is_text(target):  # of which there is no ranking
        return PolicyReview()
    rankings = read_rankings(atlas, target)
    if choice := next(filter(None, (_describe_choice(policy, ranking) for ranking in rankings)), None):
        return PolicyReview(choice=choice)
    return PolicyReview(tuple(_method_warnings(policy, rankings)))


def _describe_choice(policy: Policy, ranking: RankRecord) -> str | None:
    """Return the overlap of a policy that truth in a ranking has chosen; None for any other policy."""
    score = ranking.policy_score
    if score is None or policy != score.policy(policy.target).model_copy(update={"name": policy.name}):
        return None
    interval = format_interval(100 * score.low, 100 * score.high)
    return (
        f"{', '.join(policy.methods)}: chosen by {score.of} of {score.images} images; mean IoU "
        f"{100 * score.cross_validated:.1f} % ({interval}) on images that were left out of the choice"
    )


def _method_warnings(policy: Policy, rankings: Sequence[RankRecord]) -> Iterator[str]:
    found = {row.method: (row, ranking.best_control()) for ranking in rankings for row in ranking.methods}
    if missing := [method for method in policy.methods if method not in found]:
        yield f"no ranking says whether {', '.join(missing)} can be trusted on this network; see vitatlas rank"
    for row, control in (found[method] for method in policy.methods if method in found):
        if row.kind == "control":
            yield f"{row.method}: is a control, which knows less than any method should"
        elif row.localization and control and control.localization:
            yield from _warn_by_truth(row, row.localization, control.method, control.localization)
        elif row.verdict != "stands":
            yield f"{row.method}: {'fails' if row.verdict == 'fails' else 'is uncertain'} in the ranking: {row.reason}"


def _warn_by_truth(
    row: RankedMethod, score: LocalizationScore, control: str, control_score: LocalizationScore
) -> Iterator[str]:
    """Yield a sentence on a method that may localize no better than the best control, or fails for another reason."""
    interval = "" if score.low is None or score.high is None else f" ({format_interval(score.low, score.high)})"
    truth = f"{score.score} {score.value:.1f} %{interval} by truth, {control} {control_score.value:.1f} %"
    if score.value <= control_score.value:
        yield f"{row.method}: localizes no better than a control: {truth}"
    elif score.low is None or score.low <= control_score.value:
        yield f"{row.method}: may localize no better than a control: {truth}"
    elif row.verdict == "fails":
        yield f"{row.method}: localizes better than every control ({truth}), but fails without truth: {row.reason}"


def mask_warnings(totals: MaskTotals) -> Iterator[str]:
    """Yield a sentence for each sign that masks are wrong as a whole.

    Args:
        totals: of all masks.
    """
    if totals.left_out:
        yield f"{_percent(totals.left_out)} of the masks lack a method of the policy, whose map is degenerate"
    if (totals.ignored or 0) > MUCH_IGNORED:
        yield f"{_percent(totals.ignored)} of the pixels are ignored, so few are labelled; raise background_threshold"
    if (totals.border or 0) > MANY_ON_BORDER:
        yield f"{_percent(totals.border)} of the masks lie mostly at the border of the image; look at some"
    if (totals.likeness or 0) > MUCH_ALIKE:
        yield f"the masks are nearly equal over images: those of successive ones have an IoU of {totals.likeness:.2f}"


def _percent(share: float | None) -> str:
    return f"{100 * (share or 0):.1f} %"
