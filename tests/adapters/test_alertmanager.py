"""Alertmanager answers in the documented form or not at all, and a doubt is never called a failure."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbkit.adapters.alertmanager import AlertmanagerAlerts, AlertmanagerSilences, matcher
from rbkit.errors import BadAnswer, MayHaveActed, NotFound, ParameterError, Refused, Unreachable
from rbkit.facts import Call
from rbkit.ports import Window
from rbkit.testing.double import Answer, Double, Request

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
WINDOW = Window(NOW - timedelta(minutes=5), NOW, 1.0)
ALERT: dict[str, Any] = {
    "labels": {"alertname": "A", "severity": "info", "state": "mine"}, "annotations": {}, "fingerprint": "f",
    "startsAt": NOW.isoformat(), "endsAt": NOW.isoformat(), "receivers": [{"name": "r"}],
    "status": {"state": "active", "silencedBy": [], "inhibitedBy": []}, "updatedAt": NOW.isoformat(),
}  # fmt: skip
SILENCE: dict[str, Any] = {
    "id": "one", "status": {"state": "active"}, "endsAt": NOW.isoformat(), "createdBy": "rbkit",
    "comment": "why [rbkit:k]", "matchers": [{"name": "alertname", "value": "A", "isRegex": False}],
}  # fmt: skip


def parsed(text: str) -> tuple[str, str]:
    """Read a matcher as Alertmanager does.

    Source: https://github.com/prometheus/alertmanager/blob/v0.25.0/pkg/labels/parse.go
    """
    found = re.fullmatch(r"\s*([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(=~|=|!=|!~)\s*(.*?)\s*", text, re.DOTALL)
    assert found and found[2] == "=" and found[3].startswith('"')
    value, escaped, closed = "", False, False
    for char in found[3][1:]:
        assert not closed, "something after the closing quote"
        if escaped:
            value += {"n": "\n", '"': '"', "\\": "\\"}.get(char, "\\" + char)
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == '"':
            closed = True
        else:
            value += char
    assert closed
    return found[1], value


@settings(derandomize=True, max_examples=500)
@given(st.text(st.characters(exclude_categories=["Cs"])) | st.text('"\\n=,{}~! \n\r\t'))
def test_a_filter_is_read_back_as_it_was_meant(value) -> None:
    """Whatever a label's value is, the filter names this label and exactly this value."""
    assert parsed(matcher("service", value)) == ("service", value)


def alerts(server: Any, where: Any = None) -> Any:
    """Read alerts from the server."""

    async def work(url: str) -> Any:
        source = AlertmanagerAlerts(url)
        try:
            return await source.search(where or {}, WINDOW, 5)
        finally:
            await source.aclose()

    return server.use(work)


def test_labels_do_not_take_the_place_of_columns(server) -> None:
    """A label called `state` is an attribute; without annotations the summary is empty."""
    frame = alerts(server.json([ALERT]))
    assert frame[["name", "state", "severity", "summary"]].values.tolist() == [["A", "active", "info", ""]]
    assert frame["attributes"][0]["state"] == "mine" and frame["attributes"][0]["annotations"] == {}


def test_only_labels_are_sent_as_filters(server) -> None:
    """What Alertmanager would not know as a label is compared here; a value is encoded in the address."""
    frame = alerts(server.json([]), {"name": 'a"&b', "severity": "x", "state": "active", "a b": "c", "summary": "s"})
    assert frame.empty
    line = server.asked[0].splitlines()[0]
    assert line == b"GET /api/v2/alerts?filter=alertname%3D%22a%5C%22%26b%22&filter=severity%3D%22x%22 HTTP/1.1"


def test_a_broken_character_is_refused_before_anything_is_asked(server) -> None:
    """No address could carry it."""
    with pytest.raises(ParameterError):
        alerts(server.json([]), {"name": "\ud800"})
    assert not server.asked


@pytest.mark.parametrize(
    "answer",
    [
        None, 3, {"a": 1}, [None], [{}], [ALERT | {"labels": None}], [ALERT | {"startsAt": "now"}],
        [ALERT | {"startsAt": "2026-01-01T12:00:00"}], [ALERT | {"endsAt": 5}], [ALERT | {"status": {}}],
        [ALERT | {"receivers": [1]}], [ALERT | {"annotations": 4}],
    ],
)  # fmt: skip
def test_alerts_in_another_form_are_a_bad_answer(server, answer) -> None:
    """They are refused, never half read."""
    with pytest.raises(BadAnswer, match="described an alert in a form"):
        alerts(server.json(answer))


class Scripted(Double):
    """Lists silences, and answers the changes as it is told to, one after the other.

    Args:
        silences: What it lists.
        answers: What it answers to changes.
    """

    def __init__(self, silences: Any, *answers: Answer) -> None:
        super().__init__()
        self._silences, self._answers = silences, list(answers)

    def answer(self, request: Request) -> Answer:
        """Answer one request."""
        return Answer(200, self._silences) if request.method == "GET" else self._answers.pop(0)

    @property
    def changes(self) -> list[str]:
        """The changes that it was asked for."""
        return [f"{asked.method} {asked.path}" for asked in self.requests if asked.method != "GET"]


def applied(double: Scripted, action: str, target: str = "A", key: str = "new") -> None:
    """Silence or wake an alert."""
    import asyncio

    async def work() -> None:
        adapter = AlertmanagerSilences(double.url)
        arguments = {"minutes": 5, "why": "x\ud800"} if action == "silence" else {}
        try:
            await adapter.apply(Call(capability="s", action=action, target=target, arguments=arguments), key, 1)
        finally:
            await adapter.aclose()

    asyncio.run(work())


