"""Where the object is in the pictures that are learnt from: masks, boxes, or what an atlas makes of its maps."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pipeline.label.make import read_policy
from pipeline.label.mask import make
from pipeline.read import Frame, Sample
from pipeline.read.tar import key_of
from pipeline.score import read_truth
from pipeline.score.truth import Truth
from pipeline.store import Atlas
from schemas.errors import UsageError
from schemas.policy import Policy
from schemas.training import MaskSpec

OTHER, IGNORE_VOC, IGNORE_IMAGENET_S = 0, 255, 1000


@dataclass(frozen=True)
class Known:
    """What is known of one picture.

    Attributes:
        object: bool [height, width] in its own pixels.
        ignore: the same; True where nothing is known.
        boxed: ``object`` is filled boxes, so a pixel in it may be of the ground.
    """

    object: NDArray[np.bool_]
    ignore: NDArray[np.bool_]
    boxed: bool = False

    def planes(self, sample: Sample, frame: Frame) -> NDArray[np.uint8]:
        """Object and ignored area of each pixel of the frame: uint8 [2, H, W], 255 is all of it.

        Raises:
            UsageError: the mask is of another size than the picture.
        """
        assert sample.picture is not None, "a sample without a picture has no frame"
        width, height = sample.picture.width, sample.picture.height
        if self.object.shape != (height, width):
            wrong = f"{self.object.shape[1]}×{self.object.shape[0]}"
            raise UsageError(f"{sample.key}: its mask is {wrong} pixels, the picture {width}×{height}")
        placement = sample.picture.placement
        cut = (slice(placement.top, placement.top + frame.height), slice(placement.left, placement.left + frame.width))
        planes = [
            cv2.resize(plane.astype(np.uint8) * 255, placement.size, interpolation=cv2.INTER_AREA)[cut]
            for plane in (self.object & ~self.ignore, self.ignore)
        ]
        return np.stack(planes)


class Masks(Protocol):
    """Masks by key.

    Attributes:
        about: what they are, for the card.
        local: whether they are locality labels, which a person has drawn.
        keys: of the pictures that they are of, or None where that is every picture of the tars.
    """

    about: str
    local: bool
    keys: Collection[str] | None

    def of(self, tar: str, sample: Sample) -> Known | None:
        """What is known of a sample; None where nothing is."""


class TruthMasks:
    """Masks or boxes of a COCO file. An object with a box only makes the picture a boxed one."""

    local = True

    def __init__(self, source: str) -> None:
        self._truth: Mapping[str, Truth] = {key: each for key, each in read_truth(source).items() if each.annotations}
        self.keys: Collection[str] | None = self._truth.keys()
        self.about = Path(source).name

    def of(self, tar: str, sample: Sample) -> Known | None:
        truth = self._truth.get(sample.key)
        if truth is None:
            return None
        mask = truth.mask
        if mask is not None:
            return Known(mask, truth.ignore & ~mask)
        filled = np.zeros((truth.height, truth.width), bool)
        for x0, y0, x1, y1 in truth.corners.tolist():
            filled[y0 : y1 + 1, x0 : x1 + 1] = True
        return Known(filled, truth.ignore & ~filled, boxed=True)


class PngMasks:
    """A folder of PNGs, each named by its key, in any subfolders.

    Indexed or grey: 0 is background, 255 is ignored, all else is the object (VOC). RGB: R + 256 G is 0 for
    background, 1000 for ignored, else the object (ImageNet-S). One bit: 1 is the object.
    """

    local = True

    def __init__(self, folder: str) -> None:
        self._files: dict[str, Path] = {}
        for file in sorted(Path(folder).rglob("*.png")):
            key = key_of(file.name)
            if key in self._files:
                raise UsageError(f"{folder}: {self._files[key]} and {file} are both masks of {key}")
            self._files[key] = file
        if not self._files:
            raise UsageError(f"{folder}: holds neither instances.json nor PNG masks")
        self.keys: Collection[str] | None = self._files.keys()
        self.about = Path(folder).name

    def of(self, tar: str, sample: Sample) -> Known | None:
        file = self._files.get(sample.key)
        if file is None:
            return None
        try:
            with Image.open(file) as image:
                mode, values = image.mode, np.asarray(image)
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
            raise UsageError(f"{file}: cannot be read as a PNG ({error})") from None
        if mode == "1":
            return Known(values, np.zeros_like(values))
        if mode in ("P", "L"):
            if set(np.unique(values)) == {OTHER, IGNORE_VOC}:
                raise UsageError(f"{file}: has 0 and 255 alone, and 255 means ignored; write the object as 1")
            ignore = values == IGNORE_VOC
        elif mode == "RGB":
            values = values[..., 0].astype(np.int64) + 256 * values[..., 1].astype(np.int64)
            ignore = values == IGNORE_IMAGENET_S
        else:
            raise UsageError(f"{file}: is a PNG of mode {mode}; it can be indexed, grey, RGB or of one bit")
        return Known((values != OTHER) & ~ignore, ignore)


class PseudoMasks:
    """What a policy makes of an atlas's maps: no locality label at all."""

    local = False
    keys: Collection[str] | None = None

    def __init__(self, url: str, policy: Policy) -> None:
        self._atlas, self._policy = Atlas.open(url), policy
        if policy.method not in self._atlas.methods:
            raise UsageError(f"policy {policy.name}: {url} has no maps of {policy.method!r}")
        self.about = f"{policy.name} {policy.digest()} of atlas {self._atlas.run.spec_hash}"
        self._tar = lru_cache(maxsize=2)(self._read)

    def check(self, tars: Collection[str]) -> None:
        """Refuse tars that the atlas has no maps of."""
        if missing := [tar for tar in tars if tar not in self._atlas.commits]:
            raise UsageError(
                f"{self._atlas.objects.url}: has no maps of {missing[0]}; make the atlas of the tars to learn from"
            )

    def of(self, tar: str, sample: Sample) -> Known | None:
        maps, ranges, rows = self._tar(tar)
        row = rows[sample.ordinal]
        if row["key"] != sample.key:
            raise UsageError(f"{tar}: sample {sample.ordinal} is {sample.key}, in the atlas it is {row['key']}")
        label = make(maps[sample.ordinal], ranges[sample.ordinal], row, self._atlas.run.model.input_size, self._policy)
        return None if label.mask is None else Known(label.mask, np.zeros_like(label.mask))

    def _read(self, tar: str) -> tuple[NDArray[np.float32], NDArray[np.float32], list[dict[str, Any]]]:
        part = self._atlas.tar(tar)
        method, target = self._policy.method, self._policy.target
        return part.maps(method, target), part.ranges(method, target), part.samples.to_pylist()


def masks(spec: MaskSpec) -> Masks:
    """The masks that a spec names.

    Raises:
        UsageError: it names none, or several; or they cannot be read.
    """
    if (spec.truth is None) == (spec.atlas is None):
        raise UsageError("say where the object is: --masks FILE|DIR, or --atlas ATLAS with --policy FILE")
    if spec.truth is not None:
        return truth_masks(spec.truth)
    assert spec.atlas is not None, "one of the two is there"
    if spec.policy is None:
        raise UsageError(f"{spec.atlas}: say how its maps become masks, with --policy FILE")
    return PseudoMasks(spec.atlas, read_policy(spec.policy))


def truth_masks(source: str) -> Masks:
    """Masks of a COCO file, a folder with ``instances.json``, or a folder of PNGs."""
    path = Path(source)
    if path.is_dir() and not (path / "instances.json").exists():
        return PngMasks(source)
    return TruthMasks(source)
