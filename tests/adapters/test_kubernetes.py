"""Kubernetes' API server answers in the documented form or not at all; nothing that goes wrong is taken for done."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from lightkube import ConfigError
from pings import pinged
from servers.kubernetes import manifest

from rbkit.adapters import kube_client
from rbkit.adapters.kube_client import Cluster, admit, used
from rbkit.adapters.kube_deployments import KubernetesDeployments
from rbkit.adapters.kube_pods import controller, healthy, pod_state, progress, restarts, tag, workload
from rbkit.adapters.kube_services import KubernetesServices
from rbkit.adapters.kubernetes import KubernetesBalancer, KubernetesScaler
from rbkit.costs import counted
from rbkit.errors import BadAnswer, MayHaveActed, NotFound, Refused, SettingsError, Unreachable
from rbkit.events import Call
from rbkit.testing.double import Answer, Request
from rbkit.testing.kubernetes import Kubernetes

ODD = ["", "x", "[]", "3", "null", "{}", '{"metadata": 3}', "[" * 100_000, '{"metadata": {}', "<html>"]
ODDER = '{"metadata": {"name": "a", "labels": 3, "annotations": 3, "ownerReferences": 3}, "spec": 3}'
THING = {"metadata": {"name": "a", "resourceVersion": "1"}, "spec": {"replicas": 1}}


class Scripted(Kubernetes):
    """A double that gives prepared answers first, each once."""

    def __init__(self) -> None:
        super().__init__()
        self.script: list[tuple[str, Answer | Callable[[], Any]]] = []
        for kind, name, count in (("Deployment", "checkout", 2), ("StatefulSet", "store", 2)):
            self.add(manifest(kind, name, count))
            self.add(manifest("Service", name))
        self.controllers.settle()

    def add(self, thing: dict[str, Any]) -> None:
        """Take an object in."""
        thing["metadata"]["namespace"] = self.namespace
        self.objects.make(thing["kind"].lower() + "s", thing | {"status": {"replicas": 0}})

    def answer(self, request: Request) -> Answer:
        """Answer from the script, else as the double does."""
        asked = f"{request.method} {request.path}"
        for place, (what, reply) in enumerate(self.script):
            if asked.startswith(what.partition(" ")[0]) and what.partition(" ")[2] in asked:
                del self.script[place]
                if isinstance(reply, Answer):
                    return reply
                reply()
                break
        return super().answer(request)


@pytest.fixture
def double() -> Iterator[Scripted]:
    """A double with a deployment and a stateful set of two pods each."""
    with Scripted() as double:
        yield double


@pytest.fixture
def options(double: Scripted, tmp_path: Path) -> dict[str, str]:
    """What an adapter needs to reach the double."""
    return {"kubeconfig": str(double.kubeconfig(tmp_path / "double"))}


def used_with(adapter: Any, work: Callable[[Any], Any]) -> Any:
    """Use an adapter in a loop of its own, and close it."""

    async def closed() -> Any:
        try:
            return await work(adapter)
        finally:
            await adapter.aclose()

    return asyncio.run(closed())


def config(path: Path, url: str, **user: str) -> str:
    """Write a kubeconfig that leads to an address."""
    user = user or {"token": "s3cret"}
    path.write_text(
        f"""{{"clusters": [{{"name": "c", "cluster": {{"server": "{url}"}}}}], "current-context": "c",
        "users": [{{"name": "c", "user": {user!r}}}],
        "contexts": [{{"name": "c", "context": {{"cluster": "c", "user": "c"}}}}]}}""".replace("'", '"')
    )
    return str(path)


def read(server: Any, path: Path, kind: str = "pods", name: str = "a", whole_s: float = 5.0) -> Any:
    """Read an object from a server that answers as it does."""

    async def work(url: str) -> Any:
        cluster = Cluster(config(path, url), whole_s=whole_s)
        try:
            return await (cluster.read(kind, name) if name else cluster.listed(kind))
        finally:
            await cluster.aclose()

    return server.use(work)


def test_an_object_is_read_with_the_token_of_the_kubeconfig(server, tmp_path) -> None:
    """The path, the namespace and the bearer token are what the API documents; nothing compressed is asked for."""
    assert read(server.json(THING), tmp_path / "k") == THING
    head = server.asked[0].lower()
    assert head.startswith(b"get /api/v1/namespaces/default/pods/a http/1.1")
    assert b"authorization: bearer s3cret" in head and b"accept-encoding: identity" in head


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, Refused, "Renew the credentials"), (403, Refused, "verb `get` on `pods` granted in default"),
        (404, NotFound, "no 'a' among the pods: why"), (410, BadAnswer, "410 to get pods a: why"),
        (429, BadAnswer, "429"), (500, BadAnswer, "500"), (503, BadAnswer, "503"), (302, BadAnswer, "302"),
    ],
)  # fmt: skip
def test_a_status_says_what_is_wrong(server, tmp_path, status, kind, words) -> None:
    """Each has its error, with the server's words and what to do; how long to wait is passed on; no token is shown."""
    answer = server.json({"message": "why"}, status, "Retry-After: 7\r\n")
    with pytest.raises(kind, match=words) as caught:
        read(answer, tmp_path / "k")
    assert "s3cret" not in str(caught.value)
    assert getattr(caught.value, "retry_after_s", 0.0) == (7.0 if kind is BadAnswer else 0.0)


