"""`rbkit run`: check, execute, record."""

from pathlib import Path
from typing import Annotated

import typer

from rbkit.cli import output
from rbkit.cli.app import Context, app
from rbkit.cli.complete import environments, runbooks
from rbkit.cli.telling import Teller, report
from rbkit.errors import ParameterError
from rbkit.fold import RunState
from rbkit.parameters import from_text
from rbkit.policy import exit_code
from rbkit.record.view import view

__all__ = ["execute", "run"]


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
    raise typer.Exit(exit_code(state))


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
    teller = Teller(quiet=quiet)
    teller.begin(settings.environment(str(values["environment"])).banner, mode)
    finished = runner.run(book, values, settings, store, progress=teller.event, on_cell=teller.cell)
    if not quiet:
        report(finished.state, finished.record)
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