def test_a_key_that_is_known_is_not_sent_again() -> None:
    """Also when its silence has ended; another key, and the same one in somebody else's comment, are sent."""
    for silence, key, sent in [
        (SILENCE, "k", 0), (SILENCE | {"status": {"state": "expired"}}, "k", 0), (SILENCE, "kk", 1),
        (SILENCE | {"createdBy": "me"}, "k", 1), (SILENCE | {"comment": "[rbkit:k] why"}, "k", 1),
    ]:  # fmt: skip
        with Scripted([silence], Answer(200, {"silenceID": "x"})) as double:
            applied(double, "silence", key=key)
            assert len(double.changes) == sent


def test_a_new_silence_begins_before_now_and_ends_when_it_must() -> None:
    """A server whose clock is behind still makes it active at once; a broken character in the reason does no harm."""
    with Scripted([], Answer(200, {"silenceID": "x"})) as double:
        applied(double, "silence")
        body = double.requests[-1].json
    span = datetime.fromisoformat(body["endsAt"]) - datetime.fromisoformat(body["startsAt"])
    assert (
        span == timedelta(hours=1, minutes=5) and body["comment"] == "x? [rbkit:new]" and body["createdBy"] == "rbkit"
    )


def test_only_our_own_silences_of_the_name_are_ended() -> None:
    """Not one of a part of its alerts, not one without our mark, not one that has ended."""
    part = SILENCE | {"id": "part", "matchers": [*SILENCE["matchers"], {"name": "x", "value": "y", "isRegex": False}]}
    others = [
        SILENCE | {"id": "old", "status": {"state": "expired"}},
        SILENCE | {"id": "p", "createdBy": "me", "status": {"state": "pending"}},
    ]
    with Scripted([SILENCE, part, *others, SILENCE | {"id": "a/b"}], Answer(200), Answer(200)) as double:
        applied(double, "wake")
        assert double.changes == ["DELETE /api/v2/silence/one", "DELETE /api/v2/silence/a%2Fb"]


@pytest.mark.parametrize("by", [{"createdBy": "rbkit", "comment": "no mark"}, {"createdBy": "me"}])
def test_somebody_elses_silence_is_left_and_nothing_is_done(by) -> None:
    """Whether it has another name or only lacks the mark."""
    with Scripted([SILENCE, SILENCE | by]) as double:
        with pytest.raises(Refused, match="ends only its own"):
            applied(double, "wake")
        assert double.changes == []


@pytest.mark.parametrize(
    ("answer", "error"),
    [(Answer(400, "no"), Refused), (Answer(404, "no"), NotFound), (Answer(500, "no"), MayHaveActed)],
)
def test_what_the_first_change_met_is_what_it_was(answer, error) -> None:
    """A refusal of the first change is a refusal; no usable answer is a doubt."""
    for action in ("silence", "wake"):
        with Scripted([SILENCE, SILENCE | {"id": "two"}], answer) as double, pytest.raises(error):
            applied(double, action)


@pytest.mark.parametrize("status", [400, 404, 500])
def test_a_half_done_wake_is_a_doubt(status) -> None:
    """When one silence was ended and the next was not, nobody may say that nothing was done."""
    with (
        Scripted([SILENCE, SILENCE | {"id": "two"}], Answer(200), Answer(status, "no")) as double,
        pytest.raises(MayHaveActed, match="1 of 2 silences were ended"),
    ):
        applied(double, "wake")


def wrong(change: dict[str, Any]) -> list[Any]:
    """Make a list with one silence that differs."""
    return [SILENCE | change]


@pytest.mark.parametrize(
    "answer",
    [
        None, 3, [None], [{}], wrong({"matchers": []}), wrong({"matchers": None}), wrong({"matchers": [{}]}),
        wrong({"endsAt": "soon"}), wrong({"status": None}),
    ],
)  # fmt: skip
def test_silences_in_another_form_are_a_bad_answer(server, answer) -> None:
    """A read says so; a change was not begun, so it certainly was not made."""

    async def read(url: str) -> Any:
        adapter = AlertmanagerSilences(url)
        try:
            return await adapter.state("A")
        finally:
            await adapter.aclose()

    with pytest.raises(BadAnswer, match="described a silence in a form"):
        server.json(answer).use(read)
    with Scripted(answer) as double, pytest.raises(Unreachable, match="Nothing was done"):
        applied(double, "wake")


def test_a_name_that_cannot_be_is_not_found() -> None:
    """Nothing is asked, and nothing is changed."""
    with Scripted([]) as double:
        for name in ("", "a\ud800"):
            with pytest.raises(NotFound, match="no alert's name"):
                applied(double, "silence", name)
        assert not double.requests


@pytest.mark.parametrize(
    ("matchers", "silent"),
    [
        ([{"name": "alertname", "value": "A", "isRegex": False, "isEqual": False}], False),
        ([{"name": "alertname", "value": ".*", "isRegex": True, "isEqual": True}], True),
        ([{"name": "alertname", "value": "A|B", "isRegex": False}], False),
        ([{"name": "alertname", "value": "A.", "isRegex": True}], False),
        ([{"name": "alertname", "value": "B|A", "isRegex": True}], True),
    ],
)
def test_only_what_certainly_covers_a_name_counts(server, matchers, silent) -> None:
    """A pattern that is no plain list of names, or anything that excludes, leaves the alert speaking."""

    async def read(url: str) -> Any:
        adapter = AlertmanagerSilences(url)
        try:
            return await adapter.state("A")
        finally:
            await adapter.aclose()

    state = server.json(wrong({"matchers": matchers})).use(read)
    assert state == {"silent": silent, "until": "2026-01-01T12:00:00.000+00:00" if silent else None}
