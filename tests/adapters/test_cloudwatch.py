"""CloudWatch against moto's server, and against servers that answer oddly."""

import asyncio
import json
import re
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import botocore.loaders
import pytest
from botocore.parsers import ResponseParserError
from hypothesis import given, settings
from hypothesis import strategies as st
from pings import pinged
from servers.moto import moto

from rbkit.adapters import cloudwatch, cloudwatch_api
from rbkit.adapters.cloudwatch import CloudWatchLogs, CloudWatchMetrics, _pattern
from rbkit.adapters.cloudwatch_api import Api
from rbkit.costs import counted
from rbkit.environment import SignalSettings
from rbkit.errors import BadAnswer, NotFound, Refused, SecretError, SettingsError, Unreachable
from rbkit.ports import Window
from rbkit.queries import render
from rbkit.tape import keep, pack_frame

CALM = settings(derandomize=True, deadline=None, database=None, max_examples=300)
REGION = "eu-central-1"
NOW = datetime.now(UTC).replace(second=0, microsecond=0)
WINDOW = Window(NOW - timedelta(minutes=10), NOW, 5.0)
CPU = {"namespace": "Shop/Checkout", "metric": "CPU"}
POINTS = [("i-1", 3, 30.0), ("i-1", 1, 10.0), ("i-2", 2, 20.0), ("i-1", 30, 99.0), ("x' OR 1=1 --", 1, 5.0)]
LINES = [
    (9, {"level": "error", "message": "nine", "service": "checkout", "n": 4}), (3, "a plain line"),
    (7, {"level": "info", "message": "seven", "service": "checkout", "ok": True}), (1, {"level": "error", "n": "4"}),
    (5, {"level": "error", "message": "five", "service": "pay' OR \"1\"=\"1", "odd-name": "x"}), (2, "[1, 2]"),
]  # fmt: skip


LOADER = botocore.loaders.create_loader()
"""Reads the descriptions of the services once for all tests, which takes longer than what is tested."""


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials that open nothing; no configuration of this machine is read."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(botocore.loaders, "create_loader", lambda path=None: LOADER)


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An API of AWS with `POINTS` and `LINES`."""
    import boto3

    session = boto3.Session("testing", "testing", region_name=REGION)
    with moto(tmp_path_factory.mktemp("moto")) as url:
        client = session.client("cloudwatch", endpoint_url=url)
        for instance, age, value in POINTS:
            client.put_metric_data(Namespace=CPU["namespace"], MetricData=[point(age, value, InstanceId=instance)])
        client.put_metric_data(Namespace=CPU["namespace"], MetricData=[point(1, 7.0, InstanceId="i-1", Zone="a")])
        client.close()
        client = session.client("logs", endpoint_url=url)
        client.create_log_group(logGroupName="/shop")
        client.create_log_stream(logGroupName="/shop", logStreamName="one")
        events = [event(age, line) for age, line in sorted(LINES, key=lambda one: -one[0])]
        client.put_log_events(logGroupName="/shop", logStreamName="one", logEvents=events)
        client.close()
        yield url


def point(age: int, value: float, **dimensions: str) -> Any:
    """Write a point as PutMetricData takes it."""
    listed = [{"Name": name, "Value": text} for name, text in dimensions.items()]
    return {"MetricName": "CPU", "Dimensions": listed, "Timestamp": NOW - timedelta(minutes=age), "Value": value}


def event(age: int, line: Any) -> Any:
    """Write an event as PutLogEvents takes it."""
    text = line if isinstance(line, str) else json.dumps(line)
    return {"timestamp": int((NOW - timedelta(minutes=age)).timestamp() * 1000), "message": text}


def measure(url: str, where: dict[str, str], window: Window = WINDOW, **options: Any) -> Any:
    """Ask for metrics and close the source."""

    async def work() -> Any:
        source = CloudWatchMetrics(REGION, url, **options)
        try:
            return await source.query(where, window)
        finally:
            await source.aclose()

    return asyncio.run(work())


def search(url: str, where: Any = None, limit: int = 10, group: str = "/shop", **options: Any) -> Any:
    """Ask for log lines and close the source."""

    async def work() -> Any:
        source = CloudWatchLogs(group, REGION, url, **options)
        try:
            return await source.search(where or {}, WINDOW, limit)
        finally:
            await source.aclose()

    return asyncio.run(work())


def test_samples_are_a_tidy_table(aws, rig) -> None:
    """Columns, types and order are those of every source of metrics; a metric with more dimensions is another one."""
    frame = measure(aws, CPU | {"dim.InstanceId": "i-1"})
    assert list(frame.columns) == ["time", "value", "InstanceId"] and set(frame["InstanceId"]) == {"i-1"}
    assert [str(kind) for kind in frame.dtypes] == ["datetime64[ns, UTC]", "float64", "str"]
    assert frame["value"].tolist() == [30.0, 10.0] and frame["time"].is_monotonic_increasing
    assert keep(rig.store, pack_frame(frame))


def test_one_series_for_each_value_of_a_dimension(aws) -> None:
    """`each` finds the values that there are; with another dimension that is given, only metrics that have both."""
    frame = measure(aws, CPU | {"each": "InstanceId"})
    assert sorted(frame["InstanceId"].unique()) == ["i-1", "i-2", "x' OR 1=1 --"]
    assert sorted(frame["value"]) == [5.0, 10.0, 20.0, 30.0]
    assert measure(aws, CPU | {"each": "Zone", "dim.InstanceId": "i-1"})["value"].tolist() == [7.0]
    assert measure(aws, CPU | {"each": "Nothing"}).empty


def test_a_value_is_only_a_value(aws) -> None:
    """HOSTILE 5: a dimension's value is a field of the request; one that is called like an attack is found."""
    spec = SignalSettings(source="s", where={**CPU, "dim.InstanceId": "$pod"})
    assert measure(aws, render(spec, {"pod": "' OR 1=1 --"}, "fields")).empty
    assert measure(aws, render(spec, {"pod": "*"}, "fields")).empty
    assert measure(aws, render(spec, {"pod": "x' OR 1=1 --"}, "fields"))["value"].tolist() == [5.0]


