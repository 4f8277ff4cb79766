"""Whatever a file holds, the answer is findings: never an error, never an execution, never a secret."""

import json
import os
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rbkit.lint import RULES, check
from rbkit.notebook import LARGEST, load

from .sample import added, good, place, replaced, write

LEAK = "AKIA" + "IOSFODNN7EXAMPLE"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
CELL = st.fixed_dictionaries(
    {"source": st.text() | st.lists(st.text(), max_size=3)},
    optional={
        "cell_type": st.sampled_from(["code", "markdown", "raw"]) | JSON, "id": JSON, "outputs": JSON,
        "execution_count": JSON, "metadata": st.dictionaries(st.text(), JSON, max_size=2) | JSON,
    },
)  # fmt: skip
PIECES = (
    'run . ( ) = : , @ [ ] { } \n \t \\ \' " # % ! ? * ** -> := f\' """ \r \x0c \x00 async def await for if else '
    "lambda class import from except try raise match case return yield _ __class__ step use observe decide close "
    "open_run precondition 'x' 1e999 0x \ud800 é \u2028 open exec eval int str | None Literal"
)
WORDS = st.sampled_from(PIECES.split(" "))
CODE = st.text() | st.lists(WORDS, max_size=25).map(" ".join)
RELAXED = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
LOCAL = settings(RELAXED, derandomize=True)


def _are_findings(path: Path) -> bool:
    return all(finding.rule in RULES and finding.path == path for finding in check(path))


@LOCAL
@given(
    raw=st.binary()
    | st.text().map(str.encode)
    | st.text().map(lambda text: b'{"nbformat": 4, "cells": ' + text.encode())
)
def test_any_bytes_give_findings(tmp_path: Path, raw: bytes) -> None:
    """Bytes of any kind are findings, never an error."""
    path = tmp_path / "runbook.ipynb"
    path.write_bytes(raw)
    assert check(path)
    assert _are_findings(path)


@LOCAL
@given(data=JSON | st.fixed_dictionaries({"nbformat": st.just(4), "cells": st.lists(CELL, max_size=4)}))
def test_any_json_gives_findings(tmp_path: Path, data: Any) -> None:
    """JSON of any form is findings, never an error."""
    path = write(tmp_path, data)
    assert check(path)
    assert _are_findings(path)


@LOCAL
@given(
    tag=st.sampled_from(["parameters", "contract", "diagnose", "decide", "step", "close"]),
    code=CODE,
    all_of=st.booleans(),
)
def test_any_cell_gives_findings(tmp_path: Path, tag: str, code: str, all_of: bool) -> None:
    """Any text in any cell gives findings or none; with none, the contract can be read."""
    notebook = good()
    source = "" if all_of else notebook["cells"][place(tag)]["source"] + "\n"
    notebook["cells"][place(tag)]["source"] = source + code
    path = write(tmp_path, notebook)
    assert _are_findings(path)
    assert check(path) or load(path)


@pytest.mark.parametrize(
    "code",
    ["open({flag!r}, 'w')", "import os; os.mkdir({flag!r})", "__import__('os').mkdir({flag!r})", "!touch {flag}",
     "%run {flag}", "class A(metaclass=open({flag!r}, 'w')): pass", "def f(x=open({flag!r}, 'w')): pass",
     "@open({flag!r}, 'w')\ndef f(): pass", "x: open({flag!r}, 'w') = 1", "f'{{open({flag!r}, chr(119))}}'"],
)  # fmt: skip
@pytest.mark.parametrize("tag", ["parameters", "contract", "diagnose", "step"])
def test_nothing_is_executed(tmp_path: Path, tag: str, code: str) -> None:
    """Code that would touch a file touches none, in whichever cell it stands."""
    flag = tmp_path / "flag"
    notebook = good()
    added(tag, code.format(flag=str(flag)))(notebook)
    assert check(write(tmp_path, notebook))
    assert not flag.exists()


