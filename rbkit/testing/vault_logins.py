"""How one logs in to the Vault double: AppRole, signed tokens (JWT) and Kubernetes.

Source:
    https://developer.hashicorp.com/vault/api-docs/auth/approle, .../auth/jwt, .../auth/kubernetes
"""

import base64
import fnmatch
import json
from collections.abc import Mapping
from typing import Any

from rbkit.clock import Clock
from rbkit.testing.vault_tokens import LONGEST_S, Tokens
from rbkit.testing.vault_words import Ask, Engine, Refusal, Reply, random_id

__all__ = ["AppRole", "Jwt", "Kubernetes", "claims_of"]

_SKEW_S = 60
_LEEWAY_S = 150


class _Logins(Engine):
    """What every way to log in shares: roles, and the token that a role gives.

    Args:
        clock: Where the time comes from.
        tokens: Where tokens are made.
        mount: Where it is mounted, for example `auth/approle`.
    """

    public = frozenset({"login"})

    def __init__(self, clock: Clock, tokens: Tokens, mount: str) -> None:
        super().__init__(clock)
        self.tokens, self.mount = tokens, mount
        self.roles: dict[str, dict[str, Any]] = {}
        self.config: dict[str, Any] = {}

    def configure(self, ask: Ask) -> Reply:
        """Take how logins are checked."""
        self.config = dict(ask.body)
        return Reply()

    def write_role(self, ask: Ask, name: str) -> Reply:
        """Write a role."""
        self.roles[name] = {**self.roles.get(name, {}), **ask.body}
        return Reply()

    def read_role(self, ask: Ask, name: str) -> Reply:
        """Read a role."""
        return Reply(data=self.role(name, 404))

    def role(self, name: str, status: int, *words: str) -> dict[str, Any]:
        """Find a role, or refuse."""
        if name not in self.roles:
            raise Refusal(status, *words)
        return self.roles[name]

    def admit(self, ask: Ask, role: Mapping[str, Any], meta: dict[str, str]) -> Reply:
        """Make the token that a role gives."""
        asked = Ask("POST", "", "", role, {}, ask.namespace)
        ttl = asked.span("token_ttl") or asked.span("ttl")
        longest = asked.span("token_max_ttl") or LONGEST_S
        policies = asked.words("token_policies") or asked.words("policies")
        token = self.tokens.add(
            [*policies, "default"], f"{self.mount}/login", min(ttl or longest, longest), explicit_max=longest,
            uses=asked.number("token_num_uses"), namespace=ask.namespace, meta=meta,
            display_name=self.mount.removeprefix("auth/"),
        )  # fmt: skip
        return Reply(auth=token.auth())


class AppRole(_Logins):
    """Logins of machines: a role's id and a secret that goes with it."""

    routes = (
        ("POST PUT", "login", "login"),
        ("GET", "role/([^/]+)/role-id", "role_id"),
        ("POST PUT", "role/([^/]+)/secret-id", "secret_id"),
        ("POST PUT", "role/([^/]+)/secret-id/destroy", "destroy"),
        ("POST PUT", "role/([^/]+)", "write_role"),
        ("GET", "role/([^/]+)", "read_role"),
    )

    def __init__(self, clock: Clock, tokens: Tokens, mount: str) -> None:
        super().__init__(clock, tokens, mount)
        self.ids: dict[str, str] = {}
        self.secrets: dict[str, dict[str, Any]] = {}

    def role_id(self, ask: Ask, name: str) -> Reply:
        """Tell a role's id."""
        self.role(name, 404)
        return Reply(data={"role_id": self.ids.setdefault(name, random_id(16))})

    def secret_id(self, ask: Ask, name: str) -> Reply:
        """Make a secret for a role."""
        role = self.role(name, 400, f'role "{name}" does not exist')
        asked = Ask("POST", "", "", role, {}, ask.namespace)
        ttl, uses = asked.span("secret_id_ttl"), asked.number("secret_id_num_uses")
        made = random_id(16)
        self.secrets[made] = {"role": name, "uses": uses, "until": self.tokens.now + ttl if ttl else 0.0}
        data = {"secret_id": made, "secret_id_accessor": random_id(), "secret_id_ttl": ttl, "secret_id_num_uses": uses}
        return Reply(data=data)

    def destroy(self, ask: Ask, name: str) -> Reply:
        """Take a secret away."""
        self.secrets.pop(ask.text("secret_id"), None)
        return Reply()

    def login(self, ask: Ask) -> Reply:
        """Give a token for a role's id and its secret; each use of a secret with limited uses counts."""
        if not ask.text("role_id"):
            raise Refusal(400, "missing role_id")
        name = next((name for name, one in self.ids.items() if one == ask.text("role_id")), "")
        secret = self.secrets.get(ask.text("secret_id"), {})
        over = secret.get("until") and secret["until"] <= self.tokens.now
        if not name or secret.get("role") != name or over:
            raise Refusal(400, "invalid role or secret ID")
        if secret["uses"] == 1:
            del self.secrets[ask.text("secret_id")]
        secret["uses"] = max(0, secret["uses"] - 1)
        return self.admit(ask, self.roles[name], {"role_name": name})


