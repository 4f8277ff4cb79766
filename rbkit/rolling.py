"""Fan-out with guard rails: one canary, then twice as many each time; errors and unhealthy targets stop it."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rbkit import events as ev
from rbkit.contract import StepSpec
from rbkit.errors import AdapterError, GuardRail, IllegalMove, NotFound, RunbookError, StepUnknown
from rbkit.events import Call
from rbkit.gate import Gate
from rbkit.machine import allows
from rbkit.progress import Change
from rbkit.values import human

__all__ = ["Rails", "Rolled", "batches_of", "most_errors", "roll"]

Healthy = Callable[[str], Awaitable[bool]]
_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Rails:
    """What stops a fan-out.

    Args:
        max_errors: How many targets may fail after the canary: a number, or a share such as `10%`.
        at_least: How many targets must be healthy at any time.
        healthy: Tells whether a target is healthy; needed when `at_least` is above zero.
        settle_s: How long a target may take to become healthy again, seconds.
    """

    max_errors: int | str = 0
    at_least: int = 0
    healthy: Healthy | None = None
    settle_s: float = 30.0


@dataclass(slots=True)
class Rolled:
    """What a fan-out has done.

    Args:
        done: Targets that were changed.
        failed: Why, by target.
        remaining: Targets that were left alone.
        why: Why it stopped; empty when it went through.
    """

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    remaining: list[str] = field(default_factory=list)
    why: str = ""


def batches_of(count: int) -> list[int]:
    """Split a number of targets into batches: one, then twice as many each time."""
    sizes, size = list[int](), 1
    while sum(sizes) < count:
        sizes.append(min(size, count - sum(sizes)))
        size *= 2
    return sizes


def most_errors(given: int | str, count: int) -> int:
    """Turn `3` or `10%` into a number of targets; a share is rounded down.

    Raises:
        GuardRail: It is neither.
    """
    text = str(given).strip()
    number = text.removesuffix("%")
    if not number.isdecimal() or (text.endswith("%") and int(number) > 100):
        raise GuardRail(f"max_errors is {given!r:.40}.", todo="Give a number such as 3, or a share such as '10%'.")
    return math.floor(count * int(number) / 100) if text.endswith("%") else int(number)


async def roll(
    gate: Gate, step: StepSpec, action: str, targets: Iterable[str], arguments: Mapping[str, Any], rails: Rails,
    say: Callable[[str, str], None],
) -> Rolled:  # fmt: skip
    """Make one change to many targets, few at first.

    Args:
        gate: The way to the world.
        step: The step that does it.
        action: Capability and action, for example `services.restart`.
        targets: The targets; the list is frozen before the first is touched, also for a resumed run.
        arguments: The action's arguments.
        rails: What stops it.
        say: Shows one line.

    Returns:
        What was done; every target is in `done` or `failed`.

    Raises:
        GuardRail: The selection is empty or too large, a target cannot be had, the canary or too many others failed,
            of one nobody knows whether it was changed, or too few would be healthy; what was done and what remains
            is journaled.
        IllegalMove: The fan-out that was begun in this step is another one.
    """
    plan = _planned(gate, step, action, targets, rails)
    say("◆", f"{action} on {len(plan.targets)} target(s) in batches of {', '.join(map(str, plan.batches))}: "
             f"{', '.join(plan.targets)}")  # fmt: skip
    await _hold(gate, step, plan)
    capability, _, name = action.partition(".")
    calls = {t: Call(capability=capability, action=name, target=t, arguments=dict(arguments)) for t in plan.targets}
    fan = _Fan(gate, step, plan, calls, rails, say)
    try:
        await fan.go()
    finally:
        fan.end()
    done = fan.rolled
    if done.why:
        raise GuardRail(f"{action} was stopped: {done.why}. Left alone: {', '.join(done.remaining) or 'none'}.")
    return done


def _planned(gate: Gate, step: StepSpec, action: str, targets: Iterable[str], rails: Rails) -> ev.RollingPlanned:
    """Freeze the list of targets, or take the one that was frozen before."""
    if rails.at_least and rails.healthy is None:
        raise GuardRail("at_least needs a function that tells whether a target is healthy.", todo="Give healthy=….")
    if frozen := gate.journal.state.rolling.get(step.name):
        return _as_begun(frozen, action)
    chosen = _chosen(targets)
    if not chosen:
        raise GuardRail(f"{action} has no target: the selection is empty.", todo="Look at what selects the targets.")
    if len(chosen) > step.max_targets:
        raise GuardRail(f"Step {step.name} may touch {step.max_targets} target(s); {len(chosen)} were selected.")
    plan = ev.RollingPlanned(
        step=step.name, action=action, targets=chosen, batches=batches_of(len(chosen)),
        max_errors=most_errors(rails.max_errors, len(chosen)), at_least=rails.at_least,
    )  # fmt: skip
    gate.journal.append(plan)
    return plan


def _as_begun(frozen: ev.RollingPlanned, action: str) -> ev.RollingPlanned:
    if frozen.action != action:
        raise IllegalMove(f"Step {frozen.step} began {frozen.action} on its targets, so it cannot go on with {action}.")
    return frozen


def _chosen(targets: Iterable[str]) -> list[str]:
    """Take each target once, in the order given; each must be a name."""
    chosen: list[object] = [*targets]
    names = [target for target in chosen if isinstance(target, str) and target]
    if isinstance(targets, str) or len(names) < len(chosen):
        raise GuardRail(
            f"The targets are a list of names, not {targets if isinstance(targets, str) else chosen!r:.80}."
        )
    return list(dict.fromkeys(names))


async def _hold(gate: Gate, step: StepSpec, plan: ev.RollingPlanned) -> None:
    """Hold every target before the first is touched: half a fan-out helps nobody."""
    if gate.mode not in {"live", "resume"}:
        return
    missing = await gate.targets.hold_all(plan.targets, step.timeout_s)
    if missing:
        raise GuardRail(f"{plan.action} was not begun: {', '.join(missing)} cannot be had, as others hold them.")


@dataclass(slots=True)
class _Fan:
    gate: Gate
    step: StepSpec
    plan: ev.RollingPlanned
    calls: dict[str, Call]
    rails: Rails
    say: Callable[[str, str], None]
    rolled: Rolled = field(default_factory=Rolled)
    under_way: set[str] = field(default_factory=set)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def go(self) -> None:
        """Go batch by batch until something stops it."""
        left = list(self.plan.targets)
        for size in self.plan.batches:
            batch, left = left[:size], left[size:]
            with self._stopping():
                await self._batch(batch)
            if self.rolled.why:
                return

    def end(self) -> None:
        """Journal what was done, what failed and what was left alone."""
        done = self.rolled
        for target, change in ((t, self._made(t)) for t in self.plan.targets if self._open(t)):
            if change and change.in_doubt:
                done.failed[target] = "it may or may not have been changed"
            elif change:
                done.done.append(target)
        done.remaining = [target for target in self.plan.targets if self._open(target)]
        journal = self.gate.journal
        if allows(journal.known.state, "rolling_ended"):
            journal.append(ev.RollingEnded(
                step=self.step.name, done=done.done, failed=list(done.failed.items()), remaining=done.remaining,
                why=done.why,
            ))  # fmt: skip

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """Let whatever is raised stop all the others, too."""
        try:
            yield
        except BaseException as error:
            what = error.what if isinstance(error, RunbookError) else f"{type(error).__name__}: {error}"
            self.rolled.why = self.rolled.why or what.rstrip(": .")
            raise

    async def _batch(self, batch: list[str]) -> None:
        """Change a batch, at most as many at once as the step says; what is under way is always finished."""
        await self.gate.permit(self.step, [self.calls[t] for t in self.plan.targets if self._open(t)])
        waiting = list(batch)
        results = await asyncio.gather(
            *(self._worker(waiting) for _ in range(self.step.parallel)), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _worker(self, waiting: list[str]) -> None:
        while waiting and not self.rolled.why:
            target = waiting.pop(0)
            with self._stopping():
                if await self._spared(target):
                    await self._one(target)

    def _open(self, target: str) -> bool:
        return target not in self.rolled.done and target not in self.rolled.failed

    def _made(self, target: str) -> Change | None:
        """Find the change of a target that was made, or may have been: in this process or the one before it."""
        changes = reversed(self.gate.journal.known.changes.values())
        mine = (c for c in changes if (c.step, c.call) == (self.step.name, self.calls[target]))
        return next((change for change in mine if change.acted), None)

    async def _spared(self, target: str) -> bool:
        """Make sure that enough others are healthy before a target is touched; wait for those under way to come back.

        Returns:
            Whether it may be touched.
        """
        while not self.rolled.why:
            async with self.turn:
                busy = set(self.under_way)
                healthy = await self._count(t for t in self.plan.targets if t not in {target, *busy})
                if healthy >= self.plan.at_least or self._done_before(target):
                    self.under_way.add(target)
                    return True
            if busy:
                await self.gate.journal.clock.sleep(_AGAIN_S)
            else:
                self.rolled.why = f"{healthy} other target(s) are healthy, and {self.plan.at_least} must be"
        return False

    def _done_before(self, target: str) -> bool:
        made = self._made(target)
        return made is not None and made.state == "done"

    async def _count(self, targets: Iterable[str]) -> int:
        """Count the healthy ones, no further than needed."""
        healthy = 0
        for target in targets:
            if healthy >= self.plan.at_least:
                break
            healthy += await self._healthy(target)
        return healthy

    async def _healthy(self, target: str) -> bool:
        """Ask whether a target is healthy; as in a check, only a real True on good evidence is one."""
        if self.gate.mode == "dry_run" or self.rails.healthy is None:
            return True
        weak = len(self.gate.observer.weak)
        try:
            answer: object = await self.rails.healthy(target)
        except (AdapterError, NotFound):
            return False
        return type(answer).__name__ in {"bool", "bool_"} and bool(answer) and len(self.gate.observer.weak) == weak

    async def _one(self, target: str) -> None:
        try:
            await self.gate.change(self.calls[target])
            if not await self._settled(target):
                raise AdapterError(f"{target} did not become healthy within {human(self.rails.settle_s)}")
            self.rolled.done.append(target)
            self.say("✓", f"{target}: done ({len(self.rolled.done)} of {len(self.plan.targets)})")
        except (AdapterError, NotFound, StepUnknown) as error:
            self._failed(target, error.what)
        except BaseException as error:
            if self._made(target):
                self.rolled.failed[target] = f"stopped in the middle: {type(error).__name__}"
            raise
        finally:
            self.under_way.discard(target)

    async def _settled(self, target: str) -> bool:
        clock = self.gate.journal.clock
        ends = clock.monotonic() + self.rails.settle_s
        while not await self._healthy(target):
            if clock.monotonic() >= ends:
                return False
            await clock.sleep(_AGAIN_S)
        return True

    def _failed(self, target: str, why: str) -> None:
        self.rolled.failed[target] = why
        self.say("✗", f"{target}: {why}")
        made = self._made(target)
        if target == self.plan.targets[0]:
            self.rolled.why = f"the canary {target} failed: {why.rstrip('.')}"
        elif made and made.in_doubt:
            self.rolled.why = f"nobody knows whether {target} was changed: {why.rstrip('.')}"
        elif len(self.rolled.failed) > self.plan.max_errors:
            self.rolled.why = f"{len(self.rolled.failed)} target(s) failed, {self.plan.max_errors} may"
