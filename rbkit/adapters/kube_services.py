"""Kubernetes' pods and workloads as instances that are restarted, stopped and started.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/
Source: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/
"""

from rbkit.adapters.kube_client import Thing, annotations, labels, untouched, used
from rbkit.adapters.kube_pods import (
    InCluster,
    controller,
    digest,
    healthy,
    matched,
    number,
    owned,
    pod_state,
    progress,
    reading,
    restarts,
    tag,
    workload,
)  # fmt: skip
from rbkit.capability import State
from rbkit.errors import AdapterError, MayHaveActed, NotFound, Refused
from rbkit.facts import Call
from rbkit.kinds import Service, ServiceManager
from rbkit.ports import read

__all__ = ["KubernetesServices"]

_REPLICAS, _RESTART, _TRIES = "rbkit.dev/replicas", "rbkit.dev/restart", 5
_TODO = "Restart, stop or start its workload: deployment/NAME or statefulset/NAME."


class KubernetesServices(InCluster, ServiceManager):
    """Restarts pods and workloads, stops and starts workloads.

    Targets: the name of a pod, `deployment/NAME` or `statefulset/NAME`.

    A pod is restarted by evicting exactly the pod that was read, so that its disruption budget is heeded; its
    controller makes another. A pod of a StatefulSet keeps its name. A pod of a ReplicaSet does not: when it is gone its
    place is `running` once the ReplicaSet has all its pods again, and has no `pid`. Other pods are refused.

    A workload is restarted pod by pod, as by `kubectl rollout restart`, and stopped by scaling it to nothing; how many
    instances it had stands in an annotation until it is started.

    `pid` stands for what a restart replaces: the first 48 bits of the pod's uid or of the digest of the workload's
    template. Tokens and keys are remembered in annotations: of the workload in the same write; for a pod on the pod,
    and on its StatefulSet where the name outlives the pod; the eviction then holds for that version of the pod only.

    Args:
        kubeconfig: The path of a kubeconfig; empty for the pod's own account, KUBECONFIG, or `~/.kube/config`.
        context: The context in it; empty for its current one.
        namespace: The namespace; empty for the context's own.
        label: The label that names the service of a pod.
        container: The container whose image names the version; empty for the first one.
    """

    shows_within_s = 300.0
    uses = {  # noqa: RUF012  (a constant)
        "pods": ("get", "list", "update"), "pods/eviction": ("create",), "replicasets": ("get",),
        "deployments": ("get", "update"), "statefulsets": ("get", "update"),
    }  # fmt: skip

    def __init__(
        self, kubeconfig: str = "", context: str = "", namespace: str = "", label: str = "app", container: str = ""
    ) -> None:
        super().__init__(kubeconfig, context, namespace)
        self._label, self._container = label, container

    @read
    async def instances(self, service: str) -> list[Service]:
        """List the pods of a service."""
        if not service.replace("-", "").replace(".", "").replace("_", "").isalnum() or not service.isascii():
            return []
        pods = await self._cluster.listed("pods", f"{self._label}={service}")
        return [self._pod(pod) for pod in pods]

    async def state(self, target: str) -> State:
        """Read the state of a pod, of the place of a pod that is gone, or of a workload."""
        if "/" in target:
            kind, name = workload(target)
            return _plain(self._workload(target, await self._cluster.read(kind, name)))
        try:
            return _plain(self._pod(await self._cluster.read("pods", target)))
        except NotFound as gone:
            return _plain(await self._place(target, gone))

    @untouched
    async def apply(self, call: Call, key: str, token: int) -> None:
        """Restart a pod or a workload; stop or start a workload."""
        if "/" in call.target:
            kind, name = workload(call.target)
            change = {"restart": lambda thing: _restart(thing, key), "stop": _stop, "start": _start}[call.action]
            await self._cluster.act(kind, name, key, token, change)
        elif call.action == "restart":
            await self._replace(call.target, key, token)
        else:
            await self._cluster.read("pods", call.target)
            raise Refused(f"A pod cannot be asked to {call.action}: its controller decides that.", todo=_TODO)

    @untouched
    async def fence(self, target: str, token: int) -> None:
        """Remember a token on the workload, or on the pod and its StatefulSet."""
        if "/" in target:
            await self._cluster.fence(*workload(target), token)
        else:
            await self._remember(await self._cluster.read("pods", target), token)

    def _pod(self, pod: Thing) -> Service:
        def described() -> Service:
            return Service(
                name=pod["metadata"]["name"], service=labels(pod).get(self._label, ""), state=pod_state(pod),
                pid=number(pod["metadata"]["uid"]), started_at=(pod.get("status") or {}).get("startTime"),
                version=tag(pod, self._container), restarts=restarts(pod),
            )  # fmt: skip

        return reading(described)

    def _workload(self, target: str, thing: Thing) -> Service:
        def described() -> Service:
            template = thing["spec"]["template"]
            return Service(
                name=target, service=labels(template).get(self._label, ""), state=_workload_state(thing),
                pid=number(digest(template)), started_at=None, version=tag(template, self._container), restarts=0,
            )  # fmt: skip

        return reading(described)

    async def _place(self, name: str, gone: NotFound) -> Service:
        """Say how the place of a pod that is gone is filled, as far as its name tells whose it was."""
        owner, _, last = name.rpartition("-")
        for kind in ("statefulsets", "replicasets") if owner else ():
            try:
                thing = await self._cluster.read(kind, owner)
            except NotFound:
                continue
            state = await self._filled(thing, last) if kind == "replicasets" else _awaited(thing, last)
            if state:
                return self._workload(name, thing).model_copy(update={"state": state, "pid": None})
        raise gone

    async def _filled(self, owner: Thing, last: str) -> str:
        """Tell whether a ReplicaSet has all its pods; one that shall have none was replaced by another."""
        wanted = reading(lambda: int(owner["spec"].get("replicas", 1)))
        if not wanted:
            return "stopped"
        pods = await self._cluster.listed("pods", reading(matched, owner))
        ready = reading(lambda: [pod for pod in pods if owned(pod, owner) and healthy(pod)])
        return "running" if len(ready) >= wanted else "starting"

    async def _replace(self, name: str, key: str, token: int) -> None:
        """Evict exactly the pod that is there now, once for each key."""
        first = await self._cluster.read("pods", name)
        keeper, place = reading(_keeper, first)
        if not place:
            raise Refused(f"Nothing that rbkit knows would bring {name} back.", todo=_TODO)
        for _ in range(_TRIES):
            pod, owner = await self._remember(first, token)
            if keeper and used(owner, key, place):
                return
            if pod["metadata"]["uid"] != first["metadata"]["uid"]:
                raise Refused(f"{name} has been replaced by somebody else meanwhile.", todo="Look at it again.")
            if await self._cluster.evict(name, pod["metadata"]["uid"], pod["metadata"]["resourceVersion"]):
                await self._note(keeper, key, place)
                return
        raise Refused(f"{name} changes all the time; it was not evicted.", todo="Try it again.")

    async def _remember(self, pod: Thing, token: int) -> tuple[Thing, Thing]:
        """Remember a token on what outlives the pod, then on the pod: an eviction that was on its way fails."""
        keeper, place = reading(_keeper, pod)
        owner = await self._cluster.fence("statefulsets", keeper, token, place) if keeper else {}
        return await self._cluster.fence("pods", pod["metadata"]["name"], token), owner

    async def _note(self, keeper: str, key: str, place: str) -> None:
        """Remember the key where the name outlives the pod; the pod is evicted already."""
        try:
            if keeper:
                await self._cluster.swap("statefulsets", keeper, lambda owner: _noted(owner, key, place))
        except (AdapterError, NotFound) as error:
            raise MayHaveActed(f"A pod of {keeper} was evicted, but its key is not noted: {error.what}") from error


