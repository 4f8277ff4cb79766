"""What the tests share: a world in memory on a clock that stands still, and a real sandbox."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest

from rbkit import events as ev
from rbkit.adapters.fakes import FakeBalancer, FakeMetrics, FakeServices
from rbkit.clock import FakeClock
from rbkit.contract import CheckSpec, Contract, StepSpec
from rbkit.entries import Entry, seal_entry
from rbkit.environment import Environment
from rbkit.errors import IllegalMove
from rbkit.events import Call, Event, Mode
from rbkit.fold import RunState
from rbkit.gate import Gate, current_step
from rbkit.journal import Journal
from rbkit.masking import forget
from rbkit.policy import ApprovalRules
from rbkit.run import Run
from rbkit.sandbox import lifecycle
from rbkit.sandbox.layout import INSTANCES, Layout
from rbkit.stores.memory import MemoryStore
from rbkit.tape import Tape
from rbkit.terms import Terms
from rbkit.wiring import Wiring

RUN = "20260101-000000-aaaaaa"
HOLDER = f"{RUN}/here/1/abcdef"
AT = "2026-01-01T00:00:00"
QUERY = 'memory{service="checkout"}'
ENVIRONMENT = Environment.model_validate(
    {
        "name": "test",
        "sources": {"metrics": {"adapter": "fake"}},
        "signals": {
            "memory": {"source": "metrics", "query": "memory{service=$service}", "unit": "MB"},
            "kilobytes": {"source": "metrics", "query": "memory{service=$service}", "multiply": 1000.0, "unit": "kB"},
        },
        "capabilities": {"balancer": {"adapter": "fake"}, "services": {"adapter": "fake"}},
    }
)


@dataclass
class ListScreen:
    """A screen that remembers what it showed."""

    lines: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def plan(self, run: Run) -> None:
        """Remember that the plan was shown."""
        self.lines.append(f"plan of {run.contract.name}")

    def line(self, glyph: str, text: str) -> None:
        """Remember one line."""
        self.lines.append(f"{glyph} {text}")

    def summary(self, state: RunState) -> None:
        """Remember how the run ended."""
        self.ended.append(state.outcome)


@dataclass
class Rig:
    """A world in memory: a store, a clock, two capabilities and a source of metrics."""

    store: MemoryStore = field(default_factory=MemoryStore)
    clock: FakeClock = field(default_factory=FakeClock)
    balancer: Any = field(default_factory=lambda: FakeBalancer({"checkout": INSTANCES}))
    services: Any = field(default_factory=lambda: FakeServices({"checkout": INSTANCES}))
    metrics: Any = field(default_factory=lambda: FakeMetrics({}))
    screen: ListScreen = field(default_factory=ListScreen)
    rules: Path = Path()
    terms: Terms = field(default_factory=lambda: Terms(rules=ApprovalRules(needed={"high": 1}), holder=HOLDER))

    def world(self) -> Wiring:
        """Wire the fakes by the names of the environment file."""
        ports = {"capability balancer": self.balancer, "capability services": self.services}
        return Wiring(ENVIRONMENT, {"source metrics": self.metrics, **ports})

    def journal(self, run: str = RUN, source: str = "kernel") -> Journal:
        """See a run's journal as one more process does."""
        return Journal(self.store, run, source, actor="os:test", clock=self.clock)

    def gate(self, mode: Mode = "live", *, run: str = RUN, tape: str = "") -> Gate:
        """Make one more gate on a run."""
        recorded = Tape(self.store, self.journal(tape).entries) if tape else None
        return Gate(self.journal(run), self.world(), mode=mode, tape=recorded, terms=self.terms)

    def open(self, mode: Mode = "live", *, run: str = RUN, tape: str = "") -> Gate:
        """Open a run and return its gate."""
        gate = self.gate(mode, run=run, tape=tape)
        gate.journal.append(
            ev.RunOpened(
                runbook="test",
                version="1",
                owner="me",
                mode=mode,
                environment="test",
                environment_digest="",
                digest="",
                contract={},
                parameters={},
                driver="headless",
                host="h",
                pid=1,
                notebook="",
                budget_s=60,
            )  # fmt: skip
        )
        return gate

    def run(self, mode: Mode = "live", *, run: str = RUN, tape: str = "", **more: Any) -> Run:
        """Open a run as a notebook holds it."""
        steps = more.pop("steps", ())
        checks = more.pop("checks", ())
        contract = Contract(name="test", version="1", owner="me", budget_s=60, digest="", steps=steps, checks=checks)
        return Run(
            contract, complete=True, parameters={"environment": "test", "limit": 300.0},
            gate=self.open(mode, run=run, tape=tape), rules=self.rules, screen=self.screen, fresh_world=self.world,
            attended=more.pop("attended", False),
        )  # fmt: skip

    def started(self, mode: Mode = "live", **more: Any) -> Gate:
        """Open a run whose step `work` has begun."""
        gate = self.open(mode, **more)
        gate.journal.append(ev.StepStarted(step="work", intent="", risk="low", timeout_s=60, deadline=""))
        return gate

    def change(self, gate: Gate, action: str, target: str = "checkout-1", **limits: Any) -> Any:
        """Make a change as the step `work` does."""
        capability = "services" if action in {"restart", "stop", "start"} else "balancer"
        call = Call(capability=capability, action=action, target=target)
        return asyncio.run(self.as_step(gate.change(call), **limits))

    @staticmethod
    async def as_step(work: Coroutine[Any, Any, Any], **limits: Any) -> Any:
        """Await something inside the step `work`."""
        token = current_step.set(StepSpec(name="work", intent="", timeout_s=60, **limits))
        try:
            return await work
        finally:
            current_step.reset(token)

    def samples(self, *values: float, age_s: float = 0.0, instance: str = "checkout-1") -> None:
        """Let the metrics answer these values, one a second, the newest as old as said."""
        newest = self.clock.now() - timedelta(seconds=age_s)
        times = [newest - timedelta(seconds=len(values) - 1 - place) for place in range(len(values))]
        frame = pd.DataFrame({"time": times, "value": list(values), "instance": instance})
        self.metrics.frames[QUERY] = frame.astype({"time": "datetime64[ns, UTC]", "value": "float64"})

    def kinds(self, run: str = RUN) -> list[str]:
        """List the kinds of a run's events."""
        return [entry.event["kind"] for entry in self.store.read(run)]

    def events(self, kind: str, run: str = RUN) -> list[dict[str, Any]]:
        """List a run's events of one kind."""
        return [entry.event for entry in self.store.read(run) if entry.event["kind"] == kind]

    def states(self, service: str = "checkout") -> dict[str, str]:
        """Tell what the balancer does with each member."""
        return {member.name: member.state for member in asyncio.run(self.balancer.members(service))}


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a module's tests on one worker, as they share a server; crash tests share nothing and fill the gaps."""
    for item in items:
        if item.path.parent.name != "crash":
            item.add_marker(pytest.mark.xdist_group(f"{item.path.parent.name}-{item.path.stem}"))
    items.sort(key=lambda item: item.path.parent.name == "crash")


