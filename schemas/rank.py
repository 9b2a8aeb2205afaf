"""The ranking of methods: values of signals, verdicts, and the record that ``label`` and ``audit`` read."""

from collections.abc import Collection
from typing import Annotated, Literal

import pyarrow as pa
from pydantic import Field

from schemas.arrow import CATEGORY, column, optional, schema
from schemas.base import Count, Finite, Record
from schemas.layout import RANK
from schemas.policy import Pamr, Policy, Postprocess, Threshold
from schemas.targets import folder_name

VERSION = 1
"""Version of the signals and of the rules of verdicts. Values of another version are computed again."""

RECORD, POLICY_FILE, PICTURE = "rank.json", "policy.yaml", "rank.png"

POLICY_NAME, POSTPROCESS = "ranked", Postprocess(min_area=0.01, fill_holes=True)
"""Name and postprocessing of the policies that are written."""

Verdict = Literal["fails", "uncertain", "stands"]
"""``fails``: no better than a control in every valid signal, of at least two; degenerate; or equal for all classes
where it should not be. ``stands``: better than every control in most of the valid signals, and worse in none.
``uncertain``: neither."""

SIGNAL_VALUES = schema(
    column("row", pa.int64(), "row of the sample in the atlas"),
    column("class_id", pa.int32(), "explained class"),
    column("method", CATEGORY, "name of the attribution method, with its options"),
    column("signal", CATEGORY, "name of the signal"),
    optional("value", pa.float64(), "value of the signal; null where it is not defined"),
    optional("seen", pa.int32(), "class that the network sees in the changed image, −1 for none; null if not tried"),
)
"""One row per image, method and signal."""


class SignalCheck(Record):
    """Whether a signal is valid on the network.

    Attributes:
        valid: the signal takes part in verdicts and order.
        reason: one sentence.
        agreement: Cohen's κ of the explained class and the class that the network sees in the changed images, of the
            method with the highest; None where it is not defined.
        low: 2.5 % of its bootstrap over images.
        method: the method with the highest; None where images are not changed by a map.
    """

    valid: bool
    reason: str
    agreement: Finite | None = None
    low: Finite | None = None
    method: str | None = None


class SignalScore(Record):
    """One signal of one method, of the images where it is defined.

    Attributes:
        mean: mean over images; higher is better.
        low, high: 2.5 and 97.5 % of the bootstrap over images.
        images: number of images.
        advantage: mean minus that of the best control, of the same images.
        advantage_low, advantage_high: 2.5 and 97.5 % of its bootstrap over images.
    """

    mean: Finite
    low: Finite
    high: Finite
    images: Count
    advantage: Finite
    advantage_low: Finite
    advantage_high: Finite


class LocalizationScore(Record):
    """Localization of one method on the annotated images, in %.

    Attributes:
        score: name of the score: ``pxap`` where the truth has masks, else ``maxboxacc_v2``.
        value: the score.
        low, high: 2.5 and 97.5 % of the bootstrap over images.
    """

    score: str
    value: Finite
    low: Finite | None
    high: Finite | None


class RankedMethod(Record):
    """One row of the ranking.

    Attributes:
        method: name of the method, with its options.
        kind: ``method`` or ``control``.
        verdict: None for a control.
        reason: one sentence.
        rank: mean rank over the valid signals as a share, from 0 (last) to 1 (first); None without a valid signal.
        rank_low, rank_high: 2.5 and 97.5 % of its bootstrap over images.
        degenerate: share of maps that are constant or not finite.
        isolated: share of maps that show a few single patches only.
        same_for_classes: share of images whose map of another class is the same; None where that is not tried.
        signals: by name.
        localization: None without truth.
        run: hash of the run that made its maps: of the atlas, or a part; empty where a version before has not noted it.
    """

    method: str
    kind: Literal["method", "control"]
    verdict: Verdict | None
    reason: str
    rank: Finite | None
    rank_low: Finite | None
    rank_high: Finite | None
    degenerate: Finite
    isolated: Finite
    same_for_classes: Finite | None
    signals: dict[str, SignalScore]
    localization: LocalizationScore | None = None
    run: str = ""


