"""What Prometheus hears of a run on Ray, and that the dashboard asks for nothing else."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from pipeline.run import prometheus
from pipeline.run.events import LogMessage, ShardCommitted, ShardQuarantined, ShardRetried, ShardsInProgress
from pipeline.run.prometheus import COUNTERS, GAUGES, PrometheusMetrics
from pipeline.store import Atlas

DASHBOARD = Path(__file__).parents[2] / "k8s" / "grafana.json"


def asked() -> dict[str, set[str]]:
    """Metrics that the dashboard names, and the labels that it selects or groups them by."""
    found: dict[str, set[str]] = {}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            by = set(re.findall(r"by \((\w+)\)", target["expr"]))
            for name, selector in re.findall(r"ray_(vitatlas_\w+)(?:\{([^}]*)\})?", target["expr"]):
                found.setdefault(name, set()).update(by | set(re.findall(r"(\w+)\s*[=!]", selector)))
    return found


def test_the_dashboard_asks_for_every_metric_and_no_other() -> None:
    assert set(asked()) == {*COUNTERS, *GAUGES}


def test_the_dashboard_knows_the_labels_that_metrics_have() -> None:
    for name, labels in asked().items():
        assert labels <= set(COUNTERS[name][1] if name in COUNTERS else ())


def test_counters_are_named_as_prometheus_has_them() -> None:
    assert all(name.endswith("_total") for name in COUNTERS)
    assert not any(name.endswith("_total") for name in GAUGES)


@pytest.mark.usefixtures("ray_cluster")
def test_metrics_are_made_by_ray_with_the_tags_they_have() -> None:
    made = PrometheusMetrics(3)
    made.record(ShardsInProgress((1, 2)))
    made.record(ShardRetried(1, 1, "the network failed"))
    for name, (_, tags) in COUNTERS.items():
        assert (made._counters[name].info["name"], made._counters[name].info["tag_keys"]) == (name, tags)


def test_every_outcome_is_counted(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: Counter[tuple[str, ...]] = Counter()

    class Recorder:
        def __init__(self, name: str, description: str, tags: tuple[str, ...] = ()) -> None:
            self.name, self.tags = name, tags

        def inc(self, value: float, tags: dict[str, str]) -> None:
            assert set(tags) == set(self.tags)
            counted[self.name, *tags.values()] += value

        def set(self, value: float) -> None:
            counted[self.name,] = value

    monkeypatch.setattr(prometheus, "Counter", Recorder)
    monkeypatch.setattr(prometheus, "Gauge", Recorder)
    commit = Atlas.open(str(finished)).record("part-1")
    commit = commit.model_copy(update={"statuses": {"ok": 6, "undecodable": 1}, "seconds": {"read": 0.0, "total": 2.0}})
    made = PrometheusMetrics(3)
    for outcome in (
        ShardsInProgress((0, 1)),
        ShardCommitted(commit),
        ShardRetried(0, 1, "x"),
        ShardQuarantined(0, 2, "x"),
        LogMessage("x"),
        ShardsInProgress((2,)),
    ):
        made.record(outcome)
    assert counted == {
        ("vitatlas_shards_planned",): 3,
        ("vitatlas_shards_running",): 1,
        ("vitatlas_shards_total",): 1,
        ("vitatlas_images_total", "ok"): 6,
        ("vitatlas_images_total", "undecodable"): 1,
        ("vitatlas_stage_seconds_total", "total"): 2,
        ("vitatlas_retries_total",): 1,
        ("vitatlas_quarantined_total",): 1,
    }
