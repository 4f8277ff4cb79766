"""RB1xx: what is written before the first code cell."""

import re
from collections.abc import Iterator

from rbkit.lint.book import Book
from rbkit.lint.rules import Fault

__all__ = ["check_prose"]

_ROWS = ("owner", "severity", "blast radius", "budget", "last exercised")
_NOT = re.compile(r"(?i)\b(?:do\W{1,5}not|don['’]t|when\W{1,5}not\W{1,5}to|never)\W{1,5}use\b")
_MERMAID = re.compile(r"^```mermaid[ \t]*\n\s*\w", re.MULTILINE)
_NOTHING = {"", "-", "–", "—", "?", "…", "...", "todo", "tbd"}


def check_prose(book: Book) -> Iterator[Fault]:
    """Check title, table, meaning, impact, diagram and when not to use it."""
    head, first = book.head, book.cells[0] if book.cells else None
    if first is None or first.kind != "markdown" or not re.match(r"# \s*\S", first.source):
        yield Fault("RB101", "The notebook does not begin with a title.", 0 if first else None)
    missing = [word for word in _ROWS if not _told(word, head)]
    if missing:
        yield Fault("RB102", f"The table does not tell {', '.join(missing)}.")
    if not _NOT.search(head):
        yield Fault("RB103", "Nothing says when not to use it.")
    for word in ("Meaning", "Impact"):
        if not re.search(rf"\*\*{word}\b[^*]{{0,5}}\*\*", head):
            yield Fault("RB104", f"**{word}** is missing.")
    if not _MERMAID.search(head):
        yield Fault("RB105", "There is no mermaid diagram.")


def _told(word: str, head: str) -> bool:
    """Tell whether a table has a value beside or below a word."""
    rows = [_row(line) for line in head.splitlines() if line.lstrip().startswith("|")][:100]
    beside = any(row[0].lower() == word and _value(row, 1) for row in rows)
    headers = [(i, [name.lower() for name in row].index(word)) for i, row in enumerate(rows) if word in _lower(row)]
    return beside or any(_value(row, column) for i, column in headers for row in rows[i + 1 :])


def _row(line: str) -> list[str]:
    return [part.strip(" *`_") for part in line.strip().strip("|").split("|")]


def _lower(row: list[str]) -> list[str]:
    return [name.lower() for name in row]


def _value(row: list[str], column: int) -> bool:
    """Tell whether a row has a value in a column; rulers and marks for `later` are none."""
    return column < len(row) and row[column].lower() not in _NOTHING and bool(row[column].strip(":-"))
