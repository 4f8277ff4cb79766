"""A notebook as the rules see it: its bytes, its JSON, its cells and their syntax trees."""

import ast
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbkit.contract import Cell, parse
from rbkit.errors import ContractError
from rbkit.notebook import cells_of, read_bytes

__all__ = ["TAGS", "Book", "function_of", "is_run", "read_book"]

TAGS = ("parameters", "contract", "precondition", "diagnose", "decide", "step", "postcondition", "close")


@dataclass(frozen=True, slots=True)
class Book:
    """A notebook.

    Args:
        path: Where it lies.
        raw: The file's bytes.
        data: Its JSON; `cells` is a list of mappings, all else may have any form.
        cells: Its cells.
        trees: The syntax trees of the cells that are plain Python, by the cell's place.
        broken: Why the other code cells are not, by the cell's place.
        nodes: Every node of every tree, with its cell.
    """

    path: Path
    raw: bytes
    data: Mapping[str, Any]
    cells: list[Cell]
    trees: Mapping[int, ast.Module]
    broken: Mapping[int, str]
    nodes: Sequence[tuple[Cell, Any]]

    @property
    def code(self) -> list[Cell]:
        """The code cells."""
        return [cell for cell in self.cells if cell.kind == "code"]

    @property
    def head(self) -> str:
        """The markdown before the first code cell."""
        first = next((cell.index for cell in self.code), len(self.cells))
        return "\n".join(cell.source for cell in self.cells[:first] if cell.kind == "markdown")

    def tagged(self, *tags: str) -> list[Cell]:
        """Return the code cells with one of these tags."""
        return [cell for cell in self.code if set(tags) & set(cell.tags)]

    def parsed(self, *tags: str) -> Iterator[tuple[Cell, ast.Module]]:
        """Return the plain Python cells with one of these tags, or all of them, with their trees."""
        cells = self.tagged(*tags) if tags else self.code
        return ((cell, self.trees[cell.index]) for cell in cells if cell.index in self.trees)


def read_book(path: Path) -> Book:
    """Read a notebook.

    Raises:
        RefusedInput: It cannot be read as one.
    """
    raw = read_bytes(path)
    try:
        data = json.loads(raw)
    except ValueError as error:
        raise ContractError(f"{path} is not a notebook: it is not JSON.") from error
    cells = cells_of(data, str(path))
    trees: dict[int, ast.Module] = {}
    broken: dict[int, str] = {}
    for cell in cells:
        if cell.kind == "code":
            try:
                trees[cell.index] = _tree(cell)
            except ContractError as error:
                broken[cell.index] = error.what
    nodes = [(cells[index], node) for index, tree in trees.items() for node in ast.walk(tree)]
    return Book(path, raw, data, cells, trees, broken, nodes)


def _tree(cell: Cell) -> ast.Module:
    """Parse a cell, and compile it so that `return` outside a function and the like are found; nothing is executed."""
    where = f"Cell {cell.index}"
    tree = parse(cell.source, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(cell.source, where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        why = error.msg if isinstance(error, SyntaxError) else type(error).__name__
        raise ContractError(f"{where} is not plain Python: {why}.") from error
    return tree


def is_run(node: Any, *methods: str) -> bool:
    """Tell whether a node is `run.<method>` for one of the methods, or for any when none is given."""
    on_run = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "run"
    return on_run and (not methods or node.attr in methods)


def function_of(tree: ast.Module) -> ast.AsyncFunctionDef | ast.FunctionDef | None:
    """Return the first function of a cell."""
    return next((node for node in tree.body if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef)), None)
