"""Hands out secrets by their references; one login to Vault serves a whole environment."""

import os
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from rbkit.environment import Environment
from rbkit.errors import SettingsError
from rbkit.masking import remember
from rbkit.tokens import receive
from rbkit.values import Secret

if TYPE_CHECKING:
    from rbkit.adapters.vault import Vault

__all__ = ["ACCESSOR", "WRAPPED", "Secrets", "secret", "vault_of"]

WRAPPED, ACCESSOR = "RBKIT_VAULT_WRAPPED", "RBKIT_VAULT_ACCESSOR"
"""The variables in which a supervisor hands its kernel the run's token: the wrapping, and what must be in it."""
_SIMPLE = {
    "env": "rbkit.adapters.secrets:EnvironmentSecrets", "file": "rbkit.adapters.secrets:FileSecrets",
    "keyring": "rbkit.adapters.secrets:KeyringSecrets",
}  # fmt: skip
_VAULT = {
    "vault": "rbkit.adapters.vault_sources:VaultSecrets", "vault-db": "rbkit.adapters.vault_sources:VaultCredentials",
}  # fmt: skip


def _class(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def secret(reference: str) -> SecretStr:
    """Fetch a secret that this machine holds, by its reference.

    Raises:
        SettingsError: It is no reference, or of a source that is not on this machine.
        SecretError: The source does not hand it out.
    """
    parsed = Secret.parse(reference)
    if parsed.source not in _SIMPLE:
        raise SettingsError(f"There is no secret source {parsed.source!r}.", todo=f"Known: {', '.join(_SIMPLE)}.")
    return remember(_class(_SIMPLE[parsed.source])().fetch(parsed.path))


def vault_of(environment: Environment, own: SecretStr | None = None) -> "Vault":
    """Make the access to an environment's Vault.

    Args:
        environment: The environment file.
        own: A token that is used as it is; without one the process logs in.

    Raises:
        SettingsError: The environment file has no `vault:`, or a wrong one.
    """
    if environment.vault is None:
        raise SettingsError(
            f"Environment {environment.name} has no Vault.", todo="Add the section `vault:` to the environment file."
        )
    from rbkit.adapters.vault import Vault, VaultSettings

    return Vault(VaultSettings.read(environment.vault.options), secret, own=own)


_opened: dict[str, SecretStr] = {}
"""The run's token by the wrapping that it came in, as that opens only once in the life of this process."""


class Secrets:
    """The secrets of one environment.

    Args:
        environment: The environment file.
        variables: Where a supervisor leaves the run's token; this process's variables when not given.
    """

    def __init__(self, environment: Environment, variables: Mapping[str, str] | None = None) -> None:
        self._environment = environment
        self._variables = os.environ if variables is None else variables
        self._vault: Vault | None = None
        self._sources: dict[str, Any] = {}

    def fetch(self, reference: str) -> SecretStr:
        """Fetch a secret by its reference.

        Raises:
            SettingsError: It is no reference, or of a source that is not there.
            SecretError: The source does not hand it out; nothing stands in for it.
        """
        parsed = Secret.parse(reference)
        if parsed.source not in _VAULT:
            return secret(reference)
        if parsed.source not in self._sources:
            self._vault = self._vault or vault_of(self._environment, self._own())
            self._sources[parsed.source] = _class(_VAULT[parsed.source])(self._vault)
        return remember(self._sources[parsed.source].fetch(parsed.path))

    def close(self) -> None:
        """End the login to Vault, if one was made; what lives from it ends, too."""
        if self._vault is not None:
            self._vault.leave()
        self._vault = None
        self._sources.clear()

    def _own(self) -> SecretStr | None:
        """Take what a supervisor has handed over to this process, if one has."""
        wrapped = self._variables.get(WRAPPED, "")
        if wrapped and wrapped not in _opened:
            from rbkit.adapters.vault_issuer import VaultIssuer

            issuer = VaultIssuer(vault_of(self._environment))
            _opened[wrapped] = remember(receive(issuer, SecretStr(wrapped), self._variables.get(ACCESSOR, "")))
        return _opened.get(wrapped)
