"""Runs a runbook headlessly: check, execute under supervision, write the record."""

import contextlib
import json
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rbkit import events as ev
from rbkit.clock import SystemClock
from rbkit.errors import Cancelled, Fenced, IllegalMove, ParameterError, RefusedInput, RunbookError
from rbkit.execute.supervise import Supervision
from rbkit.fold import RunState
from rbkit.journal import AUDIT, Journal
from rbkit.notebook import Runbook
from rbkit.parameters import validate
from rbkit.ports import Store
from rbkit.progress import Moment
from rbkit.record.document import write
from rbkit.settings import Settings
from rbkit.values import new_run_id

__all__ = ["Finished", "check", "recorded", "run", "supervised"]


class Finished:
    """A run that is over.

    Args:
        state: The run.
        record: Where its record lies.
    """

    def __init__(self, state: RunState, record: Path) -> None:
        self.state, self.record = state, record


def check(runbook: Runbook, given: Mapping[str, Any], settings: Settings, store: Store) -> dict[str, Any]:
    """Check parameters and environment before any kernel starts; a refusal leaves one audit event.

    What is not given takes the environment file's default for this runbook, else the notebook's own.

    Args:
        runbook: The runbook.
        given: Values by parameter name.
        settings: Where environment files lie.
        store: Where the audit journal lies.

    Returns:
        Every parameter with its value.

    Raises:
        RefusedInput: Something that was given is wrong.
    """
    try:
        contract = runbook.contract
        usual = {spec.name: spec.default for spec in contract.parameters}
        environment = settings.environment(str({**usual, **given}.get("environment", "")))
        values = validate(contract, {**environment.runbooks.get(contract.name, {}), **given})
        for name in contract.signals:
            environment.signal(name)
        for name in contract.capabilities:
            environment.capability(name)
    except RefusedInput as error:
        field = error.field if isinstance(error, ParameterError) else ""
        audit = Journal(store, AUDIT, "cli", actor=settings.actor)
        audit.append(ev.InputRefused(runbook=runbook.contract.name, field=field[:80], why=error.what[:500]))
        raise
    return values


def run(
    runbook: Runbook, values: Mapping[str, Any], settings: Settings, store: Store, *,
    progress: Callable[[Moment], None], on_cell: Callable[[int, Any], None], run_id: str = "",
) -> Finished:  # fmt: skip
    """Execute a runbook whose input has been checked, and write its record.

    Args:
        runbook: The runbook.
        values: Every parameter with its value.
        settings: Where store, environment files and notebooks lie; which mode.
        store: Where the journal lies.
        progress: Called with every new event.
        on_cell: Called before each code cell.
        run_id: The run's id; a new one when not given.

    Returns:
        The run and its record.

    Raises:
        RunbookError: The kernel never opened the run; the cell's error is in it.
    """
    supervision = Supervision(
        run_id or new_run_id(SystemClock()), settings, str(runbook.path.resolve()), progress=progress, on_cell=on_cell
    )
    return supervised(supervision, runbook, values, store)


def supervised(supervision: Supervision, runbook: Runbook, values: Mapping[str, Any], store: Store) -> Finished:
    """Execute a runbook under a supervision, and write its record.

    Raises:
        RunbookError: The kernel never opened the run, or the record cannot be written.
        IllegalMove: The kernel never got so far as to go on with a run that was to be resumed.
        Fenced: Another process has taken the run over.
    """
    supervision.environment = str(values.get("environment", ""))
    with _signals(supervision):
        _execute(supervision, runbook.path, values)
    journal = supervision.journal(store)
    if journal.state.opened is None:
        raise RunbookError(f"The run was never opened: {supervision.stopped or _first_error(supervision.executed)}")
    if supervision.barred:
        raise IllegalMove(
            f"Run {journal.run} could not be resumed: {supervision.stopped or _first_error(supervision.executed)}",
            todo=f"It stands where it stood: `rbkit show {journal.run}` names the ways out.",
        )
    if journal.state.session != supervision.settings.session:
        raise Fenced(f"Run {journal.run} is no longer this process's: {supervision.stopped or 'it was taken over'}.")
    return recorded(journal, json.loads(json.dumps(supervision.executed)), supervision.settings.home)


def recorded(journal: Journal, notebook: dict[str, Any], home: Path) -> Finished:
    """Write the record of a run that is over.

    Raises:
        RunbookError: It cannot be written; the journal is safe.
    """
    path = home / "records" / f"{journal.run}.ipynb"
    try:
        return Finished(journal.state, write(notebook, journal, path))
    except OSError as error:
        raise RunbookError(
            f"The run {journal.run} ended as {journal.state.outcome}, but its record cannot be written: {error}.",
            todo=f"Its journal is safe: `rbkit show {journal.run}`. Free space, then look at it.",
        ) from error


def _execute(supervision: Supervision, notebook: Path, values: Mapping[str, Any]) -> None:
    """Hand the notebook to papermill, from a private copy whose path holds nothing that papermill would format."""
    import papermill
    from papermill.exceptions import PapermillExecutionError

    folder = Path(tempfile.mkdtemp(prefix="rbkit-in-"))
    try:
        copied = shutil.copyfile(notebook, folder / "runbook.ipynb")
        with contextlib.suppress(PapermillExecutionError):
            papermill.execute_notebook(
                str(copied), None, parameters=dict(values), engine_name="rbkit", supervision=supervision,
                progress_bar=False,
            )  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _first_error(notebook: Any) -> str:
    outputs = [o for cell in (notebook or {}).get("cells", []) for o in cell.get("outputs", [])]
    found = next((o for o in outputs if o["output_type"] == "error"), None)
    return f"{found['ename']}: {found['evalue']}" if found else "no cell called open_run"


@contextlib.contextmanager
def _signals(supervision: Supervision) -> Iterator[None]:
    """Turn SIGINT, SIGTERM and a lost terminal (unless under nohup) into: stop, roll back, finish the record."""

    def handle(number: int, frame: Any) -> None:
        if supervision.watch is None:
            raise Cancelled("Stopped before a kernel was started.", todo="Nothing was touched.")
        supervision.watch.ask_to_stop(f"{signal.Signals(number).name} from outside")

    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, *hangup)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
