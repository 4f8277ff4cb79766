"""Metrics and logs of AWS CloudWatch.

Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html and
https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_FilterLogEvents.html
"""

import asyncio
import json
import math
import re
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from rbkit.adapters.cloudwatch_api import Api
from rbkit.adapters.lines import Row, fields, inside, matches, plain, tidy
from rbkit.costs import bounded, spend
from rbkit.errors import BadAnswer, Refused, SettingsError
from rbkit.ports import Language, Window
from rbkit.values import nearest, seconds

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CloudWatchLogs", "CloudWatchMetrics"]

_POINT_BYTES = 24
_KEYS = ("namespace", "metric", "stat", "period", "each")
_PLAIN_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_PLAIN_VALUE = re.compile(r"(?!(?:true|false|null|nan|infinity)\Z)[A-Za-z][A-Za-z0-9_./:@-]{0,99}", re.IGNORECASE)
_LONGEST_PATTERN = 1_024


class CloudWatchMetrics:
    """Reads metrics of CloudWatch.

    A signal says in `where` which: `namespace`, `metric`, `stat` (Average unless given), `period` (as long as the
    signal's step, at least 60 s, unless given), `dim.NAME` for each dimension, and `each: NAME` for one series per
    value of that dimension. A metric is known by all of its dimensions: those that are given must be all it has.
    Values are fields of the request and never part of a text. Credentials are found as every AWS tool finds them;
    they need `cloudwatch:GetMetricData` and `cloudwatch:ListMetrics`.

    Args:
        region: The region, for example `eu-central-1`.
        url: Another endpoint than the region's own; empty for that one.
        profile: The profile of the AWS configuration; empty for the default.
        max_series: More series than this in one answer are refused; the API's own limit is 500.
        max_points: More points than this in one answer are refused.
    """

    language: ClassVar[Language] = "fields"

    def __init__(
        self, region: str, url: str = "", profile: str = "", max_series: int = 500, max_points: int = 50_000
    ) -> None:
        self._api = Api("cloudwatch", region, url, profile)
        self._max_series, self._max_points = min(max_series, 500), max_points

    async def query(self, query: Mapping[str, str], window: Window) -> "pd.DataFrame":
        """Read a range of samples.

        Args:
            query: Namespace, metric, statistic, period and dimensions, already rendered.
            window: From when to when, and how dense.

        Returns:
            DataFrame: `time` (datetime64[ns, UTC]), `value` (float64), one text column per dimension; sorted by time.

        Raises:
            SettingsError: The query has an unknown key, or lacks namespace or metric.
            Refused: The credentials do not allow it.
            SecretError: There are no credentials.
            BadAnswer: The request is wrong, or its answer is too large, incomplete or of an unknown form.
            Unreachable: The service did not answer.
        """
        wanted = _wanted(query, window)
        return await asyncio.to_thread(self._ask, wanted, window)

    async def ping(self) -> str:
        """Ask for a metric that nobody has, and list those of a namespace that nobody has: both rights are needed."""
        return await asyncio.to_thread(self._told)

    async def aclose(self) -> None:
        """Close the connections."""
        self._api.close()

    def _told(self) -> str:
        now = datetime.now(UTC)
        nothing = _wanted({"namespace": "rbkit/ping", "metric": "ping", "each": "x"}, Window(now, now, 60.0))
        with bounded():
            try:
                self._series(nothing)
                self._rows(nothing, [{"x": "ping"}], Window(now - timedelta(minutes=1), now, 60.0))
            except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
                raise self._api.odd() from error
        return f"{self._api}, {self._api.who}; reads"

    def _ask(self, wanted: "_Wanted", window: Window) -> "pd.DataFrame":
        with bounded():
            try:
                series = self._series(wanted)
                rows = self._rows(wanted, series, window) if series else []
                return _frame(rows, [*wanted.dimensions, *wanted.each])
            except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
                raise self._api.odd() from error

    def _series(self, wanted: "_Wanted") -> list[dict[str, str]]:
        """List the dimensions of every series that is wanted."""
        if not wanted.each:
            return [wanted.dimensions]
        known = [{"Name": name, "Value": value} for name, value in wanted.dimensions.items()]
        request = {**wanted.metric, "Dimensions": [*known, *({"Name": name} for name in wanted.each)]}
        found: list[dict[str, str]] = []
        for answer in self._api.pages("list_metrics", "NextToken", request):
            listed = [{one["Name"]: one["Value"] for one in metric["Dimensions"]} for metric in answer["Metrics"]]
            found += [one for one in listed if set(one) == {*wanted.dimensions, *wanted.each}]
            if len(found) > self._max_series:
                raise BadAnswer(f"The query matches more than {self._max_series} series.", todo="Name more dimensions.")
        return found

    def _rows(self, wanted: "_Wanted", series: list[dict[str, str]], window: Window) -> list[dict[str, Any]]:
        """Read the points of every series."""
        request = {
            "MetricDataQueries": [_metric_query(wanted, f"m{place}", one) for place, one in enumerate(series)],
            "StartTime": window.start, "EndTime": window.end, "ScanBy": "TimestampAscending",
        }  # fmt: skip
        rows: list[dict[str, Any]] = []
        states: dict[str, str] = {}
        for answer in self._api.pages("get_metric_data", "NextToken", request):
            for result in answer["MetricDataResults"]:
                states[result["Id"]] = result.get("StatusCode", "Complete")
                labels = series[int(result["Id"].removeprefix("m"))]
                found = _points(labels, result, window)
                spend(len(found) * _POINT_BYTES, str(self._api))
                rows += found
            if len(rows) > self._max_points:
                raise BadAnswer(f"{self._api} answered with more than {self._max_points} points.", todo="Widen `step`.")
        _check_complete(states, self._api)
        return rows


