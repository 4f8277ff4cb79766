"""Feature flags in a JSON file: a complete, tiny plugin for rbkit.

In an environment file:

    capabilities:
      flags: {adapter: file-flags, path: /etc/checkout/flags.json}

and in a notebook: `await run.use("flags").put("new-checkout", value=False)`.
"""

import asyncio
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rbkit.errors import BadAnswer, MayHaveActed, NotFound, Refused, Unreachable
from rbkit.events import Call
from rbkit.kinds import FeatureFlags

__all__ = ["FileFlags"]


class FileFlags(FeatureFlags):
    """Feature flags in a JSON file; a second file beside it remembers fencing tokens.

    Args:
        path: The file: one JSON object with the flags by name. It must be there.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._tokens = self._path.with_suffix(".tokens")

    async def state(self, target: str) -> dict[str, Any]:
        """Read a flag's value."""
        return await asyncio.to_thread(lambda: {"value": _known(self._read(self._path), target)})

    async def apply(self, call: Call, key: str, token: int) -> None:
        """Give a flag a value, unless somebody with a newer lease has been here."""
        await asyncio.to_thread(self._take, call.target, token, {call.target: call.arguments["value"]})

    async def fence(self, target: str, token: int) -> None:
        """Remember a token without changing the flag."""
        await asyncio.to_thread(self._take, target, token, {})

    async def ping(self) -> str:
        """Say what is there, and whether it can be written."""
        flags = await asyncio.to_thread(self._read, self._path)
        may = "read and write" if os.access(self._path, os.W_OK) else "read only"
        return f"{len(flags)} flag(s) in {self._path}, {may}"

    def _take(self, target: str, token: int, change: dict[str, Any]) -> None:
        with self._locked():
            flags, tokens = self._read(self._path), self._read(self._tokens) if self._tokens.exists() else {}
            _known(flags, target)
            if token < tokens.get(target, 0):
                raise Refused(
                    f"Somebody with a newer lease acts on {target}: its token is {tokens[target]}, not {token}."
                )
            _write(self._tokens, tokens | {target: token})
            if change:
                _write(self._path, flags | change)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes out: reading, changing and writing are one step."""
        try:
            with self._path.with_suffix(".lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise Unreachable(f"{self._path} cannot be locked: {error.strerror}.") from error

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise Unreachable(f"{path} cannot be read: {error.strerror}.") from error
        except (ValueError, RecursionError) as error:
            raise BadAnswer(f"{path} is no JSON.") from error
        if not isinstance(found, dict):
            raise BadAnswer(f"{path} holds no JSON object.")
        return found


def _write(path: Path, data: dict[str, Any]) -> None:
    """Put a whole file in place at once: whoever reads it sees the old one or the new one."""
    new = path.with_suffix(path.suffix + ".new")
    try:
        with new.open("w", encoding="utf-8") as file:
            json.dump(data, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise Refused(f"{new} cannot be written: {error.strerror}.") from error
    try:
        new.replace(path)
    except OSError as error:
        raise MayHaveActed(f"{path} could not be replaced: {error.strerror}.") from error


def _known(flags: dict[str, Any], target: str) -> Any:
    if target not in flags:
        raise NotFound(f"There is no flag {target!r}.", todo=f"Known: {', '.join(sorted(flags)) or 'none'}.")
    return flags[target]
