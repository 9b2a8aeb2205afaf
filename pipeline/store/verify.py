"""Is what stands in an atlas what was committed, all of it, and nothing else?"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from pipeline.store import arrays
from pipeline.store.atlas import Atlas, Tar
from pipeline.store.objects import unfinished
from schemas import layout
from schemas.errors import RunFailed
from schemas.layout import commit_object, samples_object, set_aside_object, shard_object
from schemas.record import sha256
from schemas.run import CommitRecord
from schemas.samples import Status

_DERIVED = (layout.LABELS, layout.SCORES, layout.AUDIT)


@dataclass
class Verdict:
    """What was looked at, and what is wrong.

    Attributes:
        objects: committed ones that were read and compared.
        missing: tars that have no commit.
        faults: a sentence for each.
        damaged: tars that are to be done again, for it to be mended.
    """

    objects: int = 0
    missing: int = 0
    faults: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def verify(url: str, progress: Callable[[int, int], None] = lambda done, total: None) -> Verdict:
    """Check every committed object by its checksum, every row by its map, and that nothing else is there.

    Args:
        progress: called with tars checked and tars in all.
    """
    atlas = Atlas.open(url)
    verdict = Verdict(missing=len(atlas.run.shards) - len(atlas.committed))
    if atlas.run.spec.digest() != atlas.run.spec_hash:
        verdict.faults.append(f"{layout.RUN}: has been changed since it was planned")
    verdict.faults += arrays.wrong(atlas.objects, atlas.run)
    if verdict.faults:  # nothing can be read through such metadata
        return verdict
    expected = _of_the_run(atlas)
    for done, shard in enumerate(atlas.run.shards, 1):
        if shard.tar in atlas.committed:
            try:
                commit = atlas.record(shard.tar)
            except RunFailed as error:
                verdict.faults.append(f"{error}")
                verdict.damaged.append(shard.tar)
                expected |= _own(atlas, done - 1)
            else:
                verdict.objects += len(commit.objects)
                wrong = [*_wrong_record(atlas, commit), *_wrong_objects(atlas, commit)]
                wrong = wrong or _wrong_rows(atlas, Tar(atlas, commit))
                verdict.faults += [f"{shard.tar}: {each}" for each in wrong]
                verdict.damaged += [shard.tar] * bool(wrong)
                expected |= {entry.path for entry in commit.objects}
        else:  # what a stopped run wrote of it is written over when it is done
            expected |= _own(atlas, done - 1)
        progress(done, len(atlas.run.shards))
    for name, _ in atlas.objects.walk():
        if unfinished(name) and verdict.missing:
            continue  # a run that goes on removes it
        if name not in expected and name.partition("/")[0] not in _DERIVED:
            verdict.faults.append(f"{name}: belongs to nothing that was committed")
    return verdict


def _of_the_run(atlas: Atlas) -> set[str]:
    """Objects that are there whatever is committed, or may be."""
    tars = [shard.tar for shard in atlas.run.shards]
    names = {layout.RUN, layout.LEASE, *arrays.metadata_objects(atlas.run)}
    return names | {commit_object(tar) for tar in tars} | {set_aside_object(tar) for tar in tars}


def _own(atlas: Atlas, tar_index: int) -> set[str]:
    """Objects that a tar may have."""
    run = atlas.run
    names = {samples_object(run.shards[tar_index].tar)}
    for method in run.methods:
        for name, kind in layout.arrays(method, run.figures.get(method, ())).items():
            names.add(shard_object(name, tar_index, len(kind.dims)))
    return names


def _wrong_record(atlas: Atlas, commit: CommitRecord) -> Iterator[str]:
    own = _own(atlas, commit.tar_index)
    for entry in commit.objects:
        if entry.path not in own:
            yield f"its commit names {entry.path}, which is not its own"


def _wrong_objects(atlas: Atlas, commit: CommitRecord) -> Iterator[str]:
    own = _own(atlas, commit.tar_index)
    for entry in commit.objects:
        if entry.path not in own:
            continue
        try:
            data = atlas.objects.get(entry.path)
        except FileNotFoundError:
            yield f"{entry.path}: is missing"
            continue
        if len(data) != entry.size:
            yield f"{entry.path}: has {len(data)} bytes, {entry.size} were committed"
        elif sha256(data) != entry.sha256:
            yield f"{entry.path}: its contents have changed since they were committed"


def _wrong_rows(atlas: Atlas, part: Tar) -> list[str]:
    commit = part.commit
    rows = part.samples["row"].to_numpy()
    first = commit.tar_index * atlas.run.slot
    if len(rows) != commit.rows or not np.array_equal(rows, np.arange(first, first + commit.rows)):
        return [f"its sample table has not the {commit.rows} rows that were committed"]
    statuses = Counter(part.samples["status"].to_pylist())
    if dict(statuses) != commit.statuses or statuses[Status.OK] != commit.ok:
        return [f"its rows have the statuses {dict(statuses)}, {commit.statuses} were committed"]
    good = part.good
    keys = Counter(key for key, ok in zip(part.samples["key"].to_pylist(), good, strict=True) if ok)
    problems = [f"{count} samples that are ok have the key {key}" for key, count in keys.items() if count > 1]
    for method in atlas.methods:
        for name, kind in layout.arrays(method, atlas.run.figures.get(method, ())).items():
            if kind is layout.FIGURE:  # may be undefined
                continue
            values = part.array(name)[good]
            present = np.isfinite(values) if np.isnan(kind.empty) else values != kind.empty
            what = f"{name} map" if kind is layout.MAP else name
            for place, target in enumerate(atlas.run.spec.targets):
                lacking = int((~present[:, place]).any(tuple(range(1, present.ndim - 1))).sum())
                if lacking:
                    problems.append(f"{lacking} samples that are ok have no {what} of their {target}")
    return problems
