"""Reads `parameters/*.yaml`: YAML within limits, with the line of every fault."""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rbkit.environment import Environment
from rbkit.errors import NotFound, SettingsError
from rbkit.values import digest, nearest

__all__ = ["load_environment", "read_yaml"]

_VARIABLE = re.compile(r"\$\{(RBKIT_[A-Z0-9_]+)(?::-([^}]*))?\}")
_LARGEST = 1_000_000
_DEEPEST = 50


def load_environment(name: str, folder: Path, variables: Mapping[str, str]) -> Environment:
    """Read and check an environment file; what it does not say is taken from the one that it extends.

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
    known = sorted(path.stem for path in folder.glob("*.yaml") if not path.stem.startswith("_"))
    if not re.fullmatch(r"[A-Za-z0-9-][A-Za-z0-9_-]{0,63}", name) or name not in known:
        raise NotFound(
            f"There is no environment {name[:64]!r} in {folder}.{nearest(name[:64], known)}",
            todo=f"Use one of: {', '.join(known) or 'none'}; or set RBKIT_PARAMETERS.",
        )
    file = _File(folder / f"{name}.yaml")
    data = _plain(file, file.data, (), variables)
    return _check(file, _extended(file, data, folder, variables), name)


def _extended(file: "_File", data: Any, folder: Path, variables: Mapping[str, str]) -> Any:
    """Put what a file says over what the one that it extends says."""
    if not isinstance(data, dict) or not data.get("extends"):
        return data
    path = folder / f"{data['extends']}.yaml"
    if not re.fullmatch(r"_[A-Za-z0-9_-]{1,63}", str(data["extends"])) or not path.is_file():
        raise file.wrong(("extends",), f"there is no {path.name} in {folder}", "A base's name begins with `_`.")
    base = _File(path)
    below = _plain(base, base.data, (), variables)
    if not isinstance(below, dict) or below.keys() & {"name", "extends"}:
        raise base.wrong(("name",), "a base is a mapping without `name` and `extends`")
    file.base = base
    return _merged(below, data)


def _merged(below: Any, above: Any) -> Any:
    """Put one value over another: mappings key by key, everything else as a whole; null takes a key away."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    keys = dict.fromkeys((*below, *above))
    merged = {key: _merged(below.get(key), above[key]) if key in above else below[key] for key in keys}
    return {key: value for key, value in merged.items() if value is not None}


class _File:
    """An environment file as it was read: it knows the line of every key."""

    def __init__(self, path: Path) -> None:
        self.path, self.data = path, read_yaml(path)
        self.base: _File | None = None

    def wrong(self, place: tuple[Any, ...], what: str, todo: str = "") -> SettingsError:
        """Say what is wrong with a key, in which file and in which line: here if the key is here, else in the base."""
        if self.base and _depth(self.base.data, place) > _depth(self.data, place):
            return self.base.wrong(place, what, todo)
        key = ".".join(str(part) for part in place)
        where = f"{key}: {what}" if key else what
        return SettingsError(f"{self.path}, line {_line(self.data, place)}: {where}.", todo=todo)


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
        raise file.wrong(first["loc"], first["msg"].removeprefix("Value error, ").rstrip(".")) from error
    if environment.name != name:
        raise file.wrong(("name",), f"is {environment.name!r}; it must be {name!r}, like the file")
    for place, unknown, known in environment.unknown():
        raise file.wrong(place, f"{unknown!r} is not there.{nearest(unknown, known)}", "Name one that the file has.")
    return environment.model_copy(update={"digest": digest(environment.model_dump(mode="json"))})


def _depth(data: Any, place: tuple[Any, ...]) -> int:
    """Count how many keys of a place are there."""
    for depth, key in enumerate(place):
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            return depth
    return len(place)


def _line(data: Any, place: tuple[int | str, ...]) -> int:
    """Find the line of the innermost key that YAML knows a place for."""
    line, node = 0, data
    for key in place:
        if not hasattr(node, "lc") or _depth(node, (key,)) == 0:
            break
        position = node.lc.data.get(key) if node.lc.data else None
        line = position[0] if position else line
        node = node[key]
    return line + 1
