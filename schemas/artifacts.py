"""The record in the metadata of an artifact: the safetensors file with the weights of a learned method."""

from typing import Literal

from schemas.base import Record
from schemas.run import Geometry, Precision

METADATA_KEY = "record"
"""Key of the record in the safetensors metadata."""


class ArtifactRecord(Record):
    """Origin of an artifact. All numbers in it are measured.

    Attributes:
        format: version of this record.
        method: learned method that the weights are for.
        provenance: name of the definition that the training follows.
        model: name of the network that it was trained on.
        weights: hash of the tensors of that network; the artifact is refused for any other network.
        backbone: hash of those of its tensors that are not its head file's; None without a head file.
        head: hash of its head file, as in ``AttachedHead``; the artifact is refused for any other head.
        readout: read-out of that network, since networks with different ones may have the same tensors; None in older
            files.
        settings: hyper-parameters.
        supervision: supervision besides the images, such as labels or masks.
        shards: names of the training shards.
        steps: training steps.
        batch_size: images of a step on each worker.
        workers: number of workers.
        precision: precision of the network.
        geometry: as in ``RunSpec``.
        seed: random seed of the training.
        training_hash: hash of all that decides the result, so that the same command finds it done.
        metrics: values on held-out images by name.
        warnings: what the metrics say against the use of the weights, a sentence each.
    """

    format: Literal[1] = 1
    method: Literal["diffmask", "pm", "tscam"]
    provenance: str
    model: str
    weights: str
    backbone: str | None = None
    head: str | None = None
    readout: str | None = None
    settings: dict[str, str | int | float]
    supervision: str = "none"
    shards: tuple[str, ...]
    steps: int
    batch_size: int
    workers: int = 1
    precision: Precision = "full"
    geometry: Geometry = "squash"
    seed: int
    training_hash: str = ""
    metrics: dict[str, float]
    warnings: tuple[str, ...] = ()
