"""Certificates that are not trusted are read all the same, and it is said why; whatever else answers is an error."""

import asyncio
import socket
import ssl
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from servers.tls import Authority, tls

from rbkit.adapters import certificates as module
from rbkit.adapters.certificates import TlsCertificates
from rbkit.errors import BadAnswer, NotFound, SettingsError, Unreachable

DAY = timedelta(days=1)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority."""
    return Authority(tmp_path)


def read(authority: Authority, address: str, **more: Any) -> Any:
    """Read what a server shows."""
    return asyncio.run(TlsCertificates(ca_file=str(authority.file), **more).certificate(address))


@pytest.mark.parametrize(
    "made, problem, days",
    [
        ({"ends": -DAY / 2}, "expired", -0.5),
        ({"starts": DAY, "ends": 3 * DAY}, "not yet valid", 3),
        ({"own": True}, "self-signed", 30),
        ({"names": ["www.example.org"]}, "IP address mismatch", 30),
        ({"names": []}, "IP address mismatch", 30),
    ],
)
def test_a_certificate_that_is_not_trusted_is_read_and_said_why(authority, made, problem, days) -> None:
    """Expired, not yet valid, signed by itself, for somebody else, for nobody."""
    with tls(authority.certificate(**made)) as port:
        found = read(authority, f"127.0.0.1:{port}")
    assert not found.trusted and problem in found.problem
    assert abs(found.days_left - days) < 0.1
    assert found.names == list(made.get("names", ["localhost", "127.0.0.1"]))


def test_the_name_that_was_asked_for_counts(authority) -> None:
    """The same server is trusted by one name and not by another."""
    with tls(authority.certificate(["localhost"])) as port:
        assert read(authority, f"localhost:{port}").trusted
        assert "mismatch" in read(authority, f"127.0.0.1:{port}").problem


def test_an_authority_that_is_not_ours_is_not_trusted(authority, tmp_path) -> None:
    """Nor are those of the system asked when a file is given."""
    (tmp_path / "other").mkdir()
    with tls(authority.certificate()) as port:
        found = read(Authority(tmp_path / "other"), f"127.0.0.1:{port}")
        system = asyncio.run(TlsCertificates().certificate(f"127.0.0.1:{port}"))
    assert not found.trusted and "signature" in found.problem  # another key behind the same name
    assert not system.trusted and "local issuer" in system.problem


def test_many_names_are_cut(authority) -> None:
    """A certificate of a great host is no flood."""
    with tls(authority.certificate([f"host{number}.example.org" for number in range(150)])) as port:
        assert len(read(authority, f"127.0.0.1:{port}").names) == 100


@pytest.mark.parametrize(
    "address",
    ["", "host", "host:", "host:0", "host:65536", "host:443/x", "-x:443", "a b:443", "::1:443", "[x]:443", "h\n:443",
     "http://h:443", "host:٤٤٣"],
)  # fmt: skip
def test_what_is_no_address_is_not_found(authority, address) -> None:
    """It is said how one is written; nothing is asked."""
    with pytest.raises(NotFound, match="no address") as failure:
        read(authority, address)
    assert "[::1]:443" in failure.value.todo


def test_addresses_are_read_as_they_are_written() -> None:
    """Names, addresses, and those of IPv6 in brackets."""
    assert module._parts("www.example.org:443") == ("www.example.org", 443)
    assert module._parts("[::1]:8443") == ("::1", 8443)


def test_nobody_there_is_unreachable(authority) -> None:
    """A closed port, a name that nobody has, and one that no name can be."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        for address in (f"127.0.0.1:{closed.getsockname()[1]}", "no-such-host.invalid:443", f"{'a' * 70}.invalid:443"):
            with pytest.raises(Unreachable, match="cannot be reached"):
                read(authority, address)


def test_somebody_who_says_nothing_is_unreachable(authority) -> None:
    """The handshake has a timeout."""
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        pytest.raises(Unreachable, match="no TLS handshake within 0.2s"),
    ):
        read(authority, f"127.0.0.1:{mute.getsockname()[1]}", timeout="200ms")


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x16\x03\x03\xff\xff" + b"x" * 70_000])
def test_somebody_who_speaks_something_else_is_a_bad_answer(authority, said) -> None:
    """Plain HTTP, or nonsense that begins like TLS."""

    def speak(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(said)
            connection.recv(4096)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=speak, args=(listener,))
        thread.start()
        with pytest.raises(BadAnswer, match="no TLS handshake"):
            read(authority, f"127.0.0.1:{listener.getsockname()[1]}")
        thread.join(10)


def test_a_server_that_hangs_up_is_unreachable(authority) -> None:
    """It closes the connection in the middle of the handshake."""

    def hang_up(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=hang_up, args=(listener,))
        thread.start()
        with pytest.raises(Unreachable):
            read(authority, f"127.0.0.1:{listener.getsockname()[1]}")
        thread.join(10)


def test_a_server_that_wants_a_certificate_of_ours_is_a_bad_answer(authority) -> None:
    """By TLS 1.2 it shows its own only to those whom it knows to the end."""
    with tls(authority.certificate(), client=authority.file) as port, pytest.raises(BadAnswer, match="handshake"):
        read(authority, f"127.0.0.1:{port}")


@pytest.mark.parametrize("shown", [b"", b"no certificate"])
def test_a_certificate_that_cannot_be_read_is_a_bad_answer(authority, monkeypatch, shown) -> None:
    """A server may show none, or one that is none."""

    async def shake(self: Any, host: str, port: int, context: ssl.SSLContext) -> bytes:
        return shown

    monkeypatch.setattr(TlsCertificates, "_shake", shake)
    with pytest.raises(BadAnswer, match="cannot be read"):
        read(authority, "127.0.0.1:443")


@pytest.mark.parametrize("text", [None, "no certificates"])
def test_a_file_without_authorities_is_a_setting_that_is_wrong(tmp_path, text) -> None:
    """Missing, or something else."""
    if text is not None:
        (tmp_path / "ca.pem").write_text(text)
    with pytest.raises(SettingsError, match="ca.pem"):
        TlsCertificates(ca_file=str(tmp_path / "ca.pem"))
