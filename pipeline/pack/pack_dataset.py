"""The driver: find the images of a source, give each a key and a shard, write the shards, then what goes with them."""

import csv
import hashlib
import io
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from pipeline.pack.registry import SOURCES
from pipeline.pack.shard import ShardTask, write_shard
from pipeline.pack.source import SPLIT_NAME, Source, SourceImage
from pipeline.read.sample_keys import is_unsafe_key
from pipeline.read.shards import INFO_FILE
from pipeline.run.parallel_map import parallel_map
from pipeline.store.object_store import ObjectStore
from pipeline.utils.atomic_write import is_temp_file, make_folder, write_atomically
from pipeline.utils.local_file import file_sha256
from schemas.annotations import CocoInfo
from schemas.base import differences
from schemas.errors import UsageError
from schemas.pack import PACK, LeftOut, PackedShard, PackRecord
from schemas.text import escape_control

CLASSES, LEFT_OUT, TRUTH = "classes.txt", "left_out.csv", "truth"
_RECORDS = ".pack"
_NOT_IN_KEYS = re.compile(r"[.\\\x00-\x1f\x7f]")
"""A dot ends the key in WebDataset; a backslash separates folders elsewhere."""


def pack(
    kind: str,
    path: Path,
    out: Path,
    split: str | None = None,
    classes: Sequence[str] = (),
    per_shard: int = 1000,
    address: str | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> tuple[PackRecord, int]:
    """Pack a source into ``OUT/<split>-00000.tar`` and on, with class names and truth.

    The order of the images is that of the hashes of their keys: mixed, and the same every time. A shard is written once
    and atomically; a pack that was interrupted goes on where it stopped and gives the same bytes.

    Args:
        kind: of ``SOURCES``.
        path: the source.
        out: the folder to write to.
        split: of the source; None if it has only one.
        classes: names of the classes in the order of their ids; empty for the order of the source.
        per_shard: largest number of samples in a shard.
        address: of a Ray cluster, as in ``vitatlas run``.
        log: called with sentences for the user.

    Returns:
        What was packed, and the number of samples in the shards.

    Raises:
        UsageError: the source is not as described, or the folder holds something else.
    """
    if not path.exists():
        raise UsageError(f"{path}: No such file or folder")
    if split is not None and not SPLIT_NAME.fullmatch(split):
        raise UsageError(f"--split: {split!r} is no name of a split; it has letters, digits, - and _ only")
    if kind == "folder" and path.is_dir() and out.resolve().is_relative_to(path.resolve()):
        raise UsageError(f"{out}: is in the source, of which it would become a part; choose another --out")
    source = SOURCES[kind](path, split, classes)
    if not source.images:
        raise UsageError(f"{path}: has no images; {_summarize(source.left_out) or 'is it the folder of the source?'}")
    if unsafe := next((image.name for image in source.images if is_unsafe_key(image.name)), None):
        raise UsageError(f"{path}: {unsafe} leads out of the folder of the source; name images by paths below it")
    keyed = _make_keys(source.images)
    for note in (*source.notes, *_describe_renamed(keyed)):
        log(note)
    record = _make_record(kind, per_shard, source, keyed)
    _check_folder(out, record)
    write_atomically(str(out / PACK), record.to_bytes())  # first: a folder without it is refused
    make_folder(str(out / _RECORDS))
    tasks = list(_make_tasks(out, record, keyed, source.classes))
    shards = {task.tar.name: shard for task in tasks if (shard := _read_finished(task))}
    missing = [task for task in tasks if task.tar.name not in shards]
    if len(missing) < len(tasks):
        log(f"{len(tasks) - len(missing)} of {len(tasks)} shards were written before")
    shards |= dict(parallel_map(_write_named, missing, "pack", address))
    ordered = {task.tar.name: shards[task.tar.name] for task in tasks}
    left_out = [*source.left_out, *(item for shard in ordered.values() for item in shard.left_out)]
    _write_texts(out, record, source, ordered, left_out)
    for folder in (out, out / _RECORDS, out / TRUTH):
        ObjectStore(str(folder)).remove_temp_files()
    if left_out:
        log(f"{len(left_out)} entries in {LEFT_OUT}: {_summarize(left_out)}")
    return record, sum(shard.samples for shard in ordered.values())


def _write_named(task: ShardTask) -> tuple[str, PackedShard]:
    return task.tar.name, write_shard(task)


def _make_keys(images: Sequence[SourceImage]) -> list[tuple[str, SourceImage]]:
    """Give each image a key, its name without extension, and sort by the hash of the key.

    A dot becomes ``_``, since the key would end there. Where two images would have one key, the later one in the order
    of the names gets a number.
    """
    used: set[str] = set()
    keyed = []
    for image in images:
        folder, _, base = image.name.encode("utf-8", "backslashreplace").decode().rpartition("/")
        stem = _NOT_IN_KEYS.sub("_", base.rpartition(".")[0])
        folder = re.sub(r"[\\\x00-\x1f\x7f]", "_", folder)
        key = f"{folder}/{stem}" if folder else stem
        unique = key if key not in used else next(name for n in count(2) if (name := f"{key}-{n}") not in used)
        used.add(unique)
        keyed.append((unique, image))
    return sorted(keyed, key=lambda pair: hashlib.sha256(pair[0].encode()).digest())


def _describe_renamed(keyed: Sequence[tuple[str, SourceImage]]) -> Iterator[str]:
    """Yield a sentence if keys are not the names of their images, by which a truth of the user would name them."""
    renamed = sorted((image.name, key) for key, image in keyed if key != image.name.rpartition(".")[0])
    if renamed:
        name, key = renamed[0]
        yield (
            f"{len(renamed)} of {len(keyed)} keys are not the names of their images, such as {key} of {name}: "
            "truth of your own must name these images by their keys"
        )


def _make_record(kind: str, per_shard: int, source: Source, keyed: Sequence[tuple[str, SourceImage]]) -> PackRecord:
    digest = hashlib.sha256(json.dumps(source.classes).encode())
    for key, image in keyed:
        digest.update(json.dumps([key, image.name, image.file.size, image.class_ids]).encode())
    return PackRecord(
        source=kind,
        split=source.split,
        per_shard=per_shard,
        shards=-(-len(keyed) // per_shard),
        images=len(keyed),
        classes=len(source.classes),
        listing=f"sha256:{digest.hexdigest()}",
    )


def _check_folder(out: Path, record: PackRecord) -> None:
    """Refuse a folder that holds anything but an earlier part of this pack."""
    if not out.exists() or not (names := [path.name for path in out.iterdir() if not is_temp_file(path.name)]):
        return
    if PACK not in names:
        raise UsageError(f"{out}: is not empty; choose another --out")
    existing = PackRecord.read((out / PACK).read_bytes(), str(out / PACK))
    if existing != record:
        difference = differences(existing.model_dump(), record.model_dump())[0]
        raise UsageError(f"{out}: holds another pack: {difference}; choose another --out")


def _make_tasks(
    out: Path, record: PackRecord, keyed: Sequence[tuple[str, SourceImage]], classes: tuple[str, ...]
) -> Iterator[ShardTask]:
    for index in range(record.shards):
        name = f"{record.split}-{index:05d}"
        part = keyed[index * record.per_shard : (index + 1) * record.per_shard]
        yield ShardTask(out / f"{name}.tar", out / _RECORDS / f"{name}.json", part, classes)


def _read_finished(task: ShardTask) -> PackedShard | None:
    """Return the record of a shard that was written before and has not changed since."""
    if not task.record.exists() or not task.tar.exists():
        return None
    shard = PackedShard.read(task.record.read_bytes(), str(task.record))
    return shard if shard.sha256 == file_sha256(task.tar) else None


def _write_texts(
    out: Path, record: PackRecord, source: Source, shards: dict[str, PackedShard], left_out: Sequence[LeftOut]
) -> None:
    """Write what goes with the shards, ``_info.json`` last."""
    if source.classes:
        _write(out / CLASSES, "".join(f"{escape_control(name)}\n" for name in source.classes))
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["name", "reason"])
    rows.writerows([escape_control(item.name), escape_control(item.reason)] for item in left_out)
    _write(out / LEFT_OUT, text.getvalue())
    new_names = {old: new for shard in shards.values() for old, new in shard.new_names.items()}
    if source.write_truth:
        shutil.rmtree(out / TRUTH, ignore_errors=True)
        make_folder(str(out / TRUTH))
        source.write_truth(out / TRUTH, new_names)
    elif any(shard.images for shard in shards.values()):
        _write(out / TRUTH / "instances.json", json.dumps(_merge_truth(source, shards.values())))
    split = {
        "name": record.split,
        "filenames": list(shards),
        "shard_lengths": [shard.samples for shard in shards.values()],
        "num_samples": len(new_names),
    }
    _write(out / INFO_FILE, json.dumps({"splits": {record.split: split}}, indent=1))


def _write(path: Path, text: str) -> None:
    write_atomically(str(path), text.encode("utf-8", "backslashreplace"))


def _merge_truth(source: Source, shards: Iterable[PackedShard]) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for shard in shards:
        for image, objects in zip(shard.images, shard.annotations, strict=True):
            images.append({"id": len(images) + 1} | image)
            for item in objects:
                annotations.append({"id": len(annotations) + 1, "image_id": len(images)} | item)
    categories = [{"id": number, "name": escape_control(name)} for number, name in enumerate(source.classes, 1)]
    info = {"vit_atlas": CocoInfo(whole_keys=True).model_dump(exclude_defaults=True)}
    return {"info": info, "images": images, "annotations": annotations, "categories": categories}


def _summarize(left_out: Sequence[LeftOut]) -> str:
    counts = Counter(item.reason.split(":")[0] for item in left_out)
    return ", ".join(f"{number} × {reason}" for reason, number in counts.most_common(5))
