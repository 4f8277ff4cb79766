"""Whatever a server does becomes one of rbkit's errors, and a doubt is never called a failure."""

import asyncio
import itertools
import json
import zlib
from typing import Any

import pytest
from pydantic import SecretStr

from rbkit.adapters.http import Http
from rbkit.costs import counted
from rbkit.errors import AdapterError, BadAnswer, MayHaveActed, NotFound, Refused, SecretError, Unreachable

TOKEN = SecretStr("hunter2-hunter2")
CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"


def read(server: Any, params: Any = None) -> Any:
    """Read `/thing` from the server."""

    async def work(url: str) -> Any:
        client = Http(url + "/", "The thing", TOKEN)
        try:
            return await client.read("/thing", params)
        finally:
            await client.aclose()

    return server.use(work)


def write(server: Any, **more: Any) -> None:
    """Write `/thing` at the server."""

    async def work(url: str) -> None:
        client = Http(url, "The thing", TOKEN)
        try:
            await client.write("PUT", "/thing", {"state": "drain"}, **more)
        finally:
            await client.aclose()

    server.use(work)


def test_json_is_read(server) -> None:
    """The answer comes back; values are encoded, the token is sent as a header, and one client serves many requests."""
    assert read(server.json({"a": [1]}), {"service": "a&b=c"}) == {"a": [1]}
    head = server.asked[0].decode()
    assert head.startswith("GET /thing?service=a%26b%3Dc HTTP/1.1") and "Bearer hunter2-hunter2" in head


def test_an_empty_answer_is_none(server) -> None:
    """An empty body is no JSON and no error."""
    assert read(server.text("")) is None


def test_a_change_is_sent_once_with_its_key(server) -> None:
    """Body, Idempotency-Key and Fencing-Token are sent; whatever the body of the answer, 2xx means taken."""
    write(server.text("<html>thanks", 202), key="run/step/0", token=3)
    (request,) = server.asked
    assert b"\r\nFencing-Token: 3\r\n" in request
    assert b"Idempotency-Key: run/step/0" in request and json.loads(request.partition(b"\r\n\r\n")[2]) == {
        "state": "drain"
    }


def test_without_token_and_key_no_header_is_sent(server) -> None:
    """Nothing is invented."""

    async def work(url: str) -> None:
        client = Http(url, "The thing")
        await client.write("POST", "/thing")
        await client.aclose()

    server.text("").use(work)
    for name in (b"Authorization", b"Idempotency-Key", b"Fencing-Token"):
        assert name not in server.asked[0]


def test_a_client_that_was_not_used_closes() -> None:
    """Closing without a request is fine."""
    asyncio.run(Http("http://127.0.0.1:9", "The thing").aclose())


@pytest.mark.parametrize(
    ("status", "reading", "writing"),
    [
        (404, NotFound, NotFound),
        (400, BadAnswer, Refused),
        (409, BadAnswer, Refused),
        (500, BadAnswer, MayHaveActed),
        (503, BadAnswer, MayHaveActed),
        (302, BadAnswer, MayHaveActed),
    ],
)
def test_each_status_has_its_error(server, status, reading, writing) -> None:
    """A 4xx certainly did not act, a 5xx or a redirect may have; a redirect is not followed."""
    server.json({"message": "because"}, status, "Location: /elsewhere\r\n")
    with pytest.raises(reading, match="because"):
        read(server)
    with pytest.raises(writing, match="because"):
        write(server)
    assert len(server.asked) == 2 and not any(b"elsewhere" in request for request in server.asked)


def test_a_token_of_zero_is_sent_all_the_same(server) -> None:
    """Zero is not left out: the server is the one who refuses it."""
    write(server.text(""), token=0)
    assert b"\r\nFencing-Token: 0\r\n" in server.asked[0]


@pytest.mark.parametrize(("token", "said"), [(3, "newer lease acts on the target: because"), (None, "answered 412")])
def test_a_412_speaks_of_leases_only_when_a_token_was_sent(server, token, said) -> None:
    """Without one it is a precondition of another kind; both are refusals."""
    with pytest.raises(Refused, match=said):
        write(server.json({"message": "because"}, 412), token=token)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"error": "e1"}', "e1"),
        ('{"other": 1}', "{'other': 1}"),
        ('["x"]', "['x']"),
        ("<b>no</b>", "<b>no</b>"),
        ("x" * 1000, "x" * 200),
        (json.dumps("y" * 1000), "y" * 300),
    ],
)
def test_the_reason_is_taken_out_of_the_answer_and_shortened(server, body, said) -> None:
    """Whatever the form of an error's body, its reason is shown in bounds."""
    with pytest.raises(Refused) as caught:
        write(server.text(body, 409))
    assert caught.value.what == f"The thing answered 409: {said}"


def test_a_refused_connection_certainly_did_not_act(nobody) -> None:
    """Where nobody listens nothing was read and nothing was changed."""

    async def both() -> None:
        client = Http(nobody, "The thing")
        with pytest.raises(Unreachable, match="cannot be read"):
            await client.read("/thing")
        with pytest.raises(Unreachable, match="was not reached"):
            await client.write("PUT", "/thing")
        await client.aclose()

    asyncio.run(both())


@pytest.mark.parametrize("url", ["http://[::1", "ftp://127.0.0.1", "nonsense"])
def test_an_address_that_is_none_is_never_reached(url) -> None:
    """A slip in the environment file is no doubt about the world."""

    async def both() -> None:
        client = Http(url, "The thing")
        with pytest.raises(Unreachable):
            await client.read("/thing")
        with pytest.raises(Unreachable):
            await client.write("PUT", "/thing")
        await client.aclose()

    asyncio.run(both())


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("reply", [b"", CUT, b"garbage\r\n\r\n"])
def test_an_answer_that_breaks_off_leaves_a_doubt(server, reset, reply) -> None:
    """A connection that ends before or inside the answer is unreadable for a read and a doubt for a change."""
    server.reply, server.reset = reply, reset
    with pytest.raises(Unreachable, match="cannot be read"):
        read(server)
    with pytest.raises(MayHaveActed, match="took PUT /thing and gave no answer"):
        write(server)


