"""A labelling policy: the steps from maps to a mask."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.base import Record
from schemas.targets import Target

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Names of policies, and so of the folders of labels."""
Share = Annotated[float, Field(ge=0, le=1)]
Sigma = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]


class Threshold(Record):
    """Value of the heatmap above which, strictly, foreground begins.

    Attributes:
        kind: ``fixed`` is ``value`` itself; ``percentile`` is the value below which ``value`` % of the image lie;
            ``otsu`` and ``mean`` are computed for each heatmap; ``calibrated`` is the fixed one whose masks overlap
            best with the truth of a small split, given when labels are made.
        value: in [0, 1] for ``fixed``, in [1, 100] for ``percentile``; None for the others.
        scale: factor that the threshold is multiplied by.
    """

    kind: Literal["fixed", "otsu", "percentile", "mean", "calibrated"]
    value: float | None = None
    scale: Annotated[float, Field(gt=0, le=10)] = 1.0

    @model_validator(mode="after")
    def _check_value(self) -> "Threshold":
        # No percentile below 1, so that a fraction is not taken for one.
        limits = {"fixed": (0, 1), "percentile": (1, 100)}
        if self.kind not in limits:
            if self.value is not None:
                raise ValueError(f"{self.kind} computes its own threshold, leave out 'value'")
        elif self.value is None or not limits[self.kind][0] <= self.value <= limits[self.kind][1]:
            raise ValueError(f"{self.kind} needs 'value' between {limits[self.kind][0]} and {limits[self.kind][1]}")
        return self


class Pamr(Record):
    """Pixel-adaptive mask refinement (Araslanov and Roth, CVPR 2020, section 3.3).

    Attributes:
        kind: kind of refinement.
        iterations: number of averaging steps.
        dilations: distances of the eight neighbours, in pixels of the network's input.
    """

    kind: Literal["pamr"] = "pamr"
    iterations: Annotated[int, Field(ge=1, le=100)] = 10
    dilations: Annotated[tuple[Annotated[int, Field(ge=1, le=128)], ...], Field(min_length=1)] = (1, 2, 4, 8, 12, 24)


class Crf(Record):
    """Dense conditional random field (Krähenbühl and Koltun, NIPS 2011). Needs the extra ``crf``.

    Attributes:
        kind: kind of refinement.
        iterations: number of mean-field steps.
        confidence: probability in (0.5, 1) of a pixel whose heatmap is 0 or 1, for the unary term.
        gaussian_sxy: standard deviation of the Gaussian kernel in pixels.
        gaussian_compat: weight of the Gaussian kernel.
        bilateral_sxy: standard deviation of the bilateral kernel in pixels.
        bilateral_srgb: standard deviation of the bilateral kernel in gray levels.
        bilateral_compat: weight of the bilateral kernel.
    """

    kind: Literal["crf"]
    iterations: Annotated[int, Field(ge=1, le=100)] = 10
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.7
    gaussian_sxy: Sigma = 3.0
    gaussian_compat: Weight = 3.0
    bilateral_sxy: Sigma = 50.0
    bilateral_srgb: Sigma = 5.0
    bilateral_compat: Weight = 10.0


class Sam(Record):
    """SAM (Kirillov et al., ICCV 2023) or SAM 2 (Ravi et al., ICLR 2025), by prompts of the mask; the extra ``sam``.

    Unlike the others it refines the mask in the original image, behind ``postprocess``. The prompts are those of the
    label format ``sam``: for each component its box and its points of object and background. Of the three masks that
    the model gives for a prompt, the one with the highest predicted IoU is taken, of equal ones the first; the mask of
    a label is the union over its prompts.

    Attributes:
        kind: kind of refinement.
        checkpoint: folder of ``transformers`` with a SAM or SAM 2, its image processor and its weights as safetensors.
        sha256: hash of its files, as ``sha256:…``. None is that of the files that are there; labels record it.
    """

    kind: Literal["sam"]
    checkpoint: str
    sha256: Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")] | None = None


class Postprocess(Record):
    """Morphology of the mask. Components are 8-connected.

    Attributes:
        keep: ``all`` components, or only the ``largest``.
        min_area: smallest area of a component, as a fraction of the image; smaller ones are removed.
        fill_holes: turn background that an object encloses into object.
    """

    keep: Literal["all", "largest"] = "all"
    min_area: Annotated[float, Field(ge=0, lt=1)] = 0.0
    fill_holes: bool = False


