"""Whatever stands between rbkit and a secret in Vault is said in words, and the secret never is."""

import asyncio
import json
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from servers.vault import CANARY, Place, pod_claims, signed, vaults, write_logins

from rbkit.adapters.vault import Vault, VaultSettings
from rbkit.adapters.vault_issuer import VaultIssuer
from rbkit.adapters.vault_sources import VaultCredentials, VaultSecrets
from rbkit.clock import FakeClock
from rbkit.errors import SecretError, SettingsError
from rbkit.testing.double import Answer
from rbkit.testing.vault import VaultDouble
from rbkit.tokens import Order, issue, receive

CALM = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ORDER = Order("20260101-000000-aaaaaa", "checkout", "os:test", ())


@pytest.fixture(scope="module")
def shared() -> Iterator[Place]:
    """A double with a secret in it."""
    with vaults("double") as found:
        found.put("app/pager", token=CANARY, number=7, empty="")
        yield found


@pytest.fixture
def place(shared: Place) -> Place:
    """The double as it was at first."""
    assert shared.double
    shared.double.failures.clear()
    shared.double.requests.clear()
    shared.double.sealed = False
    shared.clock = shared.double.clock = FakeClock(shared.clock.now())
    shared.double.tokens.clock = shared.clock
    return shared


def double_of(place: Place) -> VaultDouble:
    """The double itself."""
    assert place.double
    return place.double


def pager(place: Place, **options: Any) -> Any:
    """Fetch the secret."""
    return VaultSecrets(place.vault(**options)).fetch(f"{place.mount}/app/pager#token").get_secret_value()


def asked(place: Place) -> list[str]:
    """List the paths that were asked for."""
    return [request.path.removeprefix("/v1/") for request in double_of(place).requests]


def known(url: str, **options: Any) -> Vault:
    """Make an access with a given token."""
    found = VaultSettings.read({"url": url, "login": "token", "token": "ref:token", "patience": "1s", **options})
    return Vault(found, lambda name: SecretStr("hvs.login"), clock=FakeClock())


def read(url: str, **options: Any) -> Any:
    """Fetch a secret from something that may be no Vault."""
    return VaultSecrets(known(url, **options)).fetch("kv/pager#token")


@pytest.mark.parametrize("status", [412, 429, 472, 473, 500, 502, 503, 504])
def test_a_vault_that_is_not_able_now_is_asked_again(place, status):
    """What passes by itself is waited for: an election, a restart, a limit."""
    vault = place.vault()
    double_of(place).failures = [status, status]
    assert VaultSecrets(vault).fetch(f"{place.mount}/app/pager#token").get_secret_value() == CANARY


@pytest.mark.parametrize("status", [429, 500, 503])
def test_the_wait_has_an_end(place, status):
    """After the patience that is set the last failure is told, with its status; nothing stands in."""
    vault, before = place.vault(), place.clock.monotonic()
    double_of(place).failures = [status] * 100
    with pytest.raises(SecretError, match=rf"is not able to log in by approle now \(status {status}\)") as caught:
        VaultSecrets(vault).fetch(f"{place.mount}/app/pager#token")
    assert 5 <= place.clock.monotonic() - before < 8 and "Nothing stands in" in caught.value.todo


def test_a_vault_that_asks_to_be_left_alone_is(place):
    """Retry-After is kept to, up to ten seconds; anything else in it is not."""
    vault = place.vault(patience="1m")
    double_of(place).failures = [Answer(429, {"errors": ["quota"]}, {"Retry-After": "7"})]
    before = place.clock.monotonic()
    assert VaultSecrets(vault).fetch(f"{place.mount}/app/pager#token")
    assert 7 <= place.clock.monotonic() - before < 8
    for odd in ("3600", "Wed, 21 Oct 2026 07:28:00 GMT", "-1", "1e9", "²"):
        double_of(place).failures = [
            Answer(429, {"errors": ["quota"]}, {"Retry-After": odd.encode().decode("latin-1")})
        ]
        before = place.clock.monotonic()
        assert VaultSecrets(vault).fetch(f"{place.mount}/app/pager#token")
        assert place.clock.monotonic() - before <= 10


