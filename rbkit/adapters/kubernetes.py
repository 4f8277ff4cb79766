"""Kubernetes as balancer and as scaler.

Source: https://kubernetes.io/docs/concepts/services-networking/service/
Source: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/
"""

from typing import Any

from rbkit.adapters.kube_client import Thing, labels, untouched
from rbkit.adapters.kube_pods import InCluster, controller, healthy, progress, reading, workload
from rbkit.capability import State
from rbkit.errors import NotFound, Refused
from rbkit.facts import Call
from rbkit.kinds import LoadBalancer, Member, Scaler
from rbkit.ports import read

__all__ = ["KubernetesBalancer", "KubernetesScaler"]

_DRAINED = "drained"
_OWNERS = {"ReplicaSet": "replicasets", "StatefulSet": "statefulsets"}


class KubernetesBalancer(InCluster, LoadBalancer):
    """Takes pods out of Services by a label that the Service selects on; the target is a pod.

    The pods' template and the Service's selector need the label, for example `rbkit.dev/traffic: "on"`; the selector of
    the ReplicaSet must not have it, or the pod would be replaced. The pod runs on without traffic. How many requests
    are under way nobody knows: `active` is 0, so wait for the signal that shows them. Tokens and keys are remembered
    in annotations of the pod, in the same write as the label.

    Args:
        kubeconfig: The path of a kubeconfig; empty for the pod's own account, KUBECONFIG, or `~/.kube/config`.
        context: The context in it; empty for its current one.
        namespace: The namespace; empty for the context's own.
        label: The label.
        value: Its value while the pod gets traffic.
    """

    uses = {  # noqa: RUF012  (a constant)
        "pods": ("get", "list", "update"), "services": ("get", "list"), "replicasets": ("get",),
        "statefulsets": ("get",),
    }  # fmt: skip

    def __init__(
        self, kubeconfig: str = "", context: str = "", namespace: str = "", label: str = "rbkit.dev/traffic",
        value: str = "on",
    ) -> None:  # fmt: skip
        super().__init__(kubeconfig, context, namespace)
        self._label, self._value = label, value

    @read
    async def members(self, service: str) -> list[Member]:
        """List the pods of a Service, with those that are drained.

        Raises:
            Refused: The Service does not select on the label, so that draining would change nothing.
        """
        try:
            found = await self._cluster.read("services", service)
        except NotFound:
            return []
        if not reading(self._guards, found):
            raise Refused(
                f"The Service {service} does not select on {self._label}={self._value} and one more label.",
                todo="Add the label to the template of its pods first, then to the Service's selector.",
            )
        return await self._members(found)

    async def state(self, target: str) -> State:
        """Read a pod's state."""
        pod = await self._cluster.read("pods", target)
        return dict(self._member(pod, await self._service(pod)).model_dump(mode="json"))

    @untouched
    async def apply(self, call: Call, key: str, token: int) -> None:
        """Set a pod's label, unless the last ready member of its Service would go."""
        value = self._value
        if call.action == "drain":
            await self._refuse_drain(call.target)
            value = _DRAINED
        await self._cluster.act(
            "pods", call.target, key, token, lambda pod: labels(pod).update({self._label: value})
        )  # fmt: skip

    @untouched
    async def fence(self, target: str, token: int) -> None:
        """Remember a token on the pod."""
        await self._cluster.fence("pods", target, token)

    def _guards(self, service: Thing) -> bool:
        selector = service["spec"].get("selector") or {}
        return bool(selector.get(self._label) == self._value and len(selector) > 1)

    def _selector(self, service: Thing) -> dict[str, str]:
        return {key: value for key, value in service["spec"]["selector"].items() if key != self._label}

    async def _members(self, service: Thing) -> list[Member]:
        selector = reading(lambda: ",".join(f"{key}={value}" for key, value in self._selector(service).items()))
        pods = await self._cluster.listed("pods", selector)
        return [self._member(pod, service) for pod in pods if reading(_alive, pod)]

    async def _service(self, pod: Thing) -> Thing:
        """Find the Service that a pod belongs to, drained or not."""
        services = await self._cluster.listed("services")
        for service in services:
            if reading(self._belongs, pod, service):
                return service
        name = pod["metadata"].get("name")
        raise NotFound(f"No Service that selects on {self._label}={self._value} has a member {name!r}.")

    def _belongs(self, pod: Thing, service: Thing) -> bool:
        return self._guards(service) and self._selector(service).items() <= labels(pod).items()

    def _member(self, pod: Thing, service: Thing) -> Member:
        def described() -> Member:
            state = "ready" if labels(pod).get(self._label) == self._value else "drain"
            names = {"name": pod["metadata"]["name"], "service": service["metadata"]["name"]}
            return Member(**names, state=state, healthy=healthy(pod), active=0, requests=0)

        return reading(described)

    async def _refuse_drain(self, target: str) -> None:
        """Refuse what would leave no member, and what would make the pod's controller replace it."""
        pod = await self._cluster.read("pods", target)
        members = await self._members(await self._service(pod))
        if not any(other.state == "ready" and other.healthy for other in members if other.name != target):
            raise Refused(f"Draining {target} would leave no member.")
        kind, name = reading(controller, pod)
        if kind not in _OWNERS:
            return
        owner = await self._cluster.read(_OWNERS[kind], name)
        if self._label in reading(lambda: owner["spec"]["selector"].get("matchLabels") or {}):
            raise Refused(f"The {kind} {name} selects on {self._label} too: it would replace {target}, not drain it.")