@pytest.fixture(autouse=True)
def unmasked() -> Iterator[None]:
    """Let no test know the secrets of another: they would be masked in its texts."""
    yield
    forget()


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """A world in memory."""
    return Rig(rules=tmp_path)


@pytest.fixture
def check_spec() -> Callable[..., CheckSpec]:
    """Describe a check named `ok`."""
    return lambda phase="precondition", within=30.0: CheckSpec(name="ok", phase=phase, sentence="", within_s=within)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layout]:
    """A real sandbox for a module: its load is work for the machine as long as it lives."""
    home = tmp_path_factory.mktemp("rbkit") / "sandbox"
    status = lifecycle.up(home, lifecycle.free_base_port())
    yield Layout(home.resolve(), status.port)
    lifecycle.down(home)


@pytest.fixture
def well(sandbox: Layout) -> Iterator[Layout]:
    """The module's sandbox, made well again after the test."""
    yield sandbox
    lifecycle.heal(sandbox.home)
    until(lambda: all(m["healthy"] and m["state"] == "ready" for m in lifecycle.status(sandbox.home).members))


def until(condition: Callable[[], object], within_s: float = 25.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., None]:
    """Wait until a condition holds."""
    return until


def _every_event(text: str) -> list[Event]:
    """Make one event of every kind and with every move, all about step `s`, check `c` and change `k`."""
    call = Call(capability="balancer", action="drain", target=text)
    change = {"step": "s", "call": call, "before": {"state": text}, "after": {"state": "drain"}, "inverse": call}
    end = {"step": "s", "seconds": 1.0}
    lost = {"error": "E", "why": text}
    decided = {
        "rules": "r", "version": "1", "digest": "", "inputs": {"n": 1.0}, "trace": [{"holds": True}], "outcome": text,
        "target": None, "why": "",
    }  # fmt: skip
    check = {"name": "c", "why": text, "seconds": 0.5}
    return [
        ev.RunOpened(
            runbook=text, version="1", owner="me", mode="live", environment="test", environment_digest="",
            digest="", contract={}, parameters={"n": 1.5, "on": True}, driver="headless", host="h", pid=1,
            notebook="", budget_s=60,
        ),
        ev.InputRefused(runbook="b", field="f", why=text),
        ev.BreakerSet(endpoint="e", to="open", reason=text),
        ev.TokenTold(run="r", what="issued", accessor="a", why=text),
        *(ev.CheckStarted(name="c", phase=phase, sentence=text) for phase in get_args(ev.Phase)),
        *(
            ev.CheckEnded(phase=phase, verdict=verdict, **check)
            for phase in get_args(ev.Phase) for verdict in get_args(ev.Verdict4)
        ),
        ev.CheckSkipped(name="c2", phase="postcondition", why=text),
        ev.Observed(name="m", source="x", query=text, arguments={"n": 1}, rows=3, answer="", seconds=0.25),
        *(ev.Decided(ends=ends, **decided) for ends in ("", "not_applicable", "needs_operator")),
        ev.StepStarted(step="s", intent=text, risk="low", timeout_s=60, deadline="2026-01-01T00:01:00"),
        *(ev.SessionBegan(session=n, purpose=why, host="h", pid=1) for n, why in enumerate(get_args(ev.Purpose), 2)),
        ev.LeaseAwaited(target=text, holder="r", until="2026-01-01T00:00:09"),
        ev.RollingPlanned(step="s", action="a.b", targets=[text], batches=[1], max_errors=0, at_least=0),
        ev.RollingEnded(step="s", done=[], failed=[(text, "why")], remaining=[]),
        ev.FallbackChosen(step="s", otherwise="s2", risk="low", how="automatic"),
        ev.StepDone(result={"n": [1, 2.5, None, True]}, **end),
        ev.StepPlanned(**end),
        ev.StepFailed(**end, **lost),
        ev.StepUnknown(**end, **lost),
        ev.StepSkipped(step="s2", why=text),
        ev.ChangeIntended(key="k", **change),
        ev.ChangeIntended(key="u", undoes="k", **change),
        ev.ChangePlanned(key="p", **change),
        *(ev.ChangeDone(key=key, how="applied", after={"state": "drain"}, seconds=1.0) for key in ("k", "u")),
        ev.ChangeFailed(key="k", **lost),
        ev.ChangeUnknown(key="k", **lost),
        ev.ApprovalRequested(
            step="s", risk="high", needed=1, digest="d", plan={"changes": []}, until="2026-01-01T00:00:05",
            valid_s=60, approvers=["*"], own=True,
        ),
        ev.ApprovalGiven(digest="d"),
        ev.ApprovalDenied(digest="d", reason=text),
        *(ev.ApprovalEnded(digest="d", result=end, why=text) for end in ("granted", "denied", "expired", "void")),
        ev.ConfirmationRequested(until="2026-01-01T00:00:05"),
        ev.Confirmed(reason=text),
        ev.Asked(name="q", prompt=text, options=["y", "n"], default="n"),
        ev.Answered(name="q", answer="y", how="operator"),
        ev.CancelRequested(reason=text),
        ev.RollbackStarted(why=text, undo=["k"], irreversible=[]),
        ev.RollbackEnded(undone=["k"], left=[], in_doubt=[]),
        ev.RollbackEnded(undone=[], left=[], in_doubt=[]),
        ev.RollbackEnded(undone=[], left=["k"], in_doubt=[]),
        *(ev.RunClosed(outcome=outcome, reason=text) for outcome in get_args(ev.Outcome)),
        ev.RecordSealed(notebook="", cells=[text]),
    ]  # fmt: skip


