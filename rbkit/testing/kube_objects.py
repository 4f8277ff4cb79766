"""Objects of Kubernetes in memory, and tiny controllers that make what workloads ask for, step by step.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions
Source: https://kubernetes.io/docs/concepts/architecture/controller/
"""

import copy
import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_URL, uuid5

__all__ = ["Controllers", "Objects", "Thing"]

Thing = dict[str, Any]
_REVISION, _HASH, _STS_HASH = "deployment.kubernetes.io/revision", "pod-template-hash", "controller-revision-hash"
_KINDS = {"deployments": "Deployment", "replicasets": "ReplicaSet", "statefulsets": "StatefulSet"}
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


class Objects:
    """Objects by kind and name; every write gives a new resourceVersion, a changed spec a new generation."""

    def __init__(self) -> None:
        self.all: dict[tuple[str, str], Thing] = {}
        self.writes = 0

    def named(self, kind: str) -> list[Thing]:
        """List the objects of a kind by name."""
        return [thing for (its, _), thing in sorted(self.all.items()) if its == kind]

    def owned(self, kind: str, owner: Thing) -> list[Thing]:
        """List the objects of a kind that belong to another object."""
        uid = owner["metadata"]["uid"]
        refs = [(thing, thing["metadata"].get("ownerReferences", [])) for thing in self.named(kind)]
        return [thing for thing, owners in refs if any(ref["uid"] == uid for ref in owners)]

    def make(self, kind: str, thing: Thing, owner: Thing | None = None) -> Thing:
        """Take a new object in."""
        self.writes += 1
        made, name = copy.deepcopy(thing), thing["metadata"]["name"]
        made["metadata"] |= {
            "uid": str(uuid5(NAMESPACE_URL, f"{kind}/{name}/{self.writes}")), "resourceVersion": str(self.writes),
            "generation": 1, "creationTimestamp": self.now(),
        }  # fmt: skip
        if owner:
            ref = {"kind": owner["kind"], "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]}
            made["metadata"]["ownerReferences"] = [ref | {"controller": True}]
        self.all[kind, name] = made
        return made

    def save(self, kind: str, thing: Thing) -> Thing:
        """Put a changed object in the place of the old one; nothing happens when it is the same."""
        name = thing["metadata"]["name"]
        old = self.all[kind, name]
        if thing == old:
            return old
        self.writes += 1
        saved = copy.deepcopy(thing)
        saved["metadata"]["resourceVersion"] = str(self.writes)
        saved["metadata"]["generation"] = old["metadata"]["generation"] + (thing.get("spec") != old.get("spec"))
        self.all[kind, name] = saved
        return saved

    def drop(self, kind: str, name: str) -> None:
        """Remove an object and what belongs to it."""
        gone = self.all.pop((kind, name))
        self.writes += 1
        for its in ("replicasets", "pods"):
            for thing in self.owned(its, gone):
                self.drop(its, thing["metadata"]["name"])

    def now(self) -> str:
        """The time: a second for each write."""
        return f"{_BEGAN + timedelta(seconds=self.writes):%Y-%m-%dT%H:%M:%SZ}"


class Controllers:
    """What makes replica sets and pods follow deployments and stateful sets: one step at a time, or until all is done.

    Args:
        objects: The objects.
    """

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.broken: set[str] = set()
        """Images that cannot be pulled: their pods never become ready."""

    def settle(self) -> None:
        """Step until nothing moves any more."""
        while self.tick():
            pass

    def tick(self) -> bool:
        """Let every controller look once; tell whether anything moved."""
        before = self.objects.writes
        for pod in self.objects.named("pods"):
            self._kubelet(copy.deepcopy(pod))
        for thing in self.objects.named("deployments"):
            self._deployment(copy.deepcopy(thing))
        for thing in self.objects.named("replicasets"):
            self._replicas(copy.deepcopy(thing))
        for thing in self.objects.named("statefulsets"):
            self._stateful(copy.deepcopy(thing))
        return self.objects.writes > before

    def _kubelet(self, pod: Thing) -> None:
        """Start a pod that was made; let one go that shall go."""
        name, image = pod["metadata"]["name"], pod["spec"]["containers"][0]["image"]
        if "deletionTimestamp" in pod["metadata"]:
            self.objects.drop("pods", name)
        elif image in self.broken:
            waiting = {"restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff"}}}
            pod["status"] |= {"phase": "Pending", "containerStatuses": [waiting]}
            self.objects.save("pods", pod)
        elif pod["status"]["phase"] == "Pending":
            conditions = [{"type": "Ready", "status": "True"}]
            running = {"restartCount": 0, "state": {"running": {}}}
            pod["status"] = {
                "phase": "Running", "conditions": conditions, "startTime": self.objects.now(),
                "containerStatuses": [running],
            }  # fmt: skip
            self.objects.save("pods", pod)

    def _deployment(self, thing: Thing) -> None:
        """Keep a replica set for the present template; empty the others once it has all its pods."""
        if not thing["spec"].get("paused"):
            newest, wanted = self._newest(thing), thing["spec"]["replicas"]
            self._resize(newest, wanted)
            if newest["status"].get("readyReplicas", 0) >= wanted:
                for old in self.objects.owned("replicasets", thing):
                    if old["metadata"]["uid"] != newest["metadata"]["uid"]:
                        self._resize(old, 0)
        sets = self.objects.owned("replicasets", thing)
        updated = [one for one in sets if _plain(one["spec"]["template"]) == _plain(thing["spec"]["template"])]
        pods = [pod for one in sets for pod in self._pods(one)]
        thing["status"] = _status(thing, pods, [pod for one in updated for pod in self._pods(one)])
        self.objects.save("deployments", thing)

    def _newest(self, thing: Thing) -> Thing:
        """Find or make the replica set of a deployment's template, and give it the newest revision."""
        sets = self.objects.owned("replicasets", thing)
        template = _plain(thing["spec"]["template"])
        found = next((one for one in sets if _plain(one["spec"]["template"]) == template), None)
        found = copy.deepcopy(found or self.objects.make("replicasets", _replica_set(thing), thing))
        last = max(map(_revision, sets), default=0)
        notes = found["metadata"].setdefault("annotations", {})
        if not _revision(found) or _revision(found) < last:
            notes[_REVISION] = str(last + 1)
        notes.update({k: v for k, v in thing["metadata"].get("annotations", {}).items() if k != _REVISION})
        thing["metadata"].setdefault("annotations", {})[_REVISION] = notes[_REVISION]
        return self.objects.save("replicasets", found)

    def _resize(self, thing: Thing, count: int) -> None:
        changed = copy.deepcopy(thing)
        changed["spec"]["replicas"] = count
        self.objects.save("replicasets", changed)

    def _replicas(self, thing: Thing) -> None:
        """Make the pods that a replica set lacks; let those go that are too many."""
        pods, wanted = self._pods(thing), thing["spec"]["replicas"]
        for _ in range(wanted - len(pods)):
            name = f"{thing['metadata']['name']}-{_suffix(self.objects.writes)}"
            self.objects.make("pods", _pod(name, thing["spec"]["template"]), thing)
        for pod in pods[wanted:]:
            self._let_go(pod)
        thing["status"] = _status(thing, self._pods(thing), [])
        self.objects.save("replicasets", thing)

    def _stateful(self, thing: Thing) -> None:
        """Make the pods of a stateful set, each under its own name; replace one of an old template at a time."""
        name, wanted, mark = thing["metadata"]["name"], thing["spec"]["replicas"], _digest(thing["spec"]["template"])
        for place in range(wanted):
            if ("pods", f"{name}-{place}") not in self.objects.all:
                template = _marked(thing["spec"]["template"], _STS_HASH, mark)
                self.objects.make("pods", _pod(f"{name}-{place}", template), thing)
        pods = self._pods(thing)
        old = [pod for pod in pods if pod["metadata"]["labels"][_STS_HASH] != mark]
        over = [pod for pod in pods if int(pod["metadata"]["name"].rpartition("-")[2]) >= wanted]
        for pod in over or (old[-1:] if _ready(pods) == len(pods) == wanted else []):
            self._let_go(pod)
        pods = self._pods(thing)
        thing["status"] = _status(thing, pods, [p for p in pods if p["metadata"]["labels"][_STS_HASH] == mark])
        self.objects.save("statefulsets", thing)

    def _pods(self, owner: Thing) -> list[Thing]:
        return [pod for pod in self.objects.owned("pods", owner) if "deletionTimestamp" not in pod["metadata"]]

    def _let_go(self, pod: Thing) -> None:
        going = copy.deepcopy(pod)
        going["metadata"]["deletionTimestamp"] = self.objects.now()
        self.objects.save("pods", going)


