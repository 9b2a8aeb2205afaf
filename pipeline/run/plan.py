"""Planning: from a spec to the frozen record of a run."""

import platform
import re
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any

from pipeline.explain.artifacts import read_artifact
from pipeline.explain.attribution.learned import LearnedMethod
from pipeline.explain.checkpoint.conversion import BY_TIMM
from pipeline.explain.explainer import check_supported
from pipeline.explain.head import Head
from pipeline.explain.label_names import label_names, wordnet_ids
from pipeline.explain.load import LoadedModel, absolute_model_spec, load_model
from pipeline.explain.method import Method
from pipeline.explain.registers import Registers
from pipeline.explain.registry import methods as registry
from pipeline.read import PreprocessConfig, count_samples, expand_shards, find_labels, resolve_pattern
from pipeline.run.gpu_decode import check_interpolation
from pipeline.run.sample_texts import anatomy_for, check_text_methods, check_tower, load_text_tower
from pipeline.store import Atlas, Lease, ObjectStore, zarr_arrays
from pipeline.store.class_names import check_class_names
from pipeline.store.run_file import read_planned
from schemas.base import differences
from schemas.errors import SpecMismatchError, UnsupportedMethod, UsageError
from schemas.head import AttachedHead
from schemas.layout import RUN
from schemas.model import ModelRecord
from schemas.registers import AttachedRegisters
from schemas.run import RunSpec
from schemas.run_record import RunRecord, slot_rows
from schemas.shard_record import ShardRecord
from schemas.targets import UNLABELLED, resolve_kinds

CHUNK = 256
"""Rows of a Zarr chunk: small enough to read one map quickly, large enough for shards of a thousand."""

_WORDNET_ID = re.compile(r"n\d{8}")
_PACKAGES = ("vit-atlas", "torch", "timm", "numpy", "pillow", "zarr", "pyarrow")


def plan(spec: RunSpec, out: str, progress: Callable[[int, int], None] = lambda done, total: None) -> RunRecord:
    """Plan a run: find and count the shards, load the model, write the arrays and ``run.json``.

    Planning again with the same spec changes nothing.

    Args:
        spec: of the run.
        out: local path or fsspec URL of the atlas.
        progress: called with the number of shards that are counted and of all.

    Raises:
        UsageError: something in the spec does not exist or does not fit, or the atlas has another format; nothing has
            been written.
        SpecMismatchError: the atlas exists and was planned with another spec; the message names the fields.
    """
    objects = ObjectStore(out)
    requested = spec = _resolve_paths(spec)
    if objects.exists(RUN):
        return _check_existing(objects, requested)
    urls = expand_shards(spec.shards, spec.allow_pipe)
    loaded = load_model(spec.model)
    if tower := load_text_tower(spec):
        check_tower(tower, spec)
        spec = spec.model_copy(update={"text_tower": tower.spec})
    chosen = registry.resolve(spec.methods or registry.defaults(anatomy_for(spec, loaded.anatomy)))
    methods = check_supported(with_artifacts(chosen, spec.artifacts), loaded.anatomy, lambda: loaded.record.weights)
    check_text_methods(methods, spec, loaded.anatomy)
    check_grids(methods, loaded)
    _check_classes(loaded, spec)
    targets = resolve_kinds(spec.targets, _class_names(loaded, spec) or spec.classes, loaded.record.classes)
    methods_and_targets = {"methods": tuple(method.spec for method in methods), "artifacts": (), "targets": targets}
    spec = spec.model_copy(update=methods_and_targets)
    config = PreprocessConfig.for_model(loaded.record, spec.geometry, spec.exif)
    if spec.decode == "gpu":
        check_interpolation(config)
    shards = count_samples(urls, lambda done: progress(done, len(urls)), spec.partial_shards == "keep", spec.grouping)
    if requested.has_default_targets:
        shards = find_labels(shards, spec.grouping)
    run = make_run_record(spec, loaded, shards)
    if run.is_unlabelled and requested.has_default_targets:
        run = make_run_record(spec.model_copy(update={"targets": UNLABELLED}), loaded, shards)
    with Lease(objects):
        if objects.exists(RUN):  # another process was faster
            return _check_existing(objects, requested)
        zarr_arrays.create_arrays(objects, run)
        if not objects.create(RUN, run.to_bytes()):  # another process took this one for dead
            return _check_existing(objects, requested)
        objects.remove_temp_files()
    return run


def check_grids(methods: tuple[Method, ...], loaded: LoadedModel) -> None:
    """Make sure that the maps of all methods have the grid of the network, as arrays of an atlas do.

    Raises:
        UnsupportedMethod: one reads another layer.
    """
    for method in methods:
        if (grid := method.grid(loaded.anatomy)) != (own := loaded.anatomy.grid):
            raise UnsupportedMethod(
                f"{method.spec}: its maps have {grid[0]} × {grid[1]} cells, and those of an atlas of this network "
                f"{own[0]} × {own[1]}; leave out layer, or compute these maps by pipeline.explain.explain"
            )


