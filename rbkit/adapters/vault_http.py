"""The connection to Vault: hvac on a session that ends every request in time and takes nothing from the environment.

It is imported when Vault is asked for the first time: its libraries take a while to load.
"""

import contextlib
import socket
import threading
from typing import Any

import hvac
import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

__all__ = ["LARGEST", "Session", "TooLarge", "connect"]

LARGEST = 5_000_000
"""The largest answer that is read, bytes."""
_CHUNK = 65_536


class TooLarge(requests.RequestException):
    """The answer is larger than any secret."""


class Session(requests.Session):
    """A session whose requests end as a whole, however slowly an answer drips; it uses no proxy and no netrc.

    Args:
        within_s: The longest that a request may take, from its first byte to the last of its answer, seconds.
        ca: A file of certificates that are trusted; the usual ones when empty.
    """

    def __init__(self, within_s: float, ca: str = "") -> None:
        super().__init__()
        self.within_s, self.status, self.retry_after = within_s, 0, ""
        self.trust_env, self.verify = False, ca or True
        self.headers["Accept-Encoding"] = "identity"
        self._late = threading.Event()
        self._sockets: list[socket.socket] = []
        self.mount("http://", _watching(self._sockets))
        self.mount("https://", _watching(self._sockets))

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send one request and read its whole answer.

        Raises:
            RequestException: No usable answer came in time.
        """
        self.status, self.retry_after = 0, ""
        self._late.clear()
        timer = threading.Timer(self.within_s, self._cut)
        timer.start()
        try:
            with super().send(request, **{**kwargs, "stream": True, "timeout": self.within_s}) as response:
                response._content = _body(response)
        except (OSError, ValueError):
            if not self._late.is_set():
                raise
        finally:
            timer.cancel()
            timer.join()
        if self._late.is_set():
            raise requests.ReadTimeout("the request was cut off")
        self.status, self.retry_after = response.status_code, response.headers.get("Retry-After", "")
        return response

    def close(self) -> None:
        """Close every connection."""
        super().close()
        for one in self._sockets:
            one.close()

    def _cut(self) -> None:
        """End the request that is under way."""
        self._late.set()
        for one in self._sockets:
            with contextlib.suppress(OSError):  # it has ended by itself
                one.shutdown(socket.SHUT_RDWR)


def connect(url: str, token: str, namespace: str, session: Session) -> Any:
    """Make a client of Vault.

    Args:
        url: Its address.
        token: The token that is sent; nothing is sent when empty, nor is one looked for elsewhere.
        namespace: The namespace; none when empty.
        session: What sends the requests.
    """
    return hvac.Client(
        url=url, token=token, cert=(), verify=session.verify, timeout=session.within_s, proxies={},
        allow_redirects=False, session=session, namespace=namespace or None,
    )  # fmt: skip


def _body(response: requests.Response) -> bytes:
    parts, size = [], 0
    for part in response.iter_content(_CHUNK):
        size += len(part)
        if size > LARGEST:
            raise TooLarge("the answer is too large")
        parts.append(part)
    return b"".join(parts)


def _watching(sockets: list[socket.socket]) -> HTTPAdapter:
    """Make an adapter that keeps a second handle on every connection, by which it can be ended from outside."""

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            made = super()._new_conn()
            sockets.append(made.dup())
            return made

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            made = super()._new_conn()
            sockets.append(made.dup())
            return made

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    adapter = HTTPAdapter(max_retries=0)
    adapter.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}
    return adapter
