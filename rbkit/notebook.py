"""Reads a runbook's notebook from disk: plain JSON, bounded, nothing executed."""

import json
from pathlib import Path
from typing import Any

from rbkit.contract import Cell, Contract, read_cells
from rbkit.errors import ContractError, NotFound, RefusedInput
from rbkit.values import nearest

__all__ = ["LARGEST", "Runbook", "catalogue", "cells_of", "find", "load", "read_bytes", "read_json", "sources"]

LARGEST = 20_000_000


class Runbook:
    """A runbook on disk: where it lies, and its contract.

    Args:
        path: The notebook's path.
        contract: What was read off it.
        cells: Its cells.
    """

    def __init__(self, path: Path, contract: Contract, cells: list[Cell]) -> None:
        self.path, self.contract, self.cells = path, contract, cells


def load(path: Path) -> Runbook:
    """Read a runbook.

    Args:
        path: A local `.ipynb` file.

    Returns:
        The runbook.

    Raises:
        NotFound: There is no such file.
        ContractError: It is too large, no notebook, or not a runbook.
    """
    cells = cells_of(read_json(path), str(path))
    try:
        return Runbook(path, read_cells(cells), cells)
    except ContractError as error:
        raise ContractError(f"{path}: {error.what}", todo=error.todo) from error


def read_json(path: Path) -> Any:
    """Read a local notebook file as JSON.

    Raises:
        NotFound: There is no such file.
        ContractError: It is too large or not JSON.
    """
    try:
        return json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise ContractError(f"{path} is not a notebook: it is not JSON.") from error


def read_bytes(path: Path) -> bytes:
    """Read a local notebook file.

    Raises:
        NotFound: There is no such file.
        ContractError: It is too large or cannot be read.
    """
    try:
        found = path.is_file()
        data = _first(path) if found else b""
    except OSError as error:
        raise ContractError(f"{str(path)[:200]} cannot be read: {error.strerror}.") from error
    if not found:
        raise NotFound(f"There is no notebook {path}.", todo="Give a local .ipynb file or a name from `rbkit list`.")
    if len(data) > LARGEST:
        raise ContractError(f"{path} is larger than {LARGEST // 1_000_000} MB.")
    return data


def _first(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(LARGEST + 1)


def cells_of(data: Any, where: str) -> list[Cell]:
    """Take the cells out of a notebook's JSON.

    Args:
        data: The notebook as JSON.
        where: Its name, for the error.

    Raises:
        ContractError: The JSON has not the form of a notebook of format 4.
    """
    if not isinstance(data, dict) or data.get("nbformat") != 4 or not isinstance(data.get("cells"), list):
        raise ContractError(f"{where} is not a notebook of format 4.")
    return [_cell(index, item, where) for index, item in enumerate(data["cells"])]


def _cell(index: int, item: Any, where: str) -> Cell:
    source = item.get("source") if isinstance(item, dict) else None
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    metadata = item.get("metadata", {}) if isinstance(item, dict) else {}
    tags = metadata.get("tags", []) if isinstance(metadata, dict) else None
    if not isinstance(source, str) or not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ContractError(f"{where}: cell {index} has not the form of a notebook's cell.")
    try:
        source.encode()
    except UnicodeEncodeError as error:
        raise ContractError(f"{where}: cell {index} holds a broken character (a lone surrogate).") from error
    return Cell(index, str(item.get("cell_type")), source, tuple(tags))


def sources(book: Runbook) -> list[list[str]]:
    """List a runbook's cells as they are kept with a run, so that a later version can be compared.

    Returns:
        Kind and text of each cell, in order.
    """
    return [[cell.kind, cell.source] for cell in book.cells]


def find(name: str, folder: Path) -> Runbook:
    """Find a runbook by path or by its name.

    Args:
        name: A path to a notebook, or the name in its `open_run`, or its file name without ending.
        folder: Where notebooks lie.

    Raises:
        NotFound: None is named so; the nearest name is suggested.
        ContractError: The notebook of that file name cannot be read as a runbook.
    """
    if name.endswith(".ipynb") or "/" in name:
        return load(Path(name))
    books, broken = catalogue(folder)
    for book in books:
        if name in {book.contract.name, book.path.stem}:
            return book
    for path, error in broken:
        if path.stem == name:
            raise error
    raise NotFound(f"There is no runbook {name!r} in {folder}.{nearest(name, [b.contract.name for b in books])}")


def catalogue(folder: Path) -> tuple[list[Runbook], list[tuple[Path, RefusedInput]]]:
    """Read every runbook in a folder.

    Args:
        folder: Where notebooks lie.

    Returns:
        The runbooks by name, and the notebooks that are none, each with the reason.
    """
    books: list[Runbook] = []
    broken: list[tuple[Path, RefusedInput]] = []
    for path in sorted(folder.glob("*.ipynb")):
        try:
            books.append(load(path))
        except RefusedInput as error:
            broken.append((path, error))
    return sorted(books, key=lambda book: book.contract.name), broken
