"""A policy of the methods that stand, without truth."""

from collections.abc import Mapping, Sequence

from schemas.policy import Pamr, Policy, Threshold
from schemas.rank import POLICY_NAME, POSTPROCESS, RankedMethod

MOST_METHODS = 3
"""Methods of a policy: more of them are worse ones."""


def choose_policy(rows: Sequence[RankedMethod], target: str, base_names: Mapping[str, str]) -> Policy | None:
    """Return the mean of the best methods that stand, one of each base name, refined, at Otsu's threshold.

    Args:
        rows: best first.
        target: target kind of the maps.
        base_names: by method; variants of one method have the same errors.

    Returns:
        The policy; None where no method stands.
    """
    chosen: dict[str, str] = {}
    for row in rows:
        if row.verdict == "stands":
            chosen.setdefault(base_names[row.method], row.method)
    methods = tuple(chosen.values())[:MOST_METHODS]
    if not methods:
        return None
    return Policy(
        name=POLICY_NAME,
        methods=methods,
        target=target,
        refine=Pamr(),
        threshold=Threshold(kind="otsu"),
        postprocess=POSTPROCESS,
    )
