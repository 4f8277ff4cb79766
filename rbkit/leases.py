"""Who may act: the lease on a run, the leases on its targets, and what keeps them alive."""

import asyncio
import contextlib
import os
import platform
import secrets
import threading
from collections.abc import Callable, Iterable
from datetime import timedelta

from rbkit.clock import Clock, wall
from rbkit.errors import Fenced, GuardRail, Held, StoreUnavailable
from rbkit.resilience import patiently
from rbkit.store import Lease, Store

__all__ = [
    "Keeper", "Targets", "kernel_of", "lease_of", "new_holder", "process", "run_lease", "take", "take_when_free",
    "words",
]  # fmt: skip

LEASE_S = 15.0
"""How long a lease lasts unless it is renewed, seconds."""
_POLL_S = 0.25


def run_lease(run: str) -> str:
    """Name the lease on a run."""
    return f"run:{run}"


def new_holder(run: str) -> str:
    """Name this process as the holder of a run and its targets; no two processes are named so."""
    return f"{run}/{platform.node()}/{os.getpid()}/{secrets.token_hex(3)}"


def kernel_of(holder: str) -> str:
    """Name the kernel of a supervisor as the holder of targets: not the supervisor, which shuts it out at its end."""
    return f"{holder}/kernel"


def process(holder: str) -> str:
    """Name the process of a holder, for example `process 17 on web-1`."""
    _, host, pid, *_ = [*holder.split("/"), "?", "?"]
    return f"process {pid} on {host}"


def words(lease: Lease) -> str:
    """Say who holds a lease and until when."""
    return f"held by run {lease.holder.partition('/')[0]} ({process(lease.holder)}) until {wall(lease.until)}"


def lease_of(store: Store, name: str, clock: Clock) -> Lease | None:
    """Find a lease that somebody holds, live or lapsed."""
    return next((lease for lease in patiently(store.leases, clock) if lease.name == name), None)


def take(store: Store, run: str, holder: str, clock: Clock, ttl_s: float = LEASE_S) -> Lease:
    """Take the lease on a run, and with it everything that the dead process held which had it before.

    Args:
        store: Where leases are kept.
        run: The run's id.
        holder: Who wants it.
        clock: Where the time comes from.
        ttl_s: For how long, seconds.

    Returns:
        The lease; its token is the number of the session that may now begin.

    Raises:
        Held: Somebody else holds it and is alive.
    """
    before = lease_of(store, run_lease(run), clock)
    lease = _had(store, run_lease(run), holder, clock, ttl_s)
    if lease.holder != holder:
        raise Held(f"Run {run} is {words(lease)}.", todo=f"It is alive: `rbkit cancel {run}` stops and rolls back.")
    if before and before.holder != holder:
        for dead in (before.holder, kernel_of(before.holder)):  # should it wake up, it must not renew its targets
            patiently(lambda dead=dead: store.release(dead), clock)  # type: ignore[misc]
    return lease


def take_when_free(
    store: Store, run: str, holder: str, clock: Clock, *, say: Callable[[str], None], ttl_s: float = LEASE_S
) -> Lease:
    """Take the lease on a run as soon as the process that held it has been dead for long enough.

    Args:
        store: Where leases are kept.
        run: The run's id.
        holder: Who wants it.
        clock: Where the time comes from.
        say: Told once who holds it and until when.
        ttl_s: For how long it is taken, seconds.

    Raises:
        Held: Somebody renews it, so a process lives.
    """
    seen: Lease | None = None
    while True:
        try:
            return take(store, run, holder, clock, ttl_s)
        except Held as held:
            now = lease_of(store, run_lease(run), clock)
            if now and seen and now.token == seen.token and now.until != seen.until:
                raise
            if seen is None:
                say(f"{held.what} Waiting for it to lapse.")
            seen = now or seen
            clock.pause(_POLL_S)


def _had(store: Store, name: str, holder: str, clock: Clock, ttl_s: float) -> Lease:
    """Take or prolong a lease; one that another holds, or that lasts for long enough, is only looked at.

    Whoever waits for a lease looks at it again and again, and must not lock the store each time.
    """
    found = lease_of(store, name, clock)
    if found and found.live(clock.now()) and (found.holder != holder or _lasts(found, clock)):
        return found
    return patiently(lambda: store.acquire(name, holder, clock.now, ttl_s), clock)


def _lasts(lease: Lease, clock: Clock) -> bool:
    """Tell whether more than half of the time of a lease is left."""
    return lease.live(clock.now()) and lease.until > clock.now() + timedelta(seconds=lease.ttl_s / 2)


