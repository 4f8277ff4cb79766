"""What stands in the way of a secret, in words: they name the path and the right that is missing, and no secret."""

import re
from dataclasses import dataclass
from typing import Any

__all__ = ["Failure", "Need", "failure", "unusable"]

_AGAIN = frozenset({412, 429, 472, 473, 500, 502, 503, 504})
"""Answers of a Vault that may be able to do it in a moment."""
_NOT_DONE = frozenset({412, 429, 472, 473, 503})
"""Answers of a Vault that certainly has not done what it was asked."""
_LONGEST_WAIT_S = 10.0
_NONE_INSTEAD = "Nothing stands in for the secret."
_AWAY = f"Look at it with `vault status`. {_NONE_INSTEAD}"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")


@dataclass(frozen=True, slots=True)
class Need:
    """What is asked of Vault and the right that it needs.

    Args:
        what: What is to be done, in words that follow `to`.
        path: The path that a policy must allow.
        capability: What it must allow there; empty where no policy decides.
        login: Whether it is a login.
        wrapping: Whether a wrapping token is opened.
    """

    what: str
    path: str
    capability: str
    login: bool = False
    wrapping: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """Why Vault did not do something.

    Args:
        what: One sentence for people.
        todo: What they do next.
        status: The HTTP status; 0 when no answer came.
        passing: Whether it may work in a moment.
        undone: Whether it was certainly not done.
        wait_s: How long Vault asked to be left alone, seconds.
        errors: What Vault said, for decisions; it is never shown.
    """

    what: str
    todo: str
    status: int = 0
    passing: bool = False
    undone: bool = False
    wait_s: float = 0.0
    errors: str = ""

    def again(self, once: bool) -> bool:
        """Whether it is worth another attempt, and allowed."""
        return self.passing and (self.undone or not once)


def failure(error: Exception, need: Need, url: str, status: int, retry_after: str) -> Failure:
    """Say in words what an exception of hvac or requests means.

    Args:
        error: The exception; nothing of its text is repeated.
        need: What was asked.
        url: Where.
        status: The HTTP status of the answer; 0 when none came.
        retry_after: What the answer said of when to come again.

    Returns:
        The failure.
    """
    from hvac.exceptions import VaultError

    if isinstance(error, VaultError) and status:
        return _refusal(error, need, url, status, retry_after)
    return unusable(need, url, status) if status else _unreached(error, need, url)


def unusable(need: Need, url: str, status: int) -> Failure:
    """Say that an answer is no answer of Vault's."""
    if 300 <= status < 400:
        return Failure(
            f"Vault at {url} sends elsewhere to {need.what} (status {status}).",
            "Name the active node, or what stands before all of them: redirects are not followed.", status,
        )  # fmt: skip
    return Failure(
        f"Vault at {url} gave no usable answer to {need.what} (status {status}).",
        "Check the address: something else, such as a login page or a proxy, answers there.", status,
    )  # fmt: skip


def _unreached(error: Exception, need: Need, url: str) -> Failure:
    """Say why no answer came: the kind of the exception is told, not its text."""
    import requests
    from urllib3.exceptions import NewConnectionError

    from rbkit.adapters.vault_http import TooLarge

    reason = getattr(error.args[0], "reason", None) if error.args else None
    unsent = isinstance(error, requests.ConnectTimeout) or isinstance(reason, NewConnectionError)
    kind = type(error).__name__
    if isinstance(error, requests.exceptions.SSLError):
        return Failure(f"Vault at {url} is not trusted: its certificate cannot be verified.", "Name its CA with `ca`.")
    if isinstance(error, requests.Timeout):
        return Failure(f"Vault at {url} did not answer in time to {need.what}.", _AWAY, 0, True, unsent)
    if isinstance(error, TooLarge):
        return Failure(f"Vault at {url} answered to {need.what} with more than any secret holds.", _NONE_INSTEAD)
    if isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError):
        return Failure(f"Vault at {url} cannot be reached to {need.what}: {kind}.", _AWAY, 0, True, unsent)
    return Failure(f"Vault at {url} cannot be asked to {need.what}: {kind}.", _NONE_INSTEAD)


def _refusal(error: Any, need: Need, url: str, status: int, retry_after: str) -> Failure:
    """Say what an error of Vault means."""
    said = " ".join(str(one) for one in error.errors) if isinstance(error.errors, list) else ""
    if status in _AGAIN:
        wait_s = min(float(retry_after), _LONGEST_WAIT_S) if retry_after.isascii() and retry_after.isdigit() else 0.0
        why = "is sealed" if "sealed" in said else f"is not able to {need.what} now (status {status})"
        return Failure(f"Vault at {url} {why}.", _AWAY, status, True, status in _NOT_DONE, wait_s, said)
    if status == 501:
        return Failure(f"Vault at {url} is not initialised.", _AWAY, status, errors=said)
    if need.login or need.wrapping:
        return _shut(need, url, status, said)
    if status in {401, 403}:
        return Failure(
            f"Vault at {url} refuses to {need.what}: permission denied.",
            f"The login must be alive and have the capability {need.capability!r} on {need.path}.", status, errors=said,
        )  # fmt: skip
    if status == 404:
        return Failure(
            f"There is nothing to {need.what} in Vault{_deleted(error.json)}.", _NONE_INSTEAD, 404, errors=said
        )
    return Failure(f"Vault at {url} refuses to {need.what} (status {status}).", _NONE_INSTEAD, status, errors=said)


def _shut(need: Need, url: str, status: int, said: str) -> Failure:
    if need.wrapping:
        return Failure(
            f"Vault at {url} does not {need.what}: it was opened before, or its time is over.",
            "If nobody of yours has opened it, somebody has stolen it: have it revoked, and ask for a new one.",
            status, errors=said,
        )  # fmt: skip
    return Failure(
        f"Vault at {url} refuses to {need.what} at {need.path} (status {status}).",
        "Check role, mount, namespace, and whether what one logs in with is still good.", status, errors=said,
    )  # fmt: skip


def _deleted(answer: Any) -> str:
    """Tell a secret that was deleted from one that never was."""
    data = answer.get("data") if isinstance(answer, dict) else None
    facts = data.get("metadata") if isinstance(data, dict) else None
    if not isinstance(facts, dict):
        return ""
    when = _TIME.match(str(facts.get("deletion_time", "")))
    return f": it was deleted at {when[0]}Z" if when else ": it was destroyed" if facts.get("destroyed") else ""
