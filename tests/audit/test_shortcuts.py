"""The class with the planted shortcut comes first, and without one no class raises an alarm. No hint is given."""

import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from support import DEMO_MODEL

from pipeline.audit.fixed_location_test import ALARM_THRESHOLD
from pipeline.audit.shortcuts import ShortcutTables, find_shortcuts, rank_classes, select_alarms
from pipeline.demo.run_demo import VARIANTS
from pipeline.demo.scenes import SHORTCUT_CLASS
from pipeline.demo.synthetic_dataset import SyntheticDataset, write_dataset
from pipeline.explain.load import load_model
from pipeline.explain.registry import methods as registry
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.store import Atlas
from schemas.audit_tables import CLUSTER_MEMBERS, CLUSTERS, SHORTCUTS
from schemas.errors import UsageError
from schemas.run import RunSpec
from schemas.scores import is_control

METHODS = ("attention", "legrad", "reciprocam", "random")
FINDING = METHODS[:3]


def search(folder: Path, shortcut: bool, scenes: int) -> ShortcutTables:
    world = SyntheticDataset(folder, num_shards=3, scenes=scenes, seed=1, shortcut=shortcut)
    write_dataset(world)
    (folder / "truth" / "instances.json").unlink()  # nothing but shards, and no truth, is left to look at
    url = str(folder / "atlas")
    plan(RunSpec(shards=(world.shards,), model=DEMO_MODEL, methods=METHODS, targets=("label",)), url)
    run(url, INLINE)
    return find_shortcuts(Atlas.open(url))


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> ShortcutTables:
    return search(tmp_path_factory.mktemp("planted"), True, scenes=250)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> ShortcutTables:
    return search(tmp_path_factory.mktemp("honest"), False, scenes=120)


def of(table: pa.Table, method: str) -> list[dict]:
    return [row for row in table.to_pylist() if row["method"] == method]


@pytest.mark.parametrize("method", FINDING)
def test_the_class_with_the_shortcut_is_first_and_alone_raises_an_alarm(planted: ShortcutTables, method: str) -> None:
    rows = of(planted.classes, method)
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["class"] for row in rows if row["alarm"]] == [SHORTCUT_CLASS] == [rows[0]["class"]]
    assert (rows[0]["y"], rows[0]["x"]) in {(7, 0), (6, 0), (7, 1)}  # lower left, where the mark is
    assert rows[0]["outlier_share"] > 0.35 > 5 * rows[0]["outlier_share_others"]


@pytest.mark.parametrize("method", METHODS)
def test_without_a_shortcut_there_is_no_alarm(honest: ShortcutTables, method: str) -> None:
    rows = of(honest.classes, method)
    assert len(rows) == 10
    assert not any(row["alarm"] for row in rows)


def test_all_methods_together_put_it_first_and_no_other_class_has_an_alarm(planted: ShortcutTables) -> None:
    rows = rank_classes(planted.classes).to_pylist()
    asked = sum(not is_control(method) for method in METHODS)
    assert (rows[0]["class"], rows[0]["alarms"], rows[0]["methods"]) == (SHORTCUT_CLASS, len(FINDING), asked)
    assert rows[0]["best_rank"] == 1
    assert rows[0]["excess"] > ALARM_THRESHOLD > max(row["excess"] for row in rows[1:])
    assert (rows[0]["y"], rows[0]["x"]) in {(7, 0), (6, 0), (7, 1)}
    assert not any(row["alarms"] for row in rows[1:])


def test_all_methods_together_raise_no_alarm_without_a_shortcut(honest: ShortcutTables) -> None:
    rows = rank_classes(honest.classes).to_pylist()
    assert len(rows) == 10
    assert all(row["alarms"] == 0 and row["excess"] < ALARM_THRESHOLD for row in rows)


def evidence(method: str, excess: float, cell: tuple[int, int], alarm: bool = True) -> dict[str, object]:
    return {"method": method, "excess": excess, "y": cell[0], "x": cell[1], "alarm": alarm}


