"""Every rule fires for its own fault, and only then."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from rbkit.lint import RULES, Finding, check
from rbkit.lint.rules import HINTS

from .sample import WHY, Notebook, added, good, place, replaced, replaced_at, updated, write

TOKEN = "AKIA" + "IOSFODNN7EXAMPLE"
RANDOM = "tR4vK9" + "xQ2mZ7pL1wB8nY3cF6hJ5dS0gA"
CODE = {"cell_type": "code", "execution_count": None, "outputs": []}


def _remove(*indexes: int) -> Callable[[Notebook], None]:
    def spoil(notebook: Notebook) -> None:
        notebook["cells"] = [cell for index, cell in enumerate(notebook["cells"]) if index not in indexes]

    return spoil


def _insert(index: int, tag: str, source: str) -> Callable[[Notebook], None]:
    cell = {**CODE, "id": "more", "metadata": {"tags": [tag]}, "source": source}
    return lambda notebook: notebook["cells"].insert(index, cell)


def _parameter(line: str) -> Callable[[Notebook], None]:
    """Add a parameter and a cell's line that uses it."""

    def spoil(notebook: Notebook) -> None:
        added("parameters", line)(notebook)
        added("diagnose", line.partition(":")[0])(notebook)

    return spoil


def _swap(one: int, other: int) -> Callable[[Notebook], None]:
    def spoil(notebook: Notebook) -> None:
        cells = notebook["cells"]
        cells[one], cells[other] = cells[other], cells[one]

    return spoil


def _metadata(**changes: Any) -> Callable[[Notebook], None]:
    return lambda notebook: notebook["metadata"].update(changes)


def _top(key: str, value: Any) -> Callable[[Notebook], None]:
    return lambda notebook: notebook.update({key: value})


STEP, CLOSE, DIAGNOSE = place("step"), place("close"), place("diagnose")
_ALTERNATIVE = '''\
@run.step(risk="low", timeout="30s")
async def stop():
    """Stop it. Undo: start it. Expect: it is gone."""
    return await run.use("services").stop(verdict.target)'''


def _insert_step(index: int, source: str) -> Callable[[Notebook], None]:
    """Insert a step and the text before it."""
    text = {"cell_type": "markdown", "metadata": {}, "id": "why", "source": WHY}
    code = {**CODE, "id": "more", "metadata": {"tags": ["step"]}, "source": source}
    return lambda notebook: notebook["cells"].__setitem__(slice(index, index), [text, code])


def _stand_in(notebook: Notebook, call: str = "", index: int = STEP - 1) -> None:
    """Let the step name another one that can stand in for it."""
    replaced("step", 'timeout="30s"', 'timeout="30s", otherwise=["stop"], automatic=True')(notebook)
    _insert_step(index, _ALTERNATIVE + call)(notebook)


def _later(notebook: Notebook) -> None:
    """Define what stands in for a step only after the step."""
    _stand_in(notebook, index=STEP + 1)


