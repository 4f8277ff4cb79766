"""A double of HashiCorp Vault, written from its documentation; no real Vault was ever asked.

It holds what rbkit uses and what stands in its way: seals, policies, child tokens, wrapped answers, leases, versions,
logins, namespaces, and the errors in Vault's own words. It does not hold: HCL, roles of tokens, batch tokens,
entities, replication, plugins, auditing.

Source:
    https://developer.hashicorp.com/vault/api-docs and https://developer.hashicorp.com/vault/docs/concepts
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from rbkit.clock import Clock
from rbkit.testing.double import Answer, Double, Request
from rbkit.testing.vault_access import Policies
from rbkit.testing.vault_engines import Database, Leases, Versioned
from rbkit.testing.vault_logins import AppRole, Jwt, Kubernetes
from rbkit.testing.vault_tokens import Token, Tokens
from rbkit.testing.vault_words import DENIED, INVALID, Ask, Engine, Refusal, Reply, moment, span

__all__ = ["VaultDouble"]

_WORDS = {
    412: "required index state not present",
    429: 'request path "x": rate limit quota exceeded',
    473: "performance standby",
    500: "internal error",
    502: "bad gateway",
    503: "service unavailable",
}
_HEALTH = {"active": 200, "standby": 429, "dr_secondary": 472, "performance_standby": 473, "uninitialized": 501}
_WRAPPING = {"sys/wrapping/lookup", "sys/wrapping/unwrap", "sys/wrapping/rewrap"}
_NOT_WRAPPED = "wrapping token is not valid or does not exist"


class VaultDouble(Double):
    """A Vault on loopback, with a key-value store at `kv`, a database at `database` and three ways to log in.

    Args:
        clock: Where the time comes from.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.sealed = False
        self.state = "active"
        self.failures: list[int | Answer] = []
        """Answers that are given next, whatever is asked: a status, or an answer as it is."""
        self.namespaces = {""}
        self.policies = Policies(clock)
        self.tokens = Tokens(clock, self.policies)
        self.engines: dict[str, Engine] = {}
        self._mount_all()
        self.root = self.tokens.add(["root"], "auth/token/root", 0)

    def _mount_all(self) -> None:
        self.database = Database(self.clock, self.tokens, "database")
        self.engines = {
            "auth/token": self.tokens, "sys/policies/acl": self.policies, "sys/leases": Leases(self.clock, self.tokens),
            "kv": Versioned(self.clock), "database": self.database,
        }  # fmt: skip
        for kind in ("approle", "jwt", "kubernetes"):
            self._mount_login(kind, kind, "")

    def _mount_login(self, name: str, kind: str, namespace: str) -> None:
        makers = {"approle": AppRole, "jwt": Jwt, "kubernetes": Kubernetes}
        if kind not in makers:
            raise Refusal(400, f"plugin not found in the catalog: {kind}")
        mount = f"auth/{name}"
        self.engines[_joined(namespace, mount)] = makers[kind](self.clock, self.tokens, mount)

    def answer(self, request: Request) -> Answer:
        """Answer one request."""
        if self.failures:
            failure = self.failures.pop(0)
            return failure if isinstance(failure, Answer) else _failed(failure)
        try:
            return self._answer(request)
        except Refusal as refusal:
            body = {"errors": refusal.errors} if refusal.data is None else Reply(data=refusal.data).envelope()
            return Answer(refusal.status, body)

    def _answer(self, request: Request) -> Answer:
        path = unquote(request.path)
        if not path.startswith("/v1/"):
            return Answer(404, "404 page not found\n", {"Content-Type": "text/plain"})
        path = path.removeprefix("/v1/")
        if path in {"sys/health", "sys/seal-status"}:
            return self._health(path)
        if self.sealed:
            raise Refusal(503, "Vault is sealed")
        self.tokens.sweep()
        return self._admitted(request, path)

    def _health(self, path: str) -> Answer:
        facts: dict[str, Any] = {
            "initialized": self.state != "uninitialized", "sealed": self.sealed, "standby": self.state != "active",
            "version": "1.20.0", "server_time_utc": int(self.tokens.now), "cluster_name": "double",
        }  # fmt: skip
        if path == "sys/seal-status":
            return Answer(200, facts | {"type": "shamir", "t": 1, "n": 1, "progress": 0})
        return Answer(503 if self.sealed else _HEALTH[self.state], facts)

    def _admitted(self, request: Request, path: str) -> Answer:
        """Find who asks and what is asked, let it through or not, and wrap the answer if that was wanted."""
        namespace = request.headers.get("x-vault-namespace", "").strip("/")
        if namespace not in self.namespaces:
            raise Refusal(404, f'no handler for route "{namespace}/{path}". route entry not found.')
        listed = request.method == "GET" and request.one("list") == "true"
        query = {name: values[0] for name, values in request.query.items()}
        method = "LIST" if listed else request.method
        ask = Ask(method, path, path, _body(request), query, namespace)
        token = self.tokens.living.get(request.headers.get("x-vault-token", ""))
        if path in _WRAPPING:
            return self._wrapping(ask, token, request)
        reply = self._routed(ask, token, request)
        return self._sent(reply, path, request)

    def _routed(self, ask: Ask, token: Token | None, request: Request) -> Reply:
        mount, engine = self._engine(ask)
        rest = ask.path.removeprefix(mount).strip("/")
        rest = f"{rest}/" if ask.method == "LIST" and rest else rest  # a folder is listed, however it is written
        if engine is not None and rest in engine.public:
            return engine.handle(replace(ask, rest=rest))
        capability = engine.capability(replace(ask, rest=rest)) if engine else "update"
        allowed = self._let_in(ask, token, request, capability)
        if engine is None:
            return self._system(replace(ask, token=allowed))
        try:
            return engine.handle(replace(ask, rest=rest, token=allowed))
        finally:
            self._use(allowed)

    def _engine(self, ask: Ask) -> tuple[str, Engine | None]:
        """Find what is mounted at a path, in its namespace; tokens, policies and leases are everywhere the same."""
        for mount in sorted(self.engines, key=len, reverse=True):
            shared = mount.startswith(("sys/", "auth/token"))
            full = ask.path if shared else _joined(ask.namespace, ask.path)
            if f"{full}/".startswith(f"{mount}/"):
                return (mount if shared else mount.removeprefix(ask.namespace).strip("/")), self.engines[mount]
        return "", None

    def _let_in(self, ask: Ask, token: Token | None, request: Request, capability: str) -> Token:
        if not request.headers.get("x-vault-token"):
            raise Refusal(400, "missing client token")
        if token is None or not _inside(ask.namespace, token.namespace):
            raise Refusal(403, INVALID)
        path = _joined(ask.namespace.removeprefix(token.namespace).strip("/"), ask.path)
        if not self.policies.allowed(token.policies, path, capability):
            raise Refusal(403, DENIED)
        return token

    def _use(self, token: Token) -> None:
        """Count a use of a token that may be used so many times."""
        if token.uses == 1:
            self.tokens.end(token)
        token.uses = max(0, token.uses - 1)

    def _system(self, ask: Ask) -> Reply:
        """Mount things, make namespaces, seal, wrap what is given."""
        words = ask.path.split("/", 2)
        if ask.path == "sys/seal":
            self.sealed = True
        elif ask.path == "sys/wrapping/wrap":
            return Reply(data=dict(ask.body))
        elif words[:2] == ["sys", "auth"] and len(words) == 3:
            self._mount_login(words[2], ask.text("type"), ask.namespace)
        elif words[:2] == ["sys", "mounts"] and len(words) == 3:
            self._mount_secrets(words[2], ask)
        elif words[:2] == ["sys", "namespaces"] and len(words) == 3:
            self.namespaces.add(_joined(ask.namespace, words[2]))
        else:
            raise Refusal(404, f'no handler for route "{ask.path}". route entry not found.')
        return Reply()

    def _mount_secrets(self, name: str, ask: Ask) -> None:
        version = str((ask.body.get("options") or {}).get("version", "1"))
        mount = _joined(ask.namespace, name.strip("/"))
        if mount in self.engines:
            raise Refusal(400, f"path is already in use at {name.strip('/')}/")
        if (ask.text("type"), version) not in {("kv", "2"), ("kv-v2", "1")}:
            raise Refusal(400, f"plugin not found in the catalog: {ask.text('type')}")
        self.engines[mount] = Versioned(self.clock)

    def _sent(self, reply: Reply, path: str, request: Request) -> Answer:
        """Send an answer, or the token of a wrapping that holds it."""
        wanted = request.headers.get("x-vault-wrap-ttl")
        if path == "sys/wrapping/wrap" and not wanted:
            raise Refusal(400, "endpoint requires response wrapping to be used")
        if reply.empty:
            return Answer(204)
        if not wanted or (reply.data is None and reply.auth is None):
            return Answer(200, reply.envelope())
        ttl = span(wanted)
        made = self.tokens.add(
            ["response-wrapping"], path, ttl, uses=1, explicit_max=ttl, renewable=False, inner=reply.envelope()
        )
        info = {
            "token": made.id, "accessor": made.accessor, "ttl": ttl, "creation_time": moment(made.created),
            "creation_path": path,
        }  # fmt: skip
        if reply.auth:
            info["wrapped_accessor"] = reply.auth["accessor"]
        return Answer(200, Reply().envelope(info))

    def _wrapping(self, ask: Ask, token: Token | None, request: Request) -> Answer:
        """Look at a wrapping, or open it: only once, and only with its own token or beside a token that may."""
        given = ask.text("token")
        if given and ask.path != "sys/wrapping/lookup":
            self._use(self._let_in(ask, token, request, "update"))
        found = self.tokens.living.get(given) if given else token
        if not given and not request.headers.get("x-vault-token"):
            raise Refusal(400, "missing client token")
        if found is None or found.inner is None:
            raise Refusal(400, _NOT_WRAPPED)
        if ask.path == "sys/wrapping/lookup":
            facts = {"creation_path": found.path, "creation_time": moment(found.created), "creation_ttl": found.ttl}
            return Answer(200, Reply(data=facts).envelope())
        self.tokens.end(found)
        if ask.path == "sys/wrapping/rewrap":
            return self._rewrapped(found)
        return Answer(200, found.inner)

    def _rewrapped(self, old: Token) -> Answer:
        made = self.tokens.add(
            ["response-wrapping"], old.path, old.ttl, uses=1, explicit_max=old.ttl, renewable=False, inner=old.inner
        )
        info = {
            "token": made.id, "accessor": made.accessor, "ttl": made.ttl, "creation_time": moment(made.created),
            "creation_path": made.path,
        }  # fmt: skip
        return Answer(200, Reply().envelope(info))


def _joined(namespace: str, path: str) -> str:
    return f"{namespace}/{path}" if namespace else path


def _inside(namespace: str, above: str) -> bool:
    return not above or f"{namespace}/".startswith(f"{above}/")


def _body(request: Request) -> Mapping[str, Any]:
    try:
        body = request.json if request.method != "GET" else None
    except ValueError as error:
        raise Refusal(400, f"failed to parse JSON input: {type(error).__name__}") from None
    if body is not None and not isinstance(body, dict):
        raise Refusal(400, "failed to parse JSON input: json: cannot unmarshal into an object")
    return body or {}


def _failed(status: int) -> Answer:
    headers = {"Retry-After": "1"} if status == 429 else {}
    words = json.dumps({"errors": [_WORDS.get(status, "failed")]})
    return Answer(status, words, headers)
