"""The one reader of environment variables and of `parameters/*.yaml`."""

import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from platformdirs import user_data_path
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from rbkit.errors import NotFound, SettingsError
from rbkit.events import Mode
from rbkit.values import digest, nearest, seconds

__all__ = ["Environment", "PortSettings", "Settings", "SignalSettings", "load_environment", "read_yaml"]

_VARIABLE = re.compile(r"\$\{(RBKIT_[A-Z0-9_]+)(?::-([^}]*))?\}")
_LARGEST = 1_000_000
_DEEPEST = 50
T = TypeVar("T")


class Settings(BaseSettings):
    """What the environment variables say; every one begins with RBKIT_.

    Args:
        home: RBKIT_HOME: the folder of the store and the records.
        parameters: RBKIT_PARAMETERS: the folder of the environment files.
        notebooks: RBKIT_NOTEBOOKS: the folder of the runbooks.
        run: RBKIT_RUN: the run that a kernel belongs to (set by the supervisor).
        notebook: RBKIT_NOTEBOOK: the notebook that a kernel executes (set by the supervisor).
        mode: RBKIT_MODE: live, dry_run, replay or resume.
        driver: RBKIT_DRIVER: supervised (set by the supervisor), headless or operator.
        tape: RBKIT_TAPE: the recorded run that a replay answers from.
        actor: RBKIT_ACTOR: who acts, when a supervisor acts for somebody.
        lease: RBKIT_LEASE: how long a run may be silent before it counts as dead, for example `15s`.
        session: RBKIT_SESSION: the session of the run that a kernel belongs to (set by the supervisor).
        holder: RBKIT_HOLDER: in whose name a kernel holds its targets (set by the supervisor).
    """

    model_config = SettingsConfigDict(env_prefix="RBKIT_", extra="ignore")
    home: Path = Field(default_factory=lambda: user_data_path("rbkit", appauthor=False))
    parameters: Path | None = None
    notebooks: Path | None = None
    run: str = ""
    notebook: str = ""
    mode: Mode = "live"
    driver: Literal["", "supervised", "headless", "operator"] = ""
    tape: str = ""
    actor: str = ""
    lease: str = "15s"
    session: int = Field(default=1, ge=1)
    holder: str = ""

    @field_validator("lease")
    @classmethod
    def _long_enough(cls, text: str) -> str:
        return _duration(text, at_least_s=1.0)

    @property
    def lease_s(self) -> float:
        """How long a lease lasts unless it is renewed, seconds."""
        return seconds(self.lease)

    @classmethod
    def read(cls, **given: Any) -> "Settings":
        """Read the variables; what is given here wins.

        Raises:
            SettingsError: A variable has a value that cannot be used.
        """
        try:
            return cls(**{name: value for name, value in given.items() if value is not None})
        except ValidationError as error:
            first = error.errors()[0]
            name = f"RBKIT_{'_'.join(str(part) for part in first['loc']).upper()}"
            raise SettingsError(f"{name}: {first['msg']}.") from error

    def environment(self, name: str) -> "Environment":
        """Read an environment file; `${RBKIT_NAME}` in it stands for the variable, RBKIT_HOME for the home in use."""
        return load_environment(name, self.folder("parameters"), {**os.environ, "RBKIT_HOME": str(self.home)})

    def folder(self, word: Literal["parameters", "notebooks"]) -> Path:
        """Find a folder: as set, or in the working folder, or beside a folder above it."""
        found: Path | None = getattr(self, word)
        if found:
            return found
        here = Path.cwd()
        return next((up / word for up in (here, *here.parents) if (up / word).is_dir()), here / word)


def _duration(text: str, at_least_s: float = 0.0) -> str:
    """Check a duration where pydantic checks values."""
    try:
        found = seconds(text)
    except SettingsError as error:
        raise ValueError(error.what) from error
    if found < at_least_s:
        raise ValueError(f"{text!r} is shorter than {at_least_s:.0f} s")
    return text


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PortSettings(BaseModel):
    """A source or capability: which adapter, and the adapter's own options."""

    model_config = ConfigDict(frozen=True, extra="allow")
    adapter: str

    @property
    def options(self) -> dict[str, Any]:
        """The adapter's own options."""
        return dict(self.__pydantic_extra__ or {})


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
    help: str = ""

    @field_validator("step", "stale_after")
    @classmethod
    def _durations(cls, text: str) -> str:
        return _duration(text)


class Environment(_Value):
    """An environment file: where to look, what may be touched, who must approve."""

    name: str
    banner: str = ""
    sources: dict[str, PortSettings] = {}
    signals: dict[str, SignalSettings] = {}
    capabilities: dict[str, PortSettings] = {}
    approvals: dict[Literal["low", "medium", "high", "irreversible"], Annotated[int, Field(ge=0)]] = {}
    approvers: list[str] = Field(default=["*"], min_length=1)
    own_approval: bool = False
    approval_wait: str = "10m"
    approval_valid: str = "10m"
    digest: str = ""

    @field_validator("approval_wait", "approval_valid")
    @classmethod
    def _durations(cls, text: str) -> str:
        return _duration(text)

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