MUTATIONS: list[tuple[str, Callable[[Notebook], Any]]] = [
    ("RB001", _top("cells", None)),
    ("RB001", _top("nbformat", 3)),
    ("RB002", _top("nbformat_minor", 4)),
    ("RB002", lambda notebook: notebook["cells"].insert(2, {"cell_type": "html", "id": "x", "source": ""})),
    ("RB003", updated(1, id="cell-0")),
    ("RB003", updated(1, id=None)),
    ("RB003", updated(1, id="a b")),
    ("RB004", updated(CLOSE, execution_count=3)),
    ("RB004", updated(CLOSE, outputs=[{"output_type": "stream", "name": "stdout", "text": "x"}])),
    ("RB005", updated(1, metadata={"papermill": {"duration": 1}})),
    ("RB005", _metadata(vscode={"hash": "x"})),
    ("RB005", _metadata(kernelspec={"name": "my-conda", "language": "python", "display_name": "x"})),
    ("RB005", _metadata(language_info={"name": "python", "version": "3.11.7"})),
    ("RB005", _top("metadata", [])),
    ("RB101", replaced_at(0, "# MemoryLeak", "MemoryLeak")),
    ("RB101", replaced_at(0, "# MemoryLeak", "## MemoryLeak")),
    ("RB102", replaced_at(0, "| page |", "| |")),
    ("RB102", replaced_at(0, "| last exercised |", "|")),
    ("RB102", replaced_at(0, "in CI", "TODO")),
    ("RB103", replaced_at(0, "**Do not use it** when", "Beware if")),
    ("RB104", replaced_at(1, "**Meaning.**", "Meaning:")),
    ("RB104", replaced_at(1, "**Impact.**", "Impact:")),
    ("RB105", replaced_at(1, "```mermaid", "```")),
    ("RB201", _insert(3, "parameters", "")),
    ("RB201", _remove(place("parameters"))),
    ("RB202", replaced("parameters", 'service: str = "checkout"', 'service = "checkout"')),
    ("RB202", replaced("parameters", "300.0", "3 * 100")),
    ("RB202", replaced("parameters", "300.0", '"many"')),
    ("RB202", replaced("parameters", "service: str", "service: pathlib.Path")),
    ("RB203", replaced("parameters", "# Service whose alert fired", "")),
    ("RB204", replaced("parameters", ", MB", "")),
    ("RB205", _parameter('password: str = "hunter2"  # Password')),
    ("RB205", _parameter('api_token: str = ""  # Token')),
    ("RB205", replaced("parameters", '"checkout"', f'"{TOKEN}"')),
    ("RB205", replaced("parameters", '"checkout"', f'"{RANDOM}"')),
    ("RB205", replaced_at(1, "slows down", f"uses {TOKEN}")),
    ("RB205", added("diagnose", f"# {TOKEN}")),
    ("RB205", added("diagnose", f'known = [b"{RANDOM}"]')),
    ("RB205", added("diagnose", 'password = "hunter2"')),
    ("RB205", added("diagnose", 'memory.password = "hunter2"')),
    ("RB205", added("diagnose", 'memory["password"] = "hunter2"')),
    ("RB205", added("diagnose", 'password: str = "hunter2"')),
    ("RB205", added("diagnose", 'memory.login(password="hunter2")')),
    ("RB205", added("diagnose", 'login = {"password": "hunter2", **memory}')),
    ("RB205", updated(1, attachments={"a.png": {"text/plain": TOKEN}})),
    ("RB206", added("parameters", 'spare_name: str = "x"  # Not used')),
    ("RB207", _insert(place("contract"), "contract", "service")),
    ("RB207", replaced("contract", "run = open_run", "run = again = open_run")),
    ("RB208", replaced("contract", 'owner="sre", ', "")),
    ("RB208", replaced("contract", '"5m"', '"soon"')),
    ("RB301", added("diagnose", "memory table")),
    ("RB301", added("diagnose", "return memory")),
    ("RB302", added("diagnose", "%matplotlib inline")),
    ("RB302", added("diagnose", "!ls")),
    ("RB302", added("diagnose", "files = !ls")),
    ("RB302", added("diagnose", "memory?")),
    ("RB302", added("diagnose", 'get_ipython().system("ls")')),
    ("RB303", added("diagnose", "import httpx2")),
    ("RB303", added("diagnose", "import urllib.request as u")),
    ("RB303", added("diagnose", "from os import system")),
    ("RB303", added("diagnose", "from . import helper")),
    ("RB303", added("diagnose", "from typing import sys")),
    ("RB303", added("diagnose", "from pandas import read_csv")),
    ("RB303", added("diagnose", "import json\njson.codecs.decode(memory)")),
    ("RB304", added("diagnose", "import rbkit")),
    ("RB304", added("diagnose", "import rbkit.gate")),
    ("RB304", added("diagnose", "from rbkit.run import Run")),
    ("RB304", added("diagnose", "from rbkit import *")),
    ("RB305", added("diagnose", 'run.use("balancer")._gate')),
    ("RB305", added("diagnose", "run.gate.world")),
    ("RB305", added("diagnose", 'await run.end_alone("enough")')),
    ("RB305", added("diagnose", "run.attended = True")),
    ("RB305", added("diagnose", "other = run")),
    ("RB305", added("diagnose", "run = memory")),
    ("RB305", added("diagnose", "__name__")),
    ("RB305", added("diagnose", "import pandas._libs")),
    ("RB306", added("diagnose", 'open("/etc/passwd")')),
    ("RB306", added("diagnose", '__import__("os")')),
    ("RB306", added("diagnose", 'getattr(memory, "x")')),
    ("RB306", added("diagnose", 'memory.frame.to_csv("x")')),
    ("RB306", added("diagnose", 'import pandas as pd\npd.read_csv("http://x")')),
    ("RB306", added("diagnose", 'memory.frame.eval("x")')),
    ("RB307", added("diagnose", "exit()")),
    ("RB307", added("diagnose", "os._exit(0)")),
    ("RB307", added("diagnose", "sys.exit(0)")),
    ("RB307", added("diagnose", "raise SystemExit")),
    ("RB307", added("diagnose", "raise KeyboardInterrupt()")),
    ("RB308", added("diagnose", "try:\n    memory.table()\nexcept:\n    raise")),
    ("RB308", added("diagnose", "try:\n    memory.table()\nexcept (Exception, ValueError):\n    pass")),
    ("RB309", added("diagnose", "run.use(service)")),
    ("RB309", added("diagnose", "await run.observe(name=service)")),
    ("RB309", replaced("step", 'run.use("balancer").drain(verdict.target)', "run.rolling(service, [verdict.target])")),
    ("RB401", updated(DIAGNOSE, metadata={})),
    ("RB401", updated(DIAGNOSE, metadata={"tags": ["diagnose", "diagnose"]})),
    ("RB401", updated(DIAGNOSE, metadata={"tags": ["look"]})),
    ("RB401", updated(1, metadata={"tags": ["draft"]})),
    ("RB402", updated(STEP, metadata={"tags": ["step", "raises-exception"]})),
    ("RB403", _swap(place("diagnose"), place("decide"))),
    ("RB404", _remove(DIAGNOSE - 1)),
    ("RB404", updated(DIAGNOSE - 1, source=" ")),
    ("RB405", replaced("step", "await drain()", "await drain()\nawait drain()")),
    ("RB405", replaced("step", "await drain()", "await drain(service)")),
    ("RB405", replaced("step", "await drain()", "moved = drain()")),
    ("RB405", replaced("precondition", "await spare()", "await service()")),
    ("RB405", replaced("precondition", "await spare()", "del service")),
    ("RB405", updated(STEP, source="await memory()")),
    ("RB405", lambda notebook: _stand_in(notebook, call="\n\n\nawait stop()")),
    ("RB405", _insert_step(STEP + 1, _ALTERNATIVE)),
    ("RB208", replaced("step", 'timeout="30s"', 'timeout="30s", otherwise=["stop"]')),
    ("RB208", _later),
    ("RB208", replaced("step", 'timeout="30s"', 'timeout="30s", parallel=0')),
    ("RB208", replaced("step", 'timeout="30s"', 'timeout="30s", aprovals=2')),
    ("RB208", replaced("contract", '"5m"', '"5m", rollback="sometimes"')),
    ("RB208", replaced("contract", '"5m"', '"5m", confirm_within="soon"')),
    ("RB208", replaced("step", 'run.use("balancer").drain(verdict.target)', 'run.rolling("drain", [verdict.target])')),
    ("RB406", replaced("precondition", "@run.precondition\n", "")),
    ("RB406", replaced("step", "@run.step", "@memory.step")),
    ("RB406", added("diagnose", "mark = run.step")),
    ("RB407", replaced("step", "    return", "    service\n" * 7 + "    return")),
    ("RB408", replaced("step", "Undo: put it back. ", "")),
    ("RB408", replaced("step", "Expect: no requests on it.", "")),
    ("RB408", replaced("step", "Take it out of the balancer. ", "")),
    ("RB409", replaced("step", ', timeout="30s"', "")),
    ("RB409", replaced("step", '(risk="medium", timeout="30s")', "")),
    ("RB410", replaced_at(STEP - 1, "Undone by putting it back.", "")),
    ("RB410", replaced_at(STEP - 1, "You should see its requests end.", "")),
    ("RB411", added("diagnose", 'await run.use("balancer").drain(service)')),
    ("RB411", added("diagnose", 'act = run.use("balancer").drain')),
    ("RB411", added("diagnose", 'handle = run.use("services")\nact = handle.stop')),
    ("RB411", added("diagnose", "memory.restart(service)")),
    ("RB411", added("diagnose", 'await run.rolling("services.restart", [service])')),
    ("RB411", added("diagnose", "act = run.rolling")),
    ("RB412", _remove(place("postcondition"), place("postcondition") - 1)),
    ("RB413", _remove(CLOSE)),
    ("RB413", updated(CLOSE, source="run.close")),
    ("RB413", updated(CLOSE, source="run.close()\nservice")),
    ("RB413", _insert(CLOSE, "close", "run.close()")),
    ("RB413", added("diagnose", "run.close()")),
    ("RB414", replaced("postcondition", '    """Memory is below the limit."""\n', "")),
    ("RB415", replaced("decide", 'run.decide("leak", memory=memory)', "limit_mb")),
    ("RB416", added("decide", 'run.decide("other", memory=memory)')),
]  # fmt: skip


