"""Every source of alerts, in memory or real, keeps the same promises."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pandas as pd
import pytest
from pings import pinged
from servers.alertmanager import alertmanager, post

from rbkit.adapters.alertmanager import AlertmanagerAlerts
from rbkit.adapters.fake_signals import FakeAlerts
from rbkit.errors import SettingsError
from rbkit.ports import LINES, Window
from rbkit.tape import keep, pack_frame

NOW = datetime.now(UTC).replace(microsecond=0)
WINDOW = Window(NOW - timedelta(minutes=5), NOW, 1.0)
NASTY = ['a"b', "a\\", "a\\nb", "a\nb", "a\r\tb", '",severity="critical', "é\u2028{}", " a "]
ALERTS = [
    {"name": "HighMemory", "service": "checkout", "severity": "critical", "summary": "full", "age": 60},
    {"name": "HighMemory", "service": "cart", "severity": "warning", "summary": "half", "age": 2},
    {"name": "Slow", "service": "checkout", "severity": "warning", "summary": "", "age": 3},
    {"name": "Late", "service": "checkout", "severity": "warning", "summary": "", "age": -3},
    *({"name": "Nasty", "service": text, "severity": "info", "summary": text, "age": 1} for text in NASTY),
]  # `age` in minutes; negative: it begins later


def began(alert: dict[str, Any]) -> datetime:
    """Tell when an alert began."""
    return NOW - timedelta(minutes=alert["age"])


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A real Alertmanager that holds `ALERTS`, and the label by which this test knows its own."""
    own = uuid4().hex
    with alertmanager(tmp_path_factory.mktemp("alertmanager")) as url:
        post(f"{url}/api/v2/alerts", [_sent(alert, own) for alert in ALERTS])
        yield url, own


def _sent(alert: dict[str, Any], own: str) -> dict[str, Any]:
    labels = {"alertname": alert["name"], "severity": alert["severity"], "service": alert["service"], "own": own}
    times = {"startsAt": began(alert).isoformat(), "endsAt": (NOW + timedelta(hours=1)).isoformat()}
    return {"labels": labels, "annotations": {"summary": alert["summary"]}, **times}


@pytest.fixture(params=["fake", "alertmanager"])
def search(request: pytest.FixtureRequest) -> Callable[..., pd.DataFrame]:
    """Search a source that has `ALERTS`."""
    if request.param == "fake":
        lines = [
            {"time": began(alert), "state": "active", **{k: v for k, v in alert.items() if k != "age"}}
            for alert in ALERTS
        ]
        source: Any = FakeAlerts(lines)
        return lambda where, limit=50, window=WINDOW: asyncio.run(source.search(where, window, limit))
    return searching(*request.getfixturevalue("real"))


def searching(url: str, own: str) -> Callable[..., pd.DataFrame]:
    """Search the real Alertmanager."""

    async def closed(where: Any, limit: int, window: Window) -> Any:
        adapter = AlertmanagerAlerts(url)
        try:
            return await adapter.search(where if isinstance(where, str) else where | {"own": own}, window, limit)
        finally:
            await adapter.aclose()

    return lambda where, limit=50, window=WINDOW: asyncio.run(closed(where, limit, window))


def test_alerts_are_a_tidy_table(search) -> None:
    """Columns, types and order are the same everywhere; one that began before the window and still fires is there."""
    frame = search({})
    assert tuple(frame.columns) == LINES["alerts"] and str(frame["time"].dtype) == "datetime64[ns, UTC]"
    assert frame["time"].is_monotonic_increasing and list(frame.index) == list(range(len(frame)))
    first = frame.iloc[0]
    assert (first["name"], first["severity"], first["summary"]) == ("HighMemory", "critical", "full")
    assert first["time"] == NOW - timedelta(hours=1) and first["attributes"]["service"] == "checkout"
    assert set(frame["name"]) == {"HighMemory", "Slow", "Nasty"}


def test_columns_and_labels_must_match_exactly(search) -> None:
    """Name, severity, summary, state and labels select; a part of a value does not, nor does what is not there."""
    assert search({"name": "HighMemory"})["summary"].tolist() == ["full", "half"]
    assert search({"service": "checkout", "severity": "warning"})["name"].tolist() == ["Slow"]
    assert search({"summary": "half"})["attributes"].map(lambda a: a["service"]).tolist() == ["cart"]
    for where in ({"name": "High"}, {"service": ".*"}, {"nothing": "x"}, {"nothing": ""}, {"a b": "x"}, {"state": "x"}):
        assert search(where).empty


@pytest.mark.parametrize("text", NASTY)
def test_a_value_never_becomes_more_than_a_value(search, text) -> None:
    """Quotes, backslashes, line breaks and what looks like one more filter find the alert that has them, no other."""
    frame = search({"service": text})
    assert frame["attributes"].map(lambda a: a["service"]).tolist() == [text]
    assert search({"service": text + "x"}).empty


def test_an_alert_belongs_to_the_times_at_which_it_fired(search) -> None:
    """One that begins after the window is not there; nor is one in a window that was over before it began."""
    assert "Late" not in set(search({})["name"])
    early = Window(NOW - timedelta(minutes=30), NOW - timedelta(minutes=20), 1.0)
    assert search({}, window=early)["name"].tolist() == ["HighMemory"]


def test_the_newest_alerts_are_kept(search) -> None:
    """A limit leaves out those that began first."""
    assert search({"severity": "warning"}, limit=1)["attributes"].map(lambda a: a["service"]).tolist() == ["cart"]
    assert search({}, limit=0).empty


def test_there_are_no_queries(search) -> None:
    """A query is refused before anything is asked."""
    with pytest.raises(SettingsError, match="has no queries"):
        search('{alertname="x"}')


def test_answers_can_be_kept_on_the_tape(search, rig) -> None:
    """Alerts with labels, and none at all, can be recorded."""
    assert keep(rig.store, pack_frame(search({}))) != keep(rig.store, pack_frame(search({"nothing": "x"})))


def test_alertmanager_says_what_it_knows_of_an_alert(real) -> None:
    """Silenced alerts are shown as suppressed, with who keeps them quiet."""
    url, own = real
    wanted = {"service": "cart", "own": own}
    matchers = [{"name": name, "value": value, "isRegex": False} for name, value in wanted.items()]
    times = {"startsAt": NOW.isoformat(), "endsAt": (NOW + timedelta(hours=1)).isoformat()}
    silence = {"matchers": matchers, **times, "createdBy": "me", "comment": "x"}
    made = post(f"{url}/api/v2/silences", silence)["silenceID"]
    (about,) = searching(url, own)({"state": "suppressed"})["attributes"]
    assert about["silenced_by"] == [made] and about["annotations"] == {"summary": "half"}
    assert about["receivers"] == ["nobody"] and about["service"] == "cart" and about["fingerprint"]


def test_ping_says_who_we_are_and_what_we_may_do(real) -> None:
    """One line that names the system, and that we read."""
    assert "in memory" in pinged(FakeAlerts([]))
    assert "Alertmanager 0." in (said := pinged(AlertmanagerAlerts(real[0]))) and "writes" not in said
