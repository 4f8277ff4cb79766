"""The command line in this process, and runs that it finds."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rbkit import events as ev
from rbkit.cli import main
from rbkit.clock import FakeClock
from rbkit.journal import Journal
from rbkit.record.document import write
from rbkit.stores.sqlite import SqliteStore

REPO = Path(__file__).parents[2]
Rbkit = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RBKIT_NOTEBOOKS", "RBKIT_PARAMETERS", "RBKIT_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RBKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(REPO)
    return tmp_path / "home"


@pytest.fixture
def rbkit(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Rbkit:
    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rbkit", *words])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return call


def opened(home: Path, **given: Any) -> Journal:
    """Open a run as its kernel does."""
    journal = Journal(SqliteStore(home), "20260101-000000-abcdef", "kernel", actor="os:alice", clock=FakeClock())
    contract = {"steps": [{"name": "drain", "intent": "Drain."}], "checks": [
        {"name": "fine", "phase": "precondition", "sentence": "Fine."}]}  # fmt: skip
    facts: dict[str, Any] = {
        "runbook": "trial", "version": "1", "owner": "o", "mode": "live", "environment": "sandbox",
        "environment_digest": "", "digest": "d", "contract": contract, "parameters": {}, "driver": "headless",
        "host": "h", "pid": 1, "notebook": "n", "budget_s": 1.0,
    }  # fmt: skip
    journal.append(ev.RunOpened(**{**facts, **given}))
    return journal


def past_run(home: Path, outcome: str = "failed") -> str:
    """Leave a run with a record."""
    journal = opened(home)
    if outcome:
        journal.append(ev.RunClosed(outcome=outcome, reason="a trial"))  # type: ignore[arg-type]
        notebook = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        write(notebook, journal, home / "records" / f"{journal.run}.ipynb")
    return journal.run
