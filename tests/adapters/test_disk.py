"""A clean-up never follows a link, never leaves its folder, and keeps what is new, held or changed."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from pings import pinged

from rbkit.adapters import disk as module
from rbkit.adapters.disk import LocalDisk
from rbkit.errors import BadAnswer, MayHaveActed, NotFound, Refused, SettingsError, Unreachable
from rbkit.facts import Call

OLD = 1_700_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder to clean."""
    made = tmp_path / "logs"
    made.mkdir()
    return made


def put(path: Path, age: int = 0, text: str = "12345") -> Path:
    """Write an old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (OLD - age, OLD - age))
    return path


def disk(folder: Path, **more: Any) -> LocalDisk:
    """A disk with one clean-up."""
    return LocalDisk({"logs": {"path": str(folder), "pattern": "*.log", "older_than": "1d", **more}})


def names(made: LocalDisk) -> list[str]:
    """List what would be removed."""
    return [Path(file.path).name for file in asyncio.run(made.stale("logs")).files]


def clean(made: LocalDisk) -> None:
    """List, then remove."""

    async def work() -> None:
        listing = (await made.stale("logs")).listing
        await made.apply(Call(capability="d", action="clean", target="logs", arguments={"listing": listing}), "k", 1)

    asyncio.run(work())


@pytest.mark.parametrize(
    "change, words",
    [
        ({"path": "relative"}, "logs.path"), ({"path": "/var"}, "logs.path"), ({"path": "/var/../etc"}, "logs.path"),
        ({"pattern": "../*"}, "logs.pattern"), ({"pattern": ""}, "logs.pattern"),
        ({"older_than": "old"}, "no duration"),
        ({"keep": -1}, "logs.keep"), ({"max_files": 0}, "logs.max_files"), ({"command": "rm"}, "logs.command"),
    ],
)  # fmt: skip
def test_a_clean_up_that_is_described_wrongly_is_named(folder, change, words) -> None:
    """When the capability is made."""
    with pytest.raises(SettingsError, match=words):
        disk(folder, **change)


def test_only_old_files_that_match_are_listed(folder) -> None:
    """Neither new ones, nor others, nor folders; the newest ones are kept when that is asked for."""
    for place, name in enumerate(["c.log", "b.log", "a.log"]):
        put(folder / name, place)
    put(folder / "a.txt")
    (folder / "new.log").write_text("")
    (folder / "folder.log").mkdir()
    os.mkfifo(folder / "pipe.log")
    assert names(disk(folder)) == ["a.log", "b.log", "c.log"]
    assert names(disk(folder, keep=2)) == ["a.log", "b.log"]  # the new one is kept, and the newest old one
    assert names(disk(folder, keep=9)) == []


def test_links_are_neither_removed_nor_followed(folder, tmp_path) -> None:
    """A link to a file, and a link to a folder, lead nowhere."""
    outside = put(tmp_path / "outside" / "x.log")
    (folder / "x.log").symlink_to(outside)
    (folder / "inside").symlink_to(outside.parent)
    assert names(disk(folder, subfolders=True)) == []


@pytest.mark.parametrize("part", ["folder", "parent"])
def test_a_link_in_the_path_is_refused(folder, tmp_path, part) -> None:
    """Whoever may write beside the folder could otherwise choose what is removed."""
    put(folder / "x.log")
    (tmp_path / "link").symlink_to(folder if part == "folder" else tmp_path)
    with pytest.raises(Unreachable, match="a link leads there"):
        names(disk(tmp_path / "link" / ("" if part == "folder" else "logs")))


def test_folders_inside_are_cleaned_only_when_asked(folder) -> None:
    """With their own names; a folder is never removed."""
    put(folder / "a" / "b" / "x.log")
    assert names(disk(folder)) == []
    made = disk(folder, subfolders=True)
    assert [file.path for file in asyncio.run(made.stale("logs")).files] == [f"{folder}/a/b/x.log"]
    clean(made)
    assert (folder / "a" / "b").is_dir() and not (folder / "a" / "b" / "x.log").exists()


def test_a_folder_that_becomes_a_link_while_it_is_cleaned_is_not_followed(folder, tmp_path, monkeypatch) -> None:
    """The file outside with the same name stays."""
    put(folder / "a" / "x.log")
    outside = put(tmp_path / "outside" / "x.log")
    real = LocalDisk._held

    def swapped(self: Any, *words: Any) -> Any:
        (folder / "a").rename(folder / "moved")
        (folder / "a").symlink_to(outside.parent)
        return real(self, *words)

    made = disk(folder, subfolders=True)
    listing = asyncio.run(made.stale("logs")).listing
    monkeypatch.setattr(LocalDisk, "_held", swapped)
    with pytest.raises(Refused, match="cannot be removed"):
        asyncio.run(
            made.apply(Call(capability="d", action="clean", target="logs", arguments={"listing": listing}), "k", 1)
        )
    assert outside.exists() and (folder / "moved" / "x.log").exists()


def test_what_another_process_has_open_is_kept_and_named(folder) -> None:
    """Removing it would free nothing and lose what is being written."""
    put(folder / "x.log")
    text = "import sys; held = open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", text, str(folder / "x.log")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"open\n"
        found = asyncio.run(disk(folder).stale("logs"))
        assert found.files == [] and f"({process.pid})" in found.held[0].held_by
        clean(disk(folder))
        process.stdin.close()
    assert names(disk(folder)) == ["x.log"]


def test_processes_that_cannot_be_looked_at_are_passed_over(folder, tmp_path) -> None:
    """One that has ended meanwhile, one without a name, one that holds what is gone."""
    put(folder / "x.log")
    for number in ("1", "2", "3"):
        (tmp_path / "proc" / number).mkdir(parents=True)
    for number in ("2", "3"):
        (tmp_path / "proc" / number / "fd").mkdir()
    (tmp_path / "proc" / "2" / "fd" / "0").symlink_to("/no/such/file")
    (tmp_path / "proc" / "3" / "fd" / "0").symlink_to(folder / "x.log")
    made = LocalDisk(
        {"logs": {"path": str(folder), "pattern": "*", "older_than": "1d"}}, processes=str(tmp_path / "proc")
    )
    assert [file.held_by for file in asyncio.run(made.stale("logs")).held] == ["(3)"]


def test_a_file_that_is_written_after_the_listing_is_kept(folder) -> None:
    """The listing is not the same any more; nothing is removed."""
    put(folder / "x.log")
    put(folder / "y.log")
    made = disk(folder)
    listing = asyncio.run(made.stale("logs")).listing
    put(folder / "y.log", text="123456")
    with pytest.raises(Refused, match="have changed"):
        asyncio.run(
            made.apply(Call(capability="d", action="clean", target="logs", arguments={"listing": listing}), "k", 1)
        )
    assert names(made) == ["x.log", "y.log"]


@pytest.mark.parametrize("what", ["changed", "gone"])
def test_a_file_that_changes_at_the_last_moment_is_kept(folder, monkeypatch, what) -> None:
    """It is looked at once more before it is removed; the others are removed."""
    put(folder / "x.log", 1)
    put(folder / "y.log")
    real = module._unlinked

    def late(path: Path, file: Any) -> bool:
        if file.place == "x.log":
            (folder / "y.log").write_text("new") if what == "changed" else (folder / "y.log").unlink()
        return real(path, file)

    monkeypatch.setattr(module, "_unlinked", late)
    clean(disk(folder))
    assert not (folder / "x.log").exists() and (folder / "y.log").exists() is (what == "changed")


@pytest.mark.parametrize("first, error", [(True, Refused), (False, MayHaveActed)])
def test_a_removal_that_fails_says_whether_something_was_removed(folder, monkeypatch, first, error) -> None:
    """Nothing was, or some were: then it is a doubt."""
    put(folder / "x.log", 1)
    put(folder / "y.log")
    real = module._unlinked

    def failing(path: Path, file: Any) -> bool:
        if first or file.place == "y.log":
            raise PermissionError(1, "Operation not permitted")
        return real(path, file)

    monkeypatch.setattr(module, "_unlinked", failing)
    with pytest.raises(error, match="not permitted"):
        clean(disk(folder))
    assert (folder / "x.log").exists() is first


def test_what_ages_after_a_clean_up_was_not_left_by_it(folder, monkeypatch) -> None:
    """For a minute the age of files is counted from the listing that was removed; then from now."""
    now, ticks = [float(OLD)], [0.0]
    monkeypatch.setattr(module.time, "time", lambda: now[0])
    monkeypatch.setattr(module.time, "monotonic", lambda: ticks[0])
    put(folder / "x.log", 86_401)
    put(folder / "y.log", 86_399)
    made = disk(folder)
    clean(made)
    now[0] += 10
    assert names(made) == []
    ticks[0] = 60.0
    assert names(made) == ["y.log"]


def test_names_that_are_no_text_are_listed_and_removed(folder) -> None:
    """A file's name is bytes; what cannot be shown is shown as a question mark."""
    raw = os.fsencode(folder) + b"/\xff\n.log"
    with open(raw, "wb"):  # noqa: PTH123
        pass
    os.utime(raw, (OLD, OLD))
    made = disk(folder)
    assert [file.path for file in asyncio.run(made.stale("logs")).files] == [f"{folder}/?\n.log"]
    clean(made)
    assert os.listdir(folder) == []  # noqa: PTH208


