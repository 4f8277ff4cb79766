"""Secrets from HashiCorp Vault: `vault:kv/path/to/secret#field` and `vault-db:role#username`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from rbkit.adapters.vault import Vault
from rbkit.adapters.vault_errors import Need
from rbkit.errors import SecretError

__all__ = ["VaultCredentials", "VaultSecrets"]

_FORM = "Write vault:MOUNT/PATH#FIELD, for example vault:kv/pager#token."
_DB_FORM = "Write vault-db:ROLE#username or vault-db:ROLE#password; vault-db:MOUNT/ROLE#… for another mount."


class VaultSecrets:
    """Fields of secrets in a key-value store, version 2: `vault:MOUNT/PATH#FIELD`.

    Args:
        vault: The access to Vault.
    """

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def __repr__(self) -> str:
        return f"VaultSecrets({self._vault!r})"

    def fetch(self, path: str) -> SecretStr:
        """Fetch one field of a secret's newest version.

        Raises:
            SecretError: There is none, it was deleted, it may not be read, or Vault is away; what is missing is said.
        """
        mount, place, name = self._parsed(path)
        need = Need(f"read {mount}/{place}", f"{mount}/data/{place}", "read")
        found = self._vault.call(
            need,
            lambda client: client.secrets.kv.v2.read_secret_version(
                path=place, mount_point=mount, raise_on_deleted_version=True
            ),
        )
        data = found.get("data")
        values = data.get("data") if isinstance(data, dict) else None
        if not isinstance(values, dict):
            raise SecretError(f"{mount} is no key-value store of version 2.", todo="Mount one, or name the right one.")
        return _value(values.get(name), f"{mount}/{place}", name)

    def _parsed(self, path: str) -> tuple[str, str, str]:
        place, _, name = path.rpartition("#")
        known = [one.strip("/") for one in self._vault.settings.mounts]
        mount = next((one for one in known if place.startswith(f"{one}/")), place.partition("/")[0])
        inside = place[len(mount) + 1 :]
        if not _good(mount) or not _good(inside) or not name:
            raise SecretError("A reference to a secret in Vault has not the right form.", todo=_FORM)
        return mount, inside, name


@dataclass(slots=True)
class _Pair:
    """Credentials of which a part has been handed out.

    Args:
        values: User name and password.
        left: What was not handed out yet.
        until: When they end, in seconds of the clock.
    """

    values: Mapping[str, Any]
    left: set[str]
    until: float


class VaultCredentials:
    """Credentials that Vault makes in a database: `vault-db:ROLE#username` and `vault-db:ROLE#password`.

    A user name and the password that is asked for after it belong together; each is handed out once, so that whoever
    asks again gets new ones. They end with their lease, or with the login that asked for them.

    Args:
        vault: The access to Vault.
    """

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._pairs: dict[str, _Pair] = {}

    def __repr__(self) -> str:
        return f"VaultCredentials({self._vault!r})"

    def fetch(self, path: str) -> SecretStr:
        """Fetch a user name or a password.

        Raises:
            SecretError: They cannot be had; why is said.
        """
        place, _, name = path.rpartition("#")
        mount, _, role = place.rpartition("/")
        if not _good(role) or (mount and not _good(mount)) or name not in {"username", "password"}:
            raise SecretError("A reference to credentials in Vault has not the right form.", todo=_DB_FORM)
        pair = self._pairs.get(place)
        if pair is None or name not in pair.left or self._vault.clock.monotonic() >= pair.until:
            pair = self._pairs[place] = self._made(mount or self._vault.settings.database, role)
        pair.left.discard(name)
        return _value(pair.values.get(name), f"credentials of {role}", name)

    def _made(self, mount: str, role: str) -> _Pair:
        need = Need(f"make credentials of {role}", f"{mount}/creds/{role}", "read")
        found = self._vault.call(
            need, lambda client: client.secrets.database.generate_credentials(role, mount_point=mount)
        )
        values, lasts = found.get("data"), found.get("lease_duration")
        if not isinstance(values, dict) or not isinstance(lasts, int):
            raise SecretError(f"Vault made no credentials of {role}.")
        return _Pair(values, {"username", "password"}, self._vault.clock.monotonic() + lasts / 2)


def _good(path: str) -> bool:
    """Tell whether a path stays what it is on its way: no empty parts, no dots, nothing that does not print."""
    parts = path.split("/")
    return path.isprintable() and not any(part in {"", ".", ".."} or part != part.strip() for part in parts)


def _value(found: Any, place: str, name: str) -> SecretStr:
    if not isinstance(found, str) or not found:
        why = "holds no text" if found else "is not there or empty"
        raise SecretError(f"The field {name} of {place} in Vault {why}.")
    return SecretStr(found)
