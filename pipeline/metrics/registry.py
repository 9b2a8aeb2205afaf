"""All metrics by name and suite. A metric is registered in ``schemas.metrics``."""

from importlib import import_module

from pipeline.metrics.metric import Metric
from schemas.metrics import DIRECTIONS, REGISTERED_METRICS, MetricSuite


def _load(name: str) -> Metric:
    """Return the metric that ``pipeline/metrics/<name>.py`` defines, with its default options."""
    module = import_module(f"pipeline.metrics.{name}")
    (metric,) = (
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, Metric) and item.__module__ == module.__name__
    )
    return metric()


METRICS: dict[str, Metric] = {name: _load(name) for name in DIRECTIONS}
SUITES: dict[MetricSuite, dict[str, Metric]] = {
    suite: {name: METRICS[name] for name in names} for suite, names in REGISTERED_METRICS.items()
}
FAITHFULNESS = SUITES["faithfulness"]
"""Metrics of whether a map shows what the model uses."""
SANITY = SUITES["sanity"]
"""Metrics of whether a map depends on the model, the class and noise at all."""