def test_a_list_that_is_refused_names_the_verb(server, tmp_path) -> None:
    """Whoever grants rights needs to know which; a body that is no Status is shown as it is."""
    with pytest.raises(Refused, match=r"oops.*verb `list` on `pods`"):
        read(server.text("oops", 403), tmp_path / "k", name="")


@pytest.mark.parametrize("body", ODD)
def test_another_form_is_a_bad_answer(server, tmp_path, body) -> None:
    """Whatever stands where an object should be is refused."""
    with pytest.raises(BadAnswer, match="no object"):
        read(server.text(body), tmp_path / "k")


@pytest.mark.parametrize(
    "items", [None, 3, "x", {}, [None], [3], [{}], [{"metadata": []}], [{"metadata": {"name": 3}}]]
)
def test_a_list_in_another_form_is_a_bad_answer(server, tmp_path, items) -> None:
    """Every object of a list has a name."""
    with pytest.raises(BadAnswer, match="no list"):
        read(server.json({"metadata": {}, "items": items}), tmp_path / "k", name="")


def test_a_compressed_or_endless_answer_is_a_bad_answer(server, tmp_path) -> None:
    """Nobody asked for an encoding; bytes are counted, and more than the environment allows are refused."""
    with pytest.raises(BadAnswer, match="encoding"):
        read(server.json(THING, 200, "Content-Encoding: gzip\r\n"), tmp_path / "k")
    with counted(20), pytest.raises(BadAnswer, match="more than"):
        read(server.json(THING), tmp_path / "k")


def test_no_answer_is_unreachable(server, tmp_path, nobody) -> None:
    """Nobody listens, the connection is reset, the server is silent: nothing is known."""
    with pytest.raises(Unreachable, match="cannot be read"):
        used_with(Cluster(config(tmp_path / "k", nobody)), lambda cluster: cluster.read("pods", "a"))
    server.reset = True
    with pytest.raises(Unreachable):
        read(server, tmp_path / "k")
    server.reset, server.silent = False, True
    with pytest.raises(Unreachable):
        read(server, tmp_path / "k", whole_s=0.2)


def test_pages_are_followed_to_the_end(double, options, monkeypatch) -> None:
    """A long list comes in pages; all of them make one list in the order of the names."""
    monkeypatch.setattr(kube_client, "_PAGE", "1")
    names = [pod["metadata"]["name"] for pod in used_with(Cluster(**options), lambda c: c.listed("pods"))]
    assert len(names) == 4 and names == sorted(names)
    assert len(double.requests) == 4


def swapped(options: dict[str, str], change: Any = None, **more: Any) -> Any:
    """Change the stateful set."""

    def label(thing: Any) -> None:
        thing["metadata"].setdefault("labels", {})["a"] = "b"

    return used_with(Cluster(**options, **more), lambda cluster: cluster.swap("statefulsets", "store", change or label))


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (400, Refused, "400 to update"), (401, Refused, "Renew"), (422, Refused, "why"), (429, Refused, "429"),
        (403, Refused, "verb `update` on `statefulsets`"), (404, NotFound, "store"), (302, MayHaveActed, "302"),
        (500, MayHaveActed, "500"), (503, MayHaveActed, "503"),
    ],
)  # fmt: skip
def test_a_write_is_refused_or_in_doubt(double, options, status, kind, words) -> None:
    """A 4xx certainly did not act; a failure of the server may have."""
    double.script = [("PUT", Answer(status, {"message": "why"}, {"Retry-After": "9"}))]
    with pytest.raises(kind, match=words) as caught:
        swapped(options)
    assert getattr(caught.value, "retry_after_s", 0.0) == (9.0 if status in {400, 422, 429, 302, 500, 503} else 0.0)