@pytest.mark.parametrize("reply", [b"", CUT])
def test_a_server_that_falls_silent_leaves_a_doubt(server, reply) -> None:
    """The deadline of a change ends in a doubt, before the answer or in the middle of it."""
    server.reply, server.silent = reply, True
    with pytest.raises(MayHaveActed, match="Timeout"):
        write(server, timeout_s=0.05)


@pytest.mark.parametrize("body", ['{"a": ', "<html>", "\x00", "[" * 100_000])
def test_what_is_no_json_is_a_bad_answer(server, body) -> None:
    """Truncated JSON, HTML and bombs of brackets cannot be used."""
    with pytest.raises(BadAnswer, match="not JSON"):
        read(server.text(body))


def test_an_answer_without_end_is_cut_off(server) -> None:
    """Reading stops at the cap, and nothing of it is kept; for a change that is a doubt."""
    part = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    for work, kind in ((read, BadAnswer), (write, MayHaveActed)):
        server.reply = itertools.chain(
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"], itertools.repeat(part)
        )
        with pytest.raises(kind, match="more than 20 MB"):
            work(server)


@pytest.mark.parametrize("token", ["", "hunter2\n", "hunter2\r\nX-Evil: 1", "hünter2", "hunter 2", "hunter2\x00"])
def test_a_token_that_no_header_can_carry_is_refused_without_showing_it(token) -> None:
    """The error names the adapter and never the token."""
    with pytest.raises(SecretError, match="token for The thing") as caught:
        Http("http://127.0.0.1:9", "The thing", SecretStr(token))
    assert "nter" not in str(caught.value)


@pytest.mark.parametrize("status", [200, 401, 500])
def test_the_token_is_in_no_error(server, status) -> None:
    """Whatever goes wrong, the token is not repeated."""
    server.text("{", status)
    for work in (read, write):
        try:
            work(server)
        except AdapterError as error:
            assert "hunter2" not in repr(error) + str(error)


def test_proxies_of_the_environment_are_not_used(server, monkeypatch) -> None:
    """The address in the environment file is the one that is asked."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert read(server.json(1)) == 1


def test_a_limit_of_the_environment_cuts_an_answer_off(server) -> None:
    """What is read counts towards the question it belongs to, and not one byte more than allowed is kept."""
    server.json(["x" * 900])
    with counted(1000) as cost:
        read(server)
        assert 900 < cost.bytes <= 1000
        with pytest.raises(BadAnswer, match="more than 1 kB"):
            read(server)
        cost.attempt()
        read(server)


def packed(data: bytes, wbits: int) -> bytes:
    """Compress, as a server may although nobody asked for it."""
    packer = zlib.compressobj(wbits=wbits)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(("encoding", "wbits"), [("gzip", 31), ("deflate", 15)])
def test_a_compressed_answer_is_unfolded_within_the_limit(server, encoding, wbits) -> None:
    """A bomb is cut off at the cap while it unfolds; what is small enough is read."""
    for data, error in ((b'{"a": 1}', ""), (b" " * 60_000_000, "more than 20 MB")):
        body = packed(data, wbits)
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n"
        server.reply = head.encode() + body
        if not error:
            assert read(server) == {"a": 1}
            continue
        with pytest.raises(BadAnswer, match=error):
            read(server)
    assert b"accept-encoding: identity" in server.asked[0].lower()


@pytest.mark.parametrize(("encoding", "said"), [("br", "nobody asked for"), ("gzip", "cannot be unfolded")])
def test_an_answer_that_cannot_be_unfolded_is_none(server, encoding, said) -> None:
    """An encoding that nobody asked for, and one that is not what it says."""
    server.text("{}", headers=f"Content-Encoding: {encoding}\r\n")
    with pytest.raises(BadAnswer, match=said):
        read(server)


def test_a_page_instead_of_json_is_told_as_that(server) -> None:
    """A login page or a proxy that answers 200 is no answer, whatever its text would read as."""
    server.text("{}", headers="Content-Type: text/html; charset=utf-8\r\n")
    with pytest.raises(BadAnswer, match="'text/html' instead of JSON") as caught:
        read(server)
    assert "something else" in caught.value.todo
    server.text("{}", headers="Content-Type: application/problem+json\r\n")
    assert read(server) == {}


@pytest.mark.parametrize(("text", "waits"), [("7", 7.0), ("99999999", 3600.0), ("Wed, 21 Oct", 0.0), ("-1", 0.0)])
def test_a_system_that_asks_for_time_is_heard(server, text, waits) -> None:
    """How long it wants to be left alone is part of the error, within reason."""
    server.text("{}", 429, headers=f"Retry-After: {text}\r\n")
    with pytest.raises(BadAnswer) as caught:
        read(server)
    assert caught.value.retry_after_s == waits
    with pytest.raises(Refused) as refused:
        write(server)
    assert refused.value.retry_after_s == waits


@pytest.mark.parametrize(("work", "kind"), [("read", Unreachable), ("write", MayHaveActed)])
def test_an_answer_that_drips_has_an_end(server, monkeypatch, work, kind) -> None:
    """Each byte comes in time and the whole never does: the question as a whole has a deadline."""
    monkeypatch.setattr("rbkit.adapters.http._WHOLE_S", 0.05)
    server.reply, server.silent = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n1", True
    with pytest.raises(kind):
        read(server) if work == "read" else write(server, timeout_s=0.05)
