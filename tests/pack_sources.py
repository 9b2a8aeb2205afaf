"""Small copies of public datasets, in the exact form of their folders; and what a pack of them holds."""

import csv
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as rle
from scipy.io import savemat
from support import encode, jpeg

from pipeline.truth import read_truth

SIZE = (40, 30)
DEVKIT_ORDER = ["n02119789", "n01440764", "n02100735"]
"""WordNet ids of the class ids 1, 2, 3 of the development kit; in sorted order they are 2, 0, 1."""


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def voc_xml(objects: list[tuple[str, tuple[int, ...]]], size: tuple[int, int] = SIZE, filename: str = "%s") -> str:
    boxes = "".join(
        f"<object><name>{name}</name><difficult>{int(name == 'sofa')}</difficult><bndbox><xmin>{b[0]}</xmin>"
        f"<ymin>{b[1]}</ymin><xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
        for name, b in objects
    )
    shape = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{filename}</filename>{shape}{boxes}</annotation>"


def image_folder(root: Path) -> Path:
    for number, name in enumerate(["a cat", "Zebra", "dög#2"]):
        for index in range(2):
            write(root / name / f"img {index}.v1.JPG", jpeg(10 * number + index))
    (root / "empty").mkdir()
    return root


def cub(root: Path) -> Path:
    names = [
        "001.Black_footed_Albatross/A_0001_1.jpg",
        "001.Black_footed_Albatross/A_0002_2.jpg",
        "002.Ani/B_0001_3.jpg",
    ]
    write(root / "images.txt", "".join(f"{i} {name}\n" for i, name in enumerate(names, 1)))
    write(root / "image_class_labels.txt", "1 1\n2 1\n3 2\n")
    write(root / "classes.txt", "1 001.Black_footed_Albatross\n2 002.Ani\n")
    write(root / "train_test_split.txt", "1 0\n2 1\n3 0\n")
    write(root / "bounding_boxes.txt", "1 6.5 2.2 20.4 15.1\n2 1.0 1.0 5.0 5.0\n3 1.0 3.0 39.0 27.0\n")
    for index, name in enumerate(names):
        write(root / "images" / name, jpeg(index, SIZE))
        soft = np.zeros(SIZE[::-1], np.uint8)
        soft[5:15, 8:20] = 204
        soft[15:18, 8:20] = 102  # two of five annotators
        write(root / "segmentations" / Path(name).with_suffix(".png"), encode(Image.fromarray(soft), "PNG"))
    return root


def imagenet(root: Path, layout: str) -> Path:
    """``folders``, ``flat`` (validation with the development kit), ``tar`` or ``kaggle``."""
    val = [("ILSVRC2012_val_00000001", 2), ("ILSVRC2012_val_00000002", 1), ("ILSVRC2012_val_00000003", 3)]
    boxes = root / ("Annotations/CLS-LOC/val" if layout == "kaggle" else "ILSVRC2012_bbox_val_v3/val")
    for number, (name, _) in enumerate(val):
        named = ("%s", "n01440764_9", name)[number]  # the name in the file is no name of the image
        write(boxes / f"{name}.xml", voc_xml([(DEVKIT_ORDER[number], (0, 3, 10 + number, 29))], filename=named))
    if layout == "kaggle":
        rows = [[name, f"{DEVKIT_ORDER[label - 1]} 0 3 10 29 "] for name, label in val]
        text = io.StringIO()
        csv.writer(text).writerows([["ImageId", "PredictionString"], *rows])
        write(root / "LOC_val_solution.csv", text.getvalue())
        write(root / "LOC_synset_mapping.txt", "".join(f"{name} some name\n" for name in sorted(DEVKIT_ORDER)))
        for index, (name, _) in enumerate(val):
            write(root / "Data/CLS-LOC/val" / f"{name}.JPEG", jpeg(index, SIZE))
        return root
    if layout == "folders":
        for index, name in enumerate(DEVKIT_ORDER):
            write(root / "train" / name / f"{name}_{index}.JPEG", jpeg(index, SIZE))
        return root
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    write(kit / "ILSVRC2012_validation_ground_truth.txt", "".join(f"{label}\n" for _, label in val))
    kinds = [("ILSVRC2012_ID", "<i4"), ("WNID", "O"), ("num_children", "<i4")]
    synsets = [(number, name, 0) for number, name in enumerate(DEVKIT_ORDER, 1)] + [(4, "n00001740", 3)]
    savemat(kit / "meta.mat", {"synsets": np.array(synsets, dtype=kinds)[:, None]})
    if layout == "flat":
        for index, (name, _) in enumerate(val):
            write(root / "val" / f"{name}.JPEG", jpeg(index, SIZE))
        return root
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for index, name in enumerate(DEVKIT_ORDER):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                _add(archive, f"{name}_{index}.JPEG", jpeg(index, SIZE))
            _add(outer, f"{name}.tar", inner.getvalue())
    return root


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def voc(root: Path) -> Path:
    base = root / "VOC2012"
    write(base / "ImageSets/Main/val.txt", "2008_000001\n2008_000002\n")
    write(base / "ImageSets/Main/cat_val.txt", "2008_000001  1\n2008_000002 -1\n")
    write(base / "ImageSets/Segmentation/val.txt", "2008_000001\n")
    for index in (1, 2):
        write(base / f"JPEGImages/2008_00000{index}.jpg", jpeg(index, SIZE))
    write(base / "Annotations/2008_000001.xml", voc_xml([("cat", (1, 1, 10, 10)), ("person", (11, 1, 40, 30))]))
    write(base / "Annotations/2008_000002.xml", voc_xml([("dog", (2, 3, 20, 30)), ("sofa", (1, 1, 5, 5))]))
    numbers = np.zeros(SIZE[::-1], np.uint8)
    numbers[:10, :10], numbers[:, 10:] = 1, 2
    numbers[10:12, :10] = 255
    indexed = Image.fromarray(numbers)
    indexed.putpalette([value for number in range(256) for value in (number, number, number)])
    write(base / "SegmentationObject/2008_000001.png", encode(indexed, "PNG"))
    return root


