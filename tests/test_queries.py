"""Values in queries: the reader reads exactly the text back, and the query around it stays what it was."""

import re
import shutil
import subprocess
import sys
from typing import Any

import promql_parser
import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st

from rbkit.environment import SignalSettings
from rbkit.errors import ParameterError, SettingsError
from rbkit.ports import Bound
from rbkit.queries import argv, lucene_string, promql_string, render, sql_code

CALM = settings(derandomize=True, deadline=None, database=None, max_examples=300)
QUERY = 'rate(http_requests_total{job="sandbox", service=$service, zone!=$zone}[15s]) > 0 # per second'
SIMPLE = {"n": "\n", "r": "\r", "t": "\t", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "\\": "\\", '"': '"', "'": "'"}
HOSTILE = [
    '"} or vector(1) #', 'a\\"} or vector(1) #', "\\", '\\"', "'", "`", "$zone", "${RBKIT_HOME}", "; rm -rf /", "$(id)",
    "&& calc", "' OR 1=1 --", "a\nb", "\r\n", "\x00", "\x1b[31m",
    "\ufeff", "a* OR b:?", "*", "/.*/", "[a TO z]", "-rf", "--", ":start", "%(x)s", "$$ $$", "*/",
    "é", "\u202e", "😀", "", " ", "{{ 7*7 }}", "%s",
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
        "up !=$x", "up{a=\"b\"} !=$x", "sum({a='b'}) =$x", 'up{a="b=$x"}', "up{a='b=$x'}", "up{a=`b=$x`}",
        'up{a="\\"=$x"}',
        "up # =$x", 'up{a="b=$x', "up{a=`b=$x",
        "up{a='b\n=$x", 'up{a="$x"}',
    ],
)  # fmt: skip
def test_a_value_is_put_only_where_a_whole_string_stands(query):
    """Behind any other operator, inside a string or a comment, a `$name` is refused: it could change the query."""
    with pytest.raises(SettingsError, match=re.escape("$x stands where a value cannot be put safely")):
        render(signal(query), {"x": "v"})


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("up{a=$x}", 'up{a="v"}'),
        ("up{a=$x} > up{b!=$x}", 'up{a="v"} > up{b!="v"}'),
        ("up{a != $x}", 'up{a != "v"}'),
        ('up{b="#",a=$x}', 'up{b="#",a="v"}'),
        ("up", "up"),
    ],
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


def tree(node: Any) -> Any:
    """Describe a parsed PromQL expression: kinds, names, matchers."""
    if isinstance(node, promql_parser.Matchers):
        return [(one.name, str(one.op), one.value) for one in node.matchers]
    if isinstance(node, list | tuple):
        return [tree(item) for item in node]
    if isinstance(node, promql_parser.Expr):
        names = [name for name in dir(node) if not name.startswith("_") and not callable(getattr(node, name))]
        return (type(node).__name__, [(name, tree(getattr(node, name))) for name in names])
    return str(node)


@CALM
@given(st.sampled_from(HOSTILE) | st.text(st.characters(codec="utf-8"), max_size=20))
def test_a_parser_sees_the_same_tree_with_any_label(text):
    """HOSTILE 3: an independent parser of PromQL finds the query unchanged, and the value as the matcher's value."""
    query = 'sum by (pod) (rate(x{job="j", pod=$pod}[5m])) / ignoring(a) y{pod!=$pod} > 0.5'
    found = tree(promql_parser.parse(render(signal(query), {"pod": text})))
    swapped = str(tree(promql_parser.parse(query.replace("$pod", '"@@"')))).replace(repr("@@"), repr(text))
    assert str(found) == swapped


LOGQL = 'sum(count_over_time({app=$x, zone!="z"} |= $x != $y | json | level=$x or (status!=$y) [5m]))'


@CALM
@given(st.sampled_from(HOSTILE) | st.text(st.characters(codec="utf-8"), max_size=20), st.sampled_from(HOSTILE))
def test_logql_keeps_its_parts_with_any_value(first, second):
    """In selectors, line filters and label filters the value is one Go string, and nothing else changes."""
    expected = lexed(LOGQL.replace("$x", '"X"').replace("$y", '"Y"'))
    swapped = {"X": first, "Y": second}
    expected = [(kind, swapped.get(text, text) if kind == "string" else text) for kind, text in expected]
    assert lexed(render(signal(LOGQL), {"x": first, "y": second}, "logql")) == expected


