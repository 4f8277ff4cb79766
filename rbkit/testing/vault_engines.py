"""Secrets of the Vault double: the versioned key-value store, database credentials, and the leases on them.

Source:
    https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2, .../secret/databases, .../system/leases
"""

from dataclasses import dataclass, field
from typing import Any

from rbkit.clock import Clock
from rbkit.testing.vault_tokens import Lease, Tokens
from rbkit.testing.vault_words import Ask, Engine, Refusal, Reply, moment, random_id, whole

__all__ = ["Database", "Leases", "Versioned"]

_KEPT = 10
"""How many versions of a secret are kept."""


@dataclass(slots=True)
class _Version:
    """One version of a secret: its data, or that it was deleted or destroyed."""

    number: int
    data: dict[str, Any] | None
    created: str
    deleted: str = ""
    destroyed: bool = False

    def facts(self) -> dict[str, Any]:
        """Write what is known of it besides its data."""
        return {
            "created_time": self.created, "custom_metadata": None, "deletion_time": self.deleted,
            "destroyed": self.destroyed, "version": self.number,
        }  # fmt: skip


@dataclass(slots=True)
class _Entry:
    """A secret with its versions."""

    versions: dict[int, _Version] = field(default_factory=dict)
    current: int = 0


class Versioned(Engine):
    """A key-value store, version 2."""

    routes = (
        ("GET", "data/(.+)", "read"),
        ("POST PUT", "data/(.+)", "write"),
        ("DELETE", "data/(.+)", "delete_latest"),
        ("POST PUT", "delete/(.+)", "delete"),
        ("POST PUT", "undelete/(.+)", "undelete"),
        ("POST PUT", "destroy/(.+)", "destroy"),
        ("LIST", "metadata/(.*)", "names"),
        ("GET", "metadata/(.+)", "metadata"),
        ("DELETE", "metadata/(.+)", "forget"),
    )

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.entries: dict[str, _Entry] = {}

    def capability(self, ask: Ask) -> str:
        """Name what a policy must grant: a new secret is created, one that is there is updated."""
        found = super().capability(ask)
        new = ask.rest.startswith("data/") and ask.rest.removeprefix("data/") not in self.entries
        return "create" if found == "update" and new else found

    def read(self, ask: Ask, path: str) -> Reply:
        """Read a version of a secret, the newest if none is named."""
        entry = self.entries.get(path, _Entry())
        version = entry.versions.get(whole(ask.query.get("version"), "version") or entry.current)
        if version is None:
            raise Refusal(404)
        if version.deleted or version.destroyed:
            raise Refusal(404, data={"data": None, "metadata": version.facts()})
        return Reply(data={"data": version.data, "metadata": version.facts()})

    def write(self, ask: Ask, path: str) -> Reply:
        """Write a new version, if the version that is there is the one that was expected."""
        data, options = ask.body.get("data"), ask.body.get("options") or {}
        if not isinstance(data, dict):
            raise Refusal(400, "no data provided")
        entry = self.entries.setdefault(path, _Entry())
        if "cas" in options and whole(options["cas"], "cas") != entry.current:
            raise Refusal(400, "check-and-set parameter did not match the current version")
        entry.current += 1
        made = _Version(entry.current, dict(data), moment(self.clock.now().timestamp()))
        entry.versions[entry.current] = made
        entry.versions.pop(entry.current - _KEPT, None)
        return Reply(data=made.facts())

    def delete_latest(self, ask: Ask, path: str) -> Reply:
        """Delete the newest version; it can be brought back."""
        self._mark(path, [self.entries[path].current] if path in self.entries else [])
        return Reply()

    def delete(self, ask: Ask, path: str) -> Reply:
        """Delete versions; they can be brought back."""
        self._mark(path, _versions(ask))
        return Reply()

    def _mark(self, path: str, numbers: list[int]) -> None:
        for version in self._found(path, numbers):
            version.deleted = version.deleted or moment(self.clock.now().timestamp())

    def _found(self, path: str, numbers: list[int]) -> list[_Version]:
        versions = self.entries.get(path, _Entry()).versions
        return [versions[number] for number in numbers if number in versions]

    def undelete(self, ask: Ask, path: str) -> Reply:
        """Bring deleted versions back."""
        for version in self._found(path, _versions(ask)):
            version.deleted = ""
        return Reply()

    def destroy(self, ask: Ask, path: str) -> Reply:
        """Destroy versions; nothing brings them back."""
        for version in self._found(path, _versions(ask)):
            version.destroyed, version.data = True, None
        return Reply()

    def names(self, ask: Ask, path: str) -> Reply:
        """List what lies in a folder; folders end with a slash."""
        folder = f"{path.rstrip('/')}/" if path else ""
        below = [name.removeprefix(folder) for name in self.entries if name.startswith(folder)]
        found = sorted({name if "/" not in name else f"{name.partition('/')[0]}/" for name in below})
        if not found:
            raise Refusal(404)
        return Reply(data={"keys": found})

    def metadata(self, ask: Ask, path: str) -> Reply:
        """Tell the versions of a secret."""
        if path not in self.entries:
            raise Refusal(404)
        entry = self.entries[path]
        versions = {str(number): version.facts() for number, version in entry.versions.items()}
        return Reply(data={"current_version": entry.current, "max_versions": 0, "versions": versions})

    def forget(self, ask: Ask, path: str) -> Reply:
        """Take a secret away with all its versions."""
        self.entries.pop(path, None)
        return Reply()


