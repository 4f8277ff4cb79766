"""RB0xx: the file itself."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from rbkit.lint.book import Book
from rbkit.lint.rules import Fault

__all__ = ["check_file"]

_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_CELL_METADATA = {"tags", "editable", "deletable", "slideshow", "jupyter", "collapsed", "name"}
_KERNEL = {"name": "python3", "language": "python"}


def check_file(book: Book) -> Iterator[Fault]:
    """Check format, ids, outputs, metadata and the end of the file."""
    cells: list[Mapping[str, Any]] = book.data["cells"]
    if book.data.get("nbformat_minor") != 5:
        yield Fault("RB002", "The notebook is not of format 4.5.")
    yield from _ids(cells)
    for index, cell in enumerate(cells):
        yield from _cell(index, cell)
    yield from _metadata(book.data.get("metadata", {}))
    if json.detect_encoding(book.raw) != "utf-8" or not book.raw.endswith(b"\n"):
        yield Fault("RB006", "The file is not UTF-8 that ends with a new line.")


def _ids(cells: list[Mapping[str, Any]]) -> Iterator[Fault]:
    seen: set[str] = set()
    for index, cell in enumerate(cells):
        name = cell.get("id")
        if not isinstance(name, str) or not _ID.fullmatch(name) or name in seen:
            yield Fault("RB003", "The cell has no id of its own.", index)
        else:
            seen.add(name)


def _cell(index: int, cell: Mapping[str, Any]) -> Iterator[Fault]:
    kind = cell.get("cell_type")
    if kind not in ("code", "markdown", "raw"):
        yield Fault("RB002", "The cell is neither code nor markdown nor raw.", index)
    if cell.get("outputs", [] if kind != "code" else None) != [] or cell.get("execution_count") is not None:
        yield Fault("RB004", "The cell carries outputs or an execution count.", index)
    foreign = set(cell.get("metadata", {})) - _CELL_METADATA
    if foreign:
        yield Fault("RB005", f"The cell's metadata hold {_names(foreign)}.", index)


def _metadata(metadata: Any) -> Iterator[Fault]:
    known = metadata if isinstance(metadata, dict) else {}
    foreign = set(known) - {"kernelspec", "language_info"}
    if foreign or not isinstance(metadata, dict):
        yield Fault("RB005", f"The notebook's metadata hold {_names(foreign) or 'something else than names'}.")
    kernel, language = known.get("kernelspec", _KERNEL), known.get("language_info", {"name": "python"})
    if not isinstance(kernel, dict) or {**kernel, "display_name": ""} != {**_KERNEL, "display_name": ""}:
        yield Fault("RB005", "The kernelspec is not python3 with its display name and language alone.")
    if language != {"name": "python"}:
        yield Fault("RB005", "language_info holds more than the name python.")


def _names(keys: set[str]) -> str:
    return ", ".join(repr(key[:40]) for key in sorted(keys)[:5])
