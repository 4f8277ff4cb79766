"""What every double is made of."""

import http.client
import json
from urllib.parse import urlsplit

import pytest

from rbkit.testing.double import Answer, Double, Request


class Echo(Double):
    """Answers with what it was asked."""

    def answer(self, request: Request) -> Answer:
        """Tell the request back."""
        if request.path == "/empty":
            return Answer(204)
        if request.path == "/text":
            return Answer(418, "words", {"Content-Type": "text/plain"})
        return Answer(200, {"method": request.method, "one": request.one("a", "none"), "json": request.json})


def ask(url: str, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Send one request."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "LIST"])
def test_every_method_is_answered(method):
    """Query and body arrive as they were sent, and what was asked is remembered."""
    with Echo() as echo:
        status, body = ask(echo.url, method, "/x?a=1&a=2&b=", b'{"c": 3}')
        assert (status, json.loads(body)) == (200, {"method": method, "one": "1", "json": {"c": 3}})
        assert [(r.path, dict(r.query)) for r in echo.requests] == [("/x", {"a": ["1", "2"], "b": [""]})]


def test_bodies_of_every_kind():
    """No body, a text, and none for HEAD."""
    with Echo() as echo:
        assert ask(echo.url, "GET", "/empty") == (204, b"")
        assert ask(echo.url, "GET", "/text") == (418, b"words")
        assert ask(echo.url, "HEAD", "/text") == (418, b"")
        status, body = ask(echo.url, "GET", "/y")
        assert (status, json.loads(body)["one"], json.loads(body)["json"]) == (200, "none", None)
    assert Answer(200, b"raw").body == b"raw"


def test_a_double_without_answers_is_a_mistake():
    """Whoever makes a double says what it answers."""
    with pytest.raises(TypeError, match="answer"):
        Double()