def test_statistic_and_period_are_asked_for(aws) -> None:
    """What is given reaches the service."""
    frame = measure(aws, CPU | {"dim.InstanceId": "i-1", "stat": "Sum", "period": "10m"})
    assert frame["value"].sum() == 40.0


@pytest.mark.parametrize(("step", "period"), [(5.0, 60), (60.0, 60), (61.0, 120), (300.0, 300)])
def test_the_period_follows_the_step(step, period) -> None:
    """A period is a whole number of minutes, not denser than what was asked for."""
    assert cloudwatch._wanted(CPU, Window(NOW, NOW, step)).period_s == period


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ({"namespace": "a"}, "needs `namespace` and `metric`"), ({}, "needs"),
        (CPU | {"stats": "x"}, "Did you mean 'stat'"),
        ("AWS/EC2", "has no queries"), (CPU | {"period": "soon"}, "no duration"),
    ],
)  # fmt: skip
def test_a_query_that_is_none_is_refused(where, why) -> None:
    """Before anything is sent, with what is meant."""
    with pytest.raises(SettingsError, match=why):
        measure("http://127.0.0.1:1", where)


def test_more_than_is_allowed_is_refused(aws) -> None:
    """Series, points and bytes have limits."""
    with pytest.raises(BadAnswer, match="more than 2 series"):
        measure(aws, CPU | {"each": "InstanceId"}, max_series=2)
    with pytest.raises(BadAnswer, match="more than 1 points"):
        measure(aws, CPU | {"dim.InstanceId": "i-1"}, max_points=1)
    with counted(30), pytest.raises(BadAnswer, match="more than"):
        measure(aws, CPU | {"dim.InstanceId": "i-1"})


