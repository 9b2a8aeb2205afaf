"""Exporter to ViRelAy, a viewer of spectral relevance analyses: one project per method, since a project has only one.

The keys are those that its code reads (``virelay/model.py`` of version 0.6.1); its documentation of the format has
others. It is under the AGPL, and none of it is imported here.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from numpy.typing import NDArray

from pipeline.audit.exports.base import AtlasContext, AuditExporter, ShardData, prepare_path
from pipeline.store import ObjectStore
from pipeline.store.parquet import from_parquet
from pipeline.utils.redaction import public_model_name
from schemas.audit_records import AuditSpec, ExportSpec
from schemas.errors import UsageError
from schemas.layout import ABOUT
from schemas.run_record import RunRecord
from schemas.samples import class_ids

MEMBERS, SHORTCUTS = "members.parquet", "shortcuts.parquet"
ANALYSIS, EMBEDDING, CLUSTERING = "spectral_analysis", "spectral", "kmeans"
UNKNOWN = -1
"""Label of a sample without label, or with one that the network does not have."""
GRAY = 128
_STRATEGIES = {"label": "true_label", "predicted": "predicted_label"}
_SYNSET = re.compile(r"(n[0-9]{8})(?:[\s:,]+(.*))?")
"""Name of a class as in ILSVRC's ``LOC_synset_mapping.txt``, or the WordNet id alone."""
_CHUNK = 64