def test_a_file_that_goes_while_it_is_listed_is_passed_over(folder, monkeypatch) -> None:
    """Others rotate logs, too."""
    put(folder / "x.log")
    put(folder / "y.log")
    real = os.scandir

    class Vanishing:
        def __init__(self, at: Any) -> None:
            self._entries = real(at)

        def __enter__(self) -> Any:
            found = list(self._entries.__enter__())
            (folder / "x.log").unlink(missing_ok=True)
            return found

        def __exit__(self, *error: object) -> None:
            self._entries.__exit__(*error)

    monkeypatch.setattr(module.os, "scandir", Vanishing)
    assert names(disk(folder)) == ["y.log"]


def test_a_folder_with_too_many_entries_is_a_bad_answer(folder, monkeypatch) -> None:
    """It is not looked through for ever."""
    put(folder / "x.log")
    put(folder / "y.log")
    monkeypatch.setattr(module, "_MOST_SEEN", 1)
    with pytest.raises(BadAnswer, match="more than 1 entries"):
        names(disk(folder))
    call = Call(capability="d", action="clean", target="logs", arguments={"listing": "x"})
    with pytest.raises(Refused, match="Nothing was removed"):
        asyncio.run(disk(folder).apply(call, "k", 1))


def test_a_folder_that_is_not_there_is_unreachable(folder) -> None:
    """Said with its path."""
    with pytest.raises(Unreachable, match="cannot be read"):
        names(disk(folder / "none" / "x"))


