"""The token of a run is narrow, short-lived, opened once, and ended on every way out."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from rbkit.clock import FakeClock
from rbkit.errors import SecretError, SettingsError, StoreUnavailable
from rbkit.tokens import (
    Intercepted,
    Issued,
    Note,
    Order,
    TokenKeeper,
    give_back,
    issue,
    outstanding,
    receive,
    revoke_left,
    run_token,
)

CALM = settings(derandomize=True, deadline=None, database=None)
ORDER = Order("20260101-000000-aaaaaa", "checkout", "os:test", ("checkout",))
WRAPPED = SecretStr("hvs.wrapping")


class FakeIssuer:
    """Tokens in memory."""

    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []
        self.ended: list[str] = []
        self.extended = threading.Event()
        self.lives = 60.0
        self.away = False
        self.path: str | None = "auth/token/create"
        self.inside: tuple[str, SecretStr] | None = ("acc-1", SecretStr("hvs.run"))

    def _reached(self) -> None:
        if self.away:
            raise SecretError("Vault is sealed.")

    def child(
        self, policies: Sequence[str], meta: Mapping[str, str], ttl_s: int, longest_s: int, hand_over_s: int
    ) -> tuple[str, SecretStr]:
        """Note what is asked for."""
        self._reached()
        self.made.append({"policies": policies, "meta": meta, "ttl": ttl_s, "longest": longest_s, "over": hand_over_s})
        return f"acc-{len(self.made)}", WRAPPED

    def extend(self, accessor: str, ttl_s: int) -> float:
        """Say how long it lives."""
        self._reached()
        self.extended.set()
        return self.lives

    def revoke(self, accessor: str) -> None:
        """Note what is ended."""
        self._reached()
        self.ended.append(accessor)

    def creation(self, wrapped: SecretStr) -> str | None:
        """Say what made a wrapping."""
        return self.path

    def unwrap(self, wrapped: SecretStr) -> tuple[str, SecretStr] | None:
        """Open it."""
        return self.inside


@CALM
@given(st.floats(min_value=0.01, max_value=1e6))
def test_a_token_never_outlives_the_budget(budget_s):
    """Its time, its longest life and the hand-over end within the run's budget, rounded to seconds."""
    issuer = FakeIssuer()
    issued = issue(issuer, ORDER, budget_s)
    made = issuer.made[0]
    assert 1 <= made["ttl"] <= made["longest"] == issued.longest_s <= max(1, budget_s)
    assert made["over"] <= made["longest"] and issued.ttl_s == made["ttl"] <= 120


def test_a_token_carries_the_runs_name_and_its_policies_only():
    """The audit log can tell which run used it."""
    issuer = FakeIssuer()
    issued = issue(issuer, ORDER, 600)
    assert issuer.made[0]["policies"] == ("checkout",)
    assert issuer.made[0]["meta"] == {"run": ORDER.run, "runbook": "checkout", "actor": "os:test"}
    assert "hvs.wrapping" not in f"{issued} {issued!r}"


@pytest.mark.parametrize("policies", [(), ("checkout", "root")])
def test_a_token_without_policies_of_its_own_is_not_made(policies):
    """Vault would give such a token all that the login may do."""
    issuer = FakeIssuer()
    with pytest.raises(SettingsError, match="policies of its own"):
        issue(issuer, Order("r", "b", "a", policies), 600)
    assert issuer.made == []


def test_what_was_handed_over_is_opened():
    """The kernel gets the token when everything is as it was told."""
    assert receive(FakeIssuer(), WRAPPED, "acc-1").get_secret_value() == "hvs.run"


@pytest.mark.parametrize(
    ("path", "inside", "why"),
    [
        (None, ("acc-1", WRAPPED), "Somebody opened"),
        ("auth/token/create", None, "Somebody opened"),
        ("sys/wrapping/wrap", ("acc-1", WRAPPED), "was not made as the token of a run"),
        ("auth/token/create", ("acc-2", WRAPPED), "the token of something else"),
    ],
)
def test_a_hand_over_that_is_not_as_it_was_told_is_an_alarm(path, inside, why):
    """Opened before, forged, or swapped: nothing of it is used, and the advice says what it means."""
    issuer = FakeIssuer()
    issuer.path, issuer.inside = path, inside
    with pytest.raises(Intercepted, match=why) as caught:
        receive(issuer, WRAPPED, "acc-1")
    assert "stolen" in caught.value.todo and caught.value.exit_code == 5


def keeper(issuer: FakeIssuer, clock: FakeClock, longest_s: int = 600) -> TokenKeeper:
    """Make a keeper of a token."""
    return TokenKeeper(issuer, Issued("acc-1", WRAPPED, 120, longest_s), clock)


@pytest.mark.parametrize(("lives", "due"), [(120.0, 40.0), (1.5, 1.0), (0.0, 1.0), (599.0, None), (600.0, None)])
def test_the_next_renewal_comes_well_before_the_end(lives, due):
    """A third of the life that is left; none when it cannot live any longer."""
    issuer = FakeIssuer()
    issuer.lives = lives
    assert keeper(issuer, FakeClock()).turn() == due