def test_lines_come_in_order_with_their_fields(aws, rig) -> None:
    """Newest last; a JSON object is read as one, every other line is all message."""
    frame = search(aws)
    assert frame["message"].tolist() == ["nine", "seven", "five", "a plain line", "[1, 2]", ""]
    assert frame["level"].tolist() == ["error", "info", "error", "", "", "error"]
    assert frame["attributes"][0] == {"service": "checkout", "n": 4, "logStream": "one"}
    assert str(frame["time"].dtype) == "datetime64[ns, UTC]" and keep(rig.store, pack_frame(frame))


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"level": "error", "service": "checkout"}, ["nine"]), ({"n": "4"}, ["nine", ""]), ({"ok": "true"}, ["seven"]),
        ({"service": "check"}, []), ({"service": "*"}, []), ({"message": "a plain line"}, ["a plain line"]),
        ({"service": "pay' OR \"1\"=\"1"}, ["five"]), ({"odd-name": "x"}, ["five"]), ({"logStream": "two"}, []),
        ({"service": '" || $.level = "info'}, []), ({"level": ""}, ["a plain line", "[1, 2]"]),
    ],
)  # fmt: skip
def test_fields_must_match_exactly(aws, where, expected) -> None:
    """Whatever the service takes a value for, only lines with exactly that value come."""
    assert search(aws, where)["message"].tolist() == expected


def test_the_newest_lines_are_kept(aws) -> None:
    """A limit leaves out the oldest, and fields may have other names."""
    assert search(aws, limit=2)["message"].tolist() == ["[1, 2]", ""]
    assert search(aws, {"level": "4"}, level="n", message="level")["message"].tolist() == ["error", "error"]


def test_too_many_lines_are_refused(aws) -> None:
    """The environment file's limit of bytes holds."""
    with counted(100), pytest.raises(BadAnswer, match="more than"):
        search(aws)


def test_a_group_that_is_not_there_is_not_found(aws) -> None:
    """A slip in the name is no silence."""
    with pytest.raises(NotFound, match="log group"):
        search(aws, group="/nothing")
    with pytest.raises(SettingsError, match="has no queries"):
        search(aws, "level=error")


PATTERN = re.compile(r'(\{ \(\$\.\w+ = "[A-Za-z][\w./:@-]*"\)( && \(\$\.\w+ = "[A-Za-z][\w./:@-]*"\))* \})?', re.ASCII)


@CALM
@given(st.dictionaries(st.text(max_size=8) | st.sampled_from(["level", "a_b"]), st.text(max_size=12) | st.just("ok")))
def test_a_pattern_holds_nothing_but_plain_words(where) -> None:
    """Whatever the values, what is sent is comparisons of plain words, or nothing."""
    assert PATTERN.fullmatch(_pattern(where, "level", "message"))


def test_a_pattern_leaves_out_what_could_be_read_in_two_ways() -> None:
    """Numbers, words of JSON, wildcards, odd names and the message are compared here only; so are too many fields."""
    where = {"a": "x", "level": "error", "n": "4", "b": "true", "c": "a*", "message": "m", "d-e": "x", "logStream": "s"}
    assert _pattern(where, "lvl", "message") == '{ ($.a = "x") && ($.lvl = "error") }'
    assert _pattern({f"f{n}": "x" * 50 for n in range(50)}, "level", "message") == ""


def answered(server: Any, ask: Callable[[str], Any]) -> Any:
    """Ask a server that answers as it does."""

    async def work(url: str) -> Any:
        return await asyncio.to_thread(ask, url)

    return server.use(work)


def logs(url: str) -> Any:
    """Ask for log lines."""
    return search(url)


def metrics(url: str) -> Any:
    """Ask for a metric."""
    return measure(url, CPU)


JSON = "Content-Type: application/x-amz-json-1.1\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "AccessDeniedException", Refused), (400, "UnrecognizedClientException", Refused), (403, "Other", Refused),
        (400, "ExpiredTokenException", Refused), (401, "", Refused), (400, "InvalidSignatureException", Refused),
        (400, "ThrottlingException", BadAnswer), (429, "Other", BadAnswer), (500, "InternalFailure", BadAnswer),
        (503, "ServiceUnavailable", BadAnswer), (400, "ResourceNotFoundException", NotFound), (404, "Other", NotFound),
        (400, "InvalidParameterException", BadAnswer), (302, "Moved", BadAnswer),
    ],
)  # fmt: skip
def test_each_error_of_the_api_has_its_own(server, status, code, kind) -> None:
    """Denied, throttled, away, not there, and wrong are told apart."""
    server.json({"__type": code, "message": "no"}, status, JSON)
    with pytest.raises(kind, match=f"answered {status} to filter_log_events") as caught:
        answered(server, logs)
    assert getattr(caught.value, "fault", False) is (status in {429, 500, 503, 302} or "Throttling" in code)


