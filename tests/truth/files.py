"""Pictures with objects, and how each format writes them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as rle


@dataclass(frozen=True)
class Drawn:
    """One picture.

    Attributes:
        key: of it.
        objects: int [height, width], the number of the object at each pixel, from 1; 0 is none.
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
        found = [np.nonzero(mask) for mask in self.masks]
        return [[int(side) for side in (x.min(), y.min(), x.max(), y.max())] for y, x in found]


def write_coco(folder: Path, pictures: Sequence[Drawn], coded: bool = True) -> None:
    annotations = []
    for number, each in enumerate(pictures):
        for mask, (x0, y0, x1, y1) in zip(each.masks, each.boxes, strict=True):
            box = {"image_id": number, "bbox": [x0, y0, x1 - x0 + 1, y1 - y0 + 1], "iscrowd": 0}
            annotations.append(box | ({"segmentation": run_lengths(mask)} if coded else {}))
        if each.ignore.any():
            annotations.append({"image_id": number, "segmentation": run_lengths(each.ignore), "iscrowd": 1})
    images = [
        {"id": number, "file_name": f"{each.key}.jpg", "width": each.size[0], "height": each.size[1]}
        for number, each in enumerate(pictures)
    ]
    content = {"images": images, "annotations": [{"id": n, "category_id": 1} | a for n, a in enumerate(annotations, 1)]}
    (folder / "instances.json").write_text(json.dumps(content | {"categories": [{"id": 1, "name": "object"}]}))


def run_lengths(mask: np.ndarray) -> dict:
    coded = rle.encode(np.asfortranarray(mask, np.uint8))
    return {"size": coded["size"], "counts": coded["counts"].decode()}


def write_metadata(folder: Path, pictures: Sequence[Drawn], rows: list[str], sizes: bool) -> None:
    """Last lines have no end, as those of wsolevaluation."""
    (folder / "image_ids.txt").write_text("\n".join(f"{each.key}.JPEG" for each in pictures))
    (folder / "localization.txt").write_text("\n".join(rows))
    said = [f"{each.key}.JPEG,{each.size[0]},{each.size[1]}" for each in pictures]
    (folder / "image_sizes.txt").write_text("\n".join(said) if sizes else "")


def write_wsol_boxes(folder: Path, pictures: Sequence[Drawn]) -> None:
    rows = [f"{each.key}.JPEG,{','.join(map(str, box))}" for each in pictures for box in each.boxes]
    write_metadata(folder, pictures, rows, sizes=True)


def write_wsol_masks(folder: Path, pictures: Sequence[Drawn], sizes: bool = True) -> None:
    rows = []
    for each in pictures:
        save(folder / f"{each.key}_ignore.png", each.ignore)
        for number, mask in enumerate(each.masks):
            save(folder / f"{each.key}_{number}.png", mask)
            rows.append(f"{each.key}.JPEG,{each.key}_{number}.png,{'' if number else f'{each.key}_ignore.png'}")
    write_metadata(folder, pictures, rows, sizes)


def write_xml(folder: Path, pictures: Sequence[Drawn]) -> None:
    for each in pictures:
        boxes = "".join(
            f"<object><name>n1</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
            "</bndbox></object>"
            for x0, y0, x1, y1 in each.boxes
        )
        size = f"<size><width>{each.size[0]}</width><height>{each.size[1]}</height><depth>3</depth></size>"
        file = folder / f"{each.key}.xml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"<annotation><filename>%s</filename>{size}{boxes}</annotation>")


def write_table(folder: Path, pictures: Sequence[Drawn]) -> None:
    rows = [f"{each.key}.jpeg,{','.join(map(str, box))}" for each in pictures for box in each.boxes]
    (folder / "boxes.txt").write_text("\n".join(["image_id,x0,y0,x1,y1", *rows]))


def write_indexed(folder: Path, pictures: Sequence[Drawn]) -> None:
    for each in pictures:
        image = Image.fromarray(np.where(each.ignore, 255, each.objects).astype(np.uint8), "L").convert("P")
        save(folder / f"{each.key}.png", image)


def write_imagenet_s(folder: Path, pictures: Sequence[Drawn]) -> None:
    for each in pictures:
        code = np.where(each.ignore, 1000, 300 * each.objects)
        save(folder / f"{each.key}.png", np.stack([code % 256, code // 256, 0 * code], 2).astype(np.uint8))


def write_one_bit(folder: Path, pictures: Sequence[Drawn]) -> None:
    for each in pictures:
        save(folder / f"{each.key}.png", each.objects > 0)


def save(file: Path, image: np.ndarray | Image.Image) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, "PNG")


@dataclass(frozen=True)
class Writer:
    """How a format is written, and what of a picture it can say.

    Attributes:
        format: its name in the registry.
        file: that is read, below the folder; None is the folder.
        write: writes pictures into a folder.
        masks, ignore, sizes: whether it says them.
        seen: what it can say of a picture.
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