def _versions(ask: Ask) -> list[int]:
    found = [whole(number, "versions") for number in ask.words("versions")]
    if not found:
        raise Refusal(400, "No version number provided")
    return found


class Database(Engine):
    """Credentials that are made when they are asked for, and are taken away when their lease ends.

    Args:
        clock: Where the time comes from.
        tokens: Where leases are kept.
        mount: Where it is mounted.
    """

    routes = (("GET", "creds/([^/]+)", "credentials"),)

    def __init__(self, clock: Clock, tokens: Tokens, mount: str) -> None:
        super().__init__(clock)
        self.tokens, self.mount = tokens, mount
        self.roles: dict[str, tuple[int, int]] = {}
        self.accounts: dict[str, str] = {}
        """The accounts that exist in the database now: passwords by name."""

    def role(self, name: str, ttl: int, longest: int) -> None:
        """Write a role: how long its credentials are given for, and how long they may be renewed, seconds."""
        self.roles[name] = (ttl, longest)

    def credentials(self, ask: Ask, name: str) -> Reply:
        """Make an account in the database."""
        if name not in self.roles:
            raise Refusal(400, f"unknown role: {name}")
        ttl, longest = self.roles[name]
        user, password = f"v-{name}-{random_id(6)}", random_id(16)
        self.accounts[user] = password
        lease = self.tokens.lend(
            f"{self.mount}/creds/{name}/{random_id()}", ask.token, ttl, longest, lambda: self._drop(user)
        )
        data = {"username": user, "password": password}
        return Reply(data=data, lease_id=lease.id, renewable=True, lease_duration=ttl)

    def _drop(self, user: str) -> None:
        del self.accounts[user]


class Leases(Engine):
    """The leases, mounted at `sys/leases`.

    Args:
        clock: Where the time comes from.
        tokens: Where leases are kept.
    """

    routes = (
        ("POST PUT", "lookup", "lookup"),
        ("POST PUT", "renew", "renew"),
        ("POST PUT", "revoke", "revoke"),
    )

    def __init__(self, clock: Clock, tokens: Tokens) -> None:
        super().__init__(clock)
        self.tokens = tokens

    def _lease(self, ask: Ask, words: str) -> Lease:
        found = self.tokens.leases.get(ask.text("lease_id"))
        if found is None:
            raise Refusal(400, words)
        return found

    def lookup(self, ask: Ask) -> Reply:
        """Tell how long a lease lasts."""
        lease = self._lease(ask, "invalid lease")
        data = {
            "id": lease.id, "issue_time": moment(lease.issued), "expire_time": moment(lease.expires),
            "renewable": True, "ttl": int(lease.expires - self.tokens.now),
        }  # fmt: skip
        return Reply(data=data)

    def renew(self, ask: Ask) -> Reply:
        """Let a lease last longer, never beyond what its role allows."""
        lease = self._lease(ask, "lease not found")
        ttl = min(ask.span("increment") or lease.ttl, int(lease.issued + lease.longest - self.tokens.now))
        lease.expires = self.tokens.now + ttl
        return Reply(lease_id=lease.id, renewable=True, lease_duration=ttl)

    def revoke(self, ask: Ask) -> Reply:
        """End a lease; one that is over already is none."""
        if not ask.text("lease_id"):
            raise Refusal(400, "lease_id must be specified")
        self.tokens.end_lease(ask.text("lease_id"))
        return Reply()