@pytest.mark.parametrize(
    "data",
    [
        {}, {"events": None}, {"events": [{}]}, {"events": [{"message": "x", "timestamp": "y", "logStreamName": "z"}]},
        [], {"events": [{"message": 3, "timestamp": 1, "logStreamName": "z"}]}, {"events": "x"}, 3, None,
        {"events": [3]},
    ],
)  # fmt: skip
def test_logs_in_an_unknown_form_are_a_bad_answer(server, data) -> None:
    """No error of a library comes through."""
    server.json(data, 200, JSON)
    with pytest.raises(BadAnswer):
        answered(server, logs)


@pytest.mark.parametrize("body", ["", "{", "<html>no</html>", "\x00\x01", "\u00ff" * 9, "[" * 100_000])
@pytest.mark.parametrize("ask", [logs, metrics])
def test_an_answer_that_is_garbage_is_a_bad_answer(server, ask, body) -> None:
    """Whatever protocol the service speaks, what it does not speak is told as such."""
    server.text(body, 200, "Connection: close\r\n")
    with pytest.raises(BadAnswer):
        answered(server, ask)


@pytest.mark.parametrize("ask", [logs, metrics])
def test_nobody_there_is_unreachable(nobody, ask) -> None:
    """A refused connection is no silence."""
    with pytest.raises(Unreachable, match="did not answer"):
        ask(nobody)


@pytest.mark.parametrize("ask", [logs, metrics])
def test_a_connection_that_is_lost_is_unreachable(server, ask, monkeypatch) -> None:
    """A reset, half of an answer, and a service that says nothing."""
    monkeypatch.setattr(cloudwatch_api, "_READ_S", 0.3)
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"
    for reply, reset, silent in ((b"", True, False), (half, False, False), (b"", False, True)):
        server.reply, server.reset, server.silent = reply, reset, silent
        with pytest.raises(Unreachable, match="did not answer"):
            answered(server, ask)


def test_pages_without_end_are_given_up(server, monkeypatch) -> None:
    """A service that always has more is asked no more after a while, by number and by time."""
    server.json({"events": [], "nextToken": "more"}, 200, JSON)
    monkeypatch.setattr(cloudwatch_api, "_MOST_PAGES", 3)
    with pytest.raises(BadAnswer, match="more than 3 pages"):
        answered(server, logs)
    assert len(server.asked) == 3 and json.loads(server.asked[2].split(b"\r\n\r\n")[1])["nextToken"] == "more"
    monkeypatch.setattr(cloudwatch_api, "_WHOLE_S", -1.0)
    with pytest.raises(Unreachable, match="its whole answer"):
        answered(server, logs)


def test_without_credentials_it_says_so(nobody, monkeypatch) -> None:
    """None at all, half of them, and a profile that there is not."""
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(SecretError, match="[Cc]redentials"):
        logs(nobody)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(SecretError, match="locate credentials"):
        metrics(nobody)
    with pytest.raises(BadAnswer, match="profile") as caught:
        search(nobody, profile="nothing")
    assert "region, url, profile" in caught.value.todo


@pytest.mark.parametrize(
    ("region", "url"), [("", ""), ("no region!", ""), ("eu-central-1", "nonsense"), ("eu-central-1", "http://")]
)
def test_a_wrong_region_or_address_is_told(region, url) -> None:
    """The environment file is at fault, and is named."""
    source = CloudWatchMetrics(region, url)
    with pytest.raises(BadAnswer, match="cannot be asked this"):
        asyncio.run(source.query(CPU, WINDOW))
    asyncio.run(source.aclose())


