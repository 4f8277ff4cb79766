"""Everything that keeps alerts quiet, in memory or real, keeps the same promises."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from pings import pinged
from servers.alertmanager import alertmanager, post

from rbkit.adapters.alertmanager import AlertmanagerSilences
from rbkit.adapters.fake_signals import FakeSilences
from rbkit.errors import NotFound, Refused
from rbkit.facts import Call
from rbkit.kinds import Silences

COVERED = "CoveredBySomebody"
MINUTES = {"minutes": 10, "why": 'a "reason"\nof two lines'}


def matching(url: str, *matchers: tuple[str, str, bool], starts_s: float = 0.0, equal: bool = True) -> str:
    """Make a silence as somebody else would."""
    now = datetime.now(UTC)
    return str(post(f"{url}/api/v2/silences", {
        "matchers": [{"name": n, "value": v, "isRegex": r, "isEqual": equal} for n, v, r in matchers],
        "startsAt": (now + timedelta(seconds=starts_s)).isoformat(),
        "endsAt": (now + timedelta(hours=2)).isoformat(), "createdBy": "mallory [rbkit:x]", "comment": "[rbkit:mine",
    })["silenceID"])  # fmt: skip


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Alertmanager in which somebody has silenced one name."""
    with alertmanager(tmp_path_factory.mktemp("alertmanager")) as url:
        matching(url, ("alertname", COVERED, False))
        yield url


@pytest.fixture
def reach(real: str) -> Callable[[Callable[[AlertmanagerSilences], Awaitable[Any]]], Any]:
    """Run a coroutine with the real Alertmanager's silences."""

    async def closed(work: Any) -> Any:
        adapter = AlertmanagerSilences(real)
        try:
            return await work(adapter)
        finally:
            await adapter.aclose()

    return lambda work: asyncio.run(closed(work))


@pytest.fixture(params=["fake", "alertmanager"])
def use(request: pytest.FixtureRequest) -> Callable[[Callable[[Silences], Awaitable[Any]]], Any]:
    """Run a coroutine with silences of which one was made by somebody else."""
    if request.param == "fake":
        fake = FakeSilences([COVERED])
        return lambda work: asyncio.run(work(fake))
    found: Callable[[Callable[[Silences], Awaitable[Any]]], Any] = request.getfixturevalue("reach")
    return found


@pytest.fixture
def name() -> str:
    """An alert's name that no other test uses, with what a name can hold."""
    return f'High "Memory" \\{uuid4().hex}|.* é'


def silence(name: str, **arguments: Any) -> Call:
    """Make a call that silences."""
    return Call(capability="silences", action="silence", target=name, arguments=MINUTES | arguments)


def wake(name: str) -> Call:
    """Make a call that wakes."""
    return Call(capability="silences", action="wake", target=name)


def test_a_name_that_nobody_silenced_speaks(use, name) -> None:
    """Any name can be asked for; an empty one, or one with a broken character, is none."""
    assert use(lambda s: s.state(name)) == {"silent": False, "until": None}
    with pytest.raises(NotFound, match="no alert's name"):
        use(lambda s: s.state(""))


def test_silence_and_wake_come_true_and_go_back(use, name) -> None:
    """What a plan wants is what the state shows afterwards; the plan's way back restores the state before."""
    before = use(lambda s: s.state(name))
    plan = use(lambda s: planned(s, silence(name), before))
    assert plan.undo == ("wake", {}) and not plan.irreversible
    asked = datetime.now(UTC)
    use(lambda s: s.apply(silence(name), uuid4().hex, 1))
    state = use(lambda s: s.state(name))
    assert plan.after.items() <= state.items()
    slack = timedelta(seconds=30)
    assert abs(datetime.fromisoformat(state["until"]) - asked - timedelta(minutes=10)) < slack
    use(lambda s: s.apply(wake(name), uuid4().hex, 1))
    assert use(lambda s: s.state(name)) == before


async def planned(silences: Silences, call: Call, before: dict[str, Any]) -> Any:
    """Plan a call."""
    return silences.plan(call, before)


def test_a_silence_is_for_its_name_only(use, name) -> None:
    """Names that begin alike, or that the name would match if it were a pattern, speak."""
    use(lambda s: s.apply(silence(name), uuid4().hex, 1))
    for other in (name + "x", name[:-1], name.split("|")[0]):
        assert not use(lambda s, other=other: s.state(other))["silent"]


