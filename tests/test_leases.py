"""Who may act: a run's lease, the leases on its targets, and what keeps them alive."""

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest

from rbkit.clock import Clock, FakeClock
from rbkit.errors import Fenced, GuardRail, Held, StoreUnavailable
from rbkit.leases import LEASE_S, Keeper, Targets, new_holder, process, run_lease, take, take_when_free, words
from rbkit.store import Lease
from rbkit.stores.memory import MemoryStore

RUN = "20260101-000000-aaaaaa"
A, B = f"{RUN}/here/1/aaaaaa", "20260101-000000-bbbbbb/there/2/bbbbbb"


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture
def store() -> MemoryStore:
    """A store in memory."""
    return MemoryStore()


def targets(store: MemoryStore, clock: Clock, holder: str = A, waited: list[Any] | None = None, **more: Any) -> Targets:
    """Make the targets of a session, which remembers whom it waited for."""
    heard: list[Any] = [] if waited is None else waited
    return Targets(store, holder, "test", clock, waits=lambda target, lease: heard.append((target, lease)), **more)


def holds(store: MemoryStore, name: str) -> str:
    """Tell who holds a lease."""
    return next((lease.holder for lease in store.leases() if lease.name == name), "")


class Ticking(FakeClock):
    """A clock that does something whenever somebody waits on it."""

    def __init__(self, *acts: Any) -> None:
        super().__init__(on_sleep=lambda seconds: self.acts.pop(0)() if self.acts else None)
        self.acts = list(acts)


def test_every_process_is_a_holder_of_its_own():
    """Two sessions of one run in one process are told apart, and run, machine and process can be read off."""
    one, two = new_holder(RUN), new_holder(RUN)
    assert one != two and one.startswith(f"{RUN}/")
    assert process(A) == "process 1 on here"


@pytest.mark.parametrize(
    ("holder", "said"),
    [(B, "held by run 20260101-000000-bbbbbb (process 2 on there)"), ("x", "held by run x (process ? on ?)")],
)
def test_a_lease_says_in_words_who_holds_it_and_until_when(clock, holder, said):
    """Run, process, machine and time are named, also when the holder is named in another way."""
    lease = Lease("n", holder, 1, clock.now() + timedelta(seconds=15), 15.0)
    assert words(lease) == f"{said} until 2026-01-01 00:00:15Z"


def test_the_lease_on_a_run_is_taken_and_its_token_rises_with_every_holder(store, clock):
    """The token numbers the sessions; taking it again in the same session changes nothing."""
    assert [take(store, RUN, A, clock).token for _ in range(2)] == [1, 1]
    store.release(A)
    assert take(store, RUN, B, clock).token == 2


def test_a_run_that_somebody_holds_is_not_taken(store, clock):
    """A live holder is named, with what can be done instead."""
    take(store, RUN, A, clock)
    with pytest.raises(Held, match=rf"is held by run {RUN} \(process 1 on here\) until .*:15Z. It is alive") as caught:
        take(store, RUN, B, clock)
    assert caught.value.exit_code == 4 and holds(store, run_lease(RUN)) == A


def test_whoever_waits_for_a_lease_does_not_write(store, clock, monkeypatch):
    """Looking at a lease that somebody else holds locks nobody: only one that may be had is asked for."""
    take(store, RUN, A, clock)
    monkeypatch.setattr(store, "acquire", None)
    with pytest.raises(Held):
        take(store, RUN, B, clock)


def test_a_lapsed_lease_is_taken_with_everything_its_holder_held(store, clock):
    """Who takes a dead process's run takes its targets away: should it wake up, it can renew none of them."""
    take(store, RUN, A, clock)
    asyncio.run(targets(store, clock).hold("x"))
    clock.advance(LEASE_S)
    assert take(store, RUN, B, clock).token == 2
    assert store.renew(A, clock.now(), LEASE_S) == []
    assert [lease.name for lease in store.leases()] == [run_lease(RUN)]


def test_one_may_take_a_run_again_and_keep_its_targets(store, clock):
    """A session that takes its own lapsed run again has not been taken over."""
    take(store, RUN, A, clock)
    asyncio.run(targets(store, clock).hold("x"))
    clock.advance(LEASE_S)
    assert take(store, RUN, A, clock).token == 2
    assert holds(store, "target:test/x") == A


def test_a_clock_that_was_set_back_locks_nobody_out_of_a_run(store, clock):
    """A lease that would last for longer than it was ever given for counts as lapsed."""
    clock.advance(3600)
    take(store, RUN, A, clock)
    back = FakeClock()
    assert take(store, RUN, B, back).token == 2


