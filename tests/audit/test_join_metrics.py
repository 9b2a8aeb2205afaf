"""Figures of faithfulness and sanity stand beside the numbers of the very maps that they are of."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.audit.join_metrics import ShardMetrics, metric_hashes
from pipeline.store import Atlas
from pipeline.store.derived import content_hash
from schemas.audit_tables import SAMPLED_METRICS


def test_every_figure_of_the_target_is_a_column_of_its_map_and_all_others_are_null(published: Path) -> None:
    figures = {
        (row["row"], row["method"], row["metric"]): row["value"]
        for kind in ("faithfulness", "sanity")
        for row in pq.read_table(published / kind / "values").to_pylist()
        if row["target"] == "label" and row["value"] is not None
    }
    joined = {
        (row["row"], row["method"], name): row[name]
        for row in pq.read_table(published / "images").to_pylist()
        for name in SAMPLED_METRICS
        if row[name] is not None
    }
    assert joined == figures
    seen = {figure for *_, figure in joined}
    assert seen | {"grid_pointing"} == set(SAMPLED_METRICS)  # null where the network sees no mosaic of so few images


def test_means_by_method_are_of_the_pictures_that_were_drawn(published: Path) -> None:
    rows = [row for row in pq.read_table(published / "images").to_pylist() if row["method"] == "legrad"]
    (mean,) = (
        row
        for row in pq.read_table(published / "methods.parquet").to_pylist()
        if row["method"] == "legrad" and row["class"] is None
    )
    for name in ("adcc", "deletion", "mprt"):
        assert mean[name] == pytest.approx(np.mean([row[name] for row in rows if row[name] is not None]))


def test_figures_of_maps_that_are_no_more_are_left_out(published: Path, tmp_path: Path) -> None:
    commit = next(iter(Atlas.open(str(published.parents[1])).commits.values()))
    out = shutil.copytree(published, tmp_path / "audit")
    rows = np.arange(10**6)
    assert len(metric_hashes(str(out), commit.shard, content_hash(commit))) == 2
    assert np.isfinite(
        ShardMetrics(str(out), commit.shard, content_hash(commit), "label").column("legrad", "adcc", rows)
    ).any()
    for kind in ("faithfulness", "sanity"):
        path = out / kind / "commits" / f"{commit.shard}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"parent": "sha256:0"}))
    assert metric_hashes(str(out), commit.shard, content_hash(commit)) == ()
    assert np.isnan(
        ShardMetrics(str(out), commit.shard, content_hash(commit), "label").column("legrad", "adcc", rows)
    ).all()
