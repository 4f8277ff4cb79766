"""A strict double of the part of a Kubernetes API server that rbkit's adapters use, with tiny controllers behind it.

It takes get, list with equality selectors and pages, create, update, delete and evictions, in one namespace; patches
are refused. What it answers in each case is written down in the pages below.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/
Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/
Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/
Source: https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/
Source: https://kubernetes.io/docs/reference/kubernetes-api/authorization-resources/self-subject-access-review-v1/
"""

import copy
import json
import re
from pathlib import Path
from typing import Any

from rbkit.testing.double import Answer, Double, Request
from rbkit.testing.kube_objects import Controllers, Objects, Thing

__all__ = ["Kubernetes"]

_KINDS = {
    "pods": ("api/v1", "v1", "Pod"), "services": ("api/v1", "v1", "Service"),
    "deployments": ("apis/apps/v1", "apps/v1", "Deployment"),
    "replicasets": ("apis/apps/v1", "apps/v1", "ReplicaSet"),
    "statefulsets": ("apis/apps/v1", "apps/v1", "StatefulSet"),
    "horizontalpodautoscalers": ("apis/autoscaling/v2", "autoscaling/v2", "HorizontalPodAutoscaler"),
}  # fmt: skip
_ABOUT = {
    "/version": ("", ""),
    "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews": ("authorization.k8s.io/v1", "SelfSubjectAccessReview"),
    "/apis/authentication.k8s.io/v1/selfsubjectreviews": ("authentication.k8s.io/v1", "SelfSubjectReview"),
}
_ATTRIBUTES = {"namespace", "verb", "group", "version", "resource", "subresource", "name"}
_PATH = re.compile(r"/(api/v1|apis/[a-z]+/v[0-9]+)/namespaces/([^/]+)/([a-z]+)(?:/([^/]+))?(?:/([^/]+))?")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_FIELDS = {"apiVersion", "kind", "metadata", "spec", "status"}
_META = {
    "name", "namespace", "labels", "annotations", "uid", "resourceVersion", "generation", "creationTimestamp",
    "deletionTimestamp", "ownerReferences", "managedFields", "finalizers", "generateName", "selfLink",
}  # fmt: skip
_SPEC = {
    "deployments": {
        "replicas", "selector", "template", "paused", "strategy", "minReadySeconds", "revisionHistoryLimit",
        "progressDeadlineSeconds",
    },
    "statefulsets": {
        "replicas", "selector", "template", "serviceName", "updateStrategy", "podManagementPolicy",
        "minReadySeconds", "revisionHistoryLimit", "persistentVolumeClaimRetentionPolicy", "ordinals",
        "volumeClaimTemplates",
    },
    "replicasets": {"replicas", "selector", "template", "minReadySeconds"},
    "horizontalpodautoscalers": {"scaleTargetRef", "minReplicas", "maxReplicas", "metrics", "behavior"},
}  # fmt: skip
_VERBS = {"GET": "get", "PUT": "update", "POST": "create", "DELETE": "delete", "PATCH": "patch"}


