"""A run is opened in a real IPython shell: contract, parameters, environment, store and gate are put together."""

import asyncio
import io
import json
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from rbkit import open as opening
from rbkit.errors import ContractError, IllegalMove, NotFound, ParameterError, RefusedInput, RunEnded, SettingsError
from rbkit.journal import Journal, operator
from rbkit.leases import run_lease
from rbkit.open import open_run
from rbkit.reaping import began
from rbkit.stores.sqlite import SqliteStore

PARAMETERS = (
    'service: str = "checkout"  # Service\nenvironment: str = "test"  # Environment\nlimit: float = 3.0  # Limit, MB'
)
CONTRACT = (
    'from rbkit import open_run\nrun = open_run("leak", version="1.0.0", owner="me", budget="5m", assumes=["peace"])'
)
STEP = (
    '@run.step(risk="low")\nasync def drain():\n    """Take it out."""\n    return await run.use("balancer").drain("a")'
)
CHECK = '@run.precondition\nasync def spare():\n    """There is spare capacity."""\n    return True'
ENVIRONMENT = """
name: test
banner: "nothing real"
sources: {metrics: {adapter: prometheus, url: "http://127.0.0.1:9"}}
signals: {memory: {source: metrics, query: up}}
capabilities: {balancer: {adapter: sandbox-balancer, url: "http://127.0.0.1:9", token: env:RBKIT_TEST_TOKEN}}
"""