class VirelayExporter(AuditExporter):
    """``<method>.yaml`` with ``labels.json``, ``input.h5``, ``<method>.attribution.h5``, ``<method>.analysis.h5``.

    Arrays over all N samples that have maps, in the order of the rows, are virtual: they refer to ``parts/<shard>.h5``,
    which must stay beside them.

    - ``input.h5``: ``data`` uint8 [N, 3, H, W], ``label`` int32 [N], ``row`` int64 [N] and ``key`` of the samples.
    - ``<method>.attribution.h5``: ``attribution`` float16 [N, 3, h, w], the map and two channels of 0, since the viewer
      sums channels; ``label``; ``prediction`` float32 [N, K], the probabilities in the atlas, of the top class and
      of the label. There is no ``index``, in which the viewer would search each image linearly: a degenerate map is 0.
    - ``<method>.analysis.h5``: for each class ``index`` uint32 [n], ``embedding/spectral`` float32 [n, d] with its
      ``eigenvalue`` [d], ``cluster/kmeans`` int32 [n]; from ``members.parquet`` and ``shortcuts.parquet``.

    Names of groups are WordNet ids if the names of all classes begin with one, and class ids otherwise. A method
    without valid maps has no project, because the viewer fails without a class.
    """

    def require_packages(self) -> None:
        if find_spec("h5py") is None:
            install = "pip install 'vit-atlas[virelay]'"
            raise UsageError(f"virelay: its files are HDF5, which requires h5py; install it with: {install}")

    def validate(self, about: ExportSpec, audit: ObjectStore) -> None:
        self.require_packages()
        if about.target not in _STRATEGIES:
            raise UsageError(f"virelay: has no word for maps of {about.target}; name --target label or predicted")
        for name in (ABOUT, MEMBERS, SHORTCUTS):
            if not audit.exists(name):
                raise UsageError(f"{audit.url}: has no {name}; make the audit first, then export it")
        audit_about = AuditSpec.read(audit.get(ABOUT), f"{audit.url}/{ABOUT}")
        missing = [method for method in about.methods if method not in audit_about.methods]
        if (audit_about.run, audit_about.target) != (about.run, about.target) or missing:
            maps = f"the {(*missing, *about.methods)[0]} maps of {about.target}"
            raise UsageError(f"{audit.url}: is no audit of {maps}; audit them first, or name others")

    def export_shard(self, data: ShardData, run: RunRecord, folder: Path) -> Iterator[str]:
        import h5py

        name, count = _part_name(data.shard), len(data)
        with h5py.File(prepare_path(folder, name), "w") as file:
            if data.pixels is not None:
                dataset = file.create_dataset("data", (count, 3, *run.model.input_size), np.uint8)
                begin = 0
                for pixels in data.pixels:
                    dataset[begin : begin + len(pixels)] = pixels
                    begin += len(pixels)
            for method, maps in data.maps.items():
                values = np.zeros((count, 3, *maps.shape[1:]), np.float16)
                values[:, 0] = maps
                _create_array(file, f"attribution/{method}", values)
            _create_array(file, "prediction", _probabilities(data.samples, run.model.classes))
        yield name

    def export_all(self, context: AtlasContext, folder: Path) -> Iterator[str]:
        import h5py

        run, about, samples = context.run, context.about, context.samples
        labels = _labels(samples, run.model.classes)
        entries = label_map(run.model.classes, about.classes)
        groups = [entry["word_net_id"] for entry in entries]
        if (labels == UNKNOWN).any():
            entries.append({"index": UNKNOWN, "word_net_id": "", "name": "no label"})
        prepare_path(folder, "labels.json").write_text(json.dumps(entries, indent=1), "utf-8")
        yield "labels.json"
        size, count = run.model.input_size, len(samples)
        with h5py.File(prepare_path(folder, "input.h5"), "w") as file:
            if about.pixels:
                _create_virtual(file, "data", "data", samples, (3, *size), np.uint8)
            else:  # chunks that are not written take no space, and read as their fill value
                file.create_dataset("data", (count, 3, *size), np.uint8, chunks=(1, 3, *size), fillvalue=GRAY)
            file["label"], file["row"] = labels, samples["row"].to_numpy()
            file["key"] = np.array(samples["key"].to_pylist(), h5py.string_dtype())
        yield "input.h5"
        members = _read(context.audit, MEMBERS)
        eigenvalues = {
            (row["method"], row["class"]): row["eigenvalues"]
            for row in _read(context.audit, SHORTCUTS, ["method", "class", "eigenvalues"]).to_pylist()
        }
        for method in about.methods:
            method_members = members.filter(pc.equal(members["method"], method))
            if not len(method_members):
                continue
            with h5py.File(prepare_path(folder, f"{method}.attribution.h5"), "w") as file:
                _create_virtual(file, "attribution", f"attribution/{method}", samples, (3, *run.model.grid), np.float16)
                _create_virtual(file, "prediction", "prediction", samples, (run.model.classes,), np.float32)
                file["label"] = labels
            yield f"{method}.attribution.h5"
            with h5py.File(prepare_path(folder, f"{method}.analysis.h5"), "w") as file:
                for class_id, places, rows in _group_by_class(
                    method_members, samples, run, about.target, context.audit.url
                ):
                    _write_analysis(file.create_group(groups[class_id]), places, rows, eigenvalues[method, class_id])
            yield f"{method}.analysis.h5"
            project = yaml.safe_dump(_project(method, run, about), sort_keys=False, allow_unicode=True)
            prepare_path(folder, f"{method}.yaml").write_text(project, "utf-8")
            yield f"{method}.yaml"

    def atlas_files(self, about: ExportSpec) -> tuple[str, ...]:
        suffixes = ("yaml", "attribution.h5", "analysis.h5")
        return (*(f"{method}.{suffix}" for method in about.methods for suffix in suffixes), "input.h5", "labels.json")


