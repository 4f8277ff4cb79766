"""The memory-leak runbook on the sandbox: cured, nothing to do, rolled back, planned, replayed; by every driver."""

import asyncio
import json
import re
from pathlib import Path

import nbformat
import pytest
import scrapbook
from labs import REPO, Lab
from nbclient import NotebookClient

pytestmark = pytest.mark.timeout(180)
NOTEBOOK = "notebooks/memory_leak.ipynb"
LIMIT, WELL_ABOVE = "60", 210.0
"""MB. An idle instance has about 36 MB; at 25 MB/s the second is reached six seconds after the first."""
P = ("-p", f"memory_limit_mb={LIMIT}")


def kinds(lab: Lab) -> list[str]:
    """What the newest run's journal holds; a check measured twice counts once, and so does the supervisor's seal."""
    events = [entry.event for entry in lab.journal().entries if entry.event["kind"] != "record_sealed"]
    names = [f"{event['kind']} {event.get('name') or event.get('step') or ''}" for event in events]
    measured = names.index("check_started memory_is_back")
    return names[: measured + 1] + names[-2:]


def step_by_step(lab: Lab) -> None:
    """Execute the notebook cell by cell, as an operator's front end does."""
    notebook = nbformat.read(REPO / NOTEBOOK, as_version=4)
    at = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(f"memory_limit_mb = {float(LIMIT)}"))
    client = NotebookClient(notebook, resources={"metadata": {"path": str(REPO / "notebooks")}})

    async def work() -> None:
        async with client.async_setup_kernel(env=lab.env):
            for index, cell in enumerate(notebook.cells):
                await client.async_execute_cell(cell, index)

    asyncio.run(work())


@pytest.mark.filterwarnings("ignore:Proactor event loop", "ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_drivers_agree(healthy: Lab, tmp_path: Path) -> None:
    """rbkit run, plain papermill and a front end leave journals of the same kinds in the same order."""
    before = (REPO / NOTEBOOK).read_bytes()
    found = []
    for driver in ("rbkit", "papermill", "operator"):
        healthy.leak(WELL_ABOVE)
        pid, _ = healthy.world()["checkout-2"]
        if driver == "rbkit":
            done = healthy.rbkit("run", NOTEBOOK, "-e", "sandbox", *P)
            assert done.returncode == 0, done.stdout + done.stderr
        elif driver == "papermill":
            out = str(tmp_path / "out.ipynb")
            done = healthy.python("-m", "papermill", NOTEBOOK, out, "-p", "memory_limit_mb", LIMIT)
            assert done.returncode == 0, done.stderr
            assert healthy.rbkit("record", "verify", out).returncode == 0
        else:
            step_by_step(healthy)
        assert healthy.journal().state.outcome == "resolved"
        assert healthy.world()["checkout-2"][0] != pid
        assert healthy.world()["checkout-2"][1] == "ready"
        found.append(kinds(healthy))
    assert found[0] == found[1] == found[2]
    assert (REPO / NOTEBOOK).read_bytes() == before


def test_not_applicable(healthy: Lab) -> None:
    """Without a leak the runbook says so, exit 0, and touches nothing."""
    before = healthy.world()
    done = healthy.rbkit("run", "memory-leak", "-e", "sandbox")
    assert done.returncode == 0, done.stdout + done.stderr
    state = healthy.journal().state
    assert state.outcome == "not_applicable"
    assert [step.state for step in state.steps.values()] == ["skipped"] * 3
    assert not state.changes
    assert healthy.world() == before


def test_dry_run(healthy: Lab) -> None:
    """A dry run prints targets, before → after and inverse, and changes nothing."""
    healthy.leak(WELL_ABOVE)
    before = healthy.world()
    done = healthy.rbkit("run", "memory-leak", "-e", "sandbox", *P, "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert healthy.world() == before
    assert re.search(r"balancer\.drain\(checkout-2\): (active \d+ → 0, )?state ready → drain", done.stdout)
    for text in (
        "DRY RUN", "undo: balancer.ready(checkout-2)",
        f"pid {before['checkout-2'][0]} → another", "irreversible", "balancer.ready(checkout-2): state drain → ready",
    ):  # fmt: skip
        assert text in done.stdout
    kinds_seen = {entry.event["kind"] for entry in healthy.journal().entries}
    assert not kinds_seen & {"change_intended", "change_done"}


def test_refused_restart(healthy: Lab) -> None:
    """A supervisor that refuses the restart: the instance is back in the balancer, rolled_back, exit 3, recorded so."""
    healthy.leak(WELL_ABOVE)
    healthy.rbkit("sandbox", "break", "restart-refused")
    before = healthy.world()
    done = healthy.rbkit("run", "memory-leak", "-e", "sandbox", *P)
    assert done.returncode == 3, done.stdout + done.stderr
    assert healthy.world() == before
    shown = healthy.rbkit("record", "show").stdout
    assert "rolled back" in shown
    assert "change freeze" in shown
    record = scrapbook.read_notebook(str(next((healthy.home / "records").glob(f"{healthy.journal().run}.ipynb"))))
    assert record.scraps["outcome"].data == "rolled_back"
    assert record.scraps["changes"].data[0]["undone"] is True


def test_records_aggregate_and_replay(healthy: Lab) -> None:
    """Records can be read with scrapbook, and a recorded run replays to the same decision without touching anything."""
    healthy.leak(WELL_ABOVE)
    live = json.loads(healthy.rbkit("run", "memory-leak", "-e", "sandbox", *P, "--json").stdout)
    assert live["outcome"] == "resolved"
    before = healthy.world()
    again = json.loads(
        healthy.rbkit("run", "memory-leak", "-e", "sandbox", *P, "--replay", live["run"], "--json").stdout
    )
    assert again["outcome"] == "resolved", again["reason"]
    assert [d["target"] for d in again["decisions"]] == [d["target"] for d in live["decisions"]] == ["checkout-2"]
    assert {change["state"] for change in again["changes"]} == {"planned"}
    assert healthy.world() == before
    records = scrapbook.read_notebooks(str(healthy.home / "records"))
    outcomes = {book.scraps["run"].data: book.scraps["outcome"].data for book in records.notebooks}
    assert outcomes[live["run"]] == "resolved"
