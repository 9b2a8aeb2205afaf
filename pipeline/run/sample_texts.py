"""Texts of samples as targets: embedded batch by batch, and explained as further classes of a zero-shot head."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.explain.head import Head
from pipeline.explain.head_modules import ZeroShotHead, attached_module
from pipeline.explain.method import Method
from pipeline.explain.network import Network
from pipeline.head.text_tower import TextTower
from pipeline.read import DecodedSample
from schemas.errors import UnsupportedMethod, UsageError
from schemas.run import RunSpec

_NO_TEXT = "a"
"""Stands for the texts of samples without image, whose maps are not kept: batches then differ in no shape."""


def load_text_tower(spec: RunSpec, device: str = "cpu") -> TextTower | None:
    """Load the text tower of a run; None if it needs none.

    Args:
        spec: of the run.
        device: where it computes.

    Raises:
        UsageError: it cannot be loaded, or is another than was planned.
    """
    return TextTower.load(spec.text_tower, device) if spec.text_tower is not None else None


def anatomy_for(spec: RunSpec, anatomy: Network) -> Network:
    """Return the network as methods see it: a text is compared with no other, like the only class of a network.

    Args:
        spec: of the run.
        anatomy: of its network.
    """
    return replace(anatomy, classes=1) if spec.text_targets else anatomy


def check_text_methods(methods: Iterable[Method], spec: RunSpec, anatomy: Network) -> None:
    """Make sure that methods are defined for the texts of a run.

    Args:
        methods: of the run.
        spec: of the run.
        anatomy: of its network.

    Raises:
        UnsupportedMethod: one compares classes.
    """
    alone = anatomy_for(spec, anatomy)
    for method in methods:
        if method.refusal(alone) and not method.refusal(anatomy):
            raise UnsupportedMethod(
                f"{method.name}: reads softmax probabilities, and the target text has no other to be compared with; "
                "leave the method out, take its score=logit if it has that, or plan another atlas for it"
            )


def check_tower(tower: TextTower, spec: RunSpec) -> None:
    """Make sure that the texts of a tower can be compared with images by the head of a run.

    Raises:
        UsageError: the run has no zero-shot head, or one that was made by another tower.
    """
    if spec.model.head is None:
        raise UsageError("the target text compares images with texts: add --head FILE of vitatlas head text")
    head = Head.load(spec.model.head)
    if head.record.kind != "zero_shot":
        raise UsageError(f"{head.source}: is a linear head; the target text needs one of vitatlas head text")
    made_by = head.record.text_model_sha256
    if made_by not in ("", tower.spec.sha256):
        raise UsageError(
            f"{head.source}: was made by the text tower {made_by[:19]}…, and {tower.spec.name} is "
            f"{tower.spec.sha256[:19]}…; name the tower of the head"
        )
    width, own = tower.embed([_NO_TEXT]).shape[1], head.tensors["text"].shape[1]
    if width != own:
        raise UsageError(f"{tower.spec.name}: embeds texts in {width} numbers, {head.source} in {own}; name its tower")
    bias = head.tensors.get("logit_bias")
    if bias is not None and bias.ndim:
        raise UsageError(f"{head.source}: has a bias for each class, and none for other texts; write one for all")


@contextmanager
def texts_as_classes(
    head: ZeroShotHead, tower: TextTower, samples: Sequence[DecodedSample], count: int
) -> Iterator[Tensor]:
    """Add the texts of a batch to the classes of a head while the context lasts.

    Each image has its own classes, and the logits of others do not enter the maps of methods that are defined for one
    class, so a map depends on no other text.

    Args:
        head: zero-shot head of the network.
        tower: embeds the texts.
        samples: the B samples of the batch.
        count: texts of each.

    Yields:
        int64 [B, count]: class ids of the texts.
    """
    texts = [text for sample in samples for text in (sample.texts if sample.image else (_NO_TEXT,) * count)]
    first, own = len(head.text), head.text
    with head.with_texts(tower.embed(texts).to(own)):
        yield torch.arange(first, first + len(texts), device=own.device).reshape(len(samples), count)


def text_similarities(model: nn.Module, logits: Tensor, texts: Tensor) -> Tensor:
    """Return the cosines of images and their texts, from logits a · cosine + b: float64 [B, T].

    Args:
        model: with a zero-shot head, if there are texts.
        logits: float64 [B, C], with those of the texts.
        texts: int64 [B, T], class ids of the texts.
    """
    if not texts.shape[1]:
        return logits[:, :0]
    head: Any = attached_module(model)
    return (logits.gather(1, texts) - head.bias.double()) / head.scale.double()