@pytest.fixture(scope="session")
def every_event() -> Callable[[str], list[Event]]:
    """Make one event of every kind and with every move, with a text of the caller's in it."""
    return _every_event


def _legal(state: RunState, event: Event) -> bool:
    try:
        state.check(event, AT, "os:test")
    except IllegalMove:
        return False
    return True


def _newer(state: RunState, event: Event) -> Event:
    """Make a session newer than the one before it."""
    newer = {"session": state.session + 1}
    return event.model_copy(update=newer) if isinstance(event, ev.SessionBegan) else event


def _walk(choices: Iterable[int], text: str = "x", run: str = RUN) -> list[Entry]:
    """Write a legal journal: each choice takes one of the events that are legal there."""
    state, entries = RunState(), list[Entry]()
    for choice in choices:
        events = [_newer(state, event) for event in _every_event(text)]
        legal = [event for event in events if _legal(state, event)]
        if not legal:
            break  # a run that nobody holds, and no newer session to take it over
        event = legal[choice % len(legal)]
        prev = entries[-1].hash if entries else ""
        entries.append(seal_entry(run, len(entries), AT, "os:test", "kernel", event, prev))
        state.apply(entries[-1], event)
    return entries


@pytest.fixture(scope="session")
def walk() -> Callable[..., list[Entry]]:
    """Write a legal journal from a list of choices."""
    return _walk
