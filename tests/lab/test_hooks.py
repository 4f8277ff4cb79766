"""What the kernel does by itself."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from IPython.core.events import EventManager, available_events
from sessions import opened, taken

import rbkit
from rbkit import events as ev
from rbkit.adapters.fakes import FakeBalancer
from rbkit.errors import Fenced, JournalBroken, RunEnded, SettingsError, StoreUnavailable
from rbkit.lab import hooks as module
from rbkit.lab.hooks import Hooks
from rbkit.leases import Keeper, run_lease
from rbkit.sandbox.layout import INSTANCES
from rbkit.stores.sqlite import SqliteStore


def shell() -> Any:
    """Make the part of a shell that reports cells."""
    found = SimpleNamespace()
    found.events = EventManager(found, available_events)
    return found


def cell(watched: Any, error: BaseException | None = None, before: BaseException | None = None) -> None:
    """Report that a cell has ended."""
    watched.events.trigger("post_run_cell", SimpleNamespace(error_in_exec=error, error_before_exec=before))


def keeper_of(rig: Any) -> Keeper:
    """Hold a run, and make what keeps it."""
    rig.store.acquire(run_lease(rig.journal().run), rig.terms.holder, rig.clock.now(), 15.0)
    return Keeper(rig.store, rig.terms.holder, rig.clock)


def acted(run: Any) -> None:
    """Drain a member in a step of a run."""

    @run.step()
    async def drain() -> Any:
        """Take it out."""
        return await run.use("balancer").drain("checkout-1")

    asyncio.run(drain())


def asked_to_stop(rig: Any) -> None:
    """Ask the run to stop from another process."""
    rig.journal(source="cli").append(ev.CancelRequested(reason="enough"))


@pytest.fixture
def slowly(monkeypatch) -> None:
    """Keep the watching thread from looking by itself: the test does."""
    monkeypatch.setattr(module, "_POLL_S", 1e6)


@pytest.fixture
def kills(monkeypatch) -> list[tuple[int, int]]:
    """Collect the signals instead of sending them; none is waited for."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(module, "_INTERRUPT_S", -1.0)
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    return sent


@pytest.mark.parametrize("driver", ["headless", "supervised"])
@pytest.mark.parametrize("where", ["error", "before"])
def test_a_failed_cell_ends_the_run(rig, driver, where) -> None:
    """A cell that fails, or cannot even be parsed, rolls the run back; a good one does nothing."""
    run, watched = rig.run(), shell()
    acted(run)
    hooks = Hooks(watched, run, driver, None)
    hooks.install()
    cell(watched)
    assert not run.state.finished
    cell(watched, **{where: SyntaxError("odd")})
    assert (run.state.outcome, rig.states()["checkout-1"]) == ("rolled_back", "ready")
    cell(watched, ValueError("later"))
    assert rig.screen.ended == ["rolled_back"]
    hooks.remove()


def test_a_run_that_cannot_be_ended_at_once_can_be_ended_later(rig, monkeypatch) -> None:
    """The store is away when a cell fails; when it is back, a request to stop ends the run."""
    run, watched = rig.run(), shell()
    hooks = Hooks(watched, run, "headless", None)
    ends = run.fail_now

    def away(*arguments: Any, **more: Any) -> Any:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(run, "fail_now", away)
    with pytest.raises(StoreUnavailable):
        hooks._cell_ended(SimpleNamespace(error_in_exec=ValueError("odd"), error_before_exec=None))
    monkeypatch.setattr(run, "fail_now", ends)
    asked_to_stop(rig)
    hooks._look()
    assert run.state.outcome == "aborted"


def test_an_operators_slip_does_not_end_the_run(rig) -> None:
    """An operator mends the cell and runs it again."""
    run, watched = rig.run(), shell()
    hooks = Hooks(watched, run, "operator", None)
    hooks.install()
    cell(watched, ValueError("a slip"))
    hooks.remove()
    assert not run.state.finished


def test_a_cell_that_was_fenced_ends_nothing(rig) -> None:
    """Another process has the run: nothing is undone here."""
    run, watched = rig.run(), shell()
    acted(run)
    hooks = Hooks(watched, run, "headless", None)
    hooks.install()
    cell(watched, Fenced("taken over"))
    hooks.remove()
    assert not run.state.finished and rig.states()["checkout-1"] == "drain"