@pytest.mark.parametrize("body", ODD[:7])
def test_a_write_with_an_odd_answer_is_in_doubt(double, options, body) -> None:
    """The server said that it wrote, and not what."""
    double.script = [("PUT", Answer(200, body))]
    with pytest.raises(MayHaveActed, match="store may have been changed"):
        swapped(options)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx2.ConnectError("x"), Unreachable), (httpx2.ConnectTimeout("x"), Unreachable),
        (ConfigError("x"), Unreachable), (httpx2.ReadTimeout("x"), MayHaveActed), (TimeoutError(), MayHaveActed),
        (httpx2.RemoteProtocolError("x"), MayHaveActed), (OSError("x"), MayHaveActed), (KeyError("x"), MayHaveActed),
        (BadAnswer("x"), MayHaveActed),
    ],
)  # fmt: skip
def test_a_write_that_left_is_in_doubt(double, options, monkeypatch, error, kind) -> None:
    """What was never sent certainly did not act; what was sent and not answered may have."""
    send = Cluster._send

    async def failing(self: Cluster, method: str, path: str, **more: Any) -> Any:
        if method == "PUT":
            raise error
        return await send(self, method, path, **more)

    monkeypatch.setattr(Cluster, "_send", failing)
    with pytest.raises(kind):
        swapped(options)


def test_who_was_faster_is_not_overwritten(double, options) -> None:
    """On a conflict the object is read and changed anew: both changes are there."""
    double.script = [("PUT", lambda: relabel(double))]
    thing = swapped(options)
    assert thing["metadata"]["labels"] == {"theirs": "x", "a": "b"}
    assert [request.method for request in double.requests] == ["GET", "PUT", "GET", "PUT"]


def relabel(double: Scripted, kind: str = "statefulsets", name: str = "store") -> None:
    """Let somebody else change an object."""
    thing = double._found(kind, name)
    labels = thing["metadata"].setdefault("labels", {})
    labels["theirs"] = "x" + labels.get("theirs", "")
    double.objects.save(kind, thing)


def test_who_is_faster_each_time_is_left_alone(double, options) -> None:
    """After five conflicts nothing was written, and that is said."""
    double.script = [("PUT", lambda: relabel(double)) for _ in range(5)]
    with pytest.raises(Refused, match="all the time"):
        swapped(options)


def test_what_changes_nothing_is_not_written(double, options) -> None:
    """No request leaves, so that nothing is in doubt."""
    swapped(options, lambda thing: None)
    assert [request.method for request in double.requests] == ["GET"]


def test_a_fence_that_is_not_confirmed_is_unreachable(double, options) -> None:
    """Announcing a token is no act: it may be repeated."""
    double.script = [("PUT", Answer(500))]
    with pytest.raises(Unreachable, match="did not confirm"):
        used_with(KubernetesScaler(5, **options), lambda s: s.fence("checkout", 3))


