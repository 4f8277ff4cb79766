"""Plan before act: people approve exactly what is about to be done, in time, once; and no answer is a no."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from rbkit import events as ev
from rbkit.adapters.fakes import FakeBalancer, FakeServices
from rbkit.clock import FakeClock
from rbkit.contract import StepSpec
from rbkit.errors import ApprovalNeeded, BadAnswer, Cancelled, Denied, Fenced, GuardRail, IllegalMove, RunbookError
from rbkit.events import Call
from rbkit.gate import Gate, current_step
from rbkit.journal import Journal
from rbkit.policy import ApprovalRules
from rbkit.tape import Tape
from rbkit.terms import Terms

RUN = "20260101-000000-aaaaaa"
OTHER = "20260101-000000-bbbbbb"
MEMBERS = {"checkout": ["checkout-1", "checkout-2", "checkout-3"]}
RULES = ApprovalRules(needed={"high": 1}, approvers=("os:boss", "os:chief"), wait_s=60.0, valid_s=300.0)
HIGH: dict[str, Any] = {"risk": "high", "max_targets": 3}


def drain(number: int = 1) -> Call:
    """Describe the drain of a member."""
    return Call(capability="balancer", action="drain", target=f"checkout-{number}")


class Balancer(FakeBalancer):
    """A balancer that does something of its own whenever a state is read, and counts how many act at once."""

    def __init__(self) -> None:
        super().__init__(MEMBERS)
        self.on_read: list[Callable[[], None] | None] = []
        self.reads = self.at_once = self.most_at_once = 0

    async def state(self, target: str) -> dict[str, Any]:
        """Read a state; first do what comes next."""
        self.reads += 1
        if self.on_read and (act := self.on_read.pop(0)):
            act()
        await asyncio.sleep(0)
        return await super().state(target)

    async def apply(self, call: Call, key: str, token: int) -> None:
        """Act slowly."""
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        for _ in range(3):
            await asyncio.sleep(0)
        await super().apply(call, key, token)
        self.at_once -= 1

    def move(self, target: str, **state: Any) -> None:
        """Change the world behind everybody's back."""
        self._things[target] = self._things[target].model_copy(update=state)


