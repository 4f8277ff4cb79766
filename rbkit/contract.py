"""The contract of a runbook, read off its notebook by syntax tree: nothing is executed."""

import ast
import keyword
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from rbkit.errors import ContractError, RefusedInput, SettingsError
from rbkit.values import canonical, digest, seconds

__all__ = [
    "Cell", "CheckSpec", "Contract", "ParameterSpec", "StepSpec", "parameter_spec", "parse", "read_cells", "sections",
    "step_spec", "type_text",
]  # fmt: skip

_SIMPLE = {"str", "int", "float", "bool", "None"}
_UNIT = re.compile(r"[,(]\s*([^,()]{1,20}?)\s*\)?\s*$")


@dataclass(frozen=True, slots=True)
class Cell:
    """A notebook's cell, as far as a contract needs it.

    Args:
        index: Its place in the notebook, from 0.
        kind: code, markdown or raw.
        source: Its text.
        tags: Its tags.
    """

    index: int
    kind: str
    source: str
    tags: tuple[str, ...] = ()


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ParameterSpec(_Value):
    """A parameter: what may be given, what it means, what it is when not given."""

    name: str
    type: str
    default: Any = None
    required: bool = False
    help: str = ""
    unit: str = ""


class StepSpec(_Value):
    """A step: what it intends, how it is undone, what should be seen, and its limits."""

    name: str
    intent: str
    undo: str = ""
    expect: str = ""
    risk: Literal["low", "medium", "high"] = "medium"
    timeout_s: float
    max_targets: int = 1
    approvals: int = 0
    calls: tuple[str, ...] = ()
    cell: int = 0


class CheckSpec(_Value):
    """A precondition or postcondition."""

    name: str
    phase: Literal["precondition", "postcondition"]
    sentence: str
    within_s: float
    cell: int = 0


class Contract(_Value):
    """What a runbook promises and needs."""

    name: str
    title: str = ""
    version: str
    owner: str
    budget_s: float
    assumes: tuple[str, ...] = ()
    parameters: tuple[ParameterSpec, ...] = ()
    checks: tuple[CheckSpec, ...] = ()
    steps: tuple[StepSpec, ...] = ()
    signals: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    digest: str

    def step(self, name: str) -> StepSpec | None:
        """Find a step by its function's name."""
        return next((step for step in self.steps if step.name == name), None)


STEP_TIMEOUT_S = 60.0
CHECK_WITHIN_S = 30.0
_OPEN_KEYS = {"version": str, "owner": str, "budget": str, "assumes": list}
_STEP_KEYS = {"risk": str, "timeout": str, "max_targets": int, "approvals": int}


def parse(source: str, where: str) -> ast.Module:
    """Parse a cell without running it.

    Raises:
        ContractError: It is not plain Python; the line is named.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except SyntaxError as error:
        raise ContractError(f"{where} is not plain Python: {error.msg} (line {error.lineno}).") from error
    except (ValueError, RecursionError, MemoryError, UnicodeError) as error:
        raise ContractError(f"{where} cannot be parsed: {type(error).__name__}.") from error


def read_cells(cells: Iterable[Cell]) -> Contract:
    """Read the contract off a notebook's cells.

    Args:
        cells: The notebook's cells in order.

    Returns:
        The contract.

    Raises:
        ContractError: Something is missing or is not a literal; the cell is named.
    """
    cells = list(cells)
    trees = [(cell, parse(cell.source, f"Cell {cell.index}")) for cell in cells if cell.kind == "code"]
    try:
        return _assemble(cells, trees)
    except RecursionError as error:
        raise ContractError("A cell is nested too deeply to be read.") from error


def _assemble(cells: list[Cell], trees: list[tuple[Cell, ast.Module]]) -> Contract:
    opened = _opening(trees)
    parameters = tuple(_parameters(trees))
    _check_injected(trees, {spec.name for spec in parameters})
    contract = Contract(
        **opened,
        title=_title(cells),
        parameters=parameters,
        checks=tuple(_unique(_checks(trees), "check")),
        steps=tuple(_unique(_steps(trees), "step")),
        signals=tuple(dict.fromkeys(_first_words(trees, "observe"))),
        capabilities=tuple(dict.fromkeys(_first_words(trees, "use"))),
        rules=tuple(dict.fromkeys(_first_words(trees, "decide"))),
        digest=digest([[list(cell.tags), cell.source] for cell, _ in trees if "injected-parameters" not in cell.tags]),
    )
    try:
        contract.model_dump_json()
    except ValueError as error:
        raise ContractError("A text of the contract holds a broken character (a lone surrogate).") from error
    return contract


def _check_injected(trees: list[tuple[Cell, ast.Module]], known: set[str]) -> None:
    """Let papermill's cell hold values only: it is not part of the digest that was approved."""
    found = [(cell, node) for cell, tree in trees if "injected-parameters" in cell.tags for node in tree.body]
    for cell, node in found:
        target = node.targets[0] if isinstance(node, ast.Assign) and len(node.targets) == 1 else None
        if not isinstance(node, ast.Assign) or not isinstance(target, ast.Name) or target.id not in known:
            raise ContractError(f"Cell {cell.index} (injected-parameters) holds more than values for parameters.")
        _any_literal(node.value, f"{target.id} in cell {cell.index}")


