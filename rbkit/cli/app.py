"""What holds for every command."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from rbkit import __version__
from rbkit.cli import output
from rbkit.settings import Settings

__all__ = ["Context", "app"]

app = typer.Typer(
    name="rbkit", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Incident runbooks as Jupyter notebooks: run them, watch them, read their records.",
    epilog="Exit codes: 0 resolved or not applicable, 1 failed, 2 refused input, 3 rolled back, "
    "4 needs an operator, 5 denied, 6 unknown, 130 interrupted.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Context:
    """What holds for every command.

    Args:
        settings: Where store, notebooks and environment files lie.
        debug: Whether tracebacks are shown.
    """

    settings: Settings
    debug: bool


def _version(value: bool) -> None:
    if value:
        output.say(f"rbkit {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    home: Annotated[Path | None, typer.Option(help="Folder of the store and the records.", envvar="RBKIT_HOME")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Hold what every command needs; who acts is the operating system's user, whatever a variable says."""
    context.obj = Context(Settings.read(home=home.resolve() if home else None, actor=""), debug)
