"""Words are taken in their order, and what is no word is refused where it stands."""

import re

import pytest

from rbkit.testing.words import Words

PATTERN = re.compile(r"\s*(?:(?P<name>[a-z]+)|(?P<op>[=|]))")


def test_words_are_taken_in_their_order() -> None:
    """Each once; then there is nothing left."""
    words = Words(PATTERN, " a = b ")
    assert words.take("name") == "a" and words.next("=") and words.take("op", "=") == "="
    assert words and words.any() == ("name", "b")
    assert not words and words.any() == ("$end", "$end")


def test_another_word_is_refused_by_its_name() -> None:
    """As the servers do: what came, not what was wanted."""
    with pytest.raises(ValueError, match="unexpected ="):
        Words(PATTERN, "= a").take("name")
    with pytest.raises(ValueError, match=r"unexpected \|"):
        Words(PATTERN, "|").take("op", "=")
    with pytest.raises(ValueError, match="line 1, col 2: syntax error"):
        Words(PATTERN, "a ;")