def test_a_dead_process_is_waited_for_until_its_lease_lapses(store):
    """Who resumes at once waits, is told once for whom and until when, and then has the run."""
    clock, said = FakeClock(), []
    take(store, RUN, A, clock)
    clock.advance(5)
    assert take_when_free(store, RUN, B, clock, say=said.append).token == 2
    assert LEASE_S <= clock.monotonic() < LEASE_S + 1
    assert said == [f"Run {RUN} is held by run {RUN} (process 1 on here) until 2026-01-01 00:00:15Z. "
                    "Waiting for it to lapse."]  # fmt: skip


def test_a_free_run_is_had_at_once(store, clock):
    """Nobody is waited for and nothing is said when nobody holds it."""
    assert take_when_free(store, RUN, B, clock, say=None).token == 1
    assert clock.monotonic() == 0


def test_a_live_process_is_not_waited_for(store):
    """As soon as somebody renews the lease, its process lives, and the run is not taken."""
    clock = Ticking()
    take(store, RUN, A, clock)
    clock.acts = [lambda: None, lambda: store.renew(A, clock.now(), LEASE_S)]
    with pytest.raises(Held, match="process 1 on here"):
        take_when_free(store, RUN, B, clock, say=lambda text: None)
    assert clock.monotonic() < 1 and holds(store, run_lease(RUN)) == A


def test_a_renewal_after_the_clock_was_set_back_is_a_sign_of_life_too(store):
    """An end that moves shows a living process, whether it moves forth or back."""
    clock = Ticking()
    take(store, RUN, A, clock)
    clock.acts = [lambda: store.renew(A, clock.now() - timedelta(seconds=3), LEASE_S)]
    with pytest.raises(Held):
        take_when_free(store, RUN, B, clock, say=lambda text: None)


def test_who_had_the_run_for_a_moment_only_is_no_obstacle(store):
    """One that marks a dead run and gives it back at once does not count as a process that lives."""
    clock = Ticking()
    take(store, RUN, A, clock)

    def marked() -> None:
        clock.advance(LEASE_S)
        take(store, RUN, f"{RUN}/here/9/999999", clock)

    clock.acts = [marked, lambda: store.release(f"{RUN}/here/9/999999")]
    assert take_when_free(store, RUN, B, clock, say=lambda text: None).token == 3


def test_a_lease_given_back_between_two_looks_is_taken(store):
    """Who gives the run back while the other reads who holds it is not held to be alive."""
    clock, leases = FakeClock(), store.leases
    take(store, RUN, A, clock)
    answers = [leases(), leases(), []]

    def given_back() -> list[Lease]:
        if len(answers) == 1:
            store.release(A)
        return answers.pop(0) if answers else leases()

    store.leases = given_back
    assert take_when_free(store, RUN, B, clock, say=lambda text: None).token == 2


def test_a_target_is_held_under_one_token(store, clock):
    """Holding it again in the same session is free of charge; another run gets a higher token later."""
    held = targets(store, clock)
    assert [asyncio.run(held.hold("x")) for _ in range(3)] == [1, 1, 1]
    held.check("x", 1)
    store.release(A)
    assert asyncio.run(targets(store, clock, B).hold("x")) == 2


def test_a_lease_is_written_again_only_when_half_of_its_time_is_over(store, clock):
    """Changes that follow each other do not each cost a write; one whose lease gets old prolongs it."""
    held, asked = targets(store, clock), []
    acquire = store.acquire
    store.acquire = lambda *args: asked.append(clock.monotonic()) or acquire(*args)
    for _ in range(5):
        asyncio.run(held.hold("x"))
        clock.advance(4)
    assert asked == [0, 8, 16]
    assert store.leases()[0].until == clock.now() - timedelta(seconds=4) + timedelta(seconds=LEASE_S)


def test_who_lost_a_target_unnoticed_is_stopped_by_the_check_and_then_waits(store, clock):
    """How a lease was seen a moment ago is only good until the look before the effect; after that it is had anew."""
    held = targets(store, clock)
    token = asyncio.run(held.hold("x"))
    store.release(A)
    asyncio.run(targets(store, clock, B).hold("x"))
    assert asyncio.run(held.hold("x")) == token
    with pytest.raises(Fenced):
        held.check("x", token)
    assert asyncio.run(held.hold("x")) == token + 2


def test_the_same_target_in_two_environments_is_two(store, clock):
    """A run against the sandbox does not stop one against production."""
    other = Targets(store, B, "production", clock, waits=None)
    assert [asyncio.run(found.hold("x")) for found in (targets(store, clock), other)] == [1, 1]


