"""Files that are there or not there, never half."""

import os
import stat
from pathlib import Path

import pytest

from rbkit.files import write_atomically


def test_a_file_is_written_and_replaced(tmp_path):
    """The folder is made for its owner only; a second write replaces the first; nothing else is left."""
    path = tmp_path / "new" / "record.ipynb"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [item.name for item in path.parent.iterdir()] == ["record.ipynb"]
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, moment):
    """A full disk, before or at the rename, leaves the old file whole and no temporary one."""
    path = tmp_path / "record.ipynb"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os if moment == "fsync" else Path, moment, fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["record.ipynb"]


def test_file_and_folder_are_synced_in_this_order(tmp_path, monkeypatch):
    """The data is on the disk before the name points to it, and the name before the call returns."""
    done = []
    sync, rename = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append(stat.S_ISDIR(os.fstat(handle).st_mode)), sync(handle)))
    monkeypatch.setattr(Path, "replace", lambda self, to: (done.append("rename"), rename(self, to))[1])
    write_atomically(tmp_path / "record.ipynb", b"x")
    assert done == [False, "rename", True]
