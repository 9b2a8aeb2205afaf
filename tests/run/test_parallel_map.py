"""One function over many shards."""

import importlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import ray

from pipeline.run.parallel_map import MIN_ITEMS_FOR_RAY, parallel_map
from pipeline.utils.progress import Bar
from schemas.errors import RunFailedError, UsageError

pytestmark = pytest.mark.usefixtures("two_processes")

WORK = """
import os, signal, time
from schemas.errors import UsageError

def square(number):
    return number * number, os.getpid()

def trip(number):
    if number == 3:
        raise UsageError("three: is no good")
    return number

def die(number):
    if number == 3:
        os._exit(9)
    return number

def die_once(folder, number):
    mark = os.path.join(folder, "died")
    if number == 3 and not os.path.exists(mark):
        open(mark, "w").close()
        os._exit(9)
    return number

def surroundings(name):
    return os.environ.get(name), signal.getsignal(signal.SIGINT) is signal.SIG_IGN

def in_parts(number):
    from pipeline.utils.shares import with_shares
    for part in with_shares(range(5)):
        time.sleep(0.05)
    return number

def last_before_first(folder, number):
    mark = os.path.join(folder, "last")
    if number == 5:
        open(mark, "w").close()
    waits = 0
    while number == 0 and not os.path.exists(mark) and waits < 6000:
        time.sleep(0.01)
        waits += 1
    return number
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Functions that other processes can import, and Ray's as well."""
    (tmp_path / "spread_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.reload(importlib.import_module("spread_work"))
    ray.cloudpickle.register_pickle_by_value(module)
    return module


@pytest.mark.parametrize("count", [0, 1, 7])
def test_every_item_is_done_once(work: ModuleType, count: int) -> None:
    assert sorted(value for value, _ in parallel_map(work.square, range(count), "square")) == [
        n * n for n in range(count)
    ]


def test_several_items_are_done_in_processes_of_their_own_and_come_as_they_are_ready(
    work: ModuleType, tmp_path: Path
) -> None:
    assert os.getpid() not in {process for _, process in parallel_map(work.square, range(4), "square")}
    # The first item waits for the last one to begin, before which those between are done.
    assert next(iter(parallel_map(partial(work.last_before_first, str(tmp_path)), range(6), "wait"))) != 0


@pytest.mark.parametrize("count", [1, 3])
def test_parts_of_items_are_heard_where_the_bar_is_and_add_up_to_the_items(
    work: ModuleType, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    heard = []
    monkeypatch.setattr(Bar, "advance", lambda bar, share: heard.append(share))
    assert sorted(parallel_map(work.in_parts, range(count), "in parts")) == list(range(count))
    assert sum(heard) == pytest.approx(count)
    assert heard[0] == 0  # the process has started
    assert len(heard) > 3 * count  # more than the start, the beginning and the end of each


def test_processes_have_the_environment_of_the_moment_and_leave_an_interrupt_to_their_parent(
    work: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in ("first", "second"):
        monkeypatch.setenv("VITATLAS_TRIED", value)
        assert set(parallel_map(work.surroundings, ["VITATLAS_TRIED"] * 2, "look")) == {(value, True)}
    monkeypatch.delenv("VITATLAS_TRIED")
    assert set(parallel_map(work.surroundings, ["VITATLAS_TRIED"] * 2, "look")) == {(None, True)}


def test_many_items_go_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, str | None, bool]] = []

    def ray_map(
        function: Callable[[int], int], items: range, address: str | None, gpu: bool, on_start: object
    ) -> list[int]:
        asked.append((len(items), address, gpu))
        return []

    monkeypatch.setattr("pipeline.run.ray_tasks.ray_map", ray_map)
    assert list(parallel_map(abs, range(MIN_ITEMS_FOR_RAY), "many")) == []
    assert list(parallel_map(abs, range(2), "few, but told to", "auto", gpu=True)) == []
    assert asked == [(MIN_ITEMS_FOR_RAY, None, False), (2, "auto", True)]
    assert list(parallel_map(abs, range(1), "one")) == [0]


@pytest.mark.parametrize("address", [None, pytest.param("local", marks=pytest.mark.soak)])
def test_a_users_mistake_comes_through_as_it_is(ray_cluster: None, work: ModuleType, address: str | None) -> None:
    with pytest.raises(UsageError, match="three: is no good"):
        list(parallel_map(work.trip, range(6), "trip", address))


def test_a_process_that_dies_is_said_and_nothing_hangs(work: ModuleType) -> None:
    with pytest.raises(RunFailedError, match=r"a worker process was killed \(out of memory\?\)"):
        list(parallel_map(work.die, range(6), "die"))


@pytest.mark.soak
def test_ray_gives_an_item_that_is_lost_to_another_process(ray_cluster: None, work: ModuleType, tmp_path: Path) -> None:
    done = list(parallel_map(partial(work.die_once, str(tmp_path)), range(8), "die once", "local"))
    assert sorted(done) == list(range(8))
    with pytest.raises(RunFailedError, match="a task was lost 4 times"):
        list(parallel_map(work.die, range(6), "die", "local"))
