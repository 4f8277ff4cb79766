"""What objects of Kubernetes say: whether a pod is ready, how far a workload is, which version it runs."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

from rbkit.adapters.kube_client import Cluster, Thing
from rbkit.adapters.kube_ping import rights
from rbkit.errors import BadAnswer, NotFound, Refused

__all__ = [
    "InCluster", "controller", "digest", "healthy", "matched", "number", "owned", "pod_state", "progress", "reading",
    "restarts", "tag", "workload",
]  # fmt: skip

T = TypeVar("T")
_WORKLOADS = {"deployment": "deployments", "statefulset": "statefulsets"}
_CRASHED = {"CrashLoopBackOff", "ImagePullBackOff", "ErrImagePull", "CreateContainerConfigError", "InvalidImageName"}


class InCluster:
    """The options that every adapter of Kubernetes has.

    Args:
        kubeconfig: The path of a kubeconfig; empty for the pod's own account, KUBECONFIG, or `~/.kube/config`.
        context: The context in it; empty for its current one.
        namespace: The namespace; empty for the context's own.
    """

    uses: ClassVar[Mapping[str, tuple[str, ...]]]
    """The verbs that the adapter needs, by resource."""

    def __init__(self, kubeconfig: str = "", context: str = "", namespace: str = "") -> None:
        self._cluster = Cluster(kubeconfig, context, namespace)

    async def ping(self) -> str:
        """Ask for the version, as whom we are there, and for every verb that the adapter uses.

        Raises:
            Refused: A right to read is missing, or the cluster does not know who asks.
            Unreachable: No answer came.
            BadAnswer: The cluster answers oddly.
        """
        return await rights(self._cluster, [(name, verb) for name, verbs in self.uses.items() for verb in verbs])

    async def aclose(self) -> None:
        """Close the connections."""
        await self._cluster.aclose()


def reading(work: Callable[..., T], *things: Any) -> T:
    """Take objects apart.

    Args:
        work: Does it.
        things: What it is given.

    Returns:
        What it returns.

    Raises:
        BadAnswer: They have not the documented form.
    """
    try:
        return work(*things)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BadAnswer("The cluster described an object in a form that its API does not document.") from error


def workload(target: str) -> tuple[str, str]:
    """Take a target apart: `statefulset/NAME`, `deployment/NAME`, or the plain name of a deployment.

    Raises:
        NotFound: It is of another kind.
    """
    kind, _, name = target.rpartition("/")
    if (kind or "deployment") not in _WORKLOADS:
        raise NotFound(f"There is no {target!r}: a target is a deployment/NAME or a statefulset/NAME.")
    return _WORKLOADS[kind or "deployment"], name


def healthy(pod: Thing) -> bool:
    """Tell whether a pod is ready and stays."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    ready = any((one["type"], one["status"]) == ("Ready", "True") for one in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


def pod_state(pod: Thing) -> str:
    """Say whether a pod is running, starting, stopped or crashed; one that is being replaced is starting."""
    status = pod.get("status") or {}
    if healthy(pod):
        return "running"
    if "deletionTimestamp" in pod["metadata"]:
        return "starting"
    if status.get("phase") == "Succeeded":
        return "stopped"
    waits = {(one.get("state") or {}).get("waiting", {}).get("reason") for one in _containers(pod)}
    return "crashed" if status.get("phase") == "Failed" or waits & _CRASHED else "starting"


def restarts(pod: Thing) -> int:
    """Count how often the containers of a pod were started again."""
    return sum(int(one.get("restartCount", 0)) for one in _containers(pod))


def _containers(pod: Thing) -> list[Thing]:
    found: list[Thing] = (pod.get("status") or {}).get("containerStatuses") or []
    return found


def controller(pod: Thing) -> tuple[str, str]:
    """Return the kind and the name of what keeps a pod alive; empty when nothing does."""
    owners = pod["metadata"].get("ownerReferences") or []
    return next(((one["kind"], one["name"]) for one in owners if one.get("controller")), ("", ""))


def owned(thing: Thing, owner: Thing) -> bool:
    """Tell whether an object belongs to another."""
    owners = thing["metadata"].get("ownerReferences") or []
    return any(one["uid"] == owner["metadata"]["uid"] for one in owners)


def matched(owner: Thing) -> str:
    """Write the label selector that a workload's pods and replica sets match."""
    return ",".join(f"{key}={value}" for key, value in owner["spec"]["selector"]["matchLabels"].items())


def progress(thing: Thing) -> dict[str, int]:
    """Count a workload's instances: wanted, ready, and ready with the newest template.

    A status that is older than the specification says nothing: nothing is ready then, and not yet gone either.
    """
    status, wanted = thing.get("status") or {}, int(thing["spec"].get("replicas", 1))
    there = int(status.get("replicas", 0))
    if status.get("observedGeneration", 0) < thing["metadata"]["generation"]:
        stale = 0 if wanted else there
        return {"wanted": wanted, "ready": stale, "newest": stale, "there": there}
    updated, available = int(status.get("updatedReplicas", 0)), int(status.get("availableReplicas", 0))
    newest = max(0, min(updated, available) - (there - updated))
    return {"wanted": wanted, "ready": int(status.get("readyReplicas", 0)), "newest": newest, "there": there}


def tag(template: Thing, container: str = "") -> str:
    """Return the tag or digest of a container's image: what a version is called.

    Raises:
        Refused: The template has no such container.
    """
    found = [one["image"] for one in template["spec"]["containers"] if container in {"", one["name"]}]
    if not found:
        raise Refused(f"There is no container {container!r}.", todo="Correct `container` in the environment file.")
    name, _, mark = str(found[0]).rpartition("@")
    last = (name or mark).rpartition("/")[2]
    return mark if name else (last.partition(":")[2] or "latest")


def digest(data: Any) -> str:
    """Return a short digest of plain data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]


def number(text: str) -> int:
    """Turn the first 48 bits of a hexadecimal text into a number: what stands for a process id."""
    return int(text.replace("-", "")[:12], 16)
