"""The certificates that servers show in a real TLS handshake.

Source: https://docs.python.org/3/library/ssl.html and RFC 5280
"""

import asyncio
import re
import ssl
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbkit.adapters.told import told
from rbkit.capability import read
from rbkit.datakinds import Certificate, Certificates
from rbkit.errors import BadAnswer, NotFound, Refused, SettingsError, Unreachable
from rbkit.facts import Call
from rbkit.values import human, seconds

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["TlsCertificates"]

_ADDRESS = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]{2,45})\]|(?P<host>[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})?)):(?P<port>[0-9]{1,5})"
)
_MOST_NAMES = 100
_DAY_S = 86_400.0


class TlsCertificates(Certificates):
    """Reads certificates by handshakes; it changes nothing.

    Args:
        ca_file: A file with the authorities that are trusted; those of the system when empty.
        timeout: How long a handshake may take.

    Raises:
        SettingsError: The file holds no certificates.
    """

    def __init__(self, ca_file: str = "", timeout: str | float = "5s") -> None:
        self._timeout_s, self._trusted = seconds(timeout), ca_file or "the authorities of this machine"
        try:
            self._strict = ssl.create_default_context(cafile=ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(f"The option ca_file is wrong: {Path(ca_file)} holds no certificates.") from error
        self._open = ssl.create_default_context()
        self._open.check_hostname = False
        self._open.verify_mode = ssl.CERT_NONE

    @read
    async def certificate(self, address: str) -> Certificate:
        """Make a TLS handshake and say what the server shows; one that is not trusted is read by a second handshake.

        Raises:
            NotFound: The address is none.
            Unreachable: Nobody answers there in time.
            BadAnswer: What answers does not speak TLS, or shows no readable certificate.
        """
        host, port = _parts(address)
        try:
            shown, problem = await self._shake(host, port, self._strict), ""
        except ssl.SSLCertVerificationError as error:
            shown, problem = await self._shake(host, port, self._open), error.verify_message or str(error)
        return _facts(address, shown, problem)

    async def state(self, target: str) -> dict[str, Any]:
        """Say what a server shows."""
        return (await self.certificate(target)).model_dump(mode="json")

    async def ping(self) -> str:
        """Say whom we trust; there is nothing to reach before an address is named."""
        return f"{ssl.OPENSSL_VERSION}, trusts {told(self._trusted, 200)}; reads whatever address is asked for"

    async def apply(self, call: Call, key: str, token: int) -> None:
        """Refuse: certificates are only read."""
        raise Refused("Certificates are only read here.", todo="Renew them by a program: see Command.")

    async def _shake(self, host: str, port: int, context: ssl.SSLContext) -> bytes:
        """Return the server's certificate as it was sent."""
        where = f"{host}:{port}"
        try:
            async with asyncio.timeout(self._timeout_s):
                _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host, limit=1024)
        except ssl.SSLCertVerificationError:
            raise
        except ssl.SSLError as error:
            raise BadAnswer(f"{where} made no TLS handshake: {error.reason or error}.") from error
        except TimeoutError as error:
            raise Unreachable(f"{where} made no TLS handshake within {human(self._timeout_s)}.") from error
        except (OSError, ValueError) as error:
            raise Unreachable(f"{where} cannot be reached: {error}.") from error
        try:
            return writer.get_extra_info("ssl_object").getpeercert(binary_form=True) or b""
        finally:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()


def _parts(address: str) -> tuple[str, int]:
    found = _ADDRESS.fullmatch(address)
    if not found or not 1 <= int(found["port"]) <= 65535:
        raise NotFound(f"{address!r:.80} is no address.", todo="Write it like www.example.org:443 or [::1]:443.")
    return found["six"] or found["host"], int(found["port"])


def _facts(address: str, shown: bytes, problem: str) -> Certificate:
    from cryptography import x509

    try:
        found = x509.load_der_x509_certificate(shown)
        ends = found.not_valid_after_utc
        left = (ends - datetime.now(UTC)).total_seconds() / _DAY_S
        return Certificate(
            address=address, subject=found.subject.rfc4514_string()[:500], issuer=found.issuer.rfc4514_string()[:500],
            names=_names(found), expires_at=ends, days_left=round(left, 3),
            trusted=not problem, problem=problem,
        )  # fmt: skip
    except ValueError as error:
        raise BadAnswer(f"{address} shows a certificate that cannot be read: {error}.") from error


def _names(found: "x509.Certificate") -> list[str]:
    """List the names that a certificate is for."""
    from cryptography import x509

    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    texts = names.get_values_for_type(x509.DNSName)
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return [*texts, *addresses][:_MOST_NAMES]
