"""The command line: refusals, exit codes, JSON, and manners."""

import json
import sys
from pathlib import Path

import pytest

from rbkit.cli import main
from rbkit.clock import SystemClock
from rbkit.journal import AUDIT
from rbkit.leases import run_lease
from rbkit.stores.sqlite import SqliteStore
from tests.cli.conftest import Rbkit, past_run


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["-p", "servce=x"], "Did you mean 'service'?"),
        (["-p", "memory_limit_mb=much"], "memory_limit_mb=300.0"),
        (["-p", "memory_limit_mb=NaN"], "expected float"),
        (["-p", "memory_limit_mb=Infinity"], "expected float"),
        (["-p", "memory_limit_mb=true"], "expected float"),
        (["-p", "memory_limit_mb=" + "9" * 5000], "expected float"),
        (["-p", "service=" + "x" * 1_000_001], "larger than 1 MB"),
        (["-p", "x;import os=1"], "'x;import os' is no name"),
        (["-e", "sandbx"], "Did you mean 'sandbox'?"),
        (["-e", "../sandbox"], "no environment"),
    ],
)
def test_refused_input(rbkit: Rbkit, home: Path, given: list[str], named: str) -> None:
    """Bad input is refused before a kernel starts: exit 2, the field named, nothing written but one audit event."""
    code, out, err = rbkit("run", "memory-leak", *given)
    assert code == 2
    assert named in err
    assert "→" in err
    assert out == ""
    store = SqliteStore(home)
    assert store.runs() == [AUDIT]
    events = [entry.event for entry in store.read(AUDIT)]
    assert [event["kind"] for event in events] == ["input_refused"]
    assert not (home / "records").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["run", "memory-leak", "-p", "service"], "NAME=VALUE"),
        (["run", "memory-leak", "-p", "service=a", "-p", "service=b"], "given twice"),
        (["run", "memry-leak"], "Did you mean 'memory-leak'?"),
        (["run", "http://example.invalid/x.ipynb"], "no notebook"),
        (["run", "s3://bucket/x.ipynb"], "no notebook"),
        (["plan", "notebooks/nothing.ipynb"], "no notebook"),
        (["show", "nothing"], "no run 'nothing'"),
        (["record", "show", "nothing.ipynb"], "no record"),
        (["record", "verify", "nothing.ipynb"], "no record"),
        (["rum"], "'run'"),
        (["sandbox", "break", "memry-leak"], "→"),
    ],
)
def test_wrong_words(rbkit: Rbkit, words: list[str], named: str) -> None:
    """A wrong word gives what happened and the nearest right one, on stderr, without a traceback."""
    code, out, err = rbkit(*words)
    assert code in {1, 2}
    assert named in err
    assert "Traceback" not in err
    assert out == ""


def test_debug(rbkit: Rbkit, monkeypatch: pytest.MonkeyPatch) -> None:
    """--debug shows the traceback instead."""
    from rbkit.errors import NotFound

    monkeypatch.setattr(sys, "argv", ["rbkit", "--debug", "show", "nothing"])
    with pytest.raises(NotFound):
        main()


def test_plan(rbkit: Rbkit) -> None:
    """The contract is shown in text and as JSON, without executing anything."""
    code, out, _ = rbkit("plan", "memory-leak", "-e", "sandbox")
    assert code == 0
    for text in ("risk medium", "undo", "memory_limit_mb", "spare_capacity", "memory_is_back", "no approval"):
        assert text in out
    code, out, _ = rbkit("plan", "notebooks/memory_leak.ipynb", "--json")
    assert json.loads(out)["steps"][1]["name"] == "restart"