@pytest.mark.parametrize(
    "query",
    [
        "{a=~$x}", "{a!~$x}", '{a="b"} |~ $x', '{a="b"} !~ $x', '{a="b"} | json b=$x', '{a="b"} | logfmt b=$x',
        '{a="b"} | label_format b=$x', '{a="b"} | line_format $x', '{a="b"} | b == $x', '{a="b"} | b > $x',
        '{a="b"} |= "$x"', '{a="b"} |= `$x`', '{a="b"} # |= $x', "$x", 'rate({a="b"}[5m]) != $x', '{a="b"} = $x',
        '{a="b"} | $x', '{a="b"} |> $x', '{a="b"} | drop b=$x', "sum by ($x) (rate({a='b'}[1m]))",
    ],
)  # fmt: skip
def test_logql_takes_no_value_elsewhere(query):
    """Not in regular expressions and patterns, and not in stages that evaluate templates or make labels."""
    with pytest.raises(SettingsError, match=re.escape("$x stands where a value cannot be put safely")):
        render(signal(query), {"x": "v"}, "logql")


def lucene(query: str) -> list[tuple[str, str]]:
    """Split a query as Lucene's classic parser does: phrases are read, everything else is `text`."""
    found, place, plain = [], 0, ""
    while place < len(query):
        if query[place] == '"':
            value, place = phrase(query, place + 1)
            found += [("text", plain), ("phrase", value)]
            plain = ""
        else:
            width = 2 if query[place] == "\\" else 1
            plain, place = plain + query[place : place + width], place + width
    return [*found, ("text", plain)]


def phrase(query: str, place: int) -> tuple[str, int]:
    """Read a phrase; a backslash takes the next sign as it is, and begins a code point when that is a u."""
    value = ""
    while query[place] != '"':
        if query[place] == "\\":
            place += 1
            assert query[place] != "u", "it would be read as a code point"
        value, place = value + query[place], place + 1
    return value, place + 1


@CALM
@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_a_phrase_reads_back_as_exactly_its_text(text):
    """Whatever the text, Lucene finds one phrase and nothing beside it."""
    assert lucene(lucene_string(text)) == [("text", ""), ("phrase", text), ("text", "")]


@CALM
@given(st.sampled_from(HOSTILE) | st.text(st.characters(codec="utf-8"), max_size=20))
def test_a_lucene_query_keeps_its_parts_with_any_value(text):
    """Only the phrase behind the field differs."""
    query = 'level:error AND (service:$x OR -k8s.pod\\-name:$x) AND NOT m:"a $ b" AND n:[1 TO 5]'
    expected = [(k, text if (k, t) == ("phrase", "@") else t) for k, t in lucene(query.replace("$x", '"@"'))]
    assert lucene(render(signal(query), {"x": text}, "lucene")) == expected


@pytest.mark.parametrize(
    "query",
    [
        "$x", "a $x", "a:($x)", 'a:"$x"', 'a:"b c:$x"', 'a:"b', "a:/b:$x/", "a:[$x TO 5]", "a:[1 TO b:$x]",
        "a:{1 TO b:$x}",
        "a\\:$x", "a:\\$x", "a: $x", "a:$x~2", "a:$x^3", "a:>$x", "a:$x*", "$x:b", "a:b$x", 'a:"b\\" c:$x',
    ],
)  # fmt: skip
def test_lucene_takes_no_value_elsewhere(query):
    """Not in phrases, ranges, groups and regular expressions, and with nothing that would change its meaning."""
    query = query if "$x" in query else query + " c:$x"
    with pytest.raises(SettingsError, match=re.escape("$x stands where a value cannot be put safely")):
        render(signal(query), {"x": "v"}, "lucene")


SQL = """WITH recent AS (SELECT * FROM requests WHERE at BETWEEN :start AND :end) -- it's :fine "here
SELECT time_bucket AS time, count(*) AS value, note AS "a ' label" FROM recent
WHERE service = $service AND zone IN ($zone, $service) AND note <> ' :it''s ' AND code::text LIKE E'5\\'%' /* ' */
LIMIT $most"""


@CALM
@given(st.sampled_from(HOSTILE) | st.text(st.characters(codec="utf-8"), max_size=20), st.integers() | st.booleans())
def test_sql_values_never_enter_the_text(text, number):
    """HOSTILE 5: the statement is the same with any value, each value is a bind of its own type."""
    values = {"service": text.replace("\0", ""), "zone": "z", "most": number}
    found = render(signal(SQL), values, "sql")
    assert isinstance(found, Bound) and found.values == values
    assert str(found) == SQL.replace("$", ":") and found.values["most"] is number


