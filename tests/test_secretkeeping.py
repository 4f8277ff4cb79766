"""Secrets by their references; one login to Vault serves a whole environment, and a run has a token of its own."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr
from servers.vault import CANARY, Place, vaults

from rbkit import secretkeeping as module
from rbkit.adapters.vault_issuer import VaultIssuer
from rbkit.environment import Environment
from rbkit.errors import SecretError, SettingsError
from rbkit.secretkeeping import ACCESSOR, WRAPPED, Secrets, secret, vault_of
from rbkit.tokens import Intercepted, Order, issue


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A Vault that holds a secret, and variables to log in with."""
    with vaults("double") as found:
        found.put("app/pager", token=CANARY, other="second")
        monkeypatch.setenv("RBKIT_TEST_ROLE", found.role_id)
        monkeypatch.setenv("RBKIT_TEST_SECRET", found.secret_id())
        monkeypatch.setattr(module, "_opened", {})
        yield found


def environment(place: Place | None = None, **more: Any) -> Environment:
    """Describe an environment with that Vault, or with none."""
    vault = {
        "url": place.url, "mount": place.approle,
        "role_id": "env:RBKIT_TEST_ROLE", "secret_id": "env:RBKIT_TEST_SECRET",
    } if place else None  # fmt: skip
    return Environment.model_validate({"name": "test", "vault": vault and {**vault, **more}})


def logins(place: Place) -> int:
    """Count how often somebody logged in."""
    return sum(request.path.endswith("/login") for request in place.double.requests)


def test_a_secret_is_fetched_by_its_reference(monkeypatch, tmp_path) -> None:
    """`env:` and `file:` are on this machine; the value never shows."""
    monkeypatch.setenv("RBKIT_TEST_TOKEN", "hunter2")
    (tmp_path / "token").write_text("hunter3")
    (tmp_path / "token").chmod(0o600)
    found = Secrets(environment())
    assert found.fetch("env:RBKIT_TEST_TOKEN").get_secret_value() == "hunter2"
    assert found.fetch(f"file:{tmp_path / 'token'}").get_secret_value() == "hunter3"
    assert "hunter" not in repr(secret("env:RBKIT_TEST_TOKEN"))
    found.close()


@pytest.mark.parametrize("reference", ["hunter2", "vault:a/b#c", "nowhere:a", ""])
def test_a_wrong_reference_is_refused(reference) -> None:
    """A secret in clear is no reference; without a Vault there is no such source; and none stands in for it."""
    with pytest.raises(SettingsError):
        Secrets(environment()).fetch(reference)


def test_one_login_serves_every_secret(place) -> None:
    """Both fields come by the same login, and closing ends it."""
    found = Secrets(environment(place))
    assert found.fetch(f"vault:{place.mount}/app/pager#token").get_secret_value() == CANARY
    assert found.fetch(f"vault:{place.mount}/app/pager#other").get_secret_value() == "second"
    assert logins(place) == 1
    found.close()
    assert place.double.requests[-1].path.endswith("/auth/token/revoke-self")
    found.close()


def handed(place: Place) -> dict[str, str]:
    """Make a run's token and say what its kernel is given."""
    issuer = VaultIssuer(vault_of(environment(place)))
    issued = issue(issuer, Order("r", "book", "os:me", (place.policy,)), 300)
    return {WRAPPED: issued.wrapped.get_secret_value(), ACCESSOR: issued.accessor}


def test_a_kernel_uses_the_token_it_was_handed(place, monkeypatch) -> None:
    """It opens it once, however many worlds it makes, and needs no login of its own."""
    given = handed(place)
    monkeypatch.setenv("RBKIT_TEST_SECRET", "")
    before = logins(place)
    for _ in range(2):
        found = Secrets(environment(place), given)
        assert found.fetch(f"vault:{place.mount}/app/pager#token").get_secret_value() == CANARY
        found.close()
    assert logins(place) == before
    assert sum(request.path.endswith("/unwrap") for request in place.double.requests) == 1


def test_a_token_that_somebody_else_has_opened_is_an_alarm(place) -> None:
    """Nothing is fetched with another right instead."""
    given = handed(place)
    VaultIssuer(vault_of(environment(place))).unwrap(SecretStr(given[WRAPPED]))
    with pytest.raises(Intercepted, match="before the run did"):
        Secrets(environment(place), given).fetch(f"vault:{place.mount}/app/pager#token")


def test_what_may_not_be_read_is_not_replaced(place) -> None:
    """A right that is missing is an error that names the path, and not the secret."""
    with pytest.raises(SecretError) as caught:
        Secrets(environment(place)).fetch(f"vault:{place.mount}/other/pager#token")
    assert "other/pager" in str(caught.value) and CANARY not in str(caught.value)


def test_an_environment_without_a_vault_has_none() -> None:
    """The error says what to add."""
    with pytest.raises(SettingsError, match="Add the section `vault:`"):
        vault_of(environment())
