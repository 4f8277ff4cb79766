"""Disks of this machine, and clean-ups that never follow a link, never leave their folder and keep what is in use.

Source: openat(2), statvfs(3) and proc(5) of Linux
"""

import asyncio
import fnmatch
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from rbkit.adapters.options import option
from rbkit.adapters.told import user
from rbkit.capability import read
from rbkit.datakinds import Disk, Filesystem, Listing, StaleFile
from rbkit.errors import BadAnswer, MayHaveActed, NotFound, Refused, Unreachable
from rbkit.facts import Call
from rbkit.values import digest, human, nearest, seconds

__all__ = ["LocalDisk"]

T = TypeVar("T")
_TIMEOUT_S = 12.0
_GRACE_S = 1.0
_MOST_SEEN = 200_000
"""A folder with more entries than this is not looked through."""
_SAME_LOOK_S = 60.0
"""For how long the age of files is counted from the listing that was removed: what ages meanwhile was not left."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Cleanup(BaseModel):
    """A clean-up, as the environment file describes it.

    Args:
        path: The folder: absolute, without links.
        pattern: What the names of the files look like, such as `*.log.*`; never a path.
        older_than: How long a file must not have been written.
        keep: How many of the newest files that match are always kept.
        max_files: More files than this are not removed at once.
        subfolders: Whether folders inside are cleaned, too; those on other file systems are not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: Path
    pattern: str = Field(pattern=r"^[^/\x00]+$")
    older_than: float
    keep: int = Field(default=0, ge=0)
    max_files: int = Field(default=1000, ge=1)
    subfolders: bool = False

    @field_validator("older_than", mode="before")
    @classmethod
    def _seconds(cls, text: str | float) -> float:
        return seconds(text)

    @field_validator("path")
    @classmethod
    def _whole(cls, path: Path) -> Path:
        if not path.is_absolute() or len(path.parts) < 3 or ".." in path.parts:
            raise ValueError("it must be absolute, without .., and not at the top of the file system")
        return path


@dataclass(frozen=True, slots=True)
class _File:
    place: str
    """Its path below the clean-up's folder."""
    size: int
    written_ns: int
    device: int
    inode: int

    @property
    def same(self) -> tuple[int, int]:
        return self.device, self.inode


