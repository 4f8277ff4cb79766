"""A Kubernetes API server: reads, compare-and-set writes, evictions, and what rbkit remembers on an object.

lightkube reads the kubeconfig and makes the client with its credentials and certificates. The calls themselves are
plain JSON: objects go back to the server exactly as they came, apart from what is changed.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/
"""

import asyncio
import copy
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import Any, NamedTuple, TypeVar, cast

import httpx2

from rbkit.costs import bounded, spend
from rbkit.errors import AdapterError, BadAnswer, MayHaveActed, NotFound, Refused, SettingsError, Unreachable

__all__ = ["GROUPS", "Cluster", "Thing", "admit", "annotations", "labels", "untouched", "used"]

_Work = TypeVar("_Work", bound=Callable[..., Awaitable[None]])
Thing = dict[str, Any]
GROUPS = {
    "pods": "api/v1", "services": "api/v1", "deployments": "apis/apps/v1", "replicasets": "apis/apps/v1",
    "statefulsets": "apis/apps/v1", "horizontalpodautoscalers": "apis/autoscaling/v2",
}  # fmt: skip
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_FENCE, _KEYS, _KEPT = "rbkit.dev/fence", "rbkit.dev/keys", 20
_TIMEOUT = httpx2.Timeout(10.0, connect=3.0)
_WHOLE_S, _PAGE, _TRIES, _CONFLICT = 15.0, "500", 5, 409
_NEVER_SENT = (
    httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol, httpx2.InvalidURL,
)  # fmt: skip
_ODD = (KeyError, TypeError, ValueError, AttributeError, IndexError)
_PLAIN = {"Accept": "application/json", "Accept-Encoding": "identity"}
_THEIRS = "Leave the target to them; `rbkit list` shows the runs."


class _Answer(NamedTuple):
    status: int
    headers: httpx2.Headers
    body: bytes

    @property
    def said(self) -> str:
        """The reason that the server gives, shortened."""
        try:
            return str(json.loads(self.body)["message"])[:300]
        except (*_ODD, RecursionError):
            return self.body[:200].decode(errors="replace")

    @property
    def retry_after_s(self) -> float:
        """For how long the server asks to be left alone, seconds."""
        text = self.headers.get("Retry-After", "").strip()
        return min(float(text), 3600.0) if text.isascii() and text.isdigit() else 0.0


