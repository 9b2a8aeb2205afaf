"""How long work takes is said once, from the first of it that was measured, and a bar follows it."""

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from pipeline.utils.progress import Bar, format_time


class World:
    """A display whose text can be read, and a clock that is set by hand."""

    def __init__(self) -> None:
        self.text, self.now = io.StringIO(), 0.0
        self.bars = Progress(console=Console(file=self.text, width=200), disable=True)

    def bar(self, total: int, at_once: int = 1) -> Bar:
        return Bar(self.bars, "label", total, at_once, lambda: self.now)

    @property
    def said(self) -> list[str]:
        return self.text.getvalue().splitlines()


@pytest.fixture
def world() -> World:
    return World()


def test_the_time_of_all_is_said_once_after_the_first_item(world: World) -> None:
    bar = world.bar(100)
    for world.now in (3.0, 6.0, 12.0):
        bar.advance(1)
    assert world.said == ["label: about 5.00 min in all"]


def test_parts_of_an_item_are_enough_and_add_up_to_it(world: World) -> None:
    bar = world.bar(4, at_once=2)
    for world.now in (2.5, 5.0):
        bar.advance(0.1)
    assert world.said == ["label: about 1.67 min in all"]
    for _ in range(38):
        bar.advance(0.1)
    assert world.bars.tasks[0].completed == 4


def test_the_first_of_several_that_run_at_once_says_nothing(world: World) -> None:
    bar = world.bar(10, at_once=2)
    world.now = 30.0
    bar.advance(1)
    assert world.said == []
    world.now = 32.0
    bar.advance(1)
    assert world.said == ["label: about 2.67 min in all"]


def test_two_parts_of_the_first_do_not_stand_for_the_second(world: World) -> None:
    bar = world.bar(4, at_once=2)
    for world.now, share in ((50.0, 0.8), (51.0, 0.1)):
        bar.advance(share)
    assert world.said == []
    world.now = 54.0
    bar.advance(0.8)
    assert world.said == ["label: about 2.12 min in all"]


def test_a_start_is_no_progress_of_another_that_runs_at_once(world: World) -> None:
    bar = world.bar(10, at_once=2)
    world.now = 30.0
    bar.advance(1)
    bar.advance(0)
    assert world.said == []


def test_the_last_round_takes_as_long_as_any(world: World) -> None:
    bar = world.bar(5, at_once=2)
    for world.now in (30.0, 30.0):
        bar.advance(1)
    assert world.said == ["label: about 1.50 min in all"]


def test_preparations_do_not_count(world: World) -> None:
    bar = world.bar(10)
    world.now = 100.0
    bar.advance(0)
    world.now = 110.0
    bar.advance(1)
    assert world.said == ["label: about 1.67 min in all"]


def test_what_was_done_before_does_not_count(world: World) -> None:
    bar = world.bar(1000)
    bar.restart(500)
    world.now = 10.0
    bar.update(510)
    assert world.said == ["label: about 0.14 h for the rest"]


@pytest.mark.parametrize("seconds", [1.0, 9.0])
def test_nothing_is_said_of_short_work_or_after_its_end(world: World, seconds: float) -> None:
    bar = world.bar(2)
    for _ in range(2):
        world.now += seconds
        bar.advance(1)
    assert world.said == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.02, "0.02 s"), (5.0, "5 s"), (6.0, "0.10 min"), (360.0, "0.10 h"), (7200.0, "2.00 h")]
)
def test_times_have_the_unit_in_which_they_are_at_least_a_tenth(seconds: float, text: str) -> None:
    assert format_time(seconds) == text
