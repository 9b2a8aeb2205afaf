"""From what a user asks for to a frozen run."""

import platform
from collections.abc import Callable, Iterable
from importlib.metadata import version

from pipeline.explain.artifacts import read_artifact
from pipeline.explain.explainer import check_supported
from pipeline.explain.load import LoadedModel, absolute_model_spec, load_model
from pipeline.explain.method import Method
from pipeline.explain.registry import methods as registry
from pipeline.read import PreprocessConfig, count_samples, expand_shards, resolve_pattern
from pipeline.run.gpu_decode import check_frame
from pipeline.store import Lease, ObjectStore, zarr_arrays
from schemas.base import differences
from schemas.errors import SpecMismatchError, UsageError
from schemas.layout import RUN
from schemas.run import RunRecord, RunSpec, ShardRecord

CHUNK = 256
"""Rows of a Zarr chunk: small enough to read one map quickly, large enough for shards of a thousand."""

_COMPUTE = ("vit-atlas", "torch", "timm", "numpy", "pillow", "zarr", "pyarrow")


def plan(spec: RunSpec, out: str, progress: Callable[[int, int], None] = lambda done, total: None) -> RunRecord:
    """Freeze a run: find and count the shards, look at the network, write arrays and ``run.json``.

    Planning again with the same spec is free and changes nothing.

    Args:
        out: local path or fsspec URL of the atlas.
        progress: called with shards counted and shards in all.

    Raises:
        UsageError: something in the spec does not exist or does not fit; nothing has been written then.
        SpecMismatchError: an atlas is there that was planned otherwise; the message names the fields.
    """
    objects = ObjectStore(out)
    asked = spec = _absolute(spec)
    if objects.exists(RUN):
        return _same(objects, asked)
    urls = expand_shards(spec.shards, spec.allow_pipe)
    loaded = load_model(spec.model)
    chosen = _with_artifacts(registry.resolve(spec.methods or registry.defaults(loaded.anatomy)), spec.artifacts)
    chosen = check_supported(chosen, loaded.anatomy, lambda: loaded.record.weights)
    spec = spec.model_copy(update={"methods": tuple(method.spec for method in chosen), "artifacts": ()})
    frame = PreprocessConfig.for_model(loaded.record, spec.geometry)  # refuses what cannot be placed
    if spec.decode == "gpu":
        check_frame(frame)
    run = freeze(
        spec, loaded, count_samples(urls, lambda done: progress(done, len(urls)), spec.partial_shards == "keep")
    )
    with Lease(objects):
        if objects.exists(RUN):  # another was quicker
            return _same(objects, asked)
        zarr_arrays.create(objects, run)
        objects.put(RUN, run.to_bytes())
        objects.sweep()
    return run


def _absolute(spec: RunSpec) -> RunSpec:
    """The spec with paths that mean the same in every process and from every folder."""
    shards = tuple(resolve_pattern(pattern, spec.root) for pattern in spec.shards)
    return spec.model_copy(update={"model": absolute_model_spec(spec.model), "shards": shards, "root": ""})


def freeze(spec: RunSpec, loaded: LoadedModel, shards: tuple[ShardRecord, ...]) -> RunRecord:
    """The record of a run over shards that are counted. Nothing is written.

    Raises:
        UsageError: no shard can be used.
    """
    if all(shard.fault and not shard.partial for shard in shards):
        raise UsageError(f"{shards[0].url}: {shards[0].fault}; no shard can be used")
    largest = max(1, *(shard.samples for shard in shards))
    chunk = min(CHUNK, largest)
    methods = registry.resolve(spec.methods)
    return RunRecord(
        spec=spec,
        spec_hash=spec.digest(),
        model=loaded.record,
        methods={method.name: method.options() for method in methods},
        extra_outputs={method.name: method.extra_outputs for method in methods if method.extra_outputs},
        artifacts=artifacts(methods),
        provenance={method.name: method.design for method in methods if method.design},
        slot=-(-largest // chunk) * chunk,
        chunk=chunk,
        shards=shards,
        versions=versions(),
    )


def _with_artifacts(methods: Iterable[Method], files: Iterable[str]) -> tuple[Method, ...]:
    """Methods, of which those with weights of their own have the file whose card names them.

    Raises:
        UsageError: a file does not say whose it is, or a method has another file already.
    """
    chosen = {method.name: method for method in methods}
    for file in files:
        card = read_artifact(file).record
        if card is None:
            raise UsageError(
                f"{file}: is no artefact of vitatlas train, or does not say so; see docs/howto/training.md"
            )
        method = registry.parse(f"{card.method}:artifact={file}")
        before = chosen.get(method.name)
        if before is not None and before.artifact_hash not in (None, method.artifact_hash):
            raise UsageError(f"{file}: {method.name} has another artefact already, {before.spec}")
        chosen[method.name] = method
    return tuple(chosen.values())


def _same(objects: ObjectStore, spec: RunSpec) -> RunRecord:
    """The run that is there, if it is the one that is asked for. Metadata of arrays that got lost is written again."""
    out = objects.url
    run = RunRecord.read(objects.get(RUN), f"{out}/{RUN}")
    chosen = _with_artifacts(registry.resolve(spec.methods or run.spec.methods), spec.artifacts)
    methods = tuple(method.spec for method in chosen)
    wanted = spec.model_copy(update={"methods": methods, "artifacts": ()})
    differing = differences(run.spec.model_dump(mode="json"), wanted.model_dump(mode="json"))
    if not differing and any(set("*?[") & set(pattern) for pattern in spec.shards):  # others match the same
        urls = expand_shards(spec.shards, spec.allow_pipe)
        if urls != tuple(shard.url for shard in run.shards):
            differing = [f"the shards match {len(urls)} shards, not the {len(run.shards)} that were planned"]
    if not differing:
        check_artifacts(run, out)
    if differing:
        raise SpecMismatchError(
            f"{out}: was planned with another spec: {'; '.join(differing)}; "
            "choose another --out, or give the arguments it was planned with"
        )
    if zarr_arrays.wrong(objects, run):
        zarr_arrays.create(objects, run)
    return run


def artifacts(methods: Iterable[Method]) -> dict[str, str]:
    """Hash of the file of each method that has weights of its own."""
    hashes = {method.name: method.artifact_hash for method in methods}
    return {name: digest for name, digest in hashes.items() if digest}


def check_artifacts(run: RunRecord, url: str) -> None:
    """Refuse to go on with other weights than those that the run was planned with.

    Raises:
        SpecMismatchError: the file of a method has changed.
    """
    now = artifacts(registry.resolve(run.spec.methods))
    for name, digest in run.artifacts.items():
        if now.get(name) != digest:
            raise SpecMismatchError(
                f"{url}: the artefact of {name} was {digest} when it was planned and is {now.get(name)} now; "
                "restore it, or plan another atlas"
            )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what the maps are."""
    return {"python": platform.python_version()} | {name: version(name) for name in _COMPUTE}