class Keeper:
    """Keeps a session alive: renews everything that its holder holds, from a thread of its own.

    Args:
        store: Where leases are kept.
        holder: Whose leases.
        clock: Where the time comes from.
        ttl_s: For how long each is renewed, seconds.
    """

    def __init__(self, store: Store, holder: str, clock: Clock, ttl_s: float = LEASE_S) -> None:
        self._store, self._holder, self._clock, self._ttl_s = store, holder, clock, ttl_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="rbkit-keeper", daemon=True)

    def start(self) -> None:
        """Begin to renew."""
        self._thread.start()

    def stop(self) -> None:
        """Stop renewing and give everything back; what cannot be given back lapses by itself."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        with contextlib.suppress(StoreUnavailable):
            self._store.release(self._holder)

    def renew(self) -> None:
        """Renew once; a store that is away is tried again at the next turn."""
        with contextlib.suppress(StoreUnavailable):
            self._store.renew(self._holder, self._clock.now(), self._ttl_s)

    def _keep(self) -> None:
        while not self._over.wait(self._ttl_s / 5):
            self.renew()


class Targets:
    """The targets that a session may act on, taken in one order by every run, so that no two wait for each other.

    Args:
        store: Where leases are kept.
        holder: Who holds them.
        environment: The environment's name; a target of one is none of another.
        clock: Where the time comes from.
        ttl_s: For how long each is taken, seconds; a Keeper renews it.
        waits: Told once of a lease that is waited for.
    """

    def __init__(
        self, store: Store, holder: str, environment: str, clock: Clock, *, ttl_s: float = LEASE_S,
        waits: Callable[[str, Lease], None],
    ) -> None:  # fmt: skip
        self._store, self._holder, self._environment, self._clock = store, holder, environment, clock
        self._ttl_s, self._waits = ttl_s, waits
        self._seen: dict[str, Lease] = {}

    async def hold(self, target: str) -> int:
        """Take the lease on a target; wait while somebody else holds it, if waiting can never end in a deadlock.

        Args:
            target: The target's name.

        Returns:
            The fencing token.

        Raises:
            GuardRail: Somebody else holds it, and this run holds a target that comes later in the order.
        """
        name, told = self._name(target), False
        while True:
            lease = self._had(name)
            if lease.holder == self._holder:
                return lease.token
            self._refuse_deadlock(name, target, lease)
            if not told:
                self._waits(target, lease)
                told = True
            await self._clock.sleep(_POLL_S)

    def anew(self, target: str) -> None:
        """Give a target a higher token, if this session holds it: what is still under way with the old one is shut out.

        Args:
            target: The target's name.
        """
        name = self._name(target)
        self._seen.pop(name, None)
        acquire = self._store.acquire
        patiently(lambda: acquire(name, self._holder, self._clock.now, self._ttl_s, fresh=True), self._clock)

    async def hold_all(self, targets: Iterable[str], within_s: float) -> list[str]:
        """Take several targets in the order in which nobody waits for ever.

        Args:
            targets: Their names.
            within_s: How long to wait for each, seconds.

        Returns:
            Those that could not be had.
        """
        missing = []
        for target in sorted(set(targets)):
            try:
                async with asyncio.timeout(within_s):
                    await self.hold(target)
            except (TimeoutError, GuardRail, StoreUnavailable):
                missing.append(target)
        return missing

    def check(self, target: str, token: int) -> None:
        """Make sure, immediately before an effect, that the lease still holds.

        Raises:
            Fenced: It has lapsed, or somebody else has it.
        """
        name = self._name(target)
        found = lease_of(self._store, name, self._clock)
        mine = found is not None and (found.holder, found.token) == (self._holder, token)
        if found is None or not mine or not found.live(self._clock.now()):
            self._seen.pop(name, None)
            raise Fenced(f"The lease on {target} has lapsed (token {token}), so nothing may be done to it.")

    def _had(self, name: str) -> Lease:
        """Take a lease, or go by how it was seen a moment ago: `check` looks again before every effect."""
        seen = self._seen.get(name)
        if seen is None or not _lasts(seen, self._clock):
            seen = _had(self._store, name, self._holder, self._clock, self._ttl_s)
        if seen.holder == self._holder:
            self._seen[name] = seen
        return seen

    def _refuse_deadlock(self, name: str, target: str, lease: Lease) -> None:
        """Refuse to wait for a target while holding one that comes later: its holder may be waiting for that one."""
        held = [found.name for found in patiently(self._store.leases, self._clock) if found.holder == self._holder]
        later = [_short(found) for found in held if found > name]
        if later:
            raise GuardRail(
                f"{target} is {words(lease)}, and this run holds {', '.join(later)}: it must not wait.",
                todo="Take the targets in alphabetical order, or all at once with run.rolling(...); try again later.",
            )

    def _name(self, target: str) -> str:
        return f"target:{self._environment}/{target}"


def _short(name: str) -> str:
    return name.partition("/")[2]
