"""How the Vault double is asked and how it answers: requests, replies, refusals, durations."""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Protocol

from rbkit.clock import Clock

__all__ = [
    "DENIED",
    "INVALID",
    "Ask",
    "Engine",
    "Refusal",
    "Reply",
    "Who",
    "lines",
    "moment",
    "random_id",
    "span",
    "whole",
]

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def lines(*errors: str) -> str:
    """Write errors the way Vault's Go library joins several into one text."""
    word = "error" if len(errors) == 1 else "errors"
    return f"{len(errors)} {word} occurred:\n" + "".join(f"\t* {error}\n" for error in errors) + "\n"


DENIED = lines("permission denied")
"""What a living token hears that may not do something."""
INVALID = lines("permission denied", "invalid token")
"""What a token hears that is dead or never was."""


class Refusal(Exception):
    """An answer that is an error.

    Args:
        status: The HTTP status.
        errors: What is said; may be empty, as in a plain 404.
        data: What stands beside the errors, if anything.
    """

    def __init__(self, status: int, *errors: str, data: Any = None) -> None:
        super().__init__(status, *errors)
        self.status, self.errors, self.data = status, list(errors), data


class Who(Protocol):
    """The token that asks, as far as an engine has to know it."""

    id: str
    accessor: str
    policies: list[str]


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, read and let in.

    Args:
        method: The HTTP method; LIST also where `list=true` was asked.
        path: The whole path after `/v1/`.
        rest: The path inside the engine.
        body: The JSON object that came with it.
        query: The query's fields, the first value of each.
        namespace: The namespace, without slashes at its ends; empty for the root.
        token: Whose token; None for a request that needs none.
    """

    method: str
    path: str
    rest: str
    body: Mapping[str, Any]
    query: Mapping[str, str]
    namespace: str
    token: Any = None

    def text(self, name: str, default: str = "") -> str:
        """Return a field of the body as text."""
        return str(self.body.get(name, default) or default)

    def words(self, name: str) -> list[str]:
        """Return a field of the body as a list of texts; Vault takes them separated by commas, too."""
        value = self.body.get(name) or []
        return [word.strip() for word in value.split(",")] if isinstance(value, str) else [str(word) for word in value]

    def number(self, name: str) -> int:
        """Return a field of the body as a whole number."""
        return whole(self.body.get(name), name)

    def span(self, name: str) -> int:
        """Return a field of the body as seconds."""
        return span(self.body.get(name) or 0)


@dataclass(slots=True)
class Reply:
    """What an engine answers; nothing at all is 204.

    Args:
        data: The secret or the facts.
        auth: A token that was made or renewed.
        lease_id: The lease on a secret that ends.
        renewable: Whether that lease can be renewed.
        lease_duration: How long it lasts, seconds.
        warnings: What Vault wants to be known.
    """

    data: Any = None
    auth: dict[str, Any] | None = None
    lease_id: str = ""
    renewable: bool = False
    lease_duration: int = 0
    warnings: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to send."""
        return self.data is None and self.auth is None and not self.lease_id and not self.warnings

    def envelope(self, wrap_info: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write it as Vault sends it."""
        return {
            "request_id": random_id(8), "lease_id": self.lease_id, "renewable": self.renewable,
            "lease_duration": self.lease_duration, "data": self.data, "wrap_info": wrap_info,
            "warnings": self.warnings or None, "auth": self.auth,
        }  # fmt: skip


class Engine:
    """What is mounted at a path: its routes are methods, patterns of the rest of the path, and names of functions.

    Args:
        clock: Where the time comes from.
    """

    routes: ClassVar[tuple[tuple[str, str, str], ...]] = ()
    public: ClassVar[frozenset[str]] = frozenset()
    """What may be asked without a token."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def capability(self, ask: Ask) -> str:
        """Name what a policy must grant for a request."""
        names = {"GET": "read", "HEAD": "read", "LIST": "list", "DELETE": "delete", "PATCH": "patch"}
        return names.get(ask.method, "update")

    def handle(self, ask: Ask) -> Reply:
        """Answer a request.

        Raises:
            Refusal: There is no such path or method, or the request is wrong.
        """
        known = False
        for methods, pattern, name in self.routes:
            match = re.fullmatch(pattern, ask.rest)
            if match and ask.method in methods.split():
                reply: Reply = getattr(self, name)(ask, *match.groups())
                return reply
            known = known or match is not None
        raise Refusal(405, lines("unsupported operation")) if known else Refusal(404, lines("unsupported path"))


def span(value: Any) -> int:
    """Read a duration as Vault writes it: seconds, or `30s`, `5m`, `1h30m`.

    Raises:
        Refusal: It is none, or negative.
    """
    text = str(value).strip()
    parts = re.findall(r"(\d+)([smhd]?)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise Refusal(400, f"time: invalid duration {text!r}")
    return sum(int(number) * _UNITS[unit] for number, unit in parts)


def whole(value: Any, name: str) -> int:
    """Read a whole number; nothing is 0.

    Raises:
        Refusal: It is none.
    """
    try:
        return int(value or 0)
    except (TypeError, ValueError):
        raise Refusal(400, f"Field validation failed: error converting input for field {name!r}") from None


def moment(seconds: float) -> str:
    """Write a time as Vault does."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def random_id(size: int = 12) -> str:
    """Make an id that nobody can guess."""
    return secrets.token_hex(size)
