"""The tokens of runs: handed to a kernel when it starts, ended on every way out, and by the reaper after a SIGKILL."""

import contextlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from rbkit import events as ev
from rbkit.clock import SystemClock
from rbkit.environment import Environment
from rbkit.errors import RunbookError
from rbkit.journal import AUDIT, Journal
from rbkit.reaping import lost
from rbkit.secretkeeping import ACCESSOR, WRAPPED, vault_of
from rbkit.settings import Settings
from rbkit.store import Store
from rbkit.tokens import Note, Order, give_back, run_token

if TYPE_CHECKING:
    from rbkit.adapters.vault_issuer import VaultIssuer

__all__ = ["Budget", "handed_over", "sweep"]

_LEFT = "token:"


class Budget(NamedTuple):
    """For which run a token is, and for how long.

    Args:
        run: The run's id.
        runbook: The runbook's name.
        environment: The environment's name; empty when it is not known.
        seconds: The run's budget, seconds.
    """

    run: str
    runbook: str
    environment: str
    seconds: float


@contextlib.contextmanager
def handed_over(budget: Budget, settings: Settings, store: Store) -> Iterator[dict[str, str]]:
    """Have a token for a kernel for as long as the block lasts, where the environment file names policies for it.

    Args:
        budget: For which run, and for how long.
        settings: Where environment files lie; who acts.
        store: Where it is noted that there is a token, for whoever must end it if this process dies.

    Yields:
        The variables that hand it to the kernel; none where there is no Vault or no policy.

    Raises:
        SecretError: It cannot be made: no run begins without it.
    """
    environment = settings.environment(budget.environment) if budget.environment else None
    if environment is None or environment.vault is None or not environment.vault.policies:
        yield {}
        return
    ledger = _Ledger(store, budget.run, environment.name, settings.actor)
    order = Order(budget.run, budget.runbook, ledger.audit.actor, tuple(environment.vault.policies))
    with (
        _issuer(environment) as issuer,
        run_token(issuer, order, budget.seconds, SystemClock(), ledger.tell) as issued,
    ):
        yield _blanked(environment) | {WRAPPED: issued.wrapped.get_secret_value(), ACCESSOR: issued.accessor}


def _blanked(environment: Environment) -> dict[str, str]:
    """Blank the variables that this process logs in with: the kernel has a token of its own, and no more."""
    options = environment.vault.options if environment.vault else {}
    references = [str(value) for value in options.values() if str(value).startswith("env:")]
    return {reference.removeprefix("env:"): "" for reference in references}


def sweep(store: Store, settings: Settings) -> list[str]:
    """End the tokens that dead processes have left; one that cannot be ended now is tried again by the next sweep.

    Args:
        store: Where the notes are.
        settings: Where environment files lie.

    Returns:
        One sentence for each token that could not be ended.
    """
    found = {name: json.loads(text) for name, text in store.notes(_LEFT).items() if text}
    failed = [_swept(store, settings, name.removeprefix(_LEFT), **facts) for name, facts in found.items()]
    return [why for why in failed if why]


def _swept(store: Store, settings: Settings, run: str, accessor: str, environment: str) -> str:
    state = Journal(store, run, "reaper", session=0).state
    if not (state.finished or state.opened is None or lost(store, state, SystemClock().now())):
        return ""
    ledger = _Ledger(store, run, environment, settings.actor)
    try:
        with _issuer(settings.environment(environment)) as issuer:
            over = give_back(issuer, accessor, ledger.tell)
    except RunbookError as error:
        return f"The token {accessor} of run {run} could not be ended: {error.what}"
    return "" if over else f"The token {accessor} of run {run} could not be ended; it ends by itself soon."


@contextlib.contextmanager
def _issuer(environment: Environment) -> "Iterator[VaultIssuer]":
    from rbkit.adapters.vault_issuer import VaultIssuer

    vault = vault_of(environment)
    try:
        yield VaultIssuer(vault)
    finally:
        vault.leave()


class _Ledger:
    """Writes down what becomes of a run's token: in the audit journal, and as a note for whoever must end it."""

    def __init__(self, store: Store, run: str, environment: str, actor: str) -> None:
        self._store, self._run, self._environment = store, run, environment
        self.audit = Journal(store, AUDIT, "supervisor", actor=actor, session=0)

    def tell(self, note: Note) -> None:
        """Note a token before it is handed over, and that it is over after it was ended."""
        what = note.kind.removeprefix("token_")
        text = "" if what == "revoked" else json.dumps({"accessor": note.accessor, "environment": self._environment})
        name = _LEFT + self._run
        while not self._store.note(name, self._store.recall(name)[0], text):
            continue
        told = {"run": self._run, "what": what, "accessor": note.accessor, "why": note.why, "ttl_s": note.ttl_s}
        self.audit.append(ev.TokenTold.model_validate(told))
