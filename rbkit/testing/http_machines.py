"""Doubles of a flags' service and of a deployments' service: JSON over HTTP, strict about tags, keys and tokens.

They stand for no product: they do what RFC 9110 and the drafts say of the headers that they are sent.

Source: RFC 9110, section 13.1.1 (If-Match); draft-ietf-httpapi-idempotency-key-header
"""

from typing import Any
from urllib.parse import unquote

from rbkit.testing.double import Answer, Double, Request

__all__ = ["DeploymentsDouble", "FlagsDouble"]


class FlagsDouble(Double):
    """Flags under `/flags/NAME`: GET with an ETag; PUT of the whole object, or PATCH, only with a matching If-Match.

    Args:
        flags: Objects by flag.

    Set `meanwhile` to fields that somebody else writes right after the next reading; clear `tags` to send no ETag.
    """

    def __init__(self, flags: dict[str, dict[str, Any]]) -> None:
        super().__init__()
        self.flags = flags
        self.writes = dict.fromkeys(flags, 0)
        self.meanwhile: dict[str, Any] = {}
        self.tags = True

    def answer(self, request: Request) -> Answer:
        """Answer one request."""
        kind, _, name = request.path.removeprefix("/").partition("/")
        flag = unquote(name)
        if kind != "flags" or "/" in name or flag not in self.flags:
            return Answer(404, {"error": f"no flag {flag}"})
        if request.method == "GET":
            return self._shown(flag)
        if request.method not in {"PUT", "PATCH"} or "idempotency-key" not in request.headers:
            return Answer(400, {"error": "a change is a PUT or PATCH with an Idempotency-Key"})
        return self._write(flag, request)

    def _shown(self, flag: str) -> Answer:
        answer = Answer(200, self.flags[flag], {"ETag": self._tag(flag)} if self.tags else {})
        if self.meanwhile:  # somebody else writes between the reading and the writing
            self.flags[flag], self.meanwhile = {**self.flags[flag], **self.meanwhile}, {}
            self.writes[flag] += 1
        return answer

    def _tag(self, flag: str) -> str:
        return f'"{self.writes[flag]}"'

    def _write(self, flag: str, request: Request) -> Answer:
        if self.tags and "if-match" not in request.headers:
            return Answer(428, {"error": "If-Match is required"})
        if self.tags and request.headers["if-match"] != self._tag(flag):
            return Answer(412, {"error": "the flag was changed by somebody else"})
        old = self.flags[flag]
        if request.method == "PUT" and request.json.keys() != old.keys():
            return Answer(422, {"error": "the object is not whole"})
        self.flags[flag] = _merged(old, request.json) if request.method == "PATCH" else request.json
        self.writes[flag] += 1
        return Answer(200, self.flags[flag])


class DeploymentsDouble(Double):
    """Deployments of services: reads, POST of a version once for each key, tokens that only rise.

    Args:
        services: For each service its versions with their times, the first one runs.
    """

    def __init__(self, services: dict[str, dict[str, str]]) -> None:
        super().__init__()
        self.versions = services
        self.runs = {name: next(iter(versions)) for name, versions in services.items()}
        self.deployed: list[str] = []
        self._keys: set[str] = set()
        self._tokens: dict[str, int] = {}

    def answer(self, request: Request) -> Answer:
        """Answer one request."""
        kind, _, rest = request.path.removeprefix("/").partition("/")
        name, _, verb = rest.partition("/")
        service = unquote(name)
        if kind != "services" or service not in self.versions:
            return Answer(404, {"error": f"no service {service}"})
        if (request.method, verb) == ("GET", ""):
            return Answer(200, {"version": self.runs[service], "ready": 3, "wanted": 3})
        if (request.method, verb) == ("GET", "versions"):
            listed = [{"version": name, "deployed_at": at} for name, at in self.versions[service].items()]
            return Answer(200, {"versions": listed})
        if (request.method, verb) in {("POST", "deploy"), ("PUT", "fence")}:
            return self._change(service, verb, request)
        return Answer(405, {"error": "no such method"})

    def _change(self, service: str, verb: str, request: Request) -> Answer:
        key, token = request.headers.get("idempotency-key", ""), request.headers.get("fencing-token", "")
        if not token.isdigit() or (verb == "deploy" and not key):
            return Answer(400, {"error": "Idempotency-Key and Fencing-Token are required"})
        highest = self._tokens.get(service, int(token))
        if int(token) < highest:
            return Answer(412, {"error": f"the highest token is {highest}"})
        self._tokens[service] = int(token)
        return Answer(204) if verb == "fence" else self._deploy(service, key, request.json)

    def _deploy(self, service: str, key: str, body: Any) -> Answer:
        if not isinstance(body, dict) or list(body) != ["version"] or body["version"] not in self.versions[service]:
            return Answer(422, {"error": "no such version"})
        if key not in self._keys:
            self._keys.add(key)
            self.runs[service] = body["version"]
            self.deployed.append(body["version"])
        return Answer(202, {"accepted": True})


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Merge as RFC 7396 does, without removals."""
    inner = {name: _merged(old[name], value) if isinstance(value, dict) else value for name, value in new.items()}
    return {**old, **inner}
