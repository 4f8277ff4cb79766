"""RB4xx: the cells, their tags, their order, and what a check or step holds."""

import ast
import re
from collections.abc import Iterator
from typing import Any

from rbkit import ports
from rbkit.contract import Cell, sections
from rbkit.lint.book import TAGS, Book, function_of, is_run
from rbkit.lint.opening import rule_sets
from rbkit.lint.rules import Fault

__all__ = ["check_anatomy"]

MOST_LINES = 10
_CALLED = ("precondition", "step", "postcondition")
_ACTIONS = {
    name
    for kind in vars(ports).values()
    if isinstance(kind, type) and issubclass(kind, ports.Capability)
    for name in kind.methods("action")
}
_SEEN = re.compile(r"(?i)\b(?:see|seen|expect)")
_UNDONE = re.compile(r"(?i)\b(?:und(?:o|one|oing)|taken? back|roll(?:ed)? back|irreversible)\b")
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)")


def check_anatomy(book: Book) -> Iterator[Fault]:
    """Check tags, order, neighbours, and each kind of cell."""
    for cell in book.cells:
        yield from _tags(cell)
    yield from _order(book)
    yield from _neighbours(book)
    alternatives = _alternatives(book)
    for cell, tree in book.parsed(*_CALLED):
        yield from _called(cell, tree, alternatives)
    for cell, tree in book.parsed("step"):
        yield from _step(cell, tree)
    yield from _decisions(book)
    yield from _changes(book)
    yield from _ending(book)


def _tags(cell: Cell) -> Iterator[Fault]:
    tags = [tag for tag in cell.tags if tag != "raises-exception"]
    if len(tags) != len(cell.tags):
        yield Fault("RB402", "The cell may fail without failing the run.", cell.index)
    unknown = [tag for tag in tags if tag not in TAGS]
    if unknown:
        yield Fault("RB401", f"The tag {unknown[0][:40]!r} is not known.", cell.index)
    elif cell.kind == "code" and len(tags) != 1:
        yield Fault("RB401", f"The cell has {len(tags)} tags.", cell.index)


def _order(book: Book) -> Iterator[Fault]:
    highest = 0
    for cell in book.tagged(*TAGS):
        rank = next(TAGS.index(tag) for tag in cell.tags if tag in TAGS)
        if rank < highest:
            yield Fault("RB403", f"A {TAGS[rank]} cell stands after a {TAGS[highest]} cell.", cell.index)
        highest = max(highest, rank)


def _neighbours(book: Book) -> Iterator[Fault]:
    for cell in book.code:
        before = book.cells[cell.index - 1] if cell.index else None
        explained = before is not None and before.kind == "markdown" and bool(before.source.strip())
        if not explained and not {"parameters", "contract", "close"} & set(cell.tags):
            yield Fault("RB404", "No markdown cell stands before this one.", cell.index)
        elif "step" in cell.tags and before is not None and not _says_why(before.source):
            yield Fault("RB410", "It does not say why the step is made, what is seen, how it is undone.", before.index)


def _says_why(text: str) -> bool:
    prose = " ".join(line for line in text.splitlines() if not line.startswith("#"))
    return len(_SENTENCE_END.findall(prose)) >= 2 and bool(_SEEN.search(prose)) and bool(_UNDONE.search(prose))


def _alternatives(book: Book) -> set[str]:
    """Find the steps that others name in `otherwise`."""
    marks = [node for _, node in book.nodes if isinstance(node, ast.Call) and is_run(node.func, "step")]
    lists = [word.value for mark in marks for word in mark.keywords if word.arg == "otherwise"]
    named = [part.value for node in lists for part in ast.walk(node) if isinstance(part, ast.Constant)]
    return {name for name in named if isinstance(name, str)}


def _called(cell: Cell, tree: ast.Module, alternatives: set[str]) -> Iterator[Fault]:
    """Check a cell that is one function and one call of it, or the function alone if it stands in for another."""
    tag = next(tag for tag in cell.tags if tag in _CALLED)
    function = function_of(tree)
    if function is not None and function.name in alternatives:
        if len(tree.body) != 1:
            yield Fault("RB405", f"{function.name} stands in for another step, so it is not awaited here.", cell.index)
    elif not isinstance(function, ast.AsyncFunctionDef) or not _is_one_call(tree, function):
        yield Fault("RB405", "The cell is not one `async def` and one `await` of it.", cell.index)
    if function is None:
        return
    marks = [mark.func if isinstance(mark, ast.Call) else mark for mark in function.decorator_list]
    if len(marks) != 1 or not is_run(marks[0], tag):
        yield Fault("RB406", f"{function.name} is not decorated with run.{tag} alone.", cell.index, function.lineno)
    if tag != "step" and not sections(ast.get_docstring(function))["intent"]:
        yield Fault("RB414", f"{function.name} does not say what must hold.", cell.index, function.lineno)


