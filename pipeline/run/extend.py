"""Extend an atlas by methods: they get a part of their own for the same shards, and no existing object is changed."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipeline.explain.explainer import check_supported
from pipeline.explain.load import load_model
from pipeline.explain.method import Method
from pipeline.explain.registry import methods as registry
from pipeline.run.driver import run_part
from pipeline.run.execution import ExecutionOptions
from pipeline.run.plan import artifact_hashes, check_grids, check_model, method_fields, package_versions, with_artifacts
from pipeline.run.sample_texts import check_text_methods
from pipeline.store import Atlas, Lease, ObjectStore, zarr_arrays
from pipeline.store.run_file import read_appended, read_planned
from pipeline.utils.io import refuse_commands
from pipeline.utils.terminal import echo
from schemas.errors import UsageError
from schemas.layout import DROPPED, RUN, extended_url, part_folder
from schemas.run_record import RunRecord, ShardRecord


@dataclass(frozen=True)
class Extension:
    """What is missing of methods in an atlas.

    Attributes:
        atlas: that is extended.
        methods: names of the methods that were asked for.
        present: names of the methods that it has.
        unfinished: parts that are to be finished, as some of the methods are in them.
        part: record of the part that is to be added, with the shards that were appended to the atlas; None if no method
            is missing.
    """

    atlas: Atlas
    methods: tuple[str, ...]
    present: tuple[str, ...]
    unfinished: tuple[Atlas, ...]
    part: RunRecord | None


def plan_extension(url: str, methods: Sequence[str], artifacts: Sequence[str] = ()) -> Extension:
    """Find out which methods an atlas lacks, and describe the part with them. Nothing is written.

    Args:
        url: of the atlas.
        methods: with options, as in a ``RunSpec``.
        artifacts: files of ``vitatlas train``; each adds the learned method that it is for.

    Raises:
        UsageError: there is no atlas or no such method, the network does not support it, or the atlas has it with other
            options or another artifact.
        SpecMismatchError: the network is not the one that the atlas was planned with.
    """
    atlas = open_whole(url)
    chosen = with_artifacts(registry.resolve(methods), artifacts)
    if not chosen:
        raise UsageError("there is nothing to add; name methods with --methods")
    holders = {method.name: _find_holder(atlas, method) for method in chosen}
    missing = tuple(method for method in chosen if holders[method.name] is None)
    parts = [part for part in atlas.parts if part in holders.values() and not atlas.committed <= part.committed]
    present = tuple(name for name, holder in holders.items() if holder is not None and holder not in parts)
    return Extension(atlas, tuple(holders), present, tuple(parts), _plan_part(atlas, missing) if missing else None)


def open_whole(url: str) -> Atlas:
    """Open an atlas that is to be extended.

    Raises:
        UsageError: it is a part of one.
    """
    atlas = Atlas.open(url)
    if atlas.own.extends:
        raise UsageError(f"{url}: is a part of an atlas; extend that atlas, {extended_url(url)}")
    return atlas


def _find_holder(atlas: Atlas, method: Method) -> Atlas | None:
    """Return the atlas or part that has a method.

    Raises:
        UsageError: it has it with other options.
    """
    for holder in (atlas, *atlas.parts):
        if method.name not in holder.own.methods:
            continue
        known, digest = holder.own.methods[method.name], holder.own.artifacts.get(method.name)
        path = {"artifact"} if digest else set()  # the same file may be elsewhere now
        if digest != method.artifact_hash or _without(known, path) != _without(method.recorded_options, path):
            raise UsageError(
                f"{atlas.objects.url}: has maps of {method.name} with other options or another artifact; drop them "
                f"first: vitatlas drop {atlas.objects.url} --methods {method.name}"
            )
        return holder
    return None


def _without(options: Mapping[str, Any], names: Container[str]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in names}


def _plan_part(atlas: Atlas, methods: tuple[Method, ...]) -> RunRecord:
    run, url = read_planned(atlas.objects), atlas.objects.url
    loaded = load_model(run.spec.model)
    check_model(run, loaded.record, url)
    supported = check_supported(methods, loaded.anatomy, lambda: loaded.record.weights)
    check_text_methods(supported, run.spec, loaded.anatomy)
    check_grids(supported, loaded)
    fields = method_fields(supported) | {
        "spec": run.spec.model_copy(update={"methods": tuple(method.spec for method in supported)}),
        "artifacts": artifact_hashes(supported),
        "versions": package_versions(),
        "extends": run.run_hash,
    }
    return run.model_copy(update=fields).sealed().followed_by(_appended_shards(atlas))


def _appended_shards(atlas: Atlas) -> tuple[ShardRecord, ...]:
    appended = read_appended(atlas.objects, atlas.own)
    return appended.shards if appended else ()


def extend(
    url: str,
    methods: Sequence[str],
    artifacts: Sequence[str] = (),
    options: ExecutionOptions | None = None,
    on_plan: Callable[[Extension], None] = lambda extension: None,
) -> Atlas:
    """Add methods to an atlas: their maps of every finished shard. What exists is not changed.

    The part is a folder of its own, with record, arrays, sample tables and commits, see ``schemas.layout.part_folder``.
    Its maps are those that an atlas has that was planned with all methods. Call it again to resume.

    Args:
        url: of the atlas.
        methods: with options, as in a ``RunSpec``.
        artifacts: files of ``vitatlas train``; each adds the learned method that it is for.
        options: of the execution; None is Ray with its defaults.
        on_plan: called with what is missing, before anything is written.

    Returns:
        The atlas with the methods.

    Raises:
        UsageError, SpecMismatchError: see ``plan_extension``.
        RunFailedError: another run or extend writes to the atlas, or shards could not be done.
        StoppedEarlyError: interrupted by SIGINT or SIGTERM.
    """
    options, opened = options or ExecutionOptions(), open_whole(url)
    refuse_commands((shard.url for shard in opened.own.shards), options.allow_pipe)
    with Lease(opened.objects, partial(echo, err=True)):
        extension = plan_extension(url, methods, artifacts)
        on_plan(extension)
        holders = [part for part in extension.atlas.parts if not set(part.own.methods).isdisjoint(extension.methods)]
        folders = [part.objects.url for part in holders]  # a part that is done may have a lease left
        if extension.part:
            folders.append(_create_part(extension.atlas, extension.part))
        for folder in folders:
            run_part(folder, options)
    atlas = Atlas.open(url)
    atlas.check_planned(atlas.own.spec.target_names[0], extension.methods)
    return atlas


def _create_part(atlas: Atlas, part: RunRecord) -> str:
    """Write the arrays of a part, then its record, which makes it exist; return its URL."""
    objects = ObjectStore(f"{atlas.objects.url}/{part_folder(part.run_hash)}")
    objects.delete(DROPPED)  # of a part with these methods, if its removal was stopped at the very end
    zarr_arrays.create_arrays(objects, part)
    planned = part.before_last(len(_appended_shards(atlas)))  # those are in one file for the atlas and its parts
    objects.create(RUN, planned.to_bytes())  # else another process was faster, with the same methods
    return objects.url
