"""What an environment file says: where to look, how far, what may be touched, who must approve."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rbkit.costs import MOST_BYTES
from rbkit.errors import NotFound, SettingsError
from rbkit.facts import Outcome
from rbkit.values import Secret, nearest, seconds

__all__ = [
    "SECRET_SOURCES", "Environment", "Limits", "PortSettings", "Route", "SignalSettings", "Slo", "VaultOptions",
    "check_duration", "is_secret",
]  # fmt: skip

SECRET_SOURCES = ("env", "file", "keyring", "vault", "vault-db")
"""The sources that hand out secrets."""
Risk = Literal["low", "medium", "high", "irreversible"]
_SECRET = re.compile(r"(?:^|_)(?:token|password|secret|secret_id|private_key|access_key)$")
_LOGIN = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://[^/@\s]*:[^/@\s]+@")
T = TypeVar("T")


def is_secret(key: str) -> bool:
    """Tell by its name whether an option holds a secret, so that only a reference may stand there."""
    return bool(_SECRET.search(key))


def check_duration(text: str, at_least_s: float = 0.0) -> str:
    """Check a duration where pydantic checks values."""
    try:
        found = seconds(text)
    except SettingsError as error:
        raise ValueError(error.what) from error
    if found < at_least_s:
        raise ValueError(f"{text!r} is shorter than {at_least_s:.0f} s")
    return text


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Limits(_Value):
    """How far an endpoint may be used, so that production is not disturbed.

    Args:
        concurrency: How many calls of one process may be under way at once.
        timeout: The longest that one attempt may take.
        bytes: The most bytes that one attempt may bring back.
    """

    concurrency: int = Field(default=4, ge=1, le=100)
    timeout: str = "15s"
    bytes: int = Field(default=MOST_BYTES, ge=1_000)

    @field_validator("timeout")
    @classmethod
    def _durations(cls, text: str) -> str:
        return check_duration(text, at_least_s=0.1)

    @property
    def seconds(self) -> float:
        """The longest that one attempt may take, seconds."""
        return seconds(self.timeout)


class _Options(BaseModel):
    """Options that an adapter reads; where one holds a secret, only a reference may stand."""

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

    @model_validator(mode="after")
    def _no_secrets(self) -> "_Options":
        for key, value in _leaves(self.options):
            if is_secret(key.rpartition(".")[2]):
                _check_reference(key, value)
            if isinstance(value, str) and _LOGIN.match(value):
                raise ValueError(f"{key} holds a password; give `password` as a reference")
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The adapter's own options."""
        return dict(self.__pydantic_extra__ or {})


def _leaves(options: Any, place: str = "") -> list[tuple[str, Any]]:
    """List all values by their path, also those in inner mappings and lists."""
    if isinstance(options, dict):
        return [found for key, value in options.items() for found in _leaves(value, f"{place}.{key}" if place else key)]
    if isinstance(options, list):
        return [found for number, value in enumerate(options) for found in _leaves(value, f"{place}.{number}")]
    return [(place, options)]


def _check_reference(key: str, value: Any) -> None:
    """Refuse a secret in clear; what stands there is not repeated."""
    try:
        known = Secret.parse(str(value)).source in SECRET_SOURCES
    except SettingsError:
        known = False
    if not known:
        raise ValueError(f"{key} must be a reference, for example env:NAME, file:PATH or vault:PATH#FIELD")


class PortSettings(_Options):
    """A source or capability: which adapter, how far it may be used, and the adapter's own options."""

    adapter: str
    limits: Limits = Limits()


class VaultOptions(_Options):
    """The Vault that references `vault:` are read from, and how a process logs in there.

    Args:
        policies: What the token of a supervised run may do; without any, the kernel logs in as the supervisor does.
    """

    policies: list[str] = []


class SignalSettings(_Value):
    """A signal: where it is read and how its numbers are meant."""

    source: str
    query: str = ""
    where: dict[str, str] = {}
    unit: str = ""
    multiply: float = Field(default=1.0, allow_inf_nan=False)
    by: str = "instance"
    step: str = "5s"
    stale_after: str = "30s"
    max_series: int = Field(default=200, ge=1)
    max_rows: int = Field(default=50_000, ge=1)
    max_points: int = Field(default=1_000, ge=2)
    otherwise: str = ""
    essential: bool = True
    help: str = ""

    @field_validator("step", "stale_after")
    @classmethod
    def _durations(cls, text: str) -> str:
        return check_duration(text)


