"""Reads the world, or the tape in a replay, and journals every question with its answer."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from rbkit import events as ev
from rbkit.errors import IllegalMove
from rbkit.journal import Journal
from rbkit.ports import Window, World
from rbkit.queries import render
from rbkit.resilience import patiently, read_safely
from rbkit.signal import Signal
from rbkit.tape import Tape, keep, pack_frame, unpack_frame
from rbkit.values import seconds

__all__ = ["Observer"]


class Observer:
    """The reading half of the gate.

    Args:
        journal: Where each question is written.
        world: Signals and capabilities by name.
        replays: Whether the tape answers instead of the world.
        tape: The recorded run; needed in a replay only.
    """

    def __init__(self, journal: Journal, world: World, *, replays: bool = False, tape: Tape | None = None) -> None:
        self.journal, self.world, self._replays, self._tape = journal, world, replays, tape
        self.weak: list[str] = []
        self.evidence: list[str] = []

    @property
    def tape(self) -> Tape:
        """The tape of a replay."""
        if self._tape is None:
            raise IllegalMove("A replay needs the run that it replays.")
        return self._tape

    async def signal(self, name: str, last: str, values: Mapping[str, Any]) -> Signal:
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
        if self._replays:
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
                answer=patiently(lambda: keep(self.journal.store, data), self.journal.clock),
                seconds=self.journal.clock.monotonic() - began,
            )
        )
        return data, ""


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
