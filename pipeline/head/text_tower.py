"""Embedding of texts in the space that they share with images."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.head.tower_parts import ImageSide, TowerParts
from schemas.errors import UsageError
from schemas.head import Activation
from schemas.text import shorten
from schemas.text_tower import TextTowerSpec

BATCH = 256
"""Texts in one forward of ``TextTower.embed``."""

_DECISIVE = (".json", ".safetensors", ".bin", ".pth", ".pt", ".txt", ".model")
"""Endings of the files in a model folder that decide an embedding: weights, configs, tokenizer."""


class TextTower:
    """The tower of an image–text model that embeds texts.

    Attributes:
        spec: what it was loaded from, with the hash of that.
        context: number of tokens that it reads, those at the ends included.
    """

    def __init__(self, spec: TextTowerSpec, parts: TowerParts) -> None:
        self.spec, self.context = spec, parts.context
        self._parts = parts

    @classmethod
    def load(cls, spec: TextTowerSpec, device: str = "cpu") -> Self:
        """Load a tower, in float32. Nothing is downloaded, and no code of the files is run.

        Args:
            spec: where it is. A hash that is given must be that of the files.
            device: where it computes.

        Raises:
            UsageError: it cannot be loaded, or is another than the hash says.
        """
        digest = _digest(spec)
        if spec.sha256 not in ("", digest):
            raise UsageError(
                f"{spec.name}: its files have changed since the tower was used first ({spec.sha256[:19]}…, now "
                f"{digest[:19]}…); restore them, or begin anew"
            )
        if spec.library == "open_clip":
            from pipeline.head.open_clip_tower import load_open_clip as load
        else:
            from pipeline.head.hugging_face_tower import load_hugging_face as load
        parts = load(spec)
        parts.model.to(device)
        return cls(spec.model_copy(update={"sha256": digest}), parts)

    @property
    def image_side(self) -> ImageSide:
        """The tower of the images, as a head file describes it.

        Raises:
            UsageError: there is no head file for such a tower.
        """
        return self._parts.image_side()

    @property
    def logit_scale(self) -> Tensor:
        """Factor of the similarity in a logit, a scalar."""
        return self._parts.model.logit_scale.detach().exp().reshape(()).cpu()  # type: ignore[operator]

    @property
    def logit_bias(self) -> Tensor | None:
        """Summand of a logit, a scalar; None for a softmax."""
        bias = getattr(self._parts.model, "logit_bias", None)
        return None if bias is None else bias.detach().reshape(()).cpu()

    @property
    def activation(self) -> Activation:
        """What the model was trained with: the sigmoid of SigLIP has a bias, the softmax of CLIP needs none."""
        return "softmax" if self.logit_bias is None else "sigmoid"

    def fault(self, text: str) -> str | None:
        """Return why a text cannot be embedded, or None: it is empty, or longer than the context."""
        if not text.strip():
            return "is empty"
        if (tokens := self._parts.count(text)) > self.context:
            return f"has {tokens} tokens, and the text tower reads {self.context}; shorten it"
        return None

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Compute the unit embeddings of texts: float32 [n, E], on the CPU.

        Raises:
            UsageError: a text cannot be embedded, see ``fault``; it is named.
        """
        for text in texts:
            if reason := self.fault(text):
                raise UsageError(f"{shorten(text)!r} {reason}")
        if not texts:
            raise UsageError("there is no text to embed")
        return torch.cat([self._encode(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)])

    def _encode(self, texts: Sequence[str]) -> Tensor:
        with torch.no_grad():
            embeddings = F.normalize(self._parts.encode(texts), dim=-1).cpu()
        if not embeddings.isfinite().all():
            raise UsageError(f"{self.spec.name}: gives embeddings that are not finite; its weights are damaged")
        return embeddings


def _digest(spec: TextTowerSpec) -> str:
    """Compute SHA-256 over the library, the architecture, and the decisive files: name and bytes of each."""
    digest = hashlib.sha256(f"{spec.library}\0{'' if spec.folder else spec.name}".encode())
    for name, path in _files(spec):
        try:
            with path.open("rb") as file:
                digest.update(f"\0{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror or error}; check the path") from None
    return f"sha256:{digest.hexdigest()}"


def _files(spec: TextTowerSpec) -> Iterator[tuple[str, Path]]:
    if spec.folder is None:
        yield "", Path(str(spec.weights))
        return
    try:
        names = sorted(os.listdir(spec.folder))
    except OSError as error:
        raise UsageError(f"{spec.folder}: {error.strerror or error}; name the folder of a model") from None
    yield from ((name, Path(spec.folder, name)) for name in names if name.endswith(_DECISIVE))
