"""The double refuses what a real API server refuses, and its controllers make what workloads ask for."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from servers.kubernetes import IMAGE, manifest

from rbkit.testing.kubernetes import Kubernetes

DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
STATEFULSETS = "/apis/apps/v1/namespaces/default/statefulsets"
SETS = "/apis/apps/v1/namespaces/default/replicasets"
PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture
def double() -> Iterator[Kubernetes]:
    """A double with nothing in it."""
    with Kubernetes() as double:
        yield double


@pytest.fixture
def http(double: Kubernetes) -> Iterator[httpx2.Client]:
    """A client with its token."""
    with httpx2.Client(base_url=double.url, headers={"Authorization": "Bearer let-me-in"}, trust_env=False) as client:
        yield client


def status(answer: httpx2.Response) -> tuple[int, str]:
    """Take the code and the reason out of a Status."""
    data = answer.json()
    assert data["kind"] == "Status" and data["code"] == answer.status_code
    return answer.status_code, data["reason"]


def made(http: httpx2.Client, kind: str = "Deployment", name: str = "checkout", **more: Any) -> Any:
    """Create a workload."""
    path = {"Deployment": DEPLOYMENTS, "StatefulSet": STATEFULSETS}[kind]
    answer = http.post(path, json=manifest(kind, name, **more))
    assert answer.status_code == 201, answer.text
    return answer.json()


def names(http: httpx2.Client, path: str = PODS) -> list[str]:
    """List the names of objects."""
    return [item["metadata"]["name"] for item in http.get(path).json()["items"]]


@pytest.mark.parametrize("headers", [{"Authorization": "Bearer other"}, {"Authorization": "Basic let-me-in"}])
def test_a_wrong_token_is_unauthorized(http, headers) -> None:
    """Only a known bearer token opens."""
    assert status(http.get(PODS, headers=headers)) == (401, "Unauthorized")


def test_a_right_that_is_not_granted_is_forbidden(double, http) -> None:
    """Rights are pairs of verb and resource; list is not get, and an eviction is a resource of its own."""
    made(http, "StatefulSet", "store")
    double.tokens["reader"] = {("get", "pods")}
    reader = {"Authorization": "Bearer reader"}
    assert http.get(f"{PODS}/store-0", headers=reader).status_code == 200
    assert status(http.get(PODS, headers=reader)) == (403, "Forbidden")
    assert status(http.post(f"{PODS}/store-0/eviction", json={}, headers=reader)) == (403, "Forbidden")


@pytest.mark.parametrize(
    "path",
    [
        "/", "/api/v1/pods", "/api/v1/namespaces/other/pods", "/api/v1/namespaces/default/deployments", f"{PODS}/x",
        "/apis/apps/v1/namespaces/default/pods", "/apis/apps/v1/namespaces/default/deployments/x/scale",
    ],
)  # fmt: skip
def test_what_is_not_there_is_not_found(http, path) -> None:
    """Unknown paths, groups, namespaces, names and subresources."""
    assert status(http.get(path)) == (404, "NotFound")


def test_methods_that_it_does_not_have_are_refused(http) -> None:
    """Patches are no part of it, nor is a list that is put or an eviction that is read."""
    made(http, "StatefulSet", "store")
    assert status(http.patch(f"{PODS}/store-0", json={})) == (415, "UnsupportedMediaType")
    assert status(http.put(PODS, json={})) == (405, "MethodNotAllowed")
    assert status(http.request("LIST", PODS)) == (405, "MethodNotAllowed")
    assert status(http.get(f"{PODS}/store-0/eviction")) == (405, "MethodNotAllowed")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda t: t.update(kind="Pod"), 400), (lambda t: t.update(apiVersion="v1"), 400),
        (lambda t: t.update(specs={}), 400), (lambda t: t["metadata"].update(label={}), 400),
        (lambda t: t["spec"].update(replica=2), 400), (lambda t: t.pop("metadata"), 400),
        (lambda t: t["metadata"].update(name="Check Out"), 422), (lambda t: t["metadata"].update(labels={"a": 1}), 422),
        (lambda t: t["metadata"].update(labels={"a": "ü"}), 422),
        (lambda t: t["metadata"].update(labels={"": "a"}), 422),
        (lambda t: t["metadata"].update(annotations={"a b": "c"}), 422), (lambda t: t["spec"].update(replicas=-1), 422),
        (lambda t: t["spec"].update(replicas=True), 422),
        (lambda t: t["spec"]["selector"].update(matchLabels={"app": "other"}), 422),
    ],
)  # fmt: skip
def test_an_object_that_is_wrong_is_refused(http, change, code) -> None:
    """Unknown fields and other kinds are bad requests, values that cannot be are invalid; nothing is made."""
    thing = manifest("Deployment", "checkout")
    change(thing)
    assert http.post(DEPLOYMENTS, json=thing).status_code == code
    assert names(http, DEPLOYMENTS) == []


def test_what_is_no_json_is_a_bad_request(http) -> None:
    """So is JSON that is no object."""
    for body in (b"{", b"[]", b""):
        assert status(http.post(DEPLOYMENTS, content=body)) == (400, "BadRequest")


def test_an_object_is_made_once(http) -> None:
    """The second one of a name is a conflict; a deleted one takes what it owns with it."""
    made(http)
    assert status(http.post(DEPLOYMENTS, json=manifest("Deployment", "checkout"))) == (409, "AlreadyExists")
    assert len(names(http)) == 2
    assert http.delete(f"{DEPLOYMENTS}/checkout").status_code == 200
    assert names(http) == names(http, SETS) == []


def test_a_write_needs_the_version_that_was_read(http) -> None:
    """A version or a uid that is not the present one is a conflict; without a version the last one wins."""
    made(http)
    thing = http.get(f"{DEPLOYMENTS}/checkout").json()
    thing["metadata"]["annotations"]["a"] = "1"
    assert http.put(f"{DEPLOYMENTS}/checkout", json=thing).status_code == 200
    assert status(http.put(f"{DEPLOYMENTS}/checkout", json=thing)) == (409, "Conflict")
    del thing["metadata"]["resourceVersion"]
    assert http.put(f"{DEPLOYMENTS}/checkout", json=thing).status_code == 200
    thing["metadata"]["uid"] = "other"
    assert status(http.put(f"{DEPLOYMENTS}/checkout", json=thing)) == (409, "Conflict")


def test_only_a_changed_spec_is_a_new_generation(http) -> None:
    """Labels and annotations are none; the status cannot be written with the object; the version goes up each time."""
    before = made(http)
    thing = http.get(f"{DEPLOYMENTS}/checkout").json()
    thing["metadata"]["labels"] = {"a": "b"}
    thing["status"] = {"readyReplicas": 99}
    labelled = http.put(f"{DEPLOYMENTS}/checkout", json=thing).json()
    assert labelled["metadata"]["generation"] == before["metadata"]["generation"] == 1
    assert labelled["metadata"]["resourceVersion"] != thing["metadata"]["resourceVersion"]
    assert labelled["status"]["readyReplicas"] == 2
    labelled["spec"]["replicas"] = 3
    assert http.put(f"{DEPLOYMENTS}/checkout", json=labelled).json()["metadata"]["generation"] == 2
    assert http.get(f"{DEPLOYMENTS}/checkout").json()["status"]["observedGeneration"] == 2


def test_what_stays_as_it_was_created_cannot_be_changed(http) -> None:
    """A pod's spec, a workload's selector, and the name in the path."""
    made(http)
    pod = http.get(f"{PODS}/{names(http)[0]}").json()
    pod["spec"]["containers"][0]["image"] = "other"
    assert status(http.put(f"{PODS}/{pod['metadata']['name']}", json=pod)) == (422, "Invalid")
    thing = http.get(f"{DEPLOYMENTS}/checkout").json()
    thing["spec"]["selector"]["matchLabels"]["rbkit.dev/traffic"] = "on"
    assert status(http.put(f"{DEPLOYMENTS}/checkout", json=thing)) == (422, "Invalid")
    thing["metadata"]["name"] = "other"
    assert status(http.put(f"{DEPLOYMENTS}/checkout", json=thing)) == (400, "BadRequest")


def test_a_list_is_selected_and_paged(http) -> None:
    """Every page says where it goes on, the last one does not; other selectors are refused."""
    made(http, replicas=3)
    made(http, "StatefulSet", "store", replicas=2)
    found = http.get(PODS, params={"labelSelector": "app=store,rbkit.dev/traffic=on"}).json()
    assert [one["metadata"]["name"] for one in found["items"]] == ["store-0", "store-1"]
    seen, onward = [], {"limit": "2"}
    while True:
        page = http.get(PODS, params=onward).json()
        seen += [one["metadata"]["name"] for one in page["items"]]
        if "continue" not in page["metadata"]:
            break
        onward = {"limit": "2", "continue": page["metadata"]["continue"]}
    assert seen == names(http) and len(seen) == 5
    for params in ({"labelSelector": "app in (a)"}, {"labelSelector": "app"}, {"limit": "x"}, {"continue": "x"}):
        assert status(http.get(PODS, params=params)) == (400, "BadRequest")


def evict(http: httpx2.Client, name: str, **preconditions: str) -> httpx2.Response:
    """Evict a pod."""
    body = {
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name},
        "deleteOptions": {"preconditions": preconditions},
    }  # fmt: skip
    return http.post(f"{PODS}/{name}/eviction", json=body)


def test_an_eviction_holds_for_the_pod_that_is_meant(double, http) -> None:
    """Another uid or version is a conflict, a budget that is used up is too many requests, other bodies are bad."""
    made(http, "StatefulSet", "store")
    meta = http.get(f"{PODS}/store-0").json()["metadata"]
    assert status(evict(http, "store-0", uid="other")) == (409, "Conflict")
    assert status(evict(http, "store-0", uid=meta["uid"], resourceVersion="1")) == (409, "Conflict")
    assert status(evict(http, "store-9")) == (404, "NotFound")
    body = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": "store-0"}}
    assert status(http.post(f"{PODS}/store-0/eviction", json=body)) == (400, "BadRequest")
    double.protected.add("store-0")
    refused = evict(http, "store-0")
    assert status(refused) == (429, "TooManyRequests") and refused.headers["Retry-After"] == "10"
    double.protected.clear()
    assert evict(http, "store-0", uid=meta["uid"], resourceVersion=meta["resourceVersion"]).status_code == 201
    assert http.get(f"{PODS}/store-0").json()["metadata"]["uid"] != meta["uid"]


def test_a_new_template_is_rolled_out(double, http) -> None:
    """The replica set of the new template grows, the old one is emptied and stays; going back takes it up again."""
    made(http)
    for version, revision in (("3.10", "2"), ("3.9", "3")):
        thing = http.get(f"{DEPLOYMENTS}/checkout").json()
        thing["spec"]["template"]["spec"]["containers"][0]["image"] = IMAGE.format(version)
        assert http.put(f"{DEPLOYMENTS}/checkout", json=thing).status_code == 200
        sets = http.get(SETS).json()["items"]
        full = [one for one in sets if one["spec"]["replicas"]]
        assert len(sets) == 2 and len(full) == 1 and len(names(http)) == 2
        assert full[0]["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == revision
        assert full[0]["spec"]["template"]["spec"]["containers"][0]["image"] == IMAGE.format(version)


def test_a_paused_deployment_waits(http) -> None:
    """Nothing follows while it is paused."""
    made(http)
    thing = http.get(f"{DEPLOYMENTS}/checkout").json()
    thing["spec"] |= {"paused": True, "replicas": 4}
    http.put(f"{DEPLOYMENTS}/checkout", json=thing)
    assert len(names(http)) == 2


def test_a_stateful_set_replaces_one_pod_after_the_other(double, http) -> None:
    """The names stay; only when all are ready does the next one go; too many go at once."""
    made(http, "StatefulSet", "store", replicas=3)
    double.lively = False
    thing = http.get(f"{STATEFULSETS}/store").json()
    thing["spec"]["template"]["spec"]["containers"][0]["image"] = IMAGE.format("3.10")
    http.put(f"{STATEFULSETS}/store", json=thing)
    moved = True
    while moved:
        moved = double.controllers.tick()
        pods = http.get(PODS).json()["items"]
        away = [pod for pod in pods if "deletionTimestamp" in pod["metadata"] or not pod["status"].get("conditions")]
        assert len(away) + 3 - len(pods) <= 1
    assert {pod["spec"]["containers"][0]["image"] for pod in pods} == {IMAGE.format("3.10")}
    thing = http.get(f"{STATEFULSETS}/store").json()
    thing["spec"]["replicas"] = 1
    http.put(f"{STATEFULSETS}/store", json=thing)
    double.controllers.settle()
    assert names(http) == ["store-0"]


def test_a_broken_image_never_becomes_ready(double, http) -> None:
    """Its pods wait and say why; the old ones stay."""
    made(http)
    double.controllers.broken.add(IMAGE.format("9"))
    thing = http.get(f"{DEPLOYMENTS}/checkout").json()
    thing["spec"]["template"]["spec"]["containers"][0]["image"] = IMAGE.format("9")
    http.put(f"{DEPLOYMENTS}/checkout", json=thing)
    found = http.get(f"{DEPLOYMENTS}/checkout").json()["status"]
    assert (found["replicas"], found["readyReplicas"], found["updatedReplicas"]) == (4, 2, 2)


REVIEW = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
SELF = "/apis/authentication.k8s.io/v1/selfsubjectreviews"


def review(http: httpx2.Client, headers: dict[str, str] | None = None, **asked: str) -> Any:
    """Ask whether something is allowed."""
    body = {
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }  # fmt: skip
    answer = http.post(REVIEW, json=body, headers=headers)
    return answer.json()["status"]["allowed"] if answer.status_code == 201 else status(answer)


def test_the_version_and_who_asks_are_told(http) -> None:
    """To a known token only."""
    assert http.get("/version").json()["gitVersion"].endswith("double")
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    assert http.post(SELF, json=body).json()["status"]["userInfo"]["username"] == "double"
    assert status(http.post(SELF, json=body | {"kind": "X"})) == (400, "BadRequest")
    assert status(http.get("/version", headers={"Authorization": "Bearer x"})) == (401, "Unauthorized")
    assert status(http.get(SELF)) == status(http.post("/version")) == (405, "MethodNotAllowed")


def test_an_access_is_reviewed_as_it_would_be_granted(double, http) -> None:
    """By verb, group, resource, subresource and namespace; a resource in another group is never granted."""
    pods = {"namespace": "default", "group": "", "resource": "pods", "verb": "get"}
    assert review(http, **pods) is True and review(http, **pods | {"namespace": "other"}) is False
    assert review(http, **pods | {"group": "apps"}) is False and review(http, **pods | {"resource": "nodes"}) is False
    double.tokens["reader"] = {("get", "pods"), ("create", "pods/eviction")}
    reader = {"Authorization": "Bearer reader"}
    assert review(http, reader, **pods) is True and review(http, reader, **pods | {"verb": "list"}) is False
    assert review(http, reader, **pods | {"verb": "create", "subresource": "eviction"}) is True
    deployments = {"namespace": "default", "group": "apps", "resource": "deployments", "verb": "get"}
    assert review(http, **deployments) is True and review(http, reader, **deployments) is False
    assert review(http) == review(http, **pods | {"wish": "x"}) == (422, "Invalid")
