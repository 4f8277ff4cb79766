"""Finds runs whose process is dead: nothing says that it runs without a live lease."""

import os
import platform
from datetime import datetime, timedelta

from rbkit import events as ev
from rbkit.clock import Clock, wall
from rbkit.errors import Held, IllegalMove, JournalBroken
from rbkit.facts import Purpose
from rbkit.fold import RunState
from rbkit.journal import AUDIT, Journal
from rbkit.leases import new_holder, process, run_lease, take
from rbkit.store import Lease, Store

__all__ = ["ORPHANED", "began", "lost", "reap"]

ORPHANED = frozenset({"interrupted", "stranded"})
"""States of a run that nobody holds."""
_LATE = timedelta(seconds=5)
"""How long after the time was read a lease may have been renewed without seeming to be from before a clock change."""


def lost(store: Store, state: RunState, now: datetime) -> str:
    """Say why a run that is not over counts as dead; empty when it is over or its process lives.

    Args:
        store: Where the leases are kept.
        state: The run.
        now: The present time, UTC.
    """
    if state.finished or state.opened is None:
        return ""
    if state.state in ORPHANED:
        return state.lost or "its process was lost"
    return _dead(next((lease for lease in store.leases() if lease.name == run_lease(state.run)), None), now)


def _dead(lease: Lease | None, now: datetime) -> str:
    if lease is None:
        return "no process holds it"
    if lease.live(now) or lease.live(now + _LATE):
        return ""
    return f"{process(lease.holder)} was last heard of before {wall(lease.until)}"


def began(
    session: int, purpose: Purpose, why: str, digest: str = "", differences: list[str] | None = None
) -> ev.SessionBegan:
    """Describe this process as the one that takes a run over."""
    return ev.SessionBegan(
        session=session, purpose=purpose, host=platform.node(), pid=os.getpid(), why=why, digest=digest,
        differences=differences or [],
    )  # fmt: skip


def reap(store: Store, clock: Clock, *, thoroughly: bool = False, but: str = "") -> list[str]:
    """Mark every run whose process is dead as interrupted; it can then be resumed, rolled back or abandoned.

    Args:
        store: Where journals and leases are kept.
        clock: Where the time comes from.
        thoroughly: Look at every run, not only at those with a lease that has lapsed.
        but: A run that is left out: the caller's own.

    Returns:
        The runs that were found dead.
    """
    now = clock.now()
    leases = {lease.name: lease for lease in store.leases() if lease.name.startswith("run:")}
    lapsed = [lease.name.removeprefix("run:") for lease in leases.values() if not lease.live(now)]
    free = [run for run in store.runs() if run != AUDIT and run_lease(run) not in leases] if thoroughly else []
    return [run for run in [*lapsed, *free] if run != but and _reaped(store, run, leases.get(run_lease(run)), clock)]


def _reaped(store: Store, run: str, lease: Lease | None, clock: Clock) -> bool:
    journal = Journal(store, run, "reaper", clock=clock, session=0)
    try:
        state = journal.state
    except JournalBroken:  # nobody can say where it stands; `verify` names the place, and the others are looked at
        return False
    if not state.finished and state.opened is not None and state.state not in ORPHANED:
        return _interrupted(store, journal, lease)
    if lease is not None:
        store.release(lease.holder)  # nothing is to be held for it any more
    return False


def _interrupted(store: Store, journal: Journal, lease: Lease | None) -> bool:
    """Take a run for a moment to write that its process is dead; unless it lives, or somebody else is quicker."""
    holder, clock = new_holder(journal.run), journal.clock
    try:
        token = take(store, journal.run, holder, clock).token
        why = _dead(lease, clock.now()) or "no process holds it"
        journal.append(began(max(token, journal.known.session + 1), "interruption", why))
    except (Held, IllegalMove):
        return False
    finally:
        store.release(holder)
    return True