def _resolve_paths(spec: RunSpec) -> RunSpec:
    """Make the paths of a spec absolute, so that they mean the same in every process."""
    shards = tuple(resolve_pattern(pattern, spec.root) for pattern in spec.shards)
    tower = spec.text_tower.absolute() if spec.text_tower else None
    paths = {"model": absolute_model_spec(spec.model), "shards": shards, "root": "", "text_tower": tower}
    return spec.model_copy(update=paths)


def make_run_record(spec: RunSpec, loaded: LoadedModel, shards: tuple[ShardRecord, ...]) -> RunRecord:
    """Make the record of a run. Nothing is written.

    Args:
        spec: of the run, with absolute paths, all methods, and classes by id.
        loaded: its model.
        shards: counted.

    Raises:
        UsageError: no shard can be used.
    """
    if all(shard.fault and not (shard.partial and shard.samples) for shard in shards):
        raise UsageError(f"{shards[0].url}: {shards[0].fault}; no shard can be used")
    largest = max(1, *(shard.samples for shard in shards))
    chunk = min(CHUNK, largest)
    methods = registry.resolve(spec.methods)
    return RunRecord(
        spec=spec,
        model=loaded.record,
        artifacts=artifact_hashes(methods),
        **method_fields(methods),
        label_names=() if loaded.record.head else label_names(loaded.model, spec.model.pretrained),
        slot=slot_rows((shard.samples for shard in shards), chunk),
        chunk=chunk,
        shards=shards,
        versions=package_versions(),
    ).sealed()


def _class_names(loaded: LoadedModel, spec: RunSpec) -> tuple[str, ...]:
    return loaded.record.class_names or label_names(loaded.model, spec.model.pretrained)


def _check_classes(loaded: LoadedModel, spec: RunSpec) -> None:
    """Make sure that the class names of labels are those of the network.

    Raises:
        UsageError: there are not as many, or they are in another order.
    """
    name, own = spec.model.name, _class_names(loaded, spec)
    check_class_names(spec.classes, own, loaded.record.classes, name)
    known = () if loaded.record.head else wordnet_ids(loaded.model, spec.model.pretrained)
    if known and all(map(_WORDNET_ID.fullmatch, spec.classes)):
        for class_id, (given, own_id) in enumerate(zip(spec.classes, known, strict=False)):
            if given != own_id:
                raise UsageError(
                    f"{name}: class {class_id} is {own_id}, and {given} in --classes; give the WordNet ids in the "
                    "order of the network"
                )


def method_fields(methods: Iterable[Method]) -> dict[str, Any]:
    """Return the fields of a run that describe its methods, apart from their artifacts."""
    return {
        "methods": {method.name: method.recorded_options for method in methods},
        "extra_outputs": {method.name: method.extra_outputs for method in methods if method.extra_outputs},
        "provenance": {method.name: method.design for method in methods if method.design},
    }


def with_artifacts(methods: Iterable[Method], files: Iterable[str]) -> tuple[Method, ...]:
    """Load artifacts into the methods that their records name.

    Raises:
        UsageError: a file does not name its method, or the method has another artifact already.
    """
    method_by_name = {method.name: method for method in methods}
    for file in files:
        record = read_artifact(file).record
        if record is None:
            raise UsageError(
                f"{file}: is no artifact of vitatlas train, or does not say so; see docs/howto/training.md"
            )
        method = registry.parse(f"{record.method}:artifact={file}")
        existing = method_by_name.get(method.name)
        if existing is not None and existing.artifact_hash not in (None, method.artifact_hash):
            raise UsageError(f"{file}: {method.name} has another artifact already, {existing.spec}; use one of them")
        method_by_name[method.name] = method
    trained = [method.base_name for method in method_by_name.values() if method.artifact_hash]
    for method in method_by_name.values():
        if trained and isinstance(method, LearnedMethod) and not method.artifact_hash:
            raise UsageError(
                f"{method.name}: has no artifact, those given are for {', '.join(trained)}; add --artifact FILE of "
                f"vitatlas train {method.base_name}, or leave it out"
            )
    return tuple(method_by_name.values())