class Jwt(_Logins):
    """Logins by a token that somebody else has signed: `jwt_validation_pubkeys` says who."""

    routes = (
        ("POST PUT", "login", "login"),
        ("POST PUT", "config", "configure"),
        ("POST PUT", "role/([^/]+)", "write_role"),
        ("GET", "role/([^/]+)", "read_role"),
    )
    _BOUND = ("bound_audiences", "bound_subject", "bound_claims")

    def write_role(self, ask: Ask, name: str) -> Reply:
        """Write a role; one that binds nothing would let everybody in."""
        if not any(ask.body.get(word) for word in self._BOUND):
            raise Refusal(400, "must have at least one bound constraint when creating/updating a role")
        if not ask.text("user_claim"):
            raise Refusal(400, "a user claim must be defined on the role")
        return super().write_role(ask, name)

    def login(self, ask: Ask) -> Reply:
        """Give a token for a signed token that a role's bounds let in."""
        name = ask.text("role", str(self.config.get("default_role", "")))
        if not name:
            raise Refusal(400, "missing role")
        role = self.role(name, 400, f'role "{name}" could not be found')
        claims = self.claims(ask, "jwt_validation_pubkeys")
        _check_bounds(claims, role)
        user = role["user_claim"]
        if not isinstance(claims.get(user), str):
            raise Refusal(400, f'claim "{user}" not found in token')
        return self.admit(ask, role, {"role": name})

    def claims(self, ask: Ask, keys: str) -> dict[str, Any]:
        """Read the claims of a signed token whose signature and times are good."""
        if not ask.text("jwt"):
            raise Refusal(400, "missing token")
        claims = claims_of(ask.text("jwt"), [str(key) for key in self.config.get(keys, [])])
        _check_times(claims, self.tokens.now)
        return claims


class Kubernetes(Jwt):
    """Logins of pods. A real Vault asks the cluster whether a token is good; the double checks it with `pem_keys`."""

    def write_role(self, ask: Ask, name: str) -> Reply:
        """Write a role; it names service accounts and namespaces."""
        if not ask.words("bound_service_account_names"):
            raise Refusal(400, '"bound_service_account_names" can not be empty')
        if not ask.words("bound_service_account_namespaces"):
            raise Refusal(400, '"bound_service_account_namespaces" can not be empty')
        return _Logins.write_role(self, ask, name)

    def login(self, ask: Ask) -> Reply:
        """Give a token to a pod whose service account a role lets in."""
        name = ask.text("role")
        if not name:
            raise Refusal(400, "missing role")
        role = self.role(name, 400, f'invalid role name "{name}"')
        claims = self.claims(ask, "pem_keys")
        account = claims.get("kubernetes.io", {})
        bound = Ask("POST", "", "", role, {}, "")
        if not _among(account.get("namespace", ""), bound.words("bound_service_account_namespaces")):
            raise Refusal(403, "namespace not authorized")
        found = account.get("serviceaccount", {}).get("name", "")
        if not _among(found, bound.words("bound_service_account_names")):
            raise Refusal(403, "service account name not authorized")
        if bound.text("audience") and bound.text("audience") not in _listed(claims.get("aud")):
            raise Refusal(403, "invalid audience (aud) claim: audience claim does not match any expected audience")
        return self.admit(ask, role, {"role": name, "service_account_name": found})


