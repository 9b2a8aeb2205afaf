"""Why the outputs of a network are no classes that can be explained."""

from typing import Any

from pipeline.explain.embedding_towers import is_projection
from pipeline.explain.head_modules import attached_module

_HEAD_HINT = "give it a head file by --head FILE (in Python, Head.load(FILE).attach(model))"

_REMEDIES = f"{_HEAD_HINT}, a number of classes, or a checkpoint that has one"

NO_CLASSIFIER = f"it has no classifier; {_REMEDIES}"


def classes_fault(model: Any, classes: int) -> str | None:
    """Return why outputs are no classes that can be explained; None if they can.

    Args:
        model: the network.
        classes: number of its outputs.
    """
    if attached_module(model) is not None:
        return None
    if classes == 1:
        return (
            "it has one logit, and the softmax of one is always 1; give its classifier a row of zeros in front, "
            "for class 0, whose softmax is the sigmoid of this logit"
        )
    if is_projection(model, classes):
        return (
            f"its last layer projects into an embedding space of {classes} channels, which are no classes; "
            f"{_REMEDIES}; if these are classes, name them in label_names of its pretrained_cfg"
        )
    return None
