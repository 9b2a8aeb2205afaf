"""Localization scores of an atlas: every method against the truth."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa

from pipeline.run.parallel_map import parallel_map
from pipeline.score.aggregate import row
from pipeline.score.counters import ALL, Tally, unpack
from pipeline.score.plots import curves, draw
from pipeline.score.score_shard import counts_object, score_shard
from pipeline.score.splits import Part, parts_of, tuning_parts
from pipeline.score.trivial_boxes import TRIVIAL
from pipeline.store import Atlas, Lease, ObjectStore
from pipeline.store.derived import check_output_dir, load_completed, remove_stale
from pipeline.store.parquet import to_parquet
from pipeline.truth import TruthSet, read_truth
from schemas.base import sha256
from schemas.errors import UsageError
from schemas.layout import ABOUT, SCORES
from schemas.run import TargetKind
from schemas.scores import LOCALIZATION, ScoresRecord, TuningRecord, is_control

TABLE, CURVES, FIGURE, TUNING = "localization.parquet", "curves.parquet", "curves.png", "tuning"


def score(
    url: str,
    truth: str,
    target: TargetKind = "label",
    methods: Sequence[str] = (),
    tune: str | None = None,
    tune_atlas: str | None = None,
    subset: bool = False,
    out: str | None = None,
    address: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> pa.Table:
    """Score the maps of an atlas. What is counted already is not counted again.

    Writes ``about.json``; for each shard ``counts/<shard>.npz`` and ``commits/<shard>.json``; then ``curves.parquet``,
    ``curves.png`` and ``localization.parquet``.

    Args:
        truth: a file or folder, as ``read_truth`` takes it.
        target: whose maps; ``label`` is what the literature calls GT-known.
        methods: empty is all.
        tune: truth of the pictures that thresholds are tuned on, in this atlas or in ``tune_atlas``. None: see
            ``parts_of``.
        subset: score the pictures that truth and atlas both have.
        out: folder or URL; None is ``scores/<truth>-<target>`` in the atlas.
        address: of a Ray cluster, see ``parallel_map``.
        say: told what is left out.

    Returns:
        A table as ``schemas.scores.LOCALIZATION``, best PxAP first.

    Raises:
        UsageError: no such method or target; a picture without truth, truth without a picture, truth of another
            size, an object that cannot be used; ``out`` holds other scores. No table is written then.
    """
    atlas, known = Atlas.open(url), read_truth(truth)
    chosen = tuple(dict.fromkeys(methods)) or atlas.methods
    atlas.require(target, chosen)
    other = Atlas.open(tune_atlas) if tune_atlas else None
    if other is not None and tune is None:
        raise UsageError(f"{tune_atlas}: say the truth of its pictures, with --tune FILE|DIR")
    tuning = read_truth(tune) if tune else None
    parts = parts_of(atlas, known, None if other else tuning or "by hash", subset, say)
    further: list[Part] = []
    if other is not None and tuning is not None:
        other.require(target, chosen)
        if other.run.model.weights != atlas.run.model.weights:
            raise UsageError(f"{tune_atlas}: is of another network than {url}; its thresholds say nothing here")
        further = list(tuning_parts(other, tuning, subset, say))
    about = _about(atlas, known, target, subset, tuning, other, [*parts, *further])
    objects = ObjectStore(out or default_output_dir(url, truth, target))
    _claim(objects, about)
    with Lease(objects):
        objects.put(ABOUT, about.to_bytes())
        remove_stale(objects, atlas)
        tallies, counts = _counted(atlas, parts, objects, about, chosen, address)
        if not tallies or not tallies[chosen[0]].counts["images"][ALL].any():
            raise UsageError(f"{url}: has no sample with maps and an object in {truth}")
        if other is not None:
            apart, _ = _counted(other, further, ObjectStore(f"{objects.url}/{TUNING}"), about, chosen, address)
            tallies = {name: tally + apart[name] for name, tally in tallies.items()}
        rows = [_row(atlas, target, name, tally, counts) for name, tally in tallies.items()]
        if not rows[0]["test_images"]:
            say("all pictures are in the tuning split, so nothing is left to test its thresholds on")
        rows.sort(key=lambda each: (-(each["pxap"] or 0), -each["maxboxacc_v2"]))
        table = pa.Table.from_pylist(rows, schema=LOCALIZATION)
        lines = curves(tallies)
        objects.put(CURVES, to_parquet(lines))
        objects.put(FIGURE, draw(table, lines))
        objects.put(TABLE, to_parquet(table))
        objects.sweep()
    return table


def _about(
    atlas: Atlas,
    truth: TruthSet,
    target: TargetKind,
    subset: bool,
    tuning: TruthSet | None,
    other: Atlas | None,
    parts: Iterable[Part],
) -> ScoresRecord:
    keys = {key for part in parts for key in (*part.split, *(part.aside or ()))}
    tuned = TuningRecord(
        truth=tuning.digest if tuning else None,
        atlas=other.run.spec_hash if other else None,
        keys=sha256("\n".join(sorted(keys)).encode()),
    )
    return ScoresRecord(
        run=atlas.run.spec_hash, truth=truth.digest, name=truth.name, target=target, subset=subset, tuning=tuned
    )


def _claim(objects: ObjectStore, about: ScoresRecord) -> None:
    """Finished scores of something else are not written over; those of a part of the shards are gone on with."""
    finished = objects.exists(TABLE)
    there = check_output_dir(
        objects, ABOUT, about, ("protocol", "tuning") if finished else tuple(ScoresRecord.model_fields)
    )
    tuned = ("truth", "atlas")
    if finished and there and any(getattr(there.tuning, name) != getattr(about.tuning, name) for name in tuned):
        raise UsageError(f"{objects.url}: holds scores with another tuning split; name another --out, or remove it")


def default_output_dir(url: str, truth: str, target: TargetKind) -> str:
    """Where scores stand if nobody says it: ``scores/<truth>-<target>`` in the atlas."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(truth).resolve().name).strip("-") or "truth"
    return f"{url.rstrip('/')}/{SCORES}/{name}-{target}"


