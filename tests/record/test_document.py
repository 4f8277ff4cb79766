"""A record is sealed: any byte that changes is noticed, and the first bad entry or cell is named."""

import json
from typing import Any

import pytest

from rbkit import events as ev
from rbkit.clock import FakeClock
from rbkit.errors import JournalBroken, JournalError
from rbkit.journal import Journal
from rbkit.record.document import JOURNAL_MIME, journal_of, seal, serialize, verify_file
from rbkit.stores.memory import MemoryStore

RUN = "20260101-000000-abcdef"


def opened() -> ev.RunOpened:
    return ev.RunOpened(
        runbook="trial", version="1", owner="tests", mode="live", environment="test", environment_digest="", digest="",
        contract={}, parameters={"name": "ä"}, driver="headless", host="h", pid=1, notebook="n", budget_s=1.0,
    )  # fmt: skip


@pytest.fixture
def journal() -> Journal:
    journal = Journal(MemoryStore(), RUN, "kernel", actor="os:alice", clock=FakeClock())
    journal.append(opened())
    journal.append(ev.RunClosed(outcome="failed", reason="a trial"))
    return journal


def notebook() -> dict[str, Any]:
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "source": "1", "outputs": [], "execution_count": 1}
    return {"cells": [cell], "metadata": {"kernelspec": {"name": "python3"}}, "nbformat": 4, "nbformat_minor": 5}


def test_sealed(journal: Journal) -> None:
    """What was sealed verifies, and folds back to the same run from the file alone."""
    state, sealed = verify_file(seal(notebook(), journal))
    assert sealed
    assert (state.run, state.outcome, state.state) == (RUN, "failed", "sealed")


def test_any_byte(journal: Journal) -> None:
    """Every single byte of a record counts: flipping any one of them is found."""
    data = seal(notebook(), journal)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(JournalError):
            verify_file(bytes(changed))


def test_any_cut(journal: Journal) -> None:
    """A record that was cut short anywhere is found."""
    data = seal(notebook(), journal)
    for end in range(len(data)):
        with pytest.raises(JournalError):
            verify_file(data[:end])


def change(journal: Journal, edit: Any) -> str:
    record = json.loads(seal(notebook(), journal))
    edit(record)
    with pytest.raises(JournalBroken) as caught:
        verify_file(json.dumps(record, sort_keys=True, indent=1, ensure_ascii=False).encode() + b"\n")
    return caught.value.what


def entries(record: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = record["metadata"]["rbkit"]["journal"]
    return found


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda r: entries(r)[1]["event"].update(outcome="unknown"), "Entry 1 was changed"),
        (lambda r: entries(r).pop(0), "Entry 0 is missing"),
        (lambda r: entries(r).pop(), "before the seal"),
        (lambda r: entries(r)[0].update(extra=1), "Entry 0 cannot be read"),
        (lambda r: entries(r)[0]["event"].update(kind="invented"), "Entry 0"),
        (lambda r: r["cells"].append(float("nan")), "not JSON any more"),
        (lambda r: r["cells"][0].update(source="2"), "Cell 0"),
        (lambda r: r["cells"].pop(), "1 cells; 2 were sealed"),
        (lambda r: r["metadata"].update(more=1), "metadata was changed"),
        (lambda r: r["metadata"]["rbkit"].update(run="other"), "own header"),
        (lambda r: r["metadata"]["rbkit"].update(more=1), "own header"),
    ],
)
def test_named(journal: Journal, edit: Any, named: str) -> None:
    """The first thing that was changed is named."""
    assert named in change(journal, edit)


def test_resealed(journal: Journal) -> None:
    """A record can be written again: it is sealed again, with one summary."""
    once = json.loads(seal(notebook(), journal))
    state, _ = verify_file(seal(once, journal))
    assert state.sealed is not None
    assert len(state.sealed.cells) == 2


@pytest.mark.parametrize(
    "data", [b"[]", b"{}", b'{"metadata": 3, "cells": []}', b'{"metadata": {}, "cells": [1]}', b"3"]
)
def test_no_record(data: bytes) -> None:
    """A file that is no record is said to be none."""
    with pytest.raises(JournalError):
        verify_file(data)


def test_embedded_by_the_kernel(journal: Journal) -> None:
    """A notebook that plain papermill executed holds its journal in an output; the longest counts."""
    longest = [entry.model_dump(mode="json") for entry in journal.entries]
    executed = notebook()
    outputs = [
        {"output_type": "display_data", "data": {JOURNAL_MIME: {"journal": part}}} for part in (longest[:1], longest)
    ]
    executed["cells"][0]["outputs"] = [{"output_type": "stream", "text": ""}, *outputs]
    assert len(journal_of(executed)) == 2
    state, sealed = verify_file(serialize(executed))
    assert (state.outcome, sealed) == ("failed", False)