def test_a_slow_listing_stops_and_removes_nothing(folder, monkeypatch) -> None:
    """When nobody waits for it any more the thread ends at the next file."""
    put(folder / "x.log")
    monkeypatch.setattr(module, "_TIMEOUT_S", 0.05)
    monkeypatch.setattr(module, "_GRACE_S", 20.0)
    real = module._found

    def slow(cleanup: Any, stop: threading.Event) -> Any:
        assert stop.wait(10)
        return real(cleanup, stop)

    monkeypatch.setattr(module, "_found", slow)
    with pytest.raises(Unreachable, match="too slow; nothing was removed"):
        names(disk(folder))


def test_a_slow_removal_stops_and_is_a_doubt(folder, monkeypatch) -> None:
    """What was removed until then is counted."""
    put(folder / "x.log", 1)
    put(folder / "y.log")
    made = disk(folder)
    listing = asyncio.run(made.stale("logs")).listing
    real, told = module._unlinked, list[threading.Event]()
    remove = LocalDisk._remove

    def slow(path: Path, file: Any) -> bool:
        gone = real(path, file)
        told[0].set()  # as it is when the time is over
        return gone

    def remembering(self: Any, *words: Any) -> None:
        told.append(words[-1])
        remove(self, *words)

    monkeypatch.setattr(module, "_unlinked", slow)
    monkeypatch.setattr(LocalDisk, "_remove", remembering)
    with pytest.raises(MayHaveActed, match="1 of 2 files were removed"):
        asyncio.run(
            made.apply(Call(capability="d", action="clean", target="logs", arguments={"listing": listing}), "k", 1)
        )
    assert not (folder / "x.log").exists() and (folder / "y.log").exists()


