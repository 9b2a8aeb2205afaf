"""Why the outputs of a network are no classes that can be explained."""

from typing import Any

from pipeline.explain.embedding_towers import is_projection
from pipeline.explain.head_modules import LinearHead, ZeroShotHead

_HEAD_HINT = "give it a head file by --head FILE (in Python, Head.load(FILE).attach(model))"

NO_CLASSIFIER = "it has no classifier; {remedies}"

REMEDIES = f"{_HEAD_HINT}, a number of classes, or a checkpoint that has one"
REMEDIES_WITHOUT_HEAD = "give it a number of classes, or a checkpoint that has a classifier"
"""Of networks that are no plain vision transformers, which can have no head file."""


def classes_fault(model: Any, classes: int, remedies: str) -> str | None:
    """Return why outputs are no classes that can be explained; None if they can.

    Args:
        model: the network.
        classes: number of its outputs.
        remedies: what one can do about it.
    """
    if isinstance(getattr(model, "head", None), LinearHead | ZeroShotHead):
        return None
    if classes == 1:
        return (
            "it has one logit, and the softmax of one is always 1; give its classifier a row of zeros in front, "
            "for class 0, whose softmax is the sigmoid of this logit"
        )
    if is_projection(model, classes):
        return (
            f"its last layer projects into an embedding space of {classes} channels, which are no classes; {remedies}; "
            "if these are classes, name them in label_names of its pretrained_cfg"
        )
    return None
