"""`rbkit cancel`, `resume`, `rollback`, `abandon`, `reap`: what a person does with a run from another terminal."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from rbkit import events as ev
from rbkit.cli import output
from rbkit.cli.app import app
from rbkit.cli.complete import runs
from rbkit.cli.reading import follow
from rbkit.cli.telling import Teller, report
from rbkit.clock import SystemClock
from rbkit.errors import IllegalMove
from rbkit.fold import RunState
from rbkit.journal import Journal, existing
from rbkit.policy import exit_code
from rbkit.reaping import lost, reap
from rbkit.record.summary import headline
from rbkit.record.view import view
from rbkit.settings import Settings
from rbkit.stores.sqlite import SqliteStore

__all__ = ["RUN", "abandon", "cancel", "reap_", "resume", "rollback"]

RUN = Annotated[str, typer.Argument(help="A run's id, the beginning or end of one, or `last`.", autocompletion=runs)]
_Why = Annotated[str, typer.Option("--reason", "-m", help="Why, for the record.")]
_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
REAP_S = 5.0


def _stderr(text: str) -> None:
    sys.stderr.write(f"⏸ {text}\n")
    sys.stderr.flush()


@app.command()
def cancel(
    context: typer.Context,
    run: RUN = "last",
    reason: _Why = "",
    wait: Annotated[bool, typer.Option(help="Follow the run until it is over.")] = True,
) -> None:
    """Stop a run: it starts nothing new, rolls back and finishes its record."""
    store = SqliteStore(context.obj.settings.home)
    journal = existing(store, run, "cli", actor=context.obj.settings.actor)
    state = journal.state
    if dead := lost(store, state, SystemClock().now()):
        raise IllegalMove(f"Nobody runs {journal.run} any more: {dead}.", todo=f"You can: {_ways(state, dead)}.")
    journal.append(
        ev.CancelRequested(reason=f"{journal.actor}: {reason}" if reason else f"{journal.actor} asked for it")
    )
    _in_flight(journal.state)
    if wait and not journal.state.finished:
        follow(store, journal, told=len(journal.state.timeline))
        output.line(headline(journal.state, lost(store, journal.state, SystemClock().now())))


def _ways(state: RunState, dead: str) -> str:
    return " · ".join(way.partition(":")[0] for way in view(state, dead)["ways_out"])


def _in_flight(state: RunState) -> None:
    """Say what is still under way: it is finished or found out, nothing new is begun."""
    output.line(f"✗ asked run {state.run} to stop; nothing new is begun")
    step = state.running_step
    output.say(f"  in flight: step {step.name}" if step else "  in flight: no step")
    for call in view(state)["in_flight"]:
        output.say(f"  in flight: {call}; whether it happened is read from its target")


@app.command()
def resume(
    context: typer.Context,
    run: RUN = "last",
    notebook: Annotated[Path | None, typer.Option(help="The runbook's file, if it is not where it was.")] = None,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Go on although the runbook was changed meanwhile.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Go on with a run whose process is dead; what is done is not repeated."""
    from rbkit.execute import takeover

    settings = context.obj.settings
    store = SqliteStore(settings.home)
    teller = Teller(quiet=as_json)
    finished = takeover.resume(
        store, run, settings, notebook=notebook, accept_changes=accept_changes, say=_stderr, progress=teller.event,
        on_cell=teller.cell,
    )  # fmt: skip
    _ended(finished.state, finished.record, as_json)


@app.command()
def rollback(
    context: typer.Context,
    run: RUN = "last",
    reason: _Why = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only say what would be undone.")] = False,
    as_json: _Json = False,
) -> None:
    """Undo what a run has done, from its journal alone; also after its end."""
    from rbkit.execute import takeover

    settings = context.obj.settings
    store = SqliteStore(settings.home)
    state = existing(store, run, "cli").state
    if not as_json:
        _undoes(state)
    if dry_run:
        return
    teller = Teller(quiet=as_json)
    finished = takeover.roll_back(store, state.run, settings, why=reason, say=_stderr)
    for moment in finished.state.timeline[len(state.timeline) :]:
        teller.event(moment)
    _ended(finished.state, finished.record, as_json)


def _undoes(state: RunState) -> None:
    """Say before anything is touched what will be undone and what cannot be."""
    for change in reversed(state.changes.values()):
        if change.acted and not change.undoes:
            doubt = " (it may not have happened)" if change.in_doubt else ""
            undo = f"↩ {change.inverse}" if change.inverse else f"? stays: {change.irreversible}"
            output.line(f"{undo} · {change.call}{doubt}")


@app.command()
def abandon(context: typer.Context, run: RUN = "last", reason: _Why = "", as_json: _Json = False) -> None:
    """Close a run whose process is dead and leave everything as it is."""
    from rbkit.execute import takeover

    settings = context.obj.settings
    finished = takeover.abandon(SqliteStore(settings.home), run, settings, why=reason, say=_stderr)
    _ended(finished.state, finished.record, as_json)


def _ended(state: RunState, record: Path, as_json: bool) -> None:
    if as_json:
        output.data(view(state) | {"record": str(record)})
    else:
        report(state, record)
    raise typer.Exit(exit_code(state))


@app.command("reap")
def reap_(
    context: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="Go on looking, every five seconds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Find runs whose process is dead, mark them as interrupted, and end the tokens that they had."""
    store = SqliteStore(context.obj.settings.home)
    while True:
        found = [existing(store, run, "cli") for run in reap(store, SystemClock(), thoroughly=True)]
        _tell_dead(store, found, as_json)
        for why in _swept(store, context.obj.settings):
            output.line(f"⚠ {why}")
        if not watch:
            return
        time.sleep(REAP_S)


def _swept(store: SqliteStore, settings: Settings) -> list[str]:
    """End the tokens that dead processes have left."""
    from rbkit.execute.tokens import sweep

    return sweep(store, settings)


def _tell_dead(store: SqliteStore, found: list[Journal], as_json: bool) -> None:
    now = SystemClock().now()
    views = [view(journal.state, lost(store, journal.state, now)) for journal in found]
    if as_json:
        output.data(views)
        return
    for journal, facts in zip(found, views, strict=True):
        output.line(f"{headline(journal.state, facts['lost'])} · run {journal.run}: {facts['lost']}")
        output.table([("you can", way) for way in facts["ways_out"]])
