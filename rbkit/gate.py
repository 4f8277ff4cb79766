"""The effect gate: the only way a notebook reaches the world. Every effect is journaled before and after."""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from rbkit import events as ev
from rbkit.contract import StepSpec
from rbkit.errors import AdapterError, GuardRail, IllegalMove, MayHaveActed, NotFound, Refused, StepUnknown, Unreachable
from rbkit.events import Call, Mode
from rbkit.fold import Change
from rbkit.journal import Journal
from rbkit.ports import Capability, Plan, Window, World
from rbkit.queries import render
from rbkit.resilience import read_safely
from rbkit.signal import Signal
from rbkit.tape import Tape, keep, pack_frame, unpack_frame
from rbkit.values import human, seconds

__all__ = ["Gate", "current_step"]

current_step: ContextVar[StepSpec | None] = ContextVar("current_step", default=None)
VERIFY_S = 20.0
"""How long a change may take to show in the world, seconds."""
_POLL_S = 0.2


class Gate:
    """Lets effects through, in one of four modes.

    Args:
        journal: Where each effect is written.
        world: Signals and capabilities by name.
        mode: live; dry_run plans changes without applying them; replay answers from a tape and applies
            nothing; resume returns what was done and settles what is in doubt.
        tape: The recorded run; needed in replay only.
    """

    def __init__(self, journal: Journal, world: World, *, mode: Mode = "live", tape: Tape | None = None) -> None:
        self.journal, self.world, self.mode, self._tape = journal, world, mode, tape
        self.weak: list[str] = []
        self.evidence: list[str] = []
        self._inherited = list(journal.state.changes) if mode == "resume" else []

    @property
    def tape(self) -> Tape:
        """The tape of a replay."""
        if self._tape is None:
            raise IllegalMove("A replay needs the run that it replays.")
        return self._tape

    async def observe(self, name: str, last: str, values: Mapping[str, Any]) -> Signal:
        """Read a signal.

        Args:
            name: Its name in the environment file.
            last: How far back, for example `15m`.
            values: Values for its query.

        Returns:
            What was observed. Remembered as weak evidence when empty, stale or only NaN.

        Raises:
            NotFound: There is no such signal.
            AdapterError: The source gave no usable answer.
        """
        spec, source = self.world.signal(name)
        now = self.journal.clock.now()
        query = render(spec, values)
        window = Window(now - _span(last), now, seconds(spec.step))
        arguments = {"last": last, **values}

        async def ask() -> Any:
            frame = await source(query, window)
            return pack_frame(frame) | {"asked_at": now.isoformat()}

        data, weak = await self._recorded(name, spec.source, str(query), arguments, ask)
        signal = _signal(name, spec, data)
        weak = weak or signal.weak
        if weak:
            self.weak.append(weak)
        self.evidence.append(signal.facts)
        return signal

    async def read(self, name: str, method: str, arguments: Mapping[str, Any]) -> Any:
        """Read through a capability.

        Args:
            name: The capability's name in the environment file.
            method: One of its reads.
            arguments: The read's arguments.

        Returns:
            What the read's annotation says, also in replay.
        """
        reader = getattr(self.world.capability(name), method)
        kind: TypeAdapter[Any] = TypeAdapter(get_type_hints(reader)["return"])

        async def ask() -> Any:
            return kind.dump_python(await reader(**arguments), mode="json")

        data, _ = await self._recorded(f"{name}.{method}", name, method, dict(arguments), ask)
        return kind.validate_python(data)

    async def _recorded(
        self, name: str, source: str, query: str, arguments: dict[str, Any], ask: Callable[[], Any]
    ) -> tuple[Any, str]:
        """Ask the world, or the tape in a replay, and journal question and answer."""
        began = self.journal.clock.monotonic()
        if self.mode == "replay":
            recorded, data = self.tape.answer(name, arguments)
            self.journal.append(recorded)
            return data, recorded.weak
        data = await read_safely(ask, self.journal.clock, name)
        rows = data["rows"] if isinstance(data, dict) and "rows" in data else data
        self.journal.append(
            ev.Observed(
                name=name,
                source=source,
                query=query,
                arguments=arguments,
                rows=len(rows) if isinstance(rows, list) else 1,
                answer=keep(self.journal.store, data),
                seconds=self.journal.clock.monotonic() - began,
            )
        )
        return data, ""

    async def change(self, call: Call) -> Change:
        """Bring about a change, once.

        Args:
            call: What, on which target.

        Returns:
            The change with its state before and after.

        Raises:
            IllegalMove: It is not called from the step that is running.
            GuardRail: The step would touch more targets than it may.
            AdapterError: It was certainly not made.
            StepUnknown: It may have been made.
        """
        step = self._step(call)
        if self.mode == "replay":
            return self._replayed(call, step.name)
        before = self._earlier(call, step.name)
        return await self._settled(before) if before else await self._made(call, step.name)

    async def undo(self, change: Change) -> Change:
        """Apply the inverse of a change; journaled as undoing it.

        Raises:
            AdapterError: It was certainly not undone.
            StepUnknown: It may not have been undone.
        """
        if change.inverse is None:
            raise IllegalMove(f"{change.call} cannot be undone: {change.irreversible}.")
        return await self._made(change.inverse, change.step, undoes=change.key)

    async def settle(self, change: Change) -> bool:
        """Re-read the world for a change in doubt.

        Returns:
            True when it holds (journaled as settled), False when nobody can say.
        """
        state = await self._state(self.world.capability(change.call.capability), change.call)
        if not _holds(Plan(change.planned, change.differs), state):
            return False
        self.journal.append(ev.ChangeDone(key=change.key, how="settled", after=state, seconds=0.0))
        return True

    def _step(self, call: Call) -> StepSpec:
        """Find the step that makes a change; refuse one outside it or beyond its limit."""
        step, state = current_step.get(), self.journal.state
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
        changes = self.journal.state.changes
        for change in (changes[key] for key in self._inherited):
            if (change.step, change.call) == (step, call) and change.acted:
                self._inherited.remove(change.key)
                return change
        return None

    async def _settled(self, change: Change) -> Change:
        if change.state == "done" or await self.settle(change):
            return self.journal.state.changes[change.key]
        self.journal.append(ev.ChangeFailed(key=change.key, error="NotMade", why="re-read: it does not hold"))
        return await self._made(change.call, change.step)

    def _replayed(self, call: Call, step: str) -> Change:
        recorded, done = self.tape.change(call)
        fields = recorded.model_dump(exclude={"kind", "undoes", "key", "step"})
        key = self._key(step)
        self.journal.append(ev.ChangePlanned(key=key, step=step, **fields))
        change = self.journal.state.changes[key]
        change.after = done.after if done else None
        return change

    def _key(self, step: str) -> str:
        return f"{self.journal.run}/{step}/{len(self.journal.state.changes)}"

    async def _made(self, call: Call, step: str, undoes: str = "") -> Change:
        adapter = self.world.capability(call.capability)
        before = await self._state(adapter, call) | self._as_planned(call)
        plan = adapter.plan(call, before)
        if not undoes:
            self._step(call)  # again: changes that are made at once see each other only here
        key = self._key(step)
        facts: dict[str, Any] = {
            "key": key, "step": step, "call": call, "before": before, "after": plan.after, "differs": plan.differs,
            "inverse": _inverse(call, plan), "irreversible": plan.irreversible,
        }  # fmt: skip
        if self.mode == "dry_run":
            self.journal.append(ev.ChangePlanned(**facts))
        else:
            self.journal.append(ev.ChangeIntended(**facts, undoes=undoes))
            await self._applied(adapter, call, key, plan, before)
        return self.journal.state.changes[key]

    def _as_planned(self, call: Call) -> dict[str, Any]:
        """What the steps before would have changed on this target, in a dry run."""
        planned = [c for c in self.journal.state.changes.values() if c.state == "planned"]
        same = [c for c in planned if (c.call.capability, c.call.target) == (call.capability, call.target)]
        return {key: value for change in same for key, value in change.planned.items()}

    async def _state(self, adapter: Capability, call: Call) -> dict[str, Any]:
        return await read_safely(lambda: adapter.state(call.target), self.journal.clock, call.capability)

    async def _applied(self, adapter: Capability, call: Call, key: str, plan: Plan, before: dict[str, Any]) -> None:
        """Apply a change that is journaled as intended, and journal what became of it, whatever happens."""
        began = self.journal.clock.monotonic()
        try:
            already = _holds(plan, before)
            after = before if already else await self._apply_and_verify(adapter, call, key, plan)
        except (Refused, Unreachable, NotFound) as error:
            self.journal.append(ev.ChangeFailed(key=key, error=type(error).__name__, why=error.what))
            raise
        except BaseException as error:
            why = error.what if isinstance(error, StepUnknown) else f"{type(error).__name__}: {error}".rstrip(": ")
            self.journal.append(ev.ChangeUnknown(key=key, error=type(error).__name__, why=why))
            raise
        took = self.journal.clock.monotonic() - began
        self.journal.append(ev.ChangeDone(key=key, how="already" if already else "applied", after=after, seconds=took))

    async def _apply_and_verify(self, adapter: Capability, call: Call, key: str, plan: Plan) -> dict[str, Any]:
        try:
            await adapter.apply(call, key)
        except MayHaveActed as error:
            return await self._verified(adapter, call, plan, f" ({error.what})")
        return await self._verified(adapter, call, plan, "")

    async def _verified(self, adapter: Capability, call: Call, plan: Plan, doubt: str) -> dict[str, Any]:
        """Read the world until the change shows in it."""
        state: dict[str, Any] = {}
        deadline = self.journal.clock.monotonic() + VERIFY_S
        while self.journal.clock.monotonic() < deadline:
            try:
                state = await adapter.state(call.target)
            except (AdapterError, NotFound) as error:
                doubt = f" ({error.what})"
            if state and _holds(plan, state):
                return state
            await self.journal.clock.sleep(_POLL_S)
        raise StepUnknown(f"{call} did not show within {human(VERIFY_S)}{doubt}; the target is {state}.")


def _holds(plan: Plan, state: Mapping[str, Any]) -> bool:
    """Whether a state is what a plan wants."""
    same = all(state.get(key) == value for key, value in plan.after.items())
    return same and all(state.get(key) != value for key, value in plan.differs.items())


def _inverse(call: Call, plan: Plan) -> Call | None:
    if plan.undo is None:
        return None
    name, arguments = plan.undo
    return Call(capability=call.capability, action=name, target=call.target, arguments=arguments)


def _span(last: str) -> timedelta:
    return timedelta(seconds=seconds(last))


def _signal(name: str, spec: Any, data: dict[str, Any]) -> Signal:
    frame = unpack_frame(data)
    if "value" in frame:
        frame["value"] = frame["value"] * spec.multiply
    if spec.by not in frame:
        frame[spec.by] = name
    asked_at = datetime.fromisoformat(data["asked_at"])
    return Signal(name, spec.unit, spec.by, frame, asked_at, seconds(spec.stale_after))
