"""What the network saw, as small pictures."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.read import Decoders, Frame, batches
from pipeline.store import Atlas, Tar
from schemas.errors import BadTar

SIDE = 128
"""Longest side of a thumbnail, in pixels."""
_BATCH = 32
_QUALITY = 80


def thumbnails(atlas: Atlas, part: Tar, ordinals: Sequence[int]) -> dict[int, bytes]:
    """JPEGs of some pictures of a tar, by ordinal: the network's input, so that a map lies on it edge to edge.

    Raises:
        BadTar: the tar cannot be read, or its pictures are not those that the atlas has maps of.
    """
    run, shard, wanted = atlas.run, atlas.run.shards[part.commit.tar_index], set(ordinals)
    frame, hashes = Frame.of(run.model, run.spec.geometry), part.samples["image_sha256"].to_pylist()
    found: dict[int, bytes] = {}
    with Decoders(0) as decoders:
        for batch in batches(
            shard, run.slot, frame, _BATCH, None, decoders, only=lambda sample: sample.ordinal in wanted
        ):
            for sample, pixels in zip(batch.samples, batch.pixels, strict=True):
                if sample.ordinal in wanted:
                    if sample.picture is None or sample.picture.sha256 != hashes[sample.ordinal]:
                        raise BadTar(f"{shard.url}: {sample.key} is not the picture that the atlas has maps of")
                    found[sample.ordinal] = _thumbnail(pixels)
    if len(found) < len(wanted):
        raise BadTar(f"{shard.url}: has not all the samples that the atlas has maps of; is it another tar?")
    return found


def _thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    """A picture [3, H, W] as JPEG."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()
