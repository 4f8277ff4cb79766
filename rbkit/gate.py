"""The effect gate: the only way a notebook reaches the world. Every effect is journaled before and after."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from rbkit import events as ev
from rbkit.approvals import item_of
from rbkit.contract import StepSpec
from rbkit.endpoints import Endpoints
from rbkit.errors import (
    AdapterError,
    Cancelled,
    Fenced,
    GuardRail,
    IllegalMove,
    MayHaveActed,
    NotFound,
    Refused,
    StepUnknown,
    Unreachable,
)  # fmt: skip
from rbkit.events import Call, Json, Mode
from rbkit.fold import RunState
from rbkit.journal import Journal
from rbkit.leases import Targets, new_holder, words
from rbkit.observing import Observer
from rbkit.permits import Permits
from rbkit.ports import Capability, Plan, World
from rbkit.progress import Change
from rbkit.signal import Signal
from rbkit.store import Lease
from rbkit.tape import Tape
from rbkit.terms import Terms
from rbkit.values import human

__all__ = ["Gate", "current_step"]

current_step: ContextVar[StepSpec | None] = ContextVar("current_step", default=None)
_POLL_S = 0.2
_NOT_MADE = "read again by the process that took the run over: it does not hold"


class Gate:
    """Lets effects through, in one of four modes.

    Args:
        journal: Where each effect is written.
        world: Signals and capabilities by name.
        mode: live; dry_run plans changes without applying them; replay answers from a tape and applies
            nothing; resume returns what was done and settles what is in doubt.
        tape: The recorded run; needed in replay only.
        terms: Whose approval changes need, and in whose name targets are held.
    """

    def __init__(
        self, journal: Journal, world: World, *, mode: Mode = "live", tape: Tape | None = None,
        terms: Terms | None = None,
    ) -> None:  # fmt: skip
        self.journal, self.world, self.mode = journal, world, mode
        terms = terms or Terms()
        self.terms = replace(terms, holder=terms.holder or new_holder(journal.run))
        self._under_way = 0
        self.permits = Permits(journal, terms.rules, terms.on_disk, terms.say, lambda: self._under_way > 0)
        self.endpoints = Endpoints(journal, world.limits)
        self.observer = Observer(journal, world, self.endpoints, self.terms.say, replays=mode == "replay", tape=tape)
        self._inherited = _last_attempts(journal.state.changes.values()) if mode == "resume" else []
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._announced: set[tuple[str, str, int]] = set()

    @cached_property
    def targets(self) -> Targets:
        """The leases on what is changed."""
        opened = self.journal.state.opened
        return Targets(
            self.journal.store, self.terms.holder, opened.environment if opened else "", self.journal.clock,
            ttl_s=self.terms.lease_s, waits=self._waits,
        )  # fmt: skip

    async def observe(self, name: str, last: str, values: Mapping[str, Any]) -> Signal:
        """Read a signal; see `Observer.signal`."""
        return await self.observer.signal(name, last, values)

    async def read(self, name: str, method: str, arguments: Mapping[str, Any]) -> Any:
        """Read through a capability; see `Observer.read`."""
        return await self.observer.read(name, method, arguments)

    async def change(self, call: Call) -> Change:
        """Bring about a change, once.

        Args:
            call: What, on which target.

        Returns:
            The change with its state before and after.

        Raises:
            IllegalMove: It is not called from the step that is running.
            GuardRail: The step would touch more targets than it may, or waiting for this one might never end.
            Cancelled: Somebody asked the run to stop.
            ApprovalNeeded: Nobody approved in time.
            Denied: Somebody said no.
            AdapterError: It was certainly not made.
            StepUnknown: It may have been made.
            Fenced: Another process has taken the run or the target over; it was not made.
        """
        step = self._step(call)
        if self.mode == "replay":
            return self._replayed(call, step.name)
        async with self._turns.setdefault(step.name, asyncio.Semaphore(step.parallel)):
            before = self._earlier(call, step.name)
            return await self._settled(before, step) if before else await self._made(call, step)

    async def undo(self, change: Change) -> Change:
        """Apply the inverse of a change; journaled as undoing it.

        Raises:
            AdapterError: It was certainly not undone.
            StepUnknown: It may not have been undone.
        """
        if change.inverse is None:
            raise IllegalMove(f"{change.call} cannot be undone: {change.irreversible}.")
        if change.in_doubt:
            self.targets.anew(change.call.target)
        return await self._made(change.inverse, change.step, undoes=change.key)

    async def settle(self, change: Change) -> bool:
        """Re-read the world for a change in doubt; nobody with an older lease can make it any more.

        Returns:
            True when it holds (journaled as settled), False when it was not made.

        Raises:
            StepUnknown: It was made and does not come to its end.
        """
        await self.permits.answered()
        with self._effect():
            adapter = self.world.capability(change.call.capability)
            self.targets.anew(change.call.target)
            await self._hold(adapter, change.call)
            state = await self._found(adapter, change)
            if state is not None:
                self.journal.append(ev.ChangeDone(key=change.key, how="settled", after=state, seconds=0.0))
            return state is not None

    async def _found(self, adapter: Capability, change: Change) -> dict[str, Any] | None:
        """Read the world until a change shows in it; None when everything is as it was before, or never gets there.

        What only comes by itself is waited for: without it the change would be made again, and its inverse would
        lead back to what it has brought about itself.
        """
        plan, waits = Plan(change.planned, change.differs), adapter.plan(change.call, change.before).waits
        lasting = replace(plan, after={key: value for key, value in plan.after.items() if key not in waits})
        deadline = self.journal.clock.monotonic() + adapter.shows_within_s
        while True:
            state = await self._state(adapter, change.call)
            late, made = self.journal.clock.monotonic() >= deadline, _holds(lasting, state)
            if _holds(plan, state):
                return state
            if not made and (late or _same(lasting, change.before, state)):
                return None
            if late:
                within = human(adapter.shows_within_s)
                raise StepUnknown(f"{change.call} was made and is not through within {within}; {state}.")
            await self.journal.clock.sleep(_POLL_S)

    async def permit(self, step: StepSpec, calls: Iterable[Call]) -> None:
        """Have several changes approved as one plan before the first of them is made, if they need it.

        Raises:
            ApprovalNeeded: Nobody approved in time.
            Denied: Somebody said no.
        """
        if self.mode not in {"live", "resume"} or not self.permits.possible(step):
            return
        left = [call for call in calls if self._inherited_of(call, step.name) is None]
        if self.permits.needed(step, []) or self.permits.needed(step, await self._look(left)):
            await self.permits.ask(step, lambda: self._look(left))

    async def _look(self, calls: Iterable[Call]) -> list[Json]:
        return [item_of(await self._draft(call)) for call in calls]

    def _step(self, call: Call) -> StepSpec:
        """Find the step that makes a change; refuse one outside it or beyond its limit."""
        step, state = current_step.get(), self.journal.known
        if step is None or state.running_step is None or state.running_step.name != step.name:
            raise IllegalMove(
                f"{call} is a change outside a step.", todo="Put it in a function decorated with @run.step(...)."
            )
        changes = state.changes.values()
        targets = {change.call.target for change in changes if change.step == step.name}
        if len(targets | {call.target}) > step.max_targets:
            raise GuardRail(f"Step {step.name} may touch {step.max_targets} target(s); {call} would be one more.")
        return step

    def _earlier(self, call: Call, step: str) -> Change | None:
        """Take the next same call of the same step that was made before this process took the run over."""
        if found := self._inherited_of(call, step):
            self._inherited.remove(found.key)
        return found

    def _inherited_of(self, call: Call, step: str) -> Change | None:
        changes = [self.journal.known.changes[key] for key in self._inherited]
        same = [c for c in changes if (c.step, c.call) == (step, call) and not c.undone]
        return next((c for c in same if c.in_doubt or c.state == "done" or c.why == _NOT_MADE), None)

    async def _settled(self, change: Change, step: StepSpec) -> Change:
        """Return what was made before; what was not is made again under the key of its first attempt."""
        if change.state == "done" or (change.in_doubt and await self.settle(change)):
            return self.journal.known.changes[change.key]
        return await self._made(change.call, step, repeats=change)

    def _replayed(self, call: Call, step: str) -> Change:
        recorded, done = self.observer.tape.change(call)
        fields = recorded.model_dump(exclude={"kind", "undoes", "key", "step", "repeats", "approval", "token"})
        key = self._key(step)
        self.journal.append(ev.ChangePlanned(key=key, step=step, **fields))
        change = self.journal.known.changes[key]
        change.after = done.after if done else None
        return change

    def _key(self, step: str) -> str:
        return f"{self.journal.run}/{step}/{len(self.journal.known.changes)}"

    def _shows_late(self, doubt: Change, draft: dict[str, Any]) -> bool:
        """Settle a doubt by the look that plans the change again, too: it may have come true between two looks."""
        if not doubt.in_doubt:
            return False
        late = _holds(Plan(doubt.planned, doubt.differs), draft["before"])
        after = {"how": "settled", "after": draft["before"], "seconds": 0.0}
        failed = ev.ChangeFailed(key=doubt.key, error="NotMade", why=_NOT_MADE)
        self.journal.append(ev.ChangeDone(key=doubt.key, **after) if late else failed)
        return late

    async def _made(self, call: Call, step: StepSpec | str, undoes: str = "", repeats: Change | None = None) -> Change:
        """Hold the target, look at it, have the plan approved, write it down, do it, read it back."""
        adapter = self.world.capability(call.capability)
        token, draft, approval = await self._agreed(adapter, call, step)
        if repeats and self._shows_late(repeats, draft):
            return self.journal.known.changes[repeats.key]
        first = (repeats.repeats or repeats.key) if repeats else ""
        name = step if isinstance(step, str) else self._step(call).name  # again: others are made at the same time
        key, plan = self._key(name), draft.pop("plan")
        draft.pop("waits")
        if self.mode == "dry_run":
            self.journal.append(ev.ChangePlanned(key=key, step=name, **draft))
        else:
            more = {"undoes": undoes, "repeats": first, "approval": approval, "token": token}
            guard = None if isinstance(step, str) else partial(_refuse_stopped, call)
            self.journal.append(ev.ChangeIntended(key=key, step=name, **draft, **more), guard)
            await self._applied(adapter, self.journal.known.changes[key], plan, token)
        return self.journal.known.changes[key]

    async def _draft(self, call: Call) -> dict[str, Any]:
        """Read the target and plan the change."""
        adapter = self.world.capability(call.capability)
        before = await self._state(adapter, call) | self._as_planned(call)
        plan = adapter.plan(call, before)
        return {
            "call": call, "before": before, "after": plan.after, "differs": plan.differs,
            "inverse": _inverse(call, plan), "irreversible": plan.irreversible, "waits": plan.waits, "plan": plan,
        }  # fmt: skip

    async def _agreed(self, adapter: Capability, call: Call, step: StepSpec | str) -> tuple[int, dict[str, Any], str]:
        """Hold the target and plan the change until the plan needs no approval or has one: the world may move."""
        while True:
            token = 0 if self.mode == "dry_run" else await self._hold(adapter, call)
            draft = await self._draft(call)
            if isinstance(step, str):
                return token, draft, ""
            _refuse_stopped(call, self.journal.known)
            if self.permits.asking:
                await self.permits.answered()
                continue
            item = item_of(draft)
            if self.mode == "dry_run" or not self.permits.needed(step, [item]):
                return token, draft, ""
            (approval,) = self.permits.covering(step, [item])
            if approval:
                return token, draft, approval
            await self.permits.ask(step, lambda: self._look([call]))

    def _as_planned(self, call: Call) -> dict[str, Any]:
        """What the steps before would have changed on this target, in a dry run."""
        planned = [c for c in self.journal.known.changes.values() if c.state == "planned"]
        same = [c for c in planned if (c.call.capability, c.call.target) == (call.capability, call.target)]
        return {key: value for change in same for key, value in change.planned.items()}

    async def _hold(self, adapter: Capability, call: Call) -> int:
        """Hold the target, and shut out whoever held it before: also a process that sleeps and wakes up later."""
        token = await self.targets.hold(call.target)
        mark = (call.capability, call.target, token)
        if token > 1 and mark not in self._announced:
            try:
                await self.endpoints.read(_endpoint(call), lambda: adapter.fence(call.target, token), call.capability)
            except Refused as error:
                raise Fenced(f"{call.target} is acted on by somebody with a newer lease: {error.what}") from error
            self._announced.add(mark)
        return token

    def _waits(self, target: str, lease: Lease) -> None:
        run = lease.holder.partition("/")[0]
        until = lease.until.isoformat(timespec="microseconds")
        if not self.permits.asking:  # then it waits for people, too, and that is what is shown
            self.journal.append(ev.LeaseAwaited(target=target, holder=run, until=until))
        self.terms.say("⏸", f"waits for {target}: {words(lease)}; then it goes on")

    async def _state(self, adapter: Capability, call: Call) -> dict[str, Any]:
        state, _ = await self.endpoints.read(_endpoint(call), lambda: adapter.state(call.target), call.capability)
        return state

    @contextmanager
    def _effect(self) -> Iterator[None]:
        """Mark that a change is being made or settled, so that nobody is asked in the middle of it."""
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def _applied(self, adapter: Capability, change: Change, plan: Plan, token: int) -> None:
        """Apply a change that is journaled as intended, and journal what became of it, whatever happens."""
        began, key = self.journal.clock.monotonic(), change.key
        with self._effect():
            try:
                already = _holds(plan, change.before)
                after = change.before if already else await self._apply_and_verify(adapter, change, plan, token)
            except (Refused, Unreachable, NotFound, Fenced) as error:
                self.journal.append(ev.ChangeFailed(key=key, error=type(error).__name__, why=error.what))
                raise
            except BaseException as error:
                why = error.what if isinstance(error, StepUnknown) else f"{type(error).__name__}: {error}".rstrip(": ")
                self.journal.append(ev.ChangeUnknown(key=key, error=type(error).__name__, why=why))
                raise
            how = "already" if already else "applied"
            took = self.journal.clock.monotonic() - began
            self.journal.append(ev.ChangeDone(key=key, how=how, after=after, seconds=took))

    async def _apply_and_verify(self, adapter: Capability, change: Change, plan: Plan, token: int) -> dict[str, Any]:
        self.targets.check(change.call.target, token)
        try:
            key = change.repeats or change.key
            await self.endpoints.change(_endpoint(change.call), lambda: adapter.apply(change.call, key, token))
        except MayHaveActed as error:
            return await self._verified(adapter, change.call, plan, f" ({error.what})")
        return await self._verified(adapter, change.call, plan, "")

    async def _verified(self, adapter: Capability, call: Call, plan: Plan, doubt: str) -> dict[str, Any]:
        """Read the world until the change shows in it."""
        state: dict[str, Any] = {}
        deadline = self.journal.clock.monotonic() + adapter.shows_within_s
        while self.journal.clock.monotonic() < deadline:
            try:
                state = await adapter.state(call.target)
            except (AdapterError, NotFound) as error:
                doubt = f" ({error.what})"
            if state and _holds(plan, state):
                return state
            await self.journal.clock.sleep(_POLL_S)
        within = human(adapter.shows_within_s)
        raise StepUnknown(f"{call} did not show within {within}{doubt}; the target is {state}.")


def _endpoint(call: Call) -> str:
    return f"capability {call.capability}"


def _refuse_stopped(call: Call, state: RunState) -> None:
    """Begin no change after somebody has asked the run to stop."""
    if state.cancel:
        raise Cancelled(f"{call} was not begun: {state.cancel}.")


def _last_attempts(changes: Iterable[Change]) -> list[str]:
    """List the keys of changes in the order of their first attempts; of several attempts, the last one's."""
    return list({change.repeats or change.key: change.key for change in changes}.values())


def _same(plan: Plan, before: Mapping[str, Any], state: Mapping[str, Any]) -> bool:
    """Whether everything that a plan moves is as it was before."""
    return all(state.get(key) == before.get(key) for key in (*plan.after, *plan.differs))


def _holds(plan: Plan, state: Mapping[str, Any]) -> bool:
    """Whether a state is what a plan wants."""
    same = all(state.get(key) == value for key, value in plan.after.items())
    return same and all(state.get(key) != value for key, value in plan.differs.items())


def _inverse(call: Call, plan: Plan) -> Call | None:
    if plan.undo is None:
        return None
    name, arguments = plan.undo
    return Call(capability=call.capability, action=name, target=call.target, arguments=arguments)
