"""Puts values into queries and commands, always through an escaper of that language: alert labels are hostile input."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rbkit.environment import SignalSettings
from rbkit.errors import ParameterError, SettingsError
from rbkit.ports import Bound, Language
from rbkit.values import nearest

__all__ = ["argv", "lucene_string", "promql_string", "render", "sql_code"]

_SLOT = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_HOLE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\x00"}
_GO = r""""(?:\\.|[^"\\])*(?:"|\Z)|'(?:\\.|[^'\\])*(?:'|\Z)|`[^`]*(?:`|\Z)|(?P<comment>\#[^\n]*)"""
_OPAQUE: dict[Language, re.Pattern[str]] = {
    "promql": re.compile(_GO, re.DOTALL),
    "logql": re.compile(_GO, re.DOTALL),
    "lucene": re.compile(r'"(?:\\.|[^"\\])*(?:"|\Z)|/(?:\\.|[^/\\])*(?:/|\Z)|(?P<escape>\\.)', re.DOTALL),
    "sql": re.compile(
        r"""(?<![\w$])[eE]'(?:\\.|''|[^'\\])*(?:'|\Z)|'(?:''|[^'])*(?:'|\Z)|"(?:""|[^"])*(?:"|\Z)"""
        r"""|(?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))""",
        re.DOTALL,
    ),
}
"""What holds no code: strings, regular expressions, comments. One that is not closed reaches to the end."""
_FILL = {"comment": " ", "escape": "x"}
_HINTS: dict[Language, str] = {
    "promql": "Write label=$name or label!=$name; a value is never put into a regular expression.",
    "logql": "Write label=$name in a selector, |= $name, or | label=$name; never in a regular expression or template.",
    "lucene": "Write field:$name; a value is never put into quotes, a range, a group or a regular expression.",
    "sql": "Write $name where a whole value stands; to change its type write CAST($name AS type).",
}
_EQUAL = re.compile(r"(?<![=!~<>|])!?=\s*$")
_LINE_FILTER = re.compile(r"""(?:\|=|(?:[}"]|\$[A-Za-z_]\w*)\s*!=)\s*$""")
_LABEL_FILTER = re.compile(r"[\s(]*[A-Za-z_]\w*\s*(?:=~|!~|!=|==|=|[<>]=?)")
_FIELD = re.compile(r"(?:^|[\s(+\-!&|])[A-Za-z_@][\w.@-]*:\Z")
_COLON_NAME = re.compile(r"(?<![:\w\\]):(\w+)")
_JOINED_BEFORE = re.compile(r'[\w$.:@"]\Z')
_JOINED_AFTER = re.compile(r'[\w$.:@"(\[]')
_CHANGING = {"insert", "update", "delete", "merge", "into"}
_WINDOW = ("start", "end")


def promql_string(value: str) -> str:
    """Write a text as a string literal of PromQL, LogQL or TraceQL: all take Go's.

    Args:
        value: Any text.

    Returns:
        The literal with its quotes; the parser reads exactly this text back.

    Raises:
        ParameterError: The text holds a lone surrogate, which no query can carry.

    Source: https://prometheus.io/docs/prometheus/latest/querying/basics/#string-literals
    """
    return '"' + "".join(_ESCAPES.get(char, char) for char in _whole(value)) + '"'


def lucene_string(value: str) -> str:
    """Write a text as a quoted phrase of Lucene: no operator, wildcard or regular expression can be in it.

    Args:
        value: Any text.

    Returns:
        The phrase with its quotes; the parser reads exactly this text back.

    Raises:
        ParameterError: The text holds a lone surrogate, which no query can carry.

    Source: https://lucene.apache.org/core/10_0_0/queryparser/org/apache/lucene/queryparser/classic/package-summary.html
    """
    return '"' + _whole(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def render(spec: SignalSettings, values: Mapping[str, Any], language: Language = "promql") -> Any:
    """Put values into a signal's query.

    Args:
        spec: The signal's settings: a query text with `$name` where the language has a place for a value, or a
            mapping `where`.
        values: Values by name; every one must be used, and text, a number or a boolean.
        language: How the source's queries are written.

    Returns:
        The query text; a Bound where the language has binds; or the mapping with its values put in.

    Raises:
        ParameterError: A value is missing, is not used, or is of another type.
        SettingsError: The query has a `$name` where a value cannot stand safely, or is none of the language.
    """
    for name, value in values.items():
        _text(name, value)
    _all_used(spec, values)
    if language == "sql":
        return _bound(spec, values)
    if spec.where or language == "fields":
        return _mapping(spec, values)
    return _written(spec.query, values, language)


def _mapping(spec: SignalSettings, values: Mapping[str, Any]) -> dict[str, str]:
    if spec.query and not spec.where:
        raise SettingsError(f"The source of this signal has no queries: {spec.query!r}.", todo="Write `where:` fields.")
    return {key: _SLOT.sub(lambda m: _text(m[1], _take(values, m[1])), text) for key, text in spec.where.items()}


def _written(query: str, values: Mapping[str, Any], language: Language) -> str:
    """Put values into a text as the language writes its strings."""
    code = _code(query, language)
    write, fits = _WRITERS[language]

    def put(match: re.Match[str]) -> str:
        if code[match.start()] != "$" or not fits(code, match):
            raise _misplaced(match[0], query, language)
        return write(_text(match[1], _take(values, match[1])))

    return _SLOT.sub(put, query)


def _code(query: str, language: Language) -> str:
    """Blank out what is no code, at its full length: strings by quotes, comments by spaces, escaped signs by x."""

    def blank(match: re.Match[str]) -> str:
        return _FILL.get(match.lastgroup or "", '"') * len(match[0])

    return _OPAQUE[language].sub(blank, query)


def _in_selector(code: str, match: re.Match[str]) -> bool:
    """Whether a slot stands behind = or != between braces."""
    before = code[: match.start()]
    return before.count("{") == before.count("}") + 1 and bool(_EQUAL.search(before))


def _in_pipeline(code: str, match: re.Match[str]) -> bool:
    """Whether a slot stands in a selector, a line filter or a label filter; not in a stage that makes labels."""
    before = code[: match.start()]
    if before.count("{") != before.count("}"):
        return _in_selector(code, match)
    if _LINE_FILTER.search(before):
        return True
    stage = before.rpartition("|")
    return bool(stage[1] and _EQUAL.search(before) and _LABEL_FILTER.match(stage[2]))


def _behind_field(code: str, match: re.Match[str]) -> bool:
    """Whether a slot is all that stands behind `field:`, outside ranges."""
    before, after = code[: match.start()], code[match.end() : match.end() + 1]
    opened = sum(before.count(sign) for sign in "[{") - sum(before.count(sign) for sign in "]}")
    return not opened and bool(_FIELD.search(before)) and (not after or after.isspace() or after == ")")


_WRITERS: dict[Language, tuple[Callable[[str], str], Callable[[str, re.Match[str]], bool]]] = {
    "promql": (promql_string, _in_selector),
    "logql": (promql_string, _in_pipeline),
    "lucene": (lucene_string, _behind_field),
}


def sql_code(query: str) -> str:
    """Blank out the strings, quoted names and comments of a SQL text.

    Args:
        query: SQL as PostgreSQL reads it.

    Returns:
        A text of the same length: strings and quoted names are quotes, comments are spaces, the code is as it was.

    Source: https://www.postgresql.org/docs/current/sql-syntax-lexical.html
    """
    return _code(query, "sql")


def _bound(spec: SignalSettings, values: Mapping[str, Any]) -> Bound:
    """Turn every `$name` of a SQL text into a bind; values keep their types and never enter the text."""
    if spec.where:
        raise SettingsError("A signal of a SQL source has a `query`, not `where`.")
    code = sql_code(spec.query)
    _check_select(spec.query, code)
    names: dict[str, Any] = {}

    def put(match: re.Match[str]) -> str:
        if code[match.start()] != "$" or not _stands_alone(code, match) or match[1] in _WINDOW:
            raise _misplaced(match[0], spec.query, "sql")
        names[match[1]] = _sendable(match[1], _take(values, match[1]))
        return f":{match[1]}"

    return Bound(_SLOT.sub(put, spec.query), names)


def _stands_alone(code: str, match: re.Match[str]) -> bool:
    """Whether a slot is a word of its own: no part of a name, a string, another slot or a cast."""
    return not _JOINED_BEFORE.search(code, 0, match.start()) and not _JOINED_AFTER.match(code, match.end())


def _check_select(query: str, code: str) -> None:
    """Refuse what is not one reading statement; the adapter's read-only transaction is the guard, this is the hint.

    Raises:
        SettingsError: It is no SELECT, more than one statement, or has signs that are read in two ways.
    """
    words = re.findall(r"[^\W\d]\w*", code.lower())
    body = code.strip().removesuffix(";")
    if not re.match(r"(?:select|with)\b", body, re.IGNORECASE) or ";" in body or _CHANGING & set(words):
        raise SettingsError(f"A SQL signal must be exactly one SELECT: {query!r}.", todo="It may begin with WITH.")
    if any("/*" in found[0][2:] for found in _OPAQUE["sql"].finditer(query) if found[0].startswith("/*")):
        raise SettingsError(f"A comment within a comment is read in two ways: {query!r}.")
    if "\\" in code or "$" in _SLOT.sub("", code):
        raise _misplaced("$", query, "sql")
    for found in _COLON_NAME.finditer(code):
        if found[1] not in _WINDOW or code[found.end() : found.end() + 1] == ":":
            raise _misplaced(found[0], query, "sql")


def _misplaced(what: str, query: str, language: Language) -> SettingsError:
    return SettingsError(f"{what} stands where a value cannot be put safely: {query!r}.", todo=_HINTS[language])


def argv(template: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """Put values into a program's arguments: each stays within its element, whatever it holds; no shell is needed.

    Args:
        template: The program, then its arguments with `{name}` where a value belongs.
        values: Values by name: text, numbers or booleans; they need not all be used.

    Returns:
        One text per element of the template.

    Raises:
        SettingsError: There is no program, or its name depends on a value.
        ParameterError: A value is missing, is of another type, holds a NUL or broken character, or would be read as
            an option.
    """
    if not template or _HOLE.search(template[0]):
        raise SettingsError(f"The program of a command must be fixed: {list(template)!r}.")
    return [template[0], *(_element(text, values) for text in template[1:])]


def _element(template: str, values: Mapping[str, Any]) -> str:
    element = _HOLE.sub(lambda m: _word(m[1], values), template)
    first = _HOLE.match(template)
    if first and element.startswith("-"):
        raise ParameterError(
            f"The value for {first[1]!r} begins with - and would be read as an option.", field=first[1],
            todo=f"Give another value, or have the command written as --option={template}.",
        )  # fmt: skip
    return element


def _word(name: str, values: Mapping[str, Any]) -> str:
    if name not in values:
        raise ParameterError(f"The command needs a value for {name!r}.", field=name, todo=f"Pass {name}=….")
    return str(_sendable(name, _text(name, values[name])))


def _all_used(spec: SignalSettings, values: Mapping[str, Any]) -> None:
    slots = set(_SLOT.findall(" ".join((spec.query, *spec.where.values()))))
    unused = [name for name in values if name not in slots]
    if unused:
        raise ParameterError(f"The query has no place for {unused[0]!r}.{nearest(unused[0], slots)}", field=unused[0])


def _take(values: Mapping[str, Any], name: str) -> Any:
    if name not in values:
        raise ParameterError(f"The query needs a value for {name!r}.", field=name, todo=f"Pass {name}=… to observe.")
    return values[name]


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str | int | float):
        raise ParameterError(f"The value for {name!r} must be text or a number.", field=name)
    return str(value)


def _sendable(name: str, value: Any) -> Any:
    """Refuse a text with a NUL, which neither a database nor a command takes."""
    if isinstance(value, str) and "\0" in _whole(value, name):
        raise ParameterError(f"The value for {name!r} holds a NUL character.", field=name)
    return value


def _whole(value: str, name: str = "query") -> str:
    """Refuse a text with half a character, which cannot be written as UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ParameterError("A value for a query holds a broken character.", field=name) from error
    return value
