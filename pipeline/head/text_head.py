"""A head file of texts: the mean embedding of the prompts of each class."""

import os
from collections.abc import Callable
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.explain.head import Head
from pipeline.head.prompts import Prompts
from pipeline.head.text_tower import BATCH, TextTower
from schemas.base import sha256
from schemas.errors import UsageError
from schemas.head import HeadRecord

EMPTY_PROMPT = "a photo of a"
"""Names nothing. LeGrad's code for SigLIP takes away what its map has (legrad_torch, ``empty``)."""


def text_head(tower: TextTower, prompts: Prompts, progress: Callable[[int, int], None] | None = None) -> Head:
    """Make a zero-shot head: each class is the direction of the mean of the unit embeddings of its texts.

    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, section 3.1.4:
    an ensemble over the embedding space.

    Args:
        tower: embeds the texts.
        prompts: classes and their texts.
        progress: is told how many texts are embedded, and of how many.

    Raises:
        UsageError: the image tower beside it cannot have a head, or a text is empty or too long; both are named.
    """
    side, spec = tower.image_side, tower.spec
    for index, text in prompts.texts():
        if reason := tower.fault(text):
            raise UsageError(f"{prompts.classes[index][:80]!r}: the prompt {text[:80]!r} {reason}")
    tensors = {"text": _mean_embeddings(tower, prompts, progress), "empty": tower.embed([EMPTY_PROMPT])}
    tensors |= {"logit_scale": tower.logit_scale} | {name: value.detach().cpu() for name, value in side.tensors.items()}
    if tower.logit_bias is not None:
        tensors["logit_bias"] = tower.logit_bias
    model = os.path.basename(spec.folder) if spec.folder else spec.name
    fields = {
        "kind": "zero_shot",
        "classes": prompts.classes,
        "read_out": side.read_out,
        "input_width": side.width,
        "activation": tower.activation,
        "projection": side.projection,
        "normalise": "l2",
        "prompts": prompts.prompts,
        "templates": prompts.templates,
        "templates_sha256": sha256("\n".join(prompts.templates).encode()) if prompts.templates else "",
        "text_model": model,
        "text_model_sha256": spec.sha256,
        "mean": side.mean,
        "std": side.std,
        "activation_function": side.activation_function,
        "provenance": f"{prompts.count} texts embedded by {model} of {spec.library}",
    }
    return Head(HeadRecord.read(fields, spec.name), tensors, spec.name)


def _mean_embeddings(tower: TextTower, prompts: Prompts, progress: Callable[[int, int], None] | None) -> Tensor:
    """Return a unit row [C, E] for each class. Only sums are kept: 80 texts for each of many classes may be large."""
    sums: Tensor | None = None
    done = 0
    texts = prompts.texts()
    while batch := list(islice(texts, BATCH)):
        embeddings = tower.embed([text for _, text in batch])
        if sums is None:
            sums = torch.zeros(len(prompts.classes), embeddings.shape[1], dtype=torch.float64)
        sums.index_add_(0, torch.tensor([index for index, _ in batch]), embeddings.double())
        done += len(batch)
        if progress is not None:
            progress(done, prompts.count)
    assert sums is not None
    return F.normalize(sums, dim=1).to(embeddings.dtype)
