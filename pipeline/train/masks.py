"""Where the object is in the pictures that are learnt from: masks, boxes, or what an atlas makes of its maps."""

from collections.abc import Iterable, Mapping
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
from pipeline.score.truth import INSTANCES, Truth
from pipeline.store import Atlas
from schemas.errors import UsageError
from schemas.layout import Flag
from schemas.policy import Policy
from schemas.record import sha256
from schemas.run import ShardRecord
from schemas.samples import Status
from schemas.training import MaskSpec

Maps = NDArray[np.float32]

PSEUDO = ".mask.png"
"""What ``vitatlas label`` calls its masks."""
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
            what = f"{sample.key}: its mask is {wrong} pixels, the picture {width}×{height}"
            raise UsageError(f"{what}; are these the masks of other tars?")
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
        about: what they are, with a hash, for the card.
        count: of how many pictures they are; None where that is every picture of the tars.
    """

    about: str
    count: int | None

    def __contains__(self, key: object) -> bool:
        """Whether there may be a mask of that key."""

    def of(self, tar: str, sample: Sample) -> Known | None:
        """What is known of a sample; None where nothing is."""


class TruthMasks:
    """Masks or boxes of a COCO file. An object with a box only makes the picture a boxed one."""

    def __init__(self, source: str) -> None:
        self._truth: Mapping[str, Truth] = {key: each for key, each in read_truth(source).items() if each.annotations}
        if not self._truth:
            raise UsageError(f"{source}: has no annotation of any picture")
        self.count: int | None = len(self._truth)
        file = Path(source) / INSTANCES if Path(source).is_dir() else Path(source)
        self.about = f"{file.name} {sha256(file.read_bytes())}"

    def __contains__(self, key: object) -> bool:
        return str(key).removeprefix("./") in self._truth

    def of(self, tar: str, sample: Sample) -> Known | None:
        truth = self._truth.get(sample.key.removeprefix("./"))
        if truth is None:
            return None
        mask = truth.mask
        if mask is not None and not mask.any():  # a crowd alone, which says nothing of single objects
            return None
        if mask is not None:
            return Known(mask, truth.ignore & ~mask)
        filled = np.zeros((truth.height, truth.width), bool)
        for x0, y0, x1, y1 in truth.corners.tolist():
            filled[y0 : y1 + 1, x0 : x1 + 1] = True
        return Known(filled, truth.ignore & ~filled, boxed=True)


class PngMasks:
    """A folder of PNGs, each named by its key, with or without the key's folders.

    Indexed or grey: 0 is background, 255 is ignored, all else is the object (VOC). RGB: R + 256 G is 0 for
    background, 1000 for ignored, else the object (ImageNet-S). One bit: 1 is the object.
    """

    def __init__(self, folder: str) -> None:
        files = sorted(Path(folder).rglob("*.png"))
        if not files:
            raise UsageError(f"{folder}: holds neither {INSTANCES} nor PNG masks")
        if any(file.name.endswith(PSEUDO) for file in files):
            raise UsageError(f"{folder}: holds pseudo-masks of vitatlas label; learn from them by --atlas and --policy")
        self._files = {key_of(file.relative_to(folder).as_posix()): file for file in files}
        self._bare: dict[str, list[Path]] = {}
        for file in files:
            self._bare.setdefault(key_of(file.name), []).append(file)
        self.count: int | None = len(files)
        hashes = [f"{file.relative_to(folder).as_posix()} {sha256(file.read_bytes())}" for file in files]
        self.about = f"{Path(folder).name} {sha256(chr(10).join(hashes).encode())}"

    def __contains__(self, key: object) -> bool:
        bare = str(key).removeprefix("./")
        return bare in self._files or bare in self._bare

    def _file(self, key: str) -> Path | None:
        key = key.removeprefix("./")
        if key in self._files:
            return self._files[key]
        found = self._bare.get(key, [])
        if len(found) > 1:
            raise UsageError(f"{found[0]} and {found[1]} are both masks of {key}")
        return found[0] if found else None

    def of(self, tar: str, sample: Sample) -> Known | None:
        file = self._file(sample.key)
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
    """What a policy makes of an atlas's maps: no locality label at all.

    Nothing is known of a picture whose mask is empty, is of another class than its label, or comes from a map that
    says nothing; and nothing of the part of a picture that the network did not see.
    """

    count: int | None = None

    def __init__(self, url: str, policy: Policy) -> None:
        self._atlas, self._policy = Atlas.open(url), policy
        if policy.method not in self._atlas.methods:
            raise UsageError(f"policy {policy.name}: {url} has no maps of {policy.method!r}")
        if policy.target not in self._atlas.run.spec.targets:
            raise UsageError(f"policy {policy.name}: {url} has no target {policy.target!r}")
        self.about = f"{policy.name} {policy.digest()} of atlas {self._atlas.run.spec_hash}"
        self._labels = lru_cache(maxsize=2)(self._read)

    def __contains__(self, key: object) -> bool:
        return True

    def check(self, shards: Iterable[ShardRecord]) -> None:
        """Refuse tars that the atlas has no maps of.

        Raises:
            UsageError: there is one, or it holds another number of samples.
        """
        for shard in shards:
            commit = self._atlas.commits.get(shard.tar)
            if commit is None or commit.rows != shard.samples:
                what = "has no maps of" if commit is None else f"has {commit.rows} samples, not {shard.samples}, of"
                url = self._atlas.objects.url
                raise UsageError(f"{url}: {what} {shard.tar}; make the atlas of the tars to learn from")

    def of(self, tar: str, sample: Sample) -> Known | None:
        values, bounds, flags, rows = self._labels(tar)
        place, row = sample.ordinal, rows[sample.ordinal]
        if row["key"] != sample.key:
            raise UsageError(f"{tar}: sample {place} is {sample.key}, in the atlas it is {row['key']}")
        if flags[place] != Flag.OK:
            return None
        frame = self._atlas.run.model.input_size
        label = make(values[place], bounds[place], row, frame, self._policy)
        if label.mask is None or label.status != Status.OK or label.class_index != sample.label:
            return None
        return Known(label.mask, ~_seen(row, frame))

    def _read(self, tar: str) -> tuple[Maps, Maps, NDArray[np.uint8], list[dict[str, Any]]]:
        part, of = self._atlas.tar(tar), (self._policy.method, self._policy.target)
        return part.maps(*of), part.ranges(*of), part.flags(*of), part.samples.to_pylist()


def _seen(row: Mapping[str, Any], frame: tuple[int, int]) -> NDArray[np.bool_]:
    """Where the network saw a picture: bool [height, width]. Frame: height and width of its input."""
    sides = [
        (np.arange(row[length]) + 0.5 - row[f"offset_{axis}"]) / row[f"scale_{axis}"]
        for length, axis in (("height", "y"), ("width", "x"))
    ]
    rows, columns = ((side >= 0) & (side <= limit) for side, limit in zip(sides, frame, strict=True))
    return rows[:, None] & columns[None, :]


def masks(spec: MaskSpec) -> Masks:
    """The masks that a spec names.

    Raises:
        UsageError: it names none, or several; or they cannot be read.
    """
    if spec.truth is not None and (spec.atlas or spec.policy):
        raise UsageError("--masks are labels, --atlas and --policy make pseudo-masks instead; give one of the two")
    if spec.truth is not None:
        return truth_masks(spec.truth)
    if spec.atlas is None:
        raise UsageError("say where the object is: --masks FILE|DIR, or --atlas ATLAS with --policy FILE")
    if spec.policy is None:
        raise UsageError(f"{spec.atlas}: say how its maps become masks, with --policy FILE")
    return PseudoMasks(spec.atlas, read_policy(spec.policy))


def truth_masks(source: str) -> Masks:
    """Masks of a COCO file, a folder with ``instances.json``, or a folder of PNGs."""
    path = Path(source)
    if path.is_dir() and not (path / INSTANCES).exists():
        return PngMasks(source)
    return TruthMasks(source)
