"""The token of a run: narrow, short-lived, handed over in a wrapping that opens once, ended on every way out.

The supervisor asks an issuer (Vault) for it and holds only its accessor; the kernel opens the wrapping. Any process
with a login of its own can end it by the accessor, which stands in the journal.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pydantic import SecretStr

from rbkit.clock import Clock
from rbkit.errors import SecretError, SettingsError

__all__ = [
    "Intercepted", "Issued", "Issuer", "Note", "Order", "TokenKeeper", "give_back", "issue", "outstanding", "receive",
    "revoke_left", "run_token",
]  # fmt: skip

TTL_S = 120
"""For how long a run's token is made and renewed, seconds: it ends by itself soon after its supervisor."""
HAND_OVER_S = 120
"""How long the kernel may take to open the wrapping, seconds."""
_MADE_BY = "auth/token/create"
_SOON_S = 5.0
"""How soon a renewal that failed is tried again, seconds."""


class Intercepted(SecretError):
    """Somebody else has opened what was handed over to this run, or has put something else in its place."""

    advice = "Treat it as stolen: have the run's token revoked, and find out who read it; then start the run again."


class Issuer(Protocol):
    """Makes, renews, opens and ends tokens; every method raises SecretError when it cannot."""

    def child(
        self, policies: Sequence[str], meta: Mapping[str, str], ttl_s: int, longest_s: int, hand_over_s: int
    ) -> tuple[str, SecretStr]:
        """Make a token in a wrapping: its accessor and the wrapping's token."""

    def extend(self, accessor: str, ttl_s: int) -> float:
        """Renew a token: how long it lives now, seconds."""

    def revoke(self, accessor: str) -> None:
        """End a token; one that is over already is well so."""

    def creation(self, wrapped: SecretStr) -> str | None:
        """Tell which path made a wrapping; None when it was opened before, or its time is over."""

    def unwrap(self, wrapped: SecretStr) -> tuple[str, SecretStr] | None:
        """Open a wrapping: accessor and token; None when it was opened before, or its time is over."""


@dataclass(frozen=True, slots=True)
class Order:
    """For which run a token is.

    Args:
        run: The run's id.
        runbook: The runbook's name.
        actor: Who acts.
        policies: What the token may do; at least one, never all that the login may do.
    """

    run: str
    runbook: str
    actor: str
    policies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Issued:
    """A token that was made for a run.

    Args:
        accessor: What names it without giving its rights; it may be written down.
        wrapped: The token of the wrapping, for the kernel alone.
        ttl_s: For how long it was made, seconds.
        longest_s: How long it may live at most, seconds.
    """

    accessor: str
    wrapped: SecretStr = field(repr=False)
    ttl_s: int
    longest_s: int


@dataclass(frozen=True, slots=True)
class Note:
    """What the journal is told of a token.

    Args:
        kind: What happened.
        accessor: Which token.
        why: What stood in the way, without any secret; empty when nothing did.
        ttl_s: For how long it was made, seconds.
    """

    kind: Literal["token_issued", "token_revoked", "token_revoke_failed"]
    accessor: str
    why: str = ""
    ttl_s: int = 0


def issue(issuer: Issuer, order: Order, budget_s: float) -> Issued:
    """Make a run's token.

    Args:
        issuer: Who makes it.
        order: For which run.
        budget_s: How long the run may take, seconds; the token never lives longer.

    Returns:
        The token in its wrapping.

    Raises:
        SettingsError: No policies are named, or all of them.
        SecretError: It cannot be made.
    """
    if not order.policies or "root" in order.policies:
        raise SettingsError("A run's token needs policies of its own.", todo="Name those that the runbook needs.")
    longest = max(1, int(budget_s))
    ttl = min(TTL_S, longest)
    meta = {"run": order.run, "runbook": order.runbook, "actor": order.actor}
    accessor, wrapped = issuer.child(order.policies, meta, ttl, longest, min(HAND_OVER_S, longest))
    return Issued(accessor, wrapped, ttl, longest)