class CloudWatchLogs:
    """Reads one log group of CloudWatch; needs `logs:FilterLogEvents` on it.

    A line that is a JSON object is read as one; another one is all message. Values that are plain words narrow the
    question at the service; every line is compared here, whatever the service takes a value for.

    Args:
        group: The log group's name.
        region: The region, for example `eu-central-1`.
        url: Another endpoint than the region's own; empty for that one.
        profile: The profile of the AWS configuration; empty for the default.
        level: The field with the level.
        message: The field with the message.
    """

    language: ClassVar[Language] = "fields"

    def __init__(
        self, group: str, region: str, url: str = "", profile: str = "", level: str = "level", message: str = "message"
    ) -> None:
        self._api = Api("logs", region, url, profile)
        self._group, self._level, self._message = group, level, message

    async def search(self, where: str | Mapping[str, str], window: Window, limit: int) -> "pd.DataFrame":
        """Read log lines, newest last.

        Args:
            where: Fields and the exact values they must have; `logStream` is the stream.
            window: From when to when.
            limit: The most lines to return; the newest are kept.

        Returns:
            DataFrame: `time` (datetime64[ns, UTC]), `level` (text), `message` (text), `attributes` (mappings).

        Raises:
            NotFound: There is no such group.
            Refused: The credentials do not allow it.
            SecretError: There are no credentials.
            BadAnswer: The answer is too large or of an unknown form.
            Unreachable: The service did not answer.
        """
        wanted = fields(where, "CloudWatch")
        return await asyncio.to_thread(self._ask, wanted, window, limit)

    def sent(self, where: Mapping[str, str]) -> str:
        """Say which filter pattern is sent for fields; what it cannot say is compared here."""
        return (
            _pattern(fields(where, "CloudWatch"), self._level, self._message) or "everything is read, and compared here"
        )

    async def ping(self) -> str:
        """Look for lines of this very moment: the right that a search needs."""
        now = datetime.now(UTC)
        frame = await self.search({}, Window(now, now, 1.0), 1)
        return f"{self._api}, {self._api.who}; reads {self._group}, {len(frame)} line(s) right now"

    async def aclose(self) -> None:
        """Close the connections."""
        self._api.close()

    def _ask(self, where: dict[str, str], window: Window, limit: int) -> "pd.DataFrame":
        with bounded():
            try:
                return tidy("logs", self._newest(where, window, limit), limit)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise self._api.odd() from error

    def _newest(self, where: dict[str, str], window: Window, limit: int) -> list[Row]:
        """Read the whole window, as the API begins with the oldest; only the newest lines are held."""
        request: dict[str, Any] = {
            "logGroupName": self._group, "startTime": math.floor(window.start.timestamp() * 1000),
            "endTime": math.ceil(window.end.timestamp() * 1000), "limit": 10_000,
        }  # fmt: skip
        if pattern := _pattern(where, self._level, self._message):
            request["filterPattern"] = pattern
        rows: deque[Row] = deque(maxlen=limit)
        for answer in self._api.pages("filter_log_events", "nextToken", request):
            spend(sum(len(event["message"]) for event in answer["events"]), str(self._api))
            found = (self._row(event) for event in answer["events"])
            rows += [row for row in found if inside(row, window) and matches(row, where)]
        return list(rows)

    def _row(self, event: Mapping[str, Any]) -> Row:
        data = _object(event["message"])
        rest = {name: value for name, value in data.items() if name not in {self._level, self._message}}
        return {
            "time": int(event["timestamp"]) * 1_000_000,
            "level": plain(str(data.get(self._level, ""))),
            "message": plain(str(data.get(self._message, "") if data else event["message"])),
            "attributes": plain({**rest, "logStream": str(event["logStreamName"])}),
        }