def _counted(
    atlas: Atlas,
    parts: Sequence[Part],
    objects: ObjectStore,
    about: ScoresRecord,
    methods: tuple[str, ...],
    address: str | None,
) -> tuple[dict[str, Tally], Counter[str]]:
    """Counts of all shards together, and of pictures by what became of them."""
    settings_hash, wanted = about.digest(), {*TRIVIAL, *methods}
    records = load_completed(objects, atlas, settings_hash)
    there = {shard: record.items for shard, record in records.items()}
    pending = [(part, there.get(part.shard, ())) for part in parts if not wanted <= set(there.get(part.shard, ()))]
    for name in (TABLE, CURVES, FIGURE) if pending else ():
        objects.delete(name)  # they are of what was there before
    work = partial(score_shard, atlas, about.target, methods, objects.url, settings_hash)
    for record in parallel_map(work, pending, "score", address):
        records[record.shard] = record
    tallies: dict[str, Tally] = {}
    counts: Counter[str] = Counter()
    shards = [part.shard for part in parts]
    for shard, data in zip(shards, objects.read([counts_object(shard) for shard in shards]), strict=True):
        found = unpack(data, f"{objects.url}/{counts_object(shard)}")
        tallies = {
            name: tallies[name] + found[name] if name in tallies else found[name] for name in (*TRIVIAL, *methods)
        }
        counts.update(records[shard].counts)
    return tallies, counts


def _row(atlas: Atlas, target: TargetKind, name: str, tally: Tally, counts: Mapping[str, int]) -> dict[str, Any]:
    model = atlas.run.model
    return {
        "method": name,
        "kind": "control" if is_control(name) else "method",
        "target": target,
        "classifier": f"{PurePath(model.name).name} {model.weights.removeprefix('sha256:')[:12]}",
        "without_maps": counts.get("without_maps", 0),
        "without_object": counts.get("without_object", 0),
        **row(name, target, tally),
    }
