"""The part of PromQL that is answered, and that everything else is refused cleanly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbkit.sandbox.promql import BadQuery, parse, parse_duration

HOSTILE = 'a"} or vector(1) #'


@pytest.mark.parametrize(
    ("text", "matchers", "rate_ms"),
    [
        ("up", "[__name__='up']", None),
        (" up # a comment\n", "[__name__='up']", None),
        ("rate", "[__name__='rate']", None),
        ('up{job="a", instance!~"b.*",}', "[__name__='up', job='a', instance!~'b.*']", None),
        ("{__name__=~'up|x'}", "[__name__=~'up|x']", None),
        ("x{a=`\\d`}", "[__name__='x', a='\\\\d']", None),
        (r'x{a="\x41é\n\101\U0001F600"}', "[__name__='x', a='Aé\\nA😀']", None),
        (r'x{a="\xc3\xa9"}', "[__name__='x', a='é']", None),
        ("rate(x[5m])", "[__name__='x']", 300_000),
        ("rate ( x{a='b'} [ 1h30m ] )", "[__name__='x', a='b']", 5_400_000),
        ("rate(x[90])", "[__name__='x']", 90_000),
    ],
)
def test_what_is_answered_is_read_as_prometheus_reads_it(text: str, matchers: str, rate_ms: int | None) -> None:
    """Names, matchers, the three kinds of quotes, escapes, comments and ranges mean what they mean in Prometheus."""
    query = parse(text)
    assert str(list(query.matchers)) == matchers
    assert query.rate_ms == rate_ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment",
        "{}",
        '{a=""}',
        '{a=~".*"}',
        "1",
        "NaN",
        '"text"',
        "up[5m]",
        "up offset 5m",
        "up @ 5",
        "up + 1",
        "sum(up)",
        "rate(up)",
        "rate(up[5m:1m])",
        "rate(up[0s])",
        "rate(up[5x])",
        "rate(up[1s1h])",
        "rate(rate(x[1m])[5m])",
        "(up)",
        "up{a}",
        "up{a=b}",
        "up{,}",
        'up{a=="b"}',
        'up{a="b}',
        'up{a="b\n"}',
        r'up{a="\q"}',
        r'up{a="\'"}',
        r'up{a="\400"}',
        r'up{a="\xff"}',
        r'up{a="\ud800"}',
        'up{__name__="x"}',
        'up{a=~"("}',
        'up{a=~"(?=x)"}',
        r'up{a=~"(b)\\1"}',
        "up} or vector(1)",
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    """What is wrong, or more than is answered, is one clean error and never a wrong answer."""
    with pytest.raises(BadQuery):
        parse(text)


def test_an_error_says_where() -> None:
    """The message names line and column, as Prometheus' does."""
    with pytest.raises(BadQuery, match="^2:4: parse error: unexpected"):
        parse("\nup + 1")


def test_a_hostile_value_stays_a_value() -> None:
    """An escaped quote does not end the string, so a label cannot become a query."""
    query = parse('up{a="' + HOSTILE.replace('"', '\\"') + '"}')
    assert [matcher.value for matcher in query.matchers] == ["up", HOSTILE]


@given(st.text(max_size=60) | st.text(alphabet="up{}()[]=~!\"'`\\,#5mrate \n", max_size=40))
def test_any_text_is_a_query_or_a_clean_error(text: str) -> None:
    """No text makes the parser fail in any other way."""
    try:
        assert parse(text).matchers
    except BadQuery as error:
        assert "parse error" in str(error)


@given(st.text())
def test_any_value_survives_go_style_quoting(value: str) -> None:
    """A value quoted with escapes is read back unchanged."""
    quoted = "".join(f"\\U{ord(char):08x}" if char in '"\\\n' else char for char in value)
    assert parse(f'x{{a="{quoted}"}}').matchers[1].value == value


@pytest.mark.parametrize(("text", "ms"), [("5m", 300_000), ("1d12h", 129_600_000), ("0.5", 500), ("15ms", 15)])
def test_durations(text: str, ms: int) -> None:
    """Durations are read with their units; a bare number is seconds."""
    assert parse_duration(text) == ms


@pytest.mark.parametrize("text", ["", "m", "-5m", "5m5m", "1m1h", "9" * 30, "9" * 14 + "y", "٥m"])
def test_wrong_durations(text: str) -> None:
    """What is no duration is refused."""
    with pytest.raises(BadQuery):
        parse_duration(text)