class LocalDisk(Disk):
    """The disks of this machine; over SSH, use programs. It cannot remember fencing tokens: a listing is exact instead.

    A file that a process has open is left alone. Only processes that rbkit may look at are seen: run it as root, or
    clean only what its own user's processes write.

    Args:
        cleanups: Clean-ups by name: see Cleanup.
        processes: Where the kernel shows processes.

    Raises:
        SettingsError: A clean-up is described wrongly.
    """

    def __init__(self, cleanups: Mapping[str, Any] | None = None, processes: str = "/proc") -> None:
        self._cleanups = {name: option(Cleanup, f"cleanups.{name}", given) for name, given in (cleanups or {}).items()}
        self._processes = Path(processes)
        self._removed: dict[str, tuple[float, float]] = {}

    @read
    async def usage(self, path: str) -> Filesystem:
        """Say how full the file system under a path is."""
        return await _read(lambda stop: _usage(path), path)

    @read
    async def stale(self, cleanup: str) -> Listing:
        """List what a clean-up would remove, the oldest first."""
        found = self._known(cleanup)
        files, held = await _read(lambda stop: self._listed(found, self._moment(cleanup), stop), cleanup)
        return Listing(
            listing=_name(files), bytes=sum(file.size for file in files), files=[_shown(found, f, "") for f in files],
            held=[_shown(found, file, who) for file, who in held],
        )  # fmt: skip

    async def state(self, target: str) -> dict[str, Any]:
        """Say how much a clean-up would remove."""
        found = await self.stale(target)
        most = self._known(target).max_files
        return {"files": len(found.files), "bytes": found.bytes, "listing": found.listing, "most": most}

    async def ping(self) -> str:
        """Open the folder of every clean-up, and look whether we may remove files there.

        Raises:
            Unreachable: A folder is not there, or a link leads there.
        """
        kept = await _read(self._kept, "A folder")
        may = f"reads, but may remove nothing of: {', '.join(kept)}" if kept else "reads and writes"
        return f"{len(self._cleanups)} clean-up(s), as {user()}; {may}"

    async def apply(self, call: Call, key: str, token: int) -> None:
        """Remove the files that were listed; a file that has changed since, or is held, is kept."""
        found, moment = self._known(call.target), self._moment(call.target)
        listing = str(call.arguments.get("listing"))
        try:
            await _in_thread(lambda stop: self._remove(found, listing, moment, stop), call.target)
        except TimeoutError as error:
            raise MayHaveActed(str(error)) from error
        self._removed[call.target] = (moment, time.monotonic() + _SAME_LOOK_S)

    def _moment(self, cleanup: str) -> float:
        moment, until = self._removed.get(cleanup, (0.0, 0.0))
        return moment if time.monotonic() < until else time.time()

    def _known(self, name: str) -> Cleanup:
        if name not in self._cleanups:
            known = ", ".join(sorted(self._cleanups)) or "none"
            raise NotFound(f"There is no clean-up {name!r}.{nearest(name, self._cleanups)}", todo=f"Known: {known}.")
        return self._cleanups[name]

    def _kept(self, stop: threading.Event) -> list[str]:
        """Name the clean-ups in whose folders we may not remove anything."""
        found = []
        for name, cleanup in self._cleanups.items():
            _go_on(stop)
            try:
                with _folder(cleanup.path) as here:
                    may = os.access(".", os.R_OK | os.W_OK | os.X_OK, dir_fd=here, effective_ids=True)
            except OSError as error:
                why = f"{cleanup.path} of {name} cannot be opened, or a link leads there: {error.strerror}."
                raise Unreachable(why) from error
            found += [] if may else [name]
        return found

    def _listed(
        self, cleanup: Cleanup, moment: float, stop: threading.Event
    ) -> tuple[list[_File], list[tuple[_File, str]]]:
        """List what a clean-up would remove, and what it leaves because a process has it open."""
        matching = sorted(_found(cleanup, stop), key=lambda file: (file.written_ns, file.place))
        old = matching[: max(len(matching) - cleanup.keep, 0)]
        old = [file for file in old if file.written_ns < (moment - cleanup.older_than) * 1e9]
        held = self._held({file.same for file in old}, stop) if old else {}
        return [f for f in old if f.same not in held], [(f, held[f.same]) for f in old if f.same in held]

    def _remove(self, cleanup: Cleanup, listing: str, moment: float, stop: threading.Event) -> None:
        try:
            files, _ = self._listed(cleanup, moment, stop)
        except BadAnswer as error:
            raise Refused(f"Nothing was removed: {error.what}", todo=error.todo) from error
        if _name(files) != listing or len(files) > cleanup.max_files:
            raise Refused("The files have changed since they were listed, or are too many.", todo="List them again.")
        gone = 0
        for file in files:
            if stop.is_set():
                raise MayHaveActed(f"{gone} of {len(files)} files were removed; then the time was over.")
            try:
                gone += _unlinked(cleanup.path, file)
            except FileNotFoundError:  # somebody else was faster
                continue
            except OSError as error:
                kind = MayHaveActed if gone else Refused
                raise kind(f"{file.place} cannot be removed: {error.strerror}; {gone} files were.") from error

    def _held(self, sought: set[tuple[int, int]], stop: threading.Event) -> dict[tuple[int, int], str]:
        """Tell which of these files are open, and in which process; what may not be looked at is not seen."""
        held: dict[tuple[int, int], str] = {}
        for process in self._processes.glob("[0-9]*"):
            _go_on(stop)
            with suppress(OSError):  # it has ended, or belongs to somebody else
                for number in (process / "fd").iterdir():
                    with suppress(OSError):
                        seen = number.stat()
                        if (seen.st_dev, seen.st_ino) in sought:
                            held[seen.st_dev, seen.st_ino] = _words(process)
        return held


def _words(process: Path) -> str:
    name = ""
    with suppress(OSError):
        name = (process / "comm").read_text(errors="replace").strip()
    return f"{name} ({process.name})".strip()


def _usage(path: str) -> Filesystem:
    try:
        found = os.statvfs(path)
    except FileNotFoundError as error:
        raise NotFound(f"There is no {path!r}.", todo="Check the path.") from error
    except (OSError, ValueError) as error:
        raise Unreachable(f"The file system of {path!r} cannot be read: {error}.") from error
    free = found.f_bavail * found.f_frsize
    used = (found.f_blocks - found.f_bfree) * found.f_frsize
    return Filesystem(
        path=path, size=found.f_blocks * found.f_frsize, free=free, used_share=_share(used, used + free),
        inodes_used_share=_share(found.f_files - found.f_ffree, found.f_files),
    )  # fmt: skip