@pytest.mark.parametrize(
    "code",
    ["(" * 5000, "-" * 50_000 + "1", "a" + ".b" * 50_000, "f" + "()" * 5000, "[" * 90 + "]" * 90, "x = 1\n" * 5_000,
     "if 1:\n" + "".join(" " * i + "if 1:\n" for i in range(1, 98)) + " " * 98 + "x", "+".join("1" * 3000),
     "x[f'''{\"\"\"\n\"\"\"}'''] = 1", "'" + "=" * 30_000, "#" + ", " * 30_000, "9" * 10_000, "\x00", "\ud800",
     "'\\ud800'"],
    ids=count(),
)  # fmt: skip
@pytest.mark.parametrize("tag", ["parameters", "contract", "diagnose", "step", "postcondition"])
def test_monstrous_cells_give_findings(tmp_path: Path, tag: str, code: str) -> None:
    """Deep, long and broken code is answered, and soon."""
    notebook = good()
    added(tag, code)(notebook)
    assert _are_findings(write(tmp_path, notebook))


@pytest.mark.parametrize(
    "text", ["a." * 100_000, "| owner " * 10_000, "|owner\n" * 10_000, "*" * 100_000, "do" + " " * 100_000], ids=count()
)
def test_monstrous_prose_is_read_soon(tmp_path: Path, text: str) -> None:
    """No text makes the patterns run for long."""
    notebook = good()
    for cell in notebook["cells"]:
        cell["source"] += text if cell["cell_type"] == "markdown" else ""
    assert _are_findings(write(tmp_path, notebook))


@pytest.mark.parametrize(
    "source",
    [f'key: str = "{LEAK}"  # Key', 'password: str = "hunter2hunter2"  # Word', f'key: int = "{LEAK}"  # Key, s',
     f'key: Literal["a"] = "{LEAK}"  # Key', f'key: dict[str, int] = {{"{LEAK}": 1}}  # Key',
     'login: dict[str, str] = {"password": "hunter2hunter2"}  # Login', f'key: str = "{LEAK}'],
)  # fmt: skip
def test_a_secret_is_never_repeated(tmp_path: Path, source: str) -> None:
    """A secret is told by its place; the finding does not hold it."""
    notebook = good()
    added("parameters", source)(notebook)
    found = check(write(tmp_path, notebook))
    assert any(finding.rule == "RB205" for finding in found)
    assert LEAK not in repr(found)
    assert "hunter2" not in repr(found)


def test_a_secret_in_a_tag_or_a_key_is_not_repeated(tmp_path: Path) -> None:
    """Where a finding would name what holds the secret, it says its kind instead."""
    notebook = good()
    notebook["cells"][1]["metadata"] = {"tags": [LEAK], LEAK: 1}
    found = check(write(tmp_path, notebook))
    assert {finding.rule for finding in found} == {"RB005", "RB205", "RB401"}
    assert LEAK not in repr(found)


def test_paths_that_are_no_file_are_findings(tmp_path: Path) -> None:
    """Missing, remote, endless and unreadable paths are findings."""
    fifo = tmp_path / "fifo.ipynb"
    os.mkfifo(fifo)
    large = tmp_path / "large.ipynb"
    with large.open("wb") as file:
        file.truncate(LARGEST + 1)
    given_paths = [
        tmp_path,
        tmp_path / "none.ipynb",
        Path("https://x/a.ipynb"),
        Path("a" * 5000),
        Path("a\0b"),
        fifo,
        large,
    ]
    for path in given_paths:
        assert [finding.rule for finding in check(path)] == ["RB001"]


def test_a_notebook_whose_tree_is_too_deep_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the reader itself runs out of depth or memory, that is a finding too."""
    for error in (RecursionError, MemoryError):

        def fail(path: Path, error: type[BaseException] = error) -> None:
            raise error

        monkeypatch.setattr("rbkit.lint.read_book", fail)
        assert [finding.rule for finding in check(tmp_path)] == ["RB001"]


def test_a_source_may_be_a_list_of_lines(tmp_path: Path) -> None:
    """JupyterLab writes a source as lines; it is read the same."""
    notebook = good()
    for cell in notebook["cells"]:
        cell["source"] = cell["source"].splitlines(keepends=True)
    assert check(write(tmp_path, notebook)) == []


def test_a_rule_set_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    """The name of a rule set is no path."""
    (tmp_path / "secret.yaml").write_text(json.dumps({"x": 1}), encoding="utf-8")
    notebook = good()
    replaced("decide", '"leak"', '"../secret"')(notebook)
    assert "RB416" in {finding.rule for finding in check(write(tmp_path, notebook))}
