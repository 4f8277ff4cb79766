"""Kubernetes' deployments and the versions that their ReplicaSets remember.

Source: https://kubernetes.io/docs/concepts/workloads/controllers/deployment/
"""

import copy
from typing import Any

from rbkit.adapters.kube_client import Thing, annotations, labels, untouched
from rbkit.adapters.kube_pods import InCluster, digest, matched, owned, progress, reading, tag
from rbkit.capability import State
from rbkit.errors import Refused
from rbkit.facts import Call
from rbkit.kinds import Deployments, Version
from rbkit.ports import read
from rbkit.values import nearest

__all__ = ["KubernetesDeployments"]

_REVISION, _CAUSE, _HASH = "deployment.kubernetes.io/revision", "kubernetes.io/change-cause", "pod-template-hash"
_RESTARTED = {"kubectl.kubernetes.io/restartedAt", "rbkit.dev/restart"}


class KubernetesDeployments(InCluster, Deployments):
    """Rolls deployments back and forth among the versions that their ReplicaSets remember; the target is a deployment.

    A version is the tag or digest of the container's image. Where ReplicaSets of one tag differ in more than a restart,
    each is called `TAG@TEMPLATE`. Only what has run before can be deployed, with the whole template that it had. Tokens
    and keys are remembered in annotations of the deployment, in the same write as the template.

    Args:
        kubeconfig: The path of a kubeconfig; empty for the pod's own account, KUBECONFIG, or `~/.kube/config`.
        context: The context in it; empty for its current one.
        namespace: The namespace; empty for the context's own.
        container: The container whose image names the version; empty for the first one.
    """

    uses = {"deployments": ("get", "update"), "replicasets": ("list",)}  # noqa: RUF012  (a constant)

    def __init__(self, kubeconfig: str = "", context: str = "", namespace: str = "", container: str = "") -> None:
        super().__init__(kubeconfig, context, namespace)
        self._container = container

    @read
    async def versions(self, service: str) -> list[Version]:
        """List the versions of a deployment: the one that runs first, then the earlier ones, the newest first."""
        thing = await self._cluster.read("deployments", service)
        named = await self._named(thing)
        newest = {name: _version(name, one) for name, one in reversed(named[1:])}
        now = named[0][0]
        newest.setdefault(now, Version(version=now))
        return [newest.pop(now), *reversed(newest.values())]

    async def state(self, target: str) -> State:
        """Read which version a deployment runs, and how many instances of it are ready and alone."""
        thing = await self._cluster.read("deployments", target)
        named = await self._named(thing)
        counts = reading(progress, thing)
        return {"version": named[0][0], "ready": counts["newest"], "wanted": counts["wanted"]}

    @untouched
    async def apply(self, call: Call, key: str, token: int) -> None:
        """Give a deployment the template of a version."""
        version = call.arguments["version"]
        named = await self._named(await self._cluster.read("deployments", call.target))
        chosen = next((one for name, one in named[1:] if name == version), None)
        if chosen is None and named[0][0] != version:
            raise Refused(
                f"{call.target} has not run {version!r}.{nearest(version, [name for name, _ in named])}",
                todo="Deploy one of the versions that are listed; new ones come from the delivery.",
            )
        await self._cluster.act("deployments", call.target, key, token, lambda thing: _put(thing, chosen))

    @untouched
    async def fence(self, target: str, token: int) -> None:
        """Remember a token on the deployment."""
        await self._cluster.fence("deployments", target, token)

    async def _named(self, thing: Thing) -> list[tuple[str, Thing]]:
        """Name the deployment's version and those of its ReplicaSets, the newest first."""
        selector = reading(matched, thing)
        sets = await self._cluster.listed("replicasets", selector)
        return reading(lambda: self._names([thing, *_history(thing, sets)]))

    def _names(self, things: list[Thing]) -> list[tuple[str, Thing]]:
        forms = [(tag(one["spec"]["template"], self._container), digest(_template(one))) for one in things]
        several = {mark for mark, form in forms if any(mark == other and form != one for other, one in forms)}
        names = [f"{mark}@{form}" if mark in several else mark for mark, form in forms]
        return list(zip(names, things, strict=True))


def _history(thing: Thing, sets: list[Thing]) -> list[Thing]:
    mine = [one for one in sets if owned(one, thing)]
    return sorted(mine, key=_revision, reverse=True)


def _revision(thing: Thing) -> int:
    return int(annotations(thing).get(_REVISION, "0"))


def _template(thing: Thing) -> Any:
    """Take from a template what tells versions apart: not the mark of its ReplicaSet, not when it was restarted."""
    template = copy.deepcopy(thing["spec"]["template"])
    labels(template).pop(_HASH, None)
    for name in _RESTARTED:
        annotations(template).pop(name, None)
    return template


def _version(name: str, thing: Thing) -> Version:
    """Describe a version by its ReplicaSet.

    Raises:
        BadAnswer: The ReplicaSet has not the documented form.
    """
    note = ", ".join(filter(None, (annotations(thing).get(_CAUSE), f"revision {_revision(thing)}")))
    made = thing["metadata"].get("creationTimestamp")
    return reading(lambda: Version(version=name, deployed_at=made, note=note))


def _put(thing: Thing, chosen: Thing | None) -> None:
    """Give a deployment the template of a ReplicaSet, as it was, and what it was deployed for."""
    if thing["spec"].get("paused"):
        raise Refused(f"The deployment {thing['metadata']['name']} is paused.", todo="Resume it first.")
    if chosen is None:
        return
    template = copy.deepcopy(chosen["spec"]["template"])
    labels(template).pop(_HASH, None)
    thing["spec"]["template"] = template
    annotations(thing).pop(_CAUSE, None)
    if cause := annotations(chosen).get(_CAUSE):
        annotations(thing)[_CAUSE] = cause
