"""The dispatcher over random events: every shard ends once, windows hold, nothing waits for ever."""

import tracemalloc
from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st
from support import examples

from pipeline.run.dispatch import Dispatcher

EVENTS = st.lists(
    st.sampled_from(["finish", "fail", "fail for good", "die", "be dismissed", "join", "wait", "look", "drain"]),
    max_size=200,
)


class Actors:
    """Actors as a pool sees them: what each was given, in order, and what became of every shard."""

    def __init__(self, dispatcher: Dispatcher, window: int) -> None:
        self.dispatcher, self.window, self.now = dispatcher, window, 0.0
        self.actors: dict[int, list[int]] = {}
        self.started, self.done, self.attempts = 0, [], {}
        self.drained = False

    def start(self) -> None:
        self.actors[self.started] = []
        self.dispatcher.add_worker(self.started, self.now)
        self.started += 1

    def hand_out(self) -> None:
        while assignment := self.dispatcher.next(self.now):
            assert not self.drained
            self.actors[assignment.actor].append(assignment.shard_index)
            assert len(self.actors[assignment.actor]) <= self.window
            assert assignment.attempt == self.attempts.get(assignment.shard_index, 0) + 1
            self.attempts[assignment.shard_index] = assignment.attempt

    def stop(self, actor: int, blame: bool) -> None:
        del self.actors[actor]
        self.dispatcher.remove_worker(actor, "gone", blame)

    def end(self, actor: int, how: str) -> None:
        shard_index = self.actors[actor].pop(0)
        if how == "finish":
            self.done.append(shard_index)
            self.dispatcher.finish(actor, shard_index, self.now)
        else:
            self.dispatcher.fail(actor, shard_index, "broken", how == "fail for good", self.now)

    def busy(self) -> list[int]:
        return [actor for actor, shards in self.actors.items() if shards]


@examples(400)
@given(shards=st.integers(0, 12), window=st.integers(1, 3), events=EVENTS, data=st.data())
def test_every_shard_ends_exactly_once(shards: int, window: int, events: list[str], data: st.DataObject) -> None:
    dispatcher = Dispatcher(range(shards), window=window)
    pool = Actors(dispatcher, window)
    pool.start()
    for event in events:
        pool.hand_out()
        if event == "join":
            pool.start()
        elif event == "wait":
            pool.now += data.draw(st.floats(0, 5000))
        elif event == "look":
            for actor, seconds in dispatcher.overdue(pool.now).items():
                assert seconds > 600
                pool.stop(actor, blame=True)
        elif event == "drain":
            dispatcher.drain()
            pool.drained = True
        elif event in ("die", "be dismissed"):
            if pool.actors:
                pool.stop(data.draw(st.sampled_from(sorted(pool.actors))), blame=event == "die")
        elif busy := pool.busy():
            pool.end(data.draw(st.sampled_from(busy)), event)
        assert sorted(pool.busy()) == sorted(dispatcher.busy)
        assert dispatcher.left + len(pool.done) + len(dispatcher.quarantined) == shards
    if not pool.actors:
        pool.start()
    while not dispatcher.finished:  # no deadlock: from any state, finishing what is in flight ends it
        pool.hand_out()
        assert pool.busy()
        pool.end(pool.busy()[0], "finish")
    ended = [*pool.done, *dispatcher.quarantined]
    assert len(set(ended)) == len(ended)
    assert dispatcher.done == len(pool.done)
    if not pool.drained:
        assert sorted(ended) == list(range(shards))


def test_a_slow_unit_is_taken_from_its_actor_and_handed_out_again() -> None:
    dispatcher = Dispatcher(range(3), window=2)
    for actor in (0, 1):
        dispatcher.add_worker(actor, 0)
    assert [dispatcher.next(0).shard_index for _ in range(3)] == [0, 1, 2]
    dispatcher.finish(1, 1, now=100)
    assert dispatcher.overdue(999) == {}  # ten times what the slowest took
    assert dispatcher.overdue(1001) == {0: 1001}
    dispatcher.remove_worker(0, "took too long")
    again = dispatcher.next(1001)
    assert (again.actor, again.shard_index, again.attempt) == (1, 0, 2)
    dispatcher.finish(1, 0, now=1100)
    assert dispatcher.next(1100).shard_index == 2  # which waited behind the slow one
    dispatcher.finish(1, 2, now=1200)
    assert (dispatcher.done, dispatcher.finished) == (3, True)


def test_before_anything_was_done_a_unit_has_six_hours_unless_a_timeout_says_less() -> None:
    for timeout, limit in ((None, 6 * 3600), (30.0, 30)):
        dispatcher = Dispatcher(range(3), timeout=timeout)
        dispatcher.add_worker(0, 0)
        dispatcher.next(0)
        assert dispatcher.overdue(limit - 1) == {}
        assert dispatcher.overdue(limit + 1) == {0: limit + 1}


def test_time_counts_from_when_a_unit_is_begun_and_not_from_when_it_is_queued() -> None:
    dispatcher = Dispatcher(range(2), window=2, timeout=50)
    dispatcher.add_worker(0, 0)
    assert [dispatcher.next(0).shard_index for _ in range(2)] == [0, 1]
    dispatcher.finish(0, 0, now=40)
    assert dispatcher.overdue(89) == {}
    assert dispatcher.overdue(91) == {0: 51}


