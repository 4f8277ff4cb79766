"""Tokens for runs, made by Vault: a child of the login, handed over in a wrapping that can be opened once."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import SecretStr

from rbkit.adapters.vault import Vault
from rbkit.adapters.vault_errors import Failure, Need
from rbkit.errors import SecretError

__all__ = ["VaultIssuer"]


class VaultIssuer:
    """Makes, renews and ends the tokens of runs; what `rbkit.tokens` asks for.

    The login needs the capability `update` on auth/token/create, auth/token/renew-accessor and
    auth/token/revoke-accessor, and every policy that it hands on.

    Args:
        vault: The access to Vault of whoever starts runs.
    """

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def __repr__(self) -> str:
        return f"VaultIssuer({self._vault!r})"

    def child(
        self, policies: Sequence[str], meta: Mapping[str, str], ttl_s: int, longest_s: int, hand_over_s: int
    ) -> tuple[str, SecretStr]:
        """Make a child of the login's token, in a wrapping.

        A request whose answer is lost may leave a token that nobody knows; it ends after `ttl_s`.

        Args:
            policies: What it may do; a part of what the login may do.
            meta: What the audit log says of it.
            ttl_s: For how long it is made, seconds.
            longest_s: How long it may live at most, seconds.
            hand_over_s: How long the wrapping lasts, seconds.

        Returns:
            Its accessor, and the token of the wrapping.

        Raises:
            SecretError: It cannot be made, or the login ends before it.
        """
        self._check_login(longest_s)
        need = Need("make a token for the run", "auth/token/create", "update")
        found = self._vault.call(
            need,
            lambda client: client.auth.token.create(
                policies=list(policies), meta=dict(meta), ttl=f"{ttl_s}s", explicit_max_ttl=f"{longest_s}s",
                no_default_policy=False, renewable=True, display_name="rbkit", wrap_ttl=f"{hand_over_s}s",
            ),
        )  # fmt: skip
        info = found.get("wrap_info")
        accessor, wrapped = (info.get("wrapped_accessor"), info.get("token")) if isinstance(info, dict) else ("", "")
        if not isinstance(accessor, str) or not isinstance(wrapped, str) or not accessor or not wrapped:
            raise SecretError("Vault made a token for the run and did not wrap it.")
        return accessor, SecretStr(wrapped)

    def extend(self, accessor: str, ttl_s: int) -> float:
        """Renew a run's token, and the login's: a child ends with its parent.

        Args:
            accessor: Which token.
            ttl_s: For how long from now, seconds; Vault cuts it at what the token may live at most.

        Returns:
            How long it lives now, seconds.

        Raises:
            SecretError: It is over, or Vault is away; it is not waited for.
        """
        self._vault.renew()
        need = Need("renew the run's token", "auth/token/renew-accessor", "update")
        found = self._vault.call(
            need, lambda client: client.auth.token.renew_accessor(accessor, increment=f"{ttl_s}s"), patience_s=0.0
        )
        return float(_whole(found.get("auth"), "lease_duration"))

    def revoke(self, accessor: str) -> None:
        """End a run's token and everything that was made with it; one that is over already is well so.

        Args:
            accessor: Which token.

        Raises:
            SecretError: It cannot be ended now; another process may try again.
        """
        need = Need("end the run's token", "auth/token/revoke-accessor", "update")
        self._vault.patiently(lambda: self._gone(need, accessor))

    def _gone(self, need: Need, accessor: str) -> dict[str, Any] | Failure:
        found = self._vault.once(need, lambda client: client.auth.token.revoke_accessor(accessor))
        over = isinstance(found, Failure) and found.status in {400, 403, 404} and _nobody(found.errors)
        return {} if over else found

    def creation(self, wrapped: SecretStr) -> str | None:
        """Tell which path made a wrapping; None when it was opened before, or its time is over.

        Args:
            wrapped: The token of the wrapping.

        Raises:
            SecretError: Vault cannot be asked.
        """
        need = Need("look at the handed-over token", "sys/wrapping/lookup", "", wrapping=True)
        found = self._vault.patiently(lambda: self._lookup(need, wrapped))
        return str(found["path"]) if "path" in found else None

    def _lookup(self, need: Need, wrapped: SecretStr) -> dict[str, Any] | Failure:
        body = {"token": wrapped.get_secret_value()}
        found = self._vault.asked(need, lambda client: client.adapter.post("/v1/sys/wrapping/lookup", json=body), None)
        if isinstance(found, Failure):
            return {} if found.status == 400 else found
        return {"path": (found.get("data") or {}).get("creation_path", "")}

    def unwrap(self, wrapped: SecretStr) -> tuple[str, SecretStr] | None:
        """Open a wrapping that holds a token.

        Args:
            wrapped: The token of the wrapping.

        Returns:
            The accessor and the token in it; None when it was opened before, or its time is over.

        Raises:
            SecretError: Vault cannot be asked, or gave no answer: then it may be open, and a new one is needed.
        """
        need = Need("open the handed-over token", "sys/wrapping/unwrap", "", wrapping=True)
        found = self._vault.patiently(lambda: self._opened(need, wrapped), once=True)
        if not found:
            return None
        auth = found.get("auth")
        accessor, token = (auth.get("accessor"), auth.get("client_token")) if isinstance(auth, dict) else ("", "")
        if not isinstance(accessor, str) or not isinstance(token, str) or not accessor or not token:
            raise SecretError("What was handed over is no token.", todo="Have it revoked, and start the run again.")
        return accessor, SecretStr(token)

    def _opened(self, need: Need, wrapped: SecretStr) -> dict[str, Any] | Failure:
        found = self._vault.asked(need, lambda client: client.sys.unwrap(), wrapped)
        return {} if isinstance(found, Failure) and found.status == 400 else found

    def _check_login(self, longest_s: int) -> None:
        """Refuse to make a token that would end with the login, before its own time."""
        need = Need("look at the login", "auth/token/lookup-self", "read")
        facts = self._vault.call(need, lambda client: client.auth.token.lookup_self()).get("data")
        left, longest = _whole(facts, "ttl"), _whole(facts, "explicit_max_ttl")
        if isinstance(facts, dict) and facts.get("renewable") and longest:
            left += longest - _whole(facts, "creation_ttl")
        elif isinstance(facts, dict) and (facts.get("renewable") or facts.get("expire_time") is None):
            return
        if left < longest_s:
            raise SecretError(
                f"The login to Vault ends in {left} s; the run may take {longest_s} s, and its token would end before.",
                todo="Give the login a longer life, or one that can be renewed; or the runbook a smaller budget.",
            )


def _nobody(errors: str) -> bool:
    """Whether Vault says that it knows no token of an accessor."""
    return "invalid accessor" in errors or "token not found" in errors


def _whole(facts: Any, name: str) -> int:
    found = facts.get(name) if isinstance(facts, dict) else None
    return found if isinstance(found, int) else 0
