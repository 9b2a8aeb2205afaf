"""Extend an atlas by methods or targets: they get a part for the same shards, and no existing object is changed."""

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
from pipeline.run.plan import (
    artifact_hashes,
    check_grids,
    check_methods,
    check_model,
    method_fields,
    package_versions,
    with_artifacts,
)
from pipeline.run.sample_texts import check_text_methods
from pipeline.store import Atlas, Lease, ObjectStore, zarr_arrays
from pipeline.store.run_file import read_appended, read_planned
from pipeline.utils.io import refuse_commands
from pipeline.utils.terminal import echo
from schemas.errors import UsageError
from schemas.layout import DROPPED, RUN, extended_url, part_folder
from schemas.run_record import RunRecord
from schemas.shard_record import ShardRecord
from schemas.targets import is_text, most_labels, resolve_kinds, target_names


@dataclass(frozen=True)
class Extension:
    """What is missing of methods, or of targets, in an atlas.

    Attributes:
        atlas: that is extended.
        names: of the methods or targets that were asked for.
        present: those of them that it has.
        parts: parts that are needed, with some of the methods or with other targets, finished or not.
        part: record of the part that is to be added, with the shards that were appended to the atlas; None if nothing
            is missing.
    """

    atlas: Atlas
    names: tuple[str, ...]
    present: tuple[str, ...]
    parts: tuple[Atlas, ...]
    part: RunRecord | None

    @property
    def unfinished(self) -> list[Atlas]:
        """Parts that are to be finished first."""
        return [part for part in self.parts if not self.atlas.committed <= part.committed]


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
    parts = tuple(part for part in atlas.parts if part.own.first_target or part in holders.values())
    present = tuple(name for name in holders if name in atlas.run.methods)
    part = _plan_part(atlas, missing, _target_kinds(atlas)) if missing else None
    return Extension(atlas, tuple(holders), present, parts, part)


def plan_targets(url: str, kinds: Sequence[str]) -> Extension:
    """Find out which targets an atlas lacks, and describe the part with them. Nothing is written.

    Args:
        url: of the atlas.
        kinds: target kinds, as in a ``RunSpec``, but for texts.

    Raises:
        UsageError: there is no atlas or no such target, not every image has it, or the atlas has some targets of a kind
            but not all.
        SpecMismatchError: network or methods are not those that the atlas was planned with.
    """
    atlas = open_whole(url)
    run, before = atlas.own, _target_kinds(atlas)
    kinds = resolve_kinds(kinds, run.class_names, run.model.classes)
    names, known = target_names(kinds), target_names(before)
    if not kinds:
        raise UsageError("there is nothing to add; name targets with --targets")
    missing = tuple(kind for kind in kinds if not set(target_names([kind])) <= set(known))
    for place, kind in enumerate(missing):
        _check_kind(atlas, kind, (*known, *target_names(missing[:place])))
    present = tuple(name for name in names if name in atlas.run.stored_targets)
    if not missing:
        return Extension(atlas, names, present, atlas.parts, None)
    whole = run.joined(part.own for part in atlas.parts if not part.own.first_target)
    check_methods(whole, url)
    part = _plan_part(atlas, registry.resolve(whole.spec.methods), (*before, *missing), len(known))
    return Extension(atlas, names, present, atlas.parts, part)


def _check_kind(atlas: Atlas, kind: str, known: Sequence[str]) -> None:
    """Make sure that a target kind can be added, for every image with maps.

    Raises:
        UsageError: it cannot.
    """
    url, another = atlas.objects.url, "plan another atlas with these targets"
    if common := [name for name in target_names([kind]) if name in known]:
        fix = "name only the others" if kind.startswith("class:") else another
        raise UsageError(f"{url}: has {', '.join(common)} already, which {kind} includes; {fix}")
    if is_text(kind):
        raise UsageError(f"{url}: target {kind} needs a text of every image, which the atlas does not have; {another}")
    if not most_labels([kind]):
        return
    if most_labels(known):
        raise UsageError(f"{url}: {kind} reads the same labels as the targets that it has; {another}")
    labels = atlas.samples_with_maps(["label", "labels"]).to_pylist()
    classes, is_single = atlas.own.model.classes, kind == "label"
    ids = [[row["label"]] if row["label"] is not None else [] if is_single else row["labels"] or [] for row in labels]
    if unusable := sum(not of_image or not all(0 <= label < classes for label in of_image) for of_image in ids):
        raise UsageError(f"{url}: {unusable} of {len(labels)} images with maps have no usable {kind}; {another}")