class KubernetesScaler(InCluster, Scaler):
    """Scales deployments and stateful sets; the target is `statefulset/NAME`, `deployment/NAME` or a deployment's name.

    The limits are the options', or those of the HorizontalPodAutoscaler that scales the target: then `managed` in the
    state names it, and scaling is refused, as it would be taken back at once. Tokens and keys are remembered in
    annotations of the target, in the same write as the number of replicas; the scale subresource cannot carry them.

    Args:
        most: The most instances that a target may have.
        least: The fewest instances that a target may have.
        kubeconfig: The path of a kubeconfig; empty for the pod's own account, KUBECONFIG, or `~/.kube/config`.
        context: The context in it; empty for its current one.
        namespace: The namespace; empty for the context's own.
    """

    uses = {  # noqa: RUF012  (a constant)
        "deployments": ("get", "update"), "statefulsets": ("get", "update"), "horizontalpodautoscalers": ("list",),
    }  # fmt: skip

    def __init__(
        self, most: int, least: int = 1, kubeconfig: str = "", context: str = "", namespace: str = ""
    ) -> None:  # fmt: skip
        super().__init__(kubeconfig, context, namespace)
        self._limits = {"least": least, "most": most}

    async def state(self, target: str) -> State:
        """Read how many instances a workload wants and has, its limits, and what scales it by itself."""
        kind, name = workload(target)
        found = await self._cluster.read(kind, name)
        counts = reading(progress, found)
        scaler = await self._autoscaler(kind, name)
        limits = reading(_limits, scaler) if scaler else self._limits
        managed = scaler["metadata"]["name"] if scaler else ""
        return {"wanted": counts["wanted"], "ready": counts["ready"], **limits, "managed": managed}

    @untouched
    async def apply(self, call: Call, key: str, token: int) -> None:
        """Set the number of replicas."""
        kind, name = workload(call.target)
        if scaler := await self._autoscaler(kind, name):
            by = scaler["metadata"]["name"]
            raise Refused(
                f"{call.target} is scaled by the HorizontalPodAutoscaler {by}, which would take the change back.",
                todo=f"Change minReplicas or maxReplicas of {by} instead.",
            )
        wanted = int(call.arguments["wanted"])
        await self._cluster.act(kind, name, key, token, lambda thing: thing["spec"].update(replicas=wanted))

    @untouched
    async def fence(self, target: str, token: int) -> None:
        """Remember a token on the workload."""
        await self._cluster.fence(*workload(target), token)

    async def _autoscaler(self, kind: str, name: str) -> Thing | None:
        """Find the HorizontalPodAutoscaler that scales a workload."""
        scalers = await self._cluster.listed("horizontalpodautoscalers")
        return next((one for one in scalers if reading(_scales, one, kind, name)), None)


def _alive(pod: Thing) -> bool:
    return (pod.get("status") or {}).get("phase") not in {"Succeeded", "Failed"}


def _scales(scaler: Thing, kind: str, name: str) -> bool:
    ref = scaler["spec"]["scaleTargetRef"]
    return bool((ref["kind"].lower() + "s", ref["name"]) == (kind, name))


def _limits(scaler: Thing) -> dict[str, Any]:
    spec = scaler["spec"]
    return {"least": int(spec.get("minReplicas", 1)), "most": int(spec["maxReplicas"])}
