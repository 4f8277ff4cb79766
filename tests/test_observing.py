"""Reads the world, or the tape in a replay, and every question is journaled with its answer."""

import asyncio
import json
from typing import Any

import pytest
from conftest import ENVIRONMENT

from rbkit.adapters.fakes import FakeBalancer
from rbkit.clock import FakeClock
from rbkit.costs import spend
from rbkit.environment import Environment
from rbkit.errors import BadAnswer, IllegalMove, StoreUnavailable, Unreachable
from rbkit.observing import window_of
from rbkit.ports import Plan, action, read
from rbkit.record.summary import tell
from rbkit.terms import Terms
from rbkit.wiring import Wiring

MEMBERS = {"checkout": ["checkout-1", "checkout-2", "checkout-3"]}


def test_an_observation_is_journaled_with_its_answer(rig) -> None:
    """The question is rendered safely, the answer lies on the tape, the numbers carry their unit."""
    rig.samples(100.0, 200.0)
    gate = rig.open()
    signal = asyncio.run(gate.observe("memory", "1m", {"service": "checkout"}))
    (event,) = rig.events("observed")
    assert (event["query"], event["rows"], event["arguments"]["last"]) == ('memory{service="checkout"}', 2, "1m")
    assert len(json.loads(rig.store.fetch(event["answer"]))["rows"]) == 2
    assert (signal.unit, signal.latest.to_dict(), gate.observer.weak) == ("MB", {"checkout-1": 200.0}, [])
    assert gate.observer.evidence == ["memory checkout-1 200 MB"]


def test_numbers_come_in_the_unit_of_the_environment_file(rig) -> None:
    """The factor is applied to what was recorded, so a replay shows the same."""
    rig.samples(1.5)
    gate = rig.open()
    signal = asyncio.run(gate.observe("kilobytes", "1m", {"service": "checkout"}))
    assert (signal.latest.to_dict(), signal.unit) == ({"checkout-1": 1500.0}, "kB")


@pytest.mark.parametrize(
    ("values", "age", "why"),
    [((), 0, "no samples"), ((float("nan"),), 0, "only NaN"), ((1.0,), 40, "40s old")],
)
def test_weak_evidence_is_remembered(rig, values, age, why) -> None:
    """Empty, NaN and stale answers are remembered as weak, also when they come from the tape."""
    rig.samples(*values, age_s=age)
    gate = rig.open()
    asyncio.run(gate.observe("memory", "1m", {"service": "checkout"}))
    replay = rig.open("replay", run="20260101-000000-bbbbbb", tape=gate.journal.run)
    asyncio.run(replay.observe("memory", "1m", {"service": "checkout"}))
    assert why in gate.observer.weak[0] and replay.observer.weak == gate.observer.weak


def test_a_signal_without_its_label_is_one_series(rig) -> None:
    """When the label that tells series apart is missing, the signal's name stands in."""
    rig.samples(5.0)
    rig.metrics.frames = {query: frame.drop(columns="instance") for query, frame in rig.metrics.frames.items()}
    signal = asyncio.run(rig.open().observe("memory", "1m", {"service": "checkout"}))
    assert signal.latest.to_dict() == {"memory": 5.0}


def test_logs_have_no_value(rig) -> None:
    """An answer without numbers stays as it is."""

    class Lines:
        language = "promql"

        async def query(self, query: str, window: Any) -> Any:
            import pandas as pd

            return pd.DataFrame({"time": [window.end], "message": ["hello"]})

    rig.metrics = Lines()
    signal = asyncio.run(rig.open().observe("memory", "1m", {"service": "checkout"}))
    assert "value" not in signal.frame and signal.facts == "memory 1 lines"


def test_a_read_of_one_value_counts_as_one(rig) -> None:
    """A read may answer something else than a list."""

    class Counting(FakeBalancer):
        @read
        async def count(self) -> int:
            return 3

        @action
        def nothing(self, before: dict[str, Any]) -> Plan:
            return Plan(after={})

    rig.balancer = Counting(MEMBERS)
    gate = rig.started()
    assert asyncio.run(gate.read("balancer", "count", {})) == 3
    assert rig.events("observed")[0]["rows"] == 1
    assert rig.change(gate, "nothing").inverse is None


def test_a_replay_needs_a_tape(rig) -> None:
    """A replay without a recorded run says so."""
    with pytest.raises(IllegalMove, match="needs the run"):
        asyncio.run(rig.open("replay").observe("memory", "1m", {"service": "checkout"}))


