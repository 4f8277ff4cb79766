"""Kubernetes for tests: the double, and a real cluster where RBKIT_KUBECONFIG names one."""

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lightkube import ApiError, Client, KubeConfig
from lightkube.resources.apps_v1 import Deployment, StatefulSet
from lightkube.resources.autoscaling_v2 import HorizontalPodAutoscaler
from lightkube.resources.core_v1 import Pod, Service

from rbkit.testing.kubernetes import Kubernetes

__all__ = ["IMAGE", "STAGES", "Stage", "manifest", "stage", "staged", "stages", "using"]

IMAGE = "registry.k8s.io/pause:{}"
STAGES = ["kubernetes", *(["cluster"] if os.environ.get("RBKIT_KUBECONFIG") else [])]
"""The double; and a real cluster, in a namespace for these tests, where RBKIT_KUBECONFIG names one."""
_KINDS = {
    "Deployment": (Deployment, "apps/v1"), "StatefulSet": (StatefulSet, "apps/v1"), "Service": (Service, "v1"),
    "HorizontalPodAutoscaler": (HorizontalPodAutoscaler, "autoscaling/v2"),
}  # fmt: skip


def manifest(kind: str, name: str, replicas: int = 2, version: str = "3.9") -> dict[str, Any]:
    """Write a Deployment, a StatefulSet or a Service called so, whose pods carry `app` and `rbkit.dev/traffic`."""
    labels = {"app": name, "rbkit.dev/traffic": "on"}
    pod = {"containers": [{"name": "main", "image": IMAGE.format(version)}], "terminationGracePeriodSeconds": 1}
    template = {"metadata": {"labels": labels}, "spec": pod}
    spec: dict[str, Any] = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
    if kind == "Service":
        spec = {"selector": labels, "ports": [{"port": 80}]}
    if kind == "StatefulSet":
        spec["serviceName"] = name
    return {"apiVersion": _KINDS[kind][1], "kind": kind, "metadata": {"name": name}, "spec": spec}


@dataclass
class Stage:
    """A namespace with the deployment `checkout` (2 pods) and the stateful set `store` (3 pods), each with a Service.

    Args:
        client: What sets it up.
        options: What the adapters need to reach it.
        double: The double, where it is one.
    """

    client: Client
    options: dict[str, str]
    double: Kubernetes | None

    def reset(self) -> None:
        """Make everything anew."""
        for kind, name in (
            ("Deployment", "checkout"),
            ("StatefulSet", "store"),
            ("HorizontalPodAutoscaler", "checkout"),
        ):
            self.remove(kind, name)
        for name in ("checkout", "store"):
            self.remove("Service", name)
            self.wait(lambda name=name: not [*self.client.list(Pod, labels={"app": name})])
        for kind, name, count in (("Deployment", "checkout", 2), ("StatefulSet", "store", 3)):
            self.create(manifest(kind, name, count))
            self.create(manifest("Service", name))
            self.wait(lambda kind=kind, name=name, count=count: self.ready(kind, name) == count)

    def create(self, data: dict[str, Any]) -> None:
        """Create an object."""
        self.client.create(_KINDS[data["kind"]][0].from_dict(data))

    def remove(self, kind: str, name: str) -> None:
        """Remove an object, if it is there."""
        with suppress(ApiError):
            self.client.delete(_KINDS[kind][0], name)

    def ready(self, kind: str, name: str) -> int:
        """Count the ready pods of a workload."""
        return getattr(self.client.get(_KINDS[kind][0], name).status, "readyReplicas", None) or 0

    def release(self, version: str) -> None:
        """Let the deployment run another version."""
        thing = self.client.get(Deployment, "checkout")
        thing.spec.template.spec.containers[0].image = IMAGE.format(version)
        self.client.replace(thing)

    @staticmethod
    def wait(condition: Callable[[], object], within_s: float = 120) -> None:
        """Wait until a condition holds."""
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, "the cluster did not come so far in time"
            time.sleep(0.1)


@contextmanager
def using(adapter: Any) -> Iterator[Callable[[Callable[[Any], Any]], Any]]:
    """Give what runs coroutines with an adapter, all in one loop; close it at the end."""
    with asyncio.Runner() as runner:
        try:
            yield lambda work: runner.run(work(adapter))
        finally:
            runner.run(adapter.aclose())


@contextmanager
def stages() -> Iterator[Callable[[str], Stage]]:
    """Give stages by name: `kubernetes` is the double, `cluster` a namespace that RBKIT_KUBECONFIG leads to."""
    with ExitStack() as stack:
        made: dict[str, Stage] = {}

        def stage(name: str) -> Stage:
            if name not in made:
                made[name] = _stage(name, stack)
            return made[name]

        yield stage


@pytest.fixture(scope="module")
def staged() -> Iterator[Callable[[str], Stage]]:
    """The double, and a cluster where one is named."""
    with stages() as stage:
        yield stage


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest, staged: Callable[[str], Stage]) -> Stage:
    """A namespace with a deployment and a stateful set whose pods are all ready."""
    found = staged(request.param)
    found.reset()
    return found


def _stage(name: str, stack: ExitStack) -> Stage:
    double = None
    path, namespace = os.environ.get("RBKIT_KUBECONFIG", ""), os.environ.get("RBKIT_KUBE_NAMESPACE", "rbkit-test")
    if name == "kubernetes":
        double, namespace = stack.enter_context(Kubernetes()), "default"
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = str(double.kubeconfig(folder / "kubeconfig"))
    client = Client(KubeConfig.from_file(path).get(), namespace=namespace, trust_env=False)
    stack.callback(client.close)
    return Stage(client, {"kubeconfig": path, "namespace": namespace}, double)