def test_a_target_that_another_run_holds_is_waited_for(store, clock):
    """It is told once for whom; as soon as that lease ends, the wait ends, with a higher token."""
    asyncio.run(targets(store, clock, B).hold("x"))
    waited: list[Any] = []
    assert asyncio.run(targets(store, clock, A, waited).hold("x")) == 2
    assert [(target, lease.holder) for target, lease in waited] == [("x", B)]
    assert LEASE_S <= clock.monotonic() <= LEASE_S + 0.5


def test_a_wait_for_a_target_can_be_given_up(store, clock):
    """Who is cancelled while waiting holds nothing afterwards, and can wait again."""
    asyncio.run(targets(store, clock, B).hold("x"))
    patient = targets(store, clock, A)
    clock.sleep = lambda seconds: asyncio.sleep(0)

    async def give_up() -> None:
        task = asyncio.ensure_future(patient.hold("x"))
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert holds(store, "target:test/x") == B
        store.release(B)
        assert await patient.hold("x") == 2

    asyncio.run(give_up())


def test_two_runs_that_want_each_others_target_do_not_wait_for_ever(store, clock):
    """A holds x and wants y, B holds y and wants x: B is refused at once, A waits and goes on when B has ended."""
    a_waits: list[Any] = []
    a, b = targets(store, clock, A, a_waits), targets(store, clock, B)

    async def scenario() -> list[str]:
        assert [await a.hold("x"), await b.hold("y")] == [1, 1]
        wants_y = asyncio.ensure_future(a.hold("y"))
        while not a_waits:
            await asyncio.sleep(0)
        with pytest.raises(GuardRail) as caught:
            await b.hold("x")
        store.release(B)
        assert await wants_y == 2
        return [caught.value.what, caught.value.todo]

    what, todo = asyncio.run(scenario())
    assert what.startswith(f"x is held by run {RUN} (process 1 on here) until ")
    assert what.endswith("and this run holds y: it must not wait.") and "alphabetical order" in todo
    assert words(a_waits[0][1]).startswith("held by run 20260101-000000-bbbbbb (process 2 on there) until ")


def test_who_comes_to_hold_a_later_target_while_waiting_stops_waiting(store, clock):
    """Of changes made at once, one may wait for x while another gets y: from then on the wait is refused."""
    asyncio.run(targets(store, clock, B).hold("x"))
    mine = targets(store, clock, A)

    async def scenario() -> None:
        wants_x = asyncio.ensure_future(mine.hold("x"))
        await asyncio.sleep(0)
        await mine.hold("y")
        with pytest.raises(GuardRail, match="this run holds y"):
            await wants_x

    asyncio.run(scenario())


def test_what_another_session_object_of_this_holder_holds_counts_too(store, clock):
    """The order is kept over everything that is held in a holder's name, whoever took it."""
    asyncio.run(targets(store, clock, B).hold("x"))
    asyncio.run(targets(store, clock, A).hold("y"))
    with pytest.raises(GuardRail, match="holds y"):
        asyncio.run(targets(store, clock, A).hold("x"))


def test_runs_that_take_targets_in_any_order_all_come_to_an_end(store):
    """Many runs, each with targets in an order of its own, end refused or served; nobody waits for ever."""
    clock = FakeClock()
    orders = ["xyz", "zyx", "yxz", "xzy", "zxy", "yzx"]

    async def one(number: int, order: str) -> str:
        holder = f"20260101-000000-00000{number}/h/{number}/0"
        held = targets(store, clock, holder)
        try:
            for target in order:
                token = await held.hold(target)
                await asyncio.sleep(0)
                held.check(target, token)
        except GuardRail:
            return "refused"
        finally:
            store.release(holder)
        return "served"

    async def scenario() -> list[str]:
        return await asyncio.wait_for(asyncio.gather(*(one(n, order) for n, order in enumerate(orders))), 30)

    results = asyncio.run(scenario())
    assert set(results) == {"served", "refused"} and store.leases() == []


def test_several_targets_are_taken_in_one_order(store, clock):
    """Named in any order and twice, they are taken once each, from the first to the last."""
    asked: list[str] = []
    acquire = store.acquire
    store.acquire = lambda name, *args: asked.append(name) or acquire(name, *args)
    assert asyncio.run(targets(store, clock).hold_all(["z", "x", "y", "x"], 1.0)) == []
    assert asked == [f"target:test/{name}" for name in "xyz"]


def test_what_cannot_be_had_in_time_is_named(store, clock):
    """Each target is waited for in turn, not for longer than said, and the others are taken."""
    asyncio.run(targets(store, clock, B).hold("y"))
    clock.sleep = lambda seconds: asyncio.sleep(0.01)
    mine = targets(store, clock)
    assert asyncio.run(mine.hold_all(["x", "y", "z"], 0.1)) == ["y"]
    assert [holds(store, f"target:test/{name}") for name in "xyz"] == [A, B, A]
    assert asyncio.run(mine.hold_all(["y"], 0.1)) == ["y"]


