"""Reads the world, or the tape in a replay, and journals every question with its answer."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from rbkit import events as ev
from rbkit.costs import Cost
from rbkit.endpoints import Endpoints
from rbkit.errors import AdapterError, IllegalMove
from rbkit.events import Json
from rbkit.journal import Journal
from rbkit.ports import Window, World
from rbkit.queries import render
from rbkit.resilience import patiently
from rbkit.signal import Signal
from rbkit.tape import Tape, keep, pack_frame, unpack_frame
from rbkit.values import seconds

__all__ = ["Observer", "window_of"]


class Observer:
    """The reading half of the gate.

    Args:
        journal: Where each question is written.
        world: Signals and capabilities by name.
        endpoints: The way to what answers.
        say: Shows one line: a glyph and a text.
        replays: Whether the tape answers instead of the world.
        tape: The recorded run; needed in a replay only.
    """

    def __init__(
        self, journal: Journal, world: World, endpoints: Endpoints, say: Callable[[str, str], None], *,
        replays: bool = False, tape: Tape | None = None,
    ) -> None:  # fmt: skip
        self.journal, self.world, self.endpoints, self.say = journal, world, endpoints, say
        self._replays, self._tape = replays, tape
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
        signal = await self._from_any(name, last, values)
        if signal.partial:
            self.say("⚠", signal.partial)
        if signal.weak:
            self.weak.append(signal.weak)
        self.evidence.append(signal.facts)
        return signal

    async def _from_any(self, name: str, last: str, values: Mapping[str, Any]) -> Signal:
        """Ask the signal's source, and where that fails the ones that the environment file names in its place."""
        spec = self.world.spec(name)
        asked, tried, question = name, dict[str, AdapterError](), {"last": last, **values}
        while asked and asked not in tried:
            try:
                return await self._asked(name, asked, question, tried)
            except AdapterError as error:
                tried[asked] = error
                asked = self.world.spec(asked).otherwise
        if spec.essential:
            raise tried[name]
        return await self._nothing(name, spec, question, tried)

    async def _asked(self, name: str, asked: str, question: Json, tried: Mapping[str, AdapterError]) -> Signal:
        spec, source = self.world.signal(asked)
        now = self.journal.clock.now()
        values = {key: value for key, value in question.items() if key != "last"}
        query = render(spec, values, source.language)
        window = window_of(spec, question["last"], now)

        async def ask() -> Any:
            frame = await source(query, window)
            return pack_frame(frame) | {"asked_at": now.isoformat()}

        found = await self._recorded(
            name, f"source {spec.source}", str(query), question, ask, instead=asked if tried else ""
        )
        return self._signal(found)

    async def _nothing(self, name: str, spec: Any, question: Json, tried: Mapping[str, AdapterError]) -> Signal:
        """Note that nothing could be had of a signal without which the run goes on."""
        import pandas as pd

        empty = pd.DataFrame({"time": pd.to_datetime([], utc=True), "value": pd.Series([], dtype="float64")})
        data = pack_frame(empty) | {"asked_at": self.journal.clock.now().isoformat()}
        why = "; ".join(error.what for error in tried.values())
        found = await self._recorded(name, "", "", question, lambda: _given(data), missing=why)
        return self._signal(found)

    def _signal(self, found: tuple[ev.Observed, Any]) -> Signal:
        """Make a signal of an answer; it is meant as the signal that has answered says."""
        observed, data = found
        spec = self.world.spec(observed.instead or observed.name)
        partial = f"{observed.name} is missing: {observed.missing}" if observed.missing else ""
        if observed.instead:
            partial = f"{observed.name} was read from {observed.instead}, as its own source did not answer"
        frame = unpack_frame(data)
        if "value" in frame:
            frame["value"] = frame["value"] * spec.multiply
        if spec.by not in frame:
            frame[spec.by] = observed.name
        asked_at = datetime.fromisoformat(data["asked_at"])
        essential = self.world.spec(observed.name).essential
        return Signal(observed.name, spec.unit, spec.by, frame, asked_at, seconds(spec.stale_after), essential, partial)

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

        _, data = await self._recorded(f"{name}.{method}", f"capability {name}", method, dict(arguments), ask)
        return kind.validate_python(data)

    async def _recorded(
        self, name: str, endpoint: str, query: str, arguments: Json, ask: Callable[[], Awaitable[Any]], **more: str
    ) -> tuple[ev.Observed, Any]:
        """Ask the world, or the tape in a replay, and journal question, answer and cost."""
        began = self.journal.clock.monotonic()
        if self._replays:
            recorded, data = self.tape.answer(name, arguments)
            self.journal.append(recorded)
            return recorded, data
        data, cost = await self.endpoints.read(endpoint, ask, name) if endpoint else (await ask(), Cost())
        rows = data["rows"] if isinstance(data, dict) and "rows" in data else data
        observed = ev.Observed(
            name=name, source=endpoint.partition(" ")[2], query=query, arguments=arguments,
            rows=len(rows) if isinstance(rows, list) else 1,
            answer=patiently(lambda: keep(self.journal.store, data), self.journal.clock),
            seconds=self.journal.clock.monotonic() - began,
            cost={"bytes": cost.bytes, "attempts": cost.attempts}, **more,
        )  # fmt: skip
        self.journal.append(observed)
        return observed, data


def window_of(spec: Any, last: str, now: datetime) -> Window:
    """Choose what is asked for: no more points than the environment file allows, so a long stretch less densely.

    Args:
        spec: The signal's settings.
        last: How far back, for example `15m`.
        now: The present time, UTC.

    Returns:
        The window, up to now.
    """
    span = seconds(last)
    return Window(now - timedelta(seconds=span), now, max(seconds(spec.step), span / spec.max_points))


async def _given(data: Any) -> Any:
    return data
