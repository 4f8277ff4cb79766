"""What a call costs is counted where it is spent."""

import pytest

from rbkit.costs import MOST_BYTES, bounded, counted, remaining, spend
from rbkit.errors import BadAnswer


def test_every_attempt_may_bring_back_as_much():
    """The limit is for one attempt; the bytes of all of them are counted."""
    with counted(100) as cost:
        for _ in range(3):
            cost.attempt()
            spend(60, "A source")
        assert (cost.attempts, cost.bytes, remaining()) == (3, 180, 40)


def test_more_than_the_limit_is_refused():
    """The error names the source and the limit, and says how to ask for less."""
    with counted(100), pytest.raises(BadAnswer, match=r"A source answered with more than 100 B\. Narrow"):
        spend(101, "A source")


def test_where_nobody_counts_the_usual_limit_holds():
    """A question that no gate has asked is bounded, too; one within another counts towards that."""
    spend(MOST_BYTES + 1, "nobody")
    assert remaining() == MOST_BYTES
    with bounded() as cost:
        assert cost.most_bytes == MOST_BYTES
        with bounded() as same:
            assert same is cost
