"""Every source of secrets, in memory or real, keeps the same promises; and so do the tokens of runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keyring.backend
import pytest
from pydantic import SecretStr
from servers.vault import KINDS, Place, vaults

from rbkit.adapters.fakes import FakeSecrets
from rbkit.adapters.secrets import EnvironmentSecrets, FileSecrets, KeyringSecrets
from rbkit.adapters.vault_issuer import VaultIssuer
from rbkit.adapters.vault_sources import VaultSecrets
from rbkit.errors import SecretError
from rbkit.tokens import Intercepted, Order, issue, receive


class Ring(keyring.backend.KeyringBackend):
    """A keyring in memory."""

    priority = 1

    def __init__(self, values: dict[tuple[str, str], str]) -> None:
        super().__init__()
        self.values = values

    def get_password(self, service: str, username: str) -> str | None:
        """Look a secret up."""
        return self.values.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        """Keep a secret."""
        self.values[service, username] = password


@pytest.fixture(scope="module", params=KINDS)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """A Vault with a secret in it."""
    with vaults(request.param) as found:
        found.put("app/pager", token="hunter2")
        yield found


@pytest.fixture(params=["fake", "env", "file", "keyring", *KINDS])
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A source that holds `token` and nothing else, and the place of it."""
    if request.param in KINDS:
        with vaults(request.param) as found:
            found.put("app/pager", token="hunter2")
            yield VaultSecrets(found.vault()), f"{found.mount}/app/pager#token"
        return
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_text("hunter2\n")
    (tmp_path / "token").chmod(0o600)
    made = {
        "fake": (FakeSecrets({"token": "hunter2"}), "token"),
        "env": (EnvironmentSecrets({"token": "hunter2"}), "token"),
        "file": (FileSecrets(), "token"),
        "keyring": (KeyringSecrets(Ring({("pager", "token"): "hunter2"})), "pager/token"),
    }
    yield made[request.param]


def test_a_secret_is_handed_out_and_never_shown(source) -> None:
    """The value comes in a wrapper that masks itself."""
    secrets, place = source
    found = secrets.fetch(place)
    assert found.get_secret_value() == "hunter2" and "hunter2" not in f"{found} {found!r} {secrets!r}"


def test_a_secret_that_is_not_there_is_an_error(source) -> None:
    """The reference is named, its neighbours are not, and nothing is returned in its place."""
    secrets, place = source
    with pytest.raises(SecretError, match="tokem") as caught:
        secrets.fetch(place.replace("token", "tokem"))
    assert caught.value.exit_code == 5 and "hunter2" not in str(caught.value)


def test_a_secret_is_looked_up_each_time(place) -> None:
    """What was changed in Vault is read changed: nothing is kept from before."""
    secrets = VaultSecrets(place.vault())
    place.put("app/rotated", token="first")
    assert secrets.fetch(f"{place.mount}/app/rotated#token").get_secret_value() == "first"
    place.put("app/rotated", token="second")
    assert secrets.fetch(f"{place.mount}/app/rotated#token").get_secret_value() == "second"


def test_a_deleted_secret_is_told_from_one_that_never_was(place) -> None:
    """Somebody who looks for it learns that it was there."""
    secrets = VaultSecrets(place.vault())
    place.put("app/gone", token="hunter2")
    with place.root_client() as root:
        root.secrets.kv.v2.delete_latest_version_of_secret("app/gone", mount_point=place.mount)
    with pytest.raises(SecretError, match=r"app/gone in Vault: it was deleted at \d{4}-"):
        secrets.fetch(f"{place.mount}/app/gone#token")
    with pytest.raises(SecretError, match=r"app/never in Vault\. "):
        secrets.fetch(f"{place.mount}/app/never#token")


def test_a_missing_right_is_named(place) -> None:
    """The path and the capability that the policy lacks are said."""
    place.put("other/pager", token="hunter2")
    with pytest.raises(SecretError, match=rf"capability 'read' on {place.mount}/data/other/pager"):
        VaultSecrets(place.vault()).fetch(f"{place.mount}/other/pager#token")


def test_a_wrong_secret_id_is_refused(place) -> None:
    """Who cannot log in gets no secret; what one logs in with is not repeated."""
    vault = place.vault(known={"ref:secret": "wr0ng-secret-id"})
    with pytest.raises(SecretError, match="refuses to log in by approle") as caught:
        VaultSecrets(vault).fetch(f"{place.mount}/app/pager#token")
    assert "wr0ng" not in str(caught.value)


def test_a_wrapped_secret_id_is_opened_once(place) -> None:
    """It logs in, is kept in memory for the next login, and serves nobody else."""
    wrapped = place.secret_id(wrap_ttl="60s")
    vault = place.vault(wrapped=True, known={"ref:secret": wrapped})
    assert VaultSecrets(vault).fetch(f"{place.mount}/app/pager#token").get_secret_value() == "hunter2"
    vault.leave()
    assert VaultSecrets(vault).fetch(f"{place.mount}/app/pager#token").get_secret_value() == "hunter2"
    late = place.vault(wrapped=True, known={"ref:secret": wrapped})
    with pytest.raises(SecretError, match="it was opened before, or its time is over"):
        VaultSecrets(late).fetch(f"{place.mount}/app/pager#token")