def test_a_dismissed_actor_blames_no_unit() -> None:
    dispatcher = Dispatcher([7], max_losses=2)
    for actor in range(10):
        dispatcher.add_worker(actor)
        dispatcher.next()
        dispatcher.remove_worker(actor, "its node is gone", blame=False)
    assert dispatcher.quarantined == {}


def test_when_drained_it_ends_with_what_is_in_work() -> None:
    dispatcher = Dispatcher(range(5), window=1)
    dispatcher.add_worker(0)
    dispatcher.add_worker(1)
    assert [dispatcher.next().shard_index for _ in range(2)] == [0, 1]
    dispatcher.drain()
    assert dispatcher.next() is None
    assert not dispatcher.finished
    dispatcher.finish(0, 0)
    dispatcher.fail(1, 1, "broken", final=False)
    assert dispatcher.finished
    assert (dispatcher.done, dispatcher.left, dispatcher.quarantined) == (1, 4, {})


def test_memory_does_not_grow_with_the_units() -> None:
    peaks = []
    for count in (1_000, 100_000):
        tracemalloc.start()
        dispatcher = Dispatcher(range(count))
        for actor in range(8):
            dispatcher.add_worker(actor)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        while not dispatcher.finished:
            while dispatcher.next():
                pass
            for actor in dispatcher.busy:
                dispatcher.finish(actor, dispatcher.current_shard(actor))
        assert dispatcher.done == count
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 20_000, peaks


def test_what_a_dead_actor_had_goes_to_the_front_in_order() -> None:
    dispatcher = Dispatcher(range(4), window=2)
    dispatcher.add_worker(0)
    assert [dispatcher.next().shard_index for _ in range(2)] == [0, 1]
    dispatcher.remove_worker(0, "killed")
    dispatcher.add_worker(1)
    assert [(a.shard_index, a.attempt) for a in (dispatcher.next(), dispatcher.next())] == [(0, 2), (1, 2)]


def test_a_unit_that_kills_its_actors_is_set_aside_and_the_one_behind_it_is_not_blamed() -> None:
    dispatcher = Dispatcher([7, 8], window=2, max_losses=3)
    for actor in range(3):
        dispatcher.add_worker(actor)
        assert [dispatcher.next().shard_index for _ in range(2)] == [7, 8]
        dispatcher.remove_worker(actor, "out of memory")
    assert dispatcher.quarantined == {7: "3 actors were lost over it; the last: out of memory"}
    dispatcher.add_worker(9)
    assignment = dispatcher.next()
    assert (assignment.shard_index, assignment.attempt) == (8, 4)
    dispatcher.finish(9, 8)
    assert dispatcher.finished


def test_a_failure_is_tried_again_so_many_times() -> None:
    dispatcher = Dispatcher([0], max_failures=3)
    dispatcher.add_worker(0)
    for attempt in (1, 2, 3):
        assert not dispatcher.finished
        assert dispatcher.next().attempt == attempt
        dispatcher.fail(0, 0, f"error {attempt}", final=False)
    assert dispatcher.quarantined == {0: "error 3"}
    assert dispatcher.finished


def test_work_goes_to_the_actor_that_has_least() -> None:
    dispatcher = Dispatcher(range(4), window=2)
    dispatcher.add_worker(0)
    dispatcher.add_worker(1)
    assert [dispatcher.next().actor for _ in range(4)] == [0, 1, 0, 1]
    assert dispatcher.next() is None


def test_an_actor_does_first_what_is_near_it_and_others_do_that_last() -> None:
    dispatcher = Dispatcher(range(8), window=1)
    dispatcher.add_worker(0, cached=[6, 2])
    dispatcher.add_worker(1, cached=[1, 99])
    dispatcher.add_worker(2)
    order: dict[int, list[int]] = {0: [], 1: [], 2: []}
    while assignment := dispatcher.next():
        order[assignment.actor].append(assignment.shard_index)
        if sum(map(len, order.values())) >= 3:  # in turn
            dispatcher.finish(actor := (sum(map(len, order.values())) - 3) % 3, order[actor][-1])
    assert order == {0: [6, 2, 5], 1: [1, 3, 7], 2: [0, 4]}


def test_what_is_near_an_actor_that_is_lost_is_done_by_others() -> None:
    dispatcher = Dispatcher(range(3), window=2)
    dispatcher.add_worker(0, cached=[2, 1])
    assert [dispatcher.next().shard_index for _ in range(2)] == [2, 1]
    dispatcher.remove_worker(0, "its node is gone", blame=False)
    dispatcher.add_worker(1)
    assert [dispatcher.next().shard_index for _ in range(2)] == [2, 1]
    dispatcher.finish(1, 2)
    assert dispatcher.next().shard_index == 0


def test_what_is_near_is_found_without_looking_at_what_is_not() -> None:
    """Ten thousand shards that ten nodes share: each is looked at a few times, not a thousand."""
    looks = 0

    class Counting(OrderedDict):
        def __contains__(self, shard_index: object) -> bool:
            nonlocal looks
            looks += 1
            return super().__contains__(shard_index)

    dispatcher = Dispatcher(range(10_000))
    dispatcher._pending = Counting(dispatcher._pending)
    for actor in range(10):
        dispatcher.add_worker(actor, cached=range(actor, 10_000, 10))
    while not dispatcher.finished:
        while dispatcher.next():
            pass
        for actor in dispatcher.busy:
            dispatcher.finish(actor, dispatcher.current_shard(actor))
    assert dispatcher.done == 10_000
    assert looks <= 20_000
