"""A labelling policy: how maps become a mask."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.base import Record
from schemas.run import TargetKind

Share = Annotated[float, Field(ge=0, le=1)]


class Cut(Record):
    """Where foreground begins; it is strictly above the threshold.

    Attributes:
        kind: ``fixed`` at ``at`` in [0, 1]; ``percentile`` so that ``at`` % of the picture (1 to 100) is below;
            ``otsu`` and ``mean`` find their own for each map; ``calibrated`` is the fixed one whose masks overlap
            best with the truth of a small split, given when labels are made.
        at: the number that goes with ``fixed`` and ``percentile``.
        scale: the threshold is multiplied by it.
    """

    kind: Literal["fixed", "otsu", "percentile", "mean", "calibrated"]
    at: float | None = None
    scale: Annotated[float, Field(gt=0, le=10)] = 1.0

    @model_validator(mode="after")
    def _number_fits(self) -> "Cut":
        # No percentile below 1, so that a fraction is not taken for one.
        limits = {"fixed": (0, 1), "percentile": (1, 100)}
        if self.kind not in limits:
            if self.at is not None:
                raise ValueError(f"{self.kind} finds its own threshold, leave out 'at'")
        elif self.at is None or not limits[self.kind][0] <= self.at <= limits[self.kind][1]:
            raise ValueError(f"{self.kind} needs 'at' between {limits[self.kind][0]} and {limits[self.kind][1]}")
        return self


class Pamr(Record):
    """Pixel-adaptive mask refinement (Araslanov and Roth, CVPR 2020, section 3.3).

    Attributes:
        kind: which refinement this is.
        iterations: of averaging.
        dilations: distances of the eight neighbours, in pixels of the network's input.
    """

    kind: Literal["pamr"] = "pamr"
    iterations: Annotated[int, Field(ge=1, le=100)] = 10
    dilations: Annotated[tuple[Annotated[int, Field(ge=1, le=128)], ...], Field(min_length=1)] = (1, 2, 4, 8, 12, 24)


class Crf(Record):
    """A dense conditional random field (Krähenbühl and Koltun, NIPS 2011). Needs the extra ``crf``.

    Attributes:
        kind: which refinement this is.
        iterations: of mean-field inference.
        confidence: of the map, in (0.5, 1): the unary of a pixel that is surely one or the other.
        smooth, smooth_weight: standard deviation in pixels of the Gaussian kernel, and its weight.
        near, colour, colour_weight: those of the bilateral kernel, in pixels and in grey levels.
    """

    kind: Literal["crf"]
    iterations: Annotated[int, Field(ge=1, le=100)] = 10
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.7
    smooth: Annotated[float, Field(gt=0)] = 3.0
    smooth_weight: Annotated[float, Field(ge=0)] = 3.0
    near: Annotated[float, Field(gt=0)] = 50.0
    colour: Annotated[float, Field(gt=0)] = 5.0
    colour_weight: Annotated[float, Field(ge=0)] = 10.0


class Clean(Record):
    """What is kept of a mask. Components are 8-connected.

    Attributes:
        keep: ``all`` components, or only the ``largest``.
        min_area: smaller components go; as a fraction of the picture.
        fill_holes: background that an object encloses becomes object.
    """

    keep: Literal["all", "largest"] = "all"
    min_area: Annotated[float, Field(ge=0, lt=1)] = 0.0
    fill_holes: bool = False


class Filter(Record):
    """Which labels are good enough. Others keep their row, with the reason as status.

    Attributes:
        probability: least probability that the network gives the class.
        top1: the prediction must be the label.
        area: least and largest share of the picture that is object.
        agreement: least mean IoU between the masks of each two methods.
    """

    probability: Share = 0.0
    top1: bool = False
    area: tuple[Share, Share] = (0.0, 1.0)
    agreement: Share = 0.0


class Policy(Record):
    """A policy file (YAML). Its hash goes with every label that is made by it. Steps in this order:

    Attributes:
        name: for people; letters, digits, dots, dashes and underscores.
        methods: whose maps, by their names in the atlas.
        target: the class that they explain.
        normalise: of each map. ``minmax`` as it is stored; ``max`` divides its positive part by its maximum;
            ``clip`` stretches from its 1st to its 99th percentile; ``raw`` takes its values as they were, for
            methods that give probabilities.
        combine: of several: their ``mean``, the mean of their ranks (``rank_mean``), their ``geometric`` mean, each
            stretched to [0, 1] again; or ``agreement``, the share of them that vote for a patch.
        vote: how each method's own map is cut on the patch grid, where it is asked how far methods agree.
        refine: with the picture; None is not at all.
        cut: where foreground begins, on the map resized (linearly) to the original picture.
        background: what is not above this cut is background; what lies between the two is ignored. None: nothing is.
        clean: what is kept of the mask.
        filter: which labels are kept.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    methods: Annotated[tuple[str, ...], Field(min_length=1)]
    target: TargetKind = "label"
    normalise: Literal["minmax", "max", "clip", "raw"] = "minmax"
    combine: Literal["mean", "rank_mean", "geometric", "agreement"] = "mean"
    vote: Cut = Cut(kind="otsu")
    refine: Annotated[Pamr | Crf, Field(discriminator="kind")] | None = None
    cut: Cut
    background: Cut | None = None
    clean: Clean = Clean()
    filter: Filter = Filter()

    @model_validator(mode="after")
    def _fits_together(self) -> "Policy":
        if len(set(self.methods)) < len(self.methods):
            raise ValueError(f"a method is named twice: {', '.join(self.methods)}")
        if len(self.methods) == 1 and (self.combine == "agreement" or self.filter.agreement):
            raise ValueError("one method has nobody to agree with; name several")
        if self.vote.kind == "calibrated":
            raise ValueError("vote is of each method's own map, and cannot be calibrated")
        if self.background is not None and self.background.kind == "calibrated" != self.cut.kind:
            raise ValueError("background is calibrated with the cut, so that must be calibrated, too")
        if self.background is not None and self.background.kind == self.cut.kind != "percentile":
            low, high = ((cut.at or 1.0) * cut.scale for cut in (self.background, self.cut))
            if low >= high:
                raise ValueError("background begins above the cut, so nothing would be ignored; lower its at or scale")
        if self.filter.area[0] > self.filter.area[1]:
            raise ValueError("filter.area must be the least and the largest share")
        return self

    @property
    def calibrated(self) -> bool:
        """Whether a threshold has still to be found."""
        return any(cut is not None and cut.kind == "calibrated" for cut in (self.cut, self.background))

    def at(self, threshold: float) -> "Policy":
        """The same policy with that threshold where it is to be calibrated."""

        def fixed(cut: Cut | None) -> Cut | None:
            return Cut(kind="fixed", at=threshold, scale=cut.scale) if cut and cut.kind == "calibrated" else cut

        return self.model_copy(update={"cut": fixed(self.cut), "background": fixed(self.background)})
