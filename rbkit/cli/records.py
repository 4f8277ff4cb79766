"""`rbkit record show | export | verify`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from rbkit.cli import output
from rbkit.cli.app import Context, app
from rbkit.cli.complete import runs
from rbkit.errors import JournalBroken, NotFound
from rbkit.fold import RunState
from rbkit.journal import existing, verify
from rbkit.record.summary import headline, markdown
from rbkit.stores.sqlite import SqliteStore

__all__ = ["export", "show", "verified", "verify_"]

record = typer.Typer(no_args_is_help=True, help="Read, export and verify the records of runs.", rich_markup_mode=None)
app.add_typer(record, name="record")
_What = Annotated[str, typer.Argument(help="A record's file, a run's id, or `last`.", autocompletion=runs)]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def _file(context: Context, what: str) -> Path:
    """Find the record's file of a run, or take the path that is given.

    Raises:
        NotFound: There is no such file or run, or the run has no record yet.
    """
    if what.endswith(".ipynb"):
        if not Path(what).is_file():
            raise NotFound(f"There is no record {what}.", todo="Give a record's file or a run's id.")
        return Path(what)
    run = existing(SqliteStore(context.settings.home), what, "cli").run
    path = context.settings.home / "records" / f"{run}.ipynb"
    if not path.is_file():
        raise NotFound(f"Run {run} has no record yet.", todo=f"Its journal is there: `rbkit show {run}`.")
    return path


@record.command("show")
def show(context: typer.Context, what: _What = "last", as_json: _Json = False) -> None:
    """Show the closing summary of a record."""
    from rbkit.record.document import verify_file
    from rbkit.record.view import view

    path = _file(context.obj, what)
    state, _ = verify_file(path.read_bytes())
    if as_json:
        output.data(view(state) | {"record": str(path)})
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console(emoji=False)
    if console.is_terminal and not console.is_dumb_terminal:
        console.print(Markdown(markdown(state)))
    else:
        output.say(markdown(state))


@record.command()
def export(
    context: typer.Context,
    what: _What = "last",
    html: Annotated[Path | None, typer.Option(help="Write one HTML page that opens offline.")] = None,
) -> None:
    """Export a record as one HTML page that opens offline."""
    from rbkit.files import write_atomically
    from rbkit.record.html import export_html

    path = _file(context.obj, what)
    target = html or path.with_suffix(".html")
    page = export_html(json.loads(path.read_bytes()), path.stem).encode()
    write_atomically(target, page)
    output.line(f"✓ {target} ({len(page) / 1e6:.1f} MB)")


@record.command("verify")
def verify_(context: typer.Context, what: _What = "last", as_json: _Json = False) -> None:
    """Check that neither the record nor the journal was changed; name the first bad entry."""
    try:
        state, notes = _verified(context.obj, what)
    except JournalBroken as failure:
        if as_json:
            output.data({"ok": False, "entry": failure.seq if failure.seq >= 0 else None, "why": failure.what})
            raise typer.Exit(1) from failure
        raise
    if as_json:
        output.data({"ok": True, "run": state.run, "outcome": state.outcome, "notes": notes})
        return
    _tell(state, notes)


def verified(context: Context, what: str) -> None:
    """Verify a record and tell the result.

    Raises:
        JournalBroken: Something was changed; the first bad entry is named.
    """
    _tell(*_verified(context, what))


def _tell(state: RunState, notes: list[str]) -> None:
    output.line(f"✓ verified: {len(state.timeline)} entries, none changed · {headline(state)}")
    for note in notes:
        output.say(f"  {note}")


def _verified(context: Context, what: str) -> tuple[RunState, list[str]]:
    """Check the file, the store's journal, and that both tell the same."""
    from rbkit.record.document import journal_of, verify_file

    store = SqliteStore(context.settings.home)
    if not what.endswith(".ipynb"):
        run = existing(store, what, "cli").run
        state = verify(store.read(run))
        path = context.settings.home / "records" / f"{run}.ipynb"
        if not path.is_file():
            return state, ["the store's journal only: there is no record file"]
        what = str(path)
    data = _file(context, what).read_bytes()
    state, sealed = verify_file(data)
    notes = [] if sealed else ["the journal only: the cells are not sealed, plain papermill wrote this file"]
    kept = store.read(state.run)
    if not kept:
        return state, [*notes, "this store does not know the run, so the journal was checked against itself only"]
    verify(kept)
    _same([entry.hash for entry in journal_of(json.loads(data))], [entry.hash for entry in kept])
    return state, [*notes, "the store's journal tells the same"]


def _same(file: list[str], store: list[str]) -> None:
    for place, (one, other) in enumerate(zip(file, store, strict=False)):
        if one != other:
            raise JournalBroken(f"Entry {place} of the file differs from the store's.", seq=place)
    if len(file) > len(store):
        raise JournalBroken(f"The store lacks entry {len(store)} and those after it.", seq=len(store))
