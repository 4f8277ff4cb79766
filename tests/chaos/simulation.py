"""Processes that are simulated: each runs only when a seeded scheduler lets it, and may be paused or killed anywhere.

The code under test is the real one, unchanged. What it asks of the store and of the world goes through `boundary`,
and there the scheduler decides what happens next: the same process goes on, another one does, time passes, the process
is stopped for a while (as by SIGSTOP), or it is killed. One thread runs at any time, so a seed says everything.
"""

import asyncio
import heapq
import selectors
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any

from rbkit.clock import FakeClock
from rbkit.leases import Keeper

LIMIT = 20_000
"""More boundaries than any simulation needs: beyond it, nobody gets on any more."""


class Killed(BaseException):
    """The process was killed: whatever it still tries does nothing."""


class Stuck(AssertionError):
    """The processes go on for ever."""


@dataclass(frozen=True)
class Fate:
    """How much goes wrong.

    Args:
        switch: How often another process goes on, a share of all boundaries.
        drag: How often time passes at a boundary, a share.
        pause: How often a process is stopped for a while, a share.
        kill: How often a process is killed, a share.
        lost: How often an answer of the world gets lost, a share of all applications.
        pauses: The most pauses.
        kills: The most kills.
    """

    switch: float = 0.2
    drag: float = 0.1
    pause: float = 0.02
    kill: float = 0.008
    lost: float = 0.03
    pauses: int = 8
    kills: int = 3


CALM = Fate(drag=0.05, pause=0.0, kill=0.0, lost=0.0)
"""Only the order is left to chance."""


@dataclass(eq=False)
class Process:
    """One simulated process, in a thread of its own that waits for its turn."""

    name: str
    simulation: "Simulation"
    program: Callable[["Process"], None]
    wakes: float = 0.0
    frozen: float = 0.0
    dead: bool = False
    over: bool = False
    silent: bool = False
    mortal: bool = True
    trouble: BaseException | None = None
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def boundary(self, danger: float = 1.0) -> None:
        """Let the scheduler decide what happens next; in danger, misfortune is so many times as likely."""
        self.simulation.boundary(self, danger)

    def sleep(self, seconds: float) -> None:
        """Let others go on until the time has come."""
        self.check_alive()
        self.wakes = self.simulation.clock.monotonic() + seconds
        self.simulation.switch(self)

    def check_alive(self) -> None:
        """Go no further when killed."""
        if self.dead:
            raise Killed

    def keep(self, keeper: Keeper, every_s: float) -> None:
        """Let a keeper renew as long as this process lives, except while it is stopped."""

        def beat() -> None:
            if self.dead or self.over or self.silent:
                return
            now = self.simulation.clock.monotonic()
            if self.frozen > now:
                self.simulation.later(self.frozen - now + self.simulation.random.random(), beat)
                return
            keeper.renew()
            self.simulation.later(every_s, beat)

        self.simulation.later(every_s, beat)

    def await_(self, work: Any) -> Any:
        """Run a coroutine to its end, on a loop whose time is the simulation's."""
        with asyncio.Runner(loop_factory=lambda: self._loop()) as runner:
            return runner.run(work)

    def _loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.SelectorEventLoop(_Idle(self))
        loop.time = self.simulation.clock.monotonic  # type: ignore[method-assign]
        loop.set_exception_handler(lambda loop, context: None)  # what a killed process leaves is looked at by nobody
        return loop

    def run(self) -> None:
        """Run the program when the first turn comes."""
        self.turn.acquire()
        try:
            self.check_alive()
            self.program(self)
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again by `Simulation.run`
            self.trouble = error
        finally:
            self.over = True
            self.simulation.leave()


class _Idle(selectors.SelectSelector):
    """Lets other processes go on where a loop would wait."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self._process = process

    def select(self, timeout: float | None = None) -> Any:
        if (timeout is None or timeout > 0) and not self._process.dead:
            self._process.sleep(0.05 if timeout is None else timeout)
        return super().select(0)


@dataclass
class ProcessClock:
    """The clock as a process sees it: everybody's time, but only this process sleeps."""

    process: Process

    def now(self) -> datetime:
        """Return the wall-clock time, in UTC."""
        return self.process.simulation.clock.now()

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start that never run backwards."""
        return self.process.simulation.clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait while the others go on."""
        self.process.sleep(seconds)
        await asyncio.sleep(0)

    def pause(self, seconds: float) -> None:
        """Wait while the others go on."""
        self.process.sleep(seconds)