def order(place: Place) -> Order:
    """Say for which run a token is."""
    return Order("20260101-000000-aaaaaa", "checkout", "os:test", (place.policy,))


def test_the_token_of_a_run_serves_the_run_alone(place) -> None:
    """It is opened once, reads what its policies allow, carries the run's name, and ends when it is ended."""
    issuer = VaultIssuer(place.vault())
    issued = issue(issuer, order(place), 600)
    token = receive(issuer, issued.wrapped, issued.accessor)
    secrets = VaultSecrets(place.vault(own=token))
    assert secrets.fetch(f"{place.mount}/app/pager#token").get_secret_value() == "hunter2"
    with place.root_client() as root:
        facts = root.auth.token.lookup_accessor(issued.accessor)["data"]
    assert facts["meta"] == {"run": "20260101-000000-aaaaaa", "runbook": "checkout", "actor": "os:test"}
    assert (facts["orphan"], facts["explicit_max_ttl"], facts["creation_ttl"]) == (False, 600, 120)
    assert place.policy in facts["policies"]
    issuer.revoke(issued.accessor)
    with pytest.raises(SecretError, match="permission denied"):
        secrets.fetch(f"{place.mount}/app/pager#token")


def test_a_token_is_ended_twice_without_harm(place) -> None:
    """Ending a token that is over, or that never was, is no error: whoever is second need not know."""
    issuer = VaultIssuer(place.vault())
    issued = issue(issuer, order(place), 600)
    issuer.revoke(issued.accessor)
    issuer.revoke(issued.accessor)
    issuer.revoke("no-such-accessor")


def test_another_process_ends_the_token_with_a_login_of_its_own(place) -> None:
    """The accessor is enough: the reaper needs nothing that the dead process had."""
    issuer = VaultIssuer(place.vault())
    issued = issue(issuer, order(place), 600)
    token = receive(issuer, issued.wrapped, issued.accessor)
    VaultIssuer(place.vault()).revoke(issued.accessor)
    with pytest.raises(SecretError, match="permission denied"):
        VaultSecrets(place.vault(own=token)).fetch(f"{place.mount}/app/pager#token")


def test_a_second_opening_is_an_alarm(place) -> None:
    """The run learns that somebody else has its token."""
    issuer = VaultIssuer(place.vault())
    issued = issue(issuer, order(place), 600)
    thief = VaultIssuer(place.vault())
    assert thief.unwrap(issued.wrapped) is not None
    assert thief.unwrap(issued.wrapped) is None
    with pytest.raises(Intercepted, match="Somebody opened the token of the run"):
        receive(issuer, issued.wrapped, issued.accessor)


def test_something_else_in_its_place_is_an_alarm(place) -> None:
    """A wrapping that somebody made himself, or the token of another run, is not taken."""
    issuer = VaultIssuer(place.vault())
    issued, other = issue(issuer, order(place), 600), issue(issuer, order(place), 600)
    with place.root_client() as root:
        forged = root.sys.wrap({"client_token": "x"}, ttl=60)["wrap_info"]["token"]
    with pytest.raises(Intercepted, match="was not made as the token of a run"):
        receive(issuer, SecretStr(forged), issued.accessor)
    with pytest.raises(Intercepted, match="the token of something else"):
        receive(issuer, other.wrapped, issued.accessor)


def test_a_child_dies_with_its_parent(place) -> None:
    """When the login that made it is ended, the run's token is over, and renewing it says so."""
    vault = place.vault()
    issuer = VaultIssuer(vault)
    issued = issue(issuer, order(place), 600)
    token = receive(issuer, issued.wrapped, issued.accessor)
    vault.leave()
    with pytest.raises(SecretError, match="permission denied"):
        VaultSecrets(place.vault(own=token)).fetch(f"{place.mount}/app/pager#token")
    with pytest.raises(SecretError, match="renew the run's token"):
        VaultIssuer(place.vault()).extend(issued.accessor, 60)


def test_policies_that_the_login_has_not_are_not_handed_on(place) -> None:
    """A run's token is never more than a part of the login that makes it."""
    wider = Order("r", "b", "a", (place.policy, "not-mine"))
    with pytest.raises(SecretError, match="refuses to make a token for the run"):
        issue(VaultIssuer(place.vault()), wider, 600)


def test_a_token_is_renewed_and_never_beyond_its_longest_life(place) -> None:
    """A renewal gives what is asked for, cut at what the token may live at most."""
    issuer = VaultIssuer(place.vault())
    issued = issue(issuer, order(place), 200)
    assert 119 <= issuer.extend(issued.accessor, 120) <= 120
    assert 190 <= issuer.extend(issued.accessor, 1000) <= 200
