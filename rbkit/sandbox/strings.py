"""The string literals of PromQL: three quotes, Go's escapes."""

__all__ = ["BadString", "read_string"]

SIMPLE = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92}
HEX_DIGITS = {"x": 2, "u": 4, "U": 8}


class BadString(ValueError):
    """The text is not a PromQL string literal."""


def read_string(text: str, at: int) -> tuple[str, int]:
    r"""Read the string literal that begins at a position.

    Args:
        text: A query.
        at: Index of the opening quote: `"`, `'` or a backtick.

    Returns:
        The value and the index after the closing quote.

    Raises:
        BadString: It is not closed, spans lines, has an escape that PromQL does not know, or is not UTF-8.

    Source: Prometheus, util/strutil/quote.go: `\'` is no escape within double quotes, `\xff` is a byte.
    """
    if text[at] == "`":
        end = text.find("`", at + 1)
        if end < 0:
            raise BadString("unterminated raw string")
        return text[at + 1 : end], end + 1
    return _read_quoted(text, at)


def _read_quoted(text: str, at: int) -> tuple[str, int]:
    quote, at, out = text[at], at + 1, bytearray()
    while at < len(text) and text[at] not in (quote, "\n"):
        if text[at] == "\\":
            piece, at = _escape(text, at + 1, quote)
        else:
            piece, at = text[at].encode("utf-8", "surrogatepass"), at + 1
        out += piece
    if at >= len(text) or text[at] != quote:
        raise BadString("unterminated quoted string")
    try:
        return out.decode(), at + 1
    except UnicodeDecodeError as error:
        raise BadString("invalid UTF-8 in string") from error


def _escape(text: str, at: int, quote: str) -> tuple[bytes, int]:
    letter = text[at : at + 1]
    if letter == quote:
        return quote.encode(), at + 1
    if letter and letter in SIMPLE:
        return bytes([SIMPLE[letter]]), at + 1
    if letter in HEX_DIGITS:
        return _number(letter, text[at + 1 : at + 1 + HEX_DIGITS[letter]], 16), at + 1 + HEX_DIGITS[letter]
    if letter and letter in "01234567":
        return _number("o", text[at : at + 3], 8), at + 3
    raise BadString(f"unknown escape sequence {letter!r}" if letter else "escape sequence not terminated")


def _number(kind: str, digits: str, base: int) -> bytes:
    allowed = "01234567" if base == 8 else "0123456789abcdefABCDEF"
    if len(digits) != HEX_DIGITS.get(kind, 3) or not set(digits) <= set(allowed):
        raise BadString("illegal character in escape sequence")
    code = int(digits, base)
    if kind in "xo":
        if code > 255:
            raise BadString("escape sequence is an invalid byte")
        return bytes([code])
    if code > 0x10FFFF or 0xD800 <= code < 0xE000:
        raise BadString("escape sequence is an invalid Unicode code point")
    return chr(code).encode()
