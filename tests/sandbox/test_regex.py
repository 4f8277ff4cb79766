"""Regular expressions as RE2 has them: whole value, no exponential time."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbkit.sandbox.regex import BadRegex, Regex


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("checkout", ["checkout"], ["checkout-1", "xcheckout", ""]),
        ("a|bc|", ["a", "bc", ""], ["abc", "b"]),
        ("checkout-[1-3]", ["checkout-2"], ["checkout-4", "checkout-"]),
        ("[^a-c]x*?", ["dxx", "d"], ["axx"]),
        (r"\d{2,3}\.[\w-]+", ["12.a-b", "123.x"], ["1.a", "12xa", "1234.a"]),
        ("(?i)ab(?:C|d)", ["abc", "ABD"], ["ab"]),
        ("(?P<n>a+)^?", ["aaa"], ["b"]),
        ("^a$", ["a"], ["ba"]),
        (".*", ["", "a\nb"], []),
        ("a{x}", ["a{x}"], ["a"]),
        (r"\x41\x{1F600}\+", ["A😀+"], ["A"]),
    ],
)
def test_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    """The usual syntax matches the whole text or does not match."""
    regex = Regex(pattern)
    assert all(regex.matches(text) for text in yes)
    assert not any(regex.matches(text) for text in no)


@pytest.mark.parametrize(
    "pattern",
    ["(", ")", "[", "[]", "[b-a]", "*", "a**", "a{2}{3}", "a{3,2}", "a{1001}", "(?=a)", "(?<!a)", r"(a)\1", r"\p{L}",
     r"\q", "\\", "[[:alpha:]]", "(" * 200 + ")" * 200, "a" * 5000, r"\x{110000}"],
)  # fmt: skip
def test_what_re2_does_not_know_is_refused(pattern: str) -> None:
    """Look-around, back-references, malformed and oversized patterns are one clean error."""
    with pytest.raises(BadRegex):
        Regex(pattern)


def test_nested_repetition_takes_no_exponential_time() -> None:
    """A pattern that makes backtracking engines run for years is answered (the test's timeout is the bound)."""
    assert not Regex("(([a-z_])+)+[$]").matches("process_resident_memory_bytes" * 4)
    assert not Regex("(a*)*" * 20 + "b").matches("a" * 100)


@given(st.text(alphabet="ab|()*+?[]^-.", max_size=12), st.text(alphabet="ab-", max_size=6))
def test_same_answers_as_python(pattern: str, text: str) -> None:
    """Where both engines accept a pattern they agree on what it matches."""
    try:
        ours = Regex(pattern)
        theirs = re.compile(pattern, re.DOTALL)
    except (BadRegex, re.error, FutureWarning):
        return
    assert ours.matches(text) == bool(theirs.fullmatch(text))
