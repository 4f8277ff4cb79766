"""A Vault for tests: the double, or a real one when RBKIT_VAULT_ADDR and RBKIT_VAULT_TOKEN are set."""

import base64
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import hvac
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import SecretStr

from rbkit.adapters.vault import Vault, VaultSettings
from rbkit.clock import Clock, FakeClock, SystemClock
from rbkit.testing.vault import VaultDouble

__all__ = [
    "CANARY",
    "KINDS",
    "Place",
    "client_of",
    "furnished",
    "pod_claims",
    "public_key",
    "signed",
    "vaults",
    "write_logins",
]

KINDS = ("double", "real") if {"RBKIT_VAULT_ADDR", "RBKIT_VAULT_TOKEN"} <= os.environ.keys() else ("double",)
"""Which Vaults there are to test against."""
_KEY = Ed25519PrivateKey.from_private_bytes(b"rbkit" * 6 + b"ok")
CANARY = "s3cr3t-canary-7f3a2c"
"""The text of every secret that tests store."""


@contextmanager
def client_of(url: str, token: str, namespace: str | None = None) -> Iterator[Any]:
    """Make a client of hvac that takes nothing from the environment, and close it."""
    with requests.Session() as session:
        session.trust_env = False
        yield hvac.Client(url=url, token=token, session=session, namespace=namespace, allow_redirects=False)


@dataclass
class Place:
    """A Vault that holds a key-value store, a policy that reads it, and an AppRole that has this policy.

    Args:
        url: Its address.
        root: A token that may do everything.
        mount: Where the key-value store is mounted.
        policy: The policy's name.
        approle: Where AppRole is mounted.
        double: The double, if it is one.
        clock: Where the time comes from.
    """

    url: str
    root: str
    mount: str
    policy: str
    approle: str
    double: VaultDouble | None = None
    clock: Clock = field(default_factory=SystemClock)
    role_id: str = ""

    def root_client(self) -> Any:
        """A client that may do everything, as a context manager."""
        return client_of(self.url, self.root)

    def put(self, path: str, **values: Any) -> None:
        """Store a secret."""
        with self.root_client() as root:
            root.secrets.kv.v2.create_or_update_secret(path, values, mount_point=self.mount)

    def secret_id(self, wrap_ttl: str | None = None) -> str:
        """Make a secret for the AppRole; in a wrapping if asked for."""
        with self.root_client() as root:
            made = root.adapter.post(f"/v1/auth/{self.approle}/role/runs/secret-id", json={}, wrap_ttl=wrap_ttl)
            return made["wrap_info"]["token"] if wrap_ttl else made["data"]["secret_id"]

    def vault(self, **options: Any) -> Vault:
        """Make an access that logs in by AppRole; references are looked up in `known`."""
        known = {"ref:role": self.role_id, **options.pop("known", {})}
        own = options.pop("own", None)
        if "ref:secret" not in known:
            known["ref:secret"] = self.secret_id()
        settings = {
            "url": self.url, "login": "approle", "mount": self.approle, "role_id": "ref:role",
            "secret_id": "ref:secret", "patience": "5s", **options,
        }  # fmt: skip
        return Vault(VaultSettings.read(settings), lambda name: SecretStr(known[name]), clock=self.clock, own=own)


def furnished(place: Place) -> Place:
    """Mount and write what the tests need, by the same requests that a real Vault takes."""
    with place.root_client() as root:
        root.sys.enable_secrets_engine("kv", path=place.mount, options={"version": "2"})
        root.sys.enable_auth_method("approle", path=place.approle)
        paths = {
            f"{place.mount}/data/app/*": ["read"],
            "auth/token/create": ["update"],
            "auth/token/renew-accessor": ["update"],
            "auth/token/revoke-accessor": ["update"],
            "database/creds/*": ["read"],
        }
        rules = {"path": {path: {"capabilities": words} for path, words in paths.items()}}
        root.sys.create_or_update_acl_policy(place.policy, json.dumps(rules), pretty_print=False)
        root.auth.approle.create_or_update_approle(
            "runs", token_policies=[place.policy], token_ttl="1h", token_max_ttl="4h", mount_point=place.approle
        )
        place.role_id = root.auth.approle.read_role_id("runs", mount_point=place.approle)["data"]["role_id"]
    return place


@contextmanager
def vaults(kind: str) -> Iterator[Place]:
    """Start the double, or use the real one."""
    name = f"rbkit-test-{secrets.token_hex(4)}"
    if kind == "double":
        clock = FakeClock()
        with VaultDouble(clock) as double:
            yield furnished(Place(double.url, double.root.id, name, name, name, double, clock))
        return
    place = Place(os.environ["RBKIT_VAULT_ADDR"], os.environ["RBKIT_VAULT_TOKEN"], name, name, name)
    try:
        yield furnished(place)
    finally:
        with place.root_client() as client:
            client.sys.disable_secrets_engine(path=name)
            client.sys.disable_auth_method(path=name)
            client.sys.delete_policy(name)


def public_key() -> str:
    """The public half of the key that signs for the double, as PEM."""
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return _KEY.public_key().public_bytes(encoding, form).decode()


def signed(claims: Any, *, head: Any = None, key: Ed25519PrivateKey | None = None) -> str:
    """Sign claims as an issuer of tokens does."""
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in (head or {"alg": "EdDSA"}, claims)
    ]
    said = ".".join(parts)
    seal = base64.urlsafe_b64encode((key or _KEY).sign(said.encode())).rstrip(b"=").decode()
    return f"{said}.{seal}"


def pod_claims(now: float, **changed: Any) -> dict[str, Any]:
    """What the signed token of a pod says; a claim that is None is left out."""
    account = {"namespace": "runbooks", "serviceaccount": {"name": "rbkit"}}
    claims = {
        "iss": "cluster", "sub": "system:serviceaccount:runbooks:rbkit", "aud": ["vault"], "iat": now, "nbf": now,
        "exp": now + 600, "kubernetes.io": account, **changed,
    }  # fmt: skip
    return {name: value for name, value in claims.items() if value is not None}


def write_logins(place: Place) -> None:
    """Let the double take signed tokens at `jwt` and `kubernetes`, with a role `pods` each."""
    with place.root_client() as root:
        root.auth.jwt.configure(jwt_validation_pubkeys=[public_key()])
        root.auth.jwt.create_role(
            "pods", user_claim="sub", allowed_redirect_uris=[], role_type="jwt", bound_audiences=["vault"],
            token_policies=[place.policy], token_ttl=600,
        )  # fmt: skip
        root.adapter.post("/v1/auth/kubernetes/config", json={"pem_keys": [public_key()]})
        root.auth.kubernetes.create_role(
            "pods", bound_service_account_names=["rbkit"], bound_service_account_namespaces=["runbooks"],
            policies=[place.policy], ttl="10m", audience="vault",
        )  # fmt: skip
