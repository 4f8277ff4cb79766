"""Real TLS servers on loopback, with certificates made for the test."""

import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

__all__ = ["Authority", "tls"]

KEY = ec.generate_private_key(ec.SECP256R1())
"""One key serves all certificates of a test: making one is what takes time."""


class Authority:
    """An authority that makes certificates.

    Args:
        folder: Where it writes them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name.from_rfc4514_string("CN=Authority of tests")
        basic = x509.BasicConstraints(ca=True, path_length=None)
        usage = x509.KeyUsage(*(number in {5, 6} for number in range(9)))
        made = self._build(self._name, self._key.public_key(), -timedelta(days=1), timedelta(days=365))
        made = made.add_extension(basic, critical=True).add_extension(usage, critical=True)
        made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
        self.file = folder / "authority.pem"
        self.file.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def certificate(
        self, names: Sequence[str] = ("localhost", "127.0.0.1"), starts: timedelta = -timedelta(days=1),
        ends: timedelta = timedelta(days=30), *, own: bool = False,
    ) -> Path:  # fmt: skip
        """Make a certificate with its key.

        Args:
            names: Names and addresses that it is for.
            starts: From when it is valid, counted from now.
            ends: Until when.
            own: Whether it signs itself instead of being signed by the authority.

        Returns:
            The file with both.
        """
        subject = x509.Name.from_rfc4514_string("CN=server,O=Tests")
        made = self._build(subject, KEY.public_key(), starts, ends, issuer=subject if own else self._name)
        if names:
            made = made.add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
        signed = made.sign(KEY if own else self._key, hashes.SHA256())
        file = self._folder / f"{signed.serial_number}.pem"
        plain = serialization.NoEncryption()
        key = KEY.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        file.write_bytes(signed.public_bytes(serialization.Encoding.PEM) + key)
        return file

    def _build(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, starts: timedelta, ends: timedelta,
        issuer: x509.Name | None = None,
    ) -> x509.CertificateBuilder:  # fmt: skip
        now = datetime.now(UTC)
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer or self._name).public_key(key)
        made = made.serial_number(x509.random_serial_number())
        return made.not_valid_before(now + starts).not_valid_after(now + ends)


def _name(text: str) -> x509.GeneralName:
    with suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(text))
    return x509.DNSName(text)


@contextmanager
def tls(certificate: Path, *, client: Path | None = None) -> Iterator[int]:
    """Serve handshakes until the block is left.

    Args:
        certificate: The server's certificate with its key.
        client: The authority whose certificate a client must show.

    Yields:
        The port on loopback.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if client:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve, args=(listener, context), daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def _serve(listener: socket.socket, context: ssl.SSLContext) -> None:
    with suppress(OSError):  # it was closed
        while True:
            connection, _ = listener.accept()
            connection.settimeout(10)
            with connection, suppress(OSError), context.wrap_socket(connection, server_side=True) as secure:
                secure.recv(1)
