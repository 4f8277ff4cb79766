"""The journal is read by a program: a small one on disk stands for journalctl and checks how it is called.

No real journal is read here, as it needs a running systemd; the entries are written as the journal's JSON format
documents them.
"""

import asyncio
import json
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pings import pinged

from rbkit.adapters import journald
from rbkit.adapters.journald import Journald
from rbkit.costs import counted
from rbkit.errors import BadAnswer, ParameterError, Refused, SettingsError, Unreachable
from rbkit.ports import Window
from rbkit.tape import keep, pack_frame

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
WINDOW = Window(NOW - timedelta(minutes=5), NOW, 1.0)
PROGRAM = """#!{python} -IS
import json, os, sys, time
arguments, folder = sys.argv[1:], {folder!r}
with open(folder + "/called.json", "w") as file:
    json.dump([arguments, dict(os.environ), sys.stdin.read(), os.getcwd()], file)
entries = [json.loads(line) for line in open(folder + "/journal")]
options = dict(word.split("=", 1) for word in arguments if word.startswith("--") and "=" in word)
known = "--output --all --no-pager --quiet --reverse --lines --since --until".split()
for word in arguments[:8]:
    if word.split("=")[0] not in known:
        sys.exit("journalctl: unrecognized option " + word)
wanted = [word.split("=", 1) for word in arguments[8:]]
found = [one for one in entries if all(one.get(name) == value for name, value in wanted)]
found = list(reversed(found))[: int(options["--lines"])]
print("".join(json.dumps(one) + "\\n" for one in found), end="")
"""


def entry(age: float = 0, **more: Any) -> dict[str, Any]:
    """Write an entry as journalctl prints it."""
    moment = NOW - timedelta(seconds=age)
    times = {"__REALTIME_TIMESTAMP": str(int(moment.timestamp() * 1_000_000)), "__CURSOR": "s=1", "_BOOT_ID": "b"}
    return {**times, "MESSAGE": "hello", "PRIORITY": "6", **more}


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    """Search a journal with these entries; the program that prints them is on disk."""

    def search(*entries: Any, where: Any = None, limit: int = 10, program: str = PROGRAM, **options: Any) -> Any:
        (tmp_path / "journal").write_text("".join(json.dumps(one) + "\n" for one in entries))
        path = tmp_path / "journalctl"
        path.write_text(program.format(python=sys.executable, folder=str(tmp_path)))
        path.chmod(0o755)
        source = Journald(str(path), **options)
        try:
            return asyncio.run(source.search(where or {}, WINDOW, limit))
        finally:
            asyncio.run(source.aclose())

    return search


def printing(text: str) -> str:
    """Write a program that prints this and ends."""
    return "#!/bin/sh\n" + text.replace("{", "{{").replace("}", "}}") + "\n"


def test_entries_become_log_lines(journal, rig) -> None:
    """Newest last, priorities by their names, what else is known as attributes; bookkeeping is left out."""
    frame = journal(entry(9, PRIORITY="3", _SYSTEMD_UNIT="shop.service", MESSAGE="first"), entry(1.5, MESSAGE="second"))
    assert frame["time"].tolist() == [NOW - timedelta(seconds=9), NOW - timedelta(seconds=1.5)]
    assert frame[["level", "message"]].values.tolist() == [["error", "first"], ["info", "second"]]
    assert frame["attributes"][0] == {"_BOOT_ID": "b", "_SYSTEMD_UNIT": "shop.service"}
    assert str(frame["time"].dtype) == "datetime64[ns, UTC]" and keep(rig.store, pack_frame(frame))


def test_the_program_is_called_as_documented(journal, tmp_path) -> None:
    """Its arguments, a small environment, no input: nothing of the caller's leaks in."""
    journal(where={"_SYSTEMD_UNIT": "a b.service", "level": "warning", "message": "x=y"}, limit=7)
    arguments, environment, given, folder = json.loads((tmp_path / "called.json").read_text())
    assert arguments == [
        "--output=json", "--all", "--no-pager", "--quiet", "--reverse", "--lines=7",
        "--since=2026-01-01 11:55:00.000000 UTC", "--until=2026-01-01 12:00:00.000000 UTC",
        "_SYSTEMD_UNIT=a b.service", "PRIORITY=4", "MESSAGE=x=y",
    ]  # fmt: skip
    assert {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}.items() <= environment.items()
    assert "HOME" not in environment and (given, folder) == ("", "/")