def test_a_sealed_vault_is_waited_for(place):
    """Somebody unseals it in time, and the secret is read."""
    double, vault = double_of(place), place.vault()
    double.sealed = True
    vault.clock = FakeClock(place.clock.now(), on_sleep=lambda seconds: setattr(double, "sealed", False))
    assert VaultSecrets(vault).fetch(f"{place.mount}/app/pager#token").get_secret_value() == CANARY


def test_a_vault_that_stays_sealed_hands_out_nothing(place):
    """Not even what it handed out before."""
    secrets = VaultSecrets(place.vault())
    assert secrets.fetch(f"{place.mount}/app/pager#token")
    double_of(place).sealed = True
    with pytest.raises(SecretError, match="is sealed"):
        secrets.fetch(f"{place.mount}/app/pager#token")


@pytest.mark.parametrize(
    ("status", "why"),
    [(307, "sends elsewhere"), (400, "refuses to read"), (401, "permission denied"), (405, "refuses to read"),
     (418, "refuses to read"), (501, "is not initialised"), (202, "no usable answer"), (204, "no key-value store")],
)  # fmt: skip
def test_what_does_not_pass_is_told_at_once(place, status, why):
    """No second attempt is made where it cannot help; a redirect is not followed with a token in hand."""
    vault = place.vault()
    VaultSecrets(vault).fetch(f"{place.mount}/app/pager#token")
    double_of(place).requests.clear()
    headers = {"Location": double_of(place).url}
    double_of(place).failures = [Answer(status, None if status == 204 else {"errors": [CANARY]}, headers)]
    with pytest.raises(SecretError, match=why) as caught:
        VaultSecrets(vault).fetch(f"{place.mount}/app/pager#token")
    assert len(asked(place)) == 1 and CANARY not in str(caught.value)


ODD = [
    "", "<html>login</html>", "[]", '"x"', "null", "7", "[" * 100_000, "{", '{"data": []}', '{"data": {"data": []}}',
    '{"data": {"data": {}}}', '{"data": {"data": {"token": null}}}', '{"data": {"data": {"token": [1]}}}', "\xff",
]  # fmt: skip


@pytest.mark.parametrize("body", ODD, ids=lambda body: f"{body!r:.20}")
def test_an_answer_that_is_none_is_told(server, body):
    """A login page, lists, nothing, half a JSON: each is a secret that cannot be had."""
    answer = server.text(body, headers="Content-Type: application/json\r\n")
    with pytest.raises(SecretError, match=r"usable answer|key-value store|is not there|holds no text"):
        answer.use(lambda url: asyncio.to_thread(read, url))


@pytest.mark.parametrize("body", ["[]", '{"errors": [1, {}]}', '{"errors": "x"}', '{"errors": null}', "7", "<html>"])
@pytest.mark.parametrize("status", [400, 403, 404, 500])
def test_an_error_that_is_odd_is_still_an_error(server, status, body):
    """Whatever an error looks like inside, no exception of a library comes out."""
    answer = server.text(body, status=status, headers="Content-Type: application/json\r\n")
    with pytest.raises(SecretError):
        answer.use(lambda url: asyncio.to_thread(read, url))


def test_an_answer_that_drips_is_cut_off(server):
    """A body that never ends is ended, and what came of it is not used."""
    server.reply, server.silent = b"HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\n{", True
    with pytest.raises(SecretError, match="did not answer in time to read kv/pager"):
        server.use(lambda url: asyncio.to_thread(read, url, timeout="300ms", patience="1ms"))


def test_a_head_that_drips_is_cut_off():
    """Every byte comes in time and the whole does not: what is under way is ended from outside."""
    over = list[asyncio.Task[None]]()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while not reader.at_eof():
                writer.write(b"X")
                await writer.drain()
                with suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1000), 0.05)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async def work() -> Any:
        def taken(*streams: Any) -> None:
            over.append(asyncio.ensure_future(drip(*streams)))

        async with await asyncio.start_server(taken, "127.0.0.1", 0) as listening:
            url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
            try:
                await asyncio.to_thread(read, url, timeout="300ms", patience="1ms")
            finally:
                await asyncio.gather(*over)

    with pytest.raises(SecretError, match="did not answer in time"):
        asyncio.run(work())


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (b"", "cannot be reached"),
        (b"nonsense\r\n\r\n", "cannot be reached"),
        (b"HTTP/1.1 200 X\r\nContent-Length: 99\r\n\r\n{", "cannot be reached"),
        (b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "cannot be reached"),
        (b"HTTP/1.1 200 X\r\nContent-Length: 3\r\nContent-Encoding: gzip\r\n\r\nabc", "cannot be asked"),
    ],
)
@pytest.mark.parametrize("reset", [False, True])
def test_a_broken_connection_is_told(server, reply, why, reset):
    """Ended early, reset, no HTTP, broken pieces: it is said that Vault was not reached, and how."""
    server.reply, server.reset = reply, reset
    with pytest.raises(SecretError, match="cannot be"):
        server.use(lambda url: asyncio.to_thread(read, url, patience="1ms"))