def test_nothing_is_renewed_beyond_the_longest_life():
    """When its time is over, nobody asks for more."""
    issuer, clock = FakeIssuer(), FakeClock()
    made = keeper(issuer, clock, 300)
    clock.advance(300)
    assert made.turn() is None and not issuer.extended.is_set()


def test_a_renewal_that_failed_is_tried_again_soon():
    """Why it failed is kept until one works; never is it put off beyond the end."""
    issuer, clock = FakeIssuer(), FakeClock()
    made = keeper(issuer, clock)
    issuer.away = True
    assert (made.turn(), made.failed) == (5.0, "Vault is sealed.")
    issuer.away = False
    assert (made.turn(), made.failed) == (20.0, "")
    issuer.away = True
    clock.advance(598)
    assert made.turn() == 2.0


def test_a_keeper_renews_until_it_is_stopped():
    """Its thread asks again and again, and is gone when it was stopped."""
    issuer = FakeIssuer()
    made = TokenKeeper(issuer, Issued("acc-1", WRAPPED, 0, 600), FakeClock())
    made.start()
    assert issuer.extended.wait(30)
    made.stop()
    assert "rbkit-token-keeper" not in [thread.name for thread in threading.enumerate()]


def test_a_keeper_ends_by_itself_when_nothing_is_left_to_renew():
    """A token that lives as long as it may needs no thread."""
    issuer = FakeIssuer()
    issuer.lives = 600.0
    made = TokenKeeper(issuer, Issued("acc-1", WRAPPED, 0, 600), FakeClock())
    made.start()
    made._thread.join(30)
    assert not made._thread.is_alive()
    made.stop()


@pytest.mark.parametrize("way", [None, ValueError, KeyboardInterrupt, SystemExit])
def test_a_token_is_ended_on_every_way_out(way):
    """Success, a fault, an interruption: the token is over afterwards, and the journal was told both times."""
    issuer, notes = FakeIssuer(), list[Note]()
    try:
        with run_token(issuer, ORDER, 600, FakeClock(), notes.append) as issued:
            assert issuer.ended == []
            if way:
                raise way
    except (ValueError, KeyboardInterrupt, SystemExit) as error:
        assert type(error) is way
    assert issuer.ended == [issued.accessor]
    assert notes == [Note("token_issued", "acc-1", ttl_s=120), Note("token_revoked", "acc-1")]


def test_a_token_that_cannot_be_written_down_is_ended_at_once():
    """A journal that is away costs the run, and leaves no token behind that nobody knows of."""
    issuer = FakeIssuer()

    def tell(note: Note) -> None:
        if note.kind == "token_issued":
            raise StoreUnavailable("The store is full.")

    with pytest.raises(StoreUnavailable), run_token(issuer, ORDER, 600, FakeClock(), tell):
        pytest.fail("the run must not begin")
    assert issuer.ended == ["acc-1"]


def test_a_token_is_ended_even_when_its_keeper_cannot_be_stopped(monkeypatch):
    """An interruption while the keeper is waited for does not leave the token alive."""
    issuer = FakeIssuer()

    def interrupted(self: TokenKeeper) -> None:
        self._over.set()
        raise KeyboardInterrupt

    monkeypatch.setattr(TokenKeeper, "stop", interrupted)
    with pytest.raises(KeyboardInterrupt), run_token(issuer, ORDER, 600, FakeClock(), lambda note: None):
        pass
    assert issuer.ended == ["acc-1"]


def test_a_token_that_cannot_be_ended_does_not_keep_a_run_from_ending():
    """It is told, with the reason, and a later attempt ends it: twice is no harm."""
    issuer, notes = FakeIssuer(), list[Note]()
    with run_token(issuer, ORDER, 600, FakeClock(), notes.append):
        issuer.away = True
    assert notes[1:] == [Note("token_revoke_failed", "acc-1", "Vault is sealed.")]
    assert revoke_left(issuer, notes, notes.append) == ["acc-1"]
    issuer.away = False
    assert revoke_left(issuer, notes, notes.append) == []
    assert issuer.ended == ["acc-1"] and revoke_left(issuer, notes, notes.append) == []
    assert give_back(issuer, "acc-1", notes.append)


def test_no_token_no_run():
    """A Vault that makes no token stops the run before it begins; nothing is told or ended."""
    issuer, notes = FakeIssuer(), list[Note]()
    issuer.away = True
    with pytest.raises(SecretError), run_token(issuer, ORDER, 600, FakeClock(), notes.append):
        pytest.fail("the run must not begin")
    assert notes == [] == issuer.ended


def test_what_a_dead_process_left_is_read_off_the_journal():
    """Every token that was made and never ended, the oldest first; a failed attempt ends nothing."""
    told = [
        Note("token_issued", "a"), Note("token_issued", "b"), Note("token_revoke_failed", "a", "sealed"),
        Note("token_issued", "c"), Note("token_revoked", "b"), Note("token_revoked", "never-made"),
    ]  # fmt: skip
    assert outstanding(told) == ["a", "c"]