def binds(statement: Any) -> list[str]:
    """List the binds that a parser of SQL finds."""
    return sorted(found.name for found in statement.find_all(sqlglot.exp.Placeholder, sqlglot.exp.Parameter))


def test_a_parser_of_sql_sees_one_select_with_these_binds():
    """An independent parser agrees on what is a string, a comment and a bind."""
    [statement] = sqlglot.parse(str(render(signal(SQL), {"service": "a", "zone": "b", "most": 1}, "sql")), "postgres")
    assert isinstance(statement, sqlglot.exp.Select)
    assert binds(statement) == ["end", "most", "service", "service", "start", "zone"]


PIECES = [
    "select ", "with q as (select 1) ", "a", "b ", " = ", "$x", " $x ", "'", "''", '"', "--", "/*", "*/", "\n", ";",
    ",", "(", ")", "E'", "\\", "$$", "$t$", " from t", " where ", "delete from t ", ":start ", "::int",
    "update t set a = 1", " :y",
]  # fmt: skip


@CALM
@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_what_is_taken_for_one_select_is_one(pieces):
    """Whatever is put together, what render lets through is one reading statement, with the binds it says."""
    query = "select " + "".join(pieces)
    try:
        found = render(signal(query), {"x": 1} if "$x" in query else {}, "sql")
        statements = [one for one in sqlglot.parse(str(found), "postgres") if one is not None]
    except (SettingsError, ParameterError, sqlglot.errors.SqlglotError):
        return
    assert len(statements) == 1 and isinstance(statements[0], sqlglot.exp.Query)
    assert set(binds(statements[0])) - {"start"} == set(found.values)
    assert not list(statements[0].find_all(sqlglot.exp.Delete, sqlglot.exp.Update, sqlglot.exp.Insert))


@pytest.mark.parametrize(
    "query",
    [
        "", "delete from t where a = $x", "select 1; select $x", "with d as (delete from t returning *) select $x",
        "select $x into t", "select $x from t for update", "insert into t select $x", "explain select $x",
        "; select $x",
        "with q as (select $x) update t set a = 1", "(select $x)", "selection $x",
        "/* select */ delete from t where a = $x",
    ],
)  # fmt: skip
def test_sql_is_exactly_one_select(query):
    """What writes, or is more than one statement, is refused before it is sent."""
    with pytest.raises(SettingsError, match="exactly one SELECT"):
        render(signal(query), {"x": "v"} if "$x" in query else {}, "sql")


@pytest.mark.parametrize(
    "query",
    [
        "select '$x'", "select E'\\'$x'", 'select "$x"', "select 1 -- $x", "select 1 /* $x */", "select $$ $x $$",
        "select $t$ $x $t$", "select a.$x", "select a$x", "select $x::int", "select $x.b", "select :$x", "select $x(1)",
        "select a[1:$x]", "select $x$x", "select '$x", "select $1, $x", "select \\$x", "select :y, $x",
        "select $x, :start::date",
        "select \"a\"$x", "select :x, $x",
    ],
)  # fmt: skip
def test_sql_takes_no_value_elsewhere(query):
    """Not in strings, names, comments and casts; and no sign is left that the driver would take for a bind."""
    with pytest.raises(SettingsError, match="stands where a value cannot be put safely"):
        render(signal(query), {"x": "v"}, "sql")


def test_the_windows_binds_cannot_be_given():
    """`:start` and `:end` are always the window's."""
    with pytest.raises(SettingsError, match=re.escape("$start stands")):
        render(signal("select $start"), {"start": "v"}, "sql")


@pytest.mark.parametrize("query", ["select $x;", "select $x ; -- done; over", "SELECT\n$x", "select ARRAY[$x], a[1:2]"])
def test_sql_may_end_with_a_semicolon(query):
    """What one may write after a statement does no harm."""
    assert str(render(signal(query), {"x": "v"}, "sql")) == query.replace("$", ":")


def test_a_comment_within_a_comment_is_refused():
    """Databases differ in where it ends, so that a value could stand outside for one of them."""
    with pytest.raises(SettingsError, match="comment within a comment"):
        render(signal("select /* a /* b */ $x */ 1"), {"x": "v"}, "sql")
    assert str(render(signal("select '/* /* */'"), {}, "sql")) == "select '/* /* */'"