def test_nobody_there_is_told(nobody):
    """An address where nobody listens is named."""
    with pytest.raises(SecretError, match=f"{nobody} cannot be reached to read kv/pager: ConnectionError"):
        read(nobody)


def test_an_answer_larger_than_any_secret_is_not_read(server):
    """A few megabytes are enough; the rest is not waited for."""
    server.reply = (part for part in [b"HTTP/1.1 200 X\r\n\r\n", *[b" " * 1_000_000] * 50])
    with pytest.raises(SecretError, match="more than any secret holds"):
        server.use(lambda url: asyncio.to_thread(read, url))


def test_a_token_that_is_no_header_is_not_shown(nobody):
    """A library that refuses to send it repeats it in its error; rbkit does not."""
    found = VaultSettings.read({"url": nobody, "login": "token", "token": "ref:token"})
    with pytest.raises(SecretError, match="cannot be asked to read kv/pager: InvalidHeader") as caught:
        VaultSecrets(Vault(found, lambda name: SecretStr(f"{CANARY}\n"))).fetch("kv/pager#token")
    assert CANARY not in shown(caught.value)


def test_the_environment_says_nothing_to_the_connection(place, monkeypatch, tmp_path):
    """No proxy, no token, no address, no netrc of the shell is used."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".vault-token").write_text("hvs.home")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "VAULT_ADDR"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("VAULT_TOKEN", "hvs.shell")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/file")
    assert pager(place) == CANARY
    sent = [request.headers for request in double_of(place).requests if request.path.endswith("/login")]
    assert sent and all("x-vault-token" not in headers and "authorization" not in headers for headers in sent)


def test_only_a_vault_that_is_trusted_is_asked(tmp_path):
    """A certificate that nobody vouches for is refused; with its CA file it is taken."""
    with VaultDouble(FakeClock()) as double:
        certificate = _https(double, tmp_path)
        url = double.url.replace("http:", "https:")
        vault = known(url)
        vault._own = SecretStr(double.root.id)
        with pytest.raises(SecretError, match="is not trusted"):
            VaultSecrets(vault).fetch("kv/pager#token")
        vault.settings = vault.settings.model_copy(update={"ca": str(certificate)})
        with pytest.raises(SecretError, match="There is nothing to read kv/pager"):
            VaultSecrets(vault).fetch("kv/pager#token")


def _https(double: VaultDouble, folder: Path) -> Path:
    """Let a double speak TLS with a certificate of its own making."""
    import ssl
    from datetime import UTC, datetime, timedelta
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "vault")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.KeyUsage(True, False, False, False, False, True, True, False, False), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = folder / "vault.pem"
    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    double._server.socket = context.wrap_socket(double._server.socket, server_side=True)
    return pem


@pytest.mark.parametrize(
    "reference",
    ["", "kv", "kv#token", "kv/pager", "kv/pager#", "#token", "/pager#token", "kv//pager#token", "kv/../sys#token",
     "kv/./a#token", "kv/a/#token", "kv/a\n#token", "kv/a\x00#token", "kv/ a#token", "../kv/a#token"],
)  # fmt: skip
def test_a_reference_of_another_form_is_refused_before_anything_is_asked(place, reference):
    """No path leads out of its mount; the text is not repeated, as it may be a secret."""
    with pytest.raises(SecretError, match="has not the right form") as caught:
        VaultSecrets(place.vault()).fetch(reference)
    assert "vault:MOUNT/PATH#FIELD" in caught.value.todo and "login" not in " ".join(asked(place))


@CALM
@given(path=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_a_path_arrives_as_it_was_written(shared, path):
    """Whatever is in it, Vault is asked for that place and no other, or nothing is asked."""
    double = double_of(shared)
    double.requests.clear()
    vault = Vault(
        VaultSettings.read({"url": shared.url, "login": "token", "token": "ref:token"}),
        lambda name: SecretStr(shared.root), clock=FakeClock(),
    )  # fmt: skip
    with pytest.raises(SecretError):
        VaultSecrets(vault).fetch(f"kv/{path}#token")
    assert [unquote(request.path) for request in double.requests] in ([], [f"/v1/kv/data/{path}"])


def test_a_mount_with_a_slash_is_named_in_the_settings(place):
    """The longest part of a reference that is a mount is its mount."""
    with place.root_client() as root:
        root.sys.enable_secrets_engine("kv", path="team/kv", options={"version": "2"})
        root.secrets.kv.v2.create_or_update_secret("pager", {"token": CANARY}, mount_point="team/kv")
    vault = place.vault(mounts=["team/kv/"], own=SecretStr(place.root))
    assert VaultSecrets(vault).fetch("team/kv/pager#token").get_secret_value() == CANARY


@pytest.mark.parametrize(("name", "why"), [("nobody", "is not there"), ("empty", "empty"), ("number", "holds no text")])
def test_a_field_that_is_no_secret_is_refused(place, name, why):
    """Missing, empty and anything but text; the other fields are not named."""
    with pytest.raises(SecretError, match=why) as caught:
        VaultSecrets(place.vault()).fetch(f"{place.mount}/app/pager#{name}")
    assert CANARY not in str(caught.value) and "token" not in caught.value.what


def test_a_destroyed_secret_is_told(place):
    """It was there, and nothing brings it back."""
    place.put("app/burnt", token=CANARY)
    with place.root_client() as root:
        root.secrets.kv.v2.destroy_secret_versions("app/burnt", [1], mount_point=place.mount)
    with pytest.raises(SecretError, match="it was destroyed"):
        VaultSecrets(place.vault()).fetch(f"{place.mount}/app/burnt#token")


def test_one_login_serves_until_it_ends(place):
    """Shortly before its end, and not before, a new one is made."""
    secrets = VaultSecrets(place.vault())
    for _ in range(3):
        secrets.fetch(f"{place.mount}/app/pager#token")
    logins = [path for path in asked(place) if path.endswith("/login")]
    assert len(logins) == 1
    place.clock.advance(3600 - 9)
    secrets.fetch(f"{place.mount}/app/pager#token")
    assert len([path for path in asked(place) if path.endswith("/login")]) == 2


def test_a_login_that_dies_in_use_is_made_again(place):
    """Somebody revoked it, or the clock of Vault runs otherwise: one more login, and the secret is there."""
    vault = place.vault()
    secrets = VaultSecrets(vault)
    secrets.fetch(f"{place.mount}/app/pager#token")
    token = next(one for one in double_of(place).tokens.living.values() if one.path.endswith("/login"))
    for one in list(double_of(place).tokens.living.values()):
        if one.path == token.path:
            double_of(place).tokens.end(one)
    assert secrets.fetch(f"{place.mount}/app/pager#token").get_secret_value() == CANARY


def test_a_login_that_dies_in_use_and_cannot_be_made_again_is_told(place):
    """What the second login meets is said."""
    vault = place.vault()
    secrets = VaultSecrets(vault)
    secrets.fetch(f"{place.mount}/app/pager#token")
    double = double_of(place)
    for one in [one for one in double.tokens.living.values() if one.path.endswith("/login")]:
        double.tokens.end(one)
    vault._reference = lambda name: SecretStr("gone")
    with pytest.raises(SecretError, match="refuses to log in"):
        secrets.fetch(f"{place.mount}/app/pager#token")


def test_a_denial_costs_no_second_login(place):
    """A living token that may not read something is not thrown away: a secret_id may have few uses."""
    vault = place.vault()
    secrets = VaultSecrets(vault)
    secrets.fetch(f"{place.mount}/app/pager#token")
    double_of(place).requests.clear()
    with pytest.raises(SecretError, match="capability 'read'"):
        secrets.fetch(f"{place.mount}/other#token")
    assert asked(place) == [f"{place.mount}/data/other", "auth/token/lookup-self"]


def test_a_token_that_was_given_and_is_over_is_told(place):
    """There is nothing to log in with."""
    with pytest.raises(SecretError, match="permission denied"):
        VaultSecrets(place.vault(own=SecretStr("hvs.over"))).fetch(f"{place.mount}/app/pager#token")


def test_a_login_is_ended_when_the_process_leaves(place):
    """Nothing that it made lives on; a token that was given is left alone, and so is a Vault never asked."""
    vault = place.vault()
    double_of(place).requests.clear()
    vault.leave()
    assert asked(place) == []
    VaultSecrets(vault).fetch(f"{place.mount}/app/pager#token")
    vault.leave()
    assert asked(place)[-1] == "auth/token/revoke-self"
    given = place.vault(own=SecretStr(place.root))
    VaultSecrets(given).fetch(f"{place.mount}/app/pager#token")
    given.leave()
    assert asked(place)[-1] != "auth/token/revoke-self"


@pytest.mark.parametrize(
    "auth", [None, [], {}, {"client_token": ""}, {"client_token": 7, "lease_duration": 5}, {"client_token": "x"}]
)
def test_a_login_that_gives_no_token_is_told(place, auth):
    """An odd answer is not taken for a login."""
    vault = place.vault(patience="1ms")
    double_of(place).failures = [Answer(200, {"auth": auth})]
    with pytest.raises(SecretError, match="no usable answer to log in by approle"):
        VaultSecrets(vault).fetch(f"{place.mount}/app/pager#token")


def test_a_login_without_an_end_is_kept(place):
    """A lease of zero seconds means for ever."""
    vault = place.vault()
    auth = {"client_token": place.root, "lease_duration": 0}
    double_of(place).failures = [Answer(200, {"auth": auth})]
    assert VaultSecrets(vault).fetch(f"{place.mount}/app/pager#token")
    place.clock.advance(10_000_000)
    assert VaultSecrets(vault).fetch(f"{place.mount}/app/pager#token")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Answer(200, {"data": None}), "no usable answer"),
        (Answer(200, {"data": {"secret_id": 7}}), "no usable answer"),
        (Answer(500, {"errors": []}), r"status 500"),
    ],
)
def test_a_wrapped_secret_id_is_never_opened_twice(place, answer, why):
    """When no usable answer came it may be open: a second attempt would look like a theft."""
    vault = place.vault(wrapped=True, known={"ref:secret": place.secret_id(wrap_ttl="60s")})
    double_of(place).requests.clear()
    double_of(place).failures = [answer]
    with pytest.raises(SecretError, match=why):
        VaultSecrets(vault).fetch(f"{place.mount}/app/pager#token")
    assert asked(place) == ["sys/wrapping/unwrap"]


def test_a_wrapped_secret_id_waits_for_a_sealed_vault(place):
    """A sealed Vault opened nothing, so it is asked again."""
    vault = place.vault(wrapped=True, known={"ref:secret": place.secret_id(wrap_ttl="60s")})
    double_of(place).failures = [503]
    assert VaultSecrets(vault).fetch(f"{place.mount}/app/pager#token")


@pytest.mark.parametrize("login", ["jwt", "kubernetes"])
def test_a_signed_token_logs_in(place, tmp_path, login):
    """It is read from its file at each login; the file of a pod may be read by everybody in it."""
    write_logins(place)
    file = tmp_path / "token"
    file.write_text(signed(pod_claims(place.clock.now().timestamp())) + "\n")
    settings_ = VaultSettings.read({"url": place.url, "login": login, "role": "pods", "jwt_file": str(file)})
    vault = Vault(settings_, lambda name: SecretStr(""), clock=place.clock)
    assert VaultSecrets(vault).fetch(f"{place.mount}/app/pager#token").get_secret_value() == CANARY


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe", b"x" * 65_537])
def test_a_file_without_a_signed_token_is_told(place, tmp_path, content):
    """Missing, empty, no text, huge: the file is named, and what is in it is not."""
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    settings_ = VaultSettings.read({"url": place.url, "login": "jwt", "role": "pods", "jwt_file": str(file)})
    with pytest.raises(SecretError, match=f"The file {file} cannot be read or holds no signed token"):
        VaultSecrets(Vault(settings_, lambda name: SecretStr(""))).fetch("kv/a#b")


def test_a_user_name_and_its_password_belong_together(place):
    """Both come from one account; whoever asks for either again gets a new account."""
    double = double_of(place)
    double.database.role("readers", 600, 3600)
    made = VaultCredentials(place.vault())
    user, password = (made.fetch(f"readers#{name}").get_secret_value() for name in ("username", "password"))
    assert double.database.accounts[user] == password
    again = made.fetch("database/readers#username").get_secret_value()
    third = made.fetch("readers#password").get_secret_value()
    assert len({user, again}) == 2 and third != password and double.database.accounts[again] != third


def test_credentials_that_are_about_to_end_are_not_handed_out(place):
    """A password is asked for long after its user name: both are made anew."""
    double = double_of(place)
    double.database.role("readers", 60, 3600)
    made = VaultCredentials(place.vault())
    user = made.fetch("readers#username").get_secret_value()
    place.clock.advance(31)
    password = made.fetch("readers#password").get_secret_value()
    assert double.database.accounts[user] != password and password in double.database.accounts.values()


@pytest.mark.parametrize("reference", ["", "readers", "readers#", "readers#token", "#username", "a/../b#username"])
def test_credentials_are_named_in_one_form(place, reference):
    """Anything else is refused before anything is asked."""
    with pytest.raises(SecretError, match="has not the right form"):
        VaultCredentials(place.vault()).fetch(reference)
    assert "login" not in " ".join(asked(place))


def test_credentials_that_cannot_be_made_are_told(place):
    """An unknown role, and an answer that holds none."""
    made = VaultCredentials(place.vault())
    assert "127.0.0.1" in f"{made!r}"
    with pytest.raises(SecretError, match="refuses to make credentials of nobody"):
        made.fetch("nobody#username")
    double_of(place).failures = [Answer(200, {"data": None, "lease_duration": 0})]
    with pytest.raises(SecretError, match="made no credentials of readers"):
        made.fetch("readers#username")


def issuer_of(place: Place, **options: Any) -> VaultIssuer:
    """Make an issuer."""
    return VaultIssuer(place.vault(**options))


def order(place: Place) -> Order:
    """Say for which run a token is."""
    return Order(ORDER.run, ORDER.runbook, ORDER.actor, (place.policy,))


def test_a_token_is_ended_as_soon_as_a_sealed_vault_is_open_again(place):
    """A seal in the wrong moment is waited for."""
    double, vault = double_of(place), place.vault()
    issued = issue(VaultIssuer(vault), order(place), 600)
    double.sealed = True
    vault.clock = FakeClock(place.clock.now(), on_sleep=lambda seconds: setattr(double, "sealed", False))
    VaultIssuer(vault).revoke(issued.accessor)
    assert double.tokens.find(issued.accessor) is None


def test_a_token_that_cannot_be_ended_is_told_and_can_be_ended_later(place):
    """A Vault that stays sealed is an error; the next process that tries succeeds."""
    issued = issue(issuer_of(place), order(place), 600)
    double_of(place).sealed = True
    with pytest.raises(SecretError, match="is sealed"):
        issuer_of(place, known={"ref:secret": "unused"}).revoke(issued.accessor)
    double_of(place).sealed = False
    issuer_of(place).revoke(issued.accessor)
    assert double_of(place).tokens.find(issued.accessor) is None


@pytest.mark.parametrize(
    ("status", "errors", "fine"),
    [(400, ["token not found"], True), (403, ["invalid accessor"], True), (404, ["invalid accessor"], True),
     (400, ["missing accessor"], False), (405, ["invalid accessor"], False)],
)  # fmt: skip
def test_the_words_of_older_vaults_are_understood(place, status, errors, fine):
    """A token that is over is told in several ways; any other refusal is one."""
    issuer = issuer_of(place)
    issuer._vault.call(_look(), lambda client: client.auth.token.lookup_self())
    double_of(place).failures = [Answer(status, {"errors": errors})]
    if fine:
        issuer.revoke("acc-1")
        return
    with pytest.raises(SecretError, match="refuses to end the run's token"):
        issuer.revoke("acc-1")


def _look() -> Any:
    from rbkit.adapters.vault_errors import Need

    return Need("look at the login", "auth/token/lookup-self", "read")


def test_an_opening_without_an_answer_is_no_theft(place):
    """It may be open or not: that is said, it is not tried again, and no alarm is raised."""
    issuer = issuer_of(place)
    issued = issue(issuer, order(place), 600)
    double_of(place).requests.clear()
    double_of(place).failures = [Answer(200, {"data": {"creation_path": "auth/token/create"}}), 500]
    with pytest.raises(SecretError, match=r"not able to open the handed-over token now \(status 500\)") as caught:
        receive(issuer, issued.wrapped, issued.accessor)
    assert type(caught.value) is SecretError and len(asked(place)) == 2


@pytest.mark.parametrize("auth", [None, {}, {"accessor": "a"}, {"accessor": 1, "client_token": 2}])
def test_a_wrapping_that_holds_no_token_is_told(place, auth):
    """Something else was handed over."""
    issuer = issuer_of(place)
    double_of(place).failures = [Answer(200, {"data": {"x": 1}, "auth": auth})]
    with pytest.raises(SecretError, match="is no token"):
        issuer.unwrap(SecretStr("hvs.wrapping"))


def test_a_look_at_a_wrapping_that_fails_is_told(place):
    """A Vault that is away says nothing about a theft."""
    issuer = issuer_of(place)
    double_of(place).sealed = True
    with pytest.raises(SecretError, match="is sealed"):
        issuer.creation(SecretStr("hvs.wrapping"))


@pytest.mark.parametrize("info", [None, {}, {"token": "x"}, {"token": 1, "wrapped_accessor": 2}])
def test_a_token_that_was_not_wrapped_is_not_used(place, info):
    """A Vault that ignores the wrapping would put the token in the open."""
    issuer = issuer_of(place)
    facts = {"data": {"renewable": True, "ttl": 10}}
    login = {"auth": {"client_token": place.root, "lease_duration": 0}}
    double_of(place).failures = [Answer(200, body) for body in (login, facts, {"wrap_info": info})]
    with pytest.raises(SecretError, match="did not wrap it"):
        issue(issuer, order(place), 600)


@pytest.mark.parametrize(
    ("facts", "fine"),
    [
        ({"renewable": True, "ttl": 10, "explicit_max_ttl": 0, "expire_time": "t"}, True),
        ({"renewable": False, "ttl": 0, "explicit_max_ttl": 0, "expire_time": None}, True),
        ({"renewable": False, "ttl": 599, "explicit_max_ttl": 0, "expire_time": "t"}, False),
        ({"renewable": False, "ttl": 600, "explicit_max_ttl": 600, "expire_time": "t"}, True),
        ({"renewable": True, "ttl": 10, "creation_ttl": 100, "explicit_max_ttl": 600, "expire_time": "t"}, False),
        ({"renewable": True, "ttl": 100, "creation_ttl": 100, "explicit_max_ttl": 600, "expire_time": "t"}, True),
        (None, False),
    ],
)
def test_a_login_that_ends_before_the_run_makes_no_token(place, facts, fine):
    """A child would end with it, in the middle of the run: that is said at the start."""
    issuer = issuer_of(place)
    login = {"auth": {"client_token": place.root, "lease_duration": 0}}
    double_of(place).failures = [Answer(200, login), Answer(200, {"data": facts})]
    if fine:
        assert issue(issuer, order(place), 600).accessor
        return
    with pytest.raises(SecretError, match=r"The login to Vault ends in \d+ s; the run may take 600 s"):
        issue(issuer, order(place), 600)


def test_renewing_keeps_the_login_alive_too(place):
    """A child ends with its parent: both are renewed, so that a run outlives the login's first hour."""
    vault = place.vault()
    issuer = VaultIssuer(vault)
    issued = issue(issuer, order(place), 10_000)
    for _ in range(80):
        place.clock.advance(100)
        assert issuer.extend(issued.accessor, 120) == 120
    assert double_of(place).tokens.find(issued.accessor)


