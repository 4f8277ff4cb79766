"""Asks a cluster as whom we are there and which verbs we are granted.

Source: https://kubernetes.io/docs/reference/kubernetes-api/authorization-resources/self-subject-access-review-v1/
Source: https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/self-subject-review-v1/
"""

from collections.abc import Iterable
from typing import Any

from rbkit.adapters.kube_client import GROUPS, Cluster
from rbkit.adapters.told import told
from rbkit.errors import AdapterError, BadAnswer, NotFound, Refused

__all__ = ["READS", "rights"]

READS = frozenset({"get", "list"})
"""The verbs without which an adapter can do nothing at all."""
_ODD = (KeyError, TypeError, ValueError, AttributeError)
_REVIEW = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_SELF = "/apis/authentication.k8s.io/v1/selfsubjectreviews"


async def rights(cluster: Cluster, wanted: Iterable[tuple[str, str]]) -> str:
    """Say on one line which version a cluster has, as whom we are there, and which right is missing.

    Args:
        cluster: The cluster and its namespace.
        wanted: Pairs of a resource and a verb, such as `pods/eviction` and `create`.

    Returns:
        The line.

    Raises:
        Refused: A right to read is missing, or the cluster does not know who asks.
        Unreachable: No answer came.
        BadAnswer: The cluster answers oddly.
    """
    try:
        version = told((await cluster.ask("/version"))["gitVersion"])
        missing = [(resource, verb) for resource, verb in wanted if not await _granted(cluster, resource, verb)]
    except _ODD as error:
        raise BadAnswer(f"{cluster} answered a ping in a form that its API does not document.") from error
    words = ", ".join(f"{verb} {resource}" for resource, verb in missing)
    if any(verb in READS for _, verb in missing):
        raise Refused(f"We may not: {words}, in {cluster.namespace}.", todo="Have these verbs granted there.")
    may = f"reads, but may not: {words}" if missing else "reads and writes"
    return f"Kubernetes {version}, {await _who(cluster)}, namespace {cluster.namespace}; {may}"


async def _granted(cluster: Cluster, resource: str, verb: str) -> bool:
    name, _, sub = resource.partition("/")
    group = GROUPS[name].partition("apis/")[2].partition("/")[0]
    asked = {"namespace": cluster.namespace, "verb": verb, "group": group, "resource": name}
    spec = {"resourceAttributes": asked | ({"subresource": sub} if sub else {})}
    answer = await cluster.ask(_REVIEW, {
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec,
    })  # fmt: skip
    return answer["status"]["allowed"] is True


async def _who(cluster: Cluster) -> str:
    """Name as whom we ask; clusters before 1.28 do not tell."""
    review: Any = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    try:
        return f"as {told((await cluster.ask(_SELF, review))['status']['userInfo']['username'])}"
    except (NotFound, AdapterError, *_ODD):
        return "as somebody whom it does not name"