def test_what_is_removed_watches_no_more(rig, slowly) -> None:
    """After removal a failed cell is somebody else's, and the leases are free."""
    run, watched = rig.run(), shell()
    hooks = Hooks(watched, run, "headless", keeper_of(rig))
    hooks.install()
    hooks.remove()
    cell(watched, ValueError("odd"))
    assert not run.state.finished and rig.store.leases() == []


@pytest.mark.parametrize("good", [True, False])
def test_when_the_run_is_over_its_leases_are_given_back(rig, slowly, good) -> None:
    """Also while the kernel lives on: nobody waits for what nobody uses."""
    run, watched = opened(rig), shell()
    hooks = Hooks(watched, run, "headless", keeper_of(rig))
    hooks.install()
    acted(run)
    cell(watched)
    assert [lease.name for lease in rig.store.leases()] == [f"run:{run.id}", "target:test/checkout-1"]
    if good:
        run.journal.append(ev.RunClosed(outcome="resolved", reason="all is well"))
    cell(watched, None if good else ValueError("odd"))
    assert rig.store.leases() == [] and hooks._over.is_set() and not hooks._keeper._thread.is_alive()
    hooks.remove()


def test_a_request_to_stop_between_two_cells_ends_the_run(rig, monkeypatch, until) -> None:
    """Nobody runs a cell, and still the run is undone, closed and given back."""
    monkeypatch.setattr(module, "_POLL_S", 0.005)
    run, watched = rig.run(), shell()
    hooks = Hooks(watched, run, "operator", keeper_of(rig))
    hooks.install()
    acted(run)
    cell(watched)
    asked_to_stop(rig)
    until(lambda: hooks._over.is_set() and rig.store.leases() == [])
    assert (run.state.outcome, run.state.reason) == ("aborted", "Stopped: enough.")
    assert rig.states()["checkout-1"] == "ready" and rig.screen.ended == ["aborted"]
    hooks.remove()


def test_a_request_to_stop_asks_nobody(rig, slowly, monkeypatch) -> None:
    """Between two cells nobody can type an answer: what was done is undone."""
    monkeypatch.setattr("builtins.input", lambda prompt: pytest.fail("asked"))
    run = opened(rig, rollback="ask", attended=True)
    acted(run)
    hooks = Hooks(shell(), run, "operator", None)
    hooks._busy = False
    run.journal.append(ev.CancelRequested(reason="interrupted"))
    hooks._look()
    assert (run.state.outcome, rig.states()["checkout-1"]) == ("aborted", "ready")


@contextlib.contextmanager
def interruptible(hooks: Hooks, others: set[threading.Thread]) -> Iterator[list[bool]]:
    """Raise on every interrupt while a cell blocks, and on none before and after; leave nobody who sends one."""
    blocks = [False]

    def interrupted(*signalled: object) -> None:
        if blocks[0]:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield blocks
    finally:
        hooks.remove()
        for thread in set(threading.enumerate()) - others:
            thread.join(60)
        signal.signal(signal.SIGINT, before)


def test_a_cell_that_blocks_is_interrupted(rig, monkeypatch) -> None:
    """A real signal reaches a cell that does not notice by itself; at the cell's end the run is ended."""
    monkeypatch.setattr(module, "_POLL_S", 0.005)
    monkeypatch.setattr(module, "_INTERRUPT_S", 0.02)
    run, watched = rig.run(), shell()
    hooks, others = Hooks(watched, run, "headless", keeper_of(rig)), set(threading.enumerate())
    acted(run)
    hooks.install()
    with interruptible(hooks, others) as blocks:
        asked_to_stop(rig)
        blocks[0] = True
        with pytest.raises(KeyboardInterrupt):
            try:
                threading.Event().wait(60)
            finally:
                blocks[0] = False
        cell(watched, KeyboardInterrupt())
    assert (run.state.outcome, rig.states()["checkout-1"]) == ("aborted", "ready")