def test_a_repeated_key_acts_once(use, name) -> None:
    """A silence that arrives once more after the alert was woken does not silence it again, whatever its token."""
    key = uuid4().hex
    for call, known in ((silence(name), key), (wake(name), uuid4().hex), (silence(name), key)):
        use(lambda s, call=call, known=known: s.apply(call, known, 1))
    use(lambda s: s.apply(silence(name, minutes=20), key, 2))
    assert not use(lambda s: s.state(name))["silent"]


def test_another_key_acts_again(use, name) -> None:
    """The longest silence counts; waking ends all of them, and waking what speaks is no error."""
    for minutes in (30, 10):
        use(lambda s, minutes=minutes: s.apply(silence(name, minutes=minutes), uuid4().hex, 1))
    assert use(lambda s: s.state(name))["silent"]
    for _ in range(2):
        use(lambda s: s.apply(wake(name), uuid4().hex, 1))
        assert not use(lambda s: s.state(name))["silent"]


def test_what_somebody_else_silenced_stays(use) -> None:
    """The plan says that there is no way back, and waking is refused before anything is done."""
    before = use(lambda s: s.state(COVERED))
    assert before["silent"]
    plan = use(lambda s: planned(s, silence(COVERED), before))
    assert plan.undo is None and "somebody else" in plan.irreversible
    with pytest.raises(Refused, match="covers CoveredBySomebody"):
        use(lambda s: s.apply(wake(COVERED), uuid4().hex, 1))
    assert use(lambda s: s.state(COVERED))["silent"]


@pytest.mark.parametrize(
    "arguments", [{"minutes": 0, "why": "x"}, {"minutes": 1441, "why": "x"}, {"minutes": 5, "why": " "}]
)
def test_a_silence_has_a_reason_and_an_end(use, name, arguments) -> None:
    """The plan refuses one that is too long or that nobody can explain."""
    with pytest.raises(Refused, match="a reason"):
        use(lambda s: planned(s, silence(name, **arguments), {"silent": False}))


def test_alertmanager_keeps_who_and_why(reach, real, name) -> None:
    """The comment holds the reason and the key, so that people and later processes see whose it is."""
    import json
    from urllib.request import ProxyHandler, build_opener

    reach(lambda s: s.apply(silence(name), "run/step/0", 1))
    with build_opener(ProxyHandler({})).open(f"{real}/api/v2/silences") as answer:
        (found,) = [one for one in json.load(answer) if one["matchers"][0]["value"] == name]
    assert (found["createdBy"], found["comment"]) == ("rbkit", f"{MINUTES['why']} [rbkit:run/step/0]")
    assert found["matchers"] == [{"name": "alertname", "value": name, "isRegex": False, "isEqual": True}]


def test_alertmanager_counts_a_silence_only_if_it_covers_the_whole_name(reach, real) -> None:
    """One of a part of the alerts, one of other alerts, one that is yet to begin, and a pattern leave it speaking."""
    own = uuid4().hex
    matching(real, ("alertname", f"A{own}", False), ("service", "checkout", False))
    matching(real, ("service", f"B{own}", False))
    matching(real, ("alertname", f"C{own}", False), starts_s=3600)
    matching(real, ("alertname", f"D{own}.*", True))
    matching(real, ("alertname", f"E{own}", False), equal=False)
    matching(real, ("alertname", f"F{own}|G{own}", True))
    silent = [letter for letter in "ABCDEFG" if reach(lambda s, letter=letter: s.state(f"{letter}{own}"))["silent"]]
    assert silent == ["F", "G"]


def test_alertmanager_wakes_beside_a_silence_that_is_yet_to_begin(reach, real, name) -> None:
    """Somebody's silence of tomorrow does not forbid to end ours of today, and is left as it is."""
    matching(real, ("alertname", name, False), starts_s=3600)
    reach(lambda s: s.apply(silence(name), uuid4().hex, 1))
    reach(lambda s: s.apply(wake(name), uuid4().hex, 1))
    assert not reach(lambda s: s.state(name))["silent"]
    reach(lambda s: s.apply(wake(name), uuid4().hex, 1))


def test_ping_says_who_we_are_and_what_we_may_do(real) -> None:
    """One line that names the system, and that we read and write."""
    assert "reads and writes" in pinged(FakeSilences())
    assert "without credentials; reads and writes" in pinged(AlertmanagerSilences(real))
