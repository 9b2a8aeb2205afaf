"""What really is in the pictures: boxes and masks from a COCO file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from pipeline.read.tar import key_of
from pipeline.score.localization import Boxes, resize_boxes, resize_mask
from schemas.errors import UsageError

INSTANCES = "instances.json"


@dataclass(frozen=True)
class Truth:
    """The objects of one picture.

    Attributes:
        width, height: of the picture, in pixels.
        annotations: as COCO has them.
    """

    width: int
    height: int
    annotations: tuple[Mapping[str, Any], ...]

    @cached_property
    def _objects(self) -> tuple[Mapping[str, Any], ...]:
        return tuple(each for each in self.annotations if not each.get("iscrowd"))

    @property
    def boxes(self) -> Boxes:
        """int [m, 4] on the grid of the protocol: x0, y0, x1, y1, ends inclusive."""
        corners = np.array([each["bbox"] for each in self._objects], np.float64).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2] - 1
        return resize_boxes(corners.round().astype(np.int64), self.width, self.height)

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """bool [height, width], union of the objects; None where one has a box only."""
        if not all("segmentation" in each for each in self._objects):
            return None
        return self._union(self._objects)

    @property
    def ignore(self) -> NDArray[np.bool_]:
        """bool [height, width]: crowd regions, which COCO leaves out of every count."""
        return self._union([each for each in self.annotations if each.get("iscrowd")])

    def on_grid(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mask of this picture on the grid of the protocol."""
        return resize_mask(mask)

    def _union(self, annotations: Any) -> NDArray[np.bool_]:
        union = np.zeros((self.height, self.width), bool)
        for each in annotations:
            union |= rle.decode(self._coded(each["segmentation"])).astype(bool)
        return union

    def _coded(self, segmentation: Any) -> Any:
        if isinstance(segmentation, list):  # polygons
            return rle.merge(rle.frPyObjects(segmentation, self.height, self.width))
        if isinstance(segmentation["counts"], list):  # run lengths without compression
            return rle.frPyObjects(segmentation, self.height, self.width)
        return segmentation


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
        return {
            key_of(image["file_name"]): Truth(image["width"], image["height"], tuple(annotations.get(image["id"], ())))
            for image in content["images"]
        }
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file}: is not a COCO file of instances ({type(error).__name__}: {error})") from None