def test_a_renewal_does_not_wait(place):
    """The keeper comes again by itself: a Vault that is away is told at once."""
    issuer = issuer_of(place)
    issued = issue(issuer, order(place), 600)
    before = place.clock.monotonic()
    double_of(place).sealed = True
    with pytest.raises(SecretError, match="is sealed"):
        issuer.extend(issued.accessor, 120)
    assert place.clock.monotonic() == before


GOOD: dict[str, Any] = {"url": "https://vault.example:8200", "role_id": "env:A", "secret_id": "env:B"}


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"url": "vault.example"}, "url must be an address"),
        ({"url": "https://"}, "url must be an address"),
        ({"url": f"https://me:{CANARY}@vault.example"}, "without a password"),
        ({"url": "http://vault.example:8200"}, "must begin with https"),
        ({"login": "ldap"}, "vault.login: Input should be"),
        ({"login": "jwt"}, "login jwt needs role"),
        ({"login": "token"}, "login token needs token"),
        ({"role_id": "", "secret_id": ""}, "login approle needs role_id and secret_id"),
        ({"timeout": "5"}, r"vault.timeout: '5' is no duration"),
        ({"patience": CANARY[:1]}, "vault.patience"),
        ({"passwort": CANARY}, "vault.passwort: Extra inputs"),
        ({"url": 7}, "vault.url"),
    ],
)  # fmt: skip
def test_a_wrong_section_is_refused_by_key(wrong, why):
    """Which key is wrong is said, and never what stands there."""
    with pytest.raises(SettingsError, match=why) as caught:
        VaultSettings.read({**GOOD, **wrong})
    assert CANARY not in shown(caught.value)


