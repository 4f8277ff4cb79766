"""RB3xx: what a cell may say; everything outside goes through the gate."""

import ast
import re
from collections.abc import Iterator
from typing import Any

import rbkit
from rbkit.contract import Cell
from rbkit.lint.book import Book, is_run
from rbkit.lint.rules import Fault

__all__ = ["check_code"]

PURE = {
    "__future__", "bisect", "calendar", "collections", "dataclasses", "datetime", "decimal", "enum", "fractions",
    "functools", "heapq", "itertools", "json", "math", "numpy", "operator", "pandas", "re", "statistics", "string",
    "textwrap", "typing", "zoneinfo",
}  # fmt: skip
"""Modules that reach nothing by themselves; the doors that some of them have are closed by RB303 and RB306."""

_MAGIC = re.compile(r"\s*[%!?]|[^#'\"]*=\s*[%!]\s*\w|[^#'\"]*\w\?{1,2}\s*$")
_WORLD = {"builtins", "codecs", "ctypes", "importlib", "io", "os", "shutil", "socket", "subprocess", "sys"}
_BEHIND = {"attended", "complete", "end_alone", "fail", "fail_now", "gate", "journal", "screen"}
_DOORS = {
    "breakpoint", "compile", "delattr", "eval", "exec", "getattr", "globals", "input", "locals", "open", "setattr",
    "vars", "__builtins__", "__import__", "__loader__", "__spec__",
}  # fmt: skip
_FILES = re.compile(
    r"(?:read_(?:clipboard|csv|excel|feather|fwf|gbq|hdf|html|json|orc|parquet|pickle|sas|spss|sql\w*|stata|table|xml)"
    r"|to_(?:clipboard|csv|excel|feather|gbq|hdf|orc|parquet|pickle|sql|stata|xml)|write_(?:html|image|json)"
    r"|ExcelFile|ExcelWriter|HDFStore|DataSource|ctypeslib|f2py|fromfile|genfromtxt|loadtxt|memmap|savetxt|savez\w*|tofile)"
)
_ENDS = {"SystemExit", "KeyboardInterrupt", "GeneratorExit"}


def check_code(book: Book) -> Iterator[Fault]:
    """Check every cell's code."""
    for index, why in book.broken.items():
        yield from _broken(book.cells[index], why)
    for cell, node in book.nodes:
        for rule, message in (*_imports(node), *_names(node), *_attributes(node), *_errors(node), *_words(node)):
            yield Fault(rule, message, cell.index, getattr(node, "lineno", None))
    yield from _run_itself(book)


def _run_itself(book: Book) -> Iterator[Fault]:
    """Find the run under another name, where no other rule would see what is done with it."""
    owners = {id(node.value) for _, node in book.nodes if isinstance(node, ast.Attribute)}
    for cell, node in book.nodes:
        alone = isinstance(node, ast.Name) and node.id == "run" and id(node) not in owners
        if alone and not (isinstance(node.ctx, ast.Store) and "contract" in cell.tags):
            yield Fault("RB305", "run is passed on or assigned anew.", cell.index, node.lineno)


def _broken(cell: Cell, why: str) -> Iterator[Fault]:
    lines = [number for number, line in enumerate(cell.source.split("\n"), start=1) if _MAGIC.match(line[:1000])]
    for number in lines:
        yield Fault("RB302", "A magic or a shell command stands here.", cell.index, number)
    if not lines:
        yield Fault("RB301", why, cell.index)


def _imports(node: Any) -> Iterator[tuple[str, str]]:
    match node:
        case ast.Import(names=names):
            for module in [alias.name for alias in names]:
                yield from _module(module)
        case ast.ImportFrom(module="rbkit", level=0, names=names):
            public = {name for name in rbkit.__all__ if not name.startswith("_")}
            for name in [alias.name for alias in names if alias.name not in public]:
                yield "RB304", f"{name} is imported from rbkit."
        case ast.ImportFrom(module=module, level=level, names=names):
            yield from _module(f"{'.' * level}{module or ''}")
            for name in [alias.name for alias in names if alias.name in _WORLD or _FILES.fullmatch(alias.name)]:
                yield "RB303", f"{name} reaches the world."


def _module(name: str) -> Iterator[tuple[str, str]]:
    root = name.partition(".")[0]
    if root == "rbkit":
        yield "RB304", f"{name} is imported."
    elif root not in PURE:
        yield "RB303", f"{name} is imported."
    elif any(part.startswith("_") for part in name.split(".")) and name != "__future__":
        yield "RB305", f"{name} is private."


def _names(node: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(node, ast.Name):
        return
    if node.id == "get_ipython":
        yield "RB302", "get_ipython is used."
    elif node.id in _DOORS:
        yield "RB306", f"{node.id} is used."
    elif node.id in {"exit", "quit"}:
        yield "RB307", f"{node.id} is used."
    elif node.id.startswith("_") and node.id != "_":
        yield "RB305", f"{node.id} is private."


def _attributes(node: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(node, ast.Attribute):
        return
    owner = node.value.id if isinstance(node.value, ast.Name) else ""
    if owner in {"sys", "os"} and node.attr in {"exit", "_exit", "abort", "kill"}:
        yield "RB307", f"{owner}.{node.attr} is used."
    elif node.attr.startswith("_"):
        yield "RB305", f"{node.attr} is private."
    elif is_run(node, *_BEHIND):
        yield "RB305", f"run.{node.attr} is behind the run."
    elif node.attr in _WORLD:
        yield "RB303", f"{node.attr} reaches the world."
    elif _FILES.fullmatch(node.attr) or node.attr == "eval":
        yield "RB306", f"{node.attr} reads or writes files or evaluates text."


def _errors(node: Any) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Raise) and node.exc:
        kind = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        if isinstance(kind, ast.Name) and kind.id in _ENDS:
            yield "RB307", f"{kind.id} is raised."
    if isinstance(node, ast.ExceptHandler):
        raises = any(isinstance(part, ast.Raise) for line in node.body for part in ast.walk(line))
        caught = {part.id for part in ast.walk(node.type) if isinstance(part, ast.Name)} if node.type else set()
        if node.type is None or (caught & {"Exception", "BaseException"} and not raises):
            yield "RB308", "An except catches everything and goes on."


def _words(node: Any) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and is_run(node.func):
        method = node.func.attr
        if method in {"observe", "use", "decide", "rolling"} and not _literal(node):
            yield "RB309", f"run.{method} is called without a literal name."


def _literal(call: ast.Call) -> bool:
    first = call.args[0] if call.args else None
    return isinstance(first, ast.Constant) and isinstance(first.value, str)
