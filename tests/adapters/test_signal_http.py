"""Credentials and tenants are sent as each system wants them, and never where they could do harm."""

import json
from typing import Any

import pytest
from pydantic import SecretStr

from rbkit.adapters.signal_http import SignalHttp
from rbkit.errors import BadAnswer, NotFound, SecretError, SettingsError, Unreachable


def asked(server: Any, **options: Any) -> Any:
    """Ask a server a question with a body."""

    async def work(url: str) -> Any:
        client = SignalHttp(url, "The thing", **options)
        try:
            return await client.ask("/thing", {"a": 'b"'}, {"c": "d&e"})
        finally:
            await client.aclose()

    return server.use(work)


def test_a_question_is_sent_as_json(server) -> None:
    """The body is JSON, fields of the query are encoded, the answer comes back."""
    assert asked(server.json({"x": [1]})) == {"x": [1]}
    head, _, body = server.asked[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /thing?c=d%26e HTTP/1.1") and json.loads(body) == {"a": 'b"'}
    assert b"Authorization" not in head and b"X-Scope" not in head


@pytest.mark.parametrize(
    ("options", "header"),
    [
        ({"token": SecretStr("abc")}, b"Authorization: Bearer abc"),
        ({"token": SecretStr("abc"), "scheme": "ApiKey"}, b"Authorization: ApiKey abc"),
        ({"user": "me", "password": SecretStr("pä:ss")}, b"Authorization: Basic bWU6cMOkOnNz"),
        ({"tenant": "a|b"}, b"X-Scope-OrgID: a|b"),
    ],
)
def test_every_kind_of_credential_has_its_header(server, options, header) -> None:
    """Tokens, API keys, passwords and tenants."""
    asked(server.json({}), **options)
    assert header in server.asked[0] and server.asked[0].count(b"Authorization:") <= 1


@pytest.mark.parametrize(
    "options",
    [
        {"tenant": "a\r\nX: y"}, {"scheme": "ä"}, {"scheme": "Basic"},
        {"tenant": "ä"}, {"tenant": "a b"}, {"user": "me"}, {"password": SecretStr("x")},
        {"user": "a:b", "password": SecretStr("x")}, {"token": SecretStr("x"), "user": "me"},
        {"token": SecretStr("x"), "password": SecretStr("y")},
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(options) -> None:
    """A tenant that no header can carry, half a login, or two logins at once."""
    with pytest.raises(SettingsError) as refused:
        SignalHttp("http://127.0.0.1:1", "The thing", **options)
    assert "SecretStr" not in str(refused.value)


def test_a_broken_secret_is_not_shown() -> None:
    """Neither a token nor a password with characters that cannot be sent."""
    with pytest.raises(SecretError):
        SignalHttp("http://127.0.0.1:1", "The thing", SecretStr("a b"))
    with pytest.raises(SecretError) as broken:
        SignalHttp("http://127.0.0.1:1", "The thing", user="me", password=SecretStr("hunter2\ud800"))
    assert "hunter2" not in str(broken.value)


def test_errors_are_those_of_every_read(server, nobody) -> None:
    """404, another status, no JSON, and nobody there."""
    with pytest.raises(NotFound, match="knows no such thing: gone"):
        asked(server.text("gone", 404))
    with pytest.raises(BadAnswer, match="400: no such field"):
        asked(server.json({"error": "no such field"}, 400))
    with pytest.raises(BadAnswer, match="not JSON"):
        asked(server.text("{"))
    server.reply = b""
    with pytest.raises(Unreachable, match="The thing at .* cannot be read"):
        asked(server)
