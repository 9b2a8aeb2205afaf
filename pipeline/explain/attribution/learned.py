"""Base of methods with trained weights, which they read from an artifact."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pipeline.explain.anatomy import Anatomy
from pipeline.explain.artifacts import Artifact, read_artifact
from pipeline.explain.method import Method, constant_probability_fault
from schemas.errors import UsageError


@dataclass(frozen=True)
class LearnedMethod(Method):
    """Base of methods with trained weights. The file is not part of the name; its hash is in ``run.json``.

    Options:
        artifact: safetensors file that ``vitatlas train`` wrote.
    """

    default = False
    hidden_options = ("artifact",)

    artifact: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.artifact:  # the same file from every folder, and in every worker of a run
            object.__setattr__(self, "artifact", os.path.abspath(self.artifact))

    @classmethod
    def load(cls, file: str | Path) -> Self:
        """Make the method from the artifact in a file.

        Raises:
            UsageError: there is no such file, or it belongs to another method.
        """
        method = cls(artifact=str(file))
        method.check_artifact()
        return method

    def check_artifact(self) -> None:
        """Refuse a file that is not an artifact of this method.

        Raises:
            UsageError: it is not; the message says why.
        """
        record = self.loaded_artifact.record
        if record is not None and record.method != self.base_name:
            raise UsageError(f"{self.artifact}: is an artifact of {record.method}, not of {self.base_name}")

    @property
    def loaded_artifact(self) -> Artifact:
        """Contents of the file."""
        return read_artifact(self.artifact)

    @property
    def trained_on(self) -> str | None:
        record = self.loaded_artifact.record if self.artifact else None
        return record.weights if record else None

    @property
    def artifact_hash(self) -> str | None:
        return self.loaded_artifact.digest if self.artifact else None

    @property
    def design(self) -> str:
        record = self.loaded_artifact.record if self.artifact else None
        return record.provenance if record else self.provenance

    def unsupported(self, anatomy: Anatomy) -> str | None:
        if not self.artifact:
            return (
                f"it needs a file that was trained for the network: {self.base_name}:artifact=FILE, or --artifact FILE"
            )
        self.check_artifact()
        record = self.loaded_artifact.record
        if record is not None and record.readout not in (None, anatomy.readout):
            return f"it was trained for the read-out {record.readout}, and this model has {anatomy.readout}"
        if record is not None and record.head != anatomy.head:
            trained, own = (
                f"the head {head[:19]}…" if head else "no head file" for head in (record.head, anatomy.head)
            )
            return f"it was trained with {trained}, and this model has {own}; train it for this one"
        return constant_probability_fault(anatomy)
