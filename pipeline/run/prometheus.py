"""A run on Ray in numbers, for Prometheus: Ray exports them, ``k8s/grafana.json`` draws them.

Only the driver counts, since it hears of everything; so they are of one run, and begin at 0 with the next.
"""

from typing import Any

from ray.util.metrics import Counter, Gauge

from pipeline.run.events import Committed, Event, InProgress, Quarantined, Retrying

COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "vitatlas_units_total": ("Shards committed.", ()),
    "vitatlas_images_total": ("Images of committed shards, by what became of them.", ("status",)),
    "vitatlas_stage_seconds_total": ("Seconds of actors, by stage; total is all of them.", ("stage",)),
    "vitatlas_retries_total": ("Attempts at a shard that failed, after which another was made.", ()),
    "vitatlas_quarantined_total": ("Shards that were quarantined.", ()),
}
GAUGES: dict[str, str] = {
    "vitatlas_units_planned": "Shards that this run has to do.",
    "vitatlas_units_running": "Shards that actors work on.",
}


class Metrics:
    """Counts outcomes.

    Args:
        planned: shards that the run has to do.
    """

    def __init__(self, planned: int) -> None:
        self._counters: dict[str, Any] = {
            name: Counter(name, description, tags) for name, (description, tags) in COUNTERS.items()
        }
        self._gauges: dict[str, Any] = {name: Gauge(name, description) for name, description in GAUGES.items()}
        self._gauges["vitatlas_units_planned"].set(planned)

    def note(self, outcome: Event) -> None:
        """Count an outcome."""
        if isinstance(outcome, Committed):
            self._count("vitatlas_units_total")
            for status, images in outcome.commit.statuses.items():
                self._count("vitatlas_images_total", images, status=status)
            for stage, seconds in outcome.commit.seconds.items():
                self._count("vitatlas_stage_seconds_total", seconds, stage=stage)
        elif isinstance(outcome, Retrying):
            self._count("vitatlas_retries_total")
        elif isinstance(outcome, Quarantined):
            self._count("vitatlas_quarantined_total")
        elif isinstance(outcome, InProgress):
            self._gauges["vitatlas_units_running"].set(len(outcome.shards))

    def _count(self, name: str, by: float = 1, **tags: str) -> None:
        if by > 0:  # Ray refuses to count by nothing
            self._counters[name].inc(by, tags)
