"""What a user should know of labels: before they are made, of the methods of the policy; and after, of the masks."""

from collections.abc import Iterator

from pipeline.label.label_product import MaskTotals
from pipeline.store import MapReader
from pipeline.store.ranking import read_ranked_methods
from schemas.policy import Policy
from schemas.targets import is_text

MUCH_IGNORED = 1 / 3
"""Share of ignored pixels."""
MANY_ON_BORDER = 0.5
"""Share of masks that lie mostly in the frame of the image."""
MUCH_ALIKE = 0.8
"""Mean IoU of successive masks."""


def policy_warnings(atlas: MapReader, policy: Policy) -> Iterator[str]:
    """Yield a sentence for each method of a policy that the ranking of the atlas does not confirm.

    Args:
        atlas: that is labelled.
        policy: how maps become masks.

    Raises:
        UsageError: the ranking cannot be read.
    """
    target = atlas.find_target(policy.target)
    if is_text(target):  # of which there is no ranking
        return
    rows = read_ranked_methods(atlas, target)
    if missing := [method for method in policy.methods if method not in rows]:
        yield f"no ranking says whether {', '.join(missing)} can be trusted on this network; see vitatlas rank"
    for row in (rows[method] for method in policy.methods if method in rows):
        if row.kind == "control":
            yield f"{row.method}: is a control, which knows less than any method should"
        elif row.verdict != "stands":
            yield f"{row.method}: {'fails' if row.verdict == 'fails' else 'is uncertain'} in the ranking: {row.reason}"


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
