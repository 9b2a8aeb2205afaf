"""A text tower: the half of an image–text model that embeds texts, in files on this machine."""

import os
from typing import Literal, Self

from pydantic import model_validator

from schemas.base import Record
from schemas.errors import UsageError


class TextTowerSpec(Record):
    """Where a text tower is, and the hash of what it was.

    Attributes:
        library: what builds it: ``open_clip``, or ``hugging_face`` for ``transformers``.
        name: architecture that open_clip knows, such as ``ViT-B-16``, or ``local-dir:`` and a folder with an
            ``open_clip_config.json``; for ``hugging_face`` the folder of a CLIP or SigLIP model.
        weights: weights file of an architecture; a folder has its own.
        sha256: of the files that decide the embeddings. Empty accepts any; a loaded tower has it.
    """

    library: Literal["open_clip", "hugging_face"]
    name: str
    weights: str | None = None
    sha256: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.folder is None and self.weights is None:
            raise ValueError(f"{self.name} has no weights; give them with --weights FILE")
        if self.folder is not None and self.weights is not None:
            raise ValueError(f"{self.name} has its own weights; leave out --weights")
        return self

    @property
    def folder(self) -> str | None:
        """Folder of the tower; None where it has a weights file."""
        if self.library == "hugging_face":
            return self.name
        return self.name.removeprefix("local-dir:") if self.name.startswith("local-dir:") else None

    def absolute(self) -> Self:
        """Return the spec with absolute paths, which mean the same in every process."""
        prefix = "local-dir:" if self.name.startswith("local-dir:") else ""
        name = self.name if self.folder is None else prefix + os.path.abspath(self.folder)
        weights = os.path.abspath(self.weights) if self.weights else None
        return self.model_copy(update={"name": name, "weights": weights})

    @classmethod
    def of_flags(cls, open_clip: str | None, weights: str | None, hugging_face: str | None) -> Self:
        """Return the spec that the flags of a command describe, with absolute paths.

        Args:
            open_clip: architecture, or ``local-dir:`` and a folder.
            weights: weights file of the architecture.
            hugging_face: folder.

        Raises:
            UsageError: there is no tower or there are two, or the weights do not belong to it.
        """
        if bool(open_clip) == bool(hugging_face):
            raise UsageError("name one text tower: --open-clip NAME --weights FILE, or --hugging-face DIR")
        library = "hugging_face" if hugging_face else "open_clip"
        content = {"library": library, "name": hugging_face or open_clip, "weights": weights or None}
        return cls.read(content, "flags").absolute()
