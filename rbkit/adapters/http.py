"""Plain HTTP with a deadline, a size cap and rbkit's errors; every adapter that speaks HTTP goes through here."""

import asyncio
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import httpx2
from pydantic import SecretStr

from rbkit.costs import bounded, remaining, spend
from rbkit.errors import AdapterError, BadAnswer, MayHaveActed, NotFound, Refused, SecretError, Unreachable

__all__ = ["Http"]

_TIMEOUT = httpx2.Timeout(10.0, connect=3.0)
_WHOLE_S = 30.0
"""The longest that a question may take as a whole, however slowly its answer drips, seconds."""
_PLAIN = {"Accept": "application/json", "Accept-Encoding": "identity"}
"""Nothing compressed is asked for: a few bytes of it can unfold into more than memory holds."""
_DECODERS = {"": None, "identity": None, "gzip": 31, "deflate": 15}
_CHUNK = 65_536
_LONGEST_WAIT_S = 3600.0
_NOT_ITSELF = "Check the address: something else, such as a login page or a proxy, answers there."
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

    @property
    def who(self) -> str:
        """As whom it asks, without the secret."""
        return "with a token" if self._token is not None else "without credentials"

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
            answer = await self._send("GET", path, params=params)
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
            raise Unreachable(f"{self.name} at {self._url} cannot be read: {_words(error)}.") from error
        if answer.status != 200:
            raise self._refusal(answer, BadAnswer)
        return self._json(answer)

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
            answer = await self._send(method, path, body=body, headers=headers, timeout_s=timeout_s)
        except _NEVER_SENT as error:
            raise Unreachable(f"{self.name} at {self._url} was not reached: {_words(error)}.") from error
        except (httpx2.HTTPError, BadAnswer, TimeoutError) as error:
            raise MayHaveActed(f"{self.name} took {method} {path} and gave no answer: {_words(error)}.") from error
        if answer.status == 412 and token is not None:
            newer = f"{self.name} says that somebody with a newer lease acts on the target"
            raise Refused(f"{newer}: {_message(answer.body)}", todo=_THEIRS)
        if not 200 <= answer.status < 300:
            raise self._refusal(answer, Refused if 400 <= answer.status < 500 else MayHaveActed)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def _send(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None, body: Any = None,
        headers: Mapping[str, str] | None = None, timeout_s: float | None = None,
    ) -> "_Answer":  # fmt: skip
        if self._client is None:
            self._client = httpx2.AsyncClient(timeout=_TIMEOUT, trust_env=False, follow_redirects=False)
        timeout = httpx2.Timeout(timeout_s, connect=3.0) if timeout_s else _TIMEOUT
        request = self._client.build_request(
            method, self._url + path, params=params, json=body, headers=self._headers(headers), timeout=timeout
        )
        async with asyncio.timeout(timeout_s or _WHOLE_S):
            response = await self._client.send(request, stream=True)
            try:
                return _Answer(response.status_code, response.headers, await self._body(response))
            finally:
                await response.aclose()

    def _headers(self, more: Mapping[str, str] | None) -> dict[str, str]:
        found = _PLAIN | dict(more or {})
        if self._token is not None:
            found["Authorization"] = f"Bearer {self._token.get_secret_value()}"
        return found

    async def _body(self, response: httpx2.Response) -> bytes:
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in _DECODERS:
            raise BadAnswer(f"{self.name} answered in the encoding {encoding[:40]!r}, which nobody asked for.")
        wbits, parts = _DECODERS[encoding], []
        decoder = zlib.decompressobj(wbits) if wbits else None
        with bounded():
            async for part in response.aiter_raw(_CHUNK):
                for piece in self._unfolded(part, decoder):
                    spend(len(piece), self.name)
                    parts.append(piece)
        return b"".join(parts)

    def _unfolded(self, part: bytes, decoder: Any) -> Iterator[bytes]:
        """Unfold a part of an answer, little by little: how much it becomes is not known before."""
        if decoder is None:
            yield part
            return
        while part:
            try:
                yield decoder.decompress(part, min(_CHUNK, remaining() + 1))
            except zlib.error as error:
                raise BadAnswer(f"{self.name} answered with something that cannot be unfolded.", fault=True) from error
            part = decoder.unconsumed_tail

    def _json(self, answer: "_Answer") -> Any:
        kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        if kind and "json" not in kind and answer.body:
            raise BadAnswer(f"{self.name} answered with {kind[:60]!r} instead of JSON.", todo=_NOT_ITSELF, fault=True)
        try:
            return json.loads(answer.body) if answer.body else None
        except (ValueError, RecursionError) as error:
            raise BadAnswer(f"{self.name} answered with something that is not JSON.", fault=True) from error

    def _refusal(self, answer: "_Answer", kind: type[AdapterError]) -> Exception:
        said = _message(answer.body)
        if answer.status == 404:
            return NotFound(f"{self.name} knows no such thing: {said}", todo="Check the name of the target.")
        ill = answer.status >= 500 or answer.status == 429
        wait_s = _retry_after(answer.headers)
        return kind(f"{self.name} answered {answer.status}: {said}", retry_after_s=wait_s, fault=ill)


class _Answer(NamedTuple):
    status: int
    headers: httpx2.Headers
    body: bytes


def _retry_after(headers: httpx2.Headers) -> float:
    """Read for how long a system asks to be left alone, seconds; a date is not worth the trouble."""
    text = headers.get("Retry-After", "").strip()
    return min(float(text), _LONGEST_WAIT_S) if text.isascii() and text.isdigit() else 0.0


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
