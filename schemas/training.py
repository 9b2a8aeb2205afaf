"""What a user asks of a training: the content of the flags of ``vitatlas train``."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Record
from schemas.run import Geometry, ModelSpec

Rate = Annotated[float, Field(ge=0, le=1000)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class DiffMaskSettings(Record):
    """Hyper-parameters of Vision DiffMask; the defaults are those of the public code's command line.

    Attributes:
        method: which explainer this is.
        tolerance: ε, the divergence that is allowed.
        rate, placeholder_rate: learning rates of the probes and of the placeholder.
        warm_up: steps in which both rise to that.
        alpha, alpha_rate: first value and step of the multipliers.
        add: first value of the learned shift of a gate logit.
        depths: how the last probe k of a step is drawn: ``uniform``, or ``weighted``, a tenth as often where it
            already keeps less than a tenth of the patches and more than three quarters of the predictions.
        objective: what must be kept: the predicted ``distribution``, or the probability of the ``class`` alone.
    """

    method: Literal["diffmask"] = "diffmask"
    tolerance: Positive = 0.1
    rate: Rate = 2e-5
    placeholder_rate: Rate = 1e-3
    warm_up: Count = 1200
    alpha: Annotated[float, Field(ge=0, le=200)] = 20.0
    alpha_rate: Rate = 0.3
    add: Annotated[float, Field(ge=-100, le=100)] = 8.0
    depths: Literal["uniform", "weighted"] = "uniform"
    objective: Literal["distribution", "class"] = "distribution"


class PatchMaskSettings(Record):
    """Hyper-parameters of patch-level mask prediction (``pm_design_v1``).

    Attributes:
        method: which explainer this is.
        rate: learning rate of the head.
        decay: a block learns so many times as fast as the one above it.
        weight_decay: of the matrices.
        warm_up: steps in which the rate rises, before it falls as a cosine.
        weight: λ, of the patch loss beside the cross-entropy of the image.
        negative_weight: μ, of absent classes within the patch loss.
        negatives: absent classes of a step, drawn from the 50 that the network thinks likeliest.
        crop: least part of a picture that a training crop has, by area.
    """

    method: Literal["pm"] = "pm"
    rate: Rate = 1e-4
    decay: Annotated[float, Field(gt=0, le=1)] = 0.75
    weight_decay: Rate = 0.05
    warm_up: Count = 40
    weight: Rate = 1.0
    negative_weight: Rate = 0.25
    negatives: Count = 16
    crop: Annotated[float, Field(gt=0, le=1)] = 0.35


class MaskSpec(Record):
    """Where the masks of a patch-mask training come from: exactly one of truth and atlas.

    Attributes:
        truth: a COCO file with masks or boxes, or a folder of PNGs named by key.
        atlas: an atlas of the shards, whose maps make pseudo-masks: no locality label at all.
        policy: the policy (YAML) that makes them.
        measured: truth of held-out images; figures are taken with it, nothing is learnt or chosen.
    """

    truth: str | None = None
    atlas: str | None = None
    policy: str | None = None
    measured: str | None = None


class TrainSpec(Record):
    """A training.

    Attributes:
        model: the network.
        shards: shards to learn from.
        held_out: shards to judge by.
        out: the artefact.
        settings: of the method.
        masks: for ``pm``.
        steps, batch_size: so many steps of so many images, on each worker.
        geometry: see ``RunSpec``.
        seed: of order, crops and noise.
        precision: of the network; what learns stays in float32.
        every: steps between checkpoints, and between looks at the held-out images.
        patience: looks without improvement after which training stops and the best is kept; None trains to the end.
        workers: processes that learn together, under Ray Train where there are several.
        half: store the result in float16.
    """

    model: ModelSpec
    shards: Annotated[tuple[str, ...], Field(min_length=1)]
    held_out: Annotated[tuple[str, ...], Field(min_length=1)]
    out: str
    settings: Annotated[DiffMaskSettings | PatchMaskSettings, Field(discriminator="method")]
    masks: MaskSpec | None = None
    steps: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 32
    geometry: Geometry = "squash"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    precision: Literal["full", "bfloat16"] = "full"
    every: Annotated[int, Field(ge=1)] = 500
    patience: Annotated[int, Field(ge=1)] | None = None
    workers: Annotated[int, Field(ge=1)] = 1
    half: bool = False
