"""The model's own classifier, applied to patch tokens."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.head_modules import ZeroShotHead, attached_module, head_activation

PATCH_READOUT_DESIGN = "pm_design_v1"
"""Provenance of patch-level read-outs: the paper's full text is not public; open details are chosen here."""


def classifier_heads(model: Any) -> list[nn.Linear]:
    """Return the classifier; of a distilled model both."""
    return [getattr(model, name) for name in ("head", "head_dist") if hasattr(model, name)]


def classifier_logits(model: Any, features: Tensor) -> Tensor:
    """Compute logits [..., C] of features [..., D]; of a distilled model the mean of its two classifiers."""
    rows = features.flatten(0, -2)  # a head with batch norm takes no other shape
    logits = [head(rows).unflatten(0, features.shape[:-1]) for head in classifier_heads(model)]
    return logits[0] if len(logits) == 1 else (logits[0] + logits[1]) / 2


def class_probabilities(model: Any, logits: Tensor) -> Tensor:
    """Compute probabilities [..., C] of logits [..., C]: softmax, or the activation of the model's head file."""
    return logits.sigmoid() if head_activation(model) == "sigmoid" else logits.softmax(-1)


def class_log_probabilities(model: Any, logits: Tensor) -> Tensor:
    """Compute the logarithms of ``class_probabilities``, exact where a probability underflows."""
    return F.logsigmoid(logits) if head_activation(model) == "sigmoid" else logits.log_softmax(-1)


def class_log_odds(model: Any, logits: Tensor, class_ids: Tensor) -> Tensor:
    """Compute ln(p / (1 − p)) of ``class_probabilities``, exact where p is near 0 or 1.

    That is the logit itself for a sigmoid, and the logit minus the log-sum-exp of all others for a softmax.

    Args:
        model: the network.
        logits: [..., C].
        class_ids: int64 [..., K].

    Returns:
        [..., K].
    """
    of_class = logits.gather(-1, class_ids)
    if head_activation(model) == "sigmoid":
        return of_class
    columns = class_ids.split(1, -1)
    return of_class - torch.cat(
        [logits.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True) for ids in columns], -1
    )


def label_loss(model: Any, logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the negative log-likelihood of labels: [B].

    For a softmax the cross-entropy. For a sigmoid, by which each class is present or not, the sum over all classes of
    their binary cross-entropies, as SigLIP is trained (Zhai et al., ICCV 2023).

    Args:
        model: the network.
        logits: [B, C].
        labels: int64 [B], the only class of each image.
    """
    if head_activation(model) == "sigmoid":
        return F.softplus(logits).sum(-1) - logits.gather(1, labels[:, None])[:, 0]
    return F.cross_entropy(logits, labels, reduction="none")


def patch_log_odds(model: Any, logits: Tensor, class_ids: Tensor) -> Tensor:
    """Compute ln(p / (1 − p)) of ``patch_probabilities``: [B, K, N].

    Args:
        model: the network.
        logits: of the patches, [B, N, C].
        class_ids: int64 [B, K].
    """
    of_patches = class_ids[:, None].expand(-1, logits.shape[1], -1)
    read = (
        class_log_odds(model, logits, of_patches)
        if isinstance(attached_module(model), ZeroShotHead)
        else logits.gather(2, of_patches)
    )
    return read.transpose(1, 2)


def patch_probabilities(model: Any, logits: Tensor) -> Tensor:
    """Compute probabilities [..., C] of the logits of patches.

    Sigmoid, by which ``pm`` trains. Similarities to texts are scaled for a comparison of texts, and saturate a sigmoid:
    a zero-shot head is read by its own activation, as MaskCLIP does.
    """
    if isinstance(attached_module(model), ZeroShotHead):
        return class_probabilities(model, logits)
    return logits.sigmoid()


def classifier_cosines(model: Any, features: Tensor) -> Tensor:
    """Compute cosines [..., C] of features [..., D] with weights of a linear head or texts of a zero-shot head."""
    if isinstance(model.head, ZeroShotHead):
        return model.head.cosine(features)
    unit = F.normalize(features, dim=-1)
    cosines = [F.linear(unit, F.normalize(head.weight, dim=-1).to(unit)) for head in classifier_heads(model)]
    return torch.stack(cosines).mean(0)


def token_features(model: Any, anatomy: Anatomy, tokens: Tensor) -> Tensor:
    """Compute the input of the classifier if the read-out saw one token in each of its places.

    Class token or mean: fc_norm(norm(x)). Class token and mean: [norm(x); norm(x)]. Attention pooler: x as a sequence
    of length 1, whose attention is 1.

    Args:
        model: the network.
        anatomy: its description.
        tokens: x, tokens after a block, [..., D].

    Returns:
        [..., D], or [..., 2D] for class token and mean.
    """
    tokens = model.norm(tokens)
    if anatomy.readout == "token+mean":
        return torch.cat([tokens, tokens], -1)
    if anatomy.readout == "pool":
        tokens = model.attn_pool(tokens.flatten(0, -2)[:, None]).unflatten(0, tokens.shape[:-1])
    return model.fc_norm(tokens)


def patch_logits(model: Any, anatomy: Anatomy, tokens: Tensor) -> Tensor:
    """Compute the logits of every patch by the model's own classifier, which adds no parameter: see ``token_features``.

    Args:
        model: the network.
        anatomy: its description.
        tokens: x, patch tokens after the last block, [B, N, D].

    Returns:
        [B, N, C].
    """
    return classifier_logits(model, token_features(model, anatomy, tokens))


class PatchReadout(nn.Module):
    """Model that returns logits of the image and of each patch from one forward.

    Its parameters are the model's own, under ``model.``.
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy) -> None:
        super().__init__()
        self.model, self.anatomy = model, anatomy

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits of images [B, 3, H, W]: of the images [B, C] and of their patches [B, N, C]."""
        outputs: list[Tensor] = []
        parts: Any = self.model
        with parts.blocks[-1].register_forward_hook(lambda module, args, output: outputs.append(output)):
            logits = self.model(images)
        return logits, patch_logits(self.model, self.anatomy, outputs[0][:, self.anatomy.patch_tokens])