class Slo(_Value):
    """A promise of a service: which signal must stay on which side of a limit, for which share of the time."""

    signal: str
    below: float | None = Field(default=None, allow_inf_nan=False)
    above: float | None = Field(default=None, allow_inf_nan=False)
    objective: float = Field(gt=0, lt=1)
    window: str = "30d"
    help: str = ""

    @field_validator("window")
    @classmethod
    def _durations(cls, text: str) -> str:
        return check_duration(text)

    @model_validator(mode="after")
    def _one_limit(self) -> "Slo":
        if (self.below is None) == (self.above is None):
            raise ValueError("give exactly one of `below` and `above`")
        return self


class Route(_Value):
    """Who is told of which outcomes; the address is a reference, as most of them hold a key."""

    to: str
    outcomes: list[Outcome] = Field(default=["failed", "needs_operator", "unknown"], min_length=1)

    @field_validator("to")
    @classmethod
    def _a_reference(cls, text: str) -> str:
        _check_reference("to", text)
        return text


class Environment(_Value):
    """An environment file: where to look, how far, what may be touched, who must approve."""

    name: str
    extends: str = ""
    banner: str = ""
    sources: dict[str, PortSettings] = {}
    signals: dict[str, SignalSettings] = {}
    capabilities: dict[str, PortSettings] = {}
    runbooks: dict[str, dict[str, Any]] = {}
    slos: dict[str, Slo] = {}
    notifications: dict[str, Route] = {}
    vault: VaultOptions | None = None
    partial_evidence: dict[Risk, Literal["go", "approve", "stop"]] = {}
    approvals: dict[Risk, Annotated[int, Field(ge=0)]] = {}
    approvers: list[str] = Field(default=["*"], min_length=1)
    own_approval: bool = False
    approval_wait: str = "10m"
    approval_valid: str = "10m"
    digest: str = ""

    @field_validator("approval_wait", "approval_valid")
    @classmethod
    def _durations(cls, text: str) -> str:
        return check_duration(text)

    def unknown(self) -> list[tuple[tuple[str, ...], str, list[str]]]:
        """List the names that stand for nothing: where each stands, what it is, and what there is instead."""
        wanted: list[tuple[tuple[str, ...], str, Mapping[str, Any]]] = [
            *((("signals", name, "source"), signal.source, self.sources) for name, signal in self.signals.items()),
            *(
                (("signals", name, "otherwise"), signal.otherwise, self.signals)
                for name, signal in self.signals.items()
            ),
            *((("slos", name, "signal"), slo.signal, self.signals) for name, slo in self.slos.items()),
        ]
        return [(place, name, list(known)) for place, name, known in wanted if name and name not in known]

    def limits(self, endpoint: str) -> Limits:
        """Return the limits of an endpoint, for example `source metrics`; the usual ones if it is not known."""
        word, _, name = endpoint.partition(" ")
        known = self.sources if word == "source" else self.capabilities
        return known[name].limits if name in known else Limits()

    def signal(self, name: str) -> SignalSettings:
        """Find a signal's settings.

        Raises:
            NotFound: There is no such signal; the nearest is suggested.
        """
        return _find(self.signals, name, "signal", self.name)

    def source(self, name: str) -> PortSettings:
        """Find a source's settings."""
        return _find(self.sources, name, "source", self.name)

    def capability(self, name: str) -> PortSettings:
        """Find a capability's settings."""
        return _find(self.capabilities, name, "capability", self.name)


def _find(known: Mapping[str, T], name: str, word: str, where: str) -> T:
    if name not in known:
        raise NotFound(
            f"Environment {where} names no {word} {name!r}.{nearest(name, known)}",
            todo=f"Add it to parameters/{where}.yaml, or use one of: {', '.join(sorted(known)) or 'none'}.",
        )
    return known[name]
