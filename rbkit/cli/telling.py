"""Tells how a run goes, line by line, and how it ended."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rbkit import events as ev
from rbkit.cli import output
from rbkit.fold import RunState
from rbkit.progress import Moment
from rbkit.record.summary import GLYPHS, headline, tell
from rbkit.record.view import view

__all__ = ["Teller", "change_text", "report"]

_QUIET = (ev.CheckStarted, ev.RecordSealed)


class Teller:
    """Tells a run's progress line by line: readable over SSH, in a pipe and in CI.

    Args:
        quiet: Whether to say nothing.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet, self._cells = quiet, 0

    def begin(self, banner: str, mode: str) -> None:
        """Show where and how it runs."""
        if not self._quiet:
            output.say(f"▌{banner}" if banner else "▌no banner is set for this environment", style="bold")
            if mode != "live":
                output.say(f"▌{mode.replace('_', ' ').upper()}: nothing is changed", style="bold")

    def cell(self, index: int, cell: Any) -> None:
        """Show that a cell begins."""
        self._cells += 1
        tags = ", ".join(cell.metadata.get("tags", []))
        if not self._quiet:
            output.say(f"  {datetime.now(UTC):%H:%M:%SZ}  cell {self._cells} · {tags}", style="dim")

    def event(self, moment: Moment) -> None:
        """Show what happened."""
        if not self._quiet and not isinstance(moment.event, _QUIET):
            at = datetime.fromisoformat(moment.at).astimezone(UTC)
            output.line(f"{_glyph(moment)} {at:%H:%M:%SZ}  {tell(moment)}")


def _glyph(moment: Moment) -> str:
    event = moment.event
    if isinstance(event, ev.CheckEnded):
        return GLYPHS[event.verdict]
    if isinstance(event, ev.RunClosed):
        return GLYPHS[event.outcome]
    return _KINDS.get(event.kind, "·")


_KINDS = {
    "step_started": "◐", "step_done": "✓", "step_planned": "✓", "step_failed": "✗", "step_unknown": "?",
    "step_skipped": "↷", "check_skipped": "↷", "change_done": "✓", "change_failed": "✗", "change_unknown": "?",
    "decided": "◆", "rollback_started": "↩", "rollback_ended": "↩", "approval_requested": "⏸",
    "approval_given": "✓", "approval_denied": "✗", "approval_ended": "◆", "confirmation_requested": "⏸",
    "confirmed": "✓", "lease_awaited": "⏸", "session_began": "◐", "fallback_chosen": "↷", "rolling_planned": "◆",
    "rolling_ended": "◆", "cancel_requested": "✗",
}  # fmt: skip


def report(state: RunState, record: Path) -> None:
    """Tell how a run ended, what it changed, and where its record lies."""
    output.say()
    output.line(headline(state))
    output.say(f"  {state.reason}")
    for change in view(state)["changes"]:
        output.say(f"  {change_text(change)}")
    output.say(f"  record  {record}")
    output.say(f"  next    rbkit show {state.run} · rbkit record export {state.run} --html FILE")


def change_text(change: dict[str, Any]) -> str:
    """Write a change in one line: what, before → after, how it is undone."""
    word = "undone" if change["undone"] else {"planned": "would change"}.get(change["state"], change["state"])
    undo = f"undo: {change['undo']}" if change["undo"] else f"irreversible: {change['irreversible']}"
    return f"{word}: {change['call']}: {change['moved']} · {undo}"
