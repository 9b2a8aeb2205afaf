"""What methods with weights of their own share: an artefact, and the network that it was made for."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pipeline.explain import artifacts
from pipeline.explain.anatomy import Anatomy
from pipeline.explain.artifacts import Artifact
from pipeline.explain.method import Method
from schemas.errors import UsageError


@dataclass(frozen=True)
class LearnedMethod(Method):
    """Base of such methods. The file is no part of the name; its hash stands in ``run.json``.

    Options:
        artifact: safetensors file of ``vitatlas train``.
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
        """The method with the artefact of a file.

        Raises:
            UsageError: there is no such file, or it is not of this method.
        """
        method = cls(artifact=str(file))
        method.check()
        return method

    def check(self) -> None:
        """Refuse a file that is not an artefact of this method.

        Raises:
            UsageError: it is not; the message says why.
        """
        card = self.learned.record
        if card is not None and card.method != self.base_name:
            raise UsageError(f"{self.artifact}: is an artefact of {card.method}, not of {self.base_name}")

    @property
    def learned(self) -> Artifact:
        """What the file holds."""
        return artifacts.read_artifact(self.artifact)

    @property
    def trained_on(self) -> str | None:
        card = self.learned.record if self.artifact else None
        return card.weights if card else None

    @property
    def artifact_hash(self) -> str | None:
        return self.learned.digest if self.artifact else None

    @property
    def design(self) -> str:
        card = self.learned.record if self.artifact else None
        return card.provenance if card else self.provenance

    def unsupported(self, anatomy: Anatomy) -> str | None:
        if not self.artifact:
            return (
                f"it needs a file that was trained for the network: {self.base_name}:artifact=FILE, or --artifact FILE"
            )
        self.check()
        return None
