"""String literals are read as Go reads them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbkit.queries import promql_string
from rbkit.testing.go_strings import unquote


@pytest.mark.parametrize(
    ("literal", "text"),
    [
        ('""', ""), ('"a b"', "a b"), (r'"\a\b\f\n\r\t\v\\\""', '\a\b\f\n\r\t\v\\"'),
        (r'"\x41\101\u00e9\U0001F600"', "AAé😀"),
        (r'"\xc3\xa9"', "é"), (r'"\xff"', "�"), ("`a\\n\nb`", "a\\n\nb"), ("`a\rb`", "ab"), ("``", ""),
    ],
)  # fmt: skip
def test_literals_are_read(literal, text):
    """Escapes, bytes in hexadecimal and octal digits, and raw strings."""
    assert unquote(literal) == text


@pytest.mark.parametrize(
    "literal", ["", '"', "a", "'a'", '"a', 'a"', '"a"b"', '"a\nb"', r'"\q"', r'"\x4"', r'"\"', "`a`b`"]
)
def test_what_is_no_literal_is_refused(literal):
    """Something that is not closed, a line break, an escape that does not exist, a quote in the middle."""
    with pytest.raises(ValueError, match="string|syntax|quote"):
        unquote(literal)


@settings(derandomize=True, max_examples=300)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_our_escaper_writes_what_go_reads(text):
    """Whatever the value, the literal stands for exactly it."""
    assert unquote(promql_string(text)) == text