class Simulation:
    """Several processes on one clock.

    Args:
        seed: Decides everything that is left to chance.
        fate: How much goes wrong.
    """

    def __init__(self, seed: int, fate: Fate) -> None:
        self.random, self.fate, self.clock = Random(seed), fate, FakeClock()
        self.processes: list[Process] = []
        self.steps = self.paused = self.killed = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._made, self._stuck, self._over = 0, False, threading.Semaphore(0)

    def spawn(self, name: str, program: Callable[[Process], None], *, mortal: bool = True) -> Process:
        """Start a process; it goes on when its turn comes."""
        process = Process(name, self, program, mortal=mortal)
        self.processes.append(process)
        threading.Thread(target=process.run, name=f"chaos-{name}", daemon=True).start()
        return process

    def run(self) -> None:
        """Let every process come to its end.

        Raises:
            Stuck: They never do.
        """
        self.leave()
        self._over.acquire()
        while self._events and not self._stuck:
            self._elapse(60.0)  # what is still under way arrives
        if self._stuck:
            raise Stuck(f"nobody was done after {LIMIT} boundaries")
        for process in self.processes:
            if process.trouble:
                raise process.trouble

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Do something when time has passed."""
        self._made += 1
        heapq.heappush(self._events, (self.clock.monotonic() + seconds, self._made, act))

    def boundary(self, process: Process, danger: float = 1.0) -> None:
        """Decide what happens next.

        Raises:
            Killed: The process goes no further.
        """
        process.check_alive()
        self.steps += 1
        if self.steps > LIMIT:
            self._give_up()
        self._misfortune(process, danger)
        if process.wakes > self.clock.monotonic() or self.random.random() < self.fate.switch:
            self.switch(process)
        process.check_alive()

    def _misfortune(self, process: Process, danger: float) -> None:
        fate, chance = self.fate, self.random
        if process.mortal and self.killed < fate.kills and chance.random() < fate.kill * danger:
            self.killed += 1
            process.dead = True
        elif self.paused < fate.pauses and chance.random() < fate.pause * danger:
            self.paused += 1
            process.wakes = self.clock.monotonic() + chance.choice([0.5, 4.0, 14.9, 15.1, 20.0, 60.0, 200.0])
            process.frozen = process.wakes if chance.random() < 0.7 else 0.0
            process.silent = process.silent or chance.random() < 0.1
        elif chance.random() < fate.drag:
            self._elapse(chance.choice([0.001, 0.2, 2.0]))

    def _give_up(self) -> None:
        self._stuck = True
        for process in self.processes:
            process.dead = True

    def switch(self, process: Process) -> None:
        """Let some process go on that can; wait for the next turn unless it is the same."""
        following = self._next()
        if following is not process:
            following.turn.release()
            process.turn.acquire()
        process.check_alive()

    def leave(self) -> None:
        """Hand the turn over for good."""
        if all(process.over for process in self.processes):
            self._over.release()
        else:
            self._next().turn.release()

    def _next(self) -> Process:
        while True:
            now = self.clock.monotonic()
            alive = [process for process in self.processes if not process.over]
            ready = [process for process in alive if process.dead or process.wakes <= now]
            if ready:
                return self.random.choice(ready)
            self._elapse(min(process.wakes for process in alive) - now)

    def _elapse(self, seconds: float) -> None:
        """Let time pass; what is due meanwhile happens when it is due."""
        until = self.clock.monotonic() + seconds
        while self._events and self._events[0][0] <= until:
            due, _, act = heapq.heappop(self._events)
            self.clock.advance(max(0.0, due - self.clock.monotonic()))
            act()
        self.clock.advance(max(0.0, until - self.clock.monotonic()))
