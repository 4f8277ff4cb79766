"""Puts values into queries, always through an escaper of that language: alert labels are hostile input."""

import re
from collections.abc import Mapping
from typing import Any

from rbkit.errors import ParameterError, SettingsError
from rbkit.settings import SignalSettings
from rbkit.values import nearest

__all__ = ["promql_string", "render"]

_SLOT = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_BEFORE = re.compile(r"(?<![=!~<>])!?=\s*$")
_QUOTED = re.compile(r""""(?:\\.|[^"\\])*(?:"|\Z)|'(?:\\.|[^'\\])*(?:'|\Z)|`[^`]*(?:`|\Z)|\#[^\n]*""", re.DOTALL)
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\x00"}


def promql_string(value: str) -> str:
    """Write a text as a PromQL string literal.

    Args:
        value: Any text.

    Returns:
        The literal with its quotes; the parser reads exactly this text back.

    Raises:
        ParameterError: The text holds a lone surrogate, which no query can carry.

    Source: https://prometheus.io/docs/prometheus/latest/querying/basics/#string-literals
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ParameterError("A value for a query holds a broken character.", field="query") from error
    return '"' + "".join(_ESCAPES.get(char, char) for char in value) + '"'


def render(spec: SignalSettings, values: Mapping[str, Any]) -> Any:
    """Put values into a signal's query.

    Args:
        spec: The signal's settings: a query text with `$name` after `=` or `!=`, or a mapping `where`.
        values: Values by name; every one must be used, and text, a number or a boolean.

    Returns:
        The query text, or the mapping with its values put in.

    Raises:
        ParameterError: A value is missing, is not used, or is of another type.
        SettingsError: The query has a `$name` where a value cannot stand safely.
    """
    texts = {name: _text(name, value) for name, value in values.items()}
    slots = set(_SLOT.findall(" ".join((spec.query, *spec.where.values()))))
    unused = [name for name in texts if name not in slots]
    if unused:
        raise ParameterError(f"The query has no place for {unused[0]!r}.{nearest(unused[0], slots)}", field=unused[0])
    if spec.where:
        return {key: _SLOT.sub(lambda m: _take(texts, m[1]), text) for key, text in spec.where.items()}
    return _SLOT.sub(lambda m: _slot(spec.query, m, texts), spec.query)


def _slot(query: str, match: re.Match[str], texts: Mapping[str, str]) -> str:
    quoted = any(text.start() < match.start() < text.end() for text in _QUOTED.finditer(query))
    if quoted or not _BEFORE.search(query, 0, match.start()):
        raise SettingsError(
            f"${match[1]} stands where a value cannot be put safely: {query!r}.",
            todo="Write label=$name or label!=$name; a value is never put into a regular expression.",
        )
    return promql_string(_take(texts, match[1]))


def _take(texts: Mapping[str, str], name: str) -> str:
    if name not in texts:
        raise ParameterError(f"The query needs a value for {name!r}.", field=name, todo=f"Pass {name}=… to observe.")
    return texts[name]


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str | int | float):
        raise ParameterError(f"The value for {name!r} must be text or a number.", field=name)
    return str(value)
