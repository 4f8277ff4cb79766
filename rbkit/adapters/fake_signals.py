"""Spans, alerts and silences in memory, for tests and for trying a runbook out."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from rbkit.adapters.fakes import Fake
from rbkit.adapters.lines import Row, fields, inside, matches, nanoseconds, tidy
from rbkit.adapters.spans import same_trace
from rbkit.capability import Facts
from rbkit.errors import NotFound, Refused
from rbkit.facts import Call
from rbkit.kinds import Silences
from rbkit.ports import LINES, Language, Window

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FakeAlerts", "FakeSilences", "FakeSpans", "Quiet"]


class FakeSpans:
    """Spans in memory.

    Args:
        lines: Mappings with the columns of spans, `time` as a UTC datetime, and more, which become attributes.
    """

    language: ClassVar[Language] = "fields"

    def __init__(self, lines: Iterable[Mapping[str, Any]]) -> None:
        self.lines = [dict(line) for line in lines]

    async def search(self, where: str | Mapping[str, str], window: Window, limit: int) -> "pd.DataFrame":
        """Return the newest spans that match."""
        wanted = same_trace(fields(where, "The fake"))
        rows = [_row("spans", line) for line in self.lines]
        return tidy("spans", (row for row in rows if inside(row, window) and matches(row, wanted)), limit)

    async def ping(self) -> str:
        """Say what is in memory."""
        return f"in memory, {len(self.lines)} line(s), nobody asks who we are; reads"

    async def aclose(self) -> None:
        """Nothing to give back."""


class FakeAlerts:
    """Alerts in memory.

    Args:
        lines: Mappings with the columns of alerts, `time` as a UTC datetime, perhaps `ends_at` (another one), and
            labels, which become attributes.
    """

    language: ClassVar[Language] = "fields"

    def __init__(self, lines: Iterable[Mapping[str, Any]]) -> None:
        self.lines = [dict(line) for line in lines]

    async def search(self, where: str | Mapping[str, str], window: Window, limit: int) -> "pd.DataFrame":
        """Return the newest alerts that match and were firing at some time in the window."""
        wanted = fields(where, "The fake")
        firing = [line for line in self.lines if _overlaps(line, window)]
        return tidy("alerts", (row for line in firing if matches(row := _row("alerts", line), wanted)), limit)

    async def ping(self) -> str:
        """Say what is in memory."""
        return f"in memory, {len(self.lines)} line(s), nobody asks who we are; reads"

    async def aclose(self) -> None:
        """Nothing to give back."""


def _row(kind: str, line: Mapping[str, Any]) -> Row:
    columns = {name: line[name] for name in LINES[kind] if name not in {"time", "attributes"}}
    rest = {key: value for key, value in line.items() if key not in {*columns, "time", "ends_at"}}
    return {"time": nanoseconds(line["time"]), **columns, "attributes": rest}


def _overlaps(line: Mapping[str, Any], window: Window) -> bool:
    return bool(line["time"] <= window.end and line.get("ends_at", window.start) >= window.start)


class Quiet(Facts):
    """Whether an alert is silent, until when, and whether somebody else made it so."""

    silent: bool = False
    until: datetime | None = None
    others: bool = False


class FakeSilences(Fake, Silences):
    """Silences in memory; every alert's name is known.

    Args:
        others: Names that somebody else has silenced for an hour.
    """

    def __init__(self, others: Iterable[str] = ()) -> None:
        until = datetime.now(UTC) + timedelta(hours=1)
        super().__init__({name: Quiet(silent=True, until=until, others=True) for name in others})

    async def state(self, target: str) -> dict[str, Any]:
        """Read whether an alert is silent, and until when."""
        quiet = self._known(target)
        return {"silent": quiet.silent, "until": quiet.until and quiet.until.isoformat(timespec="milliseconds")}

    def _changed(self, thing: Quiet, call: Call) -> dict[str, Any]:
        """Silence or wake an alert; what somebody else has silenced is not woken."""
        if call.action == "silence":
            return {"silent": True, "until": datetime.now(UTC) + timedelta(minutes=call.arguments["minutes"])}
        if thing.others:
            raise Refused(f"A silence of somebody covers {call.target}, too; rbkit ends only its own.")
        return {"silent": False, "until": None}

    def _known(self, target: str) -> Quiet:
        if not target:
            raise NotFound("'' is no alert's name.", todo="Check the name of the target.")
        quiet: Quiet = self._things.get(target) or Quiet()
        return quiet