def test_a_section_that_is_right_is_taken():
    """Every way to log in has what it needs; a Vault on this machine may speak plain HTTP."""
    for more in (
        {},
        {"login": "kubernetes", "role": "r"},
        {"login": "token", "token": "env:T"},
        {"url": "http://[::1]:1"},
    ):
        assert VaultSettings.read({**GOOD, **more}).timeout == "5s"


def test_a_missing_package_is_named(monkeypatch, nobody):
    """Vault is an extra: what to install is said."""
    monkeypatch.setitem(sys.modules, "rbkit.adapters.vault_http", None)
    with pytest.raises(SettingsError, match="needs the package hvac"):
        read(nobody)


def test_a_vault_shows_its_address_only(place):
    """Nothing that opens anything is in what a log may hold of it."""
    vault = place.vault()
    VaultSecrets(vault).fetch(f"{place.mount}/app/pager#token")
    assert f"{vault!r} {VaultSecrets(vault)!r} {VaultIssuer(vault)!r}".count(place.url) == 3
    assert CANARY not in shown(vault) and place.root not in shown(vault)


def shown(thing: Any) -> str:
    """Write everything that a traceback, a log or a debugger's repr may show of a value or an error and its causes."""
    parts = [str(thing), repr(thing)]
    while isinstance(thing, BaseException):
        parts += [str(thing), repr(thing), *traceback.format_exception(thing), str(vars(thing))]
        thing = thing.__cause__ or thing.__context__
    return "\n".join(parts)


