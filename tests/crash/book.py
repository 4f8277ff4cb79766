"""The runbook that is killed at every moment, and the environment in which it runs."""

import json
from pathlib import Path
from typing import Any

__all__ = ["write_book", "write_environment"]

_CELLS = [
    ("parameters", 'service: str = "checkout"  # Service whose alert fired\nenvironment: str = "crash"  # Where'),
    (
        "contract",
        'from rbkit import open_run\nrun = open_run("crash", version="1", owner="tests", budget="5m")',
    ),
    (
        "precondition",
        '@run.precondition\nasync def spare_capacity():\n    """The others can carry the traffic."""\n'
        '    members = await run.use("balancer").members(service)\n'
        '    return sum(member.state == "ready" for member in members) >= 2\n\nawait spare_capacity()',
    ),
    ("diagnose", 'memory = await run.observe("memory", service=service, last="1m")'),
    ("decide", 'verdict = run.decide("leak", memory=memory)'),
    (
        "step",
        '@run.step()\nasync def drain():\n    """Take it out. Undo: put it back."""\n'
        '    return await run.use("balancer").drain(verdict.target)\n\nawait drain()',
    ),
    (
        "step",
        '@run.step()\nasync def restart():\n    """Restart it. Undo: none."""\n'
        '    return await run.use("services").restart(verdict.target)\n\nawait restart()',
    ),
    (
        "step",
        "from pydantic import BaseModel\n\nclass Survey(BaseModel):\n    spare: str\n    seen: int\n\n"
        '@run.step(risk="low")\nasync def survey():\n    """Measure every instance once more."""\n'
        '    now = await run.observe("memory", service=service, last="1m")\n'
        '    return now.table(), Survey(spare="checkout-3", seen=len(now.latest))\n\n'
        "table, found = await survey()\n"
        "assert type(found) is Survey and found.seen == 3 and table.loc['checkout-2', 'latest'] == 90.0",
    ),
    (
        "step",
        '@run.step()\nasync def put_back():\n    """Put it back. Undo: drain it."""\n'
        '    return await run.use("balancer").ready(verdict.target)\n\nawait put_back()',
    ),
    (
        "step",
        '@run.step()\nasync def park():\n    """Stop the spare one. Undo: start it."""\n'
        '    change = await run.use("services").stop(found.spare)\n    return change\n\nassert (await park()).inverse',
    ),
    (
        "postcondition",
        '@run.postcondition\nasync def memory_is_back():\n    """Every instance is below the limit."""\n'
        '    now = await run.observe("memory", service=service, last="1m")\n'
        "    return now.latest.max() < 300.0\n\nawait memory_is_back()",
    ),
    ("close", "run.close()"),
]
_RULES = """\
version: "1"
summary: An instance leaks when its memory stays above the limit.
rules:
  - name: above-the-limit
    when: {signal: memory, above: 300.0, samples: 3, of: 5}
    then: restart
    why: Memory stays above the limit.
otherwise:
  then: healthy
  why: No instance leaks.
  ends: not_applicable
"""
_ENVIRONMENT = """\
name: crash
banner: "CRASH: a world in a file, nothing real"
sources:
  metrics:
    adapter: crash-metrics
    path: ${{RBKIT_HOME}}/world.jsonl
signals:
  memory:
    source: metrics
    query: memory{{service=$service}}
    unit: MB
    step: 1s
capabilities:
  balancer:
    adapter: crash-balancer
    path: ${{RBKIT_HOME}}/world.jsonl
    keys: {keys}
    tokens: {tokens}
    late: {late}
  services:
    adapter: crash-services
    path: ${{RBKIT_HOME}}/world.jsonl
    keys: {keys}
    tokens: {tokens}
    late: {late}
"""


def write_book(folder: Path) -> Path:
    """Write the notebook and its rules.

    Returns:
        The notebook's path.
    """
    (folder / "rules").mkdir(parents=True)
    (folder / "rules" / "leak.yaml").write_text(_RULES)
    cells = [_cell(place, tag, source) for place, (tag, source) in enumerate(_CELLS)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path = folder / "crash.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    return path


def _cell(place: int, tag: str, source: str) -> dict[str, Any]:
    return {
        "cell_type": "code", "id": f"cell-{place}", "metadata": {"tags": [tag]}, "source": source, "outputs": [],
        "execution_count": None,
    }  # fmt: skip


def write_environment(home: Path, *, keys: bool, tokens: bool, late: int) -> None:
    """Write the environment file into a home, so that it is copied with it.

    Args:
        home: The home.
        keys: Whether the world knows keys that were used.
        tokens: Whether it knows fencing tokens.
        late: How often a target is read before what was done to it shows.
    """
    (home / "parameters").mkdir(parents=True)
    text = _ENVIRONMENT.format(keys=str(keys).lower(), tokens=str(tokens).lower(), late=late)
    (home / "parameters" / "crash.yaml").write_text(text)
