"""Images with objects, and how image format writes them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as rle


@dataclass(frozen=True)
class Drawn:
    """One image.

    Attributes:
        key: of it.
        objects: int [height, width], the number of the object at image pixel, from 1; 0 is none.
        ignore: bool [height, width]; nowhere on an object.
    """

    key: str
    objects: np.ndarray
    ignore: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.objects.shape
        return width, height

    @property
    def masks(self) -> list[np.ndarray]:
        return [self.objects == number for number in range(1, self.objects.max() + 1)]

    @property
    def boxes(self) -> list[list[int]]:
        pixels = [np.nonzero(mask) for mask in self.masks]
        return [[int(side) for side in (x.min(), y.min(), x.max(), y.max())] for y, x in pixels]


def write_coco(folder: Path, images: Sequence[Drawn], coded: bool = True) -> None:
    annotations = []
    for number, image in enumerate(images):
        for mask, (x0, y0, x1, y1) in zip(image.masks, image.boxes, strict=True):
            box = {"image_id": number, "bbox": [x0, y0, x1 - x0 + 1, y1 - y0 + 1], "iscrowd": 0}
            annotations.append(box | ({"segmentation": run_lengths(mask)} if coded else {}))
        if image.ignore.any():
            annotations.append({"image_id": number, "segmentation": run_lengths(image.ignore), "iscrowd": 1})
    records = [
        {"id": number, "file_name": f"{image.key}.jpg", "width": image.size[0], "height": image.size[1]}
        for number, image in enumerate(images)
    ]
    content = {
        "images": records,
        "annotations": [{"id": n, "category_id": 1} | a for n, a in enumerate(annotations, 1)],
    }
    (folder / "instances.json").write_text(json.dumps(content | {"categories": [{"id": 1, "name": "object"}]}))


def run_lengths(mask: np.ndarray) -> dict:
    coded = rle.encode(np.asfortranarray(mask, np.uint8))
    return {"size": coded["size"], "counts": coded["counts"].decode()}


def write_metadata(folder: Path, images: Sequence[Drawn], rows: list[str], sizes: bool) -> None:
    """Last lines have no end, as those of wsolevaluation."""
    (folder / "image_ids.txt").write_text("\n".join(f"{image.key}.JPEG" for image in images))
    (folder / "localization.txt").write_text("\n".join(rows))
    size_lines = [f"{image.key}.JPEG,{image.size[0]},{image.size[1]}" for image in images]
    (folder / "image_sizes.txt").write_text("\n".join(size_lines) if sizes else "")


def write_wsol_boxes(folder: Path, images: Sequence[Drawn]) -> None:
    rows = [f"{image.key}.JPEG,{','.join(map(str, box))}" for image in images for box in image.boxes]
    write_metadata(folder, images, rows, sizes=True)


def write_wsol_masks(folder: Path, images: Sequence[Drawn], sizes: bool = True) -> None:
    rows = []
    for image in images:
        save(folder / f"{image.key}_ignore.png", image.ignore)
        for number, mask in enumerate(image.masks):
            save(folder / f"{image.key}_{number}.png", mask)
            rows.append(f"{image.key}.JPEG,{image.key}_{number}.png,{'' if number else f'{image.key}_ignore.png'}")
    write_metadata(folder, images, rows, sizes)


def write_xml(folder: Path, images: Sequence[Drawn]) -> None:
    for image in images:
        boxes = "".join(
            f"<object><name>n1</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
            "</bndbox></object>"
            for x0, y0, x1, y1 in image.boxes
        )
        size = f"<size><width>{image.size[0]}</width><height>{image.size[1]}</height><depth>3</depth></size>"
        file = folder / f"{image.key}.xml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"<annotation><filename>%s</filename>{size}{boxes}</annotation>")


def write_table(folder: Path, images: Sequence[Drawn]) -> None:
    rows = [f"{image.key}.jpeg,{','.join(map(str, box))}" for image in images for box in image.boxes]
    (folder / "boxes.txt").write_text("\n".join(["image_id,x0,y0,x1,y1", *rows]))


def write_indexed(folder: Path, images: Sequence[Drawn]) -> None:
    for image in images:
        png = Image.fromarray(np.where(image.ignore, 255, image.objects).astype(np.uint8), "L").convert("P")
        save(folder / f"{image.key}.png", png)


def write_imagenet_s(folder: Path, images: Sequence[Drawn]) -> None:
    for image in images:
        code = np.where(image.ignore, 1000, 300 * image.objects)
        save(folder / f"{image.key}.png", np.stack([code % 256, code // 256, 0 * code], 2).astype(np.uint8))


def write_one_bit(folder: Path, images: Sequence[Drawn]) -> None:
    for image in images:
        save(folder / f"{image.key}.png", image.objects > 0)


def save(file: Path, image: np.ndarray | Image.Image) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, "PNG")


@dataclass(frozen=True)
class Writer:
    """How a format is written, and what of an image it can say.

    Attributes:
        format: its name in the registry.
        file: that is read, below the folder; None is the folder.
        write: writes images into a folder.
        masks, ignore, sizes: whether it says them.
        seen: what it can say of an image.
    """

    format: str
    write: Callable[[Path, Sequence[Drawn]], None]
    file: str = "."
    masks: bool = True
    ignore: bool = True
    sizes: bool = True
    seen: Callable[[Drawn], Drawn] = lambda drawn: drawn


WRITERS = {
    "COCO": Writer("coco", write_coco),
    "COCO of boxes": Writer("coco", lambda *of: write_coco(*of, coded=False), "instances.json", masks=False),
    "wsolevaluation, boxes": Writer("wsolevaluation", write_wsol_boxes, masks=False, ignore=False),
    "wsolevaluation, masks": Writer("wsolevaluation", write_wsol_masks),
    "wsolevaluation, masks without sizes": Writer(
        "wsolevaluation", lambda *of: write_wsol_masks(*of, sizes=False), sizes=False
    ),
    "table": Writer("table", write_table, "boxes.txt", masks=False, ignore=False, sizes=False),
    "ILSVRC": Writer("ilsvrc", write_xml, masks=False, ignore=False),
    "indexed PNG": Writer("png", write_indexed),
    "ImageNet-S": Writer("png", write_imagenet_s),
    "PNG of one bit": Writer(
        "png", write_one_bit, ignore=False, seen=lambda drawn: replace(drawn, objects=(drawn.objects > 0).astype(int))
    ),
}
"""Of every format of the registry at least one."""


def drawn(key: str = "n01/p0", width: int = 30, height: int = 20) -> Drawn:
    """Two objects of which one is a pixel, and a band that is ignored."""
    objects = np.zeros((height, width), int)
    objects[5:15, 10:20] = 1
    objects[0, width - 1] = 2
    ignore = np.zeros((height, width), bool)
    ignore[-2:] = True
    return Drawn(key, objects, ignore)
