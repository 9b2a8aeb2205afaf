"""The tables say what their parts say, of every picture, and are made once."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.audit.agreement import AGREEMENT_METRICS, compare_maps, prepare_maps
from pipeline.audit.map_statistics import compute_statistics
from pipeline.audit.map_tables import write_map_tables
from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.store import Atlas
from pipeline.truth import read_truth
from schemas.audit_tables import AGREEMENT, IMAGES, MAP_STATISTICS, METHODS, PAIRS
from schemas.errors import UsageError
from schemas.layout import Flag

COUNT = 48


@pytest.fixture(scope="module")
def out(atlas: Atlas, world: SyntheticDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    write_map_tables(atlas, str(folder), truth=read_truth(world.truth))
    return folder


def read(out: Path, name: str) -> list[dict]:
    return pq.read_table(out / name).to_pylist()


def test_every_map_has_its_numbers(out: Path, atlas: Atlas) -> None:
    rows = read(out, "images")
    assert pq.read_table(out / "images").schema.names == IMAGES.names
    assert len(rows) == COUNT * len(atlas.methods)
    for row in rows[:: COUNT // 5]:
        flag = atlas.flag(row["row"], row["method"])
        assert row["flag"] == flag.name.lower()
        if flag == Flag.OK:
            expected = compute_statistics(atlas.map(row["row"], row["method"])[None])
            assert all(row[name] == pytest.approx(float(values[0])) for name, values in expected.items())
        else:
            assert all(row[name] is None for name in MAP_STATISTICS)
            assert row["agreement_rank"] is None
        assert 0 < row["object_area"] < 1  # the truth of all demo pictures is known
        assert row["correct"] in (True, False)


def test_maps_lie_more_on_objects_than_even_ones_would(out: Path) -> None:
    rows = [row for row in read(out, "images") if row["method"] == "legrad"]
    assert np.mean([row["object_mass"] for row in rows]) > 1.5 * np.mean([row["object_area"] for row in rows])


def test_every_two_methods_are_compared_in_every_picture(out: Path, atlas: Atlas) -> None:
    rows = read(out, "pairs")
    assert pq.read_table(out / "pairs").schema.names == PAIRS.names
    count = len(atlas.methods)
    assert len(rows) == COUNT * count * (count - 1) // 2
    for row in rows[:: COUNT // 3]:
        one, other = (prepare_maps(atlas.map(row["row"], row[name])[None]) for name in ("first", "second"))
        for name, values in compare_maps(one, other).items():
            assert row[name] == (None if np.isnan(values[0]) else pytest.approx(values[0])), name


def test_agreement_of_a_map_is_the_mean_of_its_pairs_and_ranks_methods(out: Path) -> None:
    pairs, images = read(out, "pairs"), read(out, "images")
    number = images[7]["row"]
    of_picture = {row["method"]: row for row in images if row["row"] == number and row["agreement"] is not None}
    for method, row in of_picture.items():
        known = [
            each["spearman"]
            for each in pairs
            if each["row"] == number and method in (each["first"], each["second"]) and each["spearman"] is not None
        ]
        assert row["agreement"] == pytest.approx(np.mean(known))
    best = sorted(of_picture.values(), key=lambda row: -row["agreement"])
    assert [row["agreement_rank"] for row in best] == list(range(1, len(best) + 1))


@pytest.mark.parametrize(
    ("name", "parts", "by", "schema", "values", "silent"),
    [
        ("methods", "images", ("method",), METHODS, (*MAP_STATISTICS, "object_area", "correct"), "degenerate"),
        ("agreement", "pairs", ("first", "second"), AGREEMENT, AGREEMENT_METRICS, "undefined"),
    ],
)
def test_means_are_those_of_the_rows(
    out: Path, name: str, parts: str, by: tuple[str, ...], schema, values: tuple[str, ...], silent: str
) -> None:
    assert pq.read_table(out / f"{name}.parquet").schema.names == schema.names
    rows, found = read(out, parts), read(out, f"{name}.parquet")
    assert sum(row["images"] for row in found if row["class"] is None) == len(rows)
    assert sum(row["images"] for row in found if row["class"] is not None) == len(rows)
    for mean in found[::7]:
        of_group = [row for row in rows if all(row[each] == mean[each] for each in by)]
        if mean["class"] is not None:
            of_group = [row for row in of_group if row["class"] == mean["class"]]
        assert mean["images"] == len(of_group)
        assert mean[silent] == sum(row[next(iter(values))] is None for row in of_group)
        for each in values:
            known = [row[each] for row in of_group if row[each] is not None]
            assert mean[each] == (pytest.approx(np.mean(known)) if known else None), each


def test_what_is_done_is_not_done_again_and_gives_the_same_bytes(
    out: Path, atlas: Atlas, world: SyntheticDataset
) -> None:
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*.parquet")}
    write_map_tables(atlas, str(out), truth=read_truth(world.truth))
    for path, (data, changed) in before.items():
        assert path.read_bytes() == data
        assert (path.parent == out) or path.stat().st_mtime_ns == changed


def test_a_truth_of_some_pictures_leaves_the_others_unknown(
    atlas: Atlas, world: SyntheticDataset, tmp_path: Path
) -> None:
    known = read_truth(world.truth)
    assert len(known) == COUNT
    (tmp_path / "out").mkdir()
    write_map_tables(atlas, str(tmp_path / "out"), "predicted", ["legrad"])
    rows = read(tmp_path / "out", "images")
    assert {row["object_mass"] for row in rows} == {row["object_area"] for row in rows} == {None}
    assert {row["agreement"] for row in rows} == {None}
    assert read(tmp_path / "out", "agreement.parquet") == []
    with pytest.raises(UsageError, match=r"holds something else \(target is"):
        write_map_tables(atlas, str(tmp_path / "out"), "label", ["legrad"])


def test_an_atlas_labels_or_scores_are_not_written_over(atlas: Atlas, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(atlas.objects.url).rglob("*")}
    with pytest.raises(UsageError, match="holds an atlas; name another --out"):
        write_map_tables(atlas, atlas.objects.url)
    assert before == {path: path.stat().st_mtime_ns for path in Path(atlas.objects.url).rglob("*")}
    (tmp_path / "about.json").write_text('{"protocol": 2}')  # of scores
    with pytest.raises(UsageError, match=r"holds something else .*; name another --out"):
        write_map_tables(atlas, str(tmp_path))
