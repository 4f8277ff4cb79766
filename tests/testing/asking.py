"""How the tests of doubles speak to them: plainly, as any client could."""

import http.client
import json
from typing import Any
from urllib.parse import urlencode, urlsplit

from rbkit.testing.double import Double

__all__ = ["ask"]


def ask(
    double: Double, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None, **query: Any
) -> tuple[int, Any]:
    """Send one request.

    Args:
        double: To whom.
        method: The HTTP method.
        path: The path.
        body: What is sent as JSON.
        headers: More headers.
        query: The query's fields.

    Returns:
        The status, and the body: read as JSON where it is that.
    """
    connection = http.client.HTTPConnection(urlsplit(double.url).netloc, timeout=10)
    sent = {"Content-Type": "application/json", **(headers or {})}
    try:
        target = path + (f"?{urlencode(query)}" if query else "")
        connection.request(method, target, None if body is None else json.dumps(body), sent)
        answer = connection.getresponse()
        text = answer.read().decode()
        return answer.status, json.loads(text) if "json" in answer.headers["Content-Type"] and text else text
    finally:
        connection.close()
