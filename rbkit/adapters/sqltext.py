"""Takes the values out of a PostgreSQL query, so that it can be shown: what it does stays, whose data it is goes."""

import re

__all__ = ["without_values"]

_TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*)
      | (?P<nested>/\*)
      | (?P<value>[eE]'(?:[^'\\]|\\.|'')*(?:'|\Z)            # E'it\'s'
                | (?:[bBxXnN]|[uU]&)?'(?:[^']|'')*(?:'|\Z)   # 'it''s', B'1', X'ff', U&'0441'
                | \$(?P<tag>(?:[^\W\d]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z)  # $a$it's$a$
                | (?:\d[\w.]*|\.\d[\w.]*)(?:(?<=[eE])[+-]\d+)?)       # 1, 0xff, 1_000, .5, 1e-3
      | (?P<kept>(?:[uU]&)?"(?:[^"]|"")*(?:"|\Z)             # a quoted name
                | [^\W\d][\w$]*                              # a name or a word
                | \$\d+                                      # a bind
                | .)""",
    re.VERBOSE | re.DOTALL,
)
_MARK = re.compile(r"/\*|\*/")
_MANY = re.compile(r"\?(?:\s*,\s*\?)+")


def without_values(query: str, longest: int = 200) -> str:
    """Return a query without its literals and comments, on one line, shortened.

    Args:
        query: The query as PostgreSQL shows it; it may be cut off anywhere.
        longest: The most characters to return.

    Returns:
        The query with `?` for each literal and `?, …` for several in a row.

    Source: https://www.postgresql.org/docs/current/sql-syntax-lexical.html
    """
    parts, at = [], 0
    while found := _TOKEN.match(query, at):
        parts.append({"value": "?", "kept": found[0]}.get(str(found.lastgroup), " "))
        at = _after_comment(query, found.end()) if found.lastgroup == "nested" else found.end()
    text = _MANY.sub("?, …", " ".join("".join(parts).split()))
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _after_comment(query: str, at: int) -> int:
    """Find the end of a comment; comments hold comments."""
    depth = 1
    for mark in _MARK.finditer(query, at):
        depth += 1 if mark[0] == "/*" else -1
        if not depth:
            return mark.end()
    return len(query)
