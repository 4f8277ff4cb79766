"""The floors: who may import whom, how long things may be, and what the command line loads at its start."""

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "rbkit"
FLOORS: dict[str, int] = {
    # 0: values that know nothing
    "errors": 0, "clock": 0, "values": 0, "files": 0, "costs": 0, "masking": 0,
    # 1: what is said: contract, events, ports, settings
    "contract": 1, "specs": 1, "facts": 1, "asking": 1, "events": 1, "entries": 1, "store": 1, "capability": 1,
    "kinds": 1, "datakinds": 1, "ports": 1,
    "environment": 1, "envfile": 1, "settings": 1,
    # 2: pure
    "machine": 2, "approvals": 2, "progress": 2, "fold": 2, "results": 2, "policy": 2, "signal": 2, "decide": 2,
    "resilience": 2, "breaker": 2, "queries": 2, "parameters": 2, "notebook": 2,
    # 3: the run, and the leaves around it
    "journal": 3, "leases": 3, "reaping": 3, "permits": 3, "observing": 3, "terms": 3, "endpoints": 3, "tokens": 3,
    "gate": 3, "rolling": 3, "ending": 3, "stepping": 3, "marks": 3, "measure": 3, "deciding": 3, "confirming": 3,
    "handle": 3, "run": 3, "tape": 3, "adapters": 3, "stores": 3, "record": 3,
    # 4 and 5: wiring, drivers and rules
    "wiring": 4, "secretkeeping": 4, "pinging": 4, "testing": 4, "execute": 5, "lab": 5, "lint": 5, "sandbox": 5,
    # 6 and 7: doors, and the names that a notebook sees
    "open": 6, "cli": 6, "__main__": 7, "__init__": 7,
}  # fmt: skip
LEAVES = {"adapters", "stores", "record", "tape"}
HEAVY = {"pandas", "plotly", "papermill", "scrapbook", "nbconvert", "IPython", "nbformat"}
MODULES = sorted(ROOT.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}


def dotted(path: Path) -> str:
    """Name a module as it is imported."""
    return ".".join(["rbkit", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")


def unit(module: str) -> str:
    """Tell to which file or folder of the top level a module belongs."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


KNOWN = {dotted(path): path for path in MODULES}


def imported(path: Path, *, lazily: bool = True) -> Iterator[str]:
    """List the modules of rbkit that a file imports; those inside functions only if asked for."""
    nodes = ast.walk(TREES[path]) if lazily else iter(TREES[path].body)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "rbkit")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{dotted(path)} imports relatively; write the module's whole name."
            if (node.module or "").split(".")[0] == "rbkit":
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                yield from (name if name in KNOWN else str(node.module) for name in names)


def cycle(edges: dict[str, set[str]]) -> list[str]:
    """Return the names that form or hang on a cycle, by taking away what imports nothing that is left."""
    left = dict(edges)
    while True:
        free = {name for name, targets in left.items() if not targets & (left.keys() - {name}) and name not in targets}
        if not free:
            return sorted(left)
        left = {name: targets for name, targets in left.items() if name not in free}


def test_every_module_has_its_floor():
    """A file or folder that is added at the top level is given a floor here, and none is left that is gone."""
    units = {unit(dotted(path)) for path in MODULES}
    new = sorted(units - FLOORS.keys())
    assert not new, f"rbkit/{new[0]} has no floor yet: place it in FLOORS in tests/test_architecture.py."
    gone = sorted(FLOORS.keys() - units)
    assert not gone, f"FLOORS names {gone[0]}, which is not in rbkit any more: take it out."


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_file_imports_only_from_its_own_floor_and_below(path):
    """No import, lazy ones included, leads upwards."""
    here = unit(dotted(path))
    up = [name for name in imported(path) if FLOORS.get(unit(name), 99) > FLOORS.get(here, 99) and name != "rbkit"]
    assert not up, f"{dotted(path)} (floor {FLOORS.get(here)}) imports {up[0]} (floor {FLOORS.get(unit(up[0]))})."


def test_floors_hold_no_cycles():
    """Files and folders of one floor may import each other one way only."""
    edges: dict[str, set[str]] = {}
    for path in MODULES:
        here = unit(dotted(path))
        there = {unit(name) for name in imported(path) if name != "rbkit"} - {here}
        edges.setdefault(here, set()).update(there)
    assert cycle(edges) == []


def test_no_module_needs_itself_to_be_imported():
    """Also inside a folder, what is imported at a module's start never leads back to it."""
    edges = {dotted(path): set(imported(path, lazily=False)) for path in MODULES}
    assert cycle(edges) == []


@pytest.mark.parametrize("leaf", sorted(LEAVES))
def test_leaves_know_neither_the_run_nor_each_other(leaf):
    """Adapters, stores, records and the tape can each be replaced without looking at the others."""
    files = [path for path in MODULES if unit(dotted(path)) == leaf]
    assert files
    found = {unit(name) for path in files for name in imported(path)}
    assert found & ((LEAVES - {leaf}) | {"run", "gate", "open"}) == set()


def test_doors_do_not_know_each_other():
    """The command line and the notebook's entry point share what lies below them, not each other."""
    for here, other in {"cli": "open", "open": "cli"}.items():
        files = [path for path in MODULES if unit(dotted(path)) == here]
        assert files
        assert not [path for path in files for name in imported(path) if unit(name) == other]


def test_the_sandbox_knows_only_the_lowest_floors():
    """The practice services stand for real ones: they share errors and the clock with rbkit, nothing else."""
    files = [path for path in MODULES if unit(dotted(path)) == "sandbox"]
    assert {unit(name) for path in files for name in imported(path) if name != "rbkit"} <= {
        "sandbox",
        "errors",
        "clock",
    }


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_nothing_inside_takes_the_notebooks_names_from_the_root(path):
    """`open_run` is for notebooks: inside, a module is imported by its own name; of the root only dunders are read."""
    tree, wrong = TREES[path], []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "rbkit":
            wrong += [alias.name for alias in node.names if f"rbkit.{alias.name}" not in KNOWN]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "rbkit":
            wrong.append(node.attr)
    assert [name for name in wrong if not name.startswith("__")] == []


def test_no_module_is_called_after_nothing():
    """A name says what is in it: no utils, helpers, common or misc."""
    words = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert [dotted(path) for path in MODULES if words & set(dotted(path).split("."))] == []


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_no_module_is_longer_than_400_lines(path):
    """What is longer is two things."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_functions_are_short():
    """Half of all functions have at most 10 lines, docstring not counted."""
    lengths = [
        length(node) for tree in TREES.values() for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]  # fmt: skip
    assert len(lengths) > 500
    assert statistics.median(lengths) <= 10


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count a function's lines from `def` to its end, without its docstring."""
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


@pytest.mark.parametrize("start", ["import rbkit.cli", "import rbkit.cli.app", "import rbkit"])
def test_the_command_line_starts_without_the_heavy_libraries(start):
    """`rbkit --help` loads no pandas, plotly, papermill or Jupyter: they come when a command needs them."""
    code = f"{start}; import sys; print(*sorted(name for name in sys.modules if '.' not in name))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) & HEAVY == set()
