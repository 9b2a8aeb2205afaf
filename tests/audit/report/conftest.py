"""One small report, that many tests look at."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import Open, chromium, opening_pages
from playwright.sync_api import Browser, Page
from report_world import METHODS, NAMES, Reported, completeness, localization, ranking, reproduced, spoil, summary
from support import DEMO_MODEL, build_once, in_one_process

from pipeline.audit.audit_atlas import AuditOptions, audit_atlas
from pipeline.audit.report import write_report
from pipeline.demo.synthetic_dataset import SyntheticDataset, write_dataset
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.store import Atlas, ObjectStore
from pipeline.store.parquet import to_parquet
from schemas.run import RunSpec
from schemas.scores import ScoringSpec, TuningSplitRecord


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """A report with pictures, not to be changed."""
    atlas = Atlas.open(str(build_once(tmp_path_factory, "reported", write_reported) / "atlas"))
    return Reported(atlas, Path(atlas.objects.url) / "audit" / "label")


def write_reported(folder: Path) -> None:
    """Write an atlas with an audit in it, with scores of every kind, whose values are made up, and with a report."""
    world = SyntheticDataset(folder, num_shards=2, scenes=130, seed=1)
    write_dataset(world)
    for index in range(world.num_shards):
        spoil(Path(world.shards.replace("{00..01}", f"{index:02d}")), index * world.scenes)
    url = str(world.folder / "atlas")
    plan(RunSpec(shards=(world.shards,), model=DEMO_MODEL, methods=METHODS), url)
    atlas = run(url, INLINE)
    with in_one_process():
        audit_atlas(Atlas.open(url), audit_options=AuditOptions(0, 0, 0, include_images=False))
    out = ObjectStore(f"{url}/audit/label")
    for suite, figures in (("faithfulness", ("adcc", "deletion")), ("sanity", ("mprt",))):
        out.put(f"{suite}/summary.parquet", to_parquet(summary(figures)))
    out.put("completeness.parquet", to_parquet(completeness()))
    out.put("reproducibility.parquet", to_parquet(reproduced()))
    ObjectStore(url).put("rank/label/rank.json", ranking(atlas.run.run_hash).to_bytes())
    scores = ObjectStore(f"{url}/scores/truth-label")
    about = ScoringSpec(
        run=atlas.run.run_hash,
        truth="sha256:1",
        name="<b>truth</b>",
        target="label",
        subset=False,
        tuning=TuningSplitRecord(keys=""),
    )
    scores.put("about.json", about.to_bytes())
    scores.put("localization.parquet", to_parquet(localization()))
    with in_one_process():
        write_report(Atlas.open(url), f"{url}/audit/label", names=NAMES)


@pytest.fixture
def copy(reported: Reported, tmp_path: Path) -> Reported:
    """A copy of it, to be changed."""
    return Reported(reported.atlas, Path(shutil.copytree(reported.audit, tmp_path / "audit")))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def visit(browser: Browser, reported: Reported) -> Iterator[Open]:
    """Open a view of the report."""
    with opening_pages(browser) as opened:

        def visit(view: str = "", folder: Path = reported.folder, **options: Any) -> Page:
            return opened(f"{folder}/index.html{view}", reduced_motion="reduce", **options)

        yield visit