class PolicyScore(Record):
    """A policy that was chosen with truth.

    Attributes:
        methods: of the policy.
        refined: by PAMR.
        threshold: calibrated threshold; None is Otsu's of each heatmap.
        overlap: mean IoU on the annotated images, where policy and threshold were chosen; in [0, 1].
        cross_validated: the same of images that were left out of that choice.
        low, high: 2.5 and 97.5 % of its bootstrap over images.
        images: number of annotated images.
        of: ``masks`` or ``boxes``, which the IoU is of.
    """

    methods: tuple[str, ...]
    refined: bool
    threshold: Finite | None
    overlap: Finite
    cross_validated: Finite
    low: Finite
    high: Finite
    images: Count
    of: Literal["masks", "boxes"]

    def policy(self, target: str) -> Policy:
        """Return the policy.

        Args:
            target: target kind of its maps.
        """
        return Policy(
            name=POLICY_NAME,
            methods=self.methods,
            target=target,
            refine=Pamr() if self.refined else None,
            threshold=Threshold(kind="otsu" if self.threshold is None else "fixed", value=self.threshold),
            postprocess=POSTPROCESS,
        )


class SignalsSpec(Record):
    """``about.json`` of the values of signals: what they are computed from. Written first.

    Attributes:
        version: of the signals.
        run: hash of the run that made the atlas.
        target: target kind of the maps.
        methods: methods of the atlas that are ranked.
        images: largest number of images that are sampled.
        seed: random seed of the sampling and of the signals.
        signals: their names.
    """

    version: int = VERSION
    run: str
    target: str
    methods: tuple[str, ...]
    images: Count
    seed: int
    signals: tuple[str, ...]


class RankRecord(Record):
    """``rank.json``: which methods can be trusted on a network.

    Attributes:
        version: of signals and verdicts.
        run: hash of the run that made the atlas.
        target: target kind of the maps.
        images: number of images that the signals are computed on.
        seed: random seed of the sampling.
        signals: whether each signal is valid on the network, by its name.
        methods: best first; by localization where there is truth, else by ``rank``.
        truth: name and digest of the truth; None without.
        policy: methods of the policy that was written; empty: none was.
        policy_score: of the policy, with truth.
    """

    version: int = VERSION
    run: str
    target: str
    images: Count
    seed: int
    signals: dict[str, SignalCheck]
    methods: tuple[RankedMethod, ...]
    truth: tuple[str, str] | None = None
    policy: Annotated[tuple[str, ...], Field(default=())] = ()
    policy_score: PolicyScore | None = None

    def with_prefix(self, prefix: str) -> "RankRecord":
        """Return the ranking with a prefix before all names of methods that labels may have."""
        score = self.policy_score
        methods = tuple(row.model_copy(update={"method": prefix + row.method}) for row in self.methods)
        named = score and score.model_copy(update={"methods": tuple(prefix + name for name in score.methods)})
        return self.model_copy(update={"methods": methods, "policy_score": named})

    def of_methods(self, methods: Collection[str]) -> "RankRecord":
        """Return the ranking of these methods only, without the score of a policy that has others."""
        score = self.policy_score if self.policy_score and set(self.policy_score.methods) <= set(methods) else None
        rows = tuple(row for row in self.methods if row.method in methods)
        return self.model_copy(update={"methods": rows, "policy_score": score})

    def best_control(self) -> RankedMethod | None:
        """Return the control that localizes best; None without truth or controls."""
        controls = [row for row in self.methods if row.kind == "control" and row.localization]
        return max(controls, key=lambda row: row.localization.value if row.localization else 0.0, default=None)

    def verdicts(self) -> dict[str, Verdict]:
        """Return the verdict of each method that is no control."""
        return {row.method: row.verdict for row in self.methods if row.verdict is not None}


def default_folder(target: str) -> str:
    """Return the folder of a ranking in its atlas, if none is named."""
    return f"{RANK}/{folder_name(target)}"
