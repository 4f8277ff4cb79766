"""RB2xx: parameters, secrets and the contract cell."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rbkit.contract import Cell, Contract, ParameterSpec, parameter_spec, read_cells
from rbkit.decide import RuleSet, load_rules
from rbkit.errors import ContractError, ParameterError, RunbookError
from rbkit.lint.book import Book
from rbkit.lint.rules import Fault
from rbkit.parameters import known_token, secret_in, validate

__all__ = ["check_contract", "check_opening", "check_secrets", "rule_sets"]

_READ_BY_RBKIT = {"environment"}


def check_opening(book: Book) -> Iterator[Fault]:
    """Check the parameters, their use, and the contract cell."""
    found = book.tagged("parameters")
    if len(found) != 1:
        yield Fault("RB201", f"{len(found)} code cells are tagged parameters.")
    used = None if book.broken else _used(book)
    for cell, tree in book.parsed("parameters"):
        for node in tree.body:
            yield from _parameter(cell, node, used)
    yield from _contract_cell(book)


def _parameter(cell: Cell, node: ast.stmt, used: set[str] | None) -> Iterator[Fault]:
    try:
        spec = parameter_spec(node, cell)
        _check_default(spec)
    except (ContractError, ParameterError) as error:
        yield Fault("RB202", error.what, cell.index, node.lineno)
        return
    if not spec.help:
        yield Fault("RB203", f"{spec.name} has no comment.", cell.index, node.lineno)
    elif {"int", "float"} & set(spec.type.split(" | ")) and not spec.unit:
        yield Fault("RB204", f"The comment of {spec.name} does not end with a unit.", cell.index, node.lineno)
    if "str" in spec.type and secret_in(spec.name, spec.default or "in clear"):
        yield Fault("RB205", f"{spec.name} is a secret as a parameter.", cell.index, node.lineno)
    if used is not None and spec.name not in used:
        yield Fault("RB206", f"{spec.name} is not used.", cell.index, node.lineno)


def _check_default(spec: ParameterSpec) -> None:
    """Check a default as a given value is checked; what is a secret is told by its own rule."""
    alone = Contract(name="", version="", owner="", budget_s=1, digest="", parameters=(spec,))
    if not spec.required and not secret_in(spec.name, spec.default):
        validate(alone, {})


def _used(book: Book) -> set[str]:
    """Collect the names that cells read, that rule sets take as limits, and that rbkit itself reads."""
    read = {node.id for _, node in book.nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    sets = [load for _, _, load in rule_sets(book) if isinstance(load, RuleSet)]
    limits = {limit for rules in sets for rule in rules.rules for limit in (rule.when.above, rule.when.below)}
    return read | {limit for limit in limits if isinstance(limit, str)} | _READ_BY_RBKIT


def rule_sets(book: Book) -> list[tuple[Cell, int, RuleSet | str]]:
    """Read the rule sets that the notebook names, each with its place; a text says why one cannot be read."""
    return [
        (cell, node.lineno, _rule_set(book.path.parent / "rules", node.args[0].value))
        for cell, node in book.nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "decide"
        if node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
    ]


def _rule_set(folder: Path, name: str) -> RuleSet | str:
    try:
        return load_rules(name, folder)
    except RunbookError as error:
        return error.what
    except (OSError, ValueError, TypeError, RecursionError) as error:
        return f"The rules {name[:80]!r} cannot be read: {type(error).__name__}."


def _contract_cell(book: Book) -> Iterator[Fault]:
    found = book.tagged("contract")
    if len(found) != 1:
        yield Fault("RB207", f"{len(found)} code cells are tagged contract.")
    for cell, tree in book.parsed("contract"):
        if sum(map(_opens, tree.body)) != 1:
            yield Fault("RB207", "The cell does not hold `run = open_run(…)` once.", cell.index)


def _opens(node: ast.stmt) -> bool:
    match node:
        case ast.Assign(targets=[ast.Name(id="run")], value=ast.Call(func=ast.Name(id="open_run"))):
            return True
    return False


def check_contract(book: Book) -> Iterator[Fault]:
    """Read the contract as `rbkit plan` does."""
    try:
        read_cells(book.cells)
    except ContractError as error:
        yield Fault("RB208", error.what)


def check_secrets(book: Book) -> Iterator[Fault]:
    """Look for secrets in texts, names and everything else the file holds; the values are never repeated."""
    faults = [fault for cell in book.cells for fault in _tokens(cell)]
    faults += [fault for cell, node in book.nodes for fault in _literal(cell, node)]
    rest = known_token(book.raw.decode("utf-8", errors="replace"))
    if rest and not faults:
        faults.append(Fault("RB205", f"The file holds {rest} outside its cells' texts."))
    yield from faults


def _tokens(cell: Cell) -> Iterator[Fault]:
    for number, line in enumerate(cell.source.split("\n"), start=1):
        kind = known_token(line)
        if kind:
            yield Fault("RB205", f"This looks like {kind}.", cell.index, number)


def _literal(cell: Cell, node: Any) -> Iterator[Fault]:
    for name, value in _named(node):
        if isinstance(value, ast.Constant) and isinstance(value.value, str | bytes):
            text = value.value if isinstance(value.value, str) else value.value.decode("latin-1")
            if secret_in(name, text):
                yield Fault("RB205", "This text looks like a secret in clear.", cell.index, value.lineno)


def _named(node: Any) -> list[tuple[str, Any]]:
    """Pair values with the names they are given: assignments, keywords, keys; a literal alone has none."""
    match node:
        case ast.Constant():
            return [("", node)]
        case ast.Assign(targets=targets, value=value):
            return [(_name(target), value) for target in targets]
        case ast.AnnAssign(target=target, value=value):
            return [(_name(target), value)]
        case ast.keyword(arg=str(name), value=value):
            return [(name, value)]
        case ast.Dict(keys=keys, values=values):
            return [(str(key.value), v) for key, v in zip(keys, values, strict=True) if isinstance(key, ast.Constant)]
    return []


def _name(target: ast.expr) -> str:
    """Name what is assigned to: `x`, `a.x` or `a["x"]`."""
    match target:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Subscript(slice=ast.Constant(value=str(name))):
            return name
    return ""
