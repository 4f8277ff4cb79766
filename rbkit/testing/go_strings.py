"""String literals as Go reads them, and with it LogQL and TraceQL."""

import re

__all__ = ["unquote"]

_SIMPLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"'}
_PART = re.compile(
    r"""[^"\\\n]|\\(?:(?P<simple>[abfnrtv\\"])|x(?P<x>[0-9a-fA-F]{2})|u(?P<u>[0-9a-fA-F]{4})|U(?P<U>[0-9a-fA-F]{8})"""
    r"""|(?P<octal>[0-7]{3}))""",
    re.DOTALL,
)


def unquote(literal: str) -> str:
    """Read a string literal.

    Args:
        literal: With its double quotes or back quotes.

    Returns:
        The text that it stands for.

    Raises:
        ValueError: It is no literal.

    Source: https://go.dev/ref/spec#String_literals
    """
    if len(literal) < 2 or literal[0] != literal[-1] or literal[0] not in '"`':
        raise ValueError("not a quoted string")
    inner = literal[1:-1]
    if literal[0] == "`":
        if "`" in inner:
            raise ValueError("a back quote within back quotes")
        return inner.replace("\r", "")
    return _unescaped(inner)


def _unescaped(inner: str) -> str:
    found, place = bytearray(), 0
    while place < len(inner):
        part = _PART.match(inner, place)
        if part is None:
            raise ValueError("invalid syntax in a string")
        found += _bytes(part)
        place = part.end()
    return found.decode("utf-8", "replace")


def _bytes(part: re.Match[str]) -> bytes:
    """Return what a part of a literal stands for: two or three digits are a byte, more are a character."""
    if part["simple"]:
        return _SIMPLE[part["simple"]].encode()
    if byte := part["x"] or part["octal"]:
        return bytes([int(byte, 16 if part["x"] else 8)])
    if code := part["u"] or part["U"]:
        return chr(int(code, 16)).encode("utf-8", "replace")
    return part[0].encode()