def test_a_replay_answers_reads_and_signals_from_the_tape(rig) -> None:
    """Every answer comes back as the type it had, in the order in which it was recorded, without asking the world."""
    rig.samples(1.0, 2.5)
    gate = rig.open()
    asyncio.run(gate.observe("memory", "1m", {"service": "checkout"}))
    asyncio.run(gate.read("balancer", "members", {"service": "checkout"}))
    rig.metrics.frames.clear()
    rig.balancer = FakeBalancer({})
    replay = rig.open("replay", run="20260101-000000-bbbbbb", tape=gate.journal.run)
    signal = asyncio.run(replay.observe("memory", "1m", {"service": "checkout"}))
    members = asyncio.run(replay.read("balancer", "members", {"service": "checkout"}))
    assert signal.latest.to_dict() == {"checkout-1": 2.5}
    assert [(member.name, member.healthy) for member in members][:1] == [("checkout-1", True)]
    assert rig.kinds("20260101-000000-bbbbbb") == ["run_opened", "observed", "observed"]


@pytest.mark.parametrize("failures", [2, 3])
def test_a_read_is_tried_three_times(rig, failures) -> None:
    """A source that cannot be reached for a moment costs nothing; one that stays away is an error, and no answer."""
    left = [Unreachable("gone"), BadAnswer("garbage"), Unreachable("gone for good")][:failures]

    class Flaky(FakeBalancer):
        @read
        async def members(self, service: str) -> list[Any]:
            if left:
                raise left.pop(0)
            return await super().members(service)

    Flaky.members.__annotations__["return"] = FakeBalancer.members.__annotations__["return"]
    rig.balancer = Flaky(MEMBERS)
    gate = rig.open()
    if failures < 3:
        assert len(asyncio.run(gate.read("balancer", "members", {"service": "checkout"}))) == 3
        return
    with pytest.raises(Unreachable, match="gone for good"):
        asyncio.run(gate.read("balancer", "members", {"service": "checkout"}))
    assert rig.kinds() == ["run_opened"]


@pytest.mark.parametrize("seconds", [10, 1000])
def test_an_answer_is_kept_when_the_store_is_back(rig, monkeypatch, seconds) -> None:
    """A tape that cannot be written for a moment costs nothing; without a tape there is no observation."""
    gate, keep = rig.open(), rig.store.keep

    def away(name: str, data: bytes) -> None:
        if rig.clock.monotonic() < seconds:
            raise StoreUnavailable("The store is away.")
        keep(name, data)

    monkeypatch.setattr(rig.store, "keep", away)
    asked = gate.read("balancer", "members", {"service": "checkout"})
    if seconds == 10:
        assert len(asyncio.run(asked)) == 3 and rig.store.fetch(rig.events("observed")[0]["answer"])
        return
    with pytest.raises(StoreUnavailable):
        asyncio.run(asked)
    assert rig.kinds() == ["run_opened"]


def test_several_reads_at_once_are_all_journaled(rig) -> None:
    """Reads that are gathered are each written down with their own answer."""
    gate = rig.open()

    async def both() -> list[Any]:
        reads = (gate.read(name, "instances" if name == "services" else "members", {"service": "checkout"})
                 for name in ("balancer", "services"))  # fmt: skip
        return await asyncio.gather(*reads)

    assert [len(found) for found in asyncio.run(both())] == [3, 3]
    assert sorted(event["name"] for event in rig.events("observed")) == ["balancer.members", "services.instances"]


# Degraded sources

SECOND = {
    "name": "test",
    "sources": {
        "metrics": {"adapter": "fake"}, "spare": {"adapter": "fake"},
        "far": {"adapter": "prometheus", "url": "file:/no"},
    },
    "signals": {
        "memory": {"source": "metrics", "query": "memory{service=$service}", "unit": "MB", "otherwise": "memory_kb"},
        "memory_kb": {
            "source": "spare", "query": "kb{service=$service}", "multiply": 0.001, "unit": "MB", "otherwise": "memory",
        },
        "alone": {"source": "metrics", "query": "memory{service=$service}", "unit": "MB"},
        "spared": {
            "source": "metrics", "query": "memory{service=$service}", "essential": False, "otherwise": "away",
        },
        "away": {"source": "far", "query": "memory{service=$service}"},
    },
}  # fmt: skip