def _target_kinds(atlas: Atlas) -> tuple[str, ...]:
    """Return the target kinds of an atlas and all of its parts, finished or not, in the order of their addition."""
    return max((each.own.spec for each in (atlas, *atlas.parts)), key=lambda spec: len(spec.target_names)).targets


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
        UsageError: it has it with other options, or for some targets only, as it is being dropped.
    """
    for holder in (atlas, *atlas.parts):
        if method.name not in holder.own.methods:
            continue
        if holder.own.first_target:
            raise UsageError(
                f"{atlas.objects.url}: {method.name} is being dropped; finish it: vitatlas drop {atlas.objects.url} "
                f"--methods {method.name}"
            )
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


def _plan_part(atlas: Atlas, methods: tuple[Method, ...], kinds: tuple[str, ...], first_target: int = 0) -> RunRecord:
    run, url = read_planned(atlas.objects), atlas.objects.url
    loaded = load_model(run.spec.model)
    check_model(run, loaded.record, url)
    supported = check_supported(methods, loaded.anatomy, lambda: loaded.record.weights)
    spec = run.spec.model_copy(update={"methods": tuple(method.spec for method in supported), "targets": kinds})
    check_text_methods(supported, spec, loaded.anatomy)
    check_grids(supported, loaded)
    fields = method_fields(supported) | {
        "spec": spec,
        "artifacts": artifact_hashes(supported),
        "versions": package_versions(),
        "extends": run.run_hash,
        "first_target": first_target,
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
    extension = _extend(url, lambda: plan_extension(url, methods, artifacts), options, on_plan)
    atlas = Atlas.open(url)
    atlas.check_planned(atlas.own.spec.target_names[0], extension.names)
    return atlas


def extend_targets(
    url: str,
    kinds: Sequence[str],
    options: ExecutionOptions | None = None,
    on_plan: Callable[[Extension], None] = lambda extension: None,
) -> Atlas:
    """Add targets to an atlas: the maps that all of its methods make of them. What exists is not changed.

    The part has the arrays of these targets alone, and sample tables with the columns of all targets. Tables and maps
    are then those of an atlas that was planned with all targets. Call it again to resume.

    Args:
        url: of the atlas.
        kinds: target kinds, as in a ``RunSpec``, but for texts.
        options: of the execution; None is Ray with its defaults.
        on_plan: called with what is missing, before anything is written.

    Returns:
        The atlas with the targets.

    Raises:
        UsageError, SpecMismatchError: see ``plan_targets``.
        RunFailedError: another run or extend writes to the atlas, or shards could not be done.
        StoppedEarlyError: interrupted by SIGINT or SIGTERM.
    """
    extension = _extend(url, lambda: plan_targets(url, kinds), options, on_plan)
    atlas = Atlas.open(url)
    for name in extension.names:
        atlas.find_target(name)
    return atlas


def _extend(
    url: str,
    plan: Callable[[], Extension],
    options: ExecutionOptions | None,
    on_plan: Callable[[Extension], None],
) -> Extension:
    options, opened = options or ExecutionOptions(), open_whole(url)
    refuse_commands((shard.url for shard in opened.own.shards), options.allow_pipe)
    with Lease(opened.objects, partial(echo, err=True)):
        extension = plan()
        on_plan(extension)
        for part in extension.parts:  # one that is done may have a lease left
            run_part(part.objects.url, options)
        if extension.part:
            run_part(_create_part(extension.atlas, extension.part), options)
    return extension


def _create_part(atlas: Atlas, part: RunRecord) -> str:
    """Write the arrays of a part, then its record, which makes it exist; return its URL."""
    objects = ObjectStore(f"{atlas.objects.url}/{part_folder(part.run_hash)}")
    objects.delete(DROPPED)  # of a part with these methods, if its removal was stopped at the very end
    zarr_arrays.create_arrays(objects, part)
    planned = part.before_last(len(_appended_shards(atlas)))  # those are in one file for the atlas and its parts
    objects.create(RUN, planned.to_bytes())  # else another process was faster, with the same methods
    return objects.url
