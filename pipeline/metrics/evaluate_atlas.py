"""Metrics of a whole atlas: a random selection of its images, evaluated shard by shard."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import get_args

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.metrics.evaluate_shard import class_targets, evaluate_shard
from pipeline.metrics.metric import Metric
from pipeline.metrics.registry import SUITES
from pipeline.metrics.sample_selection import select_samples
from pipeline.metrics.selected_values import Ordinals, SelectedValues, write_values
from pipeline.metrics.summary import summarize
from pipeline.run.derive import ShardResult, ShardTask, derive
from pipeline.run.execution import ComputeOptions, Device
from pipeline.run.recompute_maps import cached_worker
from pipeline.store import MapReader, ObjectStore
from pipeline.store.derived import ProductStore
from pipeline.store.parquet import to_parquet
from pipeline.utils.io import refuse_commands
from schemas.audit_samples import FAITHFULNESS_IMAGES, SANITY_IMAGES
from schemas.commits import DerivedCommit
from schemas.errors import UsageError
from schemas.metrics import METRIC_VALUES, OWN_WEIGHTS, MetricsSpec, MetricSuite
from schemas.samples import SampleStatus, class_columns, class_ids

SUMMARY = "summary.parquet"
DEFAULT_IMAGES: dict[MetricSuite, int] = {"faithfulness": FAITHFULNESS_IMAGES, "sanity": SANITY_IMAGES}
"""Number of images by suite."""
_COUNTED_SHARDS = 9


def evaluate_metrics(
    atlas: MapReader,
    out: str,
    suite: MetricSuite,
    methods: Sequence[str] = (),
    images: int | None = None,
    seed: int = 0,
    metrics: Mapping[str, Metric] | None = None,
    options: ComputeOptions = ComputeOptions(),
    log: Callable[[str], None] = lambda line: None,
) -> pa.Table:
    """Evaluate the maps of randomly selected images of the finished shards. What exists already is not computed again.

    Writes ``about.json``; for each shard with selected images ``values/<shard>.parquet`` and ``commits/<shard>.json``;
    then ``summary.parquet``. Columns are in ``schemas.metrics``. When the atlas has grown, the same call selects from
    all of it, and evaluates again the shards whose selected images changed; see ``select_samples``.

    Args:
        atlas: atlas with the maps.
        out: output folder or URL.
        suite: suite of metrics.
        methods: names of methods; empty is all.
        images: largest number of images; None is that of ``DEFAULT_IMAGES``.
        seed: seed of the selection, and of all random choices of metrics.
        metrics: metrics by name, with their options; None is all of the suite.
        options: cluster and device of the computation, and whether shell commands may be run to read images.
        log: called with the cost before anything is computed.

    Returns:
        The summary, ``schemas.metrics.METRIC_SUMMARY``.

    Raises:
        UsageError: there is no such suite, method or image, no metric is named, or ``out`` holds something else.
        CorruptShardError: a shard cannot be read, or its images are not those that the atlas has maps of.
        SpecMismatchError: the model has changed.
    """
    if suite not in get_args(MetricSuite):
        raise UsageError(f"there is no suite {suite!r} of metrics; there are {', '.join(get_args(MetricSuite))}")
    count = DEFAULT_IMAGES[suite] if images is None else images
    refuse_commands((shard.url for shard in atlas.run.shards), options.allow_pipe)
    metrics = SUITES[suite] if metrics is None else metrics
    names, url = atlas.select_methods(atlas.run.stored_targets[0], methods), atlas.url
    if not class_targets(atlas.run.spec):
        raise UsageError(f"{url}: has only maps of texts; metrics are of maps of classes, such as the target predicted")
    if not metrics:
        raise UsageError("there is nothing to evaluate; name at least one metric")
    if suite == "faithfulness" and atlas.run.model.has_constant_probability:
        raise UsageError(
            f"{atlas.url}: the softmax of its only class is always 1, so faithfulness is not defined; leave it "
            "out, for an audit by --images 0"
        )
    if count < 1:
        raise UsageError(f"there is nothing to evaluate on {count} images; take at least one")
    samples = select_samples(atlas, count, seed)
    if not samples:
        raise UsageError(f"{url}: has no sample with maps yet; run it first: vitatlas run {url}")
    about = MetricsSpec(
        run=atlas.run.run_hash,
        suite=suite,
        methods=names,
        images=count,
        seed=seed,
        metrics={name: asdict(metric) for name, metric in metrics.items()},
    )
    function = partial(_evaluate_shard, options.device, tuple(metrics.values()), about)
    values = _MetricValues(
        suite,
        function,
        atlas,
        ObjectStore(out),
        about=about,
        methods=names,
        metrics=metrics,
        samples=samples,
        costs={name: metric.cost(len(names)) for name, metric in metrics.items()},
        classes=mean_classes(atlas),
        log=log,
    )
    return derive(values, options)


@dataclass(frozen=True, kw_only=True)
class _MetricValues(SelectedValues[MapReader]):
    about: MetricsSpec
    metrics: Mapping[str, Metric]

    def remove_summary(self) -> None:
        self.objects.delete(SUMMARY)

    def finish(self, commits: Mapping[str, DerivedCommit], objects: ProductStore) -> pa.Table:
        directions = {value: better for metric in self.metrics.values() for value, better in metric.directions.items()}
        summary = summarize(self.read_values(objects), directions, _notes(self.source, self.metrics))
        objects.put(SUMMARY, to_parquet(summary))
        return summary


def suite_forwards(atlas: MapReader, suite: MetricSuite, methods: int) -> float:
    """Return the expected time of one image in a suite of metrics, in masked forwards.

    Args:
        atlas: the atlas.
        suite: suite with default options.
        methods: number of methods.
    """
    return mean_classes(atlas) * sum(metric.cost(methods).in_forwards for metric in SUITES[suite].values())


def mean_classes(atlas: MapReader) -> float:
    """Return how many classes of an image are explained, on average over a few shards.

    Several target kinds of one image are often of the same class, such as its label and its prediction, and nothing is
    computed twice for these.
    """
    spec = atlas.run.spec
    targets = class_targets(spec)
    columns = dict.fromkeys(column for target in targets for column in class_columns(target))
    images = classes = 0
    for shard in atlas.shard_names[:_COUNTED_SHARDS]:
        samples = atlas.samples_of(shard, columns=["status", *columns])
        samples = samples.filter(pc.equal(samples["status"].cast(pa.string()), SampleStatus.OK))
        by_target = [class_ids(samples, target, spec.target_names).to_pylist() for target in targets]
        images += len(samples)
        classes += sum(
            len({class_id for class_id in row if class_id is not None}) for row in zip(*by_target, strict=True)
        )
    return classes / max(1, images)


def _notes(atlas: MapReader, metrics: Mapping[str, Metric]) -> dict[tuple[str, str], str]:
    """Return remarks on values of methods with weights of their own, by method and value."""
    values = [value for metric in metrics.values() if metric.randomizes for value in metric.directions]
    return {(method, value): OWN_WEIGHTS for method in atlas.run.artifacts for value in values}


def _evaluate_shard(
    device: Device, metrics: Sequence[Metric], about: MetricsSpec, task: ShardTask[MapReader, Ordinals]
) -> ShardResult:
    atlas = task.source
    worker = cached_worker(atlas.locate(task.shard), device)
    tables = evaluate_shard(worker, atlas.shard(task.shard), task.data, metrics, about.methods, about.seed)
    return write_values(task, tables, METRIC_VALUES)
