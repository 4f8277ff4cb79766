"""Every reader of certificates, in memory or by real handshakes, keeps the same promises."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from servers.tls import Authority, tls

from rbkit.adapters.certificates import TlsCertificates
from rbkit.adapters.fake_machines import FakeCertificates
from rbkit.datakinds import Certificate, Certificates
from rbkit.errors import NotFound, Refused
from rbkit.facts import Call

Use = Callable[[Callable[[Certificates, str], Awaitable[Any]]], Any]


@pytest.fixture(params=["fake", "real"])
def use(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Use]:
    """Run a coroutine with a reader, and the address of a server whose certificate is good for 30 days."""
    if request.param == "fake":
        shown = Certificate(
            address="127.0.0.1:443", subject="CN=server", issuer="CN=Authority", names=["localhost", "127.0.0.1"],
            expires_at=datetime.now(UTC) + timedelta(days=30), days_left=29.99, trusted=True, problem="",
        )  # fmt: skip
        fake = FakeCertificates([shown])
        yield lambda work: asyncio.run(work(fake, "127.0.0.1:443"))
        return
    authority = Authority(tmp_path)
    reader = TlsCertificates(ca_file=str(authority.file))
    with tls(authority.certificate()) as port:
        yield lambda work: asyncio.run(work(reader, f"127.0.0.1:{port}"))


def test_a_good_certificate_is_trusted_and_described(use) -> None:
    """Who it is for, who made it, how long it is good."""
    found = use(lambda c, address: c.certificate(address))
    assert found.trusted and found.problem == "" and 29 < found.days_left <= 30
    assert found.names == ["localhost", "127.0.0.1"] and "CN=server" in found.subject and "Authority" in found.issuer
    assert found.expires_at.tzinfo is not None


def test_the_state_says_the_same(use) -> None:
    """As plain values."""
    found, state = use(lambda c, address: c.certificate(address)), use(lambda c, address: c.state(address))
    left = {"days_left"}
    assert {k: v for k, v in state.items() if k not in left} == found.model_dump(mode="json", exclude=left)


def test_an_address_that_is_none_is_not_found(use) -> None:
    """Nothing is asked."""
    with pytest.raises(NotFound, match="no-such"):
        use(lambda c, address: c.certificate("no-such"))


def test_nothing_can_be_changed(use) -> None:
    """There is no action, and what is tried is refused."""
    call = Call(capability="c", action="renew", target="127.0.0.1:443")

    async def plan(reader: Certificates, address: str) -> None:
        reader.plan(call, {})

    with pytest.raises(NotFound, match="no action 'renew'"):
        use(plan)
    with pytest.raises(Refused, match="only read"):
        use(lambda c, address: c.apply(call, "key", 1))


def test_ping_says_whom_we_trust(use, request) -> None:
    """One line: there is nothing to reach before an address is named."""
    said = use(lambda one, address: one.ping())
    assert ("in memory" if request.node.callspec.params["use"] == "fake" else "authority.pem; reads") in said