def test_without_boto3_the_extra_is_named(monkeypatch) -> None:
    """It is an extra; the error says how to install it."""
    monkeypatch.setitem(sys.modules, "botocore", None)
    with pytest.raises(SettingsError, match="needs boto3") as caught:
        logs("")
    assert "aws" in caught.value.todo


class Answers:
    """Stands for the client of boto3 where moto never answers so: partial data, several pages."""

    def __init__(self, *pages: Any) -> None:
        self.pages = list(pages)

    def get_metric_data(self, **request: Any) -> Any:
        """Give the next page."""
        return self.pages.pop(0)


def page(state: str, *values: float, token: str = "", times: int | None = None) -> Any:
    """Write a page of GetMetricData."""
    moments = [NOW - timedelta(minutes=n) for n in range(len(values) if times is None else times)]
    result = {"Id": "m0", "StatusCode": state, "Timestamps": moments, "Values": list(values)}
    return {"MetricDataResults": [result]} | ({"NextToken": token} if token else {})


def told(monkeypatch: pytest.MonkeyPatch, *pages: Any) -> Any:
    """Ask a client that gives these pages."""
    client = Answers(*pages)
    monkeypatch.setattr(Api, "_made", lambda self: client)
    return asyncio.run(CloudWatchMetrics(REGION).query(CPU, WINDOW))


def test_pages_are_put_together(monkeypatch) -> None:
    """Data that is partial on one page is complete with the last one."""
    frame = told(monkeypatch, page("PartialData", 1.0, token="next"), page("Complete", 2.0, 3.0))
    assert sorted(frame["value"]) == [1.0, 2.0, 3.0] and list(frame.columns) == ["time", "value"]


@pytest.mark.parametrize(
    ("state", "kind"), [("PartialData", BadAnswer), ("InternalError", BadAnswer), ("Forbidden", Refused)]
)
def test_half_an_answer_is_none(monkeypatch, state, kind) -> None:
    """What could not be read is not mistaken for what is not there."""
    with pytest.raises(kind):
        told(monkeypatch, page(state, 1.0))


def test_metrics_in_an_unknown_form_are_a_bad_answer(monkeypatch) -> None:
    """Times and values that do not belong together, a series that was not asked for, a time without zone."""
    naive = page("Complete", 1.0)
    naive["MetricDataResults"][0]["Timestamps"] = [datetime(2026, 1, 1)]
    strange = page("Complete", 1.0)
    strange["MetricDataResults"][0]["Id"] = "m7"
    for odd in (page("Complete", 1.0, times=2), strange, naive, {}, {"MetricDataResults": [{"Id": "x"}]}):
        with pytest.raises(BadAnswer, match="does not document"):
            told(monkeypatch, odd)


def test_an_answer_that_cannot_be_parsed_is_a_bad_answer(monkeypatch) -> None:
    """The parser's errors are no relatives of the SDK's others, and do not come through either."""

    class Broken:
        def get_metric_data(self, **request: Any) -> Any:
            raise ResponseParserError("no")

    monkeypatch.setattr(Api, "_made", lambda self: Broken())
    with pytest.raises(BadAnswer, match="does not document"):
        asyncio.run(CloudWatchMetrics(REGION).query(CPU, WINDOW))


def test_ping_needs_the_rights_that_a_question_needs(aws, nobody, monkeypatch) -> None:
    """Metrics are asked for and listed, lines looked for; what is missing is told."""
    assert "eu-central-1, with the credentials that every AWS tool finds; reads" in pinged(
        CloudWatchMetrics(REGION, aws)
    )
    assert "reads /shop, 0 line(s) right now" in pinged(CloudWatchLogs("/shop", REGION, aws))
    with pytest.raises(NotFound):
        pinged(CloudWatchLogs("/no-such", REGION, aws))
    for source in (CloudWatchMetrics(REGION, nobody), CloudWatchLogs("/shop", REGION, nobody)):
        with pytest.raises(Unreachable):
            pinged(source)
    assert Api("logs", REGION, "", "ops").who == "profile ops"
    monkeypatch.setattr(Api, "pages", lambda *asked: iter([{}]))
    with pytest.raises(BadAnswer, match="does not document"):
        pinged(CloudWatchMetrics(REGION, aws))
