"""A breaker is a value: what it allows, and what it becomes."""

from datetime import UTC, datetime, timedelta

import pytest

from rbkit.breaker import FAILURES, OPEN_S, PROBE_S, Breaker

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def later(seconds: float) -> datetime:
    """Return a time after NOW."""
    return NOW + timedelta(seconds=seconds)


def opened() -> Breaker:
    """A breaker that three failures have opened."""
    breaker = Breaker()
    for _ in range(FAILURES):
        breaker = breaker.failed(NOW, "connection refused")
    return breaker


def test_three_failures_in_a_row_open_it():
    """Two do not, and a call that works between them starts the count anew."""
    breaker = Breaker().failed(NOW, "x").failed(NOW, "x")
    assert (breaker.refusal(NOW), breaker.word(NOW)) == ("", "closed")
    assert breaker.worked() == Breaker()
    breaker = breaker.failed(NOW, "connection refused")
    assert breaker.word(NOW) == "open"
    assert breaker.refusal(NOW) == "it failed 3 times; try again at 00:00:30Z: connection refused"


def test_one_probe_may_try_and_decides():
    """After its time one call is let through; meanwhile nobody else; what comes of it closes it or opens it again."""
    breaker = opened()
    assert breaker.refusal(later(OPEN_S - 1))
    assert (breaker.refusal(later(OPEN_S)), breaker.word(later(OPEN_S))) == ("", "half open")
    probing = breaker.entered(later(OPEN_S))
    assert "somebody probes it until 00:00:50Z" in probing.refusal(later(OPEN_S))
    assert probing.worked() == Breaker()
    again = probing.failed(later(OPEN_S), "still")
    assert again.refusal(later(OPEN_S + 1)) and not again.refusal(later(2 * OPEN_S))


def test_a_probe_that_hangs_opens_it_again_at_its_deadline():
    """Whoever probes and dies holds nobody up for ever, and is not followed by everybody at once."""
    probing = opened().entered(later(OPEN_S))
    ends = OPEN_S + PROBE_S
    assert "try again at 00:01:20Z" in probing.refusal(later(ends)) and probing.word(later(ends)) == "open"
    assert not probing.refusal(later(ends + OPEN_S))


def test_a_closed_one_needs_no_probe():
    """Nothing is written for a call that goes where all is well."""
    assert Breaker().entered(NOW) == Breaker() and Breaker().worked() == Breaker()


@pytest.mark.parametrize(("word", "refuses"), [("open", True), ("closed", False)])
def test_a_person_sets_it(word, refuses):
    """What a person has set holds whatever happens, and says who and why; unset, it decides for itself again."""
    forced = Breaker().set_to(word, "os:alice", "maintenance")
    for breaker in (
        forced,
        forced.failed(NOW, "x").failed(NOW, "x").failed(NOW, "x"),
        forced.failed(NOW, "x").worked(),
    ):
        assert bool(breaker.refusal(NOW)) is refuses
        assert breaker.word(NOW) == f"{word} (set by os:alice)"
        assert breaker.entered(NOW) == breaker and breaker.why == "maintenance"
    assert forced.set_to("", "os:alice", "") == Breaker()
    if refuses:
        assert forced.refusal(NOW) == "os:alice has set it to open: maintenance"