def claims_of(token: str, keys: list[str]) -> dict[str, Any]:
    """Read the claims of a signed token.

    Args:
        token: Header, claims and signature, as they are sent.
        keys: The public keys, as PEM; Ed25519 and RSA.

    Returns:
        The claims.

    Raises:
        Refusal: It is no signed token, or none of the keys has signed it.
    """
    try:
        head, body, signature = token.split(".")
        kind, claims = json.loads(_bytes(head))["alg"], json.loads(_bytes(body))
        sealed = _bytes(signature)
    except (ValueError, KeyError, TypeError):
        raise Refusal(400, "error validating token: malformed jwt") from None
    if kind not in {"EdDSA", "RS256"}:
        raise Refusal(400, f"error validating token: token signed with unsupported algorithm {kind!s:.20}")
    if not isinstance(claims, dict) or not any(_signed(key, kind, f"{head}.{body}".encode(), sealed) for key in keys):
        raise Refusal(
            400, "error validating token: error verifying token signature: no known key successfully validated"
        )
    return claims


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _signed(pem: str, kind: str, said: bytes, signature: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    key = serialization.load_pem_public_key(pem.encode())
    try:
        if isinstance(key, Ed25519PublicKey) and kind == "EdDSA":
            key.verify(signature, said)
        elif isinstance(key, RSAPublicKey) and kind == "RS256":
            key.verify(signature, said, PKCS1v15(), hashes.SHA256())
        else:
            return False
    except InvalidSignature:
        return False
    return True


def _check_times(claims: Mapping[str, Any], now: float) -> None:
    issued, since, until = (float(claims.get(name) or 0) for name in ("iat", "nbf", "exp"))
    if not (issued or since or until):
        raise Refusal(400, "error validating token: no issued at (iat), not before (nbf), or expiration time (exp)")
    if now > (until or max(issued, since) + _LEEWAY_S) + _SKEW_S:
        raise Refusal(400, "error validating token: token is expired (exp)")
    if now < max(since, issued) - _SKEW_S:
        raise Refusal(400, "error validating token: token not valid yet (nbf)")


def _check_bounds(claims: Mapping[str, Any], role: Mapping[str, Any]) -> None:
    wanted, given = _listed(role.get("bound_audiences")), _listed(claims.get("aud"))
    if given and not wanted:
        raise Refusal(400, "error validating token: audience claim found in JWT but no audiences bound to the role")
    if wanted and not set(given) & set(wanted):
        raise Refusal(400, "error validating token: invalid audience (aud) claim: audience claim does not match")
    if role.get("bound_subject") and claims.get("sub") != role["bound_subject"]:
        raise Refusal(400, "error validating token: invalid subject (sub) claim")
    glob = role.get("bound_claims_type", "string") == "glob"
    for name, allowed in (role.get("bound_claims") or {}).items():
        if name not in claims:
            raise Refusal(400, f'error validating claims: claim "{name}" is missing')
        if not any(_among(value, _listed(allowed), glob=glob) for value in _listed(claims[name])):
            raise Refusal(400, f'error validating claims: claim "{name}" does not match any associated bound claim')


def _listed(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _among(value: str, allowed: list[str], *, glob: bool = True) -> bool:
    return any(fnmatch.fnmatchcase(value, one) if glob else value == one for one in allowed)