def test_fields_select_and_the_newest_are_kept(journal) -> None:
    """The program selects; no more lines than asked for come."""
    entries = [entry(9 - n, MESSAGE=str(n), SHARD="ab"[n % 2]) for n in range(9)]
    assert journal(*entries, where={"SHARD": "a"}, limit=3)["message"].tolist() == ["4", "6", "8"]
    assert journal(*entries, where={"SHARD": "c"}).empty


@pytest.mark.parametrize(
    "value", ["; rm -rf /", "$(id)", "&& calc", "+", "--file=/etc/passwd", "a\nb", "'\"`", "é😀", ""]
)
def test_a_hostile_value_is_one_argument(journal, tmp_path, value) -> None:
    """HOSTILE 4: whatever it holds, it stands behind its field's name, in one element."""
    journal(where={"SYSLOG_IDENTIFIER": value})
    assert json.loads((tmp_path / "called.json").read_text())[0][8:] == [f"SYSLOG_IDENTIFIER={value}"]


@pytest.mark.parametrize("name", ["service", "--file", "A B", "", "A=B", "a", "X" * 65, "A\n"])
def test_a_field_that_is_none_is_refused(journal, name) -> None:
    """Names come from the environment file, and are still checked."""
    with pytest.raises(SettingsError, match="is no field of the journal"):
        journal(where={name: "x"})


def test_values_that_cannot_be_sent_are_refused(journal) -> None:
    """A NUL, half a character, and a level that there is not."""
    for name, value, why in (("A", "a\0b", "NUL"), ("A", "\ud800", "broken"), ("level", "loud", "is no level")):
        with pytest.raises(ParameterError, match=why):
            journal(where={name: value})
    with pytest.raises(SettingsError, match="has no queries"):
        journal(where="A=b")


@pytest.mark.parametrize(
    ("fields", "level", "message"),
    [
        ({"MESSAGE": [104, 105, 255]}, "info", "hi�"), ({"MESSAGE": None}, "info", ""),
        ({"PRIORITY": "9"}, "9", "hello"),
        ({"MESSAGE": ["one", [116, 119, 111], None]}, "info", "one\ntwo\n"), ({"PRIORITY": "0"}, "emergency", "hello"),
        ({"MESSAGE": []}, "info", ""), ({"MESSAGE": "\ud800"}, "info", "?"), ({"PRIORITY": "٣"}, "٣", "hello"),
    ],
)  # fmt: skip
def test_fields_in_every_documented_form_are_read(journal, fields, level, message) -> None:
    """Bytes, several values, and fields that were too large."""
    frame = journal(entry(**fields))
    assert frame[["level", "message"]].values.tolist() == [[level, message]]


def test_entries_without_message_and_priority_are_lines_too(journal) -> None:
    """Both are optional in a journal."""
    bare = entry()
    del bare["MESSAGE"], bare["PRIORITY"]
    assert journal(bare)[["level", "message"]].values.tolist() == [["", ""]]


def test_entries_outside_the_window_are_left_out(journal) -> None:
    """A clock that jumped puts no line into the wrong window."""
    assert journal(entry(301), entry(300), entry(-1))["time"].tolist() == [WINDOW.start]


@pytest.mark.parametrize(
    "printed",
    [
        "no json", "[]", "3", "null", '{"MESSAGE": "x"}', '{"__REALTIME_TIMESTAMP": "x"}',
        '{"__REALTIME_TIMESTAMP": 3}',
        '{"__REALTIME_TIMESTAMP": "1", "A": {"b": 1}}', '{"__REALTIME_TIMESTAMP": "1", "A": [300]}', "{",
        '{"__REALTIME_TIMESTAMP": "1", "A": 1.5}', "", '{"__REALTIME_TIMESTAMP": "1", "A": [-1]}',
    ],
)  # fmt: skip
def test_what_is_no_journal_is_a_bad_answer(journal, tmp_path, printed) -> None:
    """Half of an answer is not taken for the whole."""
    (tmp_path / "printed").write_text(printed + "\n")
    with pytest.raises(BadAnswer, match="no journal"):
        journal(program=printing(f"cat {tmp_path / 'printed'}"))


def test_a_last_line_without_its_end_is_read(journal) -> None:
    """The program need not end its output with a new line."""
    printed = json.dumps(entry())
    assert len(journal(program=printing(f"printf %s '{printed}'"))) == 1