@pytest.mark.parametrize(("value", "why"), [("a\0b", "NUL"), ("\ud800", "broken character")])
def test_texts_that_no_database_takes_are_refused(value, why):
    """The parameter is named, instead of an error of the driver."""
    with pytest.raises(ParameterError, match=why) as caught:
        render(signal("select $x"), {"x": value}, "sql")
    assert caught.value.field == "x"


def test_code_of_sql_keeps_its_length():
    """Strings and names are blanked out by quotes, comments by spaces."""
    assert sql_code("a 'b''c' \"d\" --e\n/*f*/E'\\''g") == 'a """""" """    \n     """""g'


def test_each_language_has_its_own_kind_of_query():
    """Where a source has no queries, or no fields, the other is refused instead of being ignored."""
    with pytest.raises(SettingsError, match="has no queries"):
        render(signal("up"), {}, "fields")
    with pytest.raises(SettingsError, match="not `where`"):
        render(signal(a="b"), {}, "sql")
    assert render(signal(), {}, "fields") == {} and render(signal(a="$x"), {"x": 1}, "logql") == {"a": "1"}


ECHO = "import json, sys; print(json.dumps([ascii(word) for word in sys.argv[1:]]))"


@CALM
@given(st.sampled_from(HOSTILE) | st.text(st.characters(codec="utf-8"), max_size=20))
def test_a_value_stays_within_its_element(text):
    """HOSTILE 4: as many elements come out as went in, with the value in its place and nothing evaluated twice."""
    text = text.replace("\0", "")
    found = argv(["/bin/x", "--name={n}", "a {n} b", "{", "{}", "{1}"], {"n": text, "other": 1})
    assert found == ["/bin/x", f"--name={text}", f"a {text} b", "{", "{}", "{1}"]


def test_a_program_gets_the_value_as_one_argument():
    """A real program sees hostile text as one word; nothing is run by a shell."""
    hostile = ["; rm -rf /", "$(id)", "&& calc", "`id`", "a\nb", "'", '"', "*", "", "é\u202e😀", "{n}"]
    said = [subprocess.check_output(argv([sys.executable, "-c", ECHO, "{n}", "--x={n}"], {"n": n})) for n in hostile]
    assert [eval(one) for one in said] == [[ascii(n), ascii(f"--x={n}")] for n in hostile]  # noqa: S307 - own echo
    assert shutil.which("sh")


@pytest.mark.parametrize("value", ["-rf", "--", "-", "--output=/etc/passwd"])
def test_a_value_cannot_become_an_option(value):
    """Where a value begins an element it may not begin with -; behind a fixed beginning it may."""
    for template in ("{n}", "{n}.log"):
        with pytest.raises(ParameterError, match="'n' begins with -") as caught:
            argv(["/bin/x", template], {"n": value})
        assert caught.value.field == "n"
    with pytest.raises(ParameterError, match="'e' begins with -"):
        argv(["/bin/x", "{e}-{n}"], {"e": "", "n": value})
    assert argv(["/bin/x", "--n={n}", "x{n}"], {"n": value}) == ["/bin/x", f"--n={value}", f"x{value}"]
    assert argv(["/bin/x", "{n}"], {"n": "a-b"}) == ["/bin/x", "a-b"]


@pytest.mark.parametrize(
    ("value", "why"), [("a\0", "NUL"), ("\udcff", "broken"), (None, "text or a number"), (["a"], "text or a number")]
)
def test_values_that_no_command_takes_are_refused(value, why):
    """Named by their parameter, before anything is started."""
    with pytest.raises(ParameterError, match=why) as caught:
        argv(["/bin/x", "--n={n}"], {"n": value})
    assert caught.value.field == "n"


def test_a_command_needs_its_program_and_its_values():
    """The program never depends on a value, and no `{name}` is handed on."""
    for template in ([], ["{n}"], ["/bin/{n}", "a"]):
        with pytest.raises(SettingsError, match="must be fixed"):
            argv(template, {"n": "x"})
    with pytest.raises(ParameterError, match="needs a value for 'n'"):
        argv(["/bin/x", "{n}"], {"m": "x"})
    assert argv(["/bin/x", "{n}"], {"n": 3}) == ["/bin/x", "3"]