def _is_one_call(tree: ast.Module, function: ast.AsyncFunctionDef) -> bool:
    if len(tree.body) != 2 or tree.body[0] is not function:
        return False
    wait = tree.body[1].value if isinstance(tree.body[1], ast.Expr | ast.Assign) else None
    call = wait.value if isinstance(wait, ast.Await) else None
    called = call.func if isinstance(call, ast.Call) and not call.args and not call.keywords else None
    return isinstance(called, ast.Name) and called.id == function.name


def _step(cell: Cell, tree: ast.Module) -> Iterator[Fault]:
    function = function_of(tree)
    if function is None:
        return
    lines = _lines(cell.source, function)
    if lines > MOST_LINES:
        yield Fault("RB407", f"The cell has {lines} lines.", cell.index)
    told = sections(ast.get_docstring(function))
    missing = [word for word, text in told.items() if not text]
    if missing:
        yield Fault("RB408", f"{function.name} does not tell {', '.join(missing)}.", cell.index, function.lineno)
    given = {word.arg for mark in function.decorator_list if isinstance(mark, ast.Call) for word in mark.keywords}
    if not {"risk", "timeout"} <= given:
        lacking = ", ".join(sorted({"risk", "timeout"} - given))
        yield Fault("RB409", f"{function.name} does not say {lacking}.", cell.index, function.lineno)


def _lines(source: str, function: ast.AsyncFunctionDef | ast.FunctionDef) -> int:
    """Count the lines of a cell that are neither blank nor its function's docstring."""
    first = function.body[0]
    told = range(first.lineno, (first.end_lineno or 0) + 1) if ast.get_docstring(function) is not None else range(0)
    lines = enumerate(re.split(r"\r\n|\r|\n", source), start=1)
    return sum(bool(line.strip()) and number not in told for number, line in lines)


def _decisions(book: Book) -> Iterator[Fault]:
    for cell, tree in book.parsed("decide"):
        if not any(is_run(node, "decide", "ask") for node in ast.walk(tree)):
            yield Fault("RB415", "The cell decides nothing.", cell.index)
    for cell, line, rules in rule_sets(book):
        if isinstance(rules, str):
            yield Fault("RB416", rules, cell.index, line)


def _changes(book: Book) -> Iterator[Fault]:
    handles = _handles(book)
    for cell, node in book.nodes:
        if "step" not in cell.tags and _is_change(node, handles):
            yield Fault("RB411", "A change is made outside a step.", cell.index, node.lineno)


def _handles(book: Book) -> set[str]:
    """Find the names that stand for a capability: they are assigned from run.use."""
    assigned = [node for _, node in book.nodes if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr)]
    used = [node for node in assigned if node.value and _is_use(node.value)]
    return {part.id for node in used for part in ast.walk(node) if isinstance(part, ast.Name) and _is_stored(part)}


def _is_use(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and is_run(node.func, "use")


def _is_stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def _is_change(node: Any, handles: set[str]) -> bool:
    """Tell a fan-out, an action of a capability that is known, or a call with an argument that has an action's name."""
    if is_run(node, "rolling"):
        return True
    if isinstance(node, ast.Call) and (node.args or node.keywords):
        return isinstance(node.func, ast.Attribute) and node.func.attr in _ACTIONS and not _is_held(node.func, handles)
    return isinstance(node, ast.Attribute) and node.attr in _ACTIONS and _is_held(node, handles)


def _is_held(node: ast.Attribute, handles: set[str]) -> bool:
    return _is_use(node.value) or (isinstance(node.value, ast.Name) and node.value.id in handles)


def _ending(book: Book) -> Iterator[Fault]:
    if not book.tagged("postcondition"):
        yield Fault("RB412", "There is no postcondition.")
    closing = book.tagged("close")
    if len(closing) != 1:
        yield Fault("RB413", f"{len(closing)} code cells are tagged close.")
    for cell, tree in book.parsed("close"):
        if not _closes(tree):
            yield Fault("RB413", "The cell holds something else than `run.close()`.", cell.index)
    for cell, node in book.nodes:
        if is_run(node, "close", "step", *_CALLED) and node.attr not in cell.tags:
            rule = "RB413" if node.attr == "close" else "RB406"
            yield Fault(rule, f"run.{node.attr} stands in a cell of another tag.", cell.index, node.lineno)


def _closes(tree: ast.Module) -> bool:
    """Tell whether a cell is `run.close()` and nothing else."""
    call = tree.body[0].value if len(tree.body) == 1 and isinstance(tree.body[0], ast.Expr) else None
    return isinstance(call, ast.Call) and is_run(call.func, "close") and not call.args and not call.keywords