class Cluster:
    """A namespace of a cluster.

    Args:
        kubeconfig: The path of a kubeconfig; empty for the pod's own account, KUBECONFIG, or `~/.kube/config`.
        context: The context in it; empty for its current one.
        namespace: The namespace; empty for the context's own.
        whole_s: The longest that one call may take, seconds.
    """

    def __init__(self, kubeconfig: str = "", context: str = "", namespace: str = "", whole_s: float = _WHOLE_S) -> None:
        self._kubeconfig, self._context, self._namespace, self._whole_s = kubeconfig, context, namespace, whole_s
        self._client: httpx2.AsyncClient | None = None

    async def read(self, kind: str, name: str) -> Thing:
        """Read one object.

        Raises:
            NotFound: There is none of that name.
            Refused: Whoever asks may not.
            Unreachable: No answer came.
            BadAnswer: The answer cannot be used.
        """
        answer = await self._read("get", kind, name, {})
        return _thing(answer)

    async def listed(self, kind: str, selector: str = "") -> list[Thing]:
        """List objects by name.

        Args:
            kind: The resource, as `pods`.
            selector: A label selector; empty for all.
        """
        found: list[Thing] = []
        more = {"limit": _PAGE} | ({"labelSelector": selector} if selector else {})
        while True:
            page = _thing(await self._read("list", kind, "", more))
            items, onward = _page(page)
            found += items
            if not onward:
                return sorted(found, key=lambda thing: str(thing["metadata"]["name"]))
            more = more | {"continue": onward}

    async def swap(self, kind: str, name: str, change: Callable[[Thing], None]) -> Thing:
        """Change an object as it was read: when somebody was faster it is read and changed again.

        Args:
            kind: The resource.
            name: Its name.
            change: Changes the object in place; nothing is written when it leaves it as it is.

        Returns:
            The object as the server has it now.

        Raises:
            Refused: The server said no, or others were faster each time; nothing was written.
            Unreachable: It was not reached; nothing was written.
            BadAnswer: The object cannot be read; nothing was written.
            MayHaveActed: No usable answer came back.
        """
        for _ in range(_TRIES):
            before = await self.read(kind, name)
            after = copy.deepcopy(before)
            try:
                change(after)
            except _ODD as error:
                raise BadAnswer(f"{self} described {name!r} in an unknown form; nothing was changed.") from error
            if after == before:
                return before
            answer = await self._write("PUT", "update", kind, name, after)
            if answer.status != _CONFLICT:
                return _written(answer, name)
        raise Refused(f"{name} is changed by others all the time; nothing was written.", todo="Try it again.")

    async def act(self, kind: str, name: str, key: str, token: int, change: Callable[[Thing], None]) -> None:
        """Change an object once for each key, unless a higher token was seen for it: all in one write."""

        def guarded(thing: Thing) -> None:
            admit(thing, token)
            if not used(thing, key):
                change(thing)

        await self.swap(kind, name, guarded)

    async def fence(self, kind: str, name: str, token: int, place: str = "") -> Thing:
        """Remember a token on an object; when no answer comes nothing is in doubt, and it may be repeated."""
        try:
            return await self.swap(kind, name, lambda thing: admit(thing, token, place))
        except MayHaveActed as error:
            raise Unreachable(f"{self} did not confirm the fencing token: {error.what}") from error

    async def evict(self, name: str, uid: str, version: str) -> bool:
        """Evict a pod, as long as it is exactly the one that was read; its disruption budget is heeded.

        Returns:
            False when it has changed since; it was not evicted then.
        """
        sure = {"preconditions": {"uid": uid, "resourceVersion": version}}
        body = {
            "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}, "deleteOptions": sure,
        }  # fmt: skip
        answer = await self._write("POST", "create", "pods", name, body, "/eviction")
        return answer.status != _CONFLICT

    async def ask(self, path: str, body: Any = None) -> Any:
        """Ask what is no object, such as `/version`; with a body by POST, for a review, which changes nothing."""
        method = "GET" if body is None else "POST"
        answer = await self._heard(method, path, body=body)
        if answer.status not in {200, 201}:
            raise self._refusal(answer, method, path, "", BadAnswer)
        try:
            return json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            raise BadAnswer(f"{self} answered with something that is not JSON.") from error

    @property
    def namespace(self) -> str:
        """The namespace; as the kubeconfig says once it was read."""
        return self._namespace

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    def __str__(self) -> str:
        return f"The cluster {self._context}".rstrip()

    async def _read(self, verb: str, kind: str, name: str, params: Mapping[str, str]) -> _Answer:
        answer = await self._heard("GET", self._path(kind, name), params=params)
        if answer.status != 200:
            raise self._refusal(answer, verb, kind, name, BadAnswer)
        return answer

    async def _heard(self, method: str, path: str, **asked: Any) -> _Answer:
        """Send what changes nothing: no answer means that nothing was read."""
        self._opened()
        from lightkube import ConfigError

        try:
            return await self._send(method, path, **asked)
        except (httpx2.HTTPError, httpx2.InvalidURL, ConfigError, TimeoutError, OSError, *_ODD) as error:
            raise Unreachable(f"{self} cannot be read: {_words(error)}") from error

    async def _write(self, method: str, verb: str, kind: str, name: str, body: Thing, sub: str = "") -> _Answer:
        path = self._path(kind, name) + sub
        from lightkube import ConfigError

        try:
            answer = await self._send(method, path, body=body)
        except (ConfigError, *_NEVER_SENT) as error:
            raise Unreachable(f"{self} was not reached: {_words(error)}") from error
        except (httpx2.HTTPError, BadAnswer, TimeoutError, OSError, *_ODD) as error:
            raise MayHaveActed(f"{self} took {verb} {kind}{sub} {name} and gave no answer: {_words(error)}") from error
        if not 200 <= answer.status < 300 and answer.status != _CONFLICT:
            kind_of = Refused if 400 <= answer.status < 500 else MayHaveActed
            raise self._refusal(answer, verb, kind + sub, name, kind_of)
        return answer

    async def _send(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None, body: Any = None
    ) -> _Answer:
        client = self._opened()
        request = client.build_request(method, path, params=params, json=body, headers=_PLAIN)
        async with asyncio.timeout(self._whole_s):
            response = await client.send(request, stream=True)
            try:
                return _Answer(response.status_code, response.headers, await self._body(response))
            finally:
                await response.aclose()

    async def _body(self, response: httpx2.Response) -> bytes:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise BadAnswer(f"{self} answered in an encoding that nobody asked for.")
        parts = []
        with bounded():
            async for part in response.aiter_raw(65_536):
                spend(len(part), str(self))
                parts.append(part)
        return b"".join(parts)

    def _path(self, kind: str, name: str) -> str:
        """Write an object's path; what no object can be called is not asked for."""
        self._opened()
        if name and not _NAME.fullmatch(name):
            raise NotFound(f"There is no object {name!r} among the {kind}: nothing can be called so.")
        return "/".join(filter(None, (GROUPS[kind], "namespaces", self._namespace, kind, name)))

    def _opened(self) -> httpx2.AsyncClient:
        """Make the client once, as the kubeconfig says."""
        if self._client is None:
            try:
                self._client, self._namespace = _client(self._kubeconfig, self._context, self._namespace)
            except ImportError as error:
                todo = "Install rbkit with the extra `kubernetes`."
                raise SettingsError("Kubernetes needs lightkube.", todo=todo) from error
        return self._client

    def _refusal(self, answer: _Answer, verb: str, kind: str, name: str, other: type[AdapterError]) -> Exception:
        """Tell what a status means; a server that is too busy has not begun with anything."""
        what = f"{self} answered {answer.status} to {verb} {kind} {name}".rstrip() + f": {answer.said}"
        if answer.status == 404:
            return NotFound(f"There is no {name!r} among the {kind}: {answer.said}", todo="Check the name.")
        if answer.status == 401:
            return Refused(what, todo="Renew the credentials that the kubeconfig names.")
        if answer.status == 403:
            return Refused(what, todo=f"Have the verb `{verb}` on `{kind}` granted in {self._namespace}.")
        return other(what, retry_after_s=answer.retry_after_s)


