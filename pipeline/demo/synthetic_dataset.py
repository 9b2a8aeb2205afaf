"""The demo world on disk: shards as ImageNet has them in the wild, and the truth beside them.

``python -m pipeline.demo.synthetic_dataset DIR --split train --shards 16 --scenes 3000 --truth 400`` writes one to train on.
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
from rich.progress import track

from pipeline.demo.scenes import CLASSES, Scene, render, scene_size
from pipeline.read.shards import INFO_FILE

SHARDS, TRUTH = "shards", "truth"

# Scenes are numbered within a stream; training, held-out and demo scenes never share one.
TRAINING, HELD_OUT, DEMO = 1, 2, 3
Split = Literal["train", "heldout", "validation"]
_STREAMS: dict[Split, int] = {"train": TRAINING, "heldout": HELD_OUT, "validation": DEMO}


@dataclass(frozen=True)
class SyntheticDataset:
    """Where a world stands, and what it was made from.

    Attributes:
        folder: holds ``shards`` and ``truth``.
        num_shards, scenes: how many shards, and scenes in each.
        seed: other seeds make other scenes of the same kind.
        shortcut: whether the mark is planted.
        split: which stream the scenes are of; ``validation`` is what the demo explains.
        known: of how many scenes the truth is written down, from the first; None is all.
    """

    folder: Path
    num_shards: int = 4
    scenes: int = 96
    seed: int = 0
    shortcut: bool = True
    split: Split = "validation"
    known: int | None = None

    @property
    def shards(self) -> str:
        """Brace pattern of the shards."""
        return str(self.folder / SHARDS / f"demo-{self.split}-{{00..{self.num_shards - 1:02d}}}.tar")

    @property
    def truth(self) -> Path:
        """Folder of the truth."""
        return self.folder / TRUTH


def make_scene(stream: int, seed: int, number: int, shortcut: bool = True) -> Scene:
    """The scene of that number in a stream. Classes are drawn at random."""
    rng = np.random.default_rng([stream, seed, number])
    width, height = scene_size(rng)
    return render(rng, width, height, int(rng.integers(len(CLASSES))), shortcut)


def write_dataset(world: SyntheticDataset) -> None:
    """Write a world: ``shards/*.tar``, ``shards/_info.json`` and ``truth/instances.json``.

    A shard holds ``<key>.jpg``, ``<key>.cls`` and ``<key>.json`` for each scene; what is where in the scene
    stands only in the truth, as COCO. Pictures that carry the shortcut are marked there by ``"marked"``.
    """
    (world.folder / SHARDS).mkdir(parents=True, exist_ok=True)
    world.truth.mkdir(parents=True, exist_ok=True)
    truth: dict[str, list[dict[str, object]]] = {"images": [], "annotations": []}
    names = [f"demo-{world.split}-{index:02d}.tar" for index in range(world.num_shards)]
    for index, name in enumerate(track(names, "draw scenes", disable=len(names) < 2)):
        with tarfile.open(world.folder / SHARDS / name, "w") as archive:
            for number in range(index * world.scenes, (index + 1) * world.scenes):
                drawn = make_scene(_STREAMS[world.split], world.seed, number, world.shortcut)
                key = f"scene_{number:06d}"
                for member, data in _members(drawn, key):
                    info = tarfile.TarInfo(member)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
                if world.known is None or number < world.known:
                    _note(truth, drawn, key, number)
    split = {
        "name": world.split,
        "filenames": names,
        "shard_lengths": [world.scenes] * world.num_shards,
        "num_samples": world.scenes * world.num_shards,
    }
    (world.folder / SHARDS / INFO_FILE).write_text(json.dumps({"splits": {world.split: split}}, indent=1))
    categories = [{"id": index, "name": each.name} for index, each in enumerate(CLASSES)]
    (world.truth / "instances.json").write_text(json.dumps(truth | {"categories": categories}))


def _members(drawn: Scene, key: str) -> Iterator[tuple[str, bytes]]:
    buffer = io.BytesIO()
    Image.fromarray(drawn.image).save(buffer, "JPEG", quality=90)
    yield f"{key}.jpg", buffer.getvalue()
    yield f"{key}.cls", str(drawn.label).encode()
    yield f"{key}.json", json.dumps({"filename": f"{CLASSES[drawn.label].name}/{key}.JPEG"}).encode()


def _note(truth: dict[str, list[dict[str, object]]], drawn: Scene, key: str, number: int) -> None:
    height, width = drawn.image.shape[:2]
    truth["images"].append(
        {"id": number, "file_name": f"{key}.jpg", "width": width, "height": height, "marked": drawn.marked}
    )
    for mask in drawn.masks:
        coded = rle.encode(np.asfortranarray(mask, np.uint8))
        truth["annotations"].append(
            {
                "id": len(truth["annotations"]) + 1,
                "image_id": number,
                "category_id": drawn.label,
                "segmentation": {"size": coded["size"], "counts": coded["counts"].decode("ascii")},
                "bbox": [float(side) for side in rle.toBbox(coded)],
                "area": int(rle.area(coded)),
                "iscrowd": 0,
            }
        )


def main() -> None:
    """Write a world."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", choices=list(_STREAMS), default="validation")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--scenes", type=int, default=96, help="in each shard")
    parser.add_argument("--truth", type=int, help="of how many scenes it is written down; default all")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    write_dataset(
        SyntheticDataset(
            chosen.folder, chosen.shards, chosen.scenes, chosen.seed, split=chosen.split, known=chosen.truth
        )
    )


if __name__ == "__main__":
    main()