def test_a_good_runbook_has_no_finding(tmp_path: Path) -> None:
    """A runbook that keeps to the anatomy passes."""
    assert check(write(tmp_path, good())) == []


@pytest.mark.parametrize(("rule", "spoil"), MUTATIONS, ids=[f"{i}-{rule}" for i, (rule, _) in enumerate(MUTATIONS)])
def test_one_fault_breaks_one_rule(tmp_path: Path, rule: str, spoil: Callable[[Notebook], None]) -> None:
    """A fault is told by its own rule and by no other, with a hint."""
    notebook = good()
    spoil(notebook)
    found = check(write(tmp_path, notebook))
    assert {finding.rule for finding in found} == {rule}
    assert all(finding.hint == HINTS[rule] and finding.message.endswith(".") for finding in found)


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        (lambda good: good.rstrip(b"\n"), "RB006"),
        (lambda good: b"\xef\xbb\xbf" + good, "RB006"),
        (lambda good: good.decode().encode("utf-16-be"), "RB006"),
        (lambda good: good[:-10], "RB001"),
        (lambda good: b"[" * 100_000, "RB001"),
    ],
)
def test_the_bytes_of_the_file_count(tmp_path: Path, raw: Callable[[bytes], bytes], rule: str) -> None:
    """Encoding, end of file and broken JSON are told."""
    path = write(tmp_path, good())
    path.write_bytes(raw(path.read_bytes()))
    assert {finding.rule for finding in check(path)} == {rule}


