"""Synthetic dataset on disk: shards in the layout of ImageNet, and their ground truth.

``python -m pipeline.demo.synthetic_dataset DIR --split train --shards 16 --scenes 3000 --truth 400`` writes one for
training.
"""

import argparse
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from pipeline.demo.scenes import CLASSES, Scene, render, sample_scene_size
from pipeline.read.shards import INFO_FILE
from pipeline.utils.progress import track

SHARDS, TRUTH = "shards", "truth"

# Seeds of the splits: training, held-out and demo scenes are disjoint.
TRAINING, HELD_OUT, DEMO = 1, 2, 3
Split = Literal["train", "heldout", "validation"]
_STREAMS: dict[Split, int] = {"train": TRAINING, "heldout": HELD_OUT, "validation": DEMO}


@dataclass(frozen=True)
class SyntheticDataset:
    """Location and parameters of a synthetic dataset.

    Attributes:
        folder: folder with ``shards`` and ``truth``.
        num_shards: number of shards.
        scenes: number of scenes in each shard.
        seed: seed of the scenes.
        shortcut: whether the shortcut mark is rendered.
        split: split of the scenes; ``validation`` is used by the demo.
        num_annotated: number of scenes, from the first, whose truth is written; None means all.
    """

    folder: Path
    num_shards: int = 4
    scenes: int = 96
    seed: int = 0
    shortcut: bool = True
    split: Split = "validation"
    num_annotated: int | None = None

    @property
    def shards(self) -> str:
        """Brace pattern of the shard paths."""
        return str(self.folder / SHARDS / f"demo-{self.split}-{{00..{self.num_shards - 1:02d}}}.tar")

    @property
    def truth(self) -> Path:
        """Folder of the ground truth."""
        return self.folder / TRUTH


def make_scene(stream: int, seed: int, number: int, shortcut: bool = True) -> Scene:
    """Render a numbered scene of a random class.

    Args:
        stream: seed of the split: ``TRAINING``, ``HELD_OUT`` or ``DEMO``.
        seed: seed of the dataset.
        number: number of the scene.
        shortcut: whether the shortcut mark is rendered.
    """
    rng = np.random.default_rng([stream, seed, number])
    width, height = sample_scene_size(rng)
    return render(rng, width, height, int(rng.integers(len(CLASSES))), shortcut)


def write_dataset(dataset: SyntheticDataset) -> None:
    """Write a dataset: ``shards/*.tar``, ``shards/_info.json`` and ``truth/instances.json``.

    A shard holds ``<key>.jpg``, ``<key>.cls`` and ``<key>.json`` for each scene. Object masks are only in the truth, as
    COCO, with category id = class id + 1. Images with the shortcut mark have ``"marked": true`` there.
    """
    (dataset.folder / SHARDS).mkdir(parents=True, exist_ok=True)
    dataset.truth.mkdir(parents=True, exist_ok=True)
    truth: dict[str, list[dict[str, object]]] = {"images": [], "annotations": []}
    names = [f"demo-{dataset.split}-{index:02d}.tar" for index in range(dataset.num_shards)]
    for index, name in enumerate(track(names, len(names), "render scenes")):
        with tarfile.open(dataset.folder / SHARDS / name, "w") as archive:
            for number in range(index * dataset.scenes, (index + 1) * dataset.scenes):
                rendered = make_scene(_STREAMS[dataset.split], dataset.seed, number, dataset.shortcut)
                key = f"scene_{number:06d}"
                for member, data in _encode_members(rendered, key):
                    info = tarfile.TarInfo(member)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
                if dataset.num_annotated is None or number < dataset.num_annotated:
                    _add_annotations(truth, rendered, key, number)
    split = {
        "name": dataset.split,
        "filenames": names,
        "shard_lengths": [dataset.scenes] * dataset.num_shards,
        "num_samples": dataset.scenes * dataset.num_shards,
    }
    (dataset.folder / SHARDS / INFO_FILE).write_text(json.dumps({"splits": {dataset.split: split}}, indent=1))
    categories = [{"id": number, "name": scene_class.name} for number, scene_class in enumerate(CLASSES, 1)]
    (dataset.truth / "instances.json").write_text(json.dumps(truth | {"categories": categories}))


def _encode_members(rendered: Scene, key: str) -> Iterator[tuple[str, bytes]]:
    buffer = io.BytesIO()
    Image.fromarray(rendered.image).save(buffer, "JPEG", quality=90)
    yield f"{key}.jpg", buffer.getvalue()
    yield f"{key}.cls", str(rendered.label).encode()
    yield f"{key}.json", json.dumps({"filename": f"{CLASSES[rendered.label].name}/{key}.JPEG"}).encode()


def _add_annotations(truth: dict[str, list[dict[str, object]]], rendered: Scene, key: str, number: int) -> None:
    height, width = rendered.image.shape[:2]
    truth["images"].append(
        {"id": number, "file_name": f"{key}.jpg", "width": width, "height": height, "marked": rendered.marked}
    )
    for mask in rendered.masks:
        encoded = rle.encode(np.asfortranarray(mask, np.uint8))
        truth["annotations"].append(
            {
                "id": len(truth["annotations"]) + 1,
                "image_id": number,
                "category_id": rendered.label + 1,
                "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")},
                "bbox": [float(side) for side in rle.toBbox(encoded)],
                "area": int(rle.area(encoded)),
                "iscrowd": 0,
            }
        )


def main() -> None:
    """Write a dataset."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", choices=list(_STREAMS), default="validation")
    parser.add_argument("--shards", dest="num_shards", type=int, default=4)
    parser.add_argument("--scenes", type=int, default=96, help="scenes in each shard")
    parser.add_argument("--truth", dest="num_annotated", type=int, help="scenes whose truth is written; default all")
    parser.add_argument("--seed", type=int, default=0)
    write_dataset(SyntheticDataset(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
