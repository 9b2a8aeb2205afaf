"""Prometheus metrics of a run on Ray: Ray exports them, ``k8s/grafana.json`` plots them.

Only the driver counts, since it sees every event; so they are of one run and start at 0.
"""

from typing import Any

from ray.util.metrics import Counter, Gauge

from pipeline.run.events import Event, ShardCommitted, ShardQuarantined, ShardRetried, ShardsInProgress

COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "vitatlas_shards_total": ("Shards committed.", ()),
    "vitatlas_images_total": ("Images of committed shards, by status.", ("status",)),
    "vitatlas_stage_seconds_total": ("Seconds of actors, by stage; total is all of them.", ("stage",)),
    "vitatlas_retries_total": ("Failed attempts at a shard that were followed by another.", ()),
    "vitatlas_quarantined_total": ("Shards that were quarantined.", ()),
}
GAUGES: dict[str, str] = {
    "vitatlas_shards_planned": "Shards that this run has to do.",
    "vitatlas_shards_running": "Shards that actors work on.",
}


class PrometheusMetrics:
    """Counters and gauges of the events of a run.

    Args:
        planned: shards that the run has to do.
    """

    def __init__(self, planned: int) -> None:
        self._counters: dict[str, Any] = {
            name: Counter(name, description, tags) for name, (description, tags) in COUNTERS.items()
        }
        self._gauges: dict[str, Any] = {name: Gauge(name, description) for name, description in GAUGES.items()}
        self._gauges["vitatlas_shards_planned"].set(planned)

    def record(self, event: Event) -> None:
        """Count an event."""
        if isinstance(event, ShardCommitted):
            self._increment("vitatlas_shards_total")
            for status, images in event.commit.statuses.items():
                self._increment("vitatlas_images_total", images, status=status)
            for stage, seconds in event.commit.seconds.items():
                self._increment("vitatlas_stage_seconds_total", seconds, stage=stage)
        elif isinstance(event, ShardRetried):
            self._increment("vitatlas_retries_total")
        elif isinstance(event, ShardQuarantined):
            self._increment("vitatlas_quarantined_total")
        elif isinstance(event, ShardsInProgress):
            self._gauges["vitatlas_shards_running"].set(len(event.shards))

    def _increment(self, name: str, by: float = 1, **tags: str) -> None:
        if by > 0:  # Ray refuses to count by 0
            self._counters[name].inc(by, tags)