def _title(cells: list[Cell]) -> str:
    lines = (line for cell in cells if cell.kind == "markdown" for line in cell.source.splitlines())
    return next((line.lstrip("# ").strip() for line in lines if line.startswith("# ")), "")


def _unique(specs: Iterable[Any], word: str) -> Iterator[Any]:
    seen: set[str] = set()
    for spec in specs:
        if spec.name in seen:
            raise ContractError(f"There are two {word}s named {spec.name}.", todo="Give each its own name.")
        seen.add(spec.name)
        yield spec


def _opening(trees: list[tuple[Cell, ast.Module]]) -> dict[str, Any]:
    calls = [
        (cell, node)
        for cell, tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open_run"
    ]
    if len(calls) != 1:
        raise ContractError(f"A runbook opens its run exactly once; here `open_run` is called {len(calls)} times.")
    cell, call = calls[0]
    where = f"open_run in cell {cell.index}"
    if len(call.args) != 1:
        raise ContractError(f"{where} needs the runbook's name as its only positional argument.")
    name = _literal(call.args[0], str, f"The name in {where}")
    given = _keywords(call, _OPEN_KEYS, where)
    missing = {"version", "owner", "budget"} - given.keys()
    if missing:
        raise ContractError(f"{where} does not say {', '.join(sorted(missing))}.")
    assumes = given.get("assumes", [])
    if not all(isinstance(item, str) for item in assumes):
        raise ContractError(f"assumes in {where} must be a list of sentences.")
    return {
        "name": name, "version": given["version"], "owner": given["owner"],
        "budget_s": _duration(given["budget"], where), "assumes": tuple(assumes),
    }  # fmt: skip


def _literal(node: ast.expr, kind: type, where: str) -> Any:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise ContractError(f"{where} must be a literal.") from error
    if type(value) is not kind:
        raise ContractError(f"{where} must be {kind.__name__}, not {type(value).__name__}.")
    return value


def _keywords(call: ast.Call, known: Mapping[str, type], where: str) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for word in call.keywords:
        if word.arg is None or word.arg not in known:
            raise ContractError(f"{where} has an unknown argument {word.arg or '**'}; known: {', '.join(known)}.")
        given[word.arg] = _literal(word.value, known[word.arg], f"{word.arg} in {where}")
    return given


def _duration(text: str, where: str) -> float:
    try:
        return seconds(text)
    except SettingsError as error:
        raise ContractError(f"{error.what} It stands in {where}.", todo=error.todo) from error


def _parameters(trees: list[tuple[Cell, ast.Module]]) -> Iterator[ParameterSpec]:
    tagged = [(cell, tree) for cell, tree in trees if "parameters" in cell.tags]
    if len(tagged) != 1:
        raise ContractError(f"A runbook has exactly one cell tagged parameters; here are {len(tagged)}.")
    cell, tree = tagged[0]
    yield from _unique((parameter_spec(node, cell) for node in tree.body), "parameter")


def parameter_spec(node: ast.stmt, cell: Cell) -> ParameterSpec:
    """Read one line of the parameters cell: `name: type = literal  # Meaning, unit`.

    Raises:
        ContractError: It is something else; cell and line are named.
    """
    where = f"cell {cell.index}, line {node.lineno}"
    if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
        raise ContractError(f"The parameters cell holds something else than `name: type = literal` ({where}).")
    name = node.target.id
    if keyword.issoftkeyword(name) or name.startswith("_") or name == "run":
        raise ContractError(f"{name!r} is no good name for a parameter ({where}).")
    default = _any_literal(node.value, f"The default of {name} ({where})") if node.value else None
    text = _comment(node, cell.source)
    unit, kind = _UNIT.search(text.rstrip(". ")), type_text(node.annotation, where)
    return ParameterSpec(
        name=name, type=kind, default=default, required=node.value is None,
        help=text, unit=unit.group(1) if unit and {"int", "float"} & {*kind.split(" | ")} else "",
    )  # fmt: skip


def _any_literal(node: ast.expr, where: str) -> Any:
    try:
        value = ast.literal_eval(node)
        canonical(value)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, RefusedInput) as error:
        raise ContractError(f"{where} must be a literal that JSON can hold.") from error
    return value


def _comment(node: ast.stmt, source: str) -> str:
    """Return the comment after a statement; lines are those of Python, which ends none at a form feed."""
    line = re.split(r"\r\n|\r|\n", source)[(node.end_lineno or node.lineno) - 1]
    rest = line.encode()[node.end_col_offset or 0 :].decode(errors="replace")
    return " ".join(rest.partition("#")[2].split())