@pytest.mark.parametrize(
    ("adapter", "action", "target", "kind"),
    [
        (KubernetesBalancer, "ready", "store-0", "pods"), (KubernetesBalancer, "drain", "store-0", "pods"),
        (KubernetesServices, "restart", "store-0", "pods"),
        (KubernetesServices, "stop", "deployment/checkout", "deploy"),
        (KubernetesDeployments, "deploy", "checkout", "deploy"),
        (lambda **options: KubernetesScaler(5, **options), "scale", "checkout", "deploy"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("body", ["x", ODDER])
def test_what_cannot_be_read_is_not_changed(double, options, adapter, action, target, kind, body) -> None:
    """An object in an unknown form before a change: nothing was done, and that is certain."""
    arguments = {"deploy": {"version": "3.8"}, "scale": {"wanted": 2}}.get(action, {})
    call = Call(capability="c", action=action, target=target, arguments=arguments)
    double.script = [(f"GET {kind}", Answer(200, body))]
    with pytest.raises(Unreachable):
        used_with(adapter(**options), lambda it: it.apply(call, "key", 1))
    assert {request.method for request in double.requests} == {"GET"}


@pytest.mark.parametrize(
    ("adapter", "target"),
    [
        (KubernetesBalancer, "store-0"), (KubernetesServices, "store-0"), (KubernetesServices, "deployment/checkout"),
        (KubernetesDeployments, "checkout"), (lambda **options: KubernetesScaler(5, **options), "checkout"),
    ],
)  # fmt: skip
def test_a_state_in_another_form_is_a_bad_answer(double, options, adapter, target) -> None:
    """Never half read."""
    double.script = [("GET", Answer(200, ODDER))]
    with pytest.raises(BadAnswer):
        used_with(adapter(**options), lambda it: it.state(target))


def test_rights_that_are_missing_are_named(double, options, tmp_path) -> None:
    """Whoever may only read is told which verb on which resource a change needs."""
    double.tokens["reader"] = {
        ("get", "pods"), ("get", "statefulsets"), ("update", "statefulsets"), ("update", "pods"),
    }  # fmt: skip
    options = {"kubeconfig": str(double.kubeconfig(tmp_path / "reader", "reader"))}
    with pytest.raises(Refused, match="verb `create` on `pods/eviction` granted in default"):
        restarted(options, "store-0")


def restarted(options: dict[str, str], target: str, key: str = "key", token: int = 1) -> None:
    """Restart an instance."""
    call = Call(capability="services", action="restart", target=target)
    used_with(KubernetesServices(**options), lambda s: s.apply(call, key, token))


def test_a_disruption_budget_is_heeded(double, options) -> None:
    """The pod is not evicted, nothing is in doubt, and when to ask again is passed on; asking again then acts."""
    double.protected.add("store-0")
    with pytest.raises(Refused, match="disruption budget") as caught:
        restarted(options, "store-0")
    assert caught.value.retry_after_s == 10.0
    double.protected.clear()
    before = double.objects.all["pods", "store-0"]["metadata"]["uid"]
    restarted(options, "store-0")
    assert double.objects.all["pods", "store-0"]["metadata"]["uid"] != before


def test_a_pod_that_nothing_brings_back_is_not_evicted(double, options) -> None:
    """A bare pod would be gone for good."""
    pod = double._found("pods", "store-0")
    double.objects.make("pods", pod | {"metadata": {"name": "bare", "labels": {}}})
    double.objects.all["pods", "bare"]["metadata"].pop("ownerReferences", None)
    with pytest.raises(Refused, match="bring bare back"):
        restarted(options, "bare")


def test_a_pod_without_a_controller_is_drained(double, options) -> None:
    """Nothing would replace it."""
    double.objects.all["pods", "store-0"]["metadata"].pop("ownerReferences")
    call = Call(capability="balancer", action="drain", target="store-0")
    used_with(KubernetesBalancer(**options), lambda b: b.apply(call, "key", 1))
    assert used_with(KubernetesBalancer(**options), lambda b: b.state("store-0"))["state"] == "drain"


def test_an_eviction_is_for_the_pod_that_was_read(double, options) -> None:
    """A pod that changed meanwhile is looked at again; one that changes all the time is left alone."""
    double.script = [("POST", lambda: relabel(double, "pods", "store-0"))]
    restarted(options, "store-0")
    double.script = [("POST", lambda: relabel(double, "pods", "store-0")) for _ in range(5)]
    with pytest.raises(Refused, match="all the time"):
        restarted(options, "store-0", "other")


def test_a_pod_that_somebody_else_replaced_is_left_alone(double, options) -> None:
    """Its successor is not restarted once more."""

    def replaced() -> None:
        double.objects.drop("pods", "store-0")
        double.controllers.settle()

    double.script = [("POST", replaced)]
    with pytest.raises(Refused, match="replaced by somebody else"):
        restarted(options, "store-0")


def test_an_eviction_whose_key_is_not_noted_is_in_doubt(double, options) -> None:
    """It has acted: the gate looks at the target before anything is repeated."""
    double.script = [("POST", lambda: double.script.append(("GET statefulsets", Answer(500))))]
    with pytest.raises(MayHaveActed, match="evicted"):
        restarted(options, "store-0")


def states(double: Scripted, options: dict[str, str], target: str) -> Iterator[str]:
    """Read an instance's state after each step of the controllers."""
    while True:
        yield used_with(KubernetesServices(**options), lambda s: s.state(target))["state"]
        if not double.controllers.tick():
            return


@pytest.mark.parametrize("name", ["store-1", "checkout"])
def test_a_restart_is_over_when_the_new_pod_is_ready(double, options, name) -> None:
    """While the pod goes, is gone, and comes back it is starting; it runs only at the end."""
    target = name if name in {"store-1"} else double.objects.named("pods")[0]["metadata"]["name"]
    double.lively = False
    restarted(options, target)
    seen = list(states(double, options, target))
    first = seen.index("running")
    assert first >= 2 and set(seen[:first]) == {"starting"} and set(seen[first:]) == {"running"}


def test_a_status_that_is_older_than_the_change_is_not_ready(double, options) -> None:
    """Right after a change the status still speaks of the time before: nothing is ready until it is observed."""
    double.lively = False
    used_with(KubernetesScaler(5, **options), lambda s: s.apply(scale(3), "key", 1))
    state = used_with(KubernetesScaler(5, **options), lambda s: s.state("checkout"))
    assert state == {"wanted": 3, "ready": 0, "least": 1, "most": 5, "managed": ""}
    restarted(options, "deployment/checkout")
    assert next(states(double, options, "deployment/checkout")) == "starting"


def scale(wanted: int, target: str = "checkout") -> Call:
    """Make a call."""
    return Call(capability="scaler", action="scale", target=target, arguments={"wanted": wanted})


def test_what_an_autoscaler_scales_is_refused(double, options) -> None:
    """The state shows its limits and its name; another one's target is scaled all the same."""
    for name, low in (("checkout", {"minReplicas": 2}), ("store", {})):
        ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
        spec = {"scaleTargetRef": ref, "maxReplicas": 7, **low}
        double.objects.make("horizontalpodautoscalers", {"metadata": {"name": f"{name}-hpa"}, "spec": spec})
    state = used_with(KubernetesScaler(5, **options), lambda s: s.state("checkout"))
    assert (state["least"], state["most"], state["managed"]) == (2, 7, "checkout-hpa")
    with pytest.raises(Refused, match="checkout-hpa, which would take the change back"):
        used_with(KubernetesScaler(5, **options), lambda s: s.apply(scale(3), "key", 1))
    used_with(KubernetesScaler(5, **options), lambda s: s.apply(scale(3, "statefulset/store"), "key", 1))
    assert double.objects.all["statefulsets", "store"]["status"]["readyReplicas"] == 3


def test_a_rollout_that_is_stuck_has_crashed(double, options) -> None:
    """A deployment that makes no progress within its deadline says so, and so do its pods."""
    double.controllers.broken.add("registry.k8s.io/pause:9")
    thing = double._found("deployments", "checkout")
    thing["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.k8s.io/pause:9"
    double.objects.save("deployments", thing)
    double.controllers.settle()
    services = KubernetesServices
    assert used_with(services(**options), lambda s: s.state("deployment/checkout"))["state"] == "starting"
    found = used_with(services(**options), lambda s: s.instances("checkout"))
    assert sorted({one.state for one in found}) == ["crashed", "running"]
    double.objects.all["deployments", "checkout"]["status"]["conditions"] = [{"type": "Progressing", "status": "False"}]
    assert used_with(services(**options), lambda s: s.state("deployment/checkout"))["state"] == "crashed"


def test_a_deployment_whose_replica_set_is_not_made_yet_has_its_version_all_the_same(double, options) -> None:
    """The version that was asked for comes first, before the controller has seen it."""
    double.lively = False
    thing = double._found("deployments", "checkout")
    thing["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.k8s.io/pause:4"
    double.objects.save("deployments", thing)
    found = used_with(KubernetesDeployments(**options), lambda d: d.versions("checkout"))
    assert [(one.version, one.deployed_at is None) for one in found] == [("4", True), ("3.9", False)]


def test_a_version_whose_replica_set_is_not_made_yet_is_deployed_already(double, options) -> None:
    """Asking for what was asked for before the controller has seen it changes nothing."""
    double.lively = False
    thing = double._found("deployments", "checkout")
    thing["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.k8s.io/pause:4"
    double.objects.save("deployments", thing)
    call = Call(capability="c", action="deploy", target="checkout", arguments={"version": "4"})
    used_with(KubernetesDeployments(**options), lambda d: d.apply(call, "key", 1))
    assert double.objects.all["deployments", "checkout"]["spec"] == thing["spec"]


def test_a_container_that_is_not_there_names_no_version(double, options) -> None:
    """The option is wrong, and that is said."""
    adapter = KubernetesDeployments(**options, container="sidecar")
    with pytest.raises(Refused, match="no container 'sidecar'"):
        used_with(adapter, lambda d: d.state("checkout"))


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("checkout", "latest"), ("checkout:v2", "v2"), ("host:5000/team/checkout", "latest"),
        ("host:5000/team/checkout:v2", "v2"), ("team/checkout@sha256:ab", "sha256:ab"),
        ("host:5000/checkout:v2@sha256:ab", "sha256:ab"),
    ],
)  # fmt: skip
def test_an_image_names_a_version(image, version) -> None:
    """Its digest, else its tag; the port of a registry is neither."""
    template = {"spec": {"containers": [{"name": "side", "image": "x:9"}, {"name": "main", "image": image}]}}
    assert tag(template, "main") == version
    assert tag(template) == "9"


@pytest.mark.parametrize(
    ("status", "going", "state"),
    [
        ({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}, False, "running"),
        ({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}, True, "starting"),
        ({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}, False, "starting"),
        (None, False, "starting"), ({"phase": "Succeeded"}, False, "stopped"), ({"phase": "Failed"}, False, "crashed"),
        ({"containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}, False, "crashed"),
        ({"containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}, False, "starting"),
    ],
)  # fmt: skip
def test_a_pod_is_what_its_conditions_say(status, going, state) -> None:
    """Only a pod that is ready and stays runs."""
    pod = {"metadata": {"deletionTimestamp": "x"} if going else {}, "status": status}
    assert pod_state(pod) == state
    assert healthy(pod) is (state == "running")


def test_restarts_of_all_containers_are_counted() -> None:
    """They come from the container statuses."""
    assert restarts({"status": {"containerStatuses": [{"restartCount": 2}, {}, {"restartCount": 3}]}}) == 5


def test_only_a_controller_keeps_a_pod_alive() -> None:
    """Another owner is none."""
    refs = [{"kind": "X", "name": "x"}, {"kind": "ReplicaSet", "name": "rs", "controller": True}]
    assert controller({"metadata": {"ownerReferences": refs}}) == ("ReplicaSet", "rs")
    assert controller({"metadata": {}}) == controller({"metadata": {"ownerReferences": refs[:1]}}) == ("", "")


@pytest.mark.parametrize(
    ("replicas", "status", "counts"),
    [
        (3, {"observedGeneration": 2, "replicas": 3, "readyReplicas": 3, "updatedReplicas": 3, "availableReplicas": 3},
         (3, 3, 3)),
        (3, {"observedGeneration": 2, "replicas": 4, "readyReplicas": 4, "updatedReplicas": 3, "availableReplicas": 4},
         (3, 4, 2)),
        (3, {"observedGeneration": 2, "replicas": 3, "readyReplicas": 3, "updatedReplicas": 0, "availableReplicas": 3},
         (3, 3, 0)),
        (3, {"observedGeneration": 1, "replicas": 3, "readyReplicas": 3, "updatedReplicas": 3, "availableReplicas": 3},
         (3, 0, 0)),
        (0, {"observedGeneration": 1, "replicas": 3, "readyReplicas": 3}, (0, 3, 3)),
        (0, {"observedGeneration": 2}, (0, 0, 0)), (None, None, (1, 0, 0)),
    ],
)  # fmt: skip
def test_an_old_status_counts_nothing(replicas, status, counts) -> None:
    """Ready with the newest template are only those that are left when no other is; an old status holds nothing."""
    spec = {} if replicas is None else {"replicas": replicas}
    found = progress({"metadata": {"generation": 2}, "spec": spec, "status": status})
    assert (found["wanted"], found["ready"], found["newest"]) == counts


def test_a_target_is_a_deployment_unless_it_says_otherwise() -> None:
    """Other kinds are not found."""
    assert workload("a") == workload("deployment/a") == ("deployments", "a")
    assert workload("statefulset/a") == ("statefulsets", "a")
    for target in ("daemonset/a", "a/b/c"):
        with pytest.raises(NotFound, match=target):
            workload(target)


def test_only_the_last_twenty_keys_are_remembered() -> None:
    """What is remembered does not grow without end; a null mapping is an empty one."""
    thing: dict[str, Any] = {"metadata": {"name": "a", "annotations": None}}
    keys = [f"run/step {number}" for number in range(21)]
    assert not any(used(thing, key) for key in keys)
    assert (
        all(used(thing, key) for key in keys[1:])
        and len(thing["metadata"]["annotations"]["rbkit.dev/keys"].split()) == 20
    )
    assert not used(thing, keys[0])
    assert not used(thing, keys[5], "-1")


def test_tokens_of_several_places_do_not_mix() -> None:
    """Each pod of a stateful set has a memory of its own there."""
    thing: dict[str, Any] = {"metadata": {"name": "store"}}
    admit(thing, 7, "-0")
    admit(thing, 3, "-1")
    with pytest.raises(Refused, match="store-0: its token is 7, not 6"):
        admit(thing, 6, "-0")


@contextmanager
def kubeconfig_says(path: Path, text: str) -> Iterator[str]:
    """Write a kubeconfig."""
    path.write_text(text)
    yield str(path)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "x: [", "clusters: []", "current-context: no\nclusters: []\ncontexts: []",
        "current-context: c\nclusters: []\ncontexts: [{name: c, context: {cluster: c, user: c}}]",
        "current-context: c\nclusters: [{name: c, cluster: {server: 3}}]\ncontexts: []",
        "current-context: c\nclusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\n"
        "contexts: [{name: c, context: {cluster: c}}]",
        "current-context: c\nclusters: [{name: c, cluster: {server: 'http://a:b'}}]\nusers: [{name: c, user: {}}]\n"
        "contexts: [{name: c, context: {cluster: c, user: c}}]",
        "current-context: c\nclusters: [{name: c, cluster: {certificate-authority: gone.pem}}]\n"
        "users: [{name: c, user: {}}]\ncontexts: [{name: c, context: {cluster: c, user: c}}]",
        "current-context: c\nclusters: [{name: c, cluster: {}}]\nusers: [{name: c, user: {auth-provider: {name: x}}}]\n"
        "contexts: [{name: c, context: {cluster: c, user: c}}]",
        "current-context: c\nclusters: [{name: c, cluster: {}}]\nusers: [{name: c, user: {}}]\n"
        "contexts: [{name: c, context: {cluster: c, user: c, namespace: a/b}}]",
    ],
)  # fmt: skip
def test_a_kubeconfig_that_cannot_be_used_is_said(tmp_path, text) -> None:
    """Whatever is wrong in it, the file is named and nothing was asked."""
    with kubeconfig_says(tmp_path / "k", text) as path, pytest.raises(Unreachable, match=r"(?s)k cannot be used.*Mend"):
        used_with(Cluster(path), lambda cluster: cluster.read("pods", "a"))


def test_a_kubeconfig_is_found_by_its_variable_and_context(double, tmp_path, monkeypatch) -> None:
    """Without a path it is KUBECONFIG; a context or a file that is not there is said."""
    monkeypatch.setenv("KUBECONFIG", str(double.kubeconfig(tmp_path / "double")))
    assert used_with(Cluster(context="double"), lambda cluster: cluster.listed("pods"))
    for cluster in (Cluster(context="other"), Cluster(str(tmp_path / "gone"))):
        with pytest.raises(Unreachable, match="cannot be used"):
            used_with(cluster, lambda cluster: cluster.read("pods", "a"))


@pytest.mark.parametrize("command", ["no-such-program-anywhere", "false", "true"])
def test_credentials_from_a_program_that_fails_are_said(nobody, tmp_path, command) -> None:
    """It is missing, fails, or prints no credentials: nothing was asked."""
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": command}}
    path = config(tmp_path / "k", nobody, **user)
    with pytest.raises(Unreachable, match="cannot be read"):
        used_with(Cluster(path), lambda cluster: cluster.read("pods", "a"))


def test_without_its_extra_the_adapter_says_what_to_install(monkeypatch, tmp_path) -> None:
    """lightkube comes with the extra `kubernetes`."""
    monkeypatch.setitem(sys.modules, "lightkube", None)
    with pytest.raises(SettingsError, match="extra `kubernetes`"):
        used_with(Cluster(str(tmp_path / "k")), lambda cluster: cluster.read("pods", "a"))


ADAPTERS: list[Any] = [
    KubernetesBalancer, KubernetesDeployments, KubernetesServices, lambda **more: KubernetesScaler(most=5, **more),
]  # fmt: skip
REVIEW = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


@pytest.mark.parametrize("make", ADAPTERS)
def test_ping_names_exactly_the_verbs_that_are_missing(double, tmp_path, make) -> None:
    """What the adapter uses and nothing else is asked for; without a right to read nothing works."""
    adapter = make(kubeconfig=str(double.kubeconfig(tmp_path / "narrow", token="narrow")))
    needed = {(verb, kind) for kind, verbs in adapter.uses.items() for verb in verbs}
    double.tokens["narrow"] = set(needed)
    assert "as double, namespace default; reads and writes" in pinged(adapter)
    writes = sorted(one for one in needed if one[0] not in {"get", "list"})
    double.tokens["narrow"] = needed - set(writes)
    said = pinged(make(kubeconfig=str(tmp_path / "narrow"))).partition("reads, but may not: ")[2]
    assert sorted(said.split(", ")) == [f"{verb} {kind}" for verb, kind in writes] or not writes
    double.tokens["narrow"] = set(writes)
    with pytest.raises(Refused, match=r"We may not: .*(get|list) .*in default"):
        pinged(make(kubeconfig=str(tmp_path / "narrow")))


def test_what_an_adapter_uses_is_what_its_ping_asks_for(double, options, tmp_path) -> None:
    """With no more rights than the ping asks for, every action works."""
    narrow = {"kubeconfig": str(double.kubeconfig(tmp_path / "narrow", token="narrow"))}
    for adapter, action, target, more in (
        (KubernetesScaler(most=5, **narrow), "scale", "checkout", {"wanted": 3}),
        (KubernetesServices(**narrow), "restart", "deployment/checkout", {}),
        (KubernetesServices(**narrow), "restart", "statefulset/store", {}),
        (KubernetesServices(**narrow), "restart", "store-0", {}),
        (KubernetesBalancer(**narrow), "drain", "store-1", {}),
    ):
        double.tokens["narrow"] = {(verb, kind) for kind, verbs in adapter.uses.items() for verb in verbs}
        call = Call(capability="c", action=action, target=target, arguments=more)

        async def work(one: Any, call: Call = call) -> None:
            await one.state(call.target)
            await one.fence(call.target, 1)
            await one.apply(call, "key", 1)

        used_with(adapter, work)


def test_ping_of_something_else_is_told(double, options) -> None:
    """A wrong token, an odd version, an odd review, nothing at all; a cluster that does not name us is fine."""
    made = lambda: KubernetesScaler(most=5, **options)  # noqa: E731
    for path, reply in (
        ("GET /version", Answer(200, "x")), ("GET /version", Answer(200, [])), (f"POST {REVIEW}", Answer(201, {})),
        ("GET /version", Answer(500, {"message": "no"})),
    ):  # fmt: skip
        double.script.append((path, reply))
        with pytest.raises(BadAnswer):
            pinged(made())
    double.script.append(("GET /version", Answer(401, {"message": "Unauthorized"})))
    with pytest.raises(Refused, match="401"):
        pinged(made())
    double.script.append(("POST selfsubjectreviews", Answer(404, {"message": "not found"})))
    assert "as somebody whom it does not name" in pinged(made())


def test_ping_of_a_cluster_that_is_gone_is_unreachable(tmp_path) -> None:
    """Nobody listens there any more."""
    with Kubernetes() as double:
        config = str(double.kubeconfig(tmp_path / "gone"))
    with pytest.raises(Unreachable):
        pinged(KubernetesDeployments(config))
