"""The dispatcher over random events: every unit ends once, windows hold, nothing waits for ever."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.run.dispatch import Dispatcher

EVENTS = st.lists(st.sampled_from(["finish", "fail", "fail for good", "die", "join"]), max_size=200)


@settings(max_examples=300, deadline=None)
@given(units=st.integers(0, 12), window=st.integers(1, 3), events=EVENTS, data=st.data())
def test_every_unit_ends_exactly_once(units: int, window: int, events: list[str], data: st.DataObject) -> None:
    dispatcher = Dispatcher(range(units), window=window)
    flight: list[tuple[int, int]] = []
    actors, ended = [0, 1], []
    for actor in actors:
        dispatcher.join(actor)

    def hand_out() -> None:
        while assignment := dispatcher.next():
            flight.append((assignment.actor, assignment.unit))
            assert sum(actor == assignment.actor for actor, _ in flight) <= window
            assert assignment.actor in actors

    def end(event: str) -> None:
        actor, unit = flight.pop(data.draw(st.integers(0, len(flight) - 1)))
        if event == "finish":
            dispatcher.finish(actor, unit)
        else:
            dispatcher.fail(actor, unit, "broken", final=event == "fail for good")

    for event in events:
        hand_out()
        if event == "join":
            actors.append(max([0, *actors]) + 1)
            dispatcher.join(actors[-1])
        elif event == "die" and actors:
            gone = actors.pop(data.draw(st.integers(0, len(actors) - 1)))
            flight[:] = [(actor, unit) for actor, unit in flight if actor != gone]
            dispatcher.leave(gone, "killed")
        elif event != "die" and flight:
            end(event)
    if not actors:
        actors.append(99)
        dispatcher.join(99)
    while not dispatcher.finished:  # no deadlock: from any state, finishing what is in flight ends it
        hand_out()
        assert flight
        end("finish")
    ended = [*dispatcher.done, *dispatcher.set_aside]
    assert sorted(ended) == list(range(units))


def test_what_a_dead_actor_had_goes_to_the_front_in_order() -> None:
    dispatcher = Dispatcher(range(4), window=2)
    dispatcher.join(0)
    assert [dispatcher.next().unit for _ in range(2)] == [0, 1]
    dispatcher.leave(0, "killed")
    dispatcher.join(1)
    assert [(a.unit, a.attempt) for a in (dispatcher.next(), dispatcher.next())] == [(0, 2), (1, 2)]


def test_a_unit_that_kills_its_actors_is_set_aside_and_the_one_behind_it_is_not_blamed() -> None:
    dispatcher = Dispatcher([7, 8], window=2, kills=3)
    for actor in range(3):
        dispatcher.join(actor)
        assert [dispatcher.next().unit for _ in range(2)] == [7, 8]
        dispatcher.leave(actor, "out of memory")
    assert dispatcher.set_aside == {7: "3 actors died while working on it; the last: out of memory"}
    dispatcher.join(9)
    assignment = dispatcher.next()
    assert (assignment.unit, assignment.attempt) == (8, 4)
    dispatcher.finish(9, 8)
    assert dispatcher.finished


def test_a_failure_is_tried_again_so_many_times() -> None:
    dispatcher = Dispatcher([0], attempts=3)
    dispatcher.join(0)
    for attempt in (1, 2, 3):
        assert not dispatcher.finished
        assert dispatcher.next().attempt == attempt
        dispatcher.fail(0, 0, f"error {attempt}", final=False)
    assert dispatcher.set_aside == {0: "error 3"}
    assert dispatcher.finished


def test_work_goes_to_the_actor_that_has_least() -> None:
    dispatcher = Dispatcher(range(4), window=2)
    dispatcher.join(0)
    dispatcher.join(1)
    assert [dispatcher.next().actor for _ in range(4)] == [0, 1, 0, 1]
    assert dispatcher.next() is None
