"""A good runbook as a notebook, to be spoilt one thing at a time."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Notebook = dict[str, Any]

RULES = """\
version: "1"
summary: One instance is above the limit.
rules:
  - {name: above, when: {signal: memory, above: limit_mb}, then: drain, why: above the limit}
otherwise: {then: nothing, why: below the limit, ends: not_applicable}
"""

HEAD = """\
# MemoryLeak

Gives back the memory of one instance. **Do not use it** when all instances grow together.

| owner | severity | blast radius | budget | last exercised |
|---|---|---|---|---|
| sre | page | one instance | 5 minutes | in CI |"""

MEANING = """\
**Meaning.** Memory stays above the limit.

**Impact.** The instance slows down.

```mermaid
flowchart LR
  A[alert] --> D[drain]
```"""

PARAMETERS = """\
service: str = "checkout"       # Service whose alert fired
environment: str = "sandbox"    # File in parameters/
limit_mb: float = 300.0         # Memory above which an instance counts as leaking, MB"""

CONTRACT = """\
from rbkit import open_run
run = open_run("memory-leak", version="1.0.0", owner="sre", budget="5m")"""

PRECONDITION = '''\
@run.precondition
async def spare():
    """The others can carry the traffic."""
    return len(await run.use("balancer").members(service)) >= 2


await spare()'''

DIAGNOSE = """\
memory = await run.observe("memory", service=service, last="5m")
memory.table()"""

DECIDE = 'verdict = run.decide("leak", memory=memory)'

WHY = "It leaks, so its traffic goes to the others. You should see its requests end. Undone by putting it back."

STEP = '''\
@run.step(risk="medium", timeout="30s")
async def drain():
    """Take it out of the balancer. Undo: put it back. Expect: no requests on it."""
    return await run.use("balancer").drain(verdict.target)


await drain()'''

POSTCONDITION = '''\
@run.postcondition(within="1m")
async def back():
    """Memory is below the limit."""
    return (await run.observe("memory", service=service, last="30s")).latest.max() < 300


await back()'''

CELLS = [
    ("", HEAD), ("", MEANING), ("parameters", PARAMETERS), ("contract", CONTRACT),
    ("", "Two members at least."), ("precondition", PRECONDITION),
    ("", "Read only."), ("diagnose", DIAGNOSE), ("", "Rules decide."), ("decide", DECIDE),
    ("", WHY), ("step", STEP), ("", "Measured."), ("postcondition", POSTCONDITION), ("close", "run.close()"),
]  # fmt: skip


def good() -> Notebook:
    """Build a runbook in which nothing is wrong."""
    return {
        "cells": [_cell(index, tag, source) for index, (tag, source) in enumerate(CELLS)],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _cell(index: int, tag: str, source: str) -> dict[str, Any]:
    common = {"id": f"cell-{index}", "metadata": {"tags": [tag]} if tag else {}, "source": source}
    code = {"cell_type": "code", "execution_count": None, "outputs": []}
    return {**common, **(code if tag else {"cell_type": "markdown"})}


def place(tag: str) -> int:
    """Tell where the cell with a tag stands."""
    return [cell_tag for cell_tag, _ in CELLS].index(tag)


def replaced(tag: str, old: str, new: str) -> Callable[[Notebook], None]:
    """Spoil the cell with a tag: one text in place of another."""
    return replaced_at(place(tag), old, new)


def replaced_at(index: int, old: str, new: str) -> Callable[[Notebook], None]:
    """Spoil the cell at a place: one text in place of another."""

    def spoil(notebook: Notebook) -> None:
        assert old in notebook["cells"][index]["source"]
        notebook["cells"][index]["source"] = notebook["cells"][index]["source"].replace(old, new)

    return spoil


def added(tag: str, line: str) -> Callable[[Notebook], None]:
    """Spoil the cell with a tag: one more line."""

    def spoil(notebook: Notebook) -> None:
        notebook["cells"][place(tag)]["source"] += f"\n{line}"

    return spoil


def updated(index: int, **changes: Any) -> Callable[[Notebook], None]:
    """Spoil the cell at a place: other fields."""
    return lambda notebook: notebook["cells"][index].update(changes)


def write(folder: Path, notebook: Any) -> Path:
    """Write a notebook and the rule set that it names."""
    (folder / "rules").mkdir(exist_ok=True)
    (folder / "rules" / "leak.yaml").write_text(RULES, encoding="utf-8")
    path = folder / "runbook.ipynb"
    path.write_text(json.dumps(notebook, indent=1) + "\n", encoding="utf-8")
    return path