def _check_existing(objects: ObjectStore, spec: RunSpec) -> RunRecord:
    """Return the existing run if it has this spec. Lost metadata of arrays is written again."""
    out = objects.url
    atlas, planned = Atlas.open(out), read_planned(objects)
    methods = with_artifacts(registry.resolve(spec.methods or atlas.own.spec.methods), spec.artifacts)
    # Methods and targets that were added later may be named or not.
    run = atlas.run if {method.name for method in methods} == set(atlas.methods) else atlas.own
    targets = resolve_kinds(spec.targets, run.class_names, run.model.classes)
    run = run.with_targets((atlas.run if targets == atlas.run.spec.targets else atlas.own).spec.targets)
    if planned.is_unlabelled and run.spec.targets == UNLABELLED and spec.has_default_targets:
        targets = UNLABELLED
    methods_and_targets = {"methods": tuple(method.spec for method in methods), "artifacts": (), "targets": targets}
    if spec.text_tower and run.spec.text_tower:  # a worker compares the files with the hash
        spec = spec.model_copy(
            update={"text_tower": spec.text_tower.model_copy(update={"sha256": run.spec.text_tower.sha256})}
        )
    requested = spec.model_copy(update=methods_and_targets)
    mismatches = differences(run.spec.model_dump(mode="json"), requested.model_dump(mode="json"))
    if not mismatches and any(set("*?[") & set(pattern) for pattern in spec.shards):  # may match other files now
        urls = expand_shards(spec.shards, spec.allow_pipe)
        known = tuple(shard.url for shard in run.shards)
        if urls not in (known, known[: len(planned.shards)]):
            counts = f"{len(urls)} shards, not the {len(known)} that were planned"
            mismatches = [f"the shards match {counts} (vitatlas extend --shards adds others)"]
    if not mismatches:
        check_network_files(run, out)
        check_methods(run, out)
    if mismatches:
        raise SpecMismatchError(
            f"{out}: was planned with another spec: {'; '.join(mismatches)}; "
            "choose another --out, or give the arguments it was planned with"
        )
    if zarr_arrays.metadata_faults(objects, atlas.own):
        zarr_arrays.create_arrays(objects, atlas.own)
    return run


def check_model(run: RunRecord, loaded: ModelRecord, url: str) -> None:
    """Make sure that a network is the one that the run was planned with.

    Args:
        run: planned.
        loaded: the record of the network as it is now.
        url: of the atlas, for the message.

    Raises:
        SpecMismatchError: the network has changed; the message names the fields.
    """
    if run.model.conversion is None and loaded.conversion is not None and loaded.conversion.layout == BY_TIMM:
        loaded = loaded.model_copy(update={"conversion": None})  # older versions did the same without a record
    changes = differences({"model": run.model.model_dump(mode="json")}, {"model": loaded.model_dump(mode="json")})
    if changes:
        raise SpecMismatchError(
            f"{url}: the network was planned with other values than it is loaded with now: {'; '.join(changes)}; "
            "restore it, or plan another atlas"
        )


def check_network_files(run: RunRecord, url: str) -> None:
    """Make sure that head file and registers are those that the run was planned with, without loading the network.

    Args:
        run: planned.
        url: of its atlas, for the message.

    Raises:
        UsageError: there is no such file.
        SpecMismatchError: a file has changed.
    """
    spec, model = run.spec.model, run.model
    files: list[tuple[str, str | None, AttachedHead | AttachedRegisters | None, Callable[[str], str]]] = [
        ("head", spec.head, model.head, lambda path: Head.load(path).digest),
        ("registers", spec.registers, model.registers, lambda path: Registers.load(path).record.attached.hash),
    ]
    for name, path, planned, digest in files:
        if path and planned and (now := digest(path)) != planned.hash:
            raise SpecMismatchError(
                f"{url}: the network was planned with other values than it is loaded with now: model.{name}.hash is "
                f"{planned.hash!r}, not {now!r}; restore {path}, or plan another atlas"
            )


def artifact_hashes(methods: Iterable[Method]) -> dict[str, str]:
    """Return the hash of the artifact of each method that has one."""
    hashes = {method.name: method.artifact_hash for method in methods}
    return {name: digest for name, digest in hashes.items() if digest}


def check_methods(run: RunRecord, url: str) -> None:
    """Make sure that methods have the options and artifacts that the run was planned with.

    Args:
        run: planned.
        url: of its atlas, for the message.

    Raises:
        SpecMismatchError: the artifact of a method has changed, or the record or this version has other options.
    """
    methods = registry.resolve(run.spec.methods)
    hashes = artifact_hashes(methods)
    for name, digest in run.artifacts.items():
        if hashes.get(name) != digest:
            raise SpecMismatchError(
                f"{url}: the artifact of {name} was {digest} when it was planned and is {hashes.get(name)} now; "
                "restore it, or plan another atlas"
            )
    fields = method_fields(methods)
    planned, now = (
        record.model_dump(mode="json", include=set(fields)) for record in (run, run.model_copy(update=fields))
    )
    if changes := differences(planned, now):
        raise SpecMismatchError(
            f"{url}: its methods were planned otherwise than this version computes them: {'; '.join(changes)}; use the "
            f"version it was planned with, {run.versions.get('vit-atlas')}, or plan another atlas"
        )


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that the maps depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}
