"""Plain HTTP with a deadline, a size cap and rbkit's errors; every adapter that speaks HTTP goes through here."""

import json
import re
from collections.abc import Mapping
from typing import Any

import httpx2
from pydantic import SecretStr

from rbkit.errors import AdapterError, BadAnswer, MayHaveActed, NotFound, Refused, SecretError, Unreachable

__all__ = ["Http"]

LARGEST = 20_000_000
_TIMEOUT = httpx2.Timeout(10.0, connect=3.0)
_NEVER_SENT = (
    httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol, httpx2.InvalidURL,
)  # fmt: skip
_THEIRS = "Leave the target to them; `rbkit list` shows the runs."
_TOKEN = re.compile(r"[\x21-\x7e]+")


class Http:
    """A JSON client for one address.

    Args:
        url: Where it is; redirects are not followed and proxies of the environment are not used.
        name: What it is called in errors.
        token: A bearer token; never shown.

    Raises:
        SecretError: The token holds a character that no header can carry.
    """

    def __init__(self, url: str, name: str, token: SecretStr | None = None) -> None:
        self.name = name
        self._url = url.rstrip("/")
        if token is not None and not _TOKEN.fullmatch(token.get_secret_value()):
            raise SecretError(f"The token for {name} is empty or holds a character that no header can carry.")
        self._token = token
        self._client: httpx2.AsyncClient | None = None

    async def read(self, path: str, params: Mapping[str, str] | None = None) -> Any:
        """Ask for JSON.

        Args:
            path: The path after the address.
            params: The query's fields.

        Raises:
            NotFound: The system answered 404.
            Unreachable: No answer came.
            BadAnswer: The answer is no JSON, too large, or says something went wrong.
        """
        try:
            status, body = await self._send("GET", path, params=params)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Unreachable(f"{self.name} at {self._url} cannot be read: {_words(error)}.") from error
        if status != 200:
            raise self._refusal(status, body, BadAnswer)
        return self._json(body)

    async def write(
        self, method: str, path: str, body: Any = None, key: str = "", timeout_s: float = 15.0, token: int | None = None
    ) -> None:
        """Ask for a change; what became of it is read from the state, not from the answer.

        Args:
            method: POST, PUT or DELETE.
            path: The path after the address.
            body: JSON to send.
            key: Sent as Idempotency-Key.
            timeout_s: How long to wait for the answer, seconds.
            token: Sent as Fencing-Token.

        Raises:
            NotFound: The system answered 404.
            Refused: It answered with another 4xx, 412 when it knows a higher fencing token; it did not act.
            Unreachable: It was never reached.
            MayHaveActed: It answered with a redirect or 5xx, or not at all.
        """
        headers = {"Idempotency-Key": key} if key else {}
        if token is not None:
            headers["Fencing-Token"] = str(token)
        try:
            status, answer = await self._send(method, path, body=body, headers=headers, timeout_s=timeout_s)
        except _NEVER_SENT as error:
            raise Unreachable(f"{self.name} at {self._url} was not reached: {_words(error)}.") from error
        except (httpx2.HTTPError, BadAnswer) as error:
            raise MayHaveActed(f"{self.name} took {method} {path} and gave no answer: {_words(error)}.") from error
        if status == 412 and token is not None:
            newer = f"{self.name} says that somebody with a newer lease acts on the target"
            raise Refused(f"{newer}: {_message(answer)}", todo=_THEIRS)
        if not 200 <= status < 300:
            raise self._refusal(status, answer, Refused if 400 <= status < 500 else MayHaveActed)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def _send(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None, body: Any = None,
        headers: Mapping[str, str] | None = None, timeout_s: float | None = None,
    ) -> tuple[int, bytes]:  # fmt: skip
        if self._client is None:
            self._client = httpx2.AsyncClient(timeout=_TIMEOUT, trust_env=False, follow_redirects=False)
        timeout = httpx2.Timeout(timeout_s, connect=3.0) if timeout_s else _TIMEOUT
        request = self._client.build_request(
            method, self._url + path, params=params, json=body, headers=self._headers(headers), timeout=timeout
        )
        response = await self._client.send(request, stream=True)
        try:
            return response.status_code, await self._body(response)
        finally:
            await response.aclose()

    def _headers(self, more: Mapping[str, str] | None) -> dict[str, str]:
        found = dict(more or {})
        if self._token is not None:
            found["Authorization"] = f"Bearer {self._token.get_secret_value()}"
        return found

    async def _body(self, response: httpx2.Response) -> bytes:
        parts, size = [], 0
        async for part in response.aiter_bytes(65_536):
            size += len(part)
            if size > LARGEST:
                raise BadAnswer(f"{self.name} answered with more than {LARGEST // 1_000_000} MB.")
            parts.append(part)
        return b"".join(parts)

    def _json(self, body: bytes) -> Any:
        try:
            return json.loads(body) if body else None
        except (ValueError, RecursionError) as error:
            raise BadAnswer(f"{self.name} answered with something that is not JSON.") from error

    def _refusal(self, status: int, body: bytes, kind: type[AdapterError]) -> Exception:
        said = _message(body)
        if status == 404:
            return NotFound(f"{self.name} knows no such thing: {said}", todo="Check the name of the target.")
        return kind(f"{self.name} answered {status}: {said}")


def _message(body: bytes) -> str:
    """Take the reason out of an error's body, shortened."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return body[:200].decode(errors="replace")
    if isinstance(data, dict):
        data = data.get("message") or data.get("error") or data
    return str(data)[:300]


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