def label_map(count: int, classes: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return index, WordNet id and name of each class; class ids of equal length where not all have a WordNet id.

    Args:
        count: number of classes.
        classes: names of the classes by class id; empty uses numbers.
    """
    matches = [_SYNSET.fullmatch(name) for name in classes]
    ids = [match[1] for match in matches if match]
    if classes and len(set(ids)) == count:
        names = [match[2] or match[1] for match in matches if match]
    else:
        ids = [f"{index:0{len(str(count - 1))}}" for index in range(count)]
        names = list(classes) or [str(index) for index in range(count)]
    return [{"index": index, "word_net_id": ids[index], "name": names[index]} for index in range(count)]


def _part_name(shard: str) -> str:
    return f"parts/{shard}.h5"


def _read(audit: ObjectStore, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    table = from_parquet(audit.get(name), columns)
    return table.set_column(table.column_names.index("method"), "method", table["method"].cast(pa.string()))


def _create_array(file: Any, name: str, values: NDArray[Any]) -> None:
    chunk = (min(len(values), _CHUNK), *values.shape[1:])
    file.create_dataset(name, data=values, chunks=chunk, compression="gzip", compression_opts=1)


def _create_virtual(file: Any, name: str, source: str, samples: pa.Table, shape: tuple[int, ...], dtype: type) -> None:
    """Create an array over all samples that refers to the file of each shard."""
    import h5py

    layout, begin = h5py.VirtualLayout((len(samples), *shape), dtype), 0
    layout.dcpl.set_obj_track_times(False)  # else equal exports would differ in bytes
    for item in pc.value_counts(samples["shard"].cast(pa.string())).to_pylist():  # in the order of the samples
        shard, count = item["values"], item["counts"]
        layout[begin : begin + count] = h5py.VirtualSource(_part_name(shard), source, (count, *shape), dtype)
        begin += count
    file.create_virtual_dataset(name, layout)


def _labels(samples: pa.Table, count: int) -> NDArray[np.int32]:
    labels = samples["label"].fill_null(UNKNOWN).to_numpy().astype(np.int32)
    return np.where((labels >= 0) & (labels < count), labels, np.int32(UNKNOWN))


def _probabilities(samples: pa.Table, count: int) -> NDArray[np.float32]:
    """Return float32 [n, count], 0 for classes whose probability the atlas does not have."""
    values = np.zeros((len(samples), count), np.float32)
    labels = _labels(samples, count)
    rows = np.flatnonzero(labels != UNKNOWN)
    values[rows, labels[rows]] = samples["label_probability"].to_numpy(zero_copy_only=False)[rows]
    values[np.arange(len(samples)), samples["prediction"].to_numpy()] = samples["probability"].to_numpy()
    return values


def _group_by_class(
    members: pa.Table, samples: pa.Table, run: RunRecord, target: str, url: str
) -> Iterator[tuple[int, NDArray[np.int64], pa.Table]]:
    """Yield each class with the indices of its members among the samples, and their rows of the table."""
    rows = samples["row"].to_numpy()
    places = np.searchsorted(rows, members["row"].to_numpy())
    if not np.array_equal(rows[places.clip(max=len(rows) - 1)], members["row"].to_numpy()):
        raise UsageError(f"{url}: {MEMBERS} has samples whose maps the atlas no longer has; make the audit again")
    classes = class_ids(samples, target, run.spec.target_names).to_numpy()[places]
    for class_id in np.unique(classes):
        inside = np.flatnonzero(classes == class_id)
        yield int(class_id), places[inside], members.take(inside)


def _write_analysis(group: Any, places: NDArray[np.int64], members: pa.Table, eigenvalues: Sequence[float]) -> None:
    clusters = members["cluster"].to_numpy()
    embedding = np.array(members["embedding"].to_pylist(), np.float32)
    width = max(2, embedding.shape[1])  # the viewer plots two of them
    embedding = np.pad(embedding, ((0, 0), (0, width - embedding.shape[1])))
    values = np.array(eigenvalues[:width], np.float32)
    group["index"] = places.astype(np.uint32)
    group[f"embedding/{EMBEDDING}"] = embedding
    group[f"embedding/{EMBEDDING}"].attrs["eigenvalue"] = np.pad(values, (0, width - len(values)))
    group[f"cluster/{CLUSTERING}"] = clusters.astype(np.int32)
    count = int(clusters.max()) + 1
    about = {"k": count, "embedding": EMBEDDING, "index": np.arange(count, dtype=np.uint32)}
    group[f"cluster/{CLUSTERING}"].attrs.update(about)


def _project(method: str, run: RunRecord, about: ExportSpec) -> Mapping[str, Any]:
    height, width = run.model.input_size
    return {
        "project": {
            "name": f"{method} ({about.target})",
            "model": public_model_name(run.model.name),
            "label_map": "labels.json",
            "dataset": {
                "name": f"run {run.run_hash.removeprefix('sha256:')[:12]}",
                "type": "hdf5",
                "path": "input.h5",
                "input_width": width,
                "input_height": height,
                "up_sampling_method": "none",
                "down_sampling_method": "none",
            },
            "attributions": {
                "attribution_method": method,
                "attribution_strategy": _STRATEGIES[about.target],
                "sources": [f"{method}.attribution.h5"],
            },
            "analyses": [{"analysis_method": ANALYSIS, "sources": [f"{method}.analysis.h5"]}],
        }
    }
