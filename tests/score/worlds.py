"""Truths and atlases that scores are tried on."""

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


def first(pictures: int) -> Callable[[dict], None]:
    """Truth of so many pictures only; the first shard has 24."""

    def keep(content: dict) -> None:
        content["images"] = content["images"][:pictures]
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] < pictures]

    return keep


def without(number: int) -> Callable[[dict], None]:
    """Truth of all pictures but one."""

    def take_out(content: dict) -> None:
        content["images"] = [each for each in content["images"] if each["id"] != number]
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] != number]

    return take_out


def of_keys(spec: RunSpec, tmp_path: Path, shard_names: dict[str, list[str]], labelled: bool = True) -> Atlas:
    """An atlas of 40 × 30 pictures with these keys, by shard."""
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
    """COCO truth of 40 × 30 pictures, a box each."""
    images = [{"id": place, "file_name": name, "width": 40, "height": 30} for place, name in enumerate(names)]
    boxes = [{"id": each["id"], "image_id": each["id"], "bbox": [2, 2, 9, 8]} for each in images]
    file.write_text(json.dumps({"images": images, "annotations": boxes}))
    return str(file)


def small(atlas: Atlas, truth: str, tmp_path: Path, **options: Any) -> dict[str, dict[str, Any]]:
    """Scores of a part of the atlas."""
    options = {"methods": ["legrad"], "subset": True, "out": str(tmp_path / "out")} | options
    return rows_of(score(atlas, read_truth(truth), **options))