def _client(kubeconfig: str, context: str, namespace: str) -> tuple[httpx2.AsyncClient, str]:
    """Make a client from a kubeconfig, and name the namespace.

    Raises:
        Unreachable: The kubeconfig cannot be used.
    """
    from lightkube import ConfigError, KubeConfig
    from lightkube.config.client_adapter import AsyncClient, ConnectionParams
    from msgspec import MsgspecError
    from yaml import YAMLError

    wrong = (ConfigError, MsgspecError, YAMLError, OSError, AssertionError, httpx2.InvalidURL, *_ODD)
    try:
        config = (KubeConfig.from_file(kubeconfig) if kubeconfig else KubeConfig.from_env()).get(context or None)
        if config is None or not _NAME.fullmatch(namespace or config.namespace):
            raise ConfigError("it names no context, or a namespace that cannot be")
        client = AsyncClient(config, ConnectionParams(timeout=_TIMEOUT, trust_env=False))
    except wrong as error:
        raise Unreachable(
            f"The kubeconfig {kubeconfig} cannot be used: {_words(error)}", todo="Mend the kubeconfig."
        ) from error
    return client, namespace or config.namespace


def untouched(work: _Work) -> _Work:
    """Turn an answer that cannot be used into Unreachable: only reads raise it, so nothing was done."""

    @wraps(work)
    async def done(*arguments: Any) -> None:
        try:
            await work(*arguments)
        except BadAnswer as error:
            raise Unreachable(error.what, todo=error.todo, retry_after_s=error.retry_after_s) from error

    return cast(_Work, done)


def labels(thing: Thing) -> dict[str, str]:
    """Return an object's labels, to read and to change."""
    return _mapping(thing["metadata"], "labels")


def annotations(thing: Thing) -> dict[str, str]:
    """Return an object's annotations, to read and to change."""
    return _mapping(thing["metadata"], "annotations")


def admit(thing: Thing, token: int, place: str = "") -> None:
    """Remember a fencing token on an object.

    Args:
        thing: The object.
        token: The token.
        place: Which of several memories of the object.

    Raises:
        Refused: The object knows a higher one.
    """
    notes = annotations(thing)
    highest = int(notes.get(_FENCE + place, "0"))
    if token < highest:
        name = thing["metadata"]["name"] + place
        raise Refused(f"Somebody with a newer lease acts on {name}: its token is {highest}, not {token}.", todo=_THEIRS)
    notes[_FENCE + place] = str(token)


def used(thing: Thing, key: str, place: str = "") -> bool:
    """Remember a key on an object, among the last twenty, and tell whether it was there before."""
    notes, mark = annotations(thing), hashlib.sha256(key.encode()).hexdigest()[:16]
    before = notes.get(_KEYS + place, "").split()
    if mark not in before:
        notes[_KEYS + place] = " ".join([*before, mark][-_KEPT:])
    return mark in before


def _mapping(thing: Thing, name: str) -> dict[str, str]:
    if thing.get(name) is None:
        thing[name] = {}
    found: dict[str, str] = thing[name]
    return found


def _thing(answer: _Answer) -> Thing:
    """Read an object or a page of them.

    Raises:
        BadAnswer: It is neither.
    """
    try:
        thing = json.loads(answer.body)
        if not isinstance(thing["metadata"], dict):
            raise TypeError
    except (*_ODD, RecursionError) as error:
        raise BadAnswer("The cluster answered with something that is no object of Kubernetes.") from error
    return dict(thing)


def _page(page: Thing) -> tuple[list[Thing], str]:
    """Take a page's objects, each with a name, and where it goes on."""
    items = page.get("items")
    good = isinstance(items, list) and all(isinstance(_name(item), str) for item in items)
    if not good:
        raise BadAnswer("The cluster answered with something that is no list of Kubernetes.")
    return list(items or []), str(page["metadata"].get("continue") or "")


def _name(item: Any) -> Any:
    try:
        return item["metadata"]["name"]
    except _ODD:
        return None


def _written(answer: _Answer, name: str) -> Thing:
    try:
        return _thing(answer)
    except BadAnswer as error:
        raise MayHaveActed(f"{name} may have been changed: {error.what}") from error


def _words(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:300]