def _share(part: int, whole: int) -> float:
    """Say which share is used, as df does; a file system without a number has none used."""
    return part / whole if whole else 0.0


@contextmanager
def _folder(path: Path) -> Iterator[int]:
    """Open a folder step by step: no part of its path may be a link."""
    here = os.open("/", _FOLDER)
    try:
        for part in path.parts[1:]:
            there = os.open(part, _FOLDER, dir_fd=here)
            os.close(here)
            here = there
        yield here
    finally:
        os.close(here)


def _found(cleanup: Cleanup, stop: threading.Event) -> list[_File]:
    try:
        with _folder(cleanup.path) as root:
            return _matching(root, cleanup, stop)
    except OSError as error:
        raise Unreachable(f"{cleanup.path} cannot be read, or a link leads there: {error.strerror}.") from error


def _matching(root: int, cleanup: Cleanup, stop: threading.Event) -> list[_File]:
    found, waiting, seen, device = list[_File](), [""], 0, os.fstat(root).st_dev
    while waiting:
        below = waiting.pop()
        with _inside(root, below) as here, os.scandir(here) as entries:
            for entry in entries:
                _go_on(stop)
                seen += 1
                if seen > _MOST_SEEN:
                    raise BadAnswer(f"{cleanup.path} holds more than {_MOST_SEEN} entries.", todo="Name a smaller one.")
                with suppress(FileNotFoundError):  # gone since it was listed
                    facts = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(facts.st_mode) and facts.st_dev == device and cleanup.subfolders:
                        waiting.append(f"{below}{entry.name}/")
                    elif stat.S_ISREG(facts.st_mode) and fnmatch.fnmatchcase(entry.name, cleanup.pattern):
                        found.append(_file(below + entry.name, facts))
    return found


@contextmanager
def _inside(root: int, below: str) -> Iterator[int]:
    """Open a folder below another one, step by step; a link that took its place since is not followed."""
    here = os.dup(root)
    try:
        for part in below.split("/")[:-1]:
            there = os.open(part, _FOLDER, dir_fd=here)
            os.close(here)
            here = there
        yield here
    finally:
        os.close(here)


def _file(place: str, facts: os.stat_result) -> _File:
    return _File(place, facts.st_size, facts.st_mtime_ns, facts.st_dev, facts.st_ino)


def _unlinked(path: Path, file: _File) -> bool:
    """Remove one file, if it is still the one that was listed."""
    below, _, name = file.place.rpartition("/")
    with _folder(path) as root, _inside(root, below and f"{below}/") as here:
        if _file(file.place, os.stat(name, dir_fd=here, follow_symlinks=False)) != file:
            return False
        os.unlink(name, dir_fd=here)
        return True


def _name(files: list[_File]) -> str:
    """Name a listing by its files: which, how large, when written."""
    return digest([[ascii(file.place), file.size, file.written_ns, file.inode] for file in files])


def _shown(cleanup: Cleanup, file: _File, held_by: str) -> StaleFile:
    path = str(cleanup.path / file.place).encode(errors="replace").decode()
    return StaleFile(
        path=path, size=file.size, modified_at=datetime.fromtimestamp(file.written_ns / 1e9, UTC), held_by=held_by
    )


def _go_on(stop: threading.Event) -> None:
    if stop.is_set():
        raise Unreachable("The disk was too slow; nothing was removed.")


async def _read(work: Callable[[threading.Event], T], what: str) -> T:
    try:
        return await _in_thread(work, what)
    except TimeoutError as error:
        raise Unreachable(str(error)) from error


async def _in_thread(work: Callable[[threading.Event], T], what: str) -> T:
    """Work in a thread that is told to stop, and stops at the next file, when nobody waits for it any more.

    Raises:
        Unreachable: It takes too long.
        TimeoutError: It does not even stop.
    """
    stop = threading.Event()
    task = asyncio.ensure_future(asyncio.to_thread(work, stop))
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    try:
        await asyncio.wait({task}, timeout=_TIMEOUT_S)
    finally:
        stop.set()
    done, _ = await asyncio.wait({task}, timeout=_GRACE_S)
    if not done:
        raise TimeoutError(f"{what} did not answer within {human(_TIMEOUT_S)}.")
    return task.result()
