"""Opens a run in a kernel: contract, parameters, environment, store and gate are put together here."""

import ast
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rbkit import events as ev
from rbkit.clock import SystemClock
from rbkit.contract import Cell, Contract, parse, read_cells
from rbkit.errors import ContractError, IllegalMove, RefusedInput
from rbkit.gate import Gate
from rbkit.journal import Journal, existing
from rbkit.lab.hooks import Hooks
from rbkit.lab.screen import NotebookScreen
from rbkit.notebook import Runbook, catalogue, load
from rbkit.parameters import validate
from rbkit.run import Run
from rbkit.settings import Environment, Settings
from rbkit.stores.sqlite import SqliteStore
from rbkit.tape import Tape
from rbkit.values import new_run_id
from rbkit.wiring import Wiring

__all__ = ["open_run"]

_open: list[tuple[Run, Hooks]] = []


def open_run(name: str, *, version: str, owner: str, budget: str, assumes: list[str] | None = None) -> Run:
    """Open the run of this notebook; its plan is shown below the cell.

    Args:
        name: The runbook's name.
        version: Its version.
        owner: Who answers for it.
        budget: The longest a run may take, for example `5m`.
        assumes: What must be true and is not checked.

    Returns:
        The run.

    Raises:
        RefusedInput: The contract, a parameter or the environment file is wrong; nothing was touched.
        IllegalMove: The run before this one still holds changes.
    """
    shell = _shell()
    settings = Settings.read()
    runbook, contract, complete = _contract(shell, settings, name)
    parameters = validate(contract, _given(shell, contract))
    environment = settings.environment(str(parameters.get("environment", "")))
    _check_names(contract, environment)
    _leave_old()
    run = _run(settings, environment, contract, complete, parameters, runbook)
    run.journal.append(_opened(settings, run, environment, runbook))
    hooks = Hooks(shell, run, _driver(settings))
    hooks.install()
    _open.append((run, hooks))
    run.screen.plan(run)
    return run


def _shell() -> Any:
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        raise RefusedInput(
            "open_run works in a notebook's kernel.", todo="Use `rbkit run NOTEBOOK`, or open it in JupyterLab."
        )
    return shell


def _contract(shell: Any, settings: Settings, name: str) -> tuple[Runbook | None, Contract, bool]:
    """Read the contract from the notebook on disk if it is the one that runs here, else from the cells so far."""
    executed = [str(text) for text in shell.user_ns.get("In", [])]
    for book in _candidates(settings):
        cells = [c for c in book.cells if c.kind == "code" and {"parameters", "contract"} & set(c.tags)]
        if book.contract.name == name and all(_ran(cell, executed) for cell in cells):
            return book, book.contract, True
    return None, read_cells(_cells_so_far(executed)), False


def _candidates(settings: Settings) -> list[Runbook]:
    named = settings.notebook or os.environ.get("JPY_SESSION_NAME", "")
    if named and Path(named).is_file():
        try:
            return [load(Path(named))]
        except ContractError:
            return []
    return catalogue(settings.folder("notebooks"))[0]


def _ran(cell: Cell, executed: list[str]) -> bool:
    return any(text.strip() == cell.source.strip() for text in executed)


def _cells_so_far(executed: list[str]) -> list[Cell]:
    """Take the cell that opened the run last and the last one with annotated literals before it; no tags are known."""
    numbered = list(enumerate(executed))
    opening = next((i for i, text in reversed(numbered) if "open_run(" in text), len(executed) - 1)
    before = [Cell(i, "code", text, ("parameters",)) for i, text in numbered[:opening] if _only_annotated(text)]
    return [*before[-1:], *(Cell(i, "code", text) for i, text in numbered[opening : opening + 1])]


def _only_annotated(text: str) -> bool:
    try:
        body = parse(text, "A cell").body
    except ContractError:
        return False
    return bool(body) and all(isinstance(node, ast.AnnAssign) for node in body)


def _given(shell: Any, contract: Contract) -> dict[str, Any]:
    return {spec.name: shell.user_ns[spec.name] for spec in contract.parameters if spec.name in shell.user_ns}


def _check_names(contract: Contract, environment: Environment) -> None:
    """Refuse before anything is touched when the environment lacks what the notebook names."""
    for name in contract.signals:
        environment.source(environment.signal(name).source)
    for name in contract.capabilities:
        environment.capability(name)


def _leave_old() -> None:
    """Close the run that this kernel had open before, if it changed nothing."""
    while _open:
        run, hooks = _open[-1]
        if not run.state.finished:
            if any(change.acted for change in run.state.changes.values()):
                raise IllegalMove(
                    f"Run {run.id} is still open and has changed something.", todo="Finish it: run.close()."
                )
            run.journal.append(ev.RunClosed(outcome="aborted", reason="the runbook was opened again"))
        hooks.remove()
        _open.pop()


def _run(
    settings: Settings, environment: Environment, contract: Contract, complete: bool,
    parameters: Mapping[str, Any], runbook: Runbook | None,
) -> Run:  # fmt: skip
    store = SqliteStore(settings.home)
    journal = Journal(store, settings.run or new_run_id(SystemClock()), "kernel", actor=settings.actor)
    supervised = settings.driver == "supervised"
    tape = Tape(store, existing(store, settings.tape, "kernel").entries) if settings.mode == "replay" else None
    return Run(
        contract, complete=complete, parameters=parameters,
        gate=Gate(journal, Wiring(environment), mode=settings.mode, tape=tape),
        approvals={str(risk): count for risk, count in environment.approvals.items()},
        rules=(runbook.path.parent if runbook else settings.folder("notebooks")) / "rules",
        screen=NotebookScreen(journal, environment.banner, embed=not supervised),
        fresh_world=lambda: Wiring(environment),
    )  # fmt: skip


def _opened(settings: Settings, run: Run, environment: Environment, runbook: Runbook | None) -> ev.RunOpened:
    contract = run.contract
    return ev.RunOpened(
        runbook=contract.name, version=contract.version, owner=contract.owner, mode=settings.mode,
        environment=environment.name, environment_digest=environment.digest, digest=contract.digest,
        contract=contract.model_dump(mode="json"), parameters=run.parameters, driver=_driver(settings),
        host=platform.node(), pid=os.getpid(), notebook=runbook.path.name if runbook else "",
        budget_s=contract.budget_s, resumes=settings.tape,
    )  # fmt: skip


def _driver(settings: Settings) -> str:
    return settings.driver or ("operator" if os.environ.get("JPY_SESSION_NAME") else "headless")