def test_a_store_that_is_away_lets_nothing_be_held(store, clock, monkeypatch):
    """When the store stays away no lease is had, and the others are not given up for it."""

    def away(*args: Any) -> Any:
        raise StoreUnavailable("The store is away.")

    monkeypatch.setattr(store, "acquire", away)
    assert asyncio.run(targets(store, clock).hold_all(["x", "y"], 1.0)) == ["x", "y"]


def test_whoever_lost_the_run_while_waiting_is_told(store, clock):
    """Being fenced is no reason to go on with the next target."""
    asyncio.run(targets(store, clock, B).hold("x"))

    def fenced(target: str, lease: Lease) -> None:
        raise Fenced("The run was taken over.")

    with pytest.raises(Fenced):
        asyncio.run(Targets(store, A, "test", clock, waits=fenced).hold_all(["x", "y"], 1.0))


@pytest.mark.parametrize("how", ["lapsed", "taken", "given back", "taken again", "clock set back"])
def test_a_lease_that_holds_no_more_is_noticed_before_the_effect(store, clock, how):
    """Lapsed, taken by another, given back, taken anew with another token: nothing may be done under it."""
    clock.advance(60)
    held = targets(store, clock)
    token = asyncio.run(held.hold("x"))
    held.check("x", token)
    if how == "clock set back":
        clock.advance(-60)
    else:
        clock.advance(0 if how == "given back" else LEASE_S)
    if how == "given back":
        store.release(A)
    if how == "taken":
        asyncio.run(targets(store, clock, B).hold("x"))
    if how == "taken again":
        assert asyncio.run(held.hold("x")) == token + 1
    with pytest.raises(Fenced, match=r"The lease on x has lapsed \(token 1\)"):
        held.check("x", token)


def test_a_renewed_lease_still_holds(store, clock):
    """A Keeper that renews in time keeps the token good."""
    held = targets(store, clock)
    token = asyncio.run(held.hold("x"))
    keeper = Keeper(store, A, clock)
    for _ in range(10):
        clock.advance(LEASE_S / 5)
        keeper.renew()
    held.check("x", token)


def test_a_keeper_gets_over_an_outage(store, clock, monkeypatch):
    """A renewal that fails is made good by the next, also after the lease has lapsed, as long as nobody took it."""
    held = targets(store, clock)
    token = asyncio.run(held.hold("x"))
    keeper, renew = Keeper(store, A, clock), store.renew

    def away(*args: Any) -> Any:
        raise StoreUnavailable("The store is away.")

    monkeypatch.setattr(store, "renew", away)
    clock.advance(LEASE_S + 1)
    keeper.renew()
    with pytest.raises(Fenced):
        held.check("x", token)
    monkeypatch.setattr(store, "renew", renew)
    keeper.renew()
    held.check("x", token)


def test_a_keeper_does_not_take_back_what_another_has_taken(store, clock):
    """What was taken over stays taken over."""
    asyncio.run(targets(store, clock).hold("x"))
    clock.advance(LEASE_S)
    asyncio.run(targets(store, clock, B).hold("x"))
    Keeper(store, A, clock).renew()
    assert holds(store, "target:test/x") == B


def test_a_keeper_renews_by_itself_and_gives_back_at_the_end(store, clock):
    """From its start to its stop it renews again and again; then nothing is held any more."""
    take(store, RUN, A, clock, ttl_s=0.05)
    renewed, enough = store.renew, threading.Semaphore(0)

    def counting(*args: Any) -> Any:
        enough.release()
        return renewed(*args)

    store.renew = counting
    keeper = Keeper(store, A, clock, ttl_s=0.05)
    keeper.start()
    assert all(enough.acquire(timeout=10) for _ in range(3))
    keeper.stop()
    keeper.stop()
    assert store.leases() == [] and not [t for t in threading.enumerate() if t.name == "rbkit-keeper"]


def test_a_keeper_that_cannot_give_back_lets_it_lapse(store, clock, monkeypatch):
    """A store that is away at the end costs nobody more than the time of a lease; also one that never started."""
    take(store, RUN, A, clock)

    def away(holder: str) -> None:
        raise StoreUnavailable("The store is away.")

    monkeypatch.setattr(store, "release", away)
    Keeper(store, A, clock).stop()
    clock.advance(LEASE_S)
    assert not store.leases()[0].live(clock.now())
