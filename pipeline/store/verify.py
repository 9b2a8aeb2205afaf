"""Is what stands in an atlas what was committed?"""

import numpy as np

from pipeline.store import arrays
from pipeline.store.atlas import Atlas
from schemas import layout
from schemas.record import sha256
from schemas.run import CommitRecord


def verify(url: str) -> tuple[int, list[str], int]:
    """Check every committed object by length and checksum, and every row by its map.

    Returns:
        Objects that were checked, a sentence for each that is wrong, and tars that have no commit yet.
    """
    atlas = Atlas.open(url)
    problems = arrays.wrong(atlas.objects, atlas.run)
    if problems:  # nothing can be read through such metadata
        return 0, problems, len(atlas.run.shards) - len(atlas.commits)
    checked = 0
    for tar, commit in atlas.commits.items():
        checked += len(commit.objects)
        wrong = _wrong_objects(atlas, commit)
        problems += wrong or _wrong_rows(atlas, tar, commit)
    return checked, problems, len(atlas.run.shards) - len(atlas.commits)


def _wrong_objects(atlas: Atlas, commit: CommitRecord) -> list[str]:
    wrong = []
    if commit.spec_hash != atlas.run.spec_hash:
        wrong.append(f"{commit.tar}: was computed for another spec, {commit.spec_hash}")
    for entry in commit.objects:
        try:
            data = atlas.objects.get(entry.path)
        except FileNotFoundError:
            wrong.append(f"{entry.path}: is missing")
            continue
        if len(data) != entry.size:
            wrong.append(f"{entry.path}: has {len(data)} bytes, {entry.size} were committed")
        elif sha256(data) != entry.sha256:
            wrong.append(f"{entry.path}: its contents have changed since they were committed")
    return wrong


def _wrong_rows(atlas: Atlas, tar: str, commit: CommitRecord) -> list[str]:
    part = atlas.tar(tar)
    rows = part.samples["row"].to_numpy()
    first = commit.tar_index * atlas.run.slot
    if len(rows) != commit.rows or not np.array_equal(rows, np.arange(first, first + commit.rows)):
        return [f"{tar}: its sample table has not the {commit.rows} rows that were committed"]
    good = part.good
    if good.sum() != commit.ok:
        return [f"{tar}: {good.sum()} samples are ok, {commit.ok} were committed"]
    problems = []
    for method in atlas.methods:
        for name, kind in layout.arrays(method, atlas.run.figures.get(method, ())).items():
            for target in atlas.run.spec.targets:
                values = part.values(name, target)[good]
                missing = np.isnan(values).any() if np.isnan(kind.empty) else (values == kind.empty).any()
                if missing and kind is not layout.FIGURE:  # a figure may be undefined
                    what = f"{name} map" if kind is layout.MAP else name
                    problems.append(f"{tar}: a sample that is ok has no {what} of its {target}")
    return problems