def _keeper(pod: Thing) -> tuple[str, str]:
    """Return the StatefulSet that keeps a pod's name, and the pod's place there.

    Returns:
        An empty name for a pod of a ReplicaSet; an empty place, too, for a pod that nothing brings back.
    """
    kind, name = controller(pod)
    last = pod["metadata"]["name"].rpartition("-")[2]
    return {"StatefulSet": (name, f"-{last}"), "ReplicaSet": ("", f"-{last}")}.get(kind, ("", ""))


def _noted(owner: Thing, key: str, place: str) -> None:
    used(owner, key, place)


def _awaited(owner: Thing, last: str) -> str:
    """Tell whether a StatefulSet will make the pod of a place again."""
    return reading(lambda: "starting" if last.isdigit() and int(last) < int(owner["spec"].get("replicas", 1)) else "")


def _workload_state(thing: Thing) -> str:
    counts = progress(thing)
    wanted = counts["wanted"]
    if not wanted:
        return "running" if counts["there"] else "stopped"
    if counts["ready"] == counts["newest"] == wanted:
        return "running"
    conditions = (thing.get("status") or {}).get("conditions") or []
    stuck = any((one["type"], one["status"]) == ("Progressing", "False") for one in conditions)
    return "crashed" if stuck else "starting"


def _restart(thing: Thing, key: str) -> None:
    name, spec = thing["metadata"]["name"], thing["spec"]
    if not spec.get("replicas", 1) or spec.get("paused"):
        raise Refused(f"{name} is stopped or paused; it cannot be restarted.", todo="Start or resume it first.")
    annotations(spec["template"])[_RESTART] = digest(key)


def _stop(thing: Thing) -> None:
    count = int(thing["spec"].get("replicas", 1))
    if count:
        annotations(thing)[_REPLICAS] = str(count)
        thing["spec"]["replicas"] = 0


def _start(thing: Thing) -> None:
    if thing["spec"].get("replicas", 1):
        return
    count = int(annotations(thing).pop(_REPLICAS, "0"))
    if not count:
        name = thing["metadata"]["name"]
        raise Refused(f"How many instances {name} had is not known: rbkit has not stopped it.", todo="Scale it.")
    thing["spec"]["replicas"] = count


def _plain(service: Service) -> State:
    return dict(service.model_dump(mode="json"))
