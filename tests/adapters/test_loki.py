"""Loki answers in the documented form or not at all, and a value is never more than a value."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from rbkit.adapters.loki import Loki
from rbkit.errors import BadAnswer, ParameterError, SettingsError, Unreachable
from rbkit.ports import Window
from rbkit.testing.double import Answer, Double, Request

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WINDOW = Window(NOW - timedelta(minutes=1), NOW, 1.0)
NS = int(NOW.timestamp()) * 10**9


def streams(*found: Any) -> dict[str, Any]:
    """Wrap streams as Loki does."""
    return {"status": "success", "data": {"resultType": "streams", "result": list(found), "stats": {}}}


def stream(*values: Any, **labels: str) -> dict[str, Any]:
    """Make a stream."""
    return {"stream": labels, "values": list(values)}


def asked(server: Any, where: Any = None, limit: int = 10, **options: Any) -> Any:
    """Ask a server."""

    async def work(url: str) -> Any:
        source = Loki(url, **options)
        try:
            return await source.search(where if where is not None else {"service": "checkout"}, WINDOW, limit)
        finally:
            await source.aclose()

    return server.use(work)


def sent(server: Any) -> dict[str, str]:
    """Return the fields of the last question."""
    target = server.asked[-1].split(b" ")[1].decode()
    return {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}


def test_labels_select_streams_and_other_fields_are_looked_for_in_lines(server) -> None:
    """What the environment file selects always holds; values are escaped; the end of the window belongs to it."""
    where = {"service": 'a"b', "user": 'x" or y\n', "job": "j"}
    asked(server.json(streams()), where, select={"cluster": "prod"}, tenant="team")
    query = '{cluster="prod", service="a\\"b", job="j"} | json | user="x\\" or y\\n"'
    assert sent(server) == {
        "query": query, "start": str(NS - 60 * 10**9), "end": str(NS + 1), "limit": "10", "direction": "backward",
    }  # fmt: skip
    assert b"X-Scope-OrgID: team" in server.asked[0]


def test_a_single_label_needs_no_list(server) -> None:
    """It is one label, not its letters."""
    asked(server.json(streams()), {"app": "x", "a": "y"}, labels="app")
    assert sent(server)["query"] == '{app="x"} | json | a="y"'


def test_a_written_query_is_sent_as_it_is(server) -> None:
    """It was rendered by who knows LogQL."""
    asked(server.json(streams()), '{a="b"} |= "x"')
    assert sent(server)["query"] == '{a="b"} |= "x"'


@pytest.mark.parametrize("where", [{}, {"user": "x"}])
def test_something_must_select_a_stream(server, where) -> None:
    """Loki cannot search everything; the labels that would do are named."""
    with pytest.raises(SettingsError, match="Put one of app, job"):
        asked(server.json(streams()), where, labels=["job", "app"])
    assert not server.asked


@pytest.mark.parametrize("where", [{"service": "x", "a.b": "y"}, {'a" or b': "x"}, {"service": "x", "": "y"}])
def test_a_name_that_is_no_label_is_refused(server, where) -> None:
    """It could become part of the query."""
    with pytest.raises(SettingsError, match="is no label"):
        asked(server.json(streams()), where)


def test_a_broken_character_is_refused(server) -> None:
    """Before anything is asked."""
    with pytest.raises(ParameterError):
        asked(server.json(streams()), {"service": "\ud800"})


def test_lines_give_their_fields(server) -> None:
    """JSON objects give fields, anything else is the message; labels of a single line are attributes, too."""
    frame = asked(
        server.json(
            streams(
                stream([str(NS), '{"message": "m", "level": "warn", "n": 4}'], service="s", n="4"),
                stream([str(NS - 1), "plain", {"trace": "t"}], service="s", detected_level="info"),
                stream([str(NS - 2), '{"level": 3'], [str(NS - 3), "[1]"], [str(NS - 4), '{"a": 1}'], level="x"),
            )
        )
    )
    assert frame["message"].tolist() == ['{"a": 1}', "[1]", '{"level": 3', "plain", "m"]
    assert frame["level"].tolist() == ["x", "x", "x", "info", "warn"]
    assert frame["attributes"].tolist() == [
        {"a": 1}, {}, {}, {"service": "s", "detected_level": "info", "trace": "t"}, {"service": "s", "n": 4},
    ]  # fmt: skip
    assert frame["time"].astype("int64").tolist() == [NS - 4, NS - 3, NS - 2, NS - 1, NS]


def test_a_line_that_nests_too_deep_is_its_own_message(server) -> None:
    """No line brings the search down."""
    deep = '{"a":' * 100_000
    assert asked(server.json(streams(stream([str(NS), deep], a="b"))))["message"].tolist() == [deep]


def test_lines_outside_the_window_are_left_out(server) -> None:
    """Whatever the server sends."""
    values = [
        [str(NS + 1), "late"],
        [str(NS), "last"],
        [str(NS - 60 * 10**9), "first"],
        [str(NS - 61 * 10**9), "early"],
    ]
    assert asked(server.json(streams(stream(*values, a="b"))))["message"].tolist() == ["first", "last"]


class Pages(Double):
    """Answers with one page after the other.

    Args:
        pages: Times and lines of each page.
    """

    def __init__(self, *pages: list[tuple[int, str]]) -> None:
        super().__init__()
        self._pages = list(pages)

    def answer(self, request: Request) -> Answer:
        """Answer with the next page."""
        values = [[str(NS - age), line] for age, line in self._pages.pop(0)]
        return Answer(200, streams(stream(*values, a="b")))


def paged(double: Pages, limit: int) -> Any:
    """Ask for pages of two lines."""

    async def work() -> Any:
        source = Loki(double.url, page=2)
        try:
            return await source.search("{}", WINDOW, limit)
        finally:
            await source.aclose()

    return asyncio.run(work())


def test_pages_go_back_in_time_without_loss_or_repetition() -> None:
    """The next page begins with the last one's oldest moment; a short page is the last; the limit ends it, too."""
    pages = [[(0, "a"), (5, "b")], [(5, "b"), (5, "c")], [(5, "c"), (9, "d")], [(9, "d")]]
    with Pages(*pages) as double:
        assert paged(double, 10)["message"].tolist() == ["d", "b", "c", "a"]
        assert [int(r.one("end")) for r in double.requests] == [NS + 1, NS - 5 + 1, NS - 5 + 1, NS - 9 + 1]
    with Pages(*pages) as double:
        assert paged(double, 3)["message"].tolist() == ["b", "c", "a"] and len(double.requests) == 2