def type_text(node: ast.expr, where: str) -> str:
    """Write an annotation in the form that `parameters.py` understands, or refuse it.

    Raises:
        ContractError: It is not built of str, int, float, bool, None, list, dict, Literal and `|`.
    """
    if isinstance(node, ast.Name) and node.id in _SIMPLE:
        return node.id
    if isinstance(node, ast.Constant) and node.value is None:
        return "None"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return f"{type_text(node.left, where)} | {type_text(node.right, where)}"
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        return _generic(node.value.id, node.slice, where)
    raise ContractError(
        f"The type of a parameter cannot be used ({where}).",
        todo="Use str, int, float, bool, list[...], dict[str, ...], Literal[...] and | None.",
    )


def _generic(name: str, inner: ast.expr, where: str) -> str:
    if name == "list":
        return f"list[{type_text(inner, where)}]"
    items = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    if name == "dict" and len(items) == 2 and isinstance(items[0], ast.Name) and items[0].id == "str":
        return f"dict[str, {type_text(items[1], where)}]"
    values = [item.value for item in items if isinstance(item, ast.Constant) and isinstance(item.value, str | int)]
    if name == "Literal" and values and len(values) == len(items):
        return f"Literal[{', '.join(map(repr, values))}]"
    raise ContractError(f"The type {name}[…] cannot be used for a parameter ({where}).")


def _decorated(trees: list[tuple[Cell, ast.Module]], words: set[str]) -> Iterator[tuple[Cell, Any, Any, ast.Call]]:
    """Find every function decorated with `@run.step(...)`, `@run.precondition` and so on."""
    bodies: list[tuple[Cell, Any]] = [(cell, node) for cell, tree in trees for node in tree.body]
    for cell, node, mark in [(*found, mark) for found in bodies for mark in getattr(found[1], "decorator_list", [])]:
        call = mark if isinstance(mark, ast.Call) else ast.Call(func=mark, args=[], keywords=[])
        if isinstance(call.func, ast.Attribute) and call.func.attr in words:
            if not isinstance(node, ast.AsyncFunctionDef):
                raise ContractError(f"{node.name} in cell {cell.index} must be `async def`.")
            yield cell, node, call.func.attr, call


def _checks(trees: list[tuple[Cell, ast.Module]]) -> Iterator[CheckSpec]:
    for cell, node, word, call in _decorated(trees, {"precondition", "postcondition"}):
        where = f"{word} {node.name} in cell {cell.index}"
        within = _keywords(call, {"within": str}, where).get("within")
        yield CheckSpec(
            name=node.name, phase=word, sentence=sections(ast.get_docstring(node))["intent"],
            cell=cell.index, within_s=_duration(within, where) if within else CHECK_WITHIN_S,
        )  # fmt: skip


def _steps(trees: list[tuple[Cell, ast.Module]]) -> Iterator[StepSpec]:
    for cell, node, _, call in _decorated(trees, {"step"}):
        where = f"step {node.name} in cell {cell.index}"
        yield step_spec(node.name, ast.get_docstring(node), _keywords(call, _STEP_KEYS, where), where).model_copy(
            update={"calls": tuple(dict.fromkeys(_capability_calls(node))), "cell": cell.index}
        )


def step_spec(name: str, docstring: str | None, given: Mapping[str, Any], where: str) -> StepSpec:
    """Make the description of a step from its docstring and the arguments of `@run.step`.

    Args:
        name: The function's name.
        docstring: One sentence of intent; `Undo:` and `Expect:` sentences.
        given: risk, timeout, max_targets, approvals.
        where: For the error.

    Raises:
        ContractError: An argument is out of bounds.
    """
    risk, targets, approvals = given.get("risk", "medium"), given.get("max_targets", 1), given.get("approvals", 0)
    if risk not in {"low", "medium", "high"} or targets < 1 or approvals < 0:
        raise ContractError(f"{where}: risk is low, medium or high; max_targets at least 1; approvals at least 0.")
    return StepSpec(
        name=name, **sections(docstring), risk=risk, max_targets=targets, approvals=approvals,
        timeout_s=_duration(given["timeout"], where) if "timeout" in given else STEP_TIMEOUT_S,
    )  # fmt: skip


def sections(docstring: str | None) -> dict[str, str]:
    """Split a step's docstring into intent, undo and expect."""
    text = " ".join((docstring or "").split())
    parts = re.split(r"\b(Undo|Expect):\s*", text)
    named = dict(zip((word.lower() for word in parts[1::2]), (part.strip() for part in parts[2::2]), strict=True))
    return {"intent": parts[0].strip(), "undo": named.get("undo", ""), "expect": named.get("expect", "")}


def _capability_calls(node: ast.AST) -> Iterator[str]:
    """Find `run.use("balancer").drain(...)` and write it as `balancer.drain`."""
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute):
            word = _word_of(part.func.value, "use")
            if word:
                yield f"{word}.{part.func.attr}"


def _word_of(node: ast.expr, method: str) -> str:
    """Return the literal first argument of `<something>.method("word", ...)`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method and node.args:
        first = node.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            return first.value
    return ""


def _first_words(trees: list[tuple[Cell, ast.Module]], method: str) -> Iterator[str]:
    nodes = (node for _, tree in trees for node in ast.walk(tree) if isinstance(node, ast.expr))
    return filter(None, (_word_of(node, method) for node in nodes))
