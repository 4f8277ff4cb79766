"""A run whose supervisor was killed is shown as interrupted; another process resumes, undoes or abandons it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from labs import BACK, CHECK, CLOSE, DRAIN, LEASE, Lab, cell, crashing, ended, lives, step, until, waiting

from rbkit.journal import operator

pytestmark = pytest.mark.timeout(120)
Book = Callable[..., str]
RESTART = 'await run.use("services").restart("checkout-2")'


def crashed(lab: Lab, path: str) -> str:
    """Run a runbook whose supervisor is killed in a step; return the run when its lease has lapsed."""
    known = lab.runs()
    with lab.start("run", path) as process:  # what the kernel started may hold the pipes, so nobody reads to their end
        assert process.wait(timeout=60) == -9
        for pipe in (process.stdout, process.stderr):
            pipe.close()  # type: ignore[union-attr]
    run = lab.next_run(known)
    until(lambda: lab.lost(run))
    return run


def once(lab: Lab, run: str) -> list[str]:
    """The steps whose changes the sandbox made, each of which it made once."""
    acted = lab.acted(run)
    assert len(set(acted)) == len(acted), acted
    return [name.partition("/")[0] for name in acted]


@pytest.fixture
def quick(healthy: Lab) -> Lab:
    """The lab with a lease that lapses soon."""
    return healthy.set(lease=LEASE)


def test_a_killed_supervisor_is_seen_and_its_run_resumed(quick: Lab, book: Book, tmp_path: Path) -> None:
    """Its kernel dies too; nothing says that the run runs; resume goes on, and no request is made twice."""
    mark = tmp_path / "mark"
    work = step("restart", f"{RESTART}\n{crashing(mark)}")
    run = crashed(quick, book(DRAIN, work, BACK, CHECK, CLOSE))
    until(lambda: not lives(int(mark.read_text())))
    shown, listed, watched = quick.rbkit("show", run), quick.rbkit("list"), quick.rbkit("watch", run)
    for text in (shown.stdout, watched.stdout):
        assert all(f"rbkit {way} {run}" in text for way in ("resume", "rollback", "abandon"))
    assert watched.returncode == 4
    facts = json.loads(quick.rbkit("show", run, "--json").stdout)
    assert (facts["stands"], facts["running"]) == ("interrupted", "")
    done = quick.rbkit("resume", run)
    state = quick.state(run)
    assert (done.returncode, state.outcome, state.session) == (0, "resolved", 2), done.stdout + done.stderr
    assert "step drain done" not in done.stdout and "step restart done" in done.stdout
    assert once(quick, run) == ["drain", "restart", "back"]
    assert quick.member() == "ready"
    assert quick.rbkit("record", "verify", run).returncode == 0
    for text in (shown.stdout, listed.stdout, watched.stdout):
        assert "interrupted — trial" in text and "running" not in text


def test_rolled_back_from_the_journal_alone(quick: Lab, book: Book, tmp_path: Path) -> None:
    """Rollback undoes what was done and says before what it cannot; what the dead kernel had started is killed."""
    mark, child = tmp_path / "mark", tmp_path / "child"
    start = (
        "import pathlib, subprocess\n"
        'started = subprocess.Popen(["sleep", "600"], start_new_session=True)\n'
        f"pathlib.Path({str(child)!r}).write_text(str(started.pid))\n"
    )
    run = crashed(quick, book(DRAIN, step("restart", f"{RESTART}\n{start}{crashing(mark)}"), BACK, CHECK, CLOSE))
    assert lives(int(child.read_text()))
    planned = quick.rbkit("rollback", run, "--dry-run")
    assert planned.stdout.index("stays:") < planned.stdout.index("↩ balancer.ready(checkout-2)")
    assert quick.member() == "drain"
    done = quick.rbkit("rollback", run, "-m", "a drill")
    state = quick.state(run)
    assert (done.returncode, state.outcome) == (3, "rolled_back"), done.stdout + done.stderr
    assert "services.restart(checkout-2)" in done.stdout and "a drill" in state.reason
    assert once(quick, run) == ["drain", "restart", "drain"]
    assert quick.member() == "ready"
    assert not lives(int(child.read_text()))
    assert quick.rbkit("record", "verify", run).returncode == 0
    again = quick.rbkit("rollback", run)
    assert (again.returncode, "nothing that it did stands" in again.stderr) == (1, True), again.stdout + again.stderr


def test_found_dead_by_another_run_and_abandoned(quick: Lab, book: Book, tmp_path: Path) -> None:
    """The supervisor of any other run journals the interruption; abandon leaves everything and says what stands."""
    run = crashed(quick, book(DRAIN, step("crash", crashing(tmp_path / "mark")), BACK, CHECK, CLOSE))
    mark, go = tmp_path / "began", tmp_path / "go"
    other = quick.start("run", book(step("wait", waiting(mark, go)), CHECK, CLOSE))
    until(lambda: quick.state(run).state == "interrupted", within_s=30)
    assert quick.journal(run).entries[-1].source == "reaper"
    go.touch()
    assert ended(other).returncode == 0
    done = quick.rbkit("abandon", run, "-m", "leave it")
    state = quick.state(run)
    assert (done.returncode, state.outcome) == (130, "aborted"), done.stdout + done.stderr
    assert "leave it. Not rolled back; what was done stands: balancer.drain(checkout-2)" in state.reason
    assert quick.member() == "drain"
    assert quick.rbkit("reap").stdout == ""


def test_a_changed_runbook_is_refused_until_somebody_entitled_accepts_it(
    quick: Lab, book: Book, tmp_path: Path
) -> None:
    """The differences are named by step and line; without acceptance exit 2, by somebody who may not exit 5."""
    crash = step("crash", crashing(tmp_path / "mark"))
    strict = quick.rules(tmp_path / "parameters", approvers='["os:alice"]')
    run = crashed(strict, book(DRAIN, crash, BACK, CHECK, CLOSE))
    (tmp_path / "trial.ipynb").unlink()
    gone = strict.rbkit("resume", run)
    assert (gone.returncode, "There is no runbook 'trial'" in gone.stderr) == (2, True), gone.stderr
    crash["source"] = crash["source"].replace('"""crash."""', '"""Crash no more."""').replace("30s", "20s")
    shutil.move(book(DRAIN, crash, step("more", "pass"), CHECK, CLOSE), tmp_path / "moved.ipynb")
    moved = ("resume", run, "--notebook", str(tmp_path / "moved.ipynb"))
    refused = strict.rbkit(*moved)
    assert refused.returncode == 2, refused.stderr
    for line in (
        "step back was taken out", "step more is new", "timeout_s 30.0 → 20.0", "intent 'crash.' → 'Crash no more.'",
        '-    """crash."""', '+    """Crash no more."""', "--accept-changes",
    ):  # fmt: skip
        assert line in refused.stderr
    denied = strict.rbkit(*moved, "--accept-changes")
    assert denied.returncode == 5 and f"{operator()} may not accept" in denied.stderr
    assert strict.state(run).session == 1
    done = quick.rules(tmp_path / "parameters", approvers=f'["os:alice", "{operator()}"]').rbkit(
        *moved, "--accept-changes"
    )
    assert (done.returncode, strict.state(run).outcome) == (0, "resolved"), done.stdout + done.stderr
    (began,) = strict.events("session_began", run)
    assert "step more is new" in began["differences"] and began["digest"] == strict.state(run).digest
    assert once(strict, run) == ["drain"]


RULES = """
version: "1"
summary: A trial.
rules:
  - {name: high, when: {signal: memory, above: LIMIT}, then: restart, why: It is high.}
