"""A runbook is read from a local file of bounded size, or refused with a sentence."""

import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbkit import notebook
from rbkit.contract import Cell
from rbkit.errors import ContractError, NotFound, RefusedInput
from rbkit.notebook import catalogue, cells_of, find, load, read_bytes, read_json, sources

OPEN = 'run = open_run("{name}", version="1", owner="sre", budget="5m")'


def write(folder: Path, stem: str, name: str = "", cells: Any = None) -> Path:
    """Write a runbook."""
    parts = [("parameters", "a: int = 1"), ("contract", OPEN.format(name=name or stem))]
    made = [{"cell_type": "code", "metadata": {"tags": [tag]}, "source": source} for tag, source in parts]
    path = folder / f"{stem}.ipynb"
    path.write_text(json.dumps({"nbformat": 4, "cells": made if cells is None else cells}), encoding="utf-8")
    return path


def test_a_runbook_is_loaded(tmp_path: Path) -> None:
    """Path, contract and cells are those of the file."""
    path = write(tmp_path, "leak")
    book = load(path)
    assert (book.path, book.contract.name, [cell.tags for cell in book.cells]) == (
        path,
        "leak",
        [("parameters",), ("contract",)],
    )


def test_the_cells_are_kept_as_kind_and_text(tmp_path: Path) -> None:
    """What a run keeps of its runbook is JSON, in order, text cells included, so that a later one can be compared."""
    markdown = {"cell_type": "markdown", "metadata": {}, "source": ["# Leak\n", "Why."]}
    code = [{"cell_type": "code", "metadata": {"tags": [tag]}, "source": text} for tag, text in
            (("parameters", "a: int = 1"), ("contract", OPEN.format(name="leak")))]  # fmt: skip
    kept = sources(load(write(tmp_path, "leak", cells=[markdown, *code])))
    assert kept == [["markdown", "# Leak\nWhy."], ["code", "a: int = 1"], ["code", OPEN.format(name="leak")]]
    assert json.loads(json.dumps(kept)) == kept


def test_a_source_may_be_lines_and_tags_may_be_left_out() -> None:
    """Both forms that JupyterLab writes are read."""
    data = {"nbformat": 4, "cells": [{"cell_type": "raw", "source": ["a\n", "b"]}, {"source": ""}]}
    assert cells_of(data, "x") == [Cell(0, "raw", "a\nb"), Cell(1, "None", "")]


@pytest.mark.parametrize(
    "data", [None, [], {}, {"nbformat": 3, "cells": []}, {"nbformat": 4}, {"nbformat": 4, "cells": {}}]
)
def test_what_is_no_notebook_is_refused(data: Any) -> None:
    """JSON of another form is refused."""
    with pytest.raises(ContractError, match="x is not a notebook of format 4"):
        cells_of(data, "x")


@pytest.mark.parametrize(
    "cell",
    [None, [], {}, {"source": 1}, {"source": ["a", 1]}, {"source": "", "metadata": []},
     {"source": "", "metadata": None},
     {"source": "", "metadata": {"tags": "a"}}, {"source": "", "metadata": {"tags": [1]}}],
)  # fmt: skip
def test_what_is_no_cell_is_refused(cell: Any) -> None:
    """A cell of another form is refused by its place."""
    with pytest.raises(ContractError, match="x: cell 1 has not the form"):
        cells_of({"nbformat": 4, "cells": [{"source": ""}, cell]}, "x")


def test_a_lone_surrogate_is_refused() -> None:
    """Text that no file can hold is refused by its place."""
    with pytest.raises(ContractError, match="cell 0 holds a broken character"):
        cells_of({"nbformat": 4, "cells": [{"source": "\ud800"}]}, "x")


@pytest.mark.parametrize("raw", [b"", b"{", b"[" * 100_000, b"\xff\xff", b"9" * 5000, b'{"a": \xe9}'], ids=count())
def test_what_is_no_json_is_refused(tmp_path: Path, raw: bytes) -> None:
    """Broken, deep and wrongly encoded files are refused."""
    path = tmp_path / "a.ipynb"
    path.write_bytes(raw)
    with pytest.raises(ContractError, match="it is not JSON"):
        read_json(path)


