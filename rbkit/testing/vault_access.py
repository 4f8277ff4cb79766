"""Policies of the Vault double: which path gives which capability, and which of several paths counts."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from rbkit.testing.vault_words import Ask, Engine, Refusal, Reply

__all__ = ["DEFAULT", "Policies", "matches", "rank"]

DEFAULT: dict[str, list[str]] = {
    "auth/token/lookup-self": ["read"],
    "auth/token/renew-self": ["update"],
    "auth/token/revoke-self": ["update"],
    "sys/leases/renew": ["update"],
    "sys/leases/lookup": ["update"],
    "sys/wrapping/wrap": ["update"],
    "sys/wrapping/lookup": ["update"],
    "sys/wrapping/unwrap": ["update"],
}
"""What the policy `default` grants."""
_KNOWN = {"create", "read", "update", "delete", "list", "patch", "sudo", "deny"}


def matches(pattern: str, path: str) -> bool:
    """Tell whether a policy's path covers a path: `+` is one segment, `*` at the end is whatever follows."""
    body, star = (pattern[:-1], ".*") if pattern.endswith("*") else (pattern, "")
    segments = ["[^/]+" if segment == "+" else re.escape(segment) for segment in body.split("/")]
    return re.fullmatch("/".join(segments) + star, path, re.DOTALL) is not None


def rank(pattern: str) -> tuple[int, bool, int, int, str]:
    """Order the paths of policies: of several that cover a path, the highest alone counts.

    Source:
        https://developer.hashicorp.com/vault/docs/concepts/policies#priority-matching
    """
    places = [place for place in (pattern.find("+"), pattern.find("*")) if place >= 0]
    first = min(places) if places else len(pattern) + 1_000_000
    plus = sum(segment == "+" for segment in pattern.split("/"))
    return first, not pattern.endswith("*"), -plus, len(pattern), pattern


class Policies(Engine):
    """The policies, mounted at `sys/policies/acl`."""

    routes = (
        ("LIST", "", "names"),
        ("GET", "(.+)", "read"),
        ("PUT POST", "(.+)", "write"),
        ("DELETE", "(.+)", "delete"),
    )
    rules: dict[str, Mapping[str, list[str]]]

    def __init__(self, clock: Any) -> None:
        super().__init__(clock)
        self.rules = {"default": DEFAULT, "response-wrapping": {"sys/wrapping/unwrap": ["update"]}}

    def allowed(self, policies: Iterable[str], path: str, capability: str) -> bool:
        """Tell whether policies together grant a capability on a path; a `deny` outweighs everything on its path."""
        if "root" in policies:
            return True
        found = [self.rules[name] for name in policies if name in self.rules]
        best = max((pattern for rules in found for pattern in rules if matches(pattern, path)), key=rank, default=None)
        granted = {word for rules in found for word in rules.get(best or "", [])}
        return "deny" not in granted and capability in granted

    def put(self, name: str, rules: Mapping[str, Iterable[str]]) -> None:
        """Write a policy: capabilities by path."""
        self.rules[name] = {path: list(words) for path, words in rules.items()}

    def names(self, ask: Ask) -> Reply:
        """List the policies."""
        return Reply(data={"keys": sorted({*self.rules, "root"})})

    def read(self, ask: Ask, name: str) -> Reply:
        """Read a policy."""
        if name not in self.rules:
            raise Refusal(404)
        paths = {path: {"capabilities": words} for path, words in self.rules[name].items()}
        return Reply(data={"name": name, "policy": json.dumps({"path": paths})})

    def write(self, ask: Ask, name: str) -> Reply:
        """Write a policy; of the two forms that Vault reads, HCL and JSON, the double reads JSON."""
        if name == "root":
            raise Refusal(400, 'cannot update "root" policy')
        try:
            paths = json.loads(ask.text("policy"))["path"]
            rules = {path: list(rule["capabilities"]) for path, rule in paths.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Refusal(400, f"failed to parse policy: {type(error).__name__}") from None
        for path, words in rules.items():
            if wrong := set(words) - _KNOWN:
                raise Refusal(400, f'failed to parse policy: path "{path}": invalid capability "{min(wrong)}"')
        self.put(name, rules)
        return Reply()

    def delete(self, ask: Ask, name: str) -> Reply:
        """Delete a policy."""
        if name in {"root", "default", "response-wrapping"}:
            raise Refusal(400, f'cannot delete "{name}" policy')
        self.rules.pop(name, None)
        return Reply()
