"""The rules of taking a run over, without processes: what is compared, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rbkit import events as ev
from rbkit.errors import IllegalMove
from rbkit.execute import takeover
from rbkit.execute.takeover import abandon, differences, resume
from rbkit.journal import Journal
from rbkit.leases import new_holder, run_lease
from rbkit.notebook import Runbook, load, sources
from rbkit.reaping import began
from rbkit.settings import Settings
from rbkit.store import Lease
from rbkit.tape import keep

Book = Callable[..., str]
RUN = "20260101-000000-aaaaaa"


def opened(rig: Any, book: Runbook, mode: ev.Mode = "live", *, kept: bool = True) -> Journal:
    """Open a run of a runbook."""
    journal: Journal = rig.journal()
    journal.append(
        ev.RunOpened(
            runbook="trial", version="1", owner="me", mode=mode, environment="sandbox", environment_digest="",
            digest=book.contract.digest, contract=book.contract.model_dump(mode="json"), parameters={},
            driver="supervised", host="h", pid=1, notebook="", budget_s=60,
            source=keep(rig.store, sources(book)) if kept else "",
        )
    )  # fmt: skip
    return journal


def test_the_same_code_has_no_differences(rig: Any, book: Book) -> None:
    """A runbook to which only prose was added is the same."""
    path = Path(book())
    journal = opened(rig, load(path))
    notebook = json.loads(path.read_text())
    notebook["cells"].append({"cell_type": "markdown", "id": "a", "metadata": {}, "source": "A word."})
    path.write_text(json.dumps(notebook))
    assert differences(rig.store, journal.state, load(path)) == []


def test_when_the_cells_were_not_kept_that_is_said(rig: Any, book: Book) -> None:
    """Without the old text nobody can compare, so nobody is told that nothing else changed."""
    path = Path(book())
    journal = opened(rig, load(path), kept=False)
    path.write_text(path.read_text().replace("Where", "There"))
    assert differences(rig.store, journal.state, load(path)) == [
        "the text of the cells was not kept, so they cannot be compared"
    ]


def test_a_run_that_changes_nothing_is_not_resumed(rig: Any, book: Book) -> None:
    """A dry run or a replay that broke off is begun again instead."""
    opened(rig, load(Path(book())), "dry_run")
    with pytest.raises(IllegalMove, match="changes nothing, so there is nothing to resume"):
        resume(rig.store, RUN, Settings(), say=print, progress=print, on_cell=print)


@pytest.mark.parametrize("meanwhile", ["resumed", "closed", "found dead"])
def test_whoever_was_slower_looks_again(
    rig: Any, book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    """A run that somebody else took over while one waited is left alone; that it was found dead is no news."""
    journal = opened(rig, load(Path(book())))
    other = Journal(rig.store, RUN, "cli", actor="os:other", clock=rig.clock, session=0)

    def waits(*args: Any, **named: Any) -> Lease:
        if meanwhile == "closed":
            journal.append(ev.RunClosed(outcome="failed", reason=""))
        else:
            other.append(began(2, "resume" if meanwhile == "resumed" else "interruption", ""))
        return rig.store.acquire(run_lease(RUN), new_holder(RUN), rig.clock.now(), 15.0)

    monkeypatch.setattr(takeover, "take_when_free", waits)
    if meanwhile == "found dead":
        finished = abandon(rig.store, RUN, Settings(home=tmp_path), say=print)
        assert (finished.state.outcome, finished.state.session) == ("aborted", 3)
        return
    with pytest.raises(IllegalMove, match="has gone on meanwhile"):
        abandon(rig.store, RUN, Settings(home=tmp_path), say=print)
    assert not [entry for entry in other.entries if entry.event.get("purpose") == "abandon"]
