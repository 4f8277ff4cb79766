"""The rule of leases, without a store."""

from datetime import UTC, datetime, timedelta

import pytest

from rbkit.store import Lease
from rbkit.stores.leases import take

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def lease(holder: str, ends_in_s: float) -> Lease:
    """Make a lease of 15 seconds with token 7."""
    return Lease("a", holder, 7, NOW + timedelta(seconds=ends_in_s), 15.0)


def test_what_somebody_else_holds_is_returned_itself():
    """The very object comes back, so that a store knows that there is nothing to write."""
    standing = lease("x", 10)
    assert take(standing, "a", "y", NOW, 15.0) is standing


@pytest.mark.parametrize(
    ("standing", "token"),
    [(None, 1), (lease("me", 10), 7), (lease("me", 0), 8), (lease("x", 0), 8), (lease("", 10), 8),
     (lease("me", 19), 7), (lease("me", 21), 8), (lease("x", 21), 8)],
)  # fmt: skip
def test_only_what_is_live_and_ones_own_keeps_its_token(standing, token):
    """Lapsed, given back, or from before the clock was set back: the token rises by one."""
    assert take(standing, "a", "me", NOW, 20.0) == Lease("a", "me", token, NOW + timedelta(seconds=20), 20.0)
