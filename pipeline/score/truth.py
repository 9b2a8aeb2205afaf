"""What really is in the pictures: boxes and masks from a COCO file."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from pipeline.read.tar import key_of
from pipeline.score.localization import Boxes, resize_boxes
from schemas.errors import UsageError

INSTANCES = "instances.json"


@dataclass(frozen=True)
class Truth:
    """The objects of one picture.

    Attributes:
        key: of the picture, for what is wrong with it.
        width, height: of the picture, in pixels.
        annotations: as COCO has them.
    """

    key: str
    width: int
    height: int
    annotations: tuple[Mapping[str, Any], ...]

    @cached_property
    def _objects(self) -> tuple[Mapping[str, Any], ...]:
        return tuple(each for each in self.annotations if not each.get("iscrowd"))

    @property
    def boxes(self) -> Boxes:
        """int [m, 4] on the grid of the protocol: x0, y0, x1, y1, ends inclusive.

        Raises:
            UsageError: a box has no area, or none of it lies in the picture.
        """
        return resize_boxes(self.corners, self.width, self.height)

    @property
    def corners(self) -> Boxes:
        """The same in pixels of the picture."""
        return np.array([self._corners(each) for each in self._objects], np.int64).reshape(-1, 4)

    def _corners(self, annotation: Mapping[str, Any]) -> list[int]:
        try:
            x, y, width, height = (float(side) for side in annotation["bbox"])
            box = [x, y, x + width - 1, y + height - 1]
            whole = [round(min(max(side, 0), limit - 1)) for side, limit in zip(box, self._size * 2, strict=True)]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise self._wrong(annotation, "bbox", error) from None
        if not (width > 0 and height > 0 and x < self.width and y < self.height and x + width > 0 and y + height > 0):
            raise self._wrong(annotation, "bbox", "it has no area in the picture")
        return whole

    @property
    def _size(self) -> tuple[int, int]:
        return self.width, self.height

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """bool [height, width], union of the objects; None where one has a box only."""
        if not all(each.get("segmentation") for each in self._objects):
            return None
        return self._union(self._objects)

    @property
    def ignore(self) -> NDArray[np.bool_]:
        """bool [height, width]: crowd regions, which COCO leaves out of every count."""
        return self._union([each for each in self.annotations if each.get("iscrowd")])

    def _union(self, annotations: Iterable[Mapping[str, Any]]) -> NDArray[np.bool_]:
        union = np.zeros((self.height, self.width), bool)
        for each in annotations:
            try:
                union |= rle.decode(self._coded(each["segmentation"])).astype(bool)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise self._wrong(each, "segmentation", error) from None
        return union

    def _coded(self, segmentation: Any) -> Any:
        if isinstance(segmentation, list):  # polygons
            return rle.merge(rle.frPyObjects(segmentation, self.height, self.width))
        if list(segmentation["size"]) != [self.height, self.width]:
            raise ValueError(f"its size is {segmentation['size']}, not that of the picture")
        if isinstance(segmentation["counts"], list):  # run lengths without compression
            return rle.frPyObjects(segmentation, self.height, self.width)
        return segmentation

    def _wrong(self, annotation: Mapping[str, Any], field: str, why: object) -> UsageError:
        return UsageError(
            f"truth of {self.key}: the {field} of annotation {annotation.get('id')} cannot be used "
            f"({str(annotation.get(field))[:60]}: {why})"
        )


def read_truth(path: str | Path) -> dict[str, Truth]:
    """Truth by key, from a COCO file or a folder with ``instances.json``.

    A picture's key is its ``file_name`` up to the first dot of the base name, as in WebDataset.

    Raises:
        UsageError: there is no such file, or it is not COCO.
    """
    path = Path(path)
    file = path / INSTANCES if path.is_dir() else path
    try:
        content = json.loads(file.read_bytes())
        annotations: dict[int, list[Mapping[str, Any]]] = {}
        for each in content["annotations"]:
            annotations.setdefault(each["image_id"], []).append(each)
        truth: dict[str, Truth] = {}
        for image in content["images"]:
            key = key_of(image["file_name"])
            if key in truth:
                raise UsageError(f"{file}: two pictures have the key {key}")
            truth[key] = Truth(key, image["width"], image["height"], tuple(annotations.get(image["id"], ())))
        return truth
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file}: is not a COCO file of instances ({type(error).__name__}: {error})") from None
