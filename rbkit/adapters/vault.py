"""The access to HashiCorp Vault: how one logs in, how long a Vault that is away is waited for, what went wrong.

Nothing stands in for what cannot be had: no value of before, no default. What Vault or a library says is never
repeated where it may hold a secret.
"""

import contextlib
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError, field_validator, model_validator
from tenacity import RetryCallState, Retrying, retry_if_result, wait_exponential_jitter

from rbkit.adapters.vault_errors import Failure, Need, failure, unusable
from rbkit.clock import Clock, SystemClock
from rbkit.errors import SecretError, SettingsError
from rbkit.values import seconds

__all__ = ["Vault", "VaultSettings"]

_HERE = {"localhost", "127.0.0.1", "::1"}
_MARGIN_S = 10.0
"""How long before its end a login is renewed, seconds."""
_LARGEST = 65_536
RENEW = Need("renew the login", "auth/token/renew-self", "update")
_jitter = wait_exponential_jitter(multiplier=0.2, max=2.0, jitter=0.2)


class VaultSettings(BaseModel):
    """The section `vault:` of an environment file: where Vault is and how one logs in. It holds no secret.

    Args:
        url: Its address; https, unless it is on this machine.
        login: How one logs in.
        mount: Where that way to log in is mounted; its own name when empty.
        role: The role to log in as (kubernetes, jwt).
        role_id: A reference to the role's id (approle).
        secret_id: A reference to its secret (approle).
        wrapped: Whether the secret is a wrapping token that holds it; it is opened once (approle).
        token: A reference to a token (token).
        jwt_file: The file with the signed token (kubernetes, jwt); it is read anew at each login.
        namespace: The namespace; none when empty.
        ca: A file with the certificates that are trusted; the usual ones when empty.
        timeout: The longest that one request may take.
        patience: How long a sealed or unreachable Vault is waited for.
        mounts: Where key-value stores are mounted whose names hold a slash.
        database: Where the database engine is mounted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    url: str
    login: Literal["approle", "kubernetes", "jwt", "token"] = "approle"
    mount: str = ""
    role: str = ""
    role_id: str = ""
    secret_id: str = ""
    wrapped: bool = False
    token: str = ""
    jwt_file: str = "/var/run/secrets/kubernetes.io/serviceaccount/token"
    namespace: str = ""
    ca: str = ""
    timeout: str = "5s"
    patience: str = "15s"
    mounts: tuple[str, ...] = ()
    database: str = "database"

    @field_validator("timeout", "patience")
    @classmethod
    def _durations(cls, text: str) -> str:
        try:
            seconds(text)
        except SettingsError as error:
            raise ValueError(error.what.rstrip(".")) from error
        return text

    @model_validator(mode="after")
    def _whole(self) -> "VaultSettings":
        address = urlsplit(self.url)
        if address.scheme not in {"http", "https"} or not address.hostname or "@" in address.netloc:
            raise ValueError("url must be an address such as https://vault.example:8200, without a password")
        if address.scheme == "http" and address.hostname not in _HERE:
            raise ValueError("url must begin with https: secrets travel on it")
        needed = {"approle": ("role_id", "secret_id"), "token": ("token",)}.get(self.login, ("role",))
        if missing := [name for name in needed if not getattr(self, name)]:
            raise ValueError(f"login {self.login} needs {' and '.join(missing)}")
        return self

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> "VaultSettings":
        """Check the section.

        Raises:
            SettingsError: It is wrong; which key is said, and never its value.
        """
        try:
            return cls.model_validate(dict(options))
        except ValidationError as error:
            wrong = error.errors(include_input=False, include_context=False)[0]
        place = ".".join(["vault", *(str(part) for part in wrong["loc"])])
        raise SettingsError(f"{place}: {wrong['msg'].removeprefix('Value error, ')}.")  # not under what holds the value


class Vault:
    """One process's access to Vault: it logs in when it must, waits for a Vault that is away, and says what failed.

    Args:
        settings: Where Vault is and how one logs in.
        reference: Fetches a secret by its reference.
        clock: Where the time comes from.
        own: A token that is used as it is, instead of logging in.
    """

    def __init__(
        self, settings: VaultSettings, reference: Callable[[str], SecretStr], *, clock: Clock | None = None,
        own: SecretStr | None = None,
    ) -> None:  # fmt: skip
        self.settings, self.clock = settings, clock or SystemClock()
        self._reference, self._own = reference, own
        self._turn = threading.RLock()
        self._token: SecretStr | None = None
        self._secret_id: SecretStr | None = None
        self._until = 0.0

    def __repr__(self) -> str:
        return f"Vault({self.settings.url})"

    def call(
        self, need: Need, ask: Callable[[Any], Any], *, once: bool = False, patience_s: float | None = None
    ) -> dict[str, Any]:
        """Ask Vault something as whoever this process logs in as.

        Args:
            need: What is asked and what right it needs, for errors.
            ask: Asks it of a client of hvac.
            once: Whether it must not be asked again when it may have arrived.
            patience_s: How long a Vault that is away is waited for, seconds; as set when not given.

        Returns:
            The answer; empty when Vault had nothing to say.

        Raises:
            SecretError: It cannot be had.
        """
        return self.patiently(lambda: self.once(need, ask), once=once, patience_s=patience_s)

    def patiently(
        self, attempt: Callable[[], dict[str, Any] | Failure], *, once: bool = False, patience_s: float | None = None
    ) -> dict[str, Any]:
        """Try until it works, it cannot work, or the patience is over.

        Raises:
            SecretError: The last failure.
        """
        ends = self.clock.monotonic() + (seconds(self.settings.patience) if patience_s is None else patience_s)
        policy = Retrying(
            stop=lambda state: self.clock.monotonic() >= ends, wait=_wait, sleep=self.clock.pause,
            retry=retry_if_result(lambda found: isinstance(found, Failure) and found.again(once)),
            retry_error_callback=_last,
        )  # fmt: skip
        with self._turn:
            found: dict[str, Any] | Failure = policy(attempt)
        if isinstance(found, Failure):
            raise SecretError(found.what, todo=found.todo)
        return found

    def asked(self, need: Need, ask: Callable[[Any], Any], token: SecretStr | None) -> dict[str, Any] | Failure:
        """Ask once, with a token or none; whatever goes wrong is a failure and no exception."""
        try:
            from rbkit.adapters.vault_http import Session, connect
        except ImportError as error:
            raise SettingsError("Vault needs the package hvac.", todo="Install rbkit[vault].") from error
        hidden = token.get_secret_value() if token else ""
        with Session(seconds(self.settings.timeout), self.settings.ca) as session:
            found = _answered(ask, connect(self.settings.url, hidden, self.settings.namespace, session))
            if isinstance(found, Exception):
                return failure(found, need, self.settings.url, session.status, session.retry_after)
            if session.status == 204:
                return {}
            if session.status != 200 or not isinstance(found, dict):
                return unusable(need, self.settings.url, session.status)
            return found

    def once(self, need: Need, ask: Callable[[Any], Any]) -> dict[str, Any] | Failure:
        """Ask with the login that is there; if that has died since, log in again and ask once more."""
        fresh = self._token is None or self.clock.monotonic() >= self._until
        failed = self._log_in() if fresh else None
        found = failed or self.asked(need, ask, self._token)
        if fresh or not isinstance(found, Failure) or found.status != 403 or not self._dead():
            return found
        return self._log_in() or self.asked(need, ask, self._token)

    def _dead(self) -> bool:
        """Tell a token that is over from one that may not do something: every living one may look at itself."""
        need = Need("look at the login", "auth/token/lookup-self", "read")
        found = self.asked(need, lambda client: client.auth.token.lookup_self(), self._token)
        return isinstance(found, Failure) and found.status == 403

    def renew(self) -> None:
        """Renew the login that is there, so that what was made with it lives on; one that needs none is left alone."""
        found = self.once(RENEW, lambda client: client.auth.token.renew_self())
        auth = found.get("auth") if isinstance(found, dict) else None
        if isinstance(auth, dict) and self._until < math.inf:
            self._lasts(auth.get("lease_duration"))

    def _lasts(self, lasts: Any) -> None:
        """Note for how long the login lives, seconds; 0 is for ever."""
        known = lasts if isinstance(lasts, int) else 0
        self._until = self.clock.monotonic() + max(known - _MARGIN_S, known / 2) if known else math.inf

    def leave(self) -> None:
        """End the login that this process has made, and with it everything that was made with it; try it once."""
        mine, self._token = self._token, None
        if mine is not None and self._own is None and self.settings.login != "token":
            need = Need("end the login", "auth/token/revoke-self", "update")
            self.asked(need, lambda client: client.auth.token.revoke_self(), mine)

    def _log_in(self) -> Failure | None:
        """Log in; the token and its end are kept in memory."""
        if self._own is not None or self.settings.login == "token":
            self._token, self._until = self._own or self._reference(self.settings.token), math.inf
            return None
        need = Need(f"log in by {self.settings.login}", f"auth/{self._mount}/login", "", login=True)
        found = self._secret() or self.asked(need, self._login, None)
        if isinstance(found, Failure):
            return found
        auth = found.get("auth")
        token, lasts = (auth.get("client_token"), auth.get("lease_duration")) if isinstance(auth, dict) else (None, 0)
        if not isinstance(token, str) or not token or not isinstance(lasts, int):
            return unusable(need, self.settings.url, 200)
        self._token = SecretStr(token)
        self._lasts(lasts)
        return None

    @property
    def _mount(self) -> str:
        return self.settings.mount.strip("/") or self.settings.login

    def _secret(self) -> Failure | None:
        """Fetch what is needed to log in; a wrapped secret is opened once, and kept."""
        if self.settings.login != "approle" or (self.settings.wrapped and self._secret_id):
            return None
        self._secret_id = self._reference(self.settings.secret_id)
        if not self.settings.wrapped:
            return None
        need = Need("open the wrapped secret_id", "sys/wrapping/unwrap", "", wrapping=True)
        found = self.asked(need, lambda client: client.sys.unwrap(), self._secret_id)
        self._secret_id = None
        if isinstance(found, Failure):
            return replace(found, passing=found.passing and found.undone)  # it can be opened only once
        made = (found.get("data") or {}).get("secret_id")
        if not isinstance(made, str) or not made:
            return unusable(need, self.settings.url, 200)
        self._secret_id = SecretStr(made)
        return None

    def _login(self, client: Any) -> Any:
        if self.settings.login != "approle":
            return client.adapter.post(
                f"/v1/auth/{self._mount}/login", json={"role": self.settings.role, "jwt": self._jwt()}
            )
        role, secret = self._reference(self.settings.role_id), self._secret_id or SecretStr("")
        return client.auth.approle.login(
            role.get_secret_value(), secret.get_secret_value(), use_token=False, mount_point=self._mount
        )

    def _jwt(self) -> str:
        """Read the signed token; an orchestrator renews the file."""
        file, found = Path(self.settings.jwt_file), b""
        with contextlib.suppress(OSError, ValueError):
            found = file.read_bytes().strip() if file.is_file() and file.stat().st_size <= _LARGEST else b""
        if not found or not found.isascii():
            raise SecretError(f"The file {file} cannot be read or holds no signed token.")
        return found.decode("ascii")


def _answered(ask: Callable[[Any], Any], client: Any) -> Any:
    """Ask, and hand back what comes: the answer or the exception, which must not lie under another one."""
    from hvac.exceptions import VaultError
    from requests import RequestException
    from urllib3.exceptions import HTTPError  # requests lets some of them through

    try:
        return ask(client)
    except (
        VaultError,
        RequestException,
        HTTPError,
        OSError,
        AttributeError,
        TypeError,
        KeyError,
        ValueError,
        RecursionError,
    ) as e:
        return e


def _wait(state: RetryCallState) -> float:
    found = state.outcome.result() if state.outcome else None
    return max(_jitter(state), found.wait_s if isinstance(found, Failure) else 0.0)


def _last(state: RetryCallState) -> Any:
    return state.outcome.result() if state.outcome else None
