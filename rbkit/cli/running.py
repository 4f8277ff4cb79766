"""`rbkit run`: check, execute, record."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from rbkit import events as ev
from rbkit.cli import output
from rbkit.cli.app import Context, app
from rbkit.cli.complete import environments, runbooks
from rbkit.errors import ParameterError
from rbkit.fold import Moment, RunState
from rbkit.parameters import from_text
from rbkit.policy import EXIT_CODES
from rbkit.record.summary import GLYPHS, headline, tell
from rbkit.record.view import view

__all__ = ["execute", "run"]

_QUIET = (ev.CheckStarted, ev.RecordSealed)


@app.command()
def run(
    context: typer.Context,
    runbook: Annotated[str, typer.Argument(help="A notebook, or a name from `rbkit list`.", autocompletion=runbooks)],
    environment: Annotated[
        str | None, typer.Option("--environment", "-e", help="File in parameters/.", autocompletion=environments)
    ] = None,
    parameter: Annotated[list[str] | None, typer.Option("--parameter", "-p", help="NAME=VALUE; repeat it.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Plan the changes, apply none.")] = False,
    replay: Annotated[str | None, typer.Option(help="Answer from this recorded run; change nothing.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Run a runbook headlessly and write its record."""
    given = _pairs(parameter or [])
    if environment:
        given["environment"] = environment
    state, record = execute(context.obj, runbook, given, dry_run=dry_run, replay=replay or "", quiet=as_json)
    if as_json:
        output.data(view(state) | {"record": str(record)})
    raise typer.Exit(EXIT_CODES[state.outcome])  # type: ignore[index]


def execute(
    context: Context, name: str, given: dict[str, str], *, dry_run: bool = False, replay: str = "", quiet: bool = False
) -> tuple[RunState, Path]:
    """Run a runbook and tell how it goes.

    Args:
        context: Where everything lies.
        name: The runbook.
        given: Texts by parameter name.
        dry_run: Whether to plan only.
        replay: The recorded run to answer from; empty for none.
        quiet: Whether to print nothing.

    Returns:
        The run and the path of its record.
    """
    from rbkit.execute import runner
    from rbkit.notebook import find
    from rbkit.stores.sqlite import SqliteStore

    mode = "replay" if replay else "dry_run" if dry_run else "live"
    settings = context.settings.model_copy(update={"mode": mode, "tape": replay})
    book = find(name, settings.folder("notebooks"))
    store = SqliteStore(settings.home)
    values = runner.check(book, from_text(book.contract, given), settings, store)
    total = sum(cell.kind == "code" for cell in book.cells)
    teller = _Teller(total, quiet=quiet)
    teller.begin(settings.environment(str(values["environment"])).banner, mode)
    finished = runner.run(book, values, settings, store, progress=teller.event, on_cell=teller.cell)
    if not quiet:
        _report(finished.state, finished.record)
    return finished.state, finished.record


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ParameterError(f"{text[:80]!r} is not NAME=VALUE.", field=name[:80], todo="Write -p NAME=VALUE.")
        if name in pairs:
            raise ParameterError(f"Parameter {name[:80]!r} is given twice.", field=name[:80], todo="Give it once.")
        pairs[name] = value
    return pairs


class _Teller:
    """Tells a run's progress line by line: readable over SSH, in a pipe and in CI."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        self._total, self._quiet, self._cells = total, quiet, 0

    def begin(self, banner: str, mode: str) -> None:
        if not self._quiet:
            output.say(f"▌{banner}" if banner else "▌no banner is set for this environment", style="bold")
            if mode != "live":
                output.say(f"▌{mode.replace('_', ' ').upper()}: nothing is changed", style="bold")

    def cell(self, index: int, cell: Any) -> None:
        self._cells += 1
        tags = ", ".join(cell.metadata.get("tags", []))
        if not self._quiet:
            output.say(f"  {datetime.now(UTC):%H:%M:%SZ}  cell {self._cells} · {tags}", style="dim")

    def event(self, moment: Moment) -> None:
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
    "cancel_requested": "✗",
}  # fmt: skip


def _report(state: RunState, record: Path) -> None:
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
