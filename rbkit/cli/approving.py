"""`rbkit approve`, `deny`, `confirm`: answers to what a run waits for."""

import sys
from typing import Annotated, Any

import typer

from rbkit import events as ev
from rbkit.approvals import Approval
from rbkit.cli import output
from rbkit.cli.app import app
from rbkit.cli.steering import RUN
from rbkit.clock import SystemClock
from rbkit.errors import IllegalMove, RefusedInput
from rbkit.journal import Journal, existing
from rbkit.reaping import lost
from rbkit.stores.sqlite import SqliteStore

__all__ = ["approve", "confirm", "deny"]

_Why = Annotated[str, typer.Option("--reason", "-m", help="Why, for the record.")]
_Digest = Annotated[
    str, typer.Option("--digest", help="The plan you have seen, or its beginning; any other is refused.")
]


def _waiting(context: typer.Context, run: str, digest: str) -> tuple[Journal, Approval]:
    """Find the plan that a run waits for, and show it.

    Raises:
        IllegalMove: The run waits for nothing, is dead, or waits for another plan than the one that is meant.
    """
    store = SqliteStore(context.obj.settings.home)
    journal = existing(store, run, "cli", actor=context.obj.settings.actor)
    asked = journal.state.asks
    if asked is None:
        raise IllegalMove(f"Run {journal.run} does not wait for an approval.", todo=f"`rbkit show {journal.run}`.")
    if dead := lost(store, journal.state, SystemClock().now()):
        raise IllegalMove(f"Nobody runs {journal.run} any more: {dead}.", todo=f"`rbkit show {journal.run}`.")
    if digest and not asked.request.digest.removeprefix("sha256:").startswith(digest.removeprefix("sha256:")):
        raise IllegalMove(
            f"Run {journal.run} waits for the plan {asked.request.digest}, not for the one you have seen.",
            todo=f"Look again: `rbkit show {journal.run}`.",
        )
    _show(journal, asked)
    return journal, asked


def _show(journal: Journal, asked: Approval) -> None:
    request, facts = asked.request, asked.request.plan["facts"]
    output.say(f"Plan of step {request.step} · risk {request.risk} · {len(asked.targets)} target(s)", style="bold")
    output.table([
        ("runbook", f"{facts['runbook']} {facts['version']} ({facts['digest'][:19]}…)"),
        ("environment", facts["environment"]),
        ("parameters", ", ".join(f"{name}={value!r}" for name, value in facts["parameters"].items())),
        ("asked by", journal.state.actor), ("until", request.until),
        ("approved by", ", ".join(asked.given) or "nobody yet"), ("needed", str(request.needed)),
        ("plan", request.digest),
    ])  # fmt: skip
    for item in request.plan["changes"]:
        output.line(f"  ◆ {item['call']}")
        output.table([("", "before", _text(item["before"])), ("", "after", _after(item)), ("", "undo", _undo(item))], 4)


def _text(state: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in state.items()) or "nothing"


def _after(item: dict[str, Any]) -> str:
    return ", ".join([f"{key} {value}" for key, value in item["after"].items()]
                     + [f"another {key} than {value}" for key, value in item["differs"].items()])  # fmt: skip


def _undo(item: dict[str, Any]) -> str:
    return str(item["undo"]) or f"irreversible: {item['irreversible']}"


@app.command()
def approve(
    context: typer.Context,
    run: RUN = "last",
    digest: _Digest = "",
    reason: _Why = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask to type the target.")] = False,
) -> None:
    """Show the plan that a run waits for, and let exactly this plan through, once."""
    journal, asked = _waiting(context, run, digest)
    if sys.stdin.isatty() and not yes:
        _typed(asked)
    journal.append(ev.ApprovalGiven(digest=asked.request.digest, reason=reason))
    left = asked.request.needed - len(asked.given)
    output.line(f"✓ approved as {journal.actor}" + (f"; {left} more person(s) must" if left > 0 else ""))


def _typed(asked: Approval) -> None:
    """Have the target typed, or how many there are: Enter alone confirms nothing."""
    wanted = asked.targets[0] if len(asked.targets) == 1 else str(len(asked.targets))
    what = "the target" if len(asked.targets) == 1 else "the number of targets"
    if typer.prompt(f"Type {what} to approve", default="", show_default=False).strip() != wanted:
        raise RefusedInput(f"That is not {wanted!r}, so nothing was approved.", todo="Try again, or deny it.")


@app.command()
def deny(context: typer.Context, run: RUN = "last", digest: _Digest = "", reason: _Why = "") -> None:
    """Refuse the plan that a run waits for: it ends in a safe state, exit code 5."""
    journal, asked = _waiting(context, run, digest)
    journal.append(ev.ApprovalDenied(digest=asked.request.digest, reason=reason))
    output.line(f"✗ denied as {journal.actor}: {reason or 'no reason was given'}")


@app.command()
def confirm(context: typer.Context, run: RUN = "last", reason: _Why = "") -> None:
    """Confirm that what a run has done may stand; without this it is rolled back."""
    journal = existing(SqliteStore(context.obj.settings.home), run, "cli", actor=context.obj.settings.actor)
    journal.append(ev.Confirmed(reason=reason))
    output.line(f"✓ confirmed as {journal.actor}: what was done may stand")
