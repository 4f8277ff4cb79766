"""Reads the world, or the tape in a replay, and every question is journaled with its answer."""

import asyncio
import json
from typing import Any

import pytest

from rbkit.adapters.fakes import FakeBalancer
from rbkit.errors import BadAnswer, IllegalMove, StoreUnavailable, Unreachable
from rbkit.ports import Plan, action, read

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