def receive(issuer: Issuer, wrapped: SecretStr, accessor: str) -> SecretStr:
    """Open the wrapping that was handed over to this process.

    Args:
        issuer: Who opens it; no login is needed for it.
        wrapped: The token of the wrapping.
        accessor: The accessor of the token that must be in it.

    Returns:
        The run's token.

    Raises:
        Intercepted: It was opened before, its time is over, or something else is in it.
        SecretError: Whether it was opened is not known: Vault did not answer.
    """
    made_by = issuer.creation(wrapped)
    if made_by is not None and made_by != _MADE_BY:
        raise Intercepted("What was handed over to the run was not made as the token of a run.")
    found = issuer.unwrap(wrapped) if made_by is not None else None
    if found is None:
        raise Intercepted("Somebody opened the token of the run before the run did, or it came too late.")
    if found[0] != accessor:
        raise Intercepted("What was handed over to the run is the token of something else.")
    return found[1]


class TokenKeeper:
    """Keeps a run's token alive from a thread of its own, until it may not live any longer.

    Args:
        issuer: Who renews it.
        issued: Which token.
        clock: Where the time comes from.
    """

    def __init__(self, issuer: Issuer, issued: Issued, clock: Clock) -> None:
        self._issuer, self._issued, self._clock = issuer, issued, clock
        self._ends = clock.monotonic() + issued.longest_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="rbkit-token-keeper", daemon=True)
        self.failed = ""
        """Why the last renewal failed; empty when it did not."""

    def start(self) -> None:
        """Begin to renew."""
        self._thread.start()

    def stop(self) -> None:
        """Stop renewing; the token lives on until it is ended."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def turn(self) -> float | None:
        """Renew once.

        Returns:
            When the next turn is due, seconds from now; None when the token lives as long as it may.
        """
        left = self._ends - self._clock.monotonic()
        if left <= 0:
            return None
        try:
            lives = self._issuer.extend(self._issued.accessor, self._issued.ttl_s)
        except SecretError as error:
            self.failed = error.what
            return min(_SOON_S, left)
        self.failed = ""
        return None if lives >= left - 1 else max(1.0, lives / 3)

    def _keep(self) -> None:
        due: float | None = self._issued.ttl_s / 3
        while due is not None and not self._over.wait(due):
            due = self.turn()


@contextlib.contextmanager
def run_token(
    issuer: Issuer, order: Order, budget_s: float, clock: Clock, tell: Callable[[Note], None]
) -> Iterator[Issued]:
    """Have a token for as long as the block lasts; it is ended on every way out.

    Args:
        issuer: Who makes, renews and ends it.
        order: For which run.
        budget_s: How long the run may take, seconds.
        clock: Where the time comes from.
        tell: Told what happens to the token; it writes the journal.

    Yields:
        The token in its wrapping.

    Raises:
        SecretError: It cannot be made.
    """
    issued = issue(issuer, order, budget_s)
    keeper = TokenKeeper(issuer, issued, clock)
    with contextlib.ExitStack() as ways_out:
        ways_out.callback(give_back, issuer, issued.accessor, tell)
        ways_out.callback(keeper.stop)
        tell(Note("token_issued", issued.accessor, ttl_s=issued.ttl_s))
        keeper.start()
        yield issued


def give_back(issuer: Issuer, accessor: str, tell: Callable[[Note], None]) -> bool:
    """End a token; what stands in the way is told, and never keeps a run from ending.

    Args:
        issuer: Who ends it.
        accessor: Which token.
        tell: Told how it went.

    Returns:
        Whether it is over.
    """
    try:
        issuer.revoke(accessor)
    except SecretError as error:
        tell(Note("token_revoke_failed", accessor, error.what))
        return False
    tell(Note("token_revoked", accessor))
    return True


class _Told(Protocol):
    @property
    def kind(self) -> str: ...

    @property
    def accessor(self) -> str: ...


def outstanding(told: Iterable[_Told]) -> list[str]:
    """List the tokens that were made and never ended.

    Args:
        told: What the journal holds of tokens, in its order.

    Returns:
        Their accessors, the oldest first.
    """
    left: dict[str, None] = {}
    for one in told:
        if one.kind == "token_issued":
            left[one.accessor] = None
        elif one.kind == "token_revoked":
            left.pop(one.accessor, None)
    return list(left)


def revoke_left(issuer: Issuer, told: Iterable[_Told], tell: Callable[[Note], None]) -> list[str]:
    """End what a dead process has left; any process with a login of its own may try, as often as needed.

    Args:
        issuer: Who ends them.
        told: What the journal holds of tokens, in its order.
        tell: Told how each went.

    Returns:
        The accessors of those that are not over yet.
    """
    return [accessor for accessor in outstanding(told) if not give_back(issuer, accessor, tell)]
