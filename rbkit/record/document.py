"""The record: the executed notebook, the closing summary and the journal in one sealed file."""

import copy
import json
from pathlib import Path
from typing import Any

from rbkit import events as ev
from rbkit.entries import Entry, read_entry
from rbkit.errors import JournalBroken, JournalError
from rbkit.files import write_atomically
from rbkit.fold import RunState
from rbkit.journal import Journal, verify
from rbkit.record.summary import markdown
from rbkit.values import digest

__all__ = ["JOURNAL_MIME", "journal_of", "seal", "serialize", "verify_file", "write"]

JOURNAL_MIME = "application/vnd.rbkit.journal.v1+json"
SUMMARY_TAG = "rbkit-record"
FORMAT = 1


def serialize(notebook: dict[str, Any]) -> bytes:
    """Write a record in the one form that is sealed: sorted keys, one space, a newline at the end."""
    text = json.dumps(notebook, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def seal(notebook: dict[str, Any], journal: Journal) -> bytes:
    """Append the summary, journal the digest of every cell, and embed the journal.

    Args:
        notebook: The executed notebook as JSON; it is not changed.
        journal: The closed run's journal.

    Returns:
        The record's bytes.
    """
    record = copy.deepcopy(notebook)
    record["cells"] = [c for c in record["cells"] if SUMMARY_TAG not in c["metadata"].get("tags", [])]
    record["cells"].append(_summary_cell(journal.state))
    record["metadata"].pop("rbkit", None)
    cells = [digest(cell) for cell in record["cells"]]
    journal.append(ev.RecordSealed(notebook=_shell_digest(record), cells=cells))
    entries = [entry.model_dump(mode="json") for entry in journal.entries]
    record["metadata"]["rbkit"] = {"format": FORMAT, "run": journal.run, "journal": entries}
    return serialize(record)


def write(notebook: dict[str, Any], journal: Journal, path: Path) -> Path:
    """Seal a record and write it atomically.

    Args:
        notebook: The executed notebook as JSON.
        journal: The closed run's journal.
        path: Where the record goes.

    Returns:
        The path.

    Raises:
        OSError: It could not be written.
    """
    write_atomically(path, seal(notebook, journal))
    return path


def _summary_cell(state: RunState) -> dict[str, Any]:
    return {
        "cell_type": "markdown", "id": "rbkit-record", "metadata": {"tags": [SUMMARY_TAG]}, "source": markdown(state),
    }  # fmt: skip


def _shell_digest(record: dict[str, Any]) -> str:
    """Digest everything but the cells and the embedded journal."""
    shell = {key: value for key, value in record.items() if key != "cells"}
    shell["metadata"] = {key: value for key, value in record["metadata"].items() if key != "rbkit"}
    return digest(shell)


def journal_of(notebook: Any) -> list[Entry]:
    """Take the journal out of a record or of a notebook that plain papermill executed.

    Args:
        notebook: The notebook as JSON.

    Returns:
        The entries; of several embedded journals the longest.

    Raises:
        JournalError: None is embedded.
        JournalBroken: An entry cannot be read.
    """
    try:
        found = _embedded(notebook)
    except (KeyError, TypeError, AttributeError) as error:
        raise JournalError("The file has not the form of a notebook.", todo="Give a record or a run's id.") from error
    if not found:
        raise JournalError("The notebook holds no journal.", todo="Give a record that rbkit wrote, or a run's id.")
    longest = max(found, key=len)
    return [read_entry(item, place) for place, item in enumerate(longest)]


def _embedded(notebook: Any) -> list[list[Any]]:
    sealed = notebook["metadata"].get("rbkit", {}).get("journal")
    cells = notebook["cells"]
    if sealed:
        return [sealed]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return [o["data"][JOURNAL_MIME]["journal"] for o in outputs if JOURNAL_MIME in o.get("data", {})]


def verify_file(data: bytes) -> tuple[RunState, bool]:
    """Check a record from its bytes alone.

    Args:
        data: The file's bytes.

    Returns:
        The state of its run, and whether the cells are sealed too (plain papermill cannot seal them).

    Raises:
        JournalBroken: The first bad entry, cell or byte is named.
        JournalError: It is no record.
    """
    try:
        notebook = json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise JournalBroken(f"The file is not JSON any more: {error}.", seq=-1) from error
    entries = journal_of(notebook)
    state = verify(entries)
    if "rbkit" not in notebook["metadata"]:
        return state, False
    _check_seal(notebook, state)
    if serialize(notebook) != data:
        raise JournalBroken("The file's bytes are not those that were sealed (white space or key order).", seq=-1)
    return state, True


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _check_seal(notebook: dict[str, Any], state: RunState) -> None:
    sealed = state.sealed
    if sealed is None:
        raise JournalBroken("The journal ends before the seal: entries were cut off.", seq=len(state.timeline))
    header = {key: value for key, value in notebook["metadata"]["rbkit"].items() if key != "journal"}
    if header != {"format": FORMAT, "run": state.run}:
        raise JournalBroken("The record's own header was changed.", seq=-1)
    now = [digest(cell) for cell in notebook["cells"]]
    for place, (old, new) in enumerate(zip(sealed.cells, now, strict=False)):
        if old != new:
            raise JournalBroken(f"Cell {place} of the record was changed.", seq=-1)
    if len(now) != len(sealed.cells):
        raise JournalBroken(f"The record has {len(now)} cells; {len(sealed.cells)} were sealed.", seq=-1)
    if _shell_digest(notebook) != sealed.notebook:
        raise JournalBroken("The notebook's metadata was changed.", seq=-1)
