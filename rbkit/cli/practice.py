"""`rbkit sandbox …` and `rbkit demo`: real processes on this machine to practise on."""

import time
from pathlib import Path
from typing import Annotated

import typer

from rbkit.cli import output
from rbkit.cli.app import Context, app
from rbkit.cli.running import execute
from rbkit.errors import RunbookError
from rbkit.policy import exit_code
from rbkit.sandbox import lifecycle
from rbkit.sandbox.lifecycle import FAULTS, Status

__all__ = ["demo"]

sandbox = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None,
    help="Real processes on this machine to practise on: three instances, a balancer, a load, metrics and logs.",
)  # fmt: skip
app.add_typer(sandbox, name="sandbox")
_Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def _home(context: typer.Context) -> Path:
    home: Path = context.obj.settings.home / "sandbox"
    return home


@sandbox.command()
def up(
    context: typer.Context,
    port: Annotated[int, typer.Option(help="Base port.", envvar="RBKIT_SANDBOX_PORT")] = 8650,
    as_json: _Json = False,
) -> None:
    """Start the sandbox; `rbkit sandbox down` stops it."""
    _show(lifecycle.up(_home(context), port), as_json)


@sandbox.command()
def status(context: typer.Context, as_json: _Json = False) -> None:
    """Show its processes, the balancer's members and the faults."""
    _show(lifecycle.status(_home(context)), as_json)


@sandbox.command("break")
def break_(
    context: typer.Context,
    fault: Annotated[str, typer.Argument(help=", ".join(FAULTS), autocompletion=lambda: list(FAULTS))],
    target: Annotated[str | None, typer.Option(help="An instance, for example checkout-2.")] = None,
) -> None:
    """Make a fault really happen to the processes."""
    lifecycle.break_(_home(context), fault, target)
    output.line(f"✗ {fault}: {FAULTS.get(fault, '')}")


@sandbox.command()
def heal(context: typer.Context) -> None:
    """Take every fault away and make the world healthy."""
    lifecycle.heal(_home(context))
    output.line("✓ healthy again")


@sandbox.command()
def down(context: typer.Context) -> None:
    """Stop every process of the sandbox."""
    stopped = lifecycle.down(_home(context))
    output.line(f"✓ stopped {len(stopped)} process(es)")


def _show(found: Status, as_json: bool) -> None:
    if as_json:
        output.data(found.to_json())
        return
    if not found.up:
        output.line("○ the sandbox is down: rbkit sandbox up")
        return
    members = {member["name"]: member for member in found.members}
    output.line(f"✓ sandbox up · supervisor pid {found.supervisor_pid} · port {found.port}")
    output.table([
        (s["name"], s["state"], f"pid {s['pid']}", s["version"], f"{found.rss_mb.get(s['name'], 0):.0f} MB",
         f"balancer: {members.get(s['name'], {}).get('state', '?')}")
        for s in found.services
    ])  # fmt: skip
    for fault in found.faults:
        output.line(f"  ✗ {fault['fault']} {fault['target'] or ''}")


@app.command()
def demo(context: typer.Context) -> None:
    """Break the sandbox, let the memory-leak runbook find and cure it, and show the record."""
    home = _home(context)
    was_up = lifecycle.status(home).up
    try:
        code = _demo(context.obj, home, was_up)
    finally:
        if not was_up:
            output.line(f"✓ sandbox down, {len(lifecycle.down(home))} process(es) stopped")
    raise typer.Exit(code)


def _demo(context: Context, home: Path, was_up: bool) -> int:
    from rbkit.cli.records import verified

    _say("1  Start real processes: three instances, a balancer, a load, metrics")
    _show(lifecycle.status(home) if was_up else lifecycle.up(home, lifecycle.free_base_port()), False)
    _say("2  Make checkout-2 really leak memory")
    lifecycle.break_(home, "memory-leak", "checkout-2")
    _wait_for_leak(home, 320.0)
    _say("3  rbkit run memory-leak -e sandbox -p service=checkout")
    state, record = execute(context, "memory-leak", {"environment": "sandbox", "service": "checkout"})
    _say("4  The world afterwards")
    _show(lifecycle.status(home), False)
    _say("5  rbkit record verify")
    verified(context, str(record))
    return exit_code(state)


def _say(text: str) -> None:
    output.say()
    output.say(text, style="bold")


def _wait_for_leak(home: Path, limit_mb: float) -> None:
    """Wait until the leak stands in five samples above the limit, and show it growing.

    Raises:
        RunbookError: It did not come within a minute.
    """
    above = 0
    for _ in range(60):
        rss = lifecycle.status(home).rss_mb
        output.say("  resident memory  " + "  ".join(f"{n} {v:.0f} MB" for n, v in rss.items() if "checkout" in n))
        above = above + 1 if rss.get("checkout-2", 0.0) > limit_mb else 0
        if above >= 5:
            return
        time.sleep(1.0)
    raise RunbookError("The leak did not come within a minute.", todo="Look at `rbkit sandbox status`.")
