"""Values in queries: the reader reads exactly the text back, and the query around it stays what it was."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbkit.errors import ParameterError, SettingsError
from rbkit.queries import promql_string, render
from rbkit.settings import SignalSettings

CALM = settings(derandomize=True, deadline=None, database=None, max_examples=300)
QUERY = 'rate(http_requests_total{job="sandbox", service=$service, zone!=$zone}[15s]) > 0 # per second'
SIMPLE = {"n": "\n", "r": "\r", "t": "\t", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "\\": "\\", '"': '"', "'": "'"}
HOSTILE = [
    '"} or vector(1) #', 'a\\"} or vector(1) #', "\\", '\\"', "'", "`", "$zone", "${RBKIT_HOME}", "; rm -rf /", "$(id)",
    "&& calc", "' OR 1=1 --", "a\nb", "\r\n", "\x00", "\x1b[31m", "é", "\u202e", "😀", "", " ", "{{ 7*7 }}", "%s",
]  # fmt: skip


def lexed(query: str) -> list[tuple[str, str]]:
    """Read PromQL's strings as Prometheus does (Go's strconv.Unquote); everything else is `text`."""
    found, place, plain = [], 0, ""
    while place < len(query):
        char = query[place]
        if char == "#":
            place = query.find("\n", place) % (len(query) + 1)
        elif char in "\"'`":
            value, place = unquoted(query, place)
            found += [("text", plain), ("string", value)]
            plain = ""
        else:
            plain, place = plain + char, place + 1
    return [*found, ("text", plain)]


def unquoted(query: str, start: int) -> tuple[str, int]:
    """Read one literal; return its value and the place behind it."""
    quote, value, place = query[start], "", start + 1
    while query[place] != quote:
        assert query[place] != "\n" or quote == "`", "a newline ends the query"
        if query[place] != "\\" or quote == "`":
            value, place = value + query[place], place + 1
        elif query[place + 1] == "x":
            value, place = value + chr(int(query[place + 2 : place + 4], 16)), place + 4
        else:
            value, place = value + SIMPLE[query[place + 1]], place + 2
    return value, place + 1


def signal(query: str = "", **where: str) -> SignalSettings:
    """Describe a signal."""
    return SignalSettings(source="s", query=query, where=where)


@CALM
@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_a_literal_reads_back_as_exactly_its_text(text):
    """Whatever the text, the lexer finds one string and nothing beside it."""
    assert lexed(promql_string(text)) == [("text", ""), ("string", text), ("text", "")]


@CALM
@given(st.sampled_from(HOSTILE) | st.text(st.characters(codec="utf-8"), max_size=20), st.sampled_from(HOSTILE))
def test_a_hostile_value_leaves_the_query_as_it_was(service, zone):
    """The query has the same parts with any value; only the two strings differ, and they are the values."""
    expected = lexed(QUERY.replace("$service", '"S"').replace("$zone", '"Z"'))
    swapped = {"S": service, "Z": zone}
    expected = [(kind, swapped.get(text, text) if kind == "string" else text) for kind, text in expected]
    assert lexed(render(signal(QUERY), {"service": service, "zone": zone})) == expected


@pytest.mark.parametrize("text", ["\ud800", "a\udcffb"])
def test_a_broken_character_is_refused(text):
    """A lone surrogate cannot be sent, and is refused before it is."""
    with pytest.raises(ParameterError, match="broken character"):
        promql_string(text)


@pytest.mark.parametrize(
    "query",
    [
        "up{a=~$x}", "up{a!~$x}", "up{a==$x}", "up > $x", "up >=$x", "up <=$x", "up[$x]", "$x", "sum by ($x) (up)",
        'up{a="b=$x"}', "up{a='b=$x'}", "up{a=`b=$x`}", 'up{a="\\"=$x"}', "up # =$x", 'up{a="b=$x', "up{a=`b=$x",
        "up{a='b\n=$x", 'up{a="$x"}',
    ],
)  # fmt: skip
def test_a_value_is_put_only_where_a_whole_string_stands(query):
    """Behind any other operator, inside a string or a comment, a `$name` is refused: it could change the query."""
    with pytest.raises(SettingsError, match=re.escape("$x stands where a value cannot be put safely")):
        render(signal(query), {"x": "v"})


@pytest.mark.parametrize(
    ("query", "expected"),
    [("up{a=$x}", 'up{a="v"}'), ("up{a != $x}", 'up{a != "v"}'), ('up{b="#",a=$x}', 'up{b="#",a="v"}'), ("up", "up")],
)
def test_a_value_stands_behind_equal_and_not_equal(query, expected):
    """Both matchers take a value, with or without white space, also after a string with a number sign in it."""
    assert render(signal(query), {"x": "v"} if "$x" in query else {}) == expected


@pytest.mark.parametrize(("value", "text"), [(3, "3"), (2.5, "2.5"), (True, "True"), ("3", "3")])
def test_numbers_become_text(value, text):
    """A label is always text."""
    assert render(signal("up{a=$x}"), {"x": value}) == f'up{{a="{text}"}}'


@pytest.mark.parametrize("value", [None, ["a"], {"a": 1}, b"a", object()])
def test_other_values_are_refused_by_name(value):
    """A list or a mapping is no label."""
    with pytest.raises(ParameterError, match="'x' must be text or a number") as caught:
        render(signal("up{a=$x}"), {"x": value})
    assert caught.value.field == "x"


def test_a_value_without_a_place_and_a_place_without_a_value_are_refused():
    """A misspelt name is not dropped silently, and no query is sent with a `$name` in it."""
    with pytest.raises(ParameterError, match=r"no place for 'servce'. Did you mean 'service'\?"):
        render(signal("up{a=$service}"), {"servce": "x"})
    with pytest.raises(ParameterError, match="needs a value for 'service'") as caught:
        render(signal("up{a=$service}"), {})
    assert "service=…" in caught.value.todo


def test_a_mapping_takes_values_as_they_are():
    """Where a source compares fields exactly, nothing is escaped and nothing else is evaluated."""
    spec = signal(service="$service", level="error", path="/v1/$service")
    for text in HOSTILE:
        expected = {"service": text, "level": "error", "path": f"/v1/{text}"}
        assert render(spec, {"service": text}) == expected


def test_names_of_query_and_mapping_do_not_run_together():
    """The last name of a query and the first word of a mapping are two words."""
    spec = SignalSettings(source="s", query="up{a=$x}=$a", where={"f": "b$a"})
    assert render(spec, {"x": "1", "a": "2"}) == {"f": "b2"}