def test_a_cell_is_given_time_to_notice_by_itself(rig, kills, monkeypatch) -> None:
    """A step watches for itself; the signal is for what does not, and comes again if it does not help."""
    times = iter([100.0, 100.0, 101.4, 101.6, 102.0, 102.0, 103.6])
    monkeypatch.setattr(module, "_INTERRUPT_S", 1.5)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(times))
    hooks = Hooks(shell(), rig.run(), "headless", None)
    hooks._look()
    asked_to_stop(rig)
    sent = []
    for _ in range(5):
        hooks._look()
        sent.append(len(kills))
    assert sent == [0, 0, 1, 1, 2] and kills[0] == (os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("state", ["rolling_back", "closed"])
def test_what_is_being_undone_is_not_interrupted(rig, kills, state) -> None:
    """The cell has noticed: it is on its way out, or through."""
    run = rig.run()
    hooks = Hooks(shell(), run, "headless", None)
    run.journal.append(ev.RollbackStarted(why="enough", undo=[], irreversible=[]))
    asked_to_stop(rig)
    if state == "closed":
        run.fail_now(RunEnded("odd"))
    for _ in range(3):
        hooks._look()
    assert kills == [] and run.state.state == state


def test_a_cell_that_is_ending_the_run_is_left_to_do_so(rig, kills) -> None:
    """While a failed cell is rolled back nobody else begins to, nor interrupts it."""
    looked = []

    class Looks(FakeBalancer):
        async def apply(self, call: Any, key: str, token: int) -> None:
            if call.action == "ready":
                looked.append(hooks._busy)
                hooks._look()
            await super().apply(call, key, token)

    rig.balancer = Looks({"checkout": INSTANCES})
    run, watched = rig.run(), shell()
    hooks = Hooks(watched, run, "headless", None)
    acted(run)
    hooks.install()
    asked_to_stop(rig)
    cell(watched, KeyboardInterrupt())
    assert looked == [True] and kills == []
    assert rig.kinds().count("rollback_started") == rig.kinds().count("run_closed") == 1
    hooks.remove()


def test_no_cell_begins_while_the_run_is_being_ended(rig, slowly, monkeypatch) -> None:
    """It waits until the run is over, and finds it so."""
    run, watched = rig.run(), shell()
    hooks = Hooks(watched, run, "operator", None)
    hooks.install()
    cell(watched)
    asked_to_stop(rig)
    ends, begun = run.fail_now, threading.Thread(target=lambda: watched.events.trigger("pre_run_cell", None))

    def fail_now(*arguments: Any, **more: Any) -> Any:
        begun.start()
        begun.join(0.1)
        assert begun.is_alive() and not hooks._busy
        return ends(*arguments, **more)

    monkeypatch.setattr(run, "fail_now", fail_now)
    hooks._look()
    begun.join()
    assert run.state.finished and hooks._busy
    hooks.remove()


def test_a_kernel_whose_run_was_taken_over_lets_go(rig, monkeypatch, until) -> None:
    """It gives back the targets that it still holds, so that nobody waits for it, and says why, once."""
    monkeypatch.setattr(module, "_POLL_S", 0.005)
    run, watched = rig.run(), shell()
    hooks = Hooks(watched, run, "operator", keeper_of(rig))
    hooks.install()
    acted(run)
    cell(watched)
    taken(rig)
    until(lambda: hooks._over.is_set() and rig.store.leases() == [])
    hooks.remove()
    assert rig.screen.lines.count(f"✗ The run {run.id} was taken over; this process stops.") == 1
    assert not run.state.finished and rig.kinds()[-1] == "session_began"


def test_a_request_to_stop_the_new_process_is_none_to_the_old_one(rig, kills) -> None:
    """Its cell is not interrupted for it, and nothing is ended here."""
    hooks = Hooks(shell(), rig.run(), "headless", None)
    taken(rig).journal.append(ev.CancelRequested(reason="the new one"))
    for busy in (True, False):
        hooks._busy = busy
        with pytest.raises(Fenced):
            hooks._look()
    assert kills == [] and rig.kinds()[-1] == "cancel_requested"


def test_trouble_is_told_once_and_watching_goes_on(rig, monkeypatch) -> None:
    """A store that is away is waited for silently; what else is wrong is said, and when it is mended the run ends."""
    run = rig.run()
    hooks = Hooks(shell(), run, "operator", None)
    hooks._busy = False
    asked_to_stop(rig)
    troubles = [
        StoreUnavailable("gone"), SettingsError("The file is gone."), SettingsError("The file is gone."),
        JournalBroken("Entry 3 was changed.", seq=3),
    ]  # fmt: skip
    ends = run.fail_now

    def fail_now(*arguments: Any, **more: Any) -> Any:
        if troubles:
            raise troubles.pop(0)
        return ends(*arguments, **more)

    monkeypatch.setattr(run, "fail_now", fail_now)
    monkeypatch.setattr(module, "_POLL_S", 0.0)
    hooks._watch()
    assert rig.screen.lines == ["✗ The file is gone.", "✗ Entry 3 was changed."] and run.state.outcome == "aborted"


@pytest.fixture
def at_exit(monkeypatch) -> list[Any]:
    """Collect what is to be done at the end of the process."""
    registered: list[Any] = []
    monkeypatch.setattr("atexit.register", registered.append)
    return registered


def test_a_kernel_that_ends_rolls_back(rig, slowly, at_exit) -> None:
    """At the end of a headless kernel an open run is ended, a finished one is left; the leases are given back."""
    run = rig.run()
    hooks = Hooks(shell(), run, "headless", keeper_of(rig))
    hooks.install()
    acted(run)
    at_exit[0]()
    assert (run.state.outcome, run.state.reason) == ("rolled_back", "The kernel ended before run.close().")
    assert rig.store.leases() == []
    kinds = rig.kinds()
    at_exit[0]()
    hooks.remove()
    assert rig.kinds() == kinds


def test_an_operators_kernel_that_ends_leaves_its_run_to_a_person(rig, slowly, at_exit) -> None:
    """Nothing is undone, and nobody holds it: it can be resumed or rolled back at once."""
    run = rig.run()
    hooks = Hooks(shell(), run, "operator", keeper_of(rig))
    hooks.install()
    acted(run)
    at_exit[0]()
    assert not run.state.finished and rig.store.leases() == [] and rig.states()["checkout-1"] == "drain"
    hooks.remove()


def test_only_who_holds_the_run_ends_it_with_the_kernel(rig, at_exit) -> None:
    """With a supervisor, that one does it."""
    hooks = Hooks(shell(), rig.run(), "supervised", None)
    hooks.install()
    hooks.remove()
    assert at_exit == []


def test_a_kernel_that_ends_after_its_run_was_taken_over_undoes_nothing(rig, slowly, at_exit) -> None:
    """It says so and gives back what it holds."""
    run = rig.run()
    hooks = Hooks(shell(), run, "headless", keeper_of(rig))
    hooks.install()
    acted(run)
    taken(rig)
    at_exit[0]()
    assert "was taken over" in rig.screen.lines[-1] and rig.store.leases() == []
    assert rig.states()["checkout-1"] == "drain" and rig.kinds()[-1] == "session_began"
    hooks.remove()


def test_a_process_that_ends_begins_no_threads(rig, slowly, at_exit) -> None:
    """Python refuses them then; what adapters leave to threads, such as looking up a name, is done all the same."""

    class Threaded(FakeBalancer):
        async def apply(self, call: Any, key: str, token: int) -> None:
            done.append(await asyncio.to_thread(threading.get_ident))
            with pytest.raises(OSError, match="nobody"):
                await asyncio.to_thread(fails)
            await super().apply(call, key, token)

    def fails() -> None:
        raise OSError("nobody")

    done: list[int] = []
    rig.balancer = Threaded({"checkout": INSTANCES})
    run = rig.run()
    hooks = Hooks(shell(), run, "headless", keeper_of(rig))
    hooks.install()
    acted(run)
    at_exit[0]()
    assert run.state.outcome == "rolled_back" and done[1] == threading.get_ident() != done[0]
    hooks.remove()


PROGRAM = """
import sys
from pathlib import Path
from IPython.core.interactiveshell import InteractiveShell
home = Path(sys.argv[1])
(home / "test.yaml").write_text("name: test")
shell = InteractiveShell.instance(ipython_dir=str(home))
shell.run_cell('environment: str = "test"', store_history=True)
opening = 'run = open_run("x", version="1", owner="me", budget="5m")'
shell.run_cell("from rbkit import open_run; " + opening, store_history=True)
"""


def test_a_real_kernel_that_ends_closes_its_run(tmp_path) -> None:
    """A process that exits without `run.close()` leaves a run that is over and that nobody holds."""
    root = str(Path(rbkit.__file__).parents[1])
    names = {"RBKIT_HOME": str(tmp_path / "home"), "RBKIT_PARAMETERS": str(tmp_path), "RBKIT_NOTEBOOKS": str(tmp_path)}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RBKIT_", "JPY_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], env=kept | names | {"PYTHONPATH": root}, check=False,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    store = SqliteStore(tmp_path / "home")
    (run,) = store.runs()
    assert store.read(run)[-1].event["reason"] == "The kernel ended before run.close()."
    assert store.leases() == []
    store.close()