def notebook(*cells: tuple[str, str]) -> str:
    """Write a notebook of tagged code cells."""
    return json.dumps(
        {
            "nbformat": 4, "nbformat_minor": 5, "metadata": {},
            "cells": [
                {"cell_type": "code", "source": text, "metadata": {"tags": [tag]}, "outputs": []} for tag, text in cells
            ],
        }
    )  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home with an environment file and a runbook, and no run open."""
    for name in ("JPY_SESSION_NAME", "RBKIT_RUN", "RBKIT_NOTEBOOK", "RBKIT_MODE", "RBKIT_DRIVER", "RBKIT_TAPE"):
        monkeypatch.delenv(name, raising=False)
    for word in ("home", "parameters", "notebooks"):
        monkeypatch.setenv(f"RBKIT_{word.upper()}", str(tmp_path / word))
        (tmp_path / word).mkdir()
    monkeypatch.setenv("RBKIT_TEST_TOKEN", "hunter2")
    (tmp_path / "parameters" / "test.yaml").write_text(ENVIRONMENT)
    book = notebook(("parameters", PARAMETERS), ("contract", CONTRACT), ("precondition", CHECK), ("step", STEP))
    (tmp_path / "notebooks" / "leak.ipynb").write_text(book)
    yield tmp_path
    for run, hooks in opening._open:
        hooks.remove()
        run.journal.store.close()
    opening._open.clear()


@pytest.fixture
def shell(home: Path) -> Iterator[InteractiveShell]:
    """A real shell of IPython."""
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    InteractiveShell.clear_instance()
    yield InteractiveShell.instance(config=config, ipython_dir=str(home / "ipython"))
    InteractiveShell.clear_instance()


@pytest.fixture
def cell(shell: InteractiveShell) -> Callable[..., str]:
    """Run cells; return what they printed, raise what the last one raised."""

    def run(*texts: str) -> str:
        with redirect_stdout(io.StringIO()) as shown:
            for text in texts:
                result = shell.run_cell(text, store_history=True)
        result.raise_error()
        return shown.getvalue()

    return run


def current() -> Any:
    """Return the run that is open."""
    return opening._open[-1][0]


def test_a_run_opens_with_the_contract_of_its_notebook(home, cell, shell) -> None:
    """The whole notebook is read, not only the cells so far; the plan names checks, steps, mode and banner."""
    shown = cell(PARAMETERS, CONTRACT)
    run = shell.user_ns["run"]
    opened = run.state.opened
    assert run.complete and [step.name for step in run.contract.steps] == ["drain"]
    assert (opened.runbook, opened.notebook, opened.driver, opened.mode) == ("leak", "leak.ipynb", "headless", "live")
    assert opened.parameters == {"service": "checkout", "environment": "test", "limit": 3.0}
    for text in (
        "▌test · nothing real",
        "LIVE",
        run.id,
        "precondition spare",
        "step drain (risk low)",
        "assumes peace",
    ):
        assert text in shown
    assert SqliteStore(home / "home").runs() == [run.id]


def test_values_that_were_set_are_used_and_checked(cell) -> None:
    """The parameter that the kernel holds counts, as papermill injects it; a wrong one opens nothing."""
    cell(PARAMETERS, "limit = 7.5", CONTRACT)
    assert current().parameters["limit"] == 7.5
    with pytest.raises(ParameterError, match="limit"):
        cell('limit = "much"', CONTRACT)


def test_without_its_notebook_the_cells_so_far_are_the_contract(home, cell) -> None:
    """In an unsaved notebook parameters and opening are read from what was executed, magics and all; also again."""
    (home / "notebooks" / "leak.ipynb").unlink()
    setup = ("x = {'a: b': 1}", "# only a comment: nothing else", "%who", "1 +", PARAMETERS, "1 + 1")
    cell(*setup, CONTRACT)
    first = current()
    assert not first.complete and [spec.name for spec in first.contract.parameters] == [
        "service",
        "environment",
        "limit",
    ]
    assert first.state.opened.notebook == ""
    cell(PARAMETERS.replace("3.0", "4.0"), CONTRACT)
    assert first.state.outcome == "aborted" and current().parameters["limit"] == 4.0


def test_another_notebook_of_the_same_name_is_not_taken(home, cell) -> None:
    """The notebook on disk must be the one that runs: its parameters and contract cells were executed here."""
    cell(PARAMETERS.replace("3.0", "9.0"), CONTRACT)
    assert not current().complete


def test_without_any_cells_there_is_no_contract(shell) -> None:
    """Called from elsewhere than a cell it is refused."""
    with pytest.raises(ContractError, match="opens its run exactly once"):
        open_run("leak", version="1.0.0", owner="me", budget="5m")


def test_outside_a_kernel_it_is_refused(home) -> None:
    """A plain Python program cannot open a run."""
    InteractiveShell.clear_instance()
    with pytest.raises(RefusedInput, match="notebook's kernel.*rbkit run"):
        open_run("leak", version="1.0.0", owner="me", budget="5m")


@pytest.mark.parametrize("variable", ["RBKIT_NOTEBOOK", "JPY_SESSION_NAME"])
def test_the_notebook_that_is_named_is_read(home, cell, monkeypatch, variable) -> None:
    """The supervisor's or JupyterLab's notebook is the contract, wherever it lies."""
    (home / "notebooks" / "leak.ipynb").rename(home / "mine.ipynb")
    monkeypatch.setenv(variable, str(home / "mine.ipynb"))
    cell(PARAMETERS, CONTRACT)
    assert current().complete and current().state.opened.notebook == "mine.ipynb"
    assert current().state.opened.driver == ("operator" if variable == "JPY_SESSION_NAME" else "headless")


def test_a_named_notebook_that_is_no_runbook_is_left(home, cell, monkeypatch) -> None:
    """A half-edited notebook does not keep an operator from opening the run."""
    (home / "mine.ipynb").write_text("{")
    monkeypatch.setenv("JPY_SESSION_NAME", str(home / "mine.ipynb"))
    cell(PARAMETERS, CONTRACT)
    assert not current().complete


@pytest.mark.parametrize(("old", "new"), [("memory: {", "other: {"), ("balancer: {", "other: {")])
def test_what_the_environment_lacks_is_refused_before_anything(home, cell, old, new) -> None:
    """A signal or capability that the notebook names must be in the environment file; no run is made otherwise."""
    book = notebook(
        ("parameters", PARAMETERS), ("contract", CONTRACT), ("step", STEP), ("diagnose", 'run.observe("memory")')
    )
    (home / "notebooks" / "leak.ipynb").write_text(book)
    (home / "parameters" / "test.yaml").write_text(ENVIRONMENT.replace(old, new))
    with pytest.raises(NotFound, match="names no"):
        cell(PARAMETERS, CONTRACT)
    assert not (home / "home" / "rbkit.db").exists()


def test_a_signal_without_its_source_is_refused(home, cell) -> None:
    """The source of a signal must be there too: the environment file is checked as a whole."""
    book = notebook(("parameters", PARAMETERS), ("contract", CONTRACT), ("diagnose", 'run.observe("memory")'))
    (home / "notebooks" / "leak.ipynb").write_text(book)
    (home / "parameters" / "test.yaml").write_text(ENVIRONMENT.replace("source: metrics", "source: nowhere"))
    with pytest.raises(SettingsError, match=r"line \d+: signals\.memory\.source: 'nowhere' is not there"):
        cell(PARAMETERS, CONTRACT)


def drained(rig: Any, cell: Callable[..., str]) -> Any:
    """Open an operator's run that has taken an instance out; a failing cell does not end it."""
    cell(PARAMETERS, CONTRACT)
    run = current()
    run.gate.world._made["capability balancer"] = rig.balancer
    run._fresh_world = rig.world
    cell(STEP.replace('"a"', '"checkout-1"'), CHECK)
    asyncio.run(_call(cell, "drain"))
    return run


