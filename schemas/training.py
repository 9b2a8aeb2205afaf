"""Settings of a training: the flags of ``vitatlas train``."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Record
from schemas.run import (
    Exif,
    Extension,
    Geometry,
    Grouping,
    KeySeparator,
    LabelForm,
    MaskValues,
    ModelSpec,
    TruthOrientation,
)

Rate = Annotated[float, Field(ge=0, le=1000)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class DiffMaskSettings(Record):
    """Hyper-parameters of Vision DiffMask.

    The defaults are those of the public code's command line, but for the rate of the multipliers: there an optimizer
    scales their steps to about 0.3, here a step is rate × (KL − ε).

    Attributes:
        method: learned method.
        tolerance: ε, the allowed divergence.
        learning_rate: learning rate of the probes.
        placeholder_learning_rate: learning rate of the placeholder.
        warmup_steps: steps in which both learning rates rise linearly.
        alpha: initial value of the multipliers.
        alpha_learning_rate: step size of the gradient ascent on the multipliers.
        gate_bias: initial value of the learned shift of a gate logit.
        depth_sampling: distribution of the last probe k of a step: ``uniform``, or ``weighted``, a tenth as often where
            it already keeps less than a tenth of the patches and more than three quarters of the predictions.
        objective: what the gates must preserve: the predicted ``distribution``, or the probability of the ``class``.
    """

    method: Literal["diffmask"] = "diffmask"
    tolerance: Positive = 0.1
    learning_rate: Rate = 2e-5
    placeholder_learning_rate: Rate = 1e-3
    warmup_steps: Count = 1200
    alpha: Annotated[float, Field(ge=0, le=200)] = 20.0
    alpha_learning_rate: Rate = 3.0
    gate_bias: Annotated[float, Field(ge=-100, le=100)] = 8.0
    depth_sampling: Literal["uniform", "weighted"] = "uniform"
    objective: Literal["distribution", "class"] = "distribution"


class PatchMaskSettings(Record):
    """Hyper-parameters of patch-level mask prediction (``pm_design_v1``).

    Attributes:
        method: learned method.
        learning_rate: learning rate of the head.
        layer_decay: factor of the learning rate from each block to the one below.
        weight_decay: weight decay of the matrices.
        warmup_steps: steps in which the learning rate rises, before it falls as a cosine.
        patch_loss_weight: λ, weight of the patch loss; the image's cross-entropy has weight 1.
        negative_loss_weight: μ, weight of absent classes within the patch loss.
        num_negatives: absent classes of a step, sampled from the 50 with the highest logits.
        min_crop_area: least area of a training crop, as a fraction of the image.
    """

    method: Literal["pm"] = "pm"
    learning_rate: Rate = 1e-4
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.75
    weight_decay: Rate = 0.05
    warmup_steps: Count = 40
    patch_loss_weight: Rate = 1.0
    negative_loss_weight: Rate = 0.25
    num_negatives: Count = 16
    min_crop_area: Annotated[float, Field(gt=0, le=1)] = 0.35


class TSCAMSettings(Record):
    """Hyper-parameters of TS-CAM.

    Learning rate and weight decay are those with which the public code trains on CUB, the crops those from 256 to 224
    pixels.

    Attributes:
        method: learned method.
        backbone: weights that are trained beside the convolution: all of the network (``fine-tuned``), as in the paper,
            or none (``frozen``).
        learning_rate: learning rate of all trained weights.
        weight_decay: weight decay of the matrices.
        warmup_steps: steps in which the learning rate rises, before it falls as a cosine.
        min_crop_area: least area of a training crop, as a fraction of the image.
    """

    method: Literal["tscam"] = "tscam"
    backbone: Literal["fine-tuned", "frozen"] = "fine-tuned"
    learning_rate: Rate = 5e-5
    weight_decay: Rate = 0.05
    warmup_steps: Count = 40
    min_crop_area: Annotated[float, Field(gt=0, le=1)] = 0.77


class MaskSpec(Record):
    """Source of the masks of a patch-mask training: exactly one of truth and atlas.

    Attributes:
        truth: a COCO file with masks or boxes, or a folder of PNGs named by key.
        atlas: an atlas of the shards, whose maps make pseudo-masks: no locality label at all.
        policy: policy file (YAML) of the pseudo-masks.
        held_out_truth: truth of the held-out images, for metrics only; nothing is learned or selected with it.
        truth_orientation: of the images that the coordinates of both truths are of; see ``Truth.for_sample``.
        mask_values: what the values of PNG masks are, of both truths; see ``read_truth``.
    """

    truth: str | None = None
    atlas: str | None = None
    policy: str | None = None
    held_out_truth: str | None = None
    truth_orientation: TruthOrientation | None = None
    mask_values: MaskValues | None = None


class TrainSpec(Record):
    """A training.

    Attributes:
        model: the network.
        shards: training shards.
        held_out: held-out shards.
        out: path of the artifact.
        settings: hyper-parameters of the method.
        masks: source of masks, for ``pm``.
        steps: number of steps.
        batch_size: images of a step on each worker.
        geometry: as in ``RunSpec``.
        key_separator, image_key, exif: as in ``RunSpec``. None follows the atlas of the pseudo-masks; without one it is
            the default there.
        label_key, label_form, classes: as in ``RunSpec``, of the atlas of the pseudo-masks. None: there is none, and
            labels are class ids in ``cls`` members.
        seed: random seed of order, crops and noise.
        precision: precision of the network; trained weights stay in float32.
        eval_interval: steps between checkpoints, and between evaluations on the held-out images.
        patience: evaluations without improvement after which training stops and the best weights are used; None trains
            to the end.
        workers: number of processes; several run under Ray Train.
        save_float16: store the artifact in float16.
    """

    model: ModelSpec
    shards: Annotated[tuple[str, ...], Field(min_length=1)]
    held_out: Annotated[tuple[str, ...], Field(min_length=1)]
    out: str
    settings: Annotated[DiffMaskSettings | PatchMaskSettings | TSCAMSettings, Field(discriminator="method")]
    masks: MaskSpec | None = None
    steps: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 32
    geometry: Geometry = "squash"
    key_separator: KeySeparator | None = None
    image_key: tuple[Extension, ...] | None = None
    exif: Exif | None = None
    label_key: str | None = None
    label_form: LabelForm | None = None
    classes: tuple[str, ...] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    precision: Literal["full", "bfloat16"] = "full"
    eval_interval: Annotated[int, Field(ge=1)] = 500
    patience: Annotated[int, Field(ge=1)] | None = None
    workers: Annotated[int, Field(ge=1)] = 1
    save_float16: bool = False

    @property
    def grouping(self) -> Grouping:
        """Rule by which the members of a shard become samples."""
        return Grouping(self.key_separator or "first-dot", self.image_key or ())

    @property
    def applied_exif(self) -> Exif:
        """Whether images are turned upright by their EXIF orientation."""
        return self.exif or "apply"
