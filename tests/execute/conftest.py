"""A sandbox per module, and notebooks whose cells misbehave on purpose."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rbkit.fold import RunState
from rbkit.journal import Journal
from rbkit.sandbox import lifecycle
from rbkit.stores.sqlite import SqliteStore

REPO = Path(__file__).parents[2]
_OPEN = 'from rbkit import open_run\nrun = open_run("trial", version="1", owner="tests", budget="{budget}")'
_STEP = (
    '@run.step(risk="medium", timeout="{timeout}")\nasync def {name}():\n    """{name}."""\n{body}\n\nawait {name}()'
)


@dataclass(frozen=True)
class Lab:
    """A home with a sandbox, and the command line in it."""

    home: Path

    @property
    def env(self) -> dict[str, str]:
        """Variables for a process of this lab."""
        own = {"RBKIT_HOME": str(self.home), "RBKIT_PARAMETERS": str(REPO / "parameters"), "NO_COLOR": "1"}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RBKIT_", "COVERAGE"))}
        return {**kept, **own, "RBKIT_NOTEBOOKS": str(REPO / "notebooks")}

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Start the command line."""
        return subprocess.Popen(
            [sys.executable, "-m", "rbkit", *words], env=self.env, text=True, cwd=REPO,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def rbkit(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run the command line to its end."""
        process = self.start(*words)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def state(self, run: str = "") -> RunState:
        """Fold a run's journal; the newest if none is named."""
        store = SqliteStore(self.home)
        names = [name for name in store.runs() if name != "audit"]
        return Journal(store, run or names[0], "cli").state

    def member(self, name: str = "checkout-2") -> str:
        """How the balancer treats an instance."""
        members = lifecycle.status(self.home / "sandbox").members
        return str(next(m["state"] for m in members if m["name"] == name))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    home = tmp_path_factory.mktemp("home")
    lifecycle.up(home / "sandbox", lifecycle.free_base_port())
    yield Lab(home)
    lifecycle.down(home / "sandbox")


@pytest.fixture
def healthy(lab: Lab) -> Iterator[Lab]:
    yield lab
    lifecycle.heal(lab.home / "sandbox")


def cell(tag: str, source: str) -> dict[str, Any]:
    """Build a code cell."""
    return {
        "cell_type": "code", "id": f"{tag}-{abs(hash(source)) % 10**8}", "metadata": {"tags": [tag]},
        "source": source, "outputs": [], "execution_count": None,
    }  # fmt: skip


def step(name: str, body: str, timeout: str = "30s") -> dict[str, Any]:
    """Build a cell with one step."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return cell("step", _STEP.format(name=name, timeout=timeout, body=lines))


DRAIN = step("drain", 'return await run.use("balancer").drain("checkout-2")')
CHECK = cell(
    "postcondition",
    '@run.postcondition\nasync def fine():\n    """Fine."""\n    return True\n\nawait fine()',
)
CLOSE = cell("close", "run.close()")


@pytest.fixture
def book(tmp_path: Path) -> Callable[..., str]:
    def make(*cells: dict[str, Any], budget: str = "2m") -> str:
        opening = cell("contract", _OPEN.format(budget=budget))
        all_cells = [cell("parameters", 'environment: str = "sandbox"  # Where'), opening, *cells]
        path = tmp_path / "trial.ipynb"
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        path.write_text(json.dumps({"cells": all_cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
        return str(path)

    return make