@dataclass
class Office:
    """A run whose step asks, people who act whenever it waits, and a runbook on disk."""

    rig: Any
    rules: ApprovalRules = RULES
    acts: list[Callable[[], None]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    disk: str = "sha256:1"
    sessions: int = 0
    run: str = RUN

    def __post_init__(self) -> None:
        self.rig.clock = FakeClock(on_sleep=lambda seconds: self._act())
        self.rig.balancer = Balancer()

    def _act(self) -> None:
        """Let the next person act, if anybody is asked."""
        if self.acts and self.state.asks:
            self.acts.pop(0)()

    @property
    def state(self) -> Any:
        """The run that was begun last, as anybody sees it."""
        return self.rig.journal(self.run).state

    def terms(self) -> Terms:
        """Say on which terms the newest session makes changes."""
        say = lambda glyph, text: self.lines.append(f"{glyph} {text}".strip())  # noqa: E731
        holder = f"{RUN}/here/{self.sessions}/abcdef"
        return Terms(rules=self.rules, holder=holder, on_disk=lambda: self.disk, say=say)

    def begin(self, mode: ev.Mode = "live", run: str = RUN, **parameters: Any) -> Gate:
        """Open a run and begin its step."""
        self.run, journal = run, self.rig.journal(run)
        journal.append(ev.RunOpened(
            runbook="test", version="1", owner="me", mode=mode, environment="test", environment_digest="sha256:e",
            digest="sha256:d", contract={}, parameters=parameters, driver="headless", host="h", pid=1, notebook="",
            budget_s=60,
        ))  # fmt: skip
        return self._stepping(Gate(journal, self.rig.world(), mode=mode, terms=self.terms()))

    def resume(self) -> Gate:
        """Take the run over in another process and begin its step again."""
        self.rig.store.release(self.terms().holder)
        self.sessions += 1
        journal = Journal(self.rig.store, RUN, "kernel", actor="os:test", clock=self.rig.clock, session=0)
        session = journal.state.session + 1
        journal.append(ev.SessionBegan(session=session, purpose="resume", host="h", pid=session))
        return self._stepping(Gate(journal, self.rig.world(), mode="resume", terms=self.terms()))

    def _stepping(self, gate: Gate) -> Gate:
        deadline = "2026-01-01T00:01:00+00:00"
        gate.journal.append(ev.StepStarted(step="work", intent="", risk="high", timeout_s=60, deadline=deadline))
        return gate

    def person(self, actor: str = "os:boss") -> Journal:
        """See the run as somebody at another terminal does."""
        return Journal(self.rig.store, RUN, "cli", actor=actor, clock=self.rig.clock, session=0)

    def approve(self, actor: str = "os:boss") -> None:
        """Approve what is asked for."""
        journal = self.person(actor)
        journal.append(ev.ApprovalGiven(digest=journal.state.asks.request.digest))

    def deny(self, reason: str = "not today") -> None:
        """Refuse what is asked for."""
        journal = self.person()
        journal.append(ev.ApprovalDenied(digest=journal.state.asks.request.digest, reason=reason))

    def do(self, gate: Gate, *calls: Call, **spec: Any) -> Any:
        """Make changes one after the other as the step does; return the last."""

        async def work() -> Any:
            results = [await gate.change(call) for call in calls]
            return results[-1]

        return asyncio.run(self.rig.as_step(work(), **{**HIGH, **spec}))

    def at_once(self, gate: Gate, *calls: Call, **spec: Any) -> list[Any]:
        """Gather changes as the step does; return what became of each."""

        async def work() -> list[Any]:
            return await asyncio.gather(*(gate.change(call) for call in calls), return_exceptions=True)

        return asyncio.run(self.rig.as_step(work(), **{**HIGH, **spec}))

    def permit(self, gate: Gate, *calls: Call, **spec: Any) -> None:
        """Have changes approved together."""
        step = StepSpec(name="work", intent="", timeout_s=60, **{**HIGH, **spec})
        asyncio.run(gate.permit(step, calls))

    def approvals(self) -> list[str]:
        """List what became of each request."""
        return [found.result for found in self.state.approvals]


@pytest.fixture
def office(rig: Any) -> Office:
    """A run whose step asks, and people who answer."""
    return Office(rig)


def test_a_change_that_needs_approval_waits_and_says_for_whom_and_until_when(office):
    """What is shown: who may approve, until when, call, before and after, the inverse, and the command."""
    gate = office.begin()
    seen: list[str] = []
    office.acts = [lambda: seen.append(office.state.waits_for), office.approve]
    assert office.do(gate, drain()).how == "applied"
    assert office.lines == [
        "⏸ work: waits for 1 approval(s) by os:boss, os:chief, but not who started it until 2026-01-01 00:01:00Z "
        "(1m 00s); no answer is a no",
        "balancer.drain(checkout-1) {'state': 'ready'} → {'state': 'drain'}; balancer.ready(checkout-1)",
        f"rbkit approve {RUN}  ·  rbkit deny {RUN}",
    ]
    assert seen == ["1 approval(s) of step work by os:boss, os:chief until 2026-01-01T00:01:00.000000+00:00"]


def test_a_request_names_everything_that_it_is_for(office):
    """Runbook, code, environment, parameters and the change itself are in the plan whose digest is approved."""
    gate = office.begin(limit=3)
    office.acts = [office.approve]
    office.do(gate, drain(), code="sha256:c")
    (asked,) = office.rig.events("approval_requested")
    facts, (change,) = asked["plan"]["facts"], asked["plan"]["changes"]
    assert (facts["runbook"], facts["version"], facts["step"], facts["environment"]) == ("test", "1", "work", "test")
    assert (facts["code"], facts["on_disk"], facts["parameters"]) == ("sha256:c", "sha256:1", {"limit": 3})
    assert change["undo"] == "balancer.ready(checkout-1)" and asked["plan"]["run"] == RUN
    (made,) = office.rig.events("change_intended")
    assert made["approval"] == asked["digest"]


def test_an_approval_is_used_once(office):
    """The same change later in the same step is asked for again, though nothing else is different."""
    gate = office.begin()
    back = Call(capability="balancer", action="ready", target="checkout-1")
    office.acts = [office.approve] * 3
    office.do(gate, drain(), back, drain())
    assert office.approvals() == ["granted"] * 3
    used = [event["approval"] for event in office.rig.events("change_intended")]
    assert len(set(used)) == 3 and "" not in used


def test_low_risk_asks_nobody(office):
    """What needs no approval is not even looked at twice."""
    gate = office.begin()
    office.permit(gate, drain(), risk="low")
    assert office.rig.balancer.reads == 0
    assert office.do(gate, drain(), risk="low").state == "done"
    assert office.approvals() == []


def test_a_denial_is_final_for_the_step(office):
    """Nothing is made, the reason is told, and nobody is asked a second time."""
    gate = office.begin()
    office.acts = [office.deny]
    for call in (drain(), drain(2)):
        with pytest.raises(Denied, match="os:boss denied step work: not today") as caught:
            office.do(gate, call)
        assert caught.value.exit_code == 5
    assert office.approvals() == ["denied"] and office.rig.balancer.asked == []
    assert "change_intended" not in office.rig.kinds()


def test_a_denial_without_a_reason_says_so(office):
    """An empty reason is not shown as nothing."""
    gate = office.begin()
    office.acts = [lambda: office.deny("")]
    with pytest.raises(Denied, match="no reason was given"):
        office.do(gate, drain())


def test_no_answer_is_a_no(office):
    """When the time is over nothing is made, nobody is asked again, and an answer that comes late counts no more."""
    gate = office.begin()
    for _ in range(2):
        with pytest.raises(
            ApprovalNeeded, match=r"\(risk high\) needs 1 approval\(s\) and got 0 within 1m 00s"
        ) as caught:
            office.do(gate, drain())
        assert caught.value.exit_code == 4
    assert 60 < office.rig.clock.monotonic() < 61
    (asked,) = office.rig.events("approval_requested")
    with pytest.raises(IllegalMove, match="approval given is not possible"):
        office.person().append(ev.ApprovalGiven(digest=asked["digest"]))
    assert office.approvals() == ["expired"] and office.rig.balancer.asked == []


def test_two_people_are_two_people(office):
    """One person's second approval does not count, nor does one of who started the run or of a stranger."""
    gate, refused = office.begin(), []

    def refusing(actor: str) -> Callable[[], None]:
        def act() -> None:
            with pytest.raises(IllegalMove) as caught:
                office.approve(actor)
            refused.append(caught.value.what.partition(";")[0])

        return act

    office.rules = replace(office.rules, approvers=("os:boss", "os:chief", "os:test"))
    gate = Gate(gate.journal, office.rig.world(), terms=office.terms())
    office.acts = [office.approve, refusing("os:boss"), refusing("os:test"), refusing("os:mallory"),
                   lambda: office.approve("os:chief")]  # fmt: skip
    assert office.do(gate, drain(), approvals=2).state == "done"
    assert refused == ["os:boss has approved this plan already",
                       "os:test has started this run, and here nobody approves a run of their own.",
                       "os:mallory may not approve here"]  # fmt: skip


def test_where_it_is_allowed_one_may_approve_ones_own_run(office):
    """The environment file may say so; then it is not said that somebody else must."""
    office.rules = replace(office.rules, own=True, approvers=("*",))
    gate = office.begin()
    office.acts = [lambda: office.approve("os:test")]
    assert office.do(gate, drain()).state == "done"
    assert "by * until" in office.lines[0]


def world_moved(office: Office) -> None:
    """Let somebody else drain the member."""
    office.rig.balancer.move("checkout-1", state="drain")


def file_edited(office: Office) -> None:
    """Let somebody edit the runbook's file."""
    office.disk = "sha256:2"


@pytest.mark.parametrize("moved", [world_moved, file_edited])
def test_what_changes_while_people_are_asked_voids_the_request(office, moved):
    """The answer was for something else: it is asked for anew, and the old request stays in the journal."""
    gate = office.begin()
    office.acts = [lambda: moved(office), office.approve, office.approve]
    office.do(gate, drain())
    assert office.approvals() == ["void", "granted"]
    first, second = (found.request for found in office.state.approvals)
    assert first.digest != second.digest and first.plan != second.plan
    assert any("asked for anew" in line for line in office.lines)
    (made,) = office.rig.events("change_intended")
    assert made["approval"] == second.digest


@pytest.mark.parametrize("moved", [world_moved, file_edited])
def test_what_changes_between_the_answer_and_the_change_voids_it_too(office, moved):
    """What is granted is compared again, to the letter, with what is about to be done."""
    gate = office.begin()
    office.acts = [office.approve, office.approve]
    office.rig.balancer.on_read = [None, None, None, lambda: moved(office)]
    office.do(gate, drain())
    assert office.approvals() == ["void", "granted"]
    assert office.state.approvals[0].why == "something has changed since it was approved"


def test_what_moves_by_itself_voids_nothing(office):
    """The number of requests under way is not part of what is approved."""
    gate = office.begin()
    office.rig.balancer.move("checkout-1", active=5)
    office.acts = [lambda: office.rig.balancer.move("checkout-1", active=0), office.approve]
    assert office.do(gate, drain()).state == "done" and office.approvals() == ["granted"]


def test_a_world_that_does_not_stand_still_is_given_up(office):
    """People are not asked for ever: after five rounds a person must look."""
    gate, states = office.begin(), ["drain", "ready"] * 5

    def answered() -> None:
        office.rig.balancer.move("checkout-1", state=states.pop(0))
        office.approve()

    office.acts = [answered] * 10
    with pytest.raises(ApprovalNeeded, match="changed 5 times"):
        office.do(gate, drain())
    assert office.approvals() == ["void"] * 5 and office.rig.balancer.asked == []


def test_an_approval_that_was_not_used_in_time_has_run_out(office):
    """What was granted an hour ago is asked for again."""
    gate = office.begin()
    office.acts = [office.approve, office.approve]
    office.permit(gate, drain())
    office.rig.clock.advance(301)
    office.do(gate, drain())
    assert office.approvals() == ["void", "granted"]


def granted_and_lost(office: Office) -> None:
    """Have a change approved, and let the process die before it is made."""

    def die() -> None:
        raise KeyboardInterrupt

    gate = office.begin(limit=3)
    office.acts = [office.approve]
    office.rig.balancer.on_read = [None, None, None, die]
    with pytest.raises(KeyboardInterrupt):
        office.do(gate, drain(), code="sha256:c")
    assert office.approvals() == ["granted"] and "change_intended" not in office.rig.kinds()


def test_a_granted_approval_survives_its_process_and_is_used_once(office):
    """The process that resumes the run makes the change under it without asking; a second time it asks."""
    granted_and_lost(office)
    gate = office.resume()
    assert office.do(gate, drain(), code="sha256:c").state == "done" and office.approvals() == ["granted"]
    office.acts = [office.approve]
    back = Call(capability="balancer", action="ready", target="checkout-1")
    office.do(gate, back, code="sha256:c")
    with pytest.raises(ApprovalNeeded):
        office.do(gate, drain(), code="sha256:c")


@pytest.mark.parametrize("what", ["world", "file", "code", "arguments", "target", "time"])
def test_a_granted_approval_is_void_when_anything_is_different_later(office, what):
    """State, file, step's code, call, target or the time it was good for: it is asked for anew, in a new process."""
    granted_and_lost(office)
    if what == "world":
        world_moved(office)
    if what == "file":
        file_edited(office)
    if what == "time":
        office.rig.clock.advance(301)
    call = drain(2) if what == "target" else drain()
    if what == "arguments":
        call = Call(capability="balancer", action="ready", target="checkout-1")
    gate = office.resume()
    office.acts = [office.approve]
    office.do(gate, call, code="sha256:d" if what == "code" else "sha256:c")
    assert office.approvals() == ["void", "granted"]
    (made,) = office.rig.events("change_intended")
    assert made["approval"] == office.state.approvals[1].request.digest


def test_other_parameters_are_another_plan(office):
    """A run with another parameter asks with another digest, so that no answer to the first fits the second."""
    digests = []
    for run, limit in ((RUN, 3), (OTHER, 4), ("20260101-000000-dddddd", 3)):
        gate = office.begin(run=run, limit=limit)
        with pytest.raises(ApprovalNeeded):
            office.do(gate, drain())
        office.rig.store.release(office.terms().holder)
        digests.append(office.rig.events("approval_requested", run)[0]["digest"])
    assert len(set(digests)) == 3


def test_an_approval_of_one_run_is_none_of_another(office):
    """Copied into another run, the answer is for a plan that nobody asks for there, and its change is not covered."""
    granted_and_lost(office)
    (digest,) = [event["digest"] for event in office.rig.events("approval_requested")]
    office.sessions += 1
    gate = office.begin(run=OTHER, limit=3)
    office.rig.store.release(f"{RUN}/here/0/abcdef")
    refused: list[str] = []

    def copied() -> None:
        other = Journal(office.rig.store, OTHER, "cli", actor="os:boss", clock=office.rig.clock, session=0)
        with pytest.raises(IllegalMove, match="The answer is for the plan") as caught:
            other.append(ev.ApprovalGiven(digest=digest))
        refused.append(caught.value.what)

    office.acts = [copied]
    with pytest.raises(ApprovalNeeded):
        office.do(gate, drain(), code="sha256:c")
    assert len(refused) == 1
    event = ev.ChangeIntended(
        key="k", step="work", call=drain(), before={}, after={}, inverse=None, approval=digest
    )  # fmt: skip
    with pytest.raises(IllegalMove, match="has no approval that holds"):
        gate.journal.append(event)


def test_a_change_that_was_in_doubt_and_is_made_again_is_asked_for_again(office):
    """An approval is for one attempt: the second one, after a crash, needs another."""

    class Dies(Balancer):
        async def apply(self, call: Call, key: str, token: int) -> None:
            raise KeyboardInterrupt

    gate = office.begin()
    office.rig.balancer = gate.world._made["capability balancer"] = Dies()
    office.acts = [office.approve]
    with pytest.raises(KeyboardInterrupt):
        office.do(gate, drain())
    office.rig.balancer.__class__ = Balancer
    office.acts = [office.approve]
    assert office.do(office.resume(), drain()).how == "applied"
    assert office.approvals() == ["granted", "granted"]


def test_what_can_be_undone_needs_nobody_where_only_the_rest_does(office):
    """Where only irreversible changes need approval, a plan is looked at to know, and then nobody is asked."""
    office.rules = replace(office.rules, needed={"irreversible": 1})
    gate = office.begin()
    office.permit(gate, drain(1), drain(2), risk="low")
    assert office.rig.balancer.reads == 2 and office.approvals() == []


def test_what_cannot_be_undone_may_need_more_people(office):
    """The environment file may ask for approval of every irreversible change, whatever the step's risk."""
    office.rules = replace(office.rules, needed={"irreversible": 2})
    office.rig.services = FakeServices(MEMBERS)
    gate = office.begin()
    office.do(gate, drain(), risk="low")
    office.acts = [office.approve, lambda: office.approve("os:chief")]
    restart = Call(capability="services", action="restart", target="checkout-1")
    assert office.do(gate, restart, risk="low").state == "done"
    assert office.approvals() == ["granted"] and "waits for 2 approval(s)" in office.lines[0]
    assert "irreversible: a restarted process cannot be brought back" in office.lines[1]


def test_several_changes_are_approved_as_one_plan(office):
    """One request names all of them; each is then made under it, once."""
    gate = office.begin()
    office.acts = [office.approve]
    office.permit(gate, drain(1), drain(2))
    office.do(gate, drain(2), drain(1))
    assert office.approvals() == ["granted"]
    (approval,) = office.state.approvals
    assert approval.changes == ["balancer.drain(checkout-1)", "balancer.drain(checkout-2)"]
    assert approval.used == ["balancer.drain(checkout-2)", "balancer.drain(checkout-1)"]


def test_a_plan_that_was_begun_may_be_finished_after_its_time(office):
    """Half of an approved plan is not left half done because it took long."""
    gate = office.begin()
    office.acts = [office.approve]
    office.permit(gate, drain(1), drain(2))
    office.do(gate, drain(1))
    office.rig.clock.advance(301)
    office.do(gate, drain(2))
    assert office.approvals() == ["granted"]


def test_what_is_not_in_the_plan_is_asked_for(office):
    """Another set of targets is another plan; what was granted and not used is void, what was used is not."""
    gate = office.begin()
    office.acts = [office.approve] * 3
    office.permit(gate, drain(1), drain(2))
    office.permit(gate, drain(1), drain(3))
    assert office.approvals() == ["void", "granted"]
    office.do(gate, drain(1))
    office.do(gate, drain(3))
    office.permit(gate, drain(2))
    assert office.approvals() == ["void", "granted", "granted"]


def test_a_plan_that_is_approved_already_is_not_asked_for_twice(office):
    """Asking again for what is covered, or for nothing at all, asks nobody."""
    gate = office.begin()
    office.acts = [office.approve]
    office.permit(gate, drain(1), drain(2))
    office.permit(gate, drain(2), drain(1))
    office.permit(gate)
    assert office.approvals() == ["granted"]


def test_a_resumed_plan_leaves_out_what_is_done(office):
    """Who approves the rest is not shown what will not be made again."""
    gate = office.begin()
    office.acts = [office.approve]
    office.permit(gate, drain(1), drain(2))
    office.do(gate, drain(1))
    file_edited(office)
    resumed = office.resume()
    office.acts = [office.approve]
    office.permit(resumed, drain(1), drain(2))
    assert office.approvals() == ["void", "granted"]
    assert office.state.approvals[1].changes == ["balancer.drain(checkout-2)"]
    office.do(resumed, drain(1), drain(2))
    assert [call.target for call in office.rig.balancer.asked] == ["checkout-1", "checkout-2"]


@pytest.mark.parametrize("mode", ["dry_run", "replay"])
def test_a_run_that_changes_nothing_asks_nobody(office, mode):
    """A dry run and a replay go through without anybody at the other end."""
    recorded = office.begin(run=OTHER)
    office.do(recorded, drain(), risk="low")
    office.rig.store.release(office.terms().holder)
    gate = office.begin(mode)
    if mode == "replay":
        tape = Tape(office.rig.store, recorded.journal.entries)
        gate = Gate(gate.journal, office.rig.world(), mode="replay", tape=tape, terms=office.terms())
    reads = office.rig.balancer.reads
    office.permit(gate, drain())
    assert office.rig.balancer.reads == reads
    assert office.do(gate, drain()).state == "planned" and office.approvals() == []


def test_to_undo_needs_no_approval(office):
    """The way back is open at any time, also for a change of high risk."""
    gate = office.begin()
    office.acts = [office.approve]
    change = office.do(gate, drain())
    assert asyncio.run(gate.undo(change)).state == "done"
    assert office.approvals() == ["granted"] and office.rig.states()["checkout-1"] == "ready"


def test_a_request_to_stop_ends_the_wait(office):
    """Cancelled while it waits, nothing is made, and no open request is left behind."""
    gate = office.begin()
    office.acts = [lambda: office.person().append(ev.CancelRequested(reason="enough"))]
    with pytest.raises(Cancelled, match="enough"):
        office.do(gate, drain())
    assert office.approvals() == ["void"] and office.rig.balancer.asked == []
    assert office.state.state == "acting"


def test_a_denial_while_the_world_is_looked_at_again_counts(office):
    """Enough people have approved, and one says no before the change is begun: it is not made."""
    gate = office.begin()
    office.acts = [office.approve]
    office.rig.balancer.on_read = [None, None, office.deny]
    with pytest.raises(Denied, match="not today"):
        office.do(gate, drain())
    assert office.approvals() == ["denied"] and office.rig.balancer.asked == []


def test_a_source_that_cannot_be_read_leaves_no_open_request(office):
    """When the second look fails the step knows why, and may go on."""

    def fail() -> None:
        raise BadAnswer("garbage")

    gate = office.begin()
    office.acts = [office.approve]
    office.rig.balancer.on_read = [None, None, fail, fail, fail]
    with pytest.raises(BadAnswer):
        office.do(gate, drain())
    assert office.approvals() == ["void"] and office.state.state == "acting"
    assert office.do(gate, drain(), risk="low").state == "done"


def test_work_that_is_cancelled_leaves_no_open_request(office):
    """A step that gives up a change with a timeout of its own can do something else instead."""
    gate = office.begin()
    office.rig.clock.sleep = lambda seconds: asyncio.sleep(0.01)

    async def impatient() -> Any:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await gate.change(drain())
        current_step.set(StepSpec(name="work", intent="", timeout_s=60, max_targets=3))
        return await gate.change(drain(2))

    assert asyncio.run(office.rig.as_step(impatient(), **HIGH)).state == "done"
    assert office.approvals() == ["void"] and not gate.permits.asking
    assert office.state.approvals[0].why == "it was not waited for any longer"


def test_whoever_lost_the_run_does_not_wait_on(office):
    """A process whose run was taken over while it waited is fenced at once, and makes nothing."""
    gate = office.begin()

    def taken_over() -> None:
        journal = Journal(office.rig.store, RUN, "cli", clock=office.rig.clock, session=0)
        journal.append(ev.SessionBegan(session=2, purpose="resume", host="h", pid=2))

    office.acts = [taken_over]
    with pytest.raises(Fenced, match="was taken over"):
        office.do(gate, drain())
    assert office.rig.kinds()[-1] == "session_began" and office.rig.clock.monotonic() < 1


def test_people_are_asked_between_two_changes_not_in_the_middle_of_one(office):
    """Of changes made at once, one that must ask waits for those under way, and none is begun while it asks."""
    gate = office.begin()
    office.acts = [lambda: None, office.approve, office.approve]
    office.permit(gate, drain(1))

    async def slowly(call: Call, key: str, token: int) -> None:
        for _ in range(50):
            await asyncio.sleep(0)
        await FakeBalancer.apply(office.rig.balancer, call, key, token)

    office.rig.balancer.apply = slowly
    results = office.at_once(gate, drain(1), drain(2), parallel=2)
    assert [result.state for result in results] == ["done", "done"]
    kinds = [kind for kind in office.rig.kinds() if kind.startswith(("change", "approval"))][3:]
    assert kinds == ["change_intended", "change_done", "approval_requested", "approval_given", "approval_ended",
                     "change_intended", "change_done"]  # fmt: skip


def test_no_change_is_begun_while_people_are_asked(office):
    """A change that is approved already waits until the other one is answered, and is then looked at again."""
    gate = office.begin()
    office.acts = [office.approve, lambda: None, lambda: None, office.approve]
    office.permit(gate, drain(1))
    results = office.at_once(gate, drain(2), drain(1), parallel=2)
    assert [getattr(result, "state", result) for result in results] == ["done", "done"]
    kinds = [kind for kind in office.rig.kinds() if kind.startswith(("change", "approval"))][3:]
    assert kinds[:3] == ["approval_requested", "approval_given", "approval_ended"]
    assert office.approvals() == ["granted", "granted"]


def test_two_that_ask_at_once_ask_one_after_the_other_and_void_nothing(office):
    """What was granted to the one is not taken away when the other asks."""
    gate = office.begin()
    office.acts = [office.approve] * 2
    results = office.at_once(gate, drain(1), drain(2), parallel=2)
    assert [result.state for result in results] == ["done", "done"]
    assert office.approvals() == ["granted", "granted"]


def test_a_denial_stops_all_that_ask_at_once(office):
    """After a no to one of several changes of a step nobody is asked about the others."""
    gate = office.begin()
    office.acts = [office.deny]
    results = office.at_once(gate, drain(1), drain(2), drain(3), parallel=3)
    assert [type(result) for result in results] == [Denied] * 3
    assert office.approvals() == ["denied"]


def test_a_change_that_is_settled_is_journaled_though_another_asks(office):
    """In a resumed run one change may ask while another is found to hold: neither gets in the other's way."""
    gate = office.begin()
    office.acts = [office.approve]

    async def dies(call: Call, key: str, token: int) -> None:
        await FakeBalancer.apply(office.rig.balancer, call, key, token)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(office.rig.balancer, "apply", dies)
        with pytest.raises(KeyboardInterrupt):
            office.do(gate, drain(1))
    resumed = office.resume()
    office.acts = [lambda: None] * 3 + [office.approve]
    results = office.at_once(resumed, drain(2), drain(1), parallel=2)
    assert [result.how for result in results] == ["applied", "settled"]


def test_a_wait_for_a_target_is_told_though_people_are_asked(office):
    """While one change waits for people, another may wait for a target; the run says that it waits for people."""
    gate = office.begin()
    other = f"{OTHER}/there/2/bbbbbb"
    office.rig.store.acquire("target:test/checkout-2", other, office.rig.clock.now(), 15.0)
    said: list[str] = []

    def answered() -> None:
        said.append(office.state.waits_for)
        office.rig.store.release(other)
        office.approve()

    async def work() -> list[Any]:
        first = asyncio.ensure_future(gate.change(drain(1)))
        while not office.state.asks:
            await asyncio.sleep(0)
        second = asyncio.ensure_future(gate.change(drain(2)))
        office.acts = [lambda: None] * 3 + [answered, office.approve]
        return await asyncio.gather(first, second, return_exceptions=True)

    results = asyncio.run(asyncio.wait_for(office.rig.as_step(work(), **HIGH, parallel=2), 30))
    assert [getattr(result, "state", result) for result in results] == ["done", "done"]
    assert any(f"waits for checkout-2: held by run {OTHER}" in line for line in office.lines)
    assert said[0].startswith("1 approval(s) of step work") and "lease_awaited" not in office.rig.kinds()


def test_without_a_run_there_is_nothing_to_say_of_it(office):
    """What is approved names a runbook only when the journal knows one."""
    journal = Journal(office.rig.store, "none", "kernel", clock=office.rig.clock)
    permits = Gate(journal, office.rig.world(), terms=office.terms()).permits
    step = StepSpec(name="work", intent="", timeout_s=60, risk="high")
    assert permits.covering(step, [{"call": "c"}]) == [""]


def test_an_error_is_one_of_rbkits_own(office):
    """Whatever ends the wait tells the operator what to do next."""
    gate = office.begin()
    with pytest.raises(RunbookError) as caught:
        office.do(gate, drain())
    assert "Have it approved" in caught.value.todo


# Partial evidence


def partly(gate: Gate, *what: str) -> Gate:
    """Let the run decide on partial evidence."""
    gate.journal.append(ev.Decided(
        rules="r", version="1", digest="", inputs={}, trace=[], outcome="drain", target=None, why="w",
        partial=list(what),
    ))  # fmt: skip
    return gate


def risky(office: Office, *decisions: tuple[str, ...]) -> Gate:
    """Begin a run, decide, and begin its step."""
    stepping, office._stepping = office._stepping, lambda gate: gate
    gate = office.begin()
    for missing in decisions:
        partly(gate, *missing)
    return stepping(gate)


@pytest.mark.parametrize("word", ["stop", None])
def test_what_was_decided_on_partial_evidence_is_not_done_at_high_risk(office, word):
    """Refused before anybody is asked: by default, and where the environment file says so."""
    office.rules = replace(RULES, partial={"high": word} if word else {})
    gate = risky(office, ("memory is missing",))
    with pytest.raises(GuardRail, match="decided on partial evidence .memory is missing.*for risk high"):
        office.do(gate, drain())
    assert office.rig.balancer.log == [] and not office.state.approvals


def test_it_may_need_an_approval_that_it_would_not_need_otherwise(office):
    """The plan that people see says on what it does not rest."""
    office.rules = replace(RULES, needed={"high": 0}, partial={"high": "approve"})
    office.acts = [office.approve]
    gate = risky(office, ("memory is missing",))
    office.do(gate, drain())
    (approval,) = office.state.approvals
    assert (approval.request.needed, approval.result) == (1, "granted")
    assert approval.request.plan["facts"]["partial_evidence"] == ["memory is missing"]


@pytest.mark.parametrize("what", [(), ("memory is missing",)])
def test_it_goes_on_where_the_environment_file_says_so(office, what):
    """And a decision on whole evidence is nobody's concern, whatever the policy."""
    office.rules = replace(RULES, needed={"high": 0}, partial={"high": "go"} if what else {"high": "stop"})
    office.do(risky(office, what), drain())
    assert len(office.rig.balancer.log) == 1 and not office.state.approvals


def test_the_newest_decision_of_a_rule_set_counts(office):
    """When the source has come back and the rules were applied again, nothing is partial any more."""
    office.rules = replace(RULES, needed={"high": 0})
    office.do(risky(office, ("memory is missing",), ()), drain())
    assert len(office.rig.balancer.log) == 1