class LabelFilter(Record):
    """Conditions on a label. A label that fails one keeps its row, with the reason as its status.

    Attributes:
        probability: least probability of the class.
        top1: require that the prediction is the label, or one of several.
        area: least and largest share of the image that is object.
        agreement: least mean IoU between the masks of each two methods.
    """

    probability: Share = 0.0
    top1: bool = False
    area: tuple[Share, Share] = (0.0, 1.0)
    agreement: Share = 0.0


class Policy(Record):
    """A policy file (YAML). Every label carries its hash. The fields are in the order of the steps.

    Attributes:
        name: letters, digits, dots, dashes and underscores.
        methods: names of the methods in the atlas; in one of several, ``NAME:method`` with the name of that atlas.
        target: target kind of the maps.
        normalize: normalization of each map. ``minmax`` is the stored map; ``max`` divides the positive part by its
            maximum; ``clip`` stretches from the 1st to the 99th percentile; ``raw`` is the raw map, for methods that
            return probabilities.
        combine: combination of several maps: ``mean``, the mean of their ranks (``rank_mean``), their ``geometric``
            mean, each stretched to [0, 1] again; or ``agreement``, the share of methods whose masks contain a patch.
        agreement_threshold: threshold on each method's own map, for its mask on the patch grid; used for agreement.
        refine: refinement with the image: of the heatmap, or by ``sam`` of the mask; None is no refinement.
        threshold: where foreground begins, on the heatmap resized (bilinear) to the original image.
        background_threshold: pixels at or below it are background, pixels between the two are ignored; None ignores
            none.
        postprocess: morphology of the mask.
        filter: conditions on the label.
    """

    name: Annotated[str, Field(pattern=NAME)]
    methods: Annotated[tuple[str, ...], Field(min_length=1)]
    target: Target = "label"
    normalize: Literal["minmax", "max", "clip", "raw"] = "minmax"
    combine: Literal["mean", "rank_mean", "geometric", "agreement"] = "mean"
    agreement_threshold: Threshold = Threshold(kind="otsu")
    refine: Annotated[Pamr | Crf | Sam, Field(discriminator="kind")] | None = None
    threshold: Threshold
    background_threshold: Threshold | None = None
    postprocess: Postprocess = Postprocess()
    filter: LabelFilter = LabelFilter()

    @model_validator(mode="after")
    def _check_fields(self) -> "Policy":
        if len(set(self.methods)) < len(self.methods):
            raise ValueError(f"a method is named twice: {', '.join(self.methods)}")
        if len(self.methods) == 1 and (self.combine == "agreement" or self.filter.agreement):
            raise ValueError("combine: agreement and filter.agreement need at least two methods")
        if self.agreement_threshold.kind == "calibrated":
            raise ValueError("agreement_threshold applies to each method's own map and cannot be calibrated")
        upper, lower = self.threshold, self.background_threshold
        if lower is not None and lower.kind == "calibrated" != upper.kind:
            raise ValueError("background_threshold can only be calibrated together with threshold")
        if lower is not None and lower.kind == upper.kind != "percentile":
            low, high = ((threshold.value or 1.0) * threshold.scale for threshold in (lower, upper))
            if low >= high:
                raise ValueError(
                    "background_threshold is not below threshold, so no pixel is ignored; lower its value or scale"
                )
        if self.filter.area[0] > self.filter.area[1]:
            raise ValueError("filter.area must be the least and the largest share")
        return self

    @property
    def calibrated(self) -> bool:
        """True if a threshold has still to be calibrated."""
        return any(
            threshold is not None and threshold.kind == "calibrated"
            for threshold in (self.threshold, self.background_threshold)
        )

    def with_threshold(self, value: float) -> "Policy":
        """Return the same policy with this value wherever it is to be calibrated."""

        def fixed(threshold: Threshold | None) -> Threshold | None:
            if threshold is None or threshold.kind != "calibrated":
                return threshold
            return Threshold(kind="fixed", value=value, scale=threshold.scale)

        thresholds = {"threshold": fixed(self.threshold), "background_threshold": fixed(self.background_threshold)}
        return self.model_copy(update=thresholds)