def test_list(rbkit: Rbkit, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runbooks, notebooks that are none, and runs are listed; unfinished runs come first."""
    code, out, _ = rbkit("list")
    assert code == 0
    assert "memory-leak" in out
    assert "none yet" in out
    run = past_run(home)
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "broken.ipynb").write_text("{")
    monkeypatch.setenv("RBKIT_NOTEBOOKS", str(tmp_path / "books"))
    assert "broken.ipynb" in rbkit("list")[1]
    found = json.loads(rbkit("list", "--json")[1])
    assert [row["run"] for row in found["runs"]] == [run]
    assert found["broken"][0]["path"].endswith("broken.ipynb")


@pytest.mark.parametrize(("outcome", "code"), [("failed", 1), ("needs_operator", 4), ("unknown", 6), ("aborted", 130)])
def test_show_and_watch(rbkit: Rbkit, home: Path, outcome: str, code: int) -> None:
    """show and watch tell how a run ended; watch's exit code is the run's."""
    run = past_run(home, outcome)
    assert outcome.replace("_", " ") in rbkit("show", run[:15])[1]
    assert json.loads(rbkit("show", "last", "--json")[1])["exit_code"] == code
    found, out, _ = rbkit("watch", run[-6:])
    assert found == code
    assert "a trial" in out
    lines = rbkit("watch", "--json")[1].splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["run_opened", "run_closed", "record_sealed"]


def test_show_open(rbkit: Rbkit, home: Path) -> None:
    """A run that is under way shows what is next and how to stop it."""
    run = past_run(home, "")
    SqliteStore(home).acquire(run_lease(run), f"{run}/here/1/abcdef", SystemClock().now(), 60.0)
    out = rbkit("show")[1]
    assert "◐ running" in out
    assert "drain" in out
    assert "0 of 1 steps" in out
    assert f"rbkit cancel {run}" in out
    assert rbkit("record", "show")[0] == 2


def test_record(rbkit: Rbkit, home: Path, tmp_path: Path) -> None:
    """A record is shown, exported, verified; one changed byte is named with exit 1, in the file and in the store."""
    run = past_run(home)
    assert "a trial" in rbkit("record", "show")[1]
    assert json.loads(rbkit("record", "show", "--json")[1])["run"] == run
    assert rbkit("record", "export", "--html", str(tmp_path / "r.html"))[0] == 0
    assert "a trial" in (tmp_path / "r.html").read_text()
    assert rbkit("record", "verify")[0] == 0
    assert json.loads(rbkit("record", "verify", run, "--json")[1])["ok"] is True
    file = home / "records" / f"{run}.ipynb"
    good = file.read_bytes()
    file.write_bytes(good.replace(b'"a trial"', b'"a triaL"'))
    code, _, err = rbkit("record", "verify", str(file))
    assert code == 1
    assert "Entry 1 was changed" in err
    assert json.loads(rbkit("record", "verify", str(file), "--json")[1])["entry"] == 1
    file.write_bytes(good)
    with SqliteStore(home)._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE journal SET actor = 'os:mallory' WHERE seq = 1")
    code, _, err = rbkit("record", "verify", run)
    assert code == 1
    assert "Entry 1" in err
    assert "broken journal" in rbkit("list")[1]


def test_record_without_store(rbkit: Rbkit, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lone file is verified without its store, and it is said that nothing was compared."""
    run = past_run(home)
    file = (home / "records" / f"{run}.ipynb").rename(tmp_path / "lone.ipynb")
    assert "the store's journal only" in rbkit("record", "verify", run)[1]
    monkeypatch.setenv("RBKIT_HOME", str(tmp_path / "other"))
    code, out, _ = rbkit("record", "verify", str(file))
    assert code == 0
    assert "does not know the run" in out


def test_lint(rbkit: Rbkit, tmp_path: Path) -> None:
    """lint passes the committed runbooks and fails a broken one, exit 1, as text and as JSON."""
    assert rbkit("lint")[0] == 0
    (tmp_path / "broken.ipynb").write_text("{}")
    code, out, _ = rbkit("lint", str(tmp_path))
    assert code == 1
    assert "→" in out
    assert json.loads(rbkit("lint", str(tmp_path), "--json")[1])


def test_sandbox_down(rbkit: Rbkit) -> None:
    """A sandbox that is not up is said to be down; stopping it is no error."""
    assert "is down" in rbkit("sandbox", "status")[1]
    assert json.loads(rbkit("sandbox", "status", "--json")[1])["up"] is False
    assert rbkit("sandbox", "down")[0] == 0


def test_manners(rbkit: Rbkit) -> None:
    """Help and version work; help fits 80 columns."""
    assert rbkit("--version")[1].startswith("rbkit ")
    code, out, _ = rbkit("--help")
    assert code == 0
    assert "Exit codes" in out
    assert max(map(len, out.splitlines())) <= 80