otherwise: {then: healthy, why: Nothing is high., ends: not_applicable}
"""


def test_results_and_decisions_survive(quick: Lab, book: Book, tmp_path: Path) -> None:
    """A table, a model and a change come back as they were; a decision that was acted on is kept, the new one shown."""
    rules = tmp_path / "rules" / "high.yaml"
    rules.parent.mkdir()
    rules.write_text(RULES.replace("LIMIT", "1.0"))
    model = (
        "from pydantic import BaseModel\nimport pandas as pd\n\n"
        "class Found(BaseModel):\n    name: str\n    at: int\n\n"
        'fresh = pd.DataFrame({"n": [1, None], "at": pd.to_datetime([0, 1], unit="s", utc=True)})'
    )
    decide = 'memory = await run.observe("memory", service="checkout", last="30s")\n'
    cells = [
        cell("diagnose", model), cell("decide", decide + 'verdict = run.decide("high", memory=memory)'),
        step("table", "return fresh"),
        step("found", 'return Found(name="checkout-2", at=7)'),
        step("drain", 'return await run.use("balancer").drain(verdict.target)'),
    ]  # fmt: skip
    for place, name in ((2, "table"), (3, "found"), (4, "drain")):
        cells[place]["source"] = cells[place]["source"].replace(f"\n\nawait {name}()", f"\n\n{name}_ = await {name}()")
    use = (
        "assert (type(found_).__name__, found_.name, found_.at) == ('Found', 'checkout-2', 7)\n"
        "assert table_ is not fresh\n"
        "pd.testing.assert_frame_equal(table_, fresh)\n"
        "assert drain_.after['state'] == 'drain'\n"
        'return await run.use("balancer").ready(drain_.call.target)'
    )
    run = crashed(quick, book(*cells, step("crash", crashing(tmp_path / "mark")), step("back", use), CHECK, CLOSE))
    target = quick.state(run).decisions[0].event.target
    rules.write_text(RULES.replace("LIMIT", "100000.0"))
    done = quick.rbkit("resume", run)
    state = quick.state(run)
    assert (done.returncode, state.outcome) == (0, "resolved"), done.stdout + done.stderr
    assert [decision.event.target for decision in state.decisions] == [target, target]
    assert "kept, the rules would now say healthy" in done.stdout
    assert once(quick, run) == ["drain", "back"]
    assert quick.member(str(target)) == "ready"


def test_a_resume_that_cannot_begin_leaves_the_run_to_be_resumed(quick: Lab, book: Book, tmp_path: Path) -> None:
    """When the kernel fails before it goes on, nothing is undone: the run stays interrupted, and can be resumed."""
    flag = tmp_path / "flag"
    flag.touch()
    first = cell("setup", f"import os\nassert os.path.exists({str(flag)!r}), 'not here'")
    path = book(DRAIN, step("crash", crashing(tmp_path / "mark")), BACK, CHECK, CLOSE)
    notebook = json.loads(Path(path).read_text())
    notebook["cells"].insert(0, first)
    Path(path).write_text(json.dumps(notebook))
    run = crashed(quick, path)
    flag.rename(tmp_path / "away")
    failed = quick.rbkit("resume", run)
    assert failed.returncode == 1 and "could not be resumed" in failed.stderr and "not here" in failed.stderr
    assert (quick.state(run).state, quick.member()) == ("interrupted", "drain")
    (tmp_path / "away").rename(flag)
    assert quick.rbkit("resume", run).returncode == 0
    assert once(quick, run) == ["drain", "back"]


def test_what_cannot_be_taken_over(quick: Lab, book: Book, tmp_path: Path) -> None:
    """A run that is over or changes nothing is not resumed; one that lives is named with its process and its lease."""
    mark, go = tmp_path / "mark", tmp_path / "go"
    process = quick.start("run", book(step("wait", waiting(mark, go)), CHECK, CLOSE))
    until(mark.exists)
    run = quick.runs()[0]
    for way in ("resume", "abandon", "rollback"):
        held = quick.rbkit(way, run)
        assert held.returncode == 4, held.stdout + held.stderr
        assert f"held by run {run} (process {process.pid} on " in held.stderr and ") until 20" in held.stderr
        assert f"`rbkit cancel {run}`" in held.stderr
    assert quick.state(run).session == 1
    go.touch()
    assert ended(process).returncode == 0
    dry = quick.rbkit("run", book(DRAIN, CHECK, CLOSE), "--dry-run")
    assert dry.returncode == 0, dry.stdout + dry.stderr
    for name, way, words in (
        (run, "resume", "The run is over"), (run, "abandon", "The run is over"),
        (run, "rollback", "nothing that it did stands"), ("last", "resume", "is over"),
        ("last", "rollback", "has changed nothing"), ("20200101-000000-aaaaaa", "resume", "no run"),
    ):  # fmt: skip
        refused = quick.rbkit(way, name)
        assert refused.returncode in {1, 2} and words in refused.stderr, (way, name, refused.stderr)


def test_a_lost_terminal_stops_no_run(quick: Lab, book: Book, tmp_path: Path) -> None:
    """When nobody reads the output any more, the run goes on to its end and says how it ended by its exit code."""
    mark, go = tmp_path / "mark", tmp_path / "go"
    process = quick.start("run", book(DRAIN, step("wait", waiting(mark, go)), BACK, CHECK, CLOSE))
    until(mark.exists)
    assert process.stdout and process.stderr
    process.stdout.close()
    process.stderr.close()
    go.touch()
    assert process.wait(timeout=60) == 0
    assert quick.state().outcome == "resolved"
    assert (quick.home / "records" / f"{quick.runs()[0]}.ipynb").is_file()
