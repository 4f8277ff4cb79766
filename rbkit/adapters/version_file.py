"""Deployments of services that supervisord runs from a folder of releases, one of which is chosen.

A service's folder has `releases/VERSION/` for each version, and `current`: a link to one of them, or a file with the
version. A deployment puts another `current` in its place and restarts the service's processes one after the other.
"""

import asyncio
import math
import os
import re
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from pydantic import SecretStr

from rbkit.adapters.supervisord import Supervisord, chosen
from rbkit.adapters.told import user
from rbkit.capability import State, read
from rbkit.errors import AdapterError, BadAnswer, MayHaveActed, NotFound, Refused
from rbkit.facts import Call
from rbkit.files import write_atomically
from rbkit.kinds import Deployments, Service, Version

__all__ = ["VersionFile"]

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


class VersionFile(Deployments):
    """A folder of releases, and supervisord.

    `version` is the one that is chosen; `ready` counts the processes that run and were started after it was chosen,
    and `wanted` all processes of the group. The first process that does not come up with a version ends the
    deployment: the others keep what they run. Neither a folder nor supervisord remembers keys or fencing tokens: a
    process that lost its lease and sleeps between its last look at the lease and the change is not shut out.

    Args:
        services: The folder of each service; the service is called as its group of processes.
        url: The address of supervisord, as for the adapter `supervisord`.
        user: The user of its HTTP server, if it has one.
        password: The password.
        timeout_s: How long a process may take to stop, and to start, seconds.
    """

    def __init__(
        self, services: Mapping[str, str], url: str, user: str = "", password: SecretStr | None = None,
        timeout_s: float = 60.0,
    ) -> None:  # fmt: skip
        self._folders = {service: Path(folder) for service, folder in services.items()}
        self._processes = Supervisord(url, user, password, timeout_s=timeout_s)

    @read
    async def versions(self, service: str) -> list[Version]:
        """List the versions of a service: the chosen one, then the others, the newest folder first."""
        folder = self._folder(service)
        runs, since = chosen(folder / "current")
        others = [name for name in _releases(folder) if name != runs]
        return [Version(version=runs, deployed_at=datetime.fromtimestamp(since, UTC)), *(
            Version(version=name) for name in others
        )]  # fmt: skip

    async def state(self, target: str) -> State:
        """Read which version a service runs, and with how many processes."""
        version, since = chosen(self._folder(target) / "current")
        found = await self._processes.instances(target)
        ready = sum(_is_ready(process, since) for process in found)
        return {"version": version, "ready": ready, "wanted": len(found)}

    async def ping(self) -> str:
        """Ping supervisord, read what is chosen in every folder, and look whether we may choose.

        Raises:
            Unreachable: supervisord was not reached, or what is chosen cannot be read.
            BadAnswer: The releases cannot be listed, or supervisord answers oddly.
            Refused: supervisord does not know who asks.
        """
        for folder in self._folders.values():
            chosen(folder / "current")
            _releases(folder)
        kept = [str(folder) for folder in self._folders.values() if not os.access(folder, os.W_OK | os.X_OK)]
        may = f"reads; {user()} may not write {', '.join(kept)}" if kept else f"reads and writes as {user()}"
        return f"{len(self._folders)} folder(s) of releases: {may}; {await self._processes.ping()}"

    async def apply(self, call: Call, key: str, token: int) -> None:
        """Choose a version and restart the processes that do not run it yet."""
        folder, version = self._folder(call.target), str(call.arguments["version"])
        if not _VERSION.fullmatch(version) or version not in _releases(folder):
            raise NotFound(f"There is no version {version!r} of {call.target}.", todo="Look at its versions.")
        before, _ = chosen(folder / "current")
        if version != before:
            _choose(folder, version)
        done: list[str] = []
        try:
            await self._renew(folder, call.target, done)
        except (AdapterError, NotFound) as error:
            if version != before and not done and isinstance(error, Refused) and _taken_back(folder, before, version):
                raise Refused(f"{version} was not started, and {before} is chosen again: {error.what}") from error
            runs = ", ".join(done) or "no process"
            raise MayHaveActed(f"{version} is chosen, and {runs} was started with it: {error.what}") from error

    async def aclose(self) -> None:
        """Close the connections."""
        await self._processes.aclose()

    def _folder(self, service: str) -> Path:
        if service not in self._folders:
            raise NotFound(f"There is no service {service!r} with releases.", todo="Check the name of the target.")
        return self._folders[service]

    async def _renew(self, folder: Path, service: str, done: list[str]) -> None:
        """Restart what was started before the version was chosen; supervisord tells times in whole seconds."""
        _, since = chosen(folder / "current")
        await asyncio.sleep(math.floor(since) + 1.01 - datetime.now(UTC).timestamp())
        for process in await self._processes.instances(service):
            if not _is_ready(process, since):
                await self._processes.renew(process.name)
                done.append(process.name)


def _is_ready(process: Service, since: float) -> bool:
    started = process.started_at.timestamp() if process.started_at else 0.0
    return process.state == "running" and started > since


def _releases(folder: Path) -> list[str]:
    """List the folders of releases, the newest first; a link that leads elsewhere is none."""
    try:
        found = [entry for entry in (folder / "releases").iterdir() if entry.is_dir() and not entry.is_symlink()]
        found.sort(key=lambda entry: (entry.stat().st_mtime, entry.name), reverse=True)
    except OSError as error:
        raise BadAnswer(f"The releases in {folder} cannot be listed: {error.strerror}.") from error
    return [entry.name for entry in found]


def _choose(folder: Path, version: str) -> None:
    """Put another `current` in the place of the old one, at once: a link stays a link, a file a file."""
    current = folder / "current"
    try:
        if current.is_symlink():
            _link(current, Path("releases") / version)
        else:
            mode = current.stat().st_mode & 0o777
            write_atomically(current, f"{version}\n".encode())
            current.chmod(mode)
    except OSError as error:
        raise Refused(f"{current} cannot be changed: {error.strerror}.") from error


def _link(current: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=current.parent, prefix=".current.") as folder:
        made = Path(folder) / "current"
        made.symlink_to(target)
        made.replace(current)


def _taken_back(folder: Path, before: str, version: str) -> bool:
    """Choose the version of before again, unless somebody else has chosen one since."""
    try:
        if chosen(folder / "current")[0] != version:
            return False
        _choose(folder, before)
    except AdapterError:
        return False
    return True