def _status(thing: Thing, pods: list[Thing], updated: list[Thing]) -> Thing:
    ready = _ready(pods)
    return {
        "observedGeneration": thing["metadata"]["generation"], "replicas": len(pods), "readyReplicas": ready,
        "availableReplicas": ready, "updatedReplicas": len(updated),
    }  # fmt: skip


def _ready(pods: list[Thing]) -> int:
    conditions = [pod["status"].get("conditions", []) for pod in pods]
    return sum({"type": "Ready", "status": "True"} in found for found in conditions)


def _replica_set(thing: Thing) -> Thing:
    mark = _digest(thing["spec"]["template"])
    name = f"{thing['metadata']['name']}-{mark}"
    template = _marked(thing["spec"]["template"], _HASH, mark)
    selector = {"matchLabels": thing["spec"]["selector"]["matchLabels"] | {_HASH: mark}}
    return {
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "status": {},
        "metadata": {
            "name": name, "namespace": thing["metadata"]["namespace"], "labels": template["metadata"]["labels"],
        },
        "spec": {"replicas": 0, "selector": selector, "template": template},
    }  # fmt: skip


def _pod(name: str, template: Thing) -> Thing:
    data = copy.deepcopy(template)
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": data.get("metadata", {}) | {"name": name},
        "spec": data["spec"], "status": {"phase": "Pending"},
    }  # fmt: skip


def _marked(template: Thing, label: str, mark: str) -> Thing:
    marked = copy.deepcopy(template)
    marked["metadata"]["labels"][label] = mark
    return marked


def _plain(template: Thing) -> Thing:
    plain = copy.deepcopy(template)
    plain["metadata"]["labels"].pop(_HASH, None)
    return plain


def _revision(thing: Thing) -> int:
    return int(thing["metadata"].get("annotations", {}).get(_REVISION, "0"))


def _digest(template: Thing) -> str:
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:9]


def _suffix(count: int) -> str:
    """Write a number in the five letters that names of pods end with."""
    text = ""
    for _ in range(5):
        count, place = divmod(count, len(_LETTERS))
        text += _LETTERS[place]
    return text