def load_environment(name: str, folder: Path, variables: Mapping[str, str]) -> Environment:
    """Read and check an environment file.

    Args:
        name: Its name without ending: letters, digits, `-` and `_`.
        folder: Where environment files lie.
        variables: What `${RBKIT_NAME}` in the file stands for.

    Returns:
        The environment, with the digest of what was read.

    Raises:
        NotFound: There is no such file.
        SettingsError: It cannot be read or is not YAML; or a key is unknown or wrong: line and key are named.
    """
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) or name not in known:
        raise NotFound(
            f"There is no environment {name[:64]!r} in {folder}.{nearest(name[:64], known)}",
            todo=f"Use one of: {', '.join(known) or 'none'}; or set RBKIT_PARAMETERS.",
        )
    file = _File(folder / f"{name}.yaml")
    return _check(file, _plain(file, file.data, (), variables), name)


class _File:
    """An environment file as it was read: it knows the line of every key."""

    def __init__(self, path: Path) -> None:
        self.path, self.data = path, read_yaml(path)

    def wrong(self, place: tuple[Any, ...], what: str, todo: str = "") -> SettingsError:
        """Say what is wrong with a key, and in which line."""
        key = ".".join(str(part) for part in place)
        return SettingsError(f"{self.path}, line {_line(self.data, place)}: {key}: {what}.", todo=todo)


def read_yaml(path: Path) -> Any:
    """Read a YAML file that may hold anything, within limits.

    Args:
        path: Where it lies; at most 1 MB, nested at most 50 levels, without aliases (a few lines of them unfold
            into more than memory holds).

    Returns:
        What ruamel.yaml reads; mappings and lists know their lines.

    Raises:
        SettingsError: It cannot be read, is not YAML, or crosses a limit.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1).decode()
        if len(text) > _LARGEST:
            raise SettingsError(f"{path} is larger than {_LARGEST // 1_000_000} MB.")
        _check_shape(path, YAML(typ="rt").parse(text))
        return YAML(typ="rt").load(text)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.") from error
    except (YAMLError, ValueError) as error:
        raise SettingsError(f"{path} is not good YAML: {' '.join(str(error).split())[:300]}") from error


def _check_shape(path: Path, events: Iterable[Any]) -> None:
    """Look at a YAML text before anything is made of it."""
    from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

    depth = 0
    for event in events:
        line = event.start_mark.line + 1
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if isinstance(event, AliasEvent):
            raise SettingsError(f"{path}, line {line}: *{event.anchor}: aliases are not read; write the value out.")
        if depth > _DEEPEST:
            raise SettingsError(f"{path}, line {line}: it is nested deeper than {_DEEPEST} levels.")


def _plain(file: _File, node: Any, place: tuple[Any, ...], variables: Mapping[str, str]) -> Any:
    """Copy texts, finite numbers, lists and mappings, with the variables put in; refuse every other kind of value."""
    if isinstance(node, str):
        return _VARIABLE.sub(lambda match: _variable(file, place, match, variables), node)
    if isinstance(node, dict):
        return {_key(file, place, key): _plain(file, node[key], (*place, key), variables) for key in node}
    if isinstance(node, list):
        return [_plain(file, item, (*place, index), variables) for index, item in enumerate(node)]
    if node is None or isinstance(node, bool):
        return node
    if isinstance(node, int | float) and math.isfinite(node):
        return int(node) if isinstance(node, int) else float(node)
    raise file.wrong(place, "is no text, finite number, list or mapping", "Put it in quotes if it is meant as text.")


def _key(file: _File, place: tuple[Any, ...], key: Any) -> str:
    if not isinstance(key, str):
        raise file.wrong((*place, key), "is no text, as a key must be", "Put it in quotes.")
    return key


def _variable(file: _File, place: tuple[Any, ...], match: re.Match[str], variables: Mapping[str, str]) -> str:
    """Return what stands for `${RBKIT_NAME:-default}`; no other variable is read."""
    value = variables.get(match[1], match[2])
    if value is None:
        raise file.wrong(place, f"needs the variable {match[1]}, which is not set", f"Set {match[1]}.")
    return value


def _check(file: _File, data: Any, name: str) -> Environment:
    if not isinstance(data, dict):
        raise SettingsError(f"{file.path} must hold a mapping.")
    try:
        environment = Environment.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise file.wrong(first["loc"], first["msg"]) from error
    if environment.name != name:
        raise file.wrong(("name",), f"is {environment.name!r}; it must be {name!r}, like the file")
    return environment.model_copy(update={"digest": digest(environment.model_dump(mode="json"))})


def _line(data: Any, place: tuple[int | str, ...]) -> int:
    """Find the line of the innermost key that YAML knows a place for."""
    line, node = 0, data
    for key in place:
        if not hasattr(node, "lc") or (isinstance(node, dict) and key not in node):
            break
        position = node.lc.data.get(key) if node.lc.data else None
        line = position[0] if position else line
        node = node[key]
    return line + 1
