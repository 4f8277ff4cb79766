"""How the command line speaks: data on stdout, everything else on stderr, plain without colour."""

import json
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from rbkit.errors import RunbookError
from rbkit.masking import mask, masked

__all__ = ["data", "error", "line", "say", "table"]

_COLORS = {"✓": "green", "✗": "red", "?": "yellow", "↩": "yellow", "◐": "cyan", "⏸": "magenta", "◆": "cyan"}


def _console(*, stderr: bool = False) -> Console:
    return Console(stderr=stderr, highlight=False, soft_wrap=True, emoji=False, markup=False)


def data(value: Any) -> None:
    """Print a JSON value on stdout."""
    sys.stdout.write(json.dumps(masked(value), indent=2, ensure_ascii=False) + "\n")


def say(text: str = "", style: str = "") -> None:
    """Print a line on stdout."""
    _console().print(Text(mask(text), style=style))


def line(text: str) -> None:
    """Print a line whose glyph has its colour."""
    text = mask(text)
    stripped = text.lstrip()
    shown = Text(text)
    color = _COLORS.get(stripped[:1])
    if color:
        start = len(text) - len(stripped)
        shown.stylize(color, start, start + 1)
    _console().print(shown)


def table(rows: list[tuple[str, ...]], indent: int = 2) -> None:
    """Print rows in aligned columns; the last one may be long."""
    if not rows:
        return
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        line(" " * indent + "  ".join([*cells, row[-1]]).rstrip())


def error(failure: RunbookError) -> None:
    """Print what happened, why and what to do, on stderr."""
    console = _console(stderr=True)
    console.print(Text.assemble(("✗ ", "red"), mask(failure.what)))
    console.print(Text(f"  → {mask(failure.todo)}"))
