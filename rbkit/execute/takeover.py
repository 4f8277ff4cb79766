"""Takes over a run whose process is dead, or that is over: to resume it, roll it back, or leave it as it is."""

import asyncio
import difflib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rbkit.approvals import entitled
from rbkit.clock import SystemClock
from rbkit.ending import abandon as close_as_it_is
from rbkit.ending import end
from rbkit.errors import Denied, IllegalMove, RefusedInput
from rbkit.events import SessionBegan
from rbkit.execute.processes import kill_orphans
from rbkit.execute.runner import Finished, check, recorded, supervised
from rbkit.execute.supervise import Supervision
from rbkit.facts import Purpose
from rbkit.fold import RunState
from rbkit.gate import Gate
from rbkit.journal import Journal, existing
from rbkit.leases import Keeper, new_holder, take_when_free
from rbkit.notebook import Runbook, find, load, sources
from rbkit.policy import to_undo
from rbkit.ports import Store
from rbkit.progress import Moment
from rbkit.reaping import began
from rbkit.settings import Settings
from rbkit.terms import Terms
from rbkit.wiring import Wiring

__all__ = ["abandon", "differences", "resume", "roll_back"]

Say = Callable[[str], None]


def resume(
    store: Store, run: str, settings: Settings, *, notebook: Path | None = None, accept_changes: bool = False,
    say: Say, progress: Callable[[Moment], None], on_cell: Callable[[int, Any], None],
) -> Finished:  # fmt: skip
    """Go on with a run whose process is dead, in a new kernel: what is done is not repeated.

    Args:
        store: Where its journal lies.
        run: The run's id, the beginning or end of one, or `last`.
        settings: Where environment files and notebooks lie.
        notebook: The runbook's file, if it is not where it was.
        accept_changes: Go on although the runbook was changed meanwhile.
        say: Told what is waited for and what differs.
        progress: Called with every new event.
        on_cell: Called before each code cell.

    Returns:
        The run and its record.

    Raises:
        IllegalMove: It is over, on its way back, or was no live run.
        RefusedInput: The runbook was changed, and that was not accepted; the differences are named.
        Denied: Who accepts the changes may not.
        Held: Its process lives.
    """
    journal = existing(store, run, "cli", actor=settings.actor)
    state = _may(journal, "resume")
    opened = state.opened
    if opened is None or opened.mode != "live":
        raise IllegalMove(f"Run {journal.run} changes nothing, so there is nothing to resume.", todo="Run it again.")
    book = load(notebook) if notebook else _book(opened.path, opened.runbook, settings)
    differs = differences(store, state, book)
    _check_accepted(journal, settings, differs, accept=accept_changes)
    values = check(book, opened.parameters, settings, store)
    holder = _taken(store, journal, "resume", settings, say, book.contract.digest, differs)
    settings = settings.model_copy(update={"mode": "resume", "session": journal.session})
    supervision = Supervision(journal.run, settings, str(book.path.resolve()), holder, progress, on_cell)
    return supervised(supervision, book, values, store)


def roll_back(store: Store, run: str, settings: Settings, *, why: str = "", say: Say) -> Finished:
    """Undo what a run has done, from its journal alone; also after its end.

    Args:
        store: Where its journal lies.
        run: The run's id, the beginning or end of one, or `last`.
        settings: Where environment files lie.
        why: Why, in one sentence.
        say: Told what is waited for.

    Returns:
        The run and its record.

    Raises:
        IllegalMove: It was no live run, or nothing is left to undo.
        Held: Its process lives; stop it instead.
    """
    journal = existing(store, run, "cli", actor=settings.actor)
    state = _may(journal, "roll_back")
    if state.opened is None or state.opened.mode != "live":
        raise IllegalMove(f"Run {journal.run} has changed nothing, so there is nothing to undo.")
    if state.finished and not any(change.inverse or change.in_doubt for change in to_undo(state.changes.values())):
        raise IllegalMove(f"Run {journal.run} is over, and nothing that it did stands and can be undone.")
    environment = settings.environment(state.opened.environment)
    notebook = _executed(store, state, settings)
    holder = _taken(store, journal, "roll_back", settings, say)
    keeper = Keeper(store, holder, journal.clock, settings.lease_s)
    keeper.start()
    try:
        asyncio.run(_ended(journal, Wiring(environment), holder, settings, why or f"{journal.actor} rolled it back"))
    finally:
        keeper.stop()
    return recorded(journal, notebook, settings.home)


def abandon(store: Store, run: str, settings: Settings, *, why: str = "", say: Say) -> Finished:
    """Close a run whose process is dead and leave everything as it is.

    Args:
        store: Where its journal lies.
        run: The run's id, the beginning or end of one, or `last`.
        settings: Where records lie.
        why: Why, in one sentence.
        say: Told what is waited for.

    Returns:
        The run and its record.

    Raises:
        IllegalMove: It is over.
        Held: Its process lives; stop it instead.
    """
    journal = existing(store, run, "cli", actor=settings.actor)
    notebook = _executed(store, _may(journal, "abandon"), settings)
    holder = _taken(store, journal, "abandon", settings, say)
    try:
        close_as_it_is(journal, why or f"{journal.actor} abandoned it")
    finally:
        store.release(holder)
    return recorded(journal, notebook, settings.home)