class _Wanted(NamedTuple):
    """Which metric is read, and how."""

    metric: dict[str, str]
    stat: str
    period_s: int
    dimensions: dict[str, str]
    each: list[str]


def _wanted(query: Mapping[str, str], window: Window) -> _Wanted:
    """Read the fields of a signal.

    Raises:
        SettingsError: One is unknown or missing.
    """
    if not isinstance(query, Mapping):
        raise SettingsError(
            f"CloudWatch has no queries: {query!r:.80}.", todo="Write `where` with namespace and metric."
        )
    plain_keys = {name: value for name, value in query.items() if not name.startswith("dim.")}
    for name in plain_keys.keys() - set(_KEYS):
        raise SettingsError(f"CloudWatch knows no {name!r}.{nearest(name, _KEYS)}", todo="A dimension is dim.NAME.")
    if not (query.get("namespace") and query.get("metric")):
        raise SettingsError("A metric of CloudWatch needs `namespace` and `metric`.")
    period = seconds(query["period"]) if "period" in query else max(60.0, math.ceil(window.step_s / 60) * 60)
    return _Wanted(
        {"Namespace": query["namespace"], "MetricName": query["metric"]}, query.get("stat", "Average"), round(period),
        {name.removeprefix("dim."): value for name, value in query.items() if name.startswith("dim.")},
        [name.strip() for name in query.get("each", "").split(",") if name.strip()],
    )  # fmt: skip


def _metric_query(wanted: _Wanted, name: str, dimensions: Mapping[str, str]) -> dict[str, Any]:
    listed = [{"Name": key, "Value": value} for key, value in dimensions.items()]
    metric = {**wanted.metric, "Dimensions": listed}
    return {"Id": name, "MetricStat": {"Metric": metric, "Period": wanted.period_s, "Stat": wanted.stat}}


def _points(labels: Mapping[str, str], result: Mapping[str, Any], window: Window) -> list[dict[str, Any]]:
    pairs = zip(result["Timestamps"], result["Values"], strict=True)
    return [
        {**labels, "time": moment, "value": float(value)}
        for moment, value in pairs
        if window.start <= moment <= window.end
    ]


def _check_complete(states: Mapping[str, str], api: Api) -> None:
    """Refuse half of an answer.

    Raises:
        Refused: A metric may not be read.
        BadAnswer: The service could not read one.
    """
    if "Forbidden" in states.values():
        raise Refused(f"{api} does not let this metric be read.", todo="Look at the role's policy.")
    wrong = sorted(set(states.values()) - {"Complete"})
    if wrong:
        raise BadAnswer(f"{api} gave an answer that is not complete: {', '.join(wrong)}.", fault=True)


def _frame(rows: list[dict[str, Any]], labels: list[str]) -> "pd.DataFrame":
    import pandas as pd

    columns = [name for name in dict.fromkeys(labels) if name not in {"time", "value"}]
    frame = pd.DataFrame(rows, columns=["time", "value", *columns])
    frame["time"] = pd.to_datetime(frame["time"], utc=True).astype("datetime64[ns, UTC]")
    frame["value"] = frame["value"].astype("float64")
    frame[columns] = frame[columns].astype("str")
    return frame.sort_values(["time", *columns], ignore_index=True)


def _pattern(where: Mapping[str, str], level: str, message: str) -> str:
    """Write the part of a question that the service can narrow safely: words that no pattern takes for more."""
    names = {"level": level}
    tests = [
        f'($.{names.get(name, name)} = "{value}")'
        for name, value in where.items()
        if name not in {"message", message, "logStream"}
        and _PLAIN_FIELD.fullmatch(names.get(name, name)) and _PLAIN_VALUE.fullmatch(value)
    ]  # fmt: skip
    pattern = f"{{ {' && '.join(tests)} }}" if tests else ""
    return pattern if len(pattern) <= _LONGEST_PATTERN else ""


def _object(message: str) -> dict[str, Any]:
    """Read a line that is a JSON object; empty for every other one."""
    try:
        data = json.loads(message)
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
