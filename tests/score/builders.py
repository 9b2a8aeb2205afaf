"""Builders of truth files and small atlases for the tests of scores."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import jpeg, write_tar

from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.score import score
from pipeline.store import Atlas
from pipeline.truth import read_truth
from schemas.run import RunSpec


def rows_of(table) -> dict[str, dict[str, Any]]:
    return {row["method"]: row for row in table.to_pylist()}


def change(world: SyntheticDataset, tmp_path: Path, how: Callable[[dict], Any]) -> str:
    content = json.loads((world.truth / "instances.json").read_text())
    how(content)
    (tmp_path / "truth.json").write_text(json.dumps(content))
    return str(tmp_path / "truth.json")


def first(images: int) -> Callable[[dict], None]:
    """Keep the truth of the first images only; the first shard has 24."""

    def keep(content: dict) -> None:
        content["images"] = content["images"][:images]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] < images]

    return keep


def without(number: int) -> Callable[[dict], None]:
    """Remove the truth of one image."""

    def remove(content: dict) -> None:
        content["images"] = [image for image in content["images"] if image["id"] != number]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != number]

    return remove


def of_keys(spec: RunSpec, tmp_path: Path, shard_names: dict[str, list[str]], labelled: bool = True) -> Atlas:
    """Make an atlas of 40 × 30 images with these keys, by shard."""
    for shard, keys in shard_names.items():
        members = [
            (f"{key}.{kind}", data)
            for number, key in enumerate(keys)
            for kind, data in (("jpg", jpeg(number)), *([("cls", b"1")] if labelled else []))
        ]
        write_tar(tmp_path / "keys" / f"{shard}.tar", members)
    shards = tuple(str(tmp_path / "keys" / f"{shard}.tar") for shard in shard_names)
    plan(spec.model_copy(update={"shards": shards}), str(tmp_path / "of_keys"))
    return run(str(tmp_path / "of_keys"), INLINE)


def boxed(file: Path, names: list[str]) -> str:
    """Write COCO truth of 40 × 30 images, a box each."""
    images = [{"id": index, "file_name": name, "width": 40, "height": 30} for index, name in enumerate(names)]
    boxes = [{"id": index, "image_id": index, "bbox": [2, 2, 9, 8]} for index in range(len(images))]
    file.write_text(json.dumps({"images": images, "annotations": boxes}))
    return str(file)


def small(atlas: Atlas, truth: str, tmp_path: Path, **options: Any) -> dict[str, dict[str, Any]]:
    """Score a part of the atlas."""
    options = {"methods": ["legrad"], "subset": True, "out": str(tmp_path / "out")} | options
    return rows_of(score(atlas, read_truth(truth), **options))