def coco(root: Path) -> Path:
    mask = np.zeros(SIZE[::-1], np.uint8, order="F")
    mask[2:8, 3:9] = 1
    runs = rle.encode(np.asfortranarray(mask))
    runs["counts"] = runs["counts"].decode()
    polygon = [[20.0, 10.0, 30.0, 10.0, 30.0, 20.0, 20.0, 20.0]]
    content = {
        "images": [
            {"id": 7, "file_name": "0007.jpg", "width": 40, "height": 30},
            {"id": 9, "file_name": "0009.jpg", "width": 40, "height": 30},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 7,
                "category_id": 18,
                "bbox": [3, 2, 6, 6],
                "segmentation": runs,
                "iscrowd": 0,
                "area": 36,
            },
            {
                "id": 2,
                "image_id": 7,
                "category_id": 3,
                "bbox": [20, 10, 10.5, 10.25],
                "segmentation": polygon,
                "iscrowd": 0,
                "area": 100,
            },
            {
                "id": 3,
                "image_id": 9,
                "category_id": 3,
                "bbox": [0, 0, 4, 4],
                "segmentation": runs,
                "iscrowd": 1,
                "area": 16,
            },
        ],
    }
    write(root / "annotations/instances_val2017.json", json.dumps(content))
    for name in ("0007.jpg", "0009.jpg", "0011.jpg"):
        write(root / "val2017" / name, jpeg(1, SIZE))
    return root


def wsol_lists(root: Path, masks: bool = False) -> Path:
    ids = ["val/n1/a.jpg", "val/n1/b.c.jpg", "val/n2/gone.jpg"]
    lists = root / "metadata" / "DATA" / "val"
    write(lists / "image_ids.txt", "\n".join(ids))  # no newline at the end, as in several of theirs
    write(lists / "class_labels.txt", "\n".join(f"{name},{index}" for index, name in enumerate(ids)))
    sizes = "" if masks else "\n".join(f"{name},40,30" for name in ids)
    write(lists / "image_sizes.txt", sizes)
    rows = [f"{name},{index},2,20,25" for index, name in enumerate(ids)]
    if masks:
        rows = [f"{name},{name[:-4]}_m.png,{name[:-4]}_ignore.png" for name in ids]
    write(lists / "localization.txt", "\n".join(rows))
    for index, name in enumerate(ids[:2]):
        write(root / "dataset" / "DATA" / name, jpeg(index, SIZE))
        if masks:
            shape = np.zeros((15, 20), np.uint8)  # half of the image's size, as in OpenImages
            shape[2:5, 3:9] = 255
            write(root / "dataset" / "DATA" / f"{name[:-4]}_m.png", encode(Image.fromarray(shape), "PNG"))
            write(root / "dataset" / "DATA" / f"{name[:-4]}_ignore.png", encode(Image.fromarray(shape * 0), "PNG"))
    return root / "metadata" / "DATA"


def read_samples(out: Path) -> dict[str, dict[str, bytes]]:
    """Members of each sample by extension."""
    samples: dict[str, dict[str, bytes]] = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                key, _, extension = member.name.rpartition(".")
                stream = archive.extractfile(member)
                assert stream is not None
                assert (member.mtime, member.uid, member.mode) == (0, 0, 0o644)
                samples.setdefault(key, {})[extension] = stream.read()
    return samples


def labels_of(out: Path) -> dict[str, int]:
    return {key: int(members["cls"]) for key, members in read_samples(out).items() if "cls" in members}


def classes_of(out: Path) -> list[str]:
    return (out / "classes.txt").read_text().splitlines()


def left_out_of(out: Path) -> dict[str, str]:
    with open(out / "left_out.csv", newline="") as stream:
        return {row["name"]: row["reason"] for row in csv.DictReader(stream)}


def boxes_of(out: Path) -> dict[str, list[list[int]]]:
    truth = read_truth(out / "truth")
    return {key: item.boxes.tolist() for key, item in truth.by_key.items()}


def digests(out: Path) -> dict[str, str]:
    files = (path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


ALL: dict[str, Callable[[Path], tuple[str, Path, str | None]]] = {
    "folder": lambda root: ("folder", image_folder(root), None),
    "cub": lambda root: ("cub", cub(root / "CUB_200_2011"), "test"),
    "validation": lambda root: ("imagenet", imagenet(root, "flat"), "val"),
    "kaggle": lambda root: ("imagenet", imagenet(root, "kaggle"), "val"),
    "train": lambda root: ("imagenet", imagenet(root, "folders"), "train"),
    "train tars": lambda root: ("imagenet", imagenet(root, "tar"), "train"),
    "voc": lambda root: ("voc", voc(root), "val"),
    "coco": lambda root: ("coco", coco(root), None),
    "lists of boxes": lambda root: ("lists", wsol_lists(root), "val"),
    "lists of masks": lambda root: ("lists", wsol_lists(root, masks=True), "val"),
}
"""Writers of each layout: kind, source and split of a pack."""