def test_a_run_that_still_holds_changes_is_not_left(rig, cell, monkeypatch) -> None:
    """Opening again is refused while the run before has changed something; once that is over it is possible."""
    monkeypatch.setenv("RBKIT_DRIVER", "operator")
    run = drained(rig, cell)
    assert rig.states()["checkout-1"] == "drain"
    with pytest.raises(IllegalMove, match=f"{run.id} is still open and has changed something"):
        cell(CONTRACT)
    with pytest.raises(RunEnded):
        run.close()
    cell(CONTRACT)
    assert current() is not run and rig.states()["checkout-1"] == "ready"


def test_a_run_that_was_taken_over_is_left(rig, cell, monkeypatch) -> None:
    """What another process has taken over is not this kernel's to finish: a new run is opened, nothing is written."""
    monkeypatch.setenv("RBKIT_DRIVER", "operator")
    run = drained(rig, cell)
    taker = Journal(run.journal.store, run.id, "cli", actor="os:b", session=0)
    taker.append(began(2, "interruption", "its process was silent"))
    cell(CONTRACT)
    assert current() is not run and current().state.state == "open"
    assert (taker.state.state, rig.states()["checkout-1"]) == ("interrupted", "drain")


async def _call(cell: Any, name: str) -> Any:
    from IPython import get_ipython

    return await get_ipython().user_ns[name]()


def test_a_failed_cell_of_a_headless_run_ends_it(cell) -> None:
    """Nobody is there to mend it: the run is closed, and the notebook's later cells find it over."""
    cell(PARAMETERS, CONTRACT)
    with pytest.raises(ZeroDivisionError):
        cell("1 / 0")
    assert (current().state.outcome, current().state.reason) == (
        "failed",
        "A cell failed: ZeroDivisionError: division by zero",
    )


def test_a_failed_cell_of_an_operator_does_not(cell, monkeypatch) -> None:
    """An operator's slip is mended by the operator."""
    monkeypatch.setenv("RBKIT_DRIVER", "operator")
    cell(PARAMETERS, CONTRACT)
    with pytest.raises(ZeroDivisionError):
        cell("1 / 0")
    assert not current().state.finished


def test_a_supervised_run_has_the_id_and_mode_it_was_given(cell, monkeypatch) -> None:
    """The supervisor sets run, mode and driver."""
    for name, value in {"RUN": "20260101-000000-abcdef", "DRIVER": "supervised", "MODE": "dry_run"}.items():
        monkeypatch.setenv(f"RBKIT_{name}", value)
    assert "DRY RUN" in cell(PARAMETERS, CONTRACT)
    assert (current().id, current().state.opened.driver) == ("20260101-000000-abcdef", "supervised")