def test_a_disk_that_hangs_is_a_doubt_for_a_change_and_unreachable_for_a_read(folder, monkeypatch) -> None:
    """A thread in the kernel cannot be ended; it is not waited for."""
    hung = threading.Event()
    monkeypatch.setattr(module, "_TIMEOUT_S", 0.05)
    monkeypatch.setattr(module, "_GRACE_S", 0.05)

    def hang(cleanup: Any, stop: threading.Event) -> list[Any]:
        hung.wait(10)
        return []

    monkeypatch.setattr(module, "_found", hang)
    call = Call(capability="d", action="clean", target="logs", arguments={"listing": "x"})

    async def work() -> None:
        made = disk(folder)
        try:
            with pytest.raises(Unreachable, match="did not answer within"):
                await made.stale("logs")
            with pytest.raises(MayHaveActed, match="did not answer within"):
                await made.apply(call, "k", 1)
        finally:
            hung.set()

    asyncio.run(work())


def test_a_cancelled_clean_up_removes_no_more(folder, monkeypatch, until) -> None:
    """Who stops waiting stops the thread at the next file."""
    put(folder / "x.log", 1)
    put(folder / "y.log")
    made, began, goes_on, ended = disk(folder), threading.Event(), threading.Event(), threading.Event()
    listing = asyncio.run(made.stale("logs")).listing
    real, remove = module._unlinked, LocalDisk._remove

    def slow(path: Path, file: Any) -> bool:
        began.set()
        assert goes_on.wait(10)
        return real(path, file)

    def watched(self: Any, *words: Any) -> None:
        try:
            remove(self, *words)
        finally:
            ended.set()

    monkeypatch.setattr(module, "_unlinked", slow)
    monkeypatch.setattr(LocalDisk, "_remove", watched)

    async def work() -> None:
        call = Call(capability="d", action="clean", target="logs", arguments={"listing": listing})
        task = asyncio.ensure_future(made.apply(call, "k", 1))
        await asyncio.to_thread(began.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        goes_on.set()

    asyncio.run(work())
    assert ended.wait(10) and (folder / "y.log").exists()


def test_usage_counts_as_df_does() -> None:
    """Used of what can be used at all; a file system without a number of inodes has none used."""
    found = asyncio.run(LocalDisk().usage("/proc"))
    assert (found.size, found.used_share, found.inodes_used_share) == (0, 0.0, 0.0)
    whole = os.statvfs("/tmp")
    used = whole.f_blocks - whole.f_bfree
    assert abs(asyncio.run(LocalDisk().usage("/tmp")).used_share - used / (used + whole.f_bavail)) < 0.01


@pytest.mark.parametrize(
    "path, error", [("/no/such", NotFound), ("a\0b", Unreachable), ("/etc/hostname/x", Unreachable)]
)
def test_a_path_that_cannot_be_read_is_no_usage(path, error) -> None:
    """Not there, or no path at all."""
    with pytest.raises(error):
        asyncio.run(LocalDisk().usage(path))


def test_time_is_real_outside_of_tests() -> None:
    """A file that was written now is not old."""
    assert abs(LocalDisk()._moment("x") - time.time()) < 5


def test_ping_names_the_clean_ups_that_cannot_be_done(tmp_path, monkeypatch) -> None:
    """A folder that is not there is an error; one that we may not write is named."""
    disk = LocalDisk({"logs": {"path": str(tmp_path / "logs"), "pattern": "*.log", "older_than": "1d"}})
    with pytest.raises(Unreachable, match="of logs cannot be opened"):
        pinged(disk)
    (tmp_path / "logs").mkdir()
    assert pinged(disk).endswith("reads and writes")
    monkeypatch.setattr(os, "access", lambda *asked, **how: False)
    assert pinged(disk).endswith("reads, but may remove nothing of: logs")
