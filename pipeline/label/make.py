"""Labels of a whole atlas: every tar by one policy, in every format that is asked for."""

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pipeline.label.coco import Coco
from pipeline.label.exporter import Exporter, choose, dumps
from pipeline.label.mask import Label, make
from pipeline.label.png import Png
from pipeline.parallel import over
from pipeline.store import Atlas, Objects
from schemas.errors import UsageError
from schemas.labels import LABELS
from schemas.policy import Policy
from schemas.samples import Status

EXPORTERS: dict[str, Exporter] = {"png": Png(), "coco": Coco()}
ABOUT = "policy.json"


def read_policy(path: str | Path) -> Policy:
    """A policy from a YAML file.

    Raises:
        UsageError: there is no such file, it is not YAML, or not a policy.
    """
    try:
        content = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is not a text file") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: is not YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: is not a policy; it must be a mapping of name, method, cut …")
    return Policy.read(content, str(path))


def label(url: str, policy: Policy, formats: Iterable[str], out: str) -> pa.Table:
    """Label every finished tar of an atlas.

    Writes ``labels/<tar>.parquet`` and the object of each format for each tar, what the formats make of all
    tars together, and last ``policy.json`` with the policy, its hash and that of the run.

    Returns:
        The label table of all tars.

    Raises:
        UsageError: no such format, the atlas has no such method or target, or other labels are there.
            Nothing is written then.
    """
    atlas = Atlas.open(url)
    exporters = choose(formats, EXPORTERS)
    if policy.method not in atlas.methods:
        raise UsageError(
            f"policy {policy.name}: {url} has no maps of {policy.method!r}, only {', '.join(atlas.methods)}"
        )
    if policy.target not in atlas.run.spec.targets:
        there = ", ".join(atlas.run.spec.targets)
        raise UsageError(f"policy {policy.name}: {url} has no target {policy.target!r}, only {there}")
    if not atlas.commits:
        raise UsageError(f"{url}: has no finished tar yet; run it first: vitatlas run {url}")
    objects = Objects(out)
    about = {"policy": policy.model_dump(mode="json"), "hash": policy.digest(), "run": atlas.run.spec_hash}
    if objects.exists(ABOUT) and json.loads(objects.get(ABOUT)) != about:
        raise UsageError(f"{out}: holds labels of another policy or atlas; name another --out, or remove it")
    work = partial(_label_tar, url, policy, tuple(exporters), objects.url)
    tables = list(over(work, list(atlas.commits), f"label by {policy.name}"))
    for exporter in exporters.values():
        parts = (objects.get(exporter.name(tar)) for tar in atlas.commits)
        for name, data in exporter.merge(parts).items():
            objects.put(name, data)
    objects.put(ABOUT, dumps(about))
    return pa.concat_tables(tables)


def _label_tar(url: str, policy: Policy, formats: tuple[str, ...], out: str, tar: str) -> pa.Table:
    atlas, objects = Atlas.open(url), Objects(out)
    labels = list(labels_of(atlas, tar, policy))
    table = pa.Table.from_pylist([_row(each) for each in labels], schema=LABELS)
    for name in formats:
        exporter = EXPORTERS[name]
        objects.put(exporter.name(tar), exporter.encode(labels, policy.digest()))
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    objects.put(f"labels/{tar}.parquet", buffer.getvalue().to_pybytes())
    return table


def labels_of(atlas: Atlas, tar: str, policy: Policy) -> Iterable[Label]:
    """Labels of one tar, in its order."""
    part = atlas.tar(tar)
    maps, ranges = part.maps(policy.method, policy.target), part.ranges(policy.method, policy.target)
    for values, bounds, sample in zip(maps, ranges, part.samples.to_pylist(), strict=True):
        yield make(values, bounds, sample, atlas.run.model.input_size, policy)


def _row(label: Label) -> dict[str, Any]:
    sample = label.sample
    by_target = {sample["label"]: sample["label_probability"], sample["prediction"]: sample["probability"]}
    good = sample["status"] == Status.OK
    return {
        "row": sample["row"],
        "key": sample["key"],
        "status": label.status,
        "label": label.class_index,
        "width": sample["width"],
        "height": sample["height"],
        "threshold": label.threshold,
        "area": label.area,
        "components": len(label.boxes) if good else None,
        "boxes": [list(box) for box in label.boxes] if good else None,
        "probability": by_target.get(label.class_index) if good else None,
    }
