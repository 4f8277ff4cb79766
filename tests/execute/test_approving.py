"""Changes that need approval wait for it: an answer counts for exactly the plan that was shown, once, and in time."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from labs import BACK, CHECK, CLOSE, DRAIN, LEASE, Lab, Process, ended, step, until

from rbkit.journal import operator

pytestmark = pytest.mark.timeout(120)
Book = Callable[..., str]
RISKY = step("risky", 'return await run.use("balancer").drain("checkout-2")', "30s", "high")


def asking(lab: Lab, path: str) -> tuple[Process, str]:
    """Start a run, and wait until it asks for an approval."""
    known = lab.runs()
    process = lab.start("run", path)
    run = lab.next_run(known)
    pending(lab, run, "")
    return process, run


def pending(lab: Lab, run: str, before: str) -> str:
    """Wait until a run asks for an approval of another plan than the one before; return the plan's digest."""
    until(lambda: (asks := lab.state(run).asks) and asks.request.digest != before)
    asks = lab.state(run).asks
    assert asks
    return asks.request.digest


def test_an_approval_is_for_one_plan_only(healthy: Lab, book: Book, tmp_path: Path) -> None:
    """When world or runbook move while people are asked, the answer is void and they are asked anew; all is kept."""
    path = book(RISKY, BACK, CHECK, CLOSE)
    process, run = asking(healthy, path)
    first = pending(healthy, run, "")
    shown = json.loads(healthy.rbkit("show", run, "--json").stdout)
    assert (shown["stands"], "approval(s) of step risky" in shown["waits_for"]) == ("waiting", True)
    wrong = healthy.rbkit("approve", run, "--digest", "sha256:0000")
    assert (wrong.returncode, first in wrong.stderr) == (1, True), wrong.stderr
    healthy.put("checkout-2", "drain")  # somebody else drains it meanwhile
    approved = healthy.rbkit("approve", run, "--digest", first)
    assert approved.returncode == 0, approved.stderr
    for text in ("balancer.drain(checkout-2)", "before  state ready", "undo    balancer.ready(checkout-2)", first):
        assert text in approved.stdout
    second = pending(healthy, run, first)
    healthy.put("checkout-2", "ready")
    Path(path).write_text(Path(path).read_text().replace("Fine.", "Fine, too."))
    assert healthy.rbkit("approve", run).returncode == 0
    third = pending(healthy, run, second)
    assert healthy.rbkit("approve", run, "-m", "go").returncode == 0
    done = ended(process)
    state = healthy.state(run)
    assert (done.returncode, state.outcome) == (0, "resolved"), done.stdout + done.stderr
    assert [(a.request.digest, a.result) for a in state.approvals] == [
        (first, "void"), (second, "void"), (third, "granted"),
    ]  # fmt: skip
    assert healthy.acted(run) == ["risky/0", "back/1"]
    assert state.approvals[-1].used == ["balancer.drain(checkout-2)"]
    assert healthy.rbkit("record", "verify", run).returncode == 0


def test_a_no_ends_the_run(healthy: Lab, book: Book) -> None:
    """Denied means exit 5, with who and why; nothing was done, and what was done before is undone."""
    process, run = asking(
        healthy, book(step("first", 'return await run.use("balancer").drain("checkout-1")'), RISKY, CHECK, CLOSE)
    )
    assert healthy.rbkit("deny", run, "-m", "not today").returncode == 0
    done = ended(process)
    state = healthy.state(run)
    assert (done.returncode, state.outcome) == (5, "aborted"), done.stdout + done.stderr
    assert "not today" in state.reason and operator() in state.reason
    assert (healthy.member("checkout-1"), healthy.member()) == ("ready", "ready")
    assert healthy.acted(run) == ["first/0", "first/1"]


def test_no_answer_is_a_no(healthy: Lab, book: Book, tmp_path: Path) -> None:
    """Nobody in time means exit 4 and a safe state; it was said for whom the run waits and until when."""
    strict = healthy.rules(tmp_path / "parameters", approval_wait="1s", approvers='["os:alice"]')
    done = strict.rbkit("run", book(RISKY, BACK, CHECK, CLOSE))
    assert (done.returncode, strict.state().outcome) == (4, "needs_operator"), done.stdout + done.stderr
    assert "1 approval(s) by os:alice until 20" in done.stdout
    late = strict.rbkit("approve")
    assert (late.returncode, "does not wait for an approval" in late.stderr) == (1, True), late.stderr
    assert (strict.acted(strict.runs()[0]), strict.member()) == ([], "ready")


def test_whoever_may_not_answer_is_refused_and_a_cancel_ends_the_wait(healthy: Lab, book: Book, tmp_path: Path) -> None:
    """Only those whom the environment names approve or deny; stopping is everybody's right."""
    strict = healthy.rules(tmp_path / "parameters", approvers='["os:alice"]')
    process, run = asking(strict, book(RISKY, BACK, CHECK, CLOSE))
    for answer in ("approve", "deny"):
        refused = strict.rbkit(answer, run)
        assert (refused.returncode, "may not approve here" in refused.stderr) == (1, True), refused.stderr
    asked = strict.rbkit("cancel", run)
    done = ended(process)
    assert "in flight: step risky" in asked.stdout
    assert (done.returncode, strict.state(run).outcome) == (130, "aborted"), done.stdout + done.stderr
    assert (strict.acted(run), strict.member()) == ([], "ready")


def test_killed_while_it_waits(healthy: Lab, book: Book) -> None:
    """Nobody can approve what nobody runs; the resumed run asks anew, and the old request counts for nothing."""
    quick = healthy.set(lease=LEASE)
    process, run = asking(quick, book(RISKY, BACK, CHECK, CLOSE))
    old = pending(quick, run, "")
    process.kill()
    until(lambda: quick.lost(run))
    dead = quick.rbkit("approve", run)
    assert (dead.returncode, "Nobody runs" in dead.stderr) == (1, True), dead.stderr
    second = quick.start("resume", run)
    new = pending(quick, run, old)
    assert quick.rbkit("approve", run, "--digest", old).returncode == 1
    assert quick.rbkit("approve", run, "--digest", new).returncode == 0
    done = ended(second)
    assert (done.returncode, quick.state(run).outcome) == (0, "resolved"), done.stdout + done.stderr
    assert [name.partition("/")[0] for name in quick.acted(run)] == ["risky", "back"]


def test_a_confirmation_lets_it_stand_or_it_is_undone(healthy: Lab, book: Book) -> None:
    """With confirm_within a run waits at its end: confirmed it is resolved, without an answer it is rolled back."""
    more = ', confirm_within="{}"'
    process = healthy.start("run", book(DRAIN, CHECK, CLOSE, more=more.format("10m")))
    until(lambda: healthy.runs() and healthy.state().state == "confirming")
    run = healthy.runs()[0]
    assert healthy.rbkit("confirm", run).returncode == 0
    done = ended(process)
    assert (done.returncode, healthy.state(run).outcome, healthy.member()) == (0, "resolved", "drain"), done.stdout
    healthy.put("checkout-2", "ready")
    lapsed = healthy.rbkit("run", book(DRAIN, CHECK, CLOSE, more=more.format("1s")))
    assert (lapsed.returncode, healthy.state().outcome, healthy.member()) == (3, "rolled_back", "ready"), lapsed.stdout
    assert "Nobody confirmed it within 1.0s" in healthy.state().reason
