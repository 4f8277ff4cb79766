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
from rbkit.environment import Environment
from rbkit.errors import ContractError, IllegalMove, RefusedInput
from rbkit.gate import Gate
from rbkit.journal import Journal, existing
from rbkit.lab.hooks import Hooks
from rbkit.lab.masks import mask_outputs
from rbkit.lab.screen import NotebookScreen
from rbkit.leases import Keeper, new_holder, take
from rbkit.notebook import Runbook, catalogue, load, sources
from rbkit.parameters import validate
from rbkit.resilience import patiently
from rbkit.run import Run
from rbkit.settings import Settings
from rbkit.stores.sqlite import SqliteStore
from rbkit.tape import Tape, keep
from rbkit.terms import Terms
from rbkit.values import new_run_id
from rbkit.wiring import Wiring, approval_rules

__all__ = ["open_run"]

_open: list[tuple[Run, Hooks]] = []


def open_run(
    name: str, *, version: str, owner: str, budget: str, assumes: list[str] | None = None,
    rollback: str = "on_failure", confirm_within: str = "",
) -> Run:  # fmt: skip
    """Open the run of this notebook; its plan is shown below the cell.

    Args:
        name: The runbook's name.
        version: Its version.
        owner: Who answers for it.
        budget: The longest a run may take, for example `5m`.
        assumes: What must be true and is not checked.
        rollback: When what was done is undone: on_failure, always, never, or ask whoever is attached.
        confirm_within: How long the run waits at its end for `rbkit confirm`; without it, it is rolled back.

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
    store = SqliteStore(settings.home)
    settings = _named(settings, store)
    run = _run(settings, environment, contract, complete, parameters, runbook, store)
    if settings.mode == "resume":
        _check_resumed(run)
    else:
        run.journal.append(_opened(settings, run, environment, runbook))
    _watch(shell, run, settings, store)
    run.screen.plan(run)
    return run


def _watch(shell: Any, run: Run, settings: Settings, store: SqliteStore) -> None:
    """Keep the run's lease alive and obey requests to stop, unless a supervisor does."""
    alone = settings.driver != "supervised"
    mask_outputs(shell)
    keeper = Keeper(store, settings.holder, run.journal.clock, settings.lease_s) if alone else None
    hooks = Hooks(shell, run, _driver(settings), keeper)
    hooks.install()
    _open.append((run, hooks))


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
        environment.signal(name)
    for name in contract.capabilities:
        environment.capability(name)


def _leave_old() -> None:
    """Close the run that this kernel had open before, if it changed nothing; one that was taken over is not its own."""
    while _open:
        run, hooks = _open[-1]
        if not run.state.finished and run.state.session == run.journal.session:
            if any(change.acted for change in run.state.changes.values()):
                raise IllegalMove(
                    f"Run {run.id} is still open and has changed something.", todo="Finish it: run.close()."
                )
            run.journal.append(ev.RunClosed(outcome="aborted", reason="the runbook was opened again"))
        hooks.remove()
        _open.pop()


def _named(settings: Settings, store: SqliteStore) -> Settings:
    """Give the run its id, its actor and the lease on it, unless a supervisor has done so."""
    if settings.driver == "supervised":
        return settings
    run = settings.run or new_run_id(SystemClock())
    holder = new_holder(run)
    take(store, run, holder, SystemClock(), settings.lease_s)
    return settings.model_copy(update={"run": run, "holder": holder, "actor": ""})


def _check_resumed(run: Run) -> None:
    """Refuse to go on with another runbook or other values; parameters that were added since have their defaults."""
    state = run.state
    if state.opened is None or state.digest != run.contract.digest:
        raise RefusedInput(
            f"The notebook is not the one with which run {run.id} goes on.", todo=f"`rbkit resume {run.id}` compares."
        )
    if any(run.parameters.get(name) != value for name, value in state.opened.parameters.items()):
        raise RefusedInput(f"The parameters are not those of run {run.id}.", todo="Resume it with its own parameters.")


def _run(
    settings: Settings, environment: Environment, contract: Contract, complete: bool,
    parameters: Mapping[str, Any], runbook: Runbook | None, store: SqliteStore,
) -> Run:  # fmt: skip
    journal = Journal(store, settings.run, "kernel", actor=settings.actor, session=settings.session)
    supervised = settings.driver == "supervised"
    tape = Tape(store, existing(store, settings.tape, "kernel").entries) if settings.mode == "replay" else None
    screen = NotebookScreen(journal, environment.banner, embed=not supervised)
    terms = Terms(
        rules=approval_rules(environment), holder=settings.holder, lease_s=settings.lease_s,
        on_disk=lambda: _on_disk(runbook), say=screen.line,
    )  # fmt: skip
    return Run(
        contract, complete=complete, parameters=parameters,
        gate=Gate(journal, Wiring(environment), mode=settings.mode, tape=tape, terms=terms),
        rules=(runbook.path.parent if runbook else settings.folder("notebooks")) / "rules",
        screen=screen, fresh_world=lambda: Wiring(environment), attended=_driver(settings) == "operator",
    )  # fmt: skip


def _on_disk(runbook: Runbook | None) -> str:
    """Digest the runbook's file as it is now, so that an edit after an approval is noticed."""
    try:
        return load(runbook.path).contract.digest if runbook else ""
    except RefusedInput:
        return "unreadable"


def _opened(settings: Settings, run: Run, environment: Environment, runbook: Runbook | None) -> ev.RunOpened:
    contract = run.contract
    return ev.RunOpened(
        runbook=contract.name, version=contract.version, owner=contract.owner, mode=settings.mode,
        environment=environment.name, environment_digest=environment.digest, digest=contract.digest,
        contract=contract.model_dump(mode="json"), parameters=run.parameters, driver=_driver(settings),
        host=platform.node(), pid=os.getpid(), notebook=runbook.path.name if runbook else "",
        budget_s=contract.budget_s, resumes=settings.tape, path=str(runbook.path.resolve()) if runbook else "",
        source=patiently(lambda: keep(run.journal.store, sources(runbook)), run.journal.clock) if runbook else "",
    )  # fmt: skip


def _driver(settings: Settings) -> str:
    return settings.driver or ("operator" if os.environ.get("JPY_SESSION_NAME") else "headless")
