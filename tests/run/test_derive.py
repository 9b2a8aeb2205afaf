"""The driver of derived products, with a product of two lines: a number for each shard, and their sum."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from support import crash_after, in_one_process

from pipeline.run.derive import DerivedProduct, ShardResult, ShardTask, derive
from pipeline.store import Atlas, ObjectStore
from pipeline.store.derived import ProductStore
from schemas.base import Record
from schemas.commits import DerivedCommit
from schemas.errors import RunFailedError, ShardReplacedError, UsageError
from schemas.layout import LEASE


@pytest.fixture(autouse=True)
def one_process():
    with in_one_process():
        yield


class CountRecord(Record):
    """Settings: what is added to each count, and a remark that may differ."""

    added: int
    remark: str = ""


@dataclass(frozen=True, kw_only=True)
class Counts(DerivedProduct[Atlas, None, int]):
    """``counts/<shard>`` with the number of samples, and ``sum``."""

    about: CountRecord
    may_differ = ("remark",)
    items: tuple[str, ...]
    computed: list[str]

    def is_complete(self, commit: DerivedCommit) -> bool:
        return set(self.items) <= set(commit.items)

    def remove_summary(self) -> None:
        self.objects.delete("sum")

    def finish(self, commits: Mapping[str, DerivedCommit], objects: ProductStore) -> int:
        total = sum(int(objects.get(f"counts/{shard}")) for shard in commits)
        objects.put("sum", str(total).encode())
        return total


def count_samples(atlas: Atlas, out: Path, items: tuple[str, ...] = (), **settings: object) -> Counts:
    about, computed = CountRecord(**({"added": 0} | settings)), list[str]()
    return Counts(
        title="count",
        function=partial(count, about.added, items, computed),
        source=atlas,
        objects=ObjectStore(str(out)),
        about=about,
        methods=(),
        items=items,
        computed=computed,
    )


def count(added: int, items: tuple[str, ...], computed: list[str], task: ShardTask[Atlas, None]) -> ShardResult:
    computed.append(task.shard)
    rows = task.source.record(task.shard).rows
    written = task.objects.put(f"counts/{task.shard}", str(rows + added).encode())
    return ShardResult((written,), {"rows": rows}, tuple(dict.fromkeys((*task.previous_items, *items))))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def opened(finished: Path) -> Atlas:
    return Atlas.open(str(finished))


def test_a_shard_is_computed_once_for_each_settings_maps_and_items(finished: Path, tmp_path: Path) -> None:
    def computed(*items: str) -> list[str]:
        product = count_samples(opened(finished), tmp_path, items)
        assert derive(product) == 16
        return product.computed

    shards = ["part-0", "part-1", "part-2"]
    assert computed("a") == shards
    assert computed("a") == []
    assert computed("a", "b") == shards
    assert computed("b") == []
    (tmp_path / "counts" / "part-1").unlink()
    assert computed("a") == ["part-1"]
    commit = tmp_path / "commits" / "part-2.json"
    commit.write_text(json.dumps(json.loads(commit.read_text()) | {"parent": "sha256:0"}))
    assert computed("a") == ["part-2"]
    commit.write_text("{")
    assert computed("a") == ["part-2"]


def test_after_a_crash_at_any_operation_the_bytes_are_the_same(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    derive(count_samples(opened(finished), tmp_path / "whole"))
    for number in range(1, 40):
        out = tmp_path / f"out-{number}"
        with crash_after(number, monkeypatch) as crash:
            derive(count_samples(opened(finished), out))
        derive(count_samples(opened(finished), out))
        assert content(out) == content(tmp_path / "whole")
        if not crash.happened:
            break
    assert 8 < number < 39


def test_no_summary_outlives_what_it_is_made_of(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever a command is stopped after a shard is gone from the atlas, there is no sum, or the right one."""
    commit = finished / "commits" / "part-1.json"
    for number in range(1, 40):
        out = tmp_path / f"out-{number}"
        assert derive(count_samples(opened(finished), out)) == 16
        commit.rename(tmp_path / "part-1.json")
        with crash_after(number, monkeypatch) as crash:
            derive(count_samples(opened(finished), out))
        if not (out / "counts" / "part-1").exists() and (out / "sum").exists():
            assert (out / "sum").read_bytes() == b"9"
        assert derive(count_samples(opened(finished), out)) == 9
        assert not list(out.rglob("*part-1*"))
        (tmp_path / "part-1.json").rename(commit)
        if not crash.happened:
            break
    assert 6 < number < 39


def test_a_folder_of_something_else_is_refused_and_left_as_it_is(finished: Path, tmp_path: Path) -> None:
    derive(count_samples(opened(finished), tmp_path, remark="first"))
    derive(count_samples(opened(finished), tmp_path, remark="second"))
    before = content(tmp_path)
    with pytest.raises(UsageError, match=r"holds something else .*added is 0, not 1.*; name another --out"):
        derive(count_samples(opened(finished), tmp_path, added=1))
    with pytest.raises(UsageError, match="holds an atlas; name another --out"):
        derive(count_samples(opened(finished), finished))
    assert content(tmp_path) == before


@pytest.mark.parametrize("seen", [True, False], ids=["seen by the reader", "seen by the commit alone"])
def test_a_shard_that_is_replaced_while_it_is_read_is_computed_again(
    finished: Path, tmp_path: Path, seen: bool
) -> None:
    product = count_samples(opened(finished), tmp_path / "out")
    commit = finished / "commits" / "part-1.json"

    def replacing(task: ShardTask[Atlas, None]) -> ShardResult:
        result = count(0, (), product.computed, task)
        if task.shard == "part-1" and product.computed.count("part-1") == 1:
            content = json.loads(commit.read_text())
            content["objects"][0]["sha256"] = "sha256:" + "0" * 64
            commit.write_text(json.dumps(content))
            if seen:
                raise ShardReplacedError("part-1 was replaced")
        return result

    assert derive(replace(product, function=replacing)) == 16
    assert product.computed == ["part-0", "part-1", "part-1", "part-2"]
    again = count_samples(opened(finished), tmp_path / "out")
    assert derive(again) == 16
    assert again.computed == []


def test_a_command_whose_folder_another_has_taken_over_makes_nothing_more(finished: Path, tmp_path: Path) -> None:
    product = count_samples(opened(finished), tmp_path)

    def losing(task: ShardTask[Atlas, None]) -> ShardResult:
        if task.shard == "part-1":
            task.objects.delete(LEASE)
        return count(0, (), product.computed, task)

    with pytest.raises(RunFailedError, match="another run has taken it over"):
        derive(replace(product, function=losing))
    assert product.computed == ["part-0", "part-1"]
    assert not (tmp_path / "product.json").exists()
    assert [path.name for path in (tmp_path / "commits").iterdir()] == ["part-0.json"]
