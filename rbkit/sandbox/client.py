"""A small blocking HTTP client for loopback: no proxies, no redirects, one request a connection."""

import http.client
import json
from typing import Any

from rbkit.errors import BadAnswer, NotFound, Refused, RefusedInput, Unreachable

__all__ = ["call", "is_up"]

UP_FIRST = "Start it with `rbkit sandbox up`."


def call(
    port: int, path: str, *, token: str, method: str = "GET", body: object = None, timeout_s: float = 30.0
) -> dict[str, Any]:
    """Ask an admin API of the sandbox.

    Args:
        port: Its port.
        path: The address.
        token: The bearer token.
        method: The HTTP method.
        body: What is sent as JSON; nothing when None.
        timeout_s: Seconds to wait for the answer.

    Returns:
        The JSON object that it answered.

    Raises:
        Unreachable: Nobody answers there.
        RefusedInput: It was asked for something that does not exist or makes no sense.
        Refused: It said no.
        BadAnswer: It answered with something else than JSON.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        sent = None if body is None else json.dumps(body)
        connection.request(method, path, body=sent, headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        return _read(answer.status, json.loads(answer.read()))
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"The sandbox does not answer on port {port}: {error}.", todo=UP_FIRST) from error
    except ValueError as error:
        raise BadAnswer(f"Something that is no sandbox answers on port {port}.") from error
    finally:
        connection.close()


def _read(status: int, body: dict[str, Any]) -> dict[str, Any]:
    if status < 400:
        return body
    kind = {400: RefusedInput, 404: NotFound, 409: Refused}.get(status, BadAnswer)
    raise kind(str(body.get("message", body)), todo="`rbkit sandbox status` shows what there is.")


def is_up(port: int, path: str) -> bool:
    """Tell whether an address answers 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2.0)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