async def _ended(journal: Journal, world: Wiring, holder: str, settings: Settings, why: str) -> RunState:
    try:
        terms = Terms(holder=holder, lease_s=settings.lease_s)
        return await end(Gate(journal, world, terms=terms), why, anyway=True)
    finally:
        await world.aclose()


def _may(journal: Journal, purpose: Purpose) -> RunState:
    """Refuse at once what the run's state does not allow."""
    state = journal.state
    state.check(began(state.session + 1, purpose, ""))
    return state


def _taken(
    store: Store, journal: Journal, purpose: Purpose, settings: Settings, say: Say, digest: str = "",
    differs: list[str] | None = None,
) -> str:  # fmt: skip
    """Take the lease as soon as nobody holds it, begin a session, and kill what the one before left on this machine."""
    holder, over, seen = new_holder(journal.run), journal.known.finished, len(journal.known.timeline)
    lease = take_when_free(store, journal.run, holder, SystemClock(), say=say, ttl_s=settings.lease_s)
    try:
        if journal.state.finished != over or any(map(_takes_over, journal.known.timeline[seen:])):
            raise IllegalMove(
                f"Run {journal.run} has gone on meanwhile.", todo=f"Look again: `rbkit show {journal.run}`."
            )
        journal.append(began(max(lease.token, journal.known.session + 1), purpose, "", digest, differs))
    except BaseException:
        store.release(holder)
        raise
    kill_orphans(journal.run)
    return holder


def _takes_over(moment: Moment) -> bool:
    """Whether somebody took the run over; that it was found dead is no news."""
    return isinstance(moment.event, SessionBegan) and moment.event.purpose != "interruption"


def _book(path: str, name: str, settings: Settings) -> Runbook:
    if path and Path(path).is_file():
        return load(Path(path))
    return find(name, settings.folder("notebooks"))


def _check_accepted(journal: Journal, settings: Settings, differs: list[str], *, accept: bool) -> None:
    if not differs:
        return
    if not accept:
        text = "\n".join(f"    {line}" for line in differs)
        raise RefusedInput(
            f"The runbook was changed since run {journal.run} began:\n{text}\n",
            todo="Read the differences; `--accept-changes` goes on with the new version, `rbkit rollback` undoes.",
        )
    opened = journal.state.opened
    approvers = settings.environment(opened.environment).approvers if opened else []
    if not entitled(journal.actor, approvers):
        raise Denied(f"{journal.actor} may not accept a changed runbook here; {', '.join(approvers)} may.")


def differences(store: Store, state: RunState, book: Runbook) -> list[str]:
    """Compare a runbook with the one that a run began with.

    Args:
        store: Where the cells were kept.
        state: The run.
        book: The runbook as it is now.

    Returns:
        Lines that say which steps and checks came, went or were changed, and a diff of the cells; empty when the
        code is the same.
    """
    if state.digest == book.contract.digest:
        return []
    old = {step["name"]: step for step in (state.opened.contract if state.opened else {}).get("steps", [])}
    new = {step.name: step.model_dump(mode="json") for step in book.contract.steps}
    said = [f"step {name} was taken out" for name in old if name not in new]
    said += [f"step {name} is new" for name in new if name not in old]
    said += [
        f"step {name}: {_moved(old[name], new[name])}" for name in new if name in old and _moved(old[name], new[name])
    ]
    return [*said, *_diff(store, state, book)]


def _moved(old: dict[str, Any], new: dict[str, Any]) -> str:
    keys = [key for key in new if key != "cell" and old.get(key) != new[key]]
    return ", ".join(f"{key} {old.get(key)!r} → {new[key]!r}" for key in keys)


def _diff(store: Store, state: RunState, book: Runbook) -> list[str]:
    kept = store.fetch(state.opened.source) if state.opened and state.opened.source else None
    if kept is None:
        return ["the text of the cells was not kept, so they cannot be compared"]
    old, new = json.loads(kept), sources(book)
    lines = difflib.unified_diff(_lines(old), _lines(new), "as it began", str(book.path.name), lineterm="", n=1)
    return list(lines)


def _lines(cells: list[list[str]]) -> list[str]:
    return [line for kind, text in cells if kind == "code" for line in text.splitlines()]


def _executed(store: Store, state: RunState, settings: Settings) -> dict[str, Any]:
    """Return the notebook for a run's record: its record so far, or the cells with which it began."""
    path = settings.home / "records" / f"{state.run}.ipynb"
    if path.is_file():
        notebook: dict[str, Any] = json.loads(path.read_bytes())
        return notebook
    kept = store.fetch(state.opened.source) if state.opened and state.opened.source else None
    cells = [_cell(place, kind, text) for place, (kind, text) in enumerate(json.loads(kept or b"[]"))]
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def _cell(place: int, kind: str, text: str) -> dict[str, Any]:
    code: dict[str, Any] = {"outputs": [], "execution_count": None} if kind == "code" else {}
    return {"cell_type": kind, "id": f"cell-{place}", "metadata": {}, "source": text, **code}