def test_without_a_supervisor_the_kernel_holds_the_run_in_its_own_name(home, cell, monkeypatch) -> None:
    """A lease is taken and given back with the run; who acts is the operating system's user, whatever is set."""
    monkeypatch.setenv("RBKIT_ACTOR", "os:forged")
    monkeypatch.setenv("RBKIT_HOLDER", "20260101-000000-abcdef/elsewhere/1/a")
    cell(PARAMETERS, CONTRACT)
    store = current().journal.store
    (lease,) = store.leases()
    assert lease.name == run_lease(current().id) and lease.holder.startswith(f"{current().id}/")
    assert current().state.actor == operator()
    with pytest.raises(RunEnded):
        cell("run.close()")
    assert not store.leases()


def supervised(monkeypatch: pytest.MonkeyPatch, run: str, **more: object) -> None:
    """Set what a supervisor sets for its kernel."""
    values = {"RUN": run, "DRIVER": "supervised", "HOLDER": f"{run}/h/1/a", **more}
    for name, value in values.items():
        monkeypatch.setenv(f"RBKIT_{name}", str(value))


def test_a_resumed_run_goes_on_in_its_journal(home, cell, monkeypatch) -> None:
    """The kernel of a resumed run opens no second one; another runbook or other parameters are refused."""
    run = "20260101-000000-abcdef"
    supervised(monkeypatch, run)
    cell(PARAMETERS, CONTRACT)
    first = current()
    taker = Journal(first.journal.store, run, "cli", actor="os:b", session=0)
    taker.append(began(2, "resume", ""))
    supervised(monkeypatch, run, SESSION=2, MODE="resume")
    with pytest.raises(RefusedInput, match="parameters are not those of run"):
        cell("limit = 9.0", CONTRACT)
    shown = cell("limit = 3.0", CONTRACT)
    assert "RESUMED" in shown and current() is not first
    assert [entry.event["kind"] for entry in taker.entries] == ["run_opened", "session_began"]
    book = home / "notebooks" / "leak.ipynb"
    book.write_text(book.read_text().replace("There is spare", "There was spare"))
    with pytest.raises(RefusedInput, match="not the one with which run"):
        cell(CONTRACT)
    supervised(monkeypatch, "20260101-000000-fedcba", MODE="resume")
    with pytest.raises(RefusedInput, match="not the one with which run"):
        cell(CONTRACT)


def test_an_approval_is_compared_with_the_file_as_it_is_now(home, cell) -> None:
    """An edit while people are asked is noticed, and so is a file that is gone or is no runbook any more."""
    cell(PARAMETERS, CONTRACT)
    on_disk, book = current().gate.terms.on_disk, home / "notebooks" / "leak.ipynb"
    assert on_disk() == current().contract.digest
    book.write_text(book.read_text().replace("There is spare", "There was spare"))
    assert on_disk() not in {current().contract.digest, "unreadable"}
    book.write_text("{")
    assert on_disk() == "unreadable"
    book.unlink()
    assert on_disk() == "unreadable"


def test_without_a_file_there_is_nothing_to_compare(home, cell) -> None:
    """An unsaved notebook has no file that could be edited."""
    (home / "notebooks" / "leak.ipynb").unlink()
    cell(PARAMETERS, CONTRACT)
    assert current().gate.terms.on_disk() == ""


def test_a_replay_names_the_run_it_replays(cell, monkeypatch) -> None:
    """A replay answers from the tape of a run that is there; without it nothing is opened."""
    cell(PARAMETERS, CONTRACT)
    recorded = current().id
    monkeypatch.setenv("RBKIT_MODE", "replay")
    monkeypatch.setenv("RBKIT_TAPE", recorded)
    cell(CONTRACT)
    assert (current().mode, current().state.opened.resumes) == ("replay", recorded)
    monkeypatch.setenv("RBKIT_TAPE", "20200101-000000-000000")
    with pytest.raises(NotFound, match="no run"):
        cell(CONTRACT)


def test_the_run_has_a_world_of_its_own_for_its_end(cell) -> None:
    """Closing makes a fresh world from the same environment file."""
    cell(PARAMETERS, CONTRACT)
    run = current()
    assert run._fresh_world() is not run.gate.world and run._fresh_world().environment is run.gate.world.environment
    with pytest.raises(RunEnded, match="too early"):
        cell("run.close()")
