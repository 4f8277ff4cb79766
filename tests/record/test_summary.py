"""The closing summary tells the facts of a run, whatever happened in it."""

from hypothesis import given, settings
from hypothesis import strategies as st

from rbkit import events as ev
from rbkit.entries import read_event, seal_entry
from rbkit.events import Call
from rbkit.fold import RunState, fold
from rbkit.record.summary import headline, markdown, tell
from rbkit.record.view import view
from rbkit.values import canonical

AT = "2026-01-01T00:00:0{}.000000+00:00"
CALM = settings(derandomize=True, deadline=None, database=None, max_examples=60)
DRAIN = Call(capability="balancer", action="drain", target="c-2")
READY = Call(capability="balancer", action="ready", target="c-2")
RESTART = Call(capability="services", action="restart", target="c-2")
OPENED = ev.RunOpened(
    runbook="leak", version="1", owner="me", mode="live", environment="e", environment_digest="", digest="", pid=1,
    contract={"steps": [{"name": "drain", "intent": "Drain."}, {"name": "later", "intent": "Later."}]},
    parameters={"limit": 3}, driver="headless", host="h", notebook="", budget_s=60,
)  # fmt: skip
STARTED = ev.StepStarted(step="drain", intent="Drain.", risk="low", timeout_s=30, deadline="later")
DECIDED = ev.Decided(
    rules="leak", version="1.0", digest="", outcome="restart", target="c-2", why="It leaks.",
    inputs={"memory": {"latest": {"c-2": 412.0}, "unit": "MB"}},
    trace=[{"rule": "r", "series": "c-2", "value": 412.0, "limit": 300.0, "holds": True}],
)  # fmt: skip


def change(key: str, call: Call, inverse: Call | None, undoes: str = "") -> ev.ChangeIntended:
    """Intend a change."""
    return ev.ChangeIntended(
        key=key, step="drain", call=call, before={"state": "ready", "pid": 1}, after={"state": "drain"},
        differs={} if inverse else {"pid": 1}, inverse=inverse, irreversible="" if inverse else "gone", undoes=undoes,
    )  # fmt: skip


def done(key: str) -> ev.ChangeDone:
    """Say that a change was made."""
    return ev.ChangeDone(key=key, how="applied", after={"state": "drain", "pid": 2}, seconds=1.0)


def folded(*events: ev.Event) -> RunState:
    """Fold events, one second apart."""
    return fold(
        (seal_entry("r", n, AT.format(n % 10), "os:alice", "kernel", event, ""), event)
        for n, event in enumerate(events)
    )


FAILED = ev.StepFailed(step="drain", error="E", why="boom", seconds=1.0)
BEGUN = (OPENED, DECIDED, STARTED, change("r/drain/0", DRAIN, READY), done("r/drain/0"))
ROLLBACK = ev.RollbackStarted(why="boom", undo=["r/drain/0"], irreversible=["services.restart(c-2)"])


def test_rolled_back():
    """What was undone, by what, what cannot be undone, and the numbers that decided, all stand in it."""
    text = markdown(
        folded(
            *BEGUN,
            change("r/drain/1", RESTART, None),
            done("r/drain/1"),
            FAILED,
            ROLLBACK,
            change("r/drain/2", READY, DRAIN, "r/drain/0"),
            done("r/drain/2"),
            ev.RollbackEnded(undone=["r/drain/0"], left=[], in_doubt=[]),
            ev.RunClosed(outcome="rolled_back", reason="boom"),
        )  # fmt: skip
    )
    for part in (
        "↩ rolled back", "↩ undone", "undoes drain", "c-2 412.0 MB", "412.0, limit 300.0",
        "1 undone, 0 left, 0 in doubt", "cannot be undone: services.restart(c-2)", "irreversible: gone", "os:alice",
        "2026-01-01 00:00:01Z",
    ):  # fmt: skip
        assert part in text


def test_rollback_under_way():
    """A rollback that has begun and not ended is not told as done."""
    assert "began, not finished" in markdown(folded(*BEGUN, FAILED, ROLLBACK))


def test_ways_out():
    """What is in doubt and what is left by a rollback comes first among the ways out; the rest is pending."""
    state = folded(
        *BEGUN, change("r/drain/1", RESTART, None),
        ev.ChangeUnknown(key="r/drain/1", error="E", why="no answer"),
        ev.StepUnknown(step="drain", error="E", why="no answer", seconds=1.0), ROLLBACK,
        ev.RollbackEnded(undone=[], left=["r/drain/0"], in_doubt=["r/drain/1"]),
        ev.RunClosed(outcome="unknown", reason="no answer"),
    )  # fmt: skip
    facts = view(state)
    assert facts["ways_out"][0].startswith("look at the target of services.restart(c-2)")
    assert facts["ways_out"][1] == "by hand: balancer.ready(c-2)"
    assert [step["state"] for step in facts["steps"]] == ["unknown", "pending"]
    assert view(folded(*BEGUN))["next"] == "later"
    assert view(folded(OPENED, ev.RunClosed(outcome="failed", reason="")))["ways_out"] == ["rbkit record show r"]
    assert view(folded(OPENED, ev.RunClosed(outcome="resolved", reason="")))["ways_out"] == ["rbkit record show r"]


ASKED = ev.ApprovalRequested(
    step="drain", risk="high", needed=1, digest="d", plan={"changes": []}, until="2026-01-01T00:10:00+00:00",
    valid_s=60, approvers=["os:bob"], own=False,
)  # fmt: skip


def test_ways_out_of_a_dead_run():
    """A run whose process died is never shown without what can be done; one that undoes never goes forward again."""
    dead = view(folded(*BEGUN), lost="its lease ran out")["ways_out"]
    assert [way.split()[1] for way in dead] == ["resume", "rollback", "abandon"]
    dead = view(folded(*BEGUN, FAILED, ROLLBACK), lost="its lease ran out")["ways_out"]
    assert [way.split()[1] for way in dead] == ["rollback", "abandon"]


def test_ways_out_of_a_run_that_asks():
    """A run that waits for an approval says how to give and how to refuse it, and how to stop it."""
    facts = view(folded(OPENED, STARTED, ASKED))
    assert [way.split()[1] for way in facts["ways_out"]] == ["approve", "deny", "cancel"]


def test_nothing_opened():
    """A journal without a run has a summary too."""
    assert "not opened" in headline(RunState())
    assert markdown(RunState()).startswith("## ")


@CALM
@given(st.lists(st.integers(0, 1000), max_size=40))
def test_any_journal(walk, choices):
    """Whatever a legal journal holds, its summary is text, its view is JSON, and each event is told in one line."""
    state = fold((entry, read_event(entry)) for entry in walk(choices))
    assert markdown(state).startswith("## ")
    assert canonical(view(state))
    assert all("\n" not in tell(moment) or "\n" in str(moment.event) for moment in state.timeline)
