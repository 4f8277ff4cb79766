"""`rbkit plan`, `list`, `show`, `watch`, `lint`: everything that only reads."""

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from rbkit.cli import output
from rbkit.cli.app import Context, app
from rbkit.cli.complete import environments, runbooks, runs
from rbkit.cli.telling import change_text
from rbkit.clock import SystemClock, wall
from rbkit.contract import Contract
from rbkit.errors import Held, JournalBroken
from rbkit.fold import RunState
from rbkit.journal import AUDIT, Journal, existing
from rbkit.policy import approvals_needed, exit_code
from rbkit.reaping import lost
from rbkit.record.summary import headline, standing_word, tell
from rbkit.record.view import view
from rbkit.stores.sqlite import SqliteStore
from rbkit.values import human

__all__ = ["follow", "lint", "list_", "plan", "show", "watch"]

_Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
_Run = Annotated[str, typer.Argument(help="A run's id, the beginning or end of one, or `last`.", autocompletion=runs)]


@app.command()
def plan(
    context: typer.Context,
    runbook: Annotated[str, typer.Argument(help="A notebook, or a name from `rbkit list`.", autocompletion=runbooks)],
    environment: Annotated[
        str | None,
        typer.Option("--environment", "-e", help="Say whose approval it needs there.", autocompletion=environments),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Show a runbook's contract, read without executing it."""
    from rbkit.notebook import find

    settings = context.obj.settings
    contract = find(runbook, settings.folder("notebooks")).contract
    approvals = settings.environment(environment).approvals if environment else {}
    if as_json:
        output.data(contract.model_dump(mode="json"))
        return
    _show_contract(contract, {str(risk): count for risk, count in approvals.items()})


def _show_contract(contract: Contract, approvals: dict[str, int]) -> None:
    output.say(f"{contract.name} {contract.version} — {contract.title}", style="bold")
    output.say(f"owner {contract.owner} · budget {human(contract.budget_s)} · {contract.digest[:19]}…")
    confirmed = f", confirm within {human(contract.confirm_within_s)}" if contract.confirm_within_s else ""
    output.say(f"rolled back: {contract.rollback.replace('_', ' ')}{confirmed}")
    _heading("Parameters")
    output.table([
        (p.name, p.type, "required" if p.required else json.dumps(p.default, ensure_ascii=False), p.help)
        for p in contract.parameters
    ])  # fmt: skip
    _heading("Assumes, and does not check")
    output.table([(text,) for text in contract.assumes])
    for phase in ("precondition", "postcondition"):
        if phase == "postcondition":
            _show_steps(contract, approvals)
        _heading(f"{phase.capitalize()}s")
        output.table([("○", c.name, c.sentence) for c in contract.checks if c.phase == phase])
    _heading("Touches")
    output.table([
        ("signals", ", ".join(contract.signals)), ("capabilities", ", ".join(contract.capabilities)),
        ("rules", ", ".join(contract.rules)),
    ])  # fmt: skip


def _show_steps(contract: Contract, approvals: dict[str, int]) -> None:
    _heading("Steps")
    for step in contract.steps:
        needed = approvals_needed(step.risk, step.approvals, approvals)
        output.say(f"  ○ {step.name} · risk {step.risk} · at most {human(step.timeout_s)}, {step.max_targets} target(s)"
                   f" · {f'{needed} approval(s)' if needed else 'no approval'}")  # fmt: skip
        how = "one of low risk by itself" if step.automatic else "a person chooses"
        instead = f"{', '.join(step.otherwise)} ({how})" if step.otherwise else ""
        rows = [("does", step.intent), ("undo", step.undo), ("expect", step.expect), ("if it fails", instead)]
        output.table([("", word, text) for word, text in rows if text or word != "if it fails"])


def _heading(text: str) -> None:
    output.say()
    output.say(text, style="bold")


@app.command("list")
def list_(context: typer.Context, as_json: _Json = False) -> None:
    """List the runbooks, and the runs with those that are unfinished first."""
    from rbkit.notebook import catalogue

    settings = context.obj.settings
    books, broken = catalogue(settings.folder("notebooks"))
    found = _runs(context.obj)
    if as_json:
        output.data({
            "runbooks": [b.contract.model_dump(mode="json") | {"path": str(b.path)} for b in books],
            "broken": [{"path": str(path), "why": error.what} for path, error in broken], "runs": found,
        })  # fmt: skip
        return
    output.say("Runbooks", style="bold")
    output.table([(b.contract.name, b.contract.version, b.contract.title) for b in books])
    for path, error in broken:
        output.line(f"  ✗ {path.name}: {error.what}")
    if not books:
        output.say(f"  none in {settings.folder('notebooks')}")
    _heading("Runs")
    output.table([(r["text"], r["run"], wall(datetime.fromisoformat(r["started"]))) for r in found])
    if not found:
        output.say("  none yet: rbkit run NAME -e ENVIRONMENT")


def _runs(context: Context, most: int = 20) -> list[dict[str, Any]]:
    """Fold the newest runs, the unfinished first; a journal that is broken is listed as such."""
    store = SqliteStore(context.settings.home)
    found = [_run_row(store, name) for name in store.runs()[:200] if name != AUDIT]
    return sorted(found, key=lambda row: row["state"] in {"closed", "sealed"})[:most]


def _run_row(store: SqliteStore, name: str) -> dict[str, Any]:
    try:
        state = Journal(store, name, "cli", session=0).state
        dead = lost(store, state, SystemClock().now())
    except JournalBroken as error:
        return {"run": name, "state": "broken", "stands": "broken", "outcome": "",
                "started": datetime.now(UTC).isoformat(), "text": f"✗ broken journal: {error.what}"}  # fmt: skip
    return {
        "run": name, "state": state.state, "stands": standing_word(state, dead), "outcome": state.outcome,
        "started": state.started, "text": headline(state, dead),
    }  # fmt: skip


@app.command()
def show(context: typer.Context, run: _Run = "last", as_json: _Json = False) -> None:
    """Show where a run stands: what is done, what runs, what waits, what is next, how to stop."""
    store = SqliteStore(context.obj.settings.home)
    state = existing(store, run, "cli").state
    dead = lost(store, state, SystemClock().now())
    if as_json:
        output.data(view(state, dead))
    else:
        _show_state(context.obj, state, dead)


def _show_state(context: Context, state: RunState, dead: str) -> None:
    facts = view(state, dead)
    output.line(headline(state, dead))
    output.say(f"run {state.run} · {facts['mode']} · {facts['started_by']} · "
               f"{wall(datetime.fromisoformat(state.started))} · {human(_age(state))}")  # fmt: skip
    if state.reason:
        output.say(f"why {state.reason}")
    for phase in ("precondition", "postcondition"):
        if phase == "postcondition":
            output.table([(s["glyph"], s["name"], s["state"], s["why"] or s["intent"]) for s in facts["steps"]])
        output.table([
            (c["glyph"], c["name"], c["verdict"] or "pending", c["why"] or c["sentence"])
            for c in facts["checks"] if c["phase"] == phase
        ])  # fmt: skip
    for change in facts["changes"]:
        output.say(f"  · {change_text(change)}")
    _show_now(context, facts)


def _age(state: RunState) -> float:
    """Return the seconds that a run has taken so far."""
    ended = datetime.fromisoformat(state.ended) if state.ended else SystemClock().now()
    return (ended - datetime.fromisoformat(state.started)).total_seconds()


def _show_now(context: Context, facts: dict[str, Any]) -> None:
    record = context.settings.home / "records" / f"{facts['run']}.ipynb"
    rows = [
        ("at", f"{facts['position']['done']} of {facts['position']['total']} steps"), ("now", facts["running"]),
        ("dead", facts["lost"]), ("in doubt", ", ".join(facts["in_flight"])), ("waits", facts["waits_for"]),
        ("next", facts["next"]), ("record", str(record) if record.is_file() else ""),
        *[("you can", way) for way in facts["ways_out"]],
    ]  # fmt: skip
    output.table([row for row in rows if row[1]], indent=0)


@app.command()
def watch(context: typer.Context, run: _Run = "last", as_json: _Json = False) -> None:
    """Follow a run until it is over; the exit code is the run's."""
    store = SqliteStore(context.obj.settings.home)
    raise typer.Exit(follow(store, existing(store, run, "cli"), as_json=as_json))


def follow(store: SqliteStore, journal: Journal, *, as_json: bool = False, told: int = 0) -> int:
    """Tell a run's events until it is over or its process is dead.

    Args:
        store: Where its journal lies.
        journal: The run's journal, as an onlooker sees it.
        as_json: One JSON object a line.
        told: How many events have been told already.

    Returns:
        The run's exit code; 4 when its process is dead.
    """
    quiet_since = time.monotonic()
    while True:
        state = journal.state
        for moment in state.timeline[told:]:
            _tell(moment, as_json)
            quiet_since = time.monotonic()
        told = len(state.timeline)
        if state.finished:
            return exit_code(state)
        if dead := lost(store, state, SystemClock().now()):
            return _told_dead(state, dead, as_json)
        if time.monotonic() - quiet_since > 5 and not as_json:
            output.say(f"  still working: {_now(state)}")
            quiet_since = time.monotonic()
        time.sleep(0.3)


def _now(state: RunState) -> str:
    return state.waits_for or (state.running_step.name if state.running_step else state.state)


def _told_dead(state: RunState, dead: str, as_json: bool) -> int:
    if not as_json:
        output.line(f"{headline(state, dead)}: {dead}")
        output.table([("you can", way) for way in view(state, dead)["ways_out"]])
    return Held.exit_code


def _tell(moment: Any, as_json: bool) -> None:
    if as_json:
        row = {"at": moment.at, "actor": moment.actor, "source": moment.source, **moment.event.model_dump(mode="json")}
        sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    else:
        output.line(f"{wall(datetime.fromisoformat(moment.at))}  {tell(moment)}")


@app.command()
def lint(
    context: typer.Context,
    notebooks: Annotated[list[Path] | None, typer.Argument(help="Notebooks or folders; notebooks/ if none.")] = None,
    as_json: _Json = False,
) -> None:
    """Check the anatomy of runbooks."""
    from rbkit.lint import check

    given = notebooks or [context.obj.settings.folder("notebooks")]
    paths = [path for item in given for path in (sorted(item.glob("*.ipynb")) if item.is_dir() else [item])]
    found = [finding for path in paths for finding in check(path)]
    if as_json:
        output.data([{name: str(value) if isinstance(value, Path) else value for name, value in _fields(f)}
                     for f in found])  # fmt: skip
    for finding in found if not as_json else []:
        place = f"cell {finding.cell}" if finding.cell is not None else "notebook"
        output.line(f"✗ {finding.path}: {place}: {finding.rule} {finding.message}")
        output.say(f"    → {finding.hint}")
    if not as_json:
        output.line(f"{'✗' if found else '✓'} {len(found)} finding(s) in {len(paths)} notebook(s)")
    raise typer.Exit(1 if found else 0)


def _fields(finding: Any) -> list[tuple[str, Any]]:
    from dataclasses import asdict

    return list(asdict(finding).items())
