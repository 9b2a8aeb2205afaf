"""Verdict of each method, from its signals."""

from collections.abc import Mapping
from typing import NamedTuple

from pipeline.rank.checks import LEAST_IMAGES
from schemas.rank import SignalScore, Verdict

MOSTLY = 0.5
"""Share of degenerate maps, or of maps that are equal for all classes, from which on a method fails."""
SOME = 0.1
"""Share of such maps from which on a method does not stand."""
_LEAST_SIGNALS = 2
"""Signals in which a method that stands is better than every control, and one that fails no better than the best one:
no signal is safe alone."""


class Judgement(NamedTuple):
    """A verdict, with its reason in one sentence."""

    verdict: Verdict
    reason: str


def judge(
    scores: Mapping[str, SignalScore],
    controls: Mapping[str, str],
    degenerate: float,
    same_for_classes: float | None,
    isolated: float = 0.0,
) -> Judgement:
    """Return the verdict of one method.

    Args:
        scores: its valid signals by name; one of fewer than ``LEAST_IMAGES`` images says nothing.
        controls: the best control of each signal.
        degenerate: share of its maps that are constant or not finite.
        same_for_classes: share of images whose map of another class is the same; None for a method without classes.
        isolated: share of its maps that show a few single patches only.
    """
    if degenerate > MOSTLY:
        return Judgement("fails", f"{_percent(degenerate)} of its maps are constant or not finite")
    if isolated > MOSTLY:
        return Judgement("fails", f"{_percent(isolated)} of its maps are a few single patches, as artefact tokens make")
    if same_for_classes is not None and same_for_classes > MOSTLY:
        return Judgement("fails", f"its map of another class is the same in {_percent(same_for_classes)} of the images")
    scores = {name: score for name, score in scores.items() if score.images >= LEAST_IMAGES}
    if not scores:
        return Judgement("uncertain", "no signal is valid")
    if all(score.advantage <= 0 for score in scores.values()):
        names = ", ".join(f"{controls[name]} in {name}" for name in scores)
        if len(scores) < _LEAST_SIGNALS:
            return Judgement("uncertain", f"no better than a control in its only valid signal: {names}")
        return Judgement("fails", f"no better than a control in any valid signal: {names}")
    above = [name for name, score in scores.items() if score.advantage_low > 0]
    below = [name for name, score in scores.items() if score.advantage_high < 0]
    if below:
        names = ", ".join(f"{controls[name]} in {name}" for name in below)
        return Judgement("uncertain", f"worse than a control: {names}")
    if degenerate > SOME:
        return Judgement("uncertain", f"{_percent(degenerate)} of its maps are constant or not finite")
    if same_for_classes is not None and same_for_classes > SOME:
        return Judgement("uncertain", f"its map of another class is the same in {_percent(same_for_classes)} of images")
    if len(above) < max(_LEAST_SIGNALS, len(scores) // 2 + 1):
        where = f" in {', '.join(above)} only" if above else " with certainty in no signal"
        return Judgement("uncertain", f"better than every control{where}")
    return Judgement("stands", f"better than every control in {', '.join(above)}")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
