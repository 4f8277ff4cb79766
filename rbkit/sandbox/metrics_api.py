"""Prometheus' own HTTP API over the sandbox's samples."""

import math
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import tornado.web

from rbkit.clock import SystemClock
from rbkit.sandbox.evaluate import NotExecuted, instant, over_range
from rbkit.sandbox.promql import BadQuery, Query, parse, parse_duration
from rbkit.sandbox.series import Store
from rbkit.sandbox.web import JsonHandler, Refusal

__all__ = ["metrics_application", "parse_time"]

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
LAST_SECOND = 253_402_300_799.0
T = TypeVar("T")


def parse_time(text: str) -> int:
    """Read unix seconds or an RFC 3339 time.

    Returns:
        Unix milliseconds.

    Raises:
        BadQuery: It is neither.
    """
    if NUMBER.fullmatch(text) and abs(float(text)) <= LAST_SECOND:
        return round(float(text) * 1000)
    try:
        if RFC3339.fullmatch(text):
            return round(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise BadQuery(f"cannot parse {text[:60]!r} to a valid timestamp") from error
    raise BadQuery(f"cannot parse {text[:60]!r} to a valid timestamp")


def _parse_step(text: str) -> int:
    if NUMBER.fullmatch(text):
        seconds = float(text)
        if math.isfinite(seconds) and abs(seconds) < LAST_SECOND:
            return round(seconds * 1000)
    return parse_duration(text)


class ApiHandler(JsonHandler):
    """Answers in Prometheus' envelope."""

    @property
    def store(self) -> Store:
        """The samples."""
        store: Store = self.settings["store"]
        return store

    def succeed(self, data: object) -> None:
        """Send a result."""
        self.answer({"status": "success", "data": data})

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Send a failure as Prometheus does."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        kind = error.error if isinstance(error, Refusal) else "internal" if status_code >= 500 else "bad_data"
        text = error.message if isinstance(error, Refusal) else self._reason
        self.answer({"status": "error", "errorType": kind, "error": text}, status_code)

    def respond(self, evaluate: Callable[[], object]) -> None:
        """Send what an evaluation returns, or why it could not."""
        try:
            data = evaluate()
        except BadQuery as error:
            raise Refusal(400, "bad_data", str(error)) from error
        except NotExecuted as error:
            raise Refusal(422, "execution", str(error)) from error
        self.succeed(data)

    def read(self, name: str, reader: Callable[[str], T]) -> T:
        """Read one parameter from the URL or the form."""
        return _named(name, self.get_argument(name, "", strip=False), reader)


class QueryHandler(ApiHandler):
    """/api/v1/query."""

    def get(self) -> None:
        """Answer a query at one time; now when none is given."""
        self.respond(lambda: instant(self.store, self.read("query", parse), self._time()))

    post = get

    def _time(self) -> int:
        if not self.get_argument("time", ""):
            return round(SystemClock().now().timestamp() * 1000)
        return self.read("time", parse_time)


class RangeHandler(ApiHandler):
    """/api/v1/query_range."""

    def get(self) -> None:
        """Answer a query at every step of a range."""
        self.respond(self._evaluate)

    post = get

    def _evaluate(self) -> object:
        start, end = self.read("start", parse_time), self.read("end", parse_time)
        step = self.read("step", _parse_step)
        query: Query = self.read("query", parse)
        return over_range(self.store, query, start, end, step)


class LabelsHandler(ApiHandler):
    """/api/v1/labels."""

    def get(self) -> None:
        """List the names of labels, of the series that `match[]` selects when it is given."""
        self.respond(lambda: sorted({name for series in self._chosen() for name in series.labels}))

    post = get

    def _chosen(self) -> list[Any]:
        selectors = self.get_arguments("match[]", strip=False)
        if not selectors:
            return list(self.store)
        queries = [_named("match[]", selector, _parse_selector) for selector in selectors]
        return [series for query in queries for series in self.store.select(query.matchers)]


class BuildHandler(ApiHandler):
    """/api/v1/status/buildinfo."""

    def get(self) -> None:
        """Say plainly what this is."""
        self.succeed({"version": "0.0.0-rbkit-sandbox", "application": "rbkit sandbox", "goVersion": ""})


class ReadyHandler(JsonHandler):
    """/-/ready."""

    def get(self) -> None:
        """Answer 200 once everything was scraped for the first time, 503 before."""
        ready = self.settings["is_ready"]()
        self.set_status(200 if ready else 503)
        self.finish("Prometheus Server is Ready.\n" if ready else "Service Unavailable\n")


class NothingHandler(ApiHandler):
    """Every other address."""

    def prepare(self) -> None:
        """Refuse."""
        super().prepare()
        raise Refusal(404, "not_found", f"the sandbox's metrics server has no {self.request.path}")


def _named(name: str, text: str, reader: Callable[[str], T]) -> T:
    try:
        return reader(text)
    except BadQuery as error:
        raise BadQuery(f'invalid parameter "{name}": {error}') from error


def _parse_selector(text: str) -> Query:
    query = parse(text)
    if query.rate_ms is not None:
        raise BadQuery("1:1: parse error: expected a selector")
    return query


def metrics_application(store: Store, is_ready: Callable[[], bool]) -> tornado.web.Application:
    """Build the metrics server's application.

    Args:
        store: The samples.
        is_ready: Tells whether every target was scraped once.
    """
    routes = [
        (r"/api/v1/query", QueryHandler),
        (r"/api/v1/query_range", RangeHandler),
        (r"/api/v1/labels", LabelsHandler),
        (r"/api/v1/status/buildinfo", BuildHandler),
        (r"/-/ready", ReadyHandler),
    ]
    return tornado.web.Application(routes, default_handler_class=NothingHandler, store=store, is_ready=is_ready)