def test_a_program_that_fails_says_why(journal) -> None:
    """Its words are in the error, shortened, and what it printed before counts for nothing."""
    with pytest.raises(BadAnswer, match="ended with 1: Failed to open files: Permission denied x+ Run") as caught:
        journal(
            program=printing("echo 'Failed to open files:\nPermission denied' xx$(printf %0400d | tr 0 x) >&2; exit 1")
        )
    assert len(caught.value.what) < 500


def test_a_flood_of_complaints_is_not_kept(journal) -> None:
    """Only the beginning of what it complains of is held."""
    with pytest.raises(BadAnswer, match="ended with 3: 0000"):
        journal(program=printing("head -c 3000000 /dev/zero | tr '\\0' 0 >&2; exit 3"))


def test_a_program_that_is_not_there_is_unreachable(tmp_path) -> None:
    """Neither is one that may not be run, or is no program."""
    (tmp_path / "text").write_text("no program")
    (tmp_path / "text").chmod(0o755)
    for name in ("none", "text", "."):
        with pytest.raises(Unreachable, match="cannot be started"):
            asyncio.run(Journald(str(tmp_path / name)).search({}, WINDOW, 10))
    with pytest.raises(SettingsError, match="absolute path"):
        Journald("journalctl")


def test_a_program_that_hangs_is_killed_with_all_it_started(journal, tmp_path) -> None:
    """Nothing runs on when its time is up."""
    program = printing(f"sleep 60 &\necho $$ $! > {tmp_path}/pids\nwait")
    with pytest.raises(Unreachable, match=r"did not end within 0\.5 s"):
        journal(program=program, timeout_s=0.5)
    assert gone(tmp_path / "pids")


def gone(file: Path) -> bool:
    """Wait until none of these processes runs any more."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        states = [Path(f"/proc/{pid}/stat") for pid in file.read_text().split()]
        if not any(path.exists() and path.read_text().split()[2] != "Z" for path in states):
            return True
    return False


def test_who_gives_up_leaves_no_program_behind(journal, tmp_path) -> None:
    """Cancelling the question kills the program."""
    path = tmp_path / "journalctl"
    path.write_text(
        f"#!/bin/sh\necho $$ > {tmp_path}/pids.new\nmv {tmp_path}/pids.new {tmp_path}/pids\nexec sleep 60\n"
    )
    path.chmod(0o755)

    async def work() -> None:
        task = asyncio.create_task(Journald(str(path), timeout_s=50).search({}, WINDOW, 10))
        while not (tmp_path / "pids").exists():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())
    assert gone(tmp_path / "pids")


def test_too_much_is_refused_on_the_way(journal, tmp_path, monkeypatch) -> None:
    """Neither a flood nor one endless line fills the memory; the program is killed."""
    endless = printing(f"echo $$ > {tmp_path}/pids\nexec cat /dev/zero")
    with counted(1_000_000), pytest.raises(BadAnswer, match="more than"):
        journal(program=endless)
    assert gone(tmp_path / "pids")
    monkeypatch.setattr(journald, "_LONGEST", 100_000)
    with pytest.raises(BadAnswer, match="printed a line longer than"):
        journal(program=endless)
    assert gone(tmp_path / "pids")


def test_a_time_that_no_table_can_hold_is_a_bad_answer(journal) -> None:
    """An entry of the year 200000 is outside every window, and breaks nothing."""
    assert journal(entry(__REALTIME_TIMESTAMP="9" * 20)).empty


SHOWN = '{"__REALTIME_TIMESTAMP": "1", "MESSAGE": "m"}'


@pytest.mark.parametrize(
    ("script", "error", "named"),
    [
        (f"[ $1 = --version ] && echo 'systemd 252 (x)' || echo '{SHOWN}'", None, "systemd 252 (x), as "),
        (f"[ $1 = --version ] || echo '{SHOWN}'", None, "journalctl, as "),
        ("[ $1 != --version ] || echo systemd 252", Refused, "shows .* no entry"),
        ("echo systemd 252", BadAnswer, "no journal"),
        ("echo No journal files were opened >&2; exit 1", BadAnswer, "No journal files"),
        ("sleep 60", Unreachable, "did not end"),
    ],
)
def test_ping_says_whether_the_journal_is_shown_to_us(tmp_path, script, error, named) -> None:
    """Who is not in the group sees nothing, which is no empty journal."""
    path = tmp_path / "journalctl"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    source = Journald(str(path), timeout_s=0.3 if error is Unreachable else 20)
    if error is None:
        assert named in pinged(source)
        return
    with pytest.raises(error, match=named):
        pinged(source)