def test_every_rule_is_tested() -> None:
    """No rule stands without a fault that breaks it."""
    assert {rule for rule, _ in MUTATIONS} | {"RB006"} == set(RULES)


def test_every_rule_is_documented() -> None:
    """docs/lint.md lists each rule with its sentence and its hint, and no other."""
    lines = (Path(__file__).parents[2] / "docs" / "lint.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| RB")]
    assert rows == [
        f"| {rule} | {sentence} | {HINTS[rule]} |".replace("| None", "\\| None") for rule, sentence in RULES.items()
    ]


def test_a_table_may_stand_upright(tmp_path: Path) -> None:
    """Words in the first column with their values beside them are a table too."""
    notebook = good()
    words = ("Owner", "**Severity**", "Blast radius", "Budget", "Last exercised")
    lines = ["| | |", "|---|---|", *(f"| {word} | x |" for word in words)]
    notebook["cells"][0]["source"] = "# Leak\nWhen *not* to use: never mind.\n\n" + "\n".join(lines)
    assert check(write(tmp_path, notebook)) == []


@pytest.mark.parametrize(
    ("tag", "line"),
    [
        ("diagnose", "import math\nmath.sqrt(2)"),
        ("diagnose", "from datetime import timedelta"),
        ("diagnose", "from __future__ import annotations"),
        ("diagnose", 'import re\nre.search("a", service).start()'),
        ("diagnose", "for _ in range(3):\n    memory.table()"),
        ("diagnose", "try:\n    memory.table()\nexcept ValueError:\n    raise"),
        ("diagnose", "try:\n    memory.table()\nexcept Exception as error:\n    raise ValueError from error"),
        ("diagnose", "raise ValueError('x')"),
        ("diagnose", 'digest = "sha256:' + "0a1b2c3d" * 8 + '"'),
        ("diagnose", 'token = "env:PAGER_TOKEN"'),
        ("parameters", 'pager_token: str = "env:PAGER_TOKEN"  # Where the token lies'),
        ("parameters", "retries: int | None = 3  # How often, times"),
        ("parameters", "target: str  # Which instance"),
    ],
)
def test_what_is_harmless_passes(tmp_path: Path, tag: str, line: str) -> None:
    """Plain computing, expected errors, digests and references are no faults."""
    notebook = good()
    source = notebook["cells"][place(tag)]["source"]
    notebook["cells"][place(tag)]["source"] = f"{line}\n{source}"
    used = [line.partition(":")[0]] if tag == "parameters" else []
    notebook["cells"][DIAGNOSE]["source"] += "".join(f"\nprint({name})" for name in used)
    assert check(write(tmp_path, notebook)) == []