def test_more_lines_of_one_moment_than_fit_are_refused() -> None:
    """Nothing says which ones would be missing."""
    same = [(5, "b"), (5, "c")]
    with Pages(same, same) as double, pytest.raises(BadAnswer, match="More than 2 lines have the same moment"):
        paged(double, 10)


@pytest.mark.parametrize(
    "answer",
    [
        None, [], {"status": "success"}, {"status": "success", "data": None}, streams(None), streams({"stream": {}}),
        streams(stream(["x", "line"])), streams(stream([str(NS)])), streams(stream([str(NS), "x", 5])),
        streams({"stream": None, "values": []}), streams(stream([None, "x"])), streams(stream([float("inf"), "x"])),
    ],
)  # fmt: skip
def test_another_form_is_a_bad_answer(server, answer) -> None:
    """It is refused, never half read."""
    with pytest.raises(BadAnswer, match="does not document"):
        asked(server.json(answer))


def test_numbers_or_an_error_are_no_lines(server) -> None:
    """A metric query gives a matrix; what came is shown."""
    for answer in ({"status": "success", "data": {"resultType": "matrix", "result": []}}, {"status": "fail"}):
        with pytest.raises(BadAnswer, match="did not answer with lines: .*(matrix|fail)"):
            asked(server.json(answer))


def test_errors_are_said_in_the_servers_words(server) -> None:
    """A wrong query, and a server that is not there."""
    with pytest.raises(BadAnswer, match="400: parse error at line 1"):
        asked(server.text("parse error at line 1", 400))
    server.reply = b""
    with pytest.raises(Unreachable, match="Loki at"):
        asked(server)
