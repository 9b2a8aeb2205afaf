"""What an explainer with weights of its own says of itself, in the metadata of its safetensors file."""

from typing import Literal

from schemas.base import Record
from schemas.run import Geometry, Precision

CARD = "card"
"""Key of the card in the metadata."""


class Card(Record):
    """Where an artefact comes from. Every number in it was measured, none is asked for.

    Attributes:
        format: version of this record.
        method: which explainer it is for.
        provenance: which definition it follows.
        model: name of the network it was trained on.
        weights: hash of that network's tensors; it is refused for any other.
        settings: hyper-parameters.
        supervision: what was given beside the images.
        data: the shards it learnt from.
        steps, batch_size, workers, precision, geometry, seed: of the training; images of a step are the product of
            batch size and workers.
        training: hash of all that decided what was learnt, so that the same command finds it done.
        figures: what it reached on held-out images.
    """

    format: Literal[1] = 1
    method: Literal["diffmask", "pm"]
    provenance: str
    model: str
    weights: str
    settings: dict[str, str | int | float]
    supervision: str = "none"
    data: tuple[str, ...]
    steps: int
    batch_size: int
    workers: int = 1
    precision: Precision = "full"
    geometry: Geometry = "squash"
    seed: int
    training: str = ""
    figures: dict[str, float]
