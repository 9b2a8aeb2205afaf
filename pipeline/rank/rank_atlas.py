"""Rank the methods of an atlas: signals, verdicts and a policy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from numpy.typing import NDArray

from pipeline.rank import plot
from pipeline.rank.aggregate import Bootstrap, Floats, SignalMatrix, interval, rank_shares, read_matrices
from pipeline.rank.checks import check_signals
from pipeline.rank.choose_policy import choose_policy
from pipeline.rank.evaluate_signals import evaluate_signals
from pipeline.rank.localize import localize
from pipeline.rank.registry import SIGNALS
from pipeline.rank.search_policies import list_candidates, search_policies
from pipeline.rank.verdicts import MOSTLY, judge
from pipeline.run.execution import ComputeOptions
from pipeline.store import Atlas, Lease, ObjectStore
from pipeline.truth import TruthSet
from pipeline.utils.io import refuse_commands
from schemas.errors import UsageError
from schemas.policy import Policy
from schemas.rank import PICTURE, POLICY_FILE, RECORD, RankedMethod, RankRecord, SignalCheck, default_folder
from schemas.scores import is_control

DEFAULT_IMAGES = 200


@dataclass(frozen=True)
class RankOptions:
    """What is drawn and where it is computed.

    Attributes:
        images: largest number of images that the signals are computed on.
        seed: seed of their choice.
        truth: of some images of the atlas: then methods are ranked by localization on these, and the policy is chosen
            on them.
        compute: where it is computed; may shell commands be run to read images.
    """

    images: int = DEFAULT_IMAGES
    seed: int = 0
    truth: TruthSet | None = None
    compute: ComputeOptions = ComputeOptions()


def rank_atlas(
    atlas: Atlas,
    out: str | None = None,
    target: str = "label",
    methods: Sequence[str] = (),
    options: RankOptions = RankOptions(),
    log: Callable[[str], None] = lambda line: None,
) -> RankRecord:
    """Rank methods by signals, and by truth where there is any; write a policy. What is done is not computed again.

    Writes ``signals/`` (``schemas.rank.SIGNAL_VALUES``); with truth ``scores/``, see ``pipeline.score.score``; then
    ``policy.yaml``: of the methods that stand, if any does, or the best one by truth, if any has maps that are not
    degenerate; ``rank.png`` and ``rank.json``.

    Args:
        atlas: the atlas with the maps.
        out: output folder or URL; None is ``rank/<target>`` in the atlas.
        target: target kind of the maps.
        methods: names of methods; empty is all. Controls of the atlas always take part.
        options: images, and where it is computed.
        log: called with the cost before anything is computed.

    Raises:
        UsageError: no image has maps, the atlas has no control or no method, or the folder holds something else; see
            also ``localize`` and ``search_policies``.
        CorruptShardError: images cannot be read, or have changed.
        SpecMismatchError: the network has changed.
    """
    target = atlas.find_class_target(target)
    names = _select_methods(atlas, target, methods)
    refuse_commands((shard.url for shard in atlas.run.shards), options.compute.allow_pipe)
    out = (out or f"{atlas.objects.url.rstrip('/')}/{default_folder(target)}").rstrip("/")
    table = evaluate_signals(atlas, f"{out}/signals", target, names, options.images, options.seed, options.compute, log)
    images, matrices = read_matrices(table)
    bootstrap = Bootstrap(len(images))
    labels, predictions = _read_classes(atlas, images)
    ranking = {signal.name: signal for signal in SIGNALS if not signal.is_check}
    checks = check_signals(ranking, matrices, labels, predictions, bootstrap)
    runs = {method: atlas.run_of(atlas.run.shards[0].name, method) for method in names}
    rows = _rank_rows(runs, matrices, checks, bootstrap)
    policy, policy_score = choose_policy(rows, target, _base_names(atlas)), None
    if options.truth is not None:
        rows = localize(atlas, f"{out}/scores", target, options.truth, rows, options.compute, log)
        best = [row.method for row in rows if row.kind == "method" and row.localization and row.degenerate <= MOSTLY]
        candidates = list_candidates(best, policy.methods if policy else (), target)
        policy = None
        if candidates:
            policy, policy_score = search_policies(atlas, options.truth, candidates, options.seed, options.compute, log)
    record = RankRecord(
        run=atlas.run.run_hash,
        target=target,
        images=len(images),
        seed=options.seed,
        signals=checks,
        methods=rows,
        truth=(options.truth.name, options.truth.digest) if options.truth else None,
        policy=policy.methods if policy else (),
        policy_score=policy_score,
    )
    write_ranking(ObjectStore(out), record, policy)
    return record


def _select_methods(atlas: Atlas, target: str, methods: Sequence[str]) -> tuple[str, ...]:
    """Return the methods to rank in the order of the atlas, and its controls.

    Raises:
        UsageError: there is no control or no method, or the atlas lacks one.
    """
    chosen = set(atlas.select_methods(target, methods))
    names = tuple(name for name in atlas.methods if name in chosen or is_control(name))
    for kind, found in (("control", filter(is_control, names)), ("method", (n for n in names if not is_control(n)))):
        if not next(found, None):
            url = atlas.objects.url
            fix = "add them: " if kind == "control" else "add some: "
            examples = "center,random,edges" if kind == "control" else "attention,legrad"
            raise UsageError(f"{url}: has no {kind} to compare with; {fix}vitatlas extend {url} --methods {examples}")
    return names


def _base_names(atlas: Atlas) -> dict[str, str]:
    """Return the name without options of each method of the atlas."""
    specs = zip(atlas.run.methods, atlas.run.spec.methods, strict=True)
    return {name: spec.partition(":")[0] for name, spec in specs}


def _read_classes(atlas: Atlas, images: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return label (NaN without one) and prediction of images that are given by their rows: float64 [n] each."""
    shards = dict.fromkeys(atlas.run.shards[row // atlas.run.slot].name for row in images.tolist())
    columns = ["row", "label", "prediction"]
    table = pa.concat_tables([atlas.samples_of(shard, columns) for shard in shards])
    places = pc.index_in(pa.array(images), table["row"].combine_chunks())
    label, prediction = (
        table[name].take(places).cast(pa.float64()).to_numpy(zero_copy_only=False) for name in columns[1:]
    )
    return label, prediction


def _rank_rows(
    runs: Mapping[str, str],
    matrices: Mapping[str, SignalMatrix],
    checks: Mapping[str, SignalCheck],
    bootstrap: Bootstrap,
) -> tuple[RankedMethod, ...]:
    """Return the rows of the ranking, best first, of methods with the hashes of the runs that made their maps."""
    valid = {name: matrices[name] for name, check in checks.items() if check.valid}
    controls = {name: matrix.best_control or "" for name, matrix in valid.items()}
    shares = rank_shares(valid, tuple(runs), bootstrap)
    rows = []
    for method, run in runs.items():
        scores = {
            name: score for name in checks if name in matrices and (score := matrices[name].score(method, bootstrap))
        }
        contrast = _share(matrices["contrast"], method)
        difference = _share(matrices["class_difference"], method) if "class_difference" in matrices else None
        isolated = 1 - (_share(matrices["spread"], method) or 0.0)
        degenerate, same = 1 - (contrast or 0.0), None if difference is None else 1 - difference
        valid_scores = {name: score for name, score in scores.items() if name in valid}
        verdict, reason = None, "a control"
        if not is_control(method):
            verdict, reason = judge(valid_scores, controls, degenerate, same, isolated)
        rank, low, high = None, None, None
        if method in shares:
            rank, (low, high) = float(shares[method][0]), interval(shares[method])
        rows.append(
            RankedMethod(
                method=method,
                kind="control" if is_control(method) else "method",
                verdict=verdict,
                reason=reason,
                rank=rank,
                rank_low=low,
                rank_high=high,
                degenerate=degenerate,
                isolated=isolated,
                same_for_classes=same,
                signals=scores,
                run=run,
            )
        )
    return tuple(sorted(rows, key=lambda row: -(row.rank if row.rank is not None else -1.0)))


def _share(matrix: SignalMatrix, method: str) -> float | None:
    """Return the mean of a check over the images where it is defined; None if there are none."""
    values = matrix.values.get(method)
    return None if values is None or np.isnan(values).all() else float(np.nanmean(values))


def write_ranking(objects: ObjectStore, record: RankRecord, policy: Policy | None) -> None:
    """Write policy and picture, and the record last; a policy that no longer follows from the record is removed."""
    with Lease(objects):
        objects.delete(RECORD)
        if policy is None:
            objects.delete(POLICY_FILE)
        else:
            objects.put(POLICY_FILE, yaml.safe_dump(policy.model_dump(mode="json"), sort_keys=False).encode())
        objects.put(PICTURE, plot.plot_ranking(record))
        objects.put(RECORD, record.to_bytes())
