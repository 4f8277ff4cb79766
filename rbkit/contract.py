"""The contract of a runbook, read off its notebook by syntax tree: nothing is executed."""

import ast
import keyword
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rbkit.errors import ContractError, RefusedInput
from rbkit.specs import (
    CHECK_WITHIN_S,
    ROLLBACKS,
    STEP_KEYS,
    Cell,
    CheckSpec,
    Contract,
    ParameterSpec,
    StepSpec,
    duration,
    sections,
    step_spec,
)  # fmt: skip
from rbkit.values import canonical, digest

__all__ = [
    "Cell", "CheckSpec", "Contract", "ParameterSpec", "StepSpec", "parameter_spec", "parse", "read_cells", "sections",
    "step_spec", "type_text",
]  # fmt: skip

_SIMPLE = {"str", "int", "float", "bool", "None"}
_UNIT = re.compile(r"[,(]\s*([^,()]{1,20}?)\s*\)?\s*$")
_OPEN_KEYS = {"version": str, "owner": str, "budget": str, "assumes": list, "rollback": str, "confirm_within": str}


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
    steps = tuple(_unique(_steps(trees), "step"))
    _check_otherwise(steps)
    contract = Contract(
        **opened,
        title=_title(cells),
        parameters=parameters,
        checks=tuple(_unique(_checks(trees), "check")),
        steps=steps,
        signals=tuple(dict.fromkeys(_first_words(trees, "observe"))),
        capabilities=tuple(dict.fromkeys([*_first_words(trees, "use"), *_rolled_with(trees)])),
        rules=tuple(dict.fromkeys(_first_words(trees, "decide"))),
        digest=digest([[list(cell.tags), cell.source] for cell, _ in trees if "injected-parameters" not in cell.tags]),
    )
    try:
        contract.model_dump_json()
    except ValueError as error:
        raise ContractError("A text of the contract holds a broken character (a lone surrogate).") from error
    return contract


def _check_otherwise(steps: Iterable[StepSpec]) -> None:
    """Let a step name only steps above it as alternatives: when it fails, they must be there."""
    above: set[str] = set()
    for step in steps:
        missing = [name for name in step.otherwise if name not in above]
        if missing:
            raise ContractError(f"Step {step.name} names {missing[0]!r} in otherwise, and no step above is called so.")
        above.add(step.name)


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
    rollback = given.get("rollback", "on_failure")
    if rollback not in ROLLBACKS:
        raise ContractError(f"rollback in {where} is one of {', '.join(ROLLBACKS)}, not {rollback!r:.40}.")
    return {
        "name": name, "version": given["version"], "owner": given["owner"],
        "budget_s": duration(given["budget"], where), "assumes": tuple(assumes), "rollback": rollback,
        "confirm_within_s": duration(given["confirm_within"], where) if "confirm_within" in given else 0.0,
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
    unit, kind = _UNIT.search(text.rstrip(". ")), _annotated(node.annotation, where)
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


def _annotated(node: ast.expr, where: str) -> str:
    """Read a parameter's type; in quotes Python does not evaluate it, so that `Literal` needs no import."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        try:
            return type_text(ast.parse(node.value, mode="eval").body, where)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ContractError(f"The type of a parameter in quotes is none ({where}).") from error
    if any(isinstance(part, ast.Name) and part.id == "Literal" for part in ast.walk(node)):
        raise ContractError(
            f"Python does not know `Literal` in the parameters cell ({where}).",
            todo="Write the type in quotes: mode: \"Literal['fast', 'safe']\" = \"safe\".",
        )
    return type_text(node, where)


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
            cell=cell.index, within_s=duration(within, where) if within else CHECK_WITHIN_S,
        )  # fmt: skip


def _steps(trees: list[tuple[Cell, ast.Module]]) -> Iterator[StepSpec]:
    for cell, node, _, call in _decorated(trees, {"step"}):
        where = f"step {node.name} in cell {cell.index}"
        yield step_spec(node.name, ast.get_docstring(node), _keywords(call, STEP_KEYS, where), where).model_copy(
            update={"calls": tuple(dict.fromkeys(_capability_calls(node))), "cell": cell.index}
        )


def _capability_calls(node: ast.AST) -> Iterator[str]:
    """Find `run.use("balancer").drain(...)` and write it as `balancer.drain`; a fan-out is written as it stands."""
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute):
            word = _word_of(part.func.value, "use")
            if word:
                yield f"{word}.{part.func.attr}"
            yield from filter(None, [_rolled(part)])


def _rolled(node: ast.AST) -> str:
    """Return `services.restart` of `run.rolling("services.restart", ...)`; pandas knows another `rolling`."""
    match node:
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id="run"), attr="rolling"), args=[ast.Constant(value=action), *_]
        ):
            if not re.fullmatch(r"[^.]+\.[^.]+", str(action)):
                raise ContractError(
                    f"rolling takes capability and action, as in 'services.restart', not {action!r:.40}."
                )
            return str(action)
    return ""


def _word_of(node: ast.expr, method: str) -> str:
    """Return the literal first argument of `<something>.method("word", ...)`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method and node.args:
        first = node.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            return first.value
    return ""


def _rolled_with(trees: list[tuple[Cell, ast.Module]]) -> Iterator[str]:
    actions = (_rolled(node) for _, tree in trees for node in ast.walk(tree))
    return (action.partition(".")[0] for action in actions if action)


def _first_words(trees: list[tuple[Cell, ast.Module]], method: str) -> Iterator[str]:
    nodes = (node for _, tree in trees for node in ast.walk(tree) if isinstance(node, ast.expr))
    return filter(None, (_word_of(node, method) for node in nodes))