class Ill:
    """A source that does not answer."""

    language = "promql"

    async def query(self, query: str, window: Any) -> Any:
        """Fail."""
        raise Unreachable("connection refused")


def degraded(rig: Any, *, spare: Any = None) -> Any:
    """Wire an ill source of metrics and a spare one with the same samples, in kB."""
    rig.samples(100_000.0, 412_000.0)
    rig.metrics.frames = {'kb{service="checkout"}': next(iter(rig.metrics.frames.values()))}
    ports = {"source metrics": Ill(), "source spare": spare or rig.metrics}
    rig.world = lambda: Wiring(Environment.model_validate(SECOND), ports)
    return rig.open()


def see(gate: Any, name: str) -> Any:
    """Observe a signal."""
    return asyncio.run(gate.observe(name, "1m", {"service": "checkout"}))


def test_another_source_answers_where_the_first_one_does_not(rig) -> None:
    """Meant as its own signal says, named as what was asked for; a banner, the journal and the signal say so."""
    lines: list[str] = []
    rig.terms = Terms(holder=rig.terms.holder, say=lambda glyph, text: lines.append(f"{glyph} {text}"))
    signal = see(degraded(rig), "memory")
    assert (signal.name, signal.latest.to_dict(), signal.weak) == ("memory", {"checkout-1": 412.0}, "")
    assert lines == [f"⚠ {signal.partial}"] == ["⚠ memory was read from memory_kb, as its own source did not answer"]
    (event,) = rig.events("observed")
    assert (event["name"], event["instead"], event["source"]) == ("memory", "memory_kb", "spare")
    assert "memory_kb" in tell(rig.journal().state.timeline[-1])


def test_what_another_source_answered_is_replayed_as_that(rig) -> None:
    """The tape knows who answered, so the numbers are the same."""
    gate = degraded(rig)
    signal = see(gate, "memory")
    replay = rig.open("replay", run="20260101-000000-bbbbbb", tape=gate.journal.run)
    again = see(replay, "memory")
    assert (again.latest.to_dict(), again.partial) == (signal.latest.to_dict(), signal.partial)


def test_when_none_answers_the_first_ones_error_is_told(rig) -> None:
    """Sources that name each other are each asked once."""
    with pytest.raises(Unreachable, match="connection refused"):
        see(degraded(rig, spare=Ill()), "memory")
    with pytest.raises(Unreachable, match="connection refused"):
        see(rig.gate(), "alone")
    assert rig.events("observed") == []


def test_a_signal_that_is_not_essential_may_be_missing(rig) -> None:
    """Nothing comes instead of an error, and it says why; also where a source cannot even be made."""
    gate = degraded(rig)
    signal = see(gate, "spared")
    assert signal.frame.empty and signal.weak == "spared has no samples" and not signal.essential
    assert signal.partial.startswith("spared is missing: connection refused; No address is published")
    (event,) = rig.events("observed")
    assert event["missing"] and event["cost"] == {"bytes": 0, "attempts": 0}
    assert tell(rig.journal().state.timeline[-1]).startswith("observed nothing of spared: connection refused")
    again = see(rig.open("replay", run="20260101-000000-bbbbbb", tape=gate.journal.run), "spared")
    assert again.partial == signal.partial


def test_what_a_question_cost_is_in_the_journal(rig) -> None:
    """Bytes and attempts, so that somebody can see what reading has done to production."""
    left = [Unreachable("x")]

    class Costly:
        language = "promql"

        async def query(self, query: str, window: Any) -> Any:
            if left:
                raise left.pop()
            spend(12_300, "It")
            return await rig.metrics.query(query, window)

    rig.samples(1.0)
    rig.world = lambda: Wiring(ENVIRONMENT, {"source metrics": Costly()})
    see(rig.open(), "memory")
    assert rig.events("observed")[0]["cost"] == {"bytes": 12_300, "attempts": 2}
    assert ", 12.3 kB, 2 attempts from metrics" in tell(rig.journal().state.timeline[-1])


@pytest.mark.parametrize(("last", "step_s"), [("1m", 5.0), ("83m", 5.0), ("24h", 86.4)])
def test_a_long_stretch_is_read_less_densely(last, step_s) -> None:
    """No more points than the environment file allows, however far back somebody looks."""
    spec = ENVIRONMENT.signal("memory")
    window = window_of(spec, last, FakeClock().now())
    assert window.step_s == pytest.approx(step_s)
    assert (window.end - window.start).total_seconds() / window.step_s <= spec.max_points
