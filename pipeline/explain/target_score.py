"""The number that a map explains: the logit of its class, or its margin or probability among all classes."""

from typing import Any, Literal

import torch
from torch import Tensor

from pipeline.explain.network import Network
from pipeline.explain.readout import class_log_probabilities, class_probabilities

Target = Literal["logit", "contrast_mean", "contrast_max", "logsoftmax", "softmax", "finer"]

PatchTarget = Literal["probability", "logit", "contrast_mean", "contrast_max", "logsoftmax", "softmax", "finer"]
"""Those of patches; ``probability`` is ``patch_probabilities``."""

FINER_CLASSES = 3
"""Classes that ``finer`` compares with."""


def target_fault(anatomy: Network, target: Target) -> str | None:
    """Return why a target is not defined for a model; None if it is."""
    if anatomy.classes == 1 and target in ("contrast_mean", "contrast_max", "finer"):
        return f"target={target} compares the class with others, and the model has no other"
    if anatomy.has_constant_probability and target in ("softmax", "logsoftmax"):
        return f"target={target} is the softmax of its only class, which is always 1; take target=logit"
    if anatomy.class_activation != "softmax" and target == "finer":
        return "target=finer weighs classes by their softmax, and the head states probabilities by a sigmoid"
    return None


def target_values(
    model: Any, logits: Tensor, class_ids: Tensor, target: Target, compared: Tensor | None = None
) -> Tensor:
    """Compute the number s that a map explains from the logits y: [..., K].

    ``logit``: y_c. ``contrast_mean``: y_c − mean of the other logits. ``contrast_max``: y_c − y_r with r the other
    class of the largest logit. ``softmax``: the probability p_c, of a head file by its activation, and ``logsoftmax``
    its logarithm. ``finer``: Σ p_k (y_c − y_k) / Σ p_k over the three other classes whose logits are nearest to y_c,
    p_k not held constant (Zhang et al., Finer-CAM, CVPR 2025, arXiv 2501.11309, as in the authors' code).

    Args:
        model: the network.
        logits: [..., C].
        class_ids: int64 [..., K].
        target: which number.
        compared: classes to compare with, of ``compared_classes``; by default those of the logits themselves.
    """
    if target == "softmax":
        return class_probabilities(model, logits).gather(-1, class_ids)
    if target == "logsoftmax":
        return class_log_probabilities(model, logits).gather(-1, class_ids)
    of_class = logits.gather(-1, class_ids)
    if target == "logit":
        return of_class
    if target == "contrast_mean":
        return of_class - (logits.sum(-1, keepdim=True) - of_class) / (logits.shape[-1] - 1)
    compared = compared_classes(logits, class_ids, target) if compared is None else compared
    assert compared is not None
    others = logits[..., None, :].expand(*compared.shape[:-1], -1).gather(-1, compared)
    # Their softmax among themselves is p_k / Σ p_k, which does not underflow.
    return (others.softmax(-1) * (of_class[..., None] - others)).sum(-1)


@torch.no_grad()
def compared_classes(logits: Tensor, class_ids: Tensor, target: Target) -> Tensor | None:
    """Return the classes that a target compares each class with, the nearest first: int64 [..., K, R].

    Args:
        logits: [..., C].
        class_ids: int64 [..., K].
        target: None is returned for those that compare with no class or with all.
    """
    if target not in ("contrast_max", "finer"):
        return None
    rows = logits[..., None, :].expand(*class_ids.shape, -1)
    distance = -rows if target == "contrast_max" else (rows - logits.gather(-1, class_ids)[..., None]).abs()
    distance = distance.scatter(-1, class_ids[..., None], torch.inf)  # a class is not compared with itself
    count = 1 if target == "contrast_max" else min(FINER_CLASSES, logits.shape[-1] - 1)
    return distance.topk(count, largest=False).indices
