"""HTTP as signal sources want it: other credentials, a tenant, and questions that are sent as a body."""

import re
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, Literal, get_args

import httpx2
from pydantic import SecretStr

from rbkit.adapters.http import Http
from rbkit.errors import BadAnswer, SecretError, SettingsError, Unreachable

__all__ = ["Scheme", "SignalHttp"]

Scheme = Literal["Bearer", "ApiKey"]
_TENANT = re.compile(r"[A-Za-z0-9!_.*'()|-]*")


class SignalHttp(Http):
    """A JSON client for a source of signals.

    Args:
        url: Where it is, with the path before its API if there is one, for example `https://mimir/prometheus`.
        name: What it is called in errors.
        token: A token; never shown.
        scheme: The word before the token.
        user: The user's name, where it asks for a password instead of a token.
        password: The user's password; never shown.
        tenant: Whose data is meant, sent as X-Scope-OrgID.

    Raises:
        SettingsError: The tenant has a character that no tenant has, the scheme is unknown, a login lacks its user or
            password, or there are a token and a login.
        SecretError: The token holds a character that no header can carry.

    Source: https://grafana.com/docs/mimir/latest/configure/about-tenant-ids/
    """

    def __init__(
        self, url: str, name: str, token: SecretStr | None = None, *, scheme: Scheme = "Bearer", user: str = "",
        password: SecretStr | None = None, tenant: str = "",
    ) -> None:  # fmt: skip
        super().__init__(url, name, token)
        if token is not None and (user or password):
            raise SettingsError(f"{name} is given a token and a user with a password; it takes one of them.")
        if not _TENANT.fullmatch(tenant) or scheme not in get_args(Scheme):
            raise SettingsError(f"{tenant!r} is no tenant for {name}, or {scheme!r} no scheme.")
        self._scheme = scheme
        self._tenant = {"X-Scope-OrgID": tenant} if tenant else {}
        self._login = _login(name, user, password)
        self._user = user

    @property
    def who(self) -> str:
        """As whom it asks, and for which tenant, without the secret."""
        tenant = self._tenant.get("X-Scope-OrgID")
        return (f"as {self._user}" if self._user else super().who) + (f", tenant {tenant}" if tenant else "")

    async def ask(self, path: str, body: Any, params: Mapping[str, str] | None = None) -> Any:
        """Ask for JSON with a question that is sent as a body; it changes nothing.

        Args:
            path: The path after the address.
            body: The question, sent as JSON.
            params: The query's fields.

        Raises:
            NotFound: The system answered 404.
            Unreachable: No answer came.
            BadAnswer: The answer is no JSON, too large, or says something went wrong.
        """
        try:
            answer = await self._send("POST", path, params=params, body=body)
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
            why = str(error) or type(error).__name__
            raise Unreachable(f"{self.name} at {self._url} cannot be read: {why}.") from error
        if answer.status != 200:
            raise self._refusal(answer, BadAnswer)
        return self._json(answer)

    def _headers(self, more: Mapping[str, str] | None) -> dict[str, str]:
        found = super()._headers(more) | self._tenant
        if self._login is not None:
            found["Authorization"] = self._login.get_secret_value()
        elif self._token is not None:
            found["Authorization"] = f"{self._scheme} {self._token.get_secret_value()}"
        return found


def _login(name: str, user: str, password: SecretStr | None) -> SecretStr | None:
    if not user and password is None:
        return None
    if not user or password is None or ":" in user:
        raise SettingsError(f"{name} needs a user, without a colon, and a password; one of them is missing.")
    try:
        pair = f"{user}:{password.get_secret_value()}".encode()
    except UnicodeEncodeError as error:
        raise SecretError(f"The password for {name} holds a broken character.") from error
    return SecretStr(f"Basic {b64encode(pair).decode()}")