class _Problem(Exception):
    """A Status that says what is wrong."""

    def __init__(self, code: int, reason: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        status = {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
            "reason": reason, "code": code,
        }  # fmt: skip
        self.answer = Answer(code, status, headers or {})


class Kubernetes(Double):
    """An API server with one namespace.

    Attributes:
        tokens: What each bearer token may do: pairs of verb and resource, as ("update", "pods"); None for everything.
        objects: What there is.
        controllers: What makes pods follow workloads.
        lively: Whether the controllers come to their end after each write; else only as `controllers` is told.
        protected: Pods whose disruption budget is used up.
    """

    def __init__(self, token: str = "let-me-in", namespace: str = "default") -> None:  # noqa: S107
        super().__init__()
        self.namespace = namespace
        self.tokens: dict[str, set[tuple[str, str]] | None] = {token: None}
        self.objects = Objects()
        self.controllers = Controllers(self.objects)
        self.lively = True
        self.protected: set[str] = set()

    def kubeconfig(self, path: Path, token: str = "") -> Path:
        """Write a kubeconfig that leads here.

        Args:
            path: Where it is written.
            token: Which token it holds; the first one when empty.

        Returns:
            The path.
        """
        data = {
            "apiVersion": "v1", "kind": "Config", "current-context": "double",
            "clusters": [{"name": "double", "cluster": {"server": self.url}}],
            "users": [{"name": "double", "user": {"token": token or next(iter(self.tokens))}}],
            "contexts": [
                {"name": "double", "context": {"cluster": "double", "user": "double", "namespace": self.namespace}}
            ],
        }  # fmt: skip
        path.write_text(json.dumps(data), encoding="utf-8")
        return path

    def answer(self, request: Request) -> Answer:
        """Answer one request, and let the controllers work after a write."""
        try:
            answer = self._answered(request)
        except _Problem as problem:
            return problem.answer
        if self.lively and request.method != "GET":
            self.controllers.settle()
        return answer

    def _answered(self, request: Request) -> Answer:
        if request.path in _ABOUT:
            return self._about(request)
        kind, name, sub = self._route(request)
        verb = "list" if request.method == "GET" and not name else _VERBS.get(request.method, "")
        self._admit(request, verb, f"{kind}/{sub}" if sub else kind)
        if verb == "patch":
            raise _Problem(415, "UnsupportedMediaType", "this double takes no patches")
        if verb == "list":
            return Answer(200, self._listed(kind, request))
        if verb == "create":
            return Answer(201, self._evict(name, request) if sub else self._create(kind, request))
        if not verb or sub or not name:
            raise _Problem(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        thing = self._found(kind, name)
        if verb == "update":
            return Answer(200, self._update(kind, thing, request))
        if verb == "delete":
            self.objects.drop(kind, name)
        return Answer(200, thing)

    def _about(self, request: Request) -> Answer:
        """Tell the version, who asks, and what they may do."""
        if (request.method == "GET") != (request.path == "/version"):
            raise _Problem(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        allowed = self._known(request)
        if request.method == "GET":
            return Answer(200, {"major": "1", "minor": "30", "gitVersion": "v1.30.0-double"})
        version, kind = _ABOUT[request.path]
        body = request.json
        if (body.get("apiVersion"), body.get("kind")) != (version, kind):
            raise _Problem(400, "BadRequest", f"the object provided is no {kind} of {version}")
        if kind == "SelfSubjectReview":
            return Answer(201, body | {"status": {"userInfo": {"username": "double", "groups": []}}})
        return Answer(201, body | {"status": {"allowed": _may(allowed, body.get("spec", {}), self.namespace)}})

    def _route(self, request: Request) -> tuple[str, str, str]:
        match = _PATH.fullmatch(request.path)
        group, namespace, kind, name, sub = match.groups(default="") if match else ("",) * 5
        known = kind in _KINDS and _KINDS[kind][0] == group and (not sub or (kind, sub) == ("pods", "eviction"))
        if not known or namespace != self.namespace:
            raise _Problem(404, "NotFound", "the server could not find the requested resource")
        return kind, name, sub

    def _known(self, request: Request) -> set[tuple[str, str]] | None:
        """Say what the request's token may do; None for everything."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or token not in self.tokens:
            raise _Problem(401, "Unauthorized", "Unauthorized")
        return self.tokens[token]

    def _admit(self, request: Request, verb: str, resource: str) -> None:
        allowed = self._known(request)
        if allowed is not None and (verb, resource) not in allowed:
            who = 'User "double" cannot'
            raise _Problem(403, "Forbidden", f'{resource} is forbidden: {who} {verb} resource "{resource}"')

    def _found(self, kind: str, name: str) -> Thing:
        if (kind, name) not in self.objects.all:
            raise _Problem(404, "NotFound", f'{kind} "{name}" not found')
        return copy.deepcopy(self.objects.all[kind, name])

    def _listed(self, kind: str, request: Request) -> Thing:
        limit, place = request.one("limit", "0"), request.one("continue", "0")
        if not limit.isdigit() or not place.isdigit():
            raise _Problem(400, "BadRequest", "limit and continue must be what the server gave")
        wanted = _selector(request.one("labelSelector"))
        found = [one for one in self.objects.named(kind) if wanted.items() <= one["metadata"].get("labels", {}).items()]
        first = int(place)
        last = first + int(limit) if int(limit) else len(found)
        onward = {"continue": str(last)} if last < len(found) else {}
        _, version, name = _KINDS[kind]
        head = {"kind": f"{name}List", "apiVersion": version}
        return head | {"metadata": {"resourceVersion": str(self.objects.writes)} | onward, "items": found[first:last]}

    def _create(self, kind: str, request: Request) -> Thing:
        thing = _body(request)
        name = thing["metadata"].get("name", "")
        thing["metadata"]["namespace"] = self.namespace
        _check(kind, thing)
        if (kind, name) in self.objects.all:
            raise _Problem(409, "AlreadyExists", f'{kind} "{name}" already exists')
        status = {"pods": {"phase": "Pending"}, "services": {"loadBalancer": {}}}.get(kind, {"replicas": 0})
        return copy.deepcopy(self.objects.make(kind, thing | {"status": status}))

    def _update(self, kind: str, old: Thing, request: Request) -> Thing:
        """Put a whole object in the place of the one that was read; its status is not touched."""
        new = _body(request)
        _check(kind, new)
        name, meta = old["metadata"]["name"], new["metadata"]
        if meta.get("name") != name:
            raise _Problem(400, "BadRequest", f"the name of the object does not match the name on the URL ({name})")
        for field in ("resourceVersion", "uid"):
            if meta.get(field, old["metadata"][field]) != old["metadata"][field]:
                raise _Problem(
                    409, "Conflict", f'Operation cannot be fulfilled on {kind} "{name}": the object has been modified; '
                    "please apply your changes to the latest version and try again",
                )  # fmt: skip
        _check_fixed(kind, old, new)
        kept = {key: value for key, value in meta.items() if key in {"labels", "annotations"}}
        base = {key: value for key, value in old["metadata"].items() if key not in {"labels", "annotations"}}
        return copy.deepcopy(self.objects.save(kind, old | {"metadata": base | kept, "spec": new["spec"]}))

    def _evict(self, name: str, request: Request) -> Thing:
        """Let a pod go, when it is the one that is meant and its disruption budget allows it."""
        body = request.json
        if body.get("kind") != "Eviction" or body.get("apiVersion") != "policy/v1" or body["metadata"]["name"] != name:
            raise _Problem(400, "BadRequest", "name in URL does not match name in Eviction object")
        pod = self._found("pods", name)
        for field, value in (body.get("deleteOptions") or {}).get("preconditions", {}).items():
            if pod["metadata"].get(field) != value:
                said = f"the {field} in the precondition ({value}) does not match that of the record"
                raise _Problem(409, "Conflict", f'Operation cannot be fulfilled on pods "{name}": {said}')
        if name in self.protected:
            said = "Cannot evict pod as it would violate the pod's disruption budget."
            raise _Problem(429, "TooManyRequests", said, {"Retry-After": "10"})
        pod["metadata"]["deletionTimestamp"] = self.objects.now()
        self.objects.save("pods", pod)
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def _may(allowed: set[tuple[str, str]] | None, spec: Thing, namespace: str) -> bool:
    """Review an access as the API server does; only a resource in the group to which it belongs is ever granted."""
    asked = spec.get("resourceAttributes", {})
    unknown = (spec.keys() - {"resourceAttributes"}) | (asked.keys() - _ATTRIBUTES)
    if unknown or not asked:
        raise _Problem(422, "Invalid", "spec.resourceAttributes: exactly one of nonResourceAttributes or it is needed")
    kind, sub = asked.get("resource", ""), asked.get("subresource", "")
    group = _KINDS[kind][1].rpartition("/")[0] if kind in _KINDS else None
    if asked.get("group", "") != group or asked.get("namespace", "") != namespace:
        return False
    return allowed is None or (asked.get("verb", ""), f"{kind}/{sub}" if sub else kind) in allowed


def _body(request: Request) -> Thing:
    try:
        thing = request.json
    except ValueError as error:
        raise _Problem(400, "BadRequest", f"the body is not JSON: {error}") from error
    if not isinstance(thing, dict) or not isinstance(thing.get("metadata"), dict):
        raise _Problem(400, "BadRequest", "the object provided is unrecognized: Object 'metadata' is missing")
    return thing


def _selector(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",") if text]
    if not all(_KEY.fullmatch(key) and sign and _LABEL.fullmatch(value) for key, sign, value in pairs):
        raise _Problem(400, "BadRequest", f"unable to parse requirement: {text}; this double knows key=value only")
    return {key: value for key, _, value in pairs}


def _check(kind: str, thing: Thing) -> None:
    """Refuse an object of another kind, with unknown fields, or with values that cannot be."""
    _, version, name = _KINDS[kind]
    if (thing.get("apiVersion"), thing.get("kind")) != (version, name):
        raise _Problem(400, "BadRequest", f"the object provided is no {name} of {version}")
    meta, spec = thing["metadata"], thing.get("spec", {})
    unknown = (thing.keys() - _FIELDS) | (meta.keys() - _META) | (spec.keys() - _SPEC.get(kind, spec.keys()))
    if unknown:
        raise _Problem(400, "BadRequest", f'strict decoding error: unknown field "{min(unknown)}"')
    if not _NAME.fullmatch(meta.get("name", "")):
        _invalid(kind, thing, "metadata.name", "a lowercase RFC 1123 subdomain is needed")
    for field, value in (("labels", _LABEL), ("annotations", re.compile(r"(?s).*"))):
        pairs = (meta.get(field) or {}).items()
        if not all(_KEY.fullmatch(key) and isinstance(text, str) and value.fullmatch(text) for key, text in pairs):
            _invalid(kind, thing, f"metadata.{field}", "a key or a value is not valid")
    if "template" in spec:
        _check_workload(kind, thing)


def _check_workload(kind: str, thing: Thing) -> None:
    spec = thing["spec"]
    replicas = spec.setdefault("replicas", 1)
    if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
        _invalid(kind, thing, "spec.replicas", "must be greater than or equal to 0")
    found = spec["template"]["metadata"].get("labels", {})
    if not spec["selector"]["matchLabels"].items() <= found.items():
        _invalid(kind, thing, "spec.template.metadata.labels", "`selector` does not match template `labels`")


def _check_fixed(kind: str, old: Thing, new: Thing) -> None:
    """Refuse to change what stays as it was created."""
    if kind == "pods" and new.get("spec") != old["spec"]:
        _invalid(kind, new, "spec", "pod updates may not change fields other than images and tolerations")
    if "template" in old["spec"] and new["spec"].get("selector") != old["spec"]["selector"]:
        _invalid(kind, new, "spec.selector", "field is immutable")


def _invalid(kind: str, thing: Thing, field: str, why: str) -> Any:
    name = thing["metadata"].get("name", "")
    raise _Problem(422, "Invalid", f'{kind} "{name}" is invalid: {field}: Invalid value: {why}')
