"""Tokens of the Vault double: parents and children, uses, times to live, and the leases that end with them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rbkit.clock import Clock
from rbkit.testing.vault_access import Policies
from rbkit.testing.vault_words import INVALID, Ask, Engine, Refusal, Reply, moment, random_id

__all__ = ["LONGEST_S", "Lease", "Token", "Tokens"]

LONGEST_S = 2_764_800
"""The longest and the usual life of a token, seconds: 32 days."""


@dataclass(slots=True)
class Token:
    """A token that lives.

    Args:
        id: What is shown to use it.
        accessor: What names it without giving its rights.
        policies: Its policies.
        path: Which request made it.
        created: When, in seconds since 1970.
        ttl: For how long it was made, seconds; 0 for ever.
        expires: When it dies, in seconds since 1970; 0 never.
        explicit_max: How long it may live whatever is renewed, seconds; 0 as long as the system allows.
        renewable: Whether it can be renewed.
        uses: How often it may still be used; 0 for as often as wanted.
        parent: The id of its parent; empty for an orphan.
        namespace: Where it was made.
        meta: What was noted about it.
        display_name: Its name in the audit log.
        period: For how long each renewal of a periodic token is, seconds.
        inner: The answer that a wrapping token holds.
    """

    id: str
    accessor: str
    policies: list[str]
    path: str
    created: float
    ttl: int = 0
    expires: float = 0.0
    explicit_max: int = 0
    renewable: bool = False
    uses: int = 0
    parent: str = ""
    namespace: str = ""
    meta: dict[str, str] | None = None
    display_name: str = "token"
    period: int = 0
    inner: dict[str, Any] | None = None

    def auth(self) -> dict[str, Any]:
        """Write it as the answer that hands it out."""
        return {
            "client_token": self.id, "accessor": self.accessor, "policies": self.policies,
            "token_policies": self.policies, "metadata": self.meta, "lease_duration": self.ttl,
            "renewable": self.renewable, "entity_id": "", "token_type": "service", "orphan": not self.parent,
            "num_uses": self.uses,
        }  # fmt: skip


@dataclass(slots=True)
class Lease:
    """A secret that ends: with its time, by hand, or with the token that asked for it.

    Args:
        id: Its name.
        token: The id of the token that asked for it.
        ttl: How long it was given for, seconds.
        issued: When, in seconds since 1970.
        expires: When it ends, in seconds since 1970.
        longest: How long it may be renewed at most, seconds from when it was given.
        end: Takes the secret away.
    """

    id: str
    token: str
    ttl: int
    issued: float
    expires: float
    longest: int
    end: Callable[[], None] = field(repr=False)


class Tokens(Engine):
    """The tokens, mounted at `auth/token`, and every lease.

    Args:
        clock: Where the time comes from.
        policies: What the policies grant.
    """

    routes = (
        ("POST PUT", "create", "create"),
        ("POST PUT", "create-orphan", "create"),
        ("GET POST", "lookup-self", "lookup_self"),
        ("POST PUT", "lookup", "lookup"),
        ("POST PUT", "lookup-accessor", "lookup_accessor"),
        ("POST PUT", "renew-self", "renew_self"),
        ("POST PUT", "renew-accessor", "renew_accessor"),
        ("POST PUT", "renew", "renew"),
        ("POST PUT", "revoke-self", "revoke_self"),
        ("POST PUT", "revoke-accessor", "revoke_accessor"),
        ("POST PUT", "revoke-orphan", "revoke_orphan"),
        ("POST PUT", "revoke", "revoke"),
    )

    def __init__(self, clock: Clock, policies: Policies) -> None:
        super().__init__(clock)
        self.policies = policies
        self.living: dict[str, Token] = {}
        self.leases: dict[str, Lease] = {}

    @property
    def now(self) -> float:
        """The time, in seconds since 1970."""
        return self.clock.now().timestamp()

    def add(self, policies: list[str], path: str, ttl: int, **more: Any) -> Token:
        """Make a token; its life is capped by what it may live at most."""
        longest = more.get("explicit_max") or LONGEST_S
        ttl = min(ttl or min(LONGEST_S, longest), longest) if "root" not in policies or ttl else 0
        token = Token(
            f"hvs.{random_id(16)}", random_id(), sorted(set(policies)), path, self.now, ttl,
            self.now + ttl if ttl else 0.0, **{"renewable": ttl > 0, **more},
        )  # fmt: skip
        self.living[token.id] = token
        return token

    def find(self, accessor: str) -> Token | None:
        """Find a living token by its accessor."""
        return next((one for one in self.living.values() if one.accessor == accessor), None)

    def sweep(self) -> None:
        """End what is over: tokens with their children and leases, and leases whose time is up."""
        for token in [token for token in self.living.values() if token.expires and token.expires <= self.now]:
            self.end(token)
        for lease in [lease for lease in self.leases.values() if lease.expires <= self.now]:
            self.end_lease(lease.id)

    def end(self, token: Token, *, children: bool = True) -> None:
        """End a token and its leases, and its children or their tie to it."""
        if self.living.pop(token.id, None) is None:
            return
        for child in [one for one in self.living.values() if one.parent == token.id]:
            if children:
                self.end(child)
            child.parent = ""
        for lease in [lease for lease in self.leases.values() if lease.token == token.id]:
            self.end_lease(lease.id)

    def end_lease(self, name: str) -> None:
        """End a lease; one that is over already is none."""
        lease = self.leases.pop(name, None)
        if lease:
            lease.end()

    def lend(self, name: str, token: Token, ttl: int, longest: int, end: Callable[[], None]) -> Lease:
        """Give out a secret that ends."""
        lease = Lease(name, token.id, ttl, self.now, self.now + ttl, longest, end)
        self.leases[name] = lease
        return lease

    def create(self, ask: Ask) -> Reply:
        """Make a token as the child of the one that asks."""
        parent: Token = ask.token
        sudo = self.policies.allowed(parent.policies, ask.path, "sudo")
        _check_create(ask, parent, sudo)
        policies = _policies(ask, parent, sudo)
        orphan = ask.rest == "create-orphan" or bool(ask.body.get("no_parent"))
        explicit, period, ttl = ask.span("explicit_max_ttl"), ask.span("period"), ask.span("ttl")
        token = self.add(
            policies, f"auth/token/{ask.rest}", period or ttl, explicit_max=explicit, period=period,
            uses=ask.number("num_uses"), parent="" if orphan else parent.id, namespace=ask.namespace,
            meta=ask.body.get("meta"), display_name=f"token-{ask.text('display_name')}".rstrip("-"),
        )  # fmt: skip
        token.renewable = token.ttl > 0 and ask.body.get("renewable") is not False
        missing = [name for name in policies if name not in self.policies.rules and name != "root"]
        warnings = [f'Policy "{name}" does not exist' for name in missing]
        if token.ttl < ttl:
            warnings.append(f'TTL of "{ttl}s" exceeded the effective max_ttl of "{token.ttl}s"; TTL value is capped')
        return Reply(auth=token.auth(), warnings=warnings)

    def lookup_self(self, ask: Ask) -> Reply:
        """Say what a token is that asks about itself."""
        return Reply(data=self._facts(ask.token))

    def lookup(self, ask: Ask) -> Reply:
        """Say what a token is."""
        found = self.living.get(ask.text("token"))
        if found is None:
            raise Refusal(403, "bad token")
        return Reply(data=self._facts(found))

    def lookup_accessor(self, ask: Ask) -> Reply:
        """Say what the token of an accessor is, without the token."""
        return Reply(data={**self._facts(self._of_accessor(ask)), "id": ""})

    def _facts(self, token: Token) -> dict[str, Any]:
        return {
            "id": token.id, "accessor": token.accessor, "policies": token.policies, "path": token.path,
            "meta": token.meta, "display_name": token.display_name, "num_uses": token.uses,
            "orphan": not token.parent, "creation_time": int(token.created), "creation_ttl": token.ttl,
            "expire_time": moment(token.expires) if token.expires else None,
            "ttl": max(0, int(token.expires - self.now)) if token.expires else 0,
            "explicit_max_ttl": token.explicit_max, "entity_id": "", "type": "service",
            "renewable": token.renewable, "issue_time": moment(token.created),
        }  # fmt: skip

    def _of_accessor(self, ask: Ask) -> Token:
        if not ask.text("accessor"):
            raise Refusal(400, "missing accessor")
        found = self.find(ask.text("accessor"))
        if found is None:
            raise Refusal(400, "invalid accessor")
        return found

    def renew_self(self, ask: Ask) -> Reply:
        """Renew the token that asks."""
        return self._renewed(ask, ask.token)

    def renew(self, ask: Ask) -> Reply:
        """Renew a token."""
        found = self.living.get(ask.text("token"))
        if found is None:
            raise Refusal(403, INVALID)
        return self._renewed(ask, found)

    def renew_accessor(self, ask: Ask) -> Reply:
        """Renew the token of an accessor."""
        reply = self._renewed(ask, self._of_accessor(ask))
        return Reply(auth={**(reply.auth or {}), "client_token": ""}, warnings=reply.warnings)

    def _renewed(self, ask: Ask, token: Token) -> Reply:
        """Let a token live longer, never beyond what it may live at most."""
        if not token.renewable:
            raise Refusal(400, "lease is not renewable")
        wanted = token.period or ask.span("increment") or token.ttl
        left = int(token.created + (token.explicit_max or LONGEST_S) - self.now)
        ttl = min(wanted, left)
        token.expires = self.now + ttl
        capped = [f"TTL of {wanted}s exceeded the effective max_ttl of {left}s; TTL value is capped accordingly"]
        return Reply(auth={**token.auth(), "lease_duration": ttl}, warnings=capped if ttl < wanted else [])

    def revoke_self(self, ask: Ask) -> Reply:
        """End the token that asks, and its children."""
        self.end(ask.token)
        return Reply()

    def revoke(self, ask: Ask) -> Reply:
        """End a token and its children; one that is over already is none."""
        if not ask.text("token"):
            raise Refusal(400, "missing token ID")
        if found := self.living.get(ask.text("token")):
            self.end(found)
        return Reply()

    def revoke_accessor(self, ask: Ask) -> Reply:
        """End the token of an accessor, and its children; an accessor that nobody has is a warning only."""
        if not ask.text("accessor"):
            raise Refusal(400, "missing accessor")
        found = self.find(ask.text("accessor"))
        if found is None:
            return Reply(warnings=["No token found with this accessor"])
        self.end(found)
        return Reply()

    def revoke_orphan(self, ask: Ask) -> Reply:
        """End a token and let its children live as orphans."""
        if not self.policies.allowed(ask.token.policies, ask.path, "sudo"):
            raise Refusal(400, "root or sudo privileges required to revoke and orphan")
        found = self.living.get(ask.text("token"))
        if found is None:
            raise Refusal(400, "token to revoke not found")
        self.end(found, children=False)
        return Reply()


def _check_create(ask: Ask, parent: Token, sudo: bool) -> None:
    """Refuse what a parent may not have made."""
    wanted = set(ask.words("policies"))
    meta = ask.body.get("meta")
    needs = [
        (parent.uses > 0, "restricted use token cannot generate child tokens"),
        (ask.number("num_uses") < 0, "number of uses cannot be negative"),
        (ask.text("type", "service") != "service", "invalid 'token_type' value"),
        (meta is not None and not isinstance(meta, dict), "Error decoding request: meta expected a map"),
        (bool(ask.body.get("id")), "the double lets nobody choose the id of a token"),
        (not sudo and not wanted <= set(parent.policies), "child policies must be subset of parent"),
        (
            "root" in wanted and "root" not in parent.policies,
            "root tokens may not be created without parent token being root",
        ),
        (
            bool(ask.body.get("no_parent")) and not sudo,
            "root or sudo privileges required to create orphan token",
        ),
        (ask.span("period") > 0 and not sudo, "root or sudo privileges required to create periodic token"),
    ]
    for wrong, why in needs:
        if wrong:
            raise Refusal(400, why)


def _policies(ask: Ask, parent: Token, sudo: bool) -> list[str]:
    """Choose a child's policies: those asked for, or the parent's; `default` with the former unless it is unwanted."""
    wanted = ask.words("policies")
    if wanted and (sudo or "default" in parent.policies):
        wanted = [*wanted, "default"]
    unwanted = "default" if ask.body.get("no_default_policy") else ""
    return [name for name in wanted or parent.policies if name != unwanted]
