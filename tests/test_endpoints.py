"""Every call to the outside: breaker, bulkhead, deadline, retries, cost."""

import asyncio
from typing import Any

import pytest

from rbkit import events as ev
from rbkit.breaker import Breaker
from rbkit.costs import spend
from rbkit.endpoints import BREAKER, Endpoints, load
from rbkit.environment import Limits
from rbkit.errors import BadAnswer, MayHaveActed, NotFound, Refused, StoreUnavailable, Unreachable

NAME = "test/source metrics"


def endpoints(rig: Any, run: str = "20260101-000000-aaaaaa", **limits: Any) -> Endpoints:
    """Make the endpoints of a run that is open."""
    journal = rig.open(run=run).journal if rig.store.read(run) == [] else rig.journal(run)
    return Endpoints(journal, lambda endpoint: Limits(**limits))


def ask(found: Endpoints, *answers: Any) -> Any:
    """Ask; each attempt takes the next answer, the last one again and again."""
    left = list(answers)

    async def call() -> Any:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return asyncio.run(found.read("source metrics", call))


def fail(found: Endpoints, error: Exception) -> None:
    """Ask in vain."""
    with pytest.raises(type(error)):
        ask(found, error)


def test_three_failures_in_three_runs_open_the_breaker_for_all(rig) -> None:
    """Each run is another process; the fourth is told when to try again and does not even ask."""
    for number in range(3):
        fail(endpoints(rig, f"20260101-00000{number}-aaaaaa"), Unreachable("connection refused"))
    asked = []
    with pytest.raises(Unreachable, match="is left alone: it failed 3 times; try again at .*connection refused") as no:
        asyncio.run(endpoints(rig, "20260101-000009-aaaaaa").read("source metrics", lambda: asked.append(1)))
    assert asked == [] and f"rbkit breaker close '{NAME}'" in no.value.todo and no.value.fault is False


def test_a_call_with_its_retries_is_one_failure(rig) -> None:
    """Three attempts of one call do not open it: a short hiccup would."""
    found = endpoints(rig)
    fail(found, Unreachable("x"))
    assert load(rig.store, NAME)[1].failures == 1
    assert ask(found, Unreachable("x"), Unreachable("x"), "fine")[0] == "fine"
    assert load(rig.store, NAME)[1] == Breaker()


@pytest.mark.parametrize("error", [BadAnswer("a wrong query"), Refused("no"), NotFound("no such thing")])
def test_an_answer_that_is_no_help_is_an_answer(rig, error) -> None:
    """What the endpoint was asked is wrong, not the endpoint: its breaker stays, or becomes, closed."""
    found = endpoints(rig)
    fail(found, Unreachable("x"))
    fail(found, error)
    assert load(rig.store, NAME)[1] == Breaker()


def test_a_bad_answer_of_an_ill_endpoint_counts(rig) -> None:
    """A server that answers 500 is ill although it answers."""
    fail(endpoints(rig), BadAnswer("answered 500", fault=True))
    assert load(rig.store, NAME)[1].failures == 1


def test_when_the_time_is_over_one_probe_goes_through(rig) -> None:
    """It works, and everybody may call again."""
    found = endpoints(rig)
    for _ in range(3):
        fail(found, Unreachable("x"))
    rig.clock.advance(31)
    assert ask(found, "fine")[0] == "fine"
    assert load(rig.store, NAME)[1] == Breaker()


def test_two_that_want_to_probe_are_told_apart_by_the_store(rig, monkeypatch) -> None:
    """Both have read that a probe is due; the one that writes later reads again, and leaves the endpoint alone."""
    found = endpoints(rig)
    for _ in range(3):
        fail(found, Unreachable("x"))
    rig.clock.advance(31)
    note = rig.store.note

    def slower(name: str, version: int, text: str) -> bool:
        monkeypatch.setattr(rig.store, "note", note)
        other = load(rig.store, NAME)[1].entered(rig.clock.now())
        note(BREAKER + NAME, version, other.model_dump_json())
        return note(name, version, text)

    monkeypatch.setattr(rig.store, "note", slower)
    with pytest.raises(Unreachable, match="somebody probes it"):
        ask(found, "fine")


def test_nothing_holds_up_what_undoes(rig) -> None:
    """While a run takes back what it has done, an open breaker does not stop it; what works closes it."""
    found = endpoints(rig)
    for _ in range(3):
        fail(found, Unreachable("x"))
    found._journal.append(ev.RollbackStarted(why="enough", undo=[], irreversible=[]))
    assert ask(found, "undone")[0] == "undone"
    assert load(rig.store, NAME)[1] == Breaker()


def test_a_change_is_made_once(rig) -> None:
    """It is never repeated, and one without an answer counts as a failure of the endpoint."""
    found, made = endpoints(rig), []

    async def call() -> None:
        made.append(1)
        raise MayHaveActed("no answer")

    with pytest.raises(MayHaveActed):
        asyncio.run(found.change("source metrics", call))
    assert (made, load(rig.store, NAME)[1].failures) == ([1], 1)


def test_where_all_is_well_the_store_is_not_asked_again(rig, monkeypatch) -> None:
    """For a second a closed breaker is taken for closed; a failure is told to the store at once all the same."""
    found, looked, recall = endpoints(rig), [], rig.store.recall
    monkeypatch.setattr(rig.store, "recall", lambda name: looked.append(name) or recall(name))
    for _ in range(5):
        ask(found, "fine")
    assert len(looked) == 1
    fail(found, Unreachable("x"))
    assert load(rig.store, NAME)[1].failures == 1


def test_a_store_that_goes_away_does_not_change_what_a_call_has_brought(rig, monkeypatch) -> None:
    """The call has ended as it has; only the breaker is not told."""
    found = endpoints(rig)
    fail(found, Unreachable("x"))

    async def call() -> str:
        monkeypatch.setattr(rig.store, "recall", away)
        return "fine"

    def away(name: str) -> Any:
        raise StoreUnavailable("away")

    assert asyncio.run(found.read("source metrics", call))[0] == "fine"


def test_so_many_at_once_and_no_more(rig) -> None:
    """What is beyond the limit waits until a place is free, so that one runbook cannot press an endpoint down."""
    found, now, most = endpoints(rig, concurrency=2), [0], [0]

    async def call() -> None:
        now[0] += 1
        most[0] = max(most[0], now[0])
        await asyncio.sleep(0)
        now[0] -= 1

    async def many() -> None:
        await asyncio.gather(*(found.read("source metrics", call) for _ in range(9)))

    asyncio.run(many())
    assert most == [2]


def test_the_cost_is_counted_and_limited_by_attempt(rig) -> None:
    """Bytes of all attempts are counted; one that brings back too much is refused."""

    async def call() -> str:
        spend(600, "A source")
        return "fine"

    _, cost = asyncio.run(endpoints(rig, bytes=1000).read("source metrics", call))
    assert (cost.bytes, cost.attempts) == (600, 1)

    async def twice() -> None:
        await call()
        await call()

    with pytest.raises(BadAnswer, match="more than 1 kB"):
        asyncio.run(endpoints(rig, bytes=1000).read("source metrics", twice))


def test_an_attempt_that_takes_too_long_is_ended(rig) -> None:
    """The environment file says how long; the error names what was asked."""

    async def call() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Unreachable, match=r"memory did not answer within 0\.1s"):
        asyncio.run(endpoints(rig, timeout="0.1s").read("source metrics", call, "memory"))