def _failures() -> dict[str, list[Any]]:
    echo = {"errors": [f"you sent {CANARY} and hvs.login"], "data": {"data": {"token": [CANARY]}}}
    return {
        "echoed by an error": [Answer(status, echo) for status in (400,)],
        "echoed by a denial": [Answer(403, echo), Answer(403, echo)],
        "echoed by a seal": [Answer(503, echo)] * 60,
        "echoed by a missing path": [Answer(404, echo)],
        "echoed by a page": [Answer(400, f"<html>{CANARY} hvs.login", {"Content-Type": "text/html"})],
        "in a value of the wrong kind": [Answer(200, echo)],
        "in half a JSON": [Answer(200, json.dumps(echo)[:-3])],
        "in a list": [Answer(200, [CANARY])],
        "in a redirect": [Answer(307, echo, {"Location": f"http://127.0.0.1:9/{CANARY}"})],
        "in a strange wait": [Answer(429, echo, {"Retry-After": CANARY})] * 60,
    }


@pytest.mark.parametrize("failing", _failures().items(), ids=lambda pair: pair[0])
def test_a_secret_is_in_no_error_log_or_traceback(place, failing, caplog):
    """Whatever goes wrong after a secret was seen, nothing that is written anywhere holds it, or a token."""
    caplog.set_level(logging.DEBUG)
    secrets = VaultSecrets(known(place.url))
    double_of(place).failures = list(failing[1])
    with pytest.raises(SecretError) as caught:
        secrets.fetch("kv/pager#token")
    everything = shown(caught.value) + "\n".join(f"{record.getMessage()} {record.args!r}" for record in caplog.records)
    assert CANARY not in everything and "hvs.login" not in everything
    assert caught.value.__context__ is None and caught.value.__cause__ is None