def test_a_step_that_stands_in_for_another_is_not_called(tmp_path: Path) -> None:
    """It is defined above the step that names it, alone in its cell; its own cell does not run it."""
    notebook = good()
    _stand_in(notebook)
    assert check(write(tmp_path, notebook)) == []


def test_the_contract_may_say_all_it_can(tmp_path: Path) -> None:
    """How the run ends, how long it waits for a confirmation, and every argument of a step are no faults."""
    notebook = good()
    replaced("contract", '"5m"', '"5m", rollback="ask", confirm_within="10m"')(notebook)
    more = 'timeout="30s", max_targets=20, approvals=1, parallel=2, otherwise=[], automatic=False'
    replaced("step", 'timeout="30s"', more)(notebook)
    names = 'run.rolling("balancer.drain", names, max_errors="10%", at_least=2)'
    replaced("step", 'run.use("balancer").drain(verdict.target)', names)(notebook)
    added("diagnose", "names = list(memory.latest.index)\nmemory.frame.rolling(5).mean()")(notebook)
    assert check(write(tmp_path, notebook)) == []


def test_a_step_may_keep_its_result_and_its_docstring_does_not_count(tmp_path: Path) -> None:
    """A long docstring and `done = await drain()` are no faults."""
    notebook = good()
    replaced("step", "Undo:", "More.\n" * 12 + "Undo:")(notebook)
    replaced("step", "await drain()", "done = await drain()")(notebook)
    assert check(write(tmp_path, notebook)) == []


def test_the_place_of_a_fault_is_told(tmp_path: Path) -> None:
    """A finding names file, cell and line; it cannot be changed."""
    notebook = good()
    added("diagnose", "exit()")(notebook)
    path = write(tmp_path, notebook)
    [finding] = check(path)
    assert finding == Finding("RB307", path, DIAGNOSE, 3, "exit is used.", HINTS["RB307"])
    with pytest.raises(FrozenInstanceError):
        finding.rule = "RB000"  # type: ignore[misc]


def test_findings_stand_from_top_to_bottom(tmp_path: Path) -> None:
    """Several faults are all told, in the order of the notebook, each once."""
    notebook = good()
    for spoil in (added("close", "quit()"), replaced_at(1, "Meaning", "X"), replaced_at(1, "Impact", "X")):
        spoil(notebook)
    found = check(write(tmp_path, notebook))
    assert [(f.rule, f.cell) for f in found] == [("RB104", None)] * 2 + [("RB413", CLOSE), ("RB307", CLOSE)]


def test_a_rule_set_that_is_broken_is_told(tmp_path: Path) -> None:
    """Rules that are no YAML or cannot be opened are a finding, not an error."""
    path = write(tmp_path, good())
    (tmp_path / "rules" / "leak.yaml").write_text("rules: [", encoding="utf-8")
    assert "RB416" in {finding.rule for finding in check(path)}
    notebook = good()
    replaced("decide", '"leak"', '"' + "x" * 3000 + '"')(notebook)
    assert "RB416" in {finding.rule for finding in check(write(tmp_path, notebook))}


def test_an_empty_notebook_is_told_what_it_lacks(tmp_path: Path) -> None:
    """A notebook without cells breaks the rules about what must be there."""
    found = {finding.rule for finding in check(write(tmp_path, {**good(), "cells": []}))}
    assert found == {"RB101", "RB102", "RB103", "RB104", "RB105", "RB201", "RB207", "RB412", "RB413"}