def test_the_size_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file at the limit is read, one byte more is not."""
    monkeypatch.setattr(notebook, "LARGEST", 2_000_000)
    path = tmp_path / "a.ipynb"
    path.write_bytes(b" " * 2_000_000)
    assert len(read_bytes(path)) == 2_000_000
    path.write_bytes(b" " * 2_000_001)
    with pytest.raises(ContractError, match="larger than 2 MB"):
        read_bytes(path)


@pytest.mark.parametrize(
    "path",
    ["none.ipynb", ".", "http://localhost/a.ipynb", "s3://b/a.ipynb", "file:///etc/passwd", "a\0.ipynb", "/dev/zero"],
)
def test_only_local_files_are_read(path: str) -> None:
    """Addresses, folders and devices are no notebooks."""
    with pytest.raises(NotFound, match="There is no notebook"):
        load(Path(path))


@pytest.mark.parametrize("name", ["a" * 5000 + ".ipynb", "loop.ipynb"], ids=["long", "denied"])
def test_a_path_that_the_system_refuses_is_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the file system is a sentence, not a traceback."""
    (tmp_path / "loop.ipynb").write_bytes(b"")

    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(notebook, "_first", denied)
    with pytest.raises(ContractError, match="cannot be read: (File name too long|Permission denied)"):
        load(tmp_path / name)


def test_the_file_is_named_when_the_contract_is_wrong(tmp_path: Path) -> None:
    """A refusal says which file it is about, and keeps its advice."""
    path = write(tmp_path, "empty", cells=[])
    with pytest.raises(ContractError, match="called 0 times") as caught:
        load(path)
    assert caught.value.what.startswith(str(path))
    assert caught.value.todo == ContractError.advice


def test_a_runbook_is_found_by_path_name_and_stem(tmp_path: Path) -> None:
    """All three ways lead to the same runbook."""
    path = write(tmp_path, "stem", "name")
    write(tmp_path, "another", "other")
    given_names = (str(path), "name", "stem")
    assert [find(name, tmp_path).path for name in given_names] == [path] * 3
    with pytest.raises(NotFound):
        find("missing/stem", tmp_path)


def test_a_wrong_name_gets_the_nearest(tmp_path: Path) -> None:
    """A slip of the finger is answered with what was meant."""
    write(tmp_path, "memory-leak")
    with pytest.raises(NotFound, match="Did you mean 'memory-leak'"):
        find("memory-leek", tmp_path)


def test_a_broken_runbook_is_told_when_it_is_asked_for(tmp_path: Path) -> None:
    """Asking for a broken one says why it is broken; it does not hide the others."""
    write(tmp_path, "a", cells=[])
    write(tmp_path, "broken", cells=[])
    write(tmp_path, "good")
    assert find("good", tmp_path).contract.name == "good"
    with pytest.raises(ContractError, match=r"broken\.ipynb"):
        find("broken", tmp_path)


def test_the_catalogue_lists_what_can_and_what_cannot_be_read(tmp_path: Path) -> None:
    """Runbooks stand in the order of their names; a folder or dead link of that ending spoils nothing."""
    for stem, name in (("1", "z"), ("2", "b")):
        write(tmp_path, stem, name)
    write(tmp_path, "broken", cells=[])
    (tmp_path / "folder.ipynb").mkdir()
    (tmp_path / "dead.ipynb").symlink_to(tmp_path / "nowhere")
    books, broken = catalogue(tmp_path)
    assert [book.contract.name for book in books] == ["b", "z"]
    assert [path.stem for path, _ in broken] == ["broken", "dead", "folder"]
    assert catalogue(tmp_path / "none") == ([], [])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.sampled_from(["source", "metadata"]), inner)
    ),
    max_leaves=15,
)


@settings(derandomize=True, deadline=None)
@given(data=JSON | st.fixed_dictionaries({"nbformat": st.just(4), "cells": st.lists(JSON)}))
def test_any_json_gives_cells_or_a_refusal(data: Any) -> None:
    """Whatever JSON a file holds, there are cells or a refusal."""
    try:
        cells = cells_of(data, "x")
    except RefusedInput as error:
        assert error.exit_code == 2
    else:
        assert [cell.index for cell in cells] == list(range(len(cells)))