def test_methods_raise_an_alarm_together_at_one_place_or_not_at_all() -> None:
    quiet = [evidence(f"quiet {number}", 0.05, (3, 3), alarm=False) for number in range(5)]
    alone = [evidence("a", 0.4, (7, 0))]
    assert select_alarms(quiet + alone) == []  # 1 of 6
    near, far = evidence("b", 0.3, (6, 1)), evidence("c", 0.2, (5, 0))
    assert select_alarms([*quiet, far, near, *alone]) == [*alone, near]  # 2 of 8, and one that is two cells away
    assert select_alarms([*quiet, evidence("d", 0.01, (0, 0), alarm=False), far, near, *alone]) == []  # 2 of 9
    habit = evidence("habit", 0.9, (0, 7))
    assert select_alarms([*quiet, habit, near, *alone]) == [*alone, near]  # the strongest is somewhere else, alone
    assert select_alarms(alone) == alone
    assert select_alarms(quiet) == []


@pytest.mark.soak
def test_at_most_one_of_twenty_worlds_without_a_shortcut_raises_an_alarm(tmp_path: Path) -> None:
    """All methods of the demo, among them one that has a habit of its own at one place of one class."""
    specs = tuple(method.spec for method in registry.defaults(load_model(DEMO_MODEL).anatomy)) + VARIANTS

    def alarms(seed: int, shortcut: bool) -> list[int]:
        folder = tmp_path / f"{seed}-{shortcut}"
        world = SyntheticDataset(folder, num_shards=4, scenes=96, seed=seed, shortcut=shortcut)
        write_dataset(world)
        url = str(folder / "atlas")
        plan(RunSpec(shards=(world.shards,), model=DEMO_MODEL, methods=specs, targets=("label",)), url)
        run(url, INLINE)
        rows = rank_classes(find_shortcuts(Atlas.open(url)).classes).to_pylist()
        shutil.rmtree(folder)
        return [row["class"] for row in rows if row["alarms"]]

    assert sum(bool(alarms(seed, False)) for seed in range(1, 21)) <= 1
    assert alarms(1, True) == [SHORTCUT_CLASS]


def test_random_maps_raise_no_alarm_where_there_is_a_shortcut(planted: ShortcutTables) -> None:
    assert not any(row["alarm"] for row in of(planted.classes, "random"))


def test_every_map_is_in_one_cluster_and_the_tables_agree(planted: ShortcutTables) -> None:
    assert planted.classes.schema.names == SHORTCUTS.names
    assert planted.clusters.schema.names == CLUSTERS.names
    assert planted.members.schema.names == CLUSTER_MEMBERS.names
    for method in METHODS:
        clusters, rows = of(planted.clusters, method), of(planted.classes, method)
        members = of(planted.members, method)
        assert all(1 <= len(row["embedding"]) <= 8 for row in members)
        assert len({row["row"] for row in members}) == len(members) == 750 == sum(row["maps"] for row in rows)
        assert {row["class"]: row["clusters"] for row in rows} == {
            row["class"]: row["cluster"] + 1 for row in sorted(clusters, key=lambda row: row["cluster"])
        }
        for row in rows:
            share = sum(each["outlier_share"] * each["maps"] for each in clusters if each["class"] == row["class"])
            assert share / row["maps"] == pytest.approx(row["outlier_share"])
        assert all(sum(row["prototype"]) == pytest.approx(1, abs=1e-5) for row in clusters)


def test_what_the_atlas_has_not_is_refused(atlas: Atlas) -> None:
    with pytest.raises(UsageError, match=r"no maps of 'rise'; it has attention, legrad"):
        find_shortcuts(atlas, methods=["legrad", "rise"])
    with pytest.raises(UsageError, match="no target 'second'"):
        find_shortcuts(atlas, "second")  # type: ignore[arg-type]


def test_classes_without_a_map_are_not_ranked_and_maps_that_say_nothing_are_counted(atlas: Atlas) -> None:
    found = find_shortcuts(atlas, "predicted", ["uniform", "legrad"])
    assert of(found.classes, "uniform") == []
    rows = of(found.classes, "legrad")
    assert {row["class"] for row in rows} == set(atlas.samples(["prediction"])["prediction"].to_pylist())
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    assert sum(row["maps"] + row["degenerate"] for row in rows) == 48
