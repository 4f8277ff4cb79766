"""Programs, flags, disks and certificates in memory: they pass the same suites as the real ones."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from rbkit.adapters.command import known, plan_of, programs_of
from rbkit.adapters.fakes import Fake
from rbkit.capability import Facts, Plan, State, read
from rbkit.datakinds import Certificate, Certificates, Disk, Filesystem, Listing, StaleFile
from rbkit.errors import NotFound, Refused
from rbkit.facts import Call
from rbkit.kinds import Command, FeatureFlags
from rbkit.values import digest

__all__ = ["FakeCertificates", "FakeDisk", "FakeFlags", "FakePrograms"]


class _Subject(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class FakePrograms(Fake, Command):
    """Programs in memory: each does what it is declared to do.

    Args:
        subjects: States by target.
        programs: Programs by name, as an environment file declares them.
        answers: What the programs that only read answer, by name and target.
    """

    def __init__(
        self, subjects: Mapping[str, State], programs: Mapping[str, Any], answers: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__({name: _Subject.model_validate(state) for name, state in subjects.items()})
        self._programs, self._answers = programs_of(programs), dict(answers or {})

    def plan_of(self, program: str, before: State) -> Plan:
        """Say what a program brings about."""
        return plan_of(self._programs, program, before)

    @read
    async def ask(self, program: str, target: str) -> dict[str, Any]:
        """Answer as it was said."""
        answers = self._answers[known(program, self._answers)]
        if target not in answers:
            raise NotFound(f"There is no {target!r}.", todo="Check the name of the target.")
        return dict(answers[target])

    def _changed(self, thing: Any, call: Call) -> dict[str, Any]:
        """Bring about what the program declares; what must differ becomes a new number."""
        program = self._programs[known(str(call.arguments.get("program")), self._programs)]
        return {**dict.fromkeys(program.differs, len(self.log) + 1_000), **program.after}


class _Flag(Facts):
    value: bool | int | float | str


class FakeFlags(Fake, FeatureFlags):
    """Flags in memory.

    Args:
        values: Values by flag.
    """

    def __init__(self, values: Mapping[str, bool | int | float | str]) -> None:
        super().__init__({name: _Flag(value=value) for name, value in values.items()})

    def _changed(self, thing: _Flag, call: Call) -> dict[str, Any]:
        """Give the flag a value."""
        return dict(call.arguments)


class _Folder(Facts):
    files: list[StaleFile]

    @property
    def stale(self) -> list[StaleFile]:
        return sorted((file for file in self.files if not file.held_by), key=lambda file: file.modified_at)


class FakeDisk(Fake, Disk):
    """A disk in memory.

    Args:
        cleanups: What each clean-up finds; a file that is held is left alone.
        usage: File systems.
        most: How many files may be removed at once.
    """

    def __init__(
        self, cleanups: Mapping[str, Iterable[StaleFile]], usage: Iterable[Filesystem] = (), most: int = 1000
    ) -> None:
        super().__init__({name: _Folder(files=list(files)) for name, files in cleanups.items()})
        self._usage, self._most = {one.path: one for one in usage}, most

    @read
    async def usage(self, path: str) -> Filesystem:
        """Say how full a file system is."""
        if path not in self._usage:
            raise NotFound(f"There is no {path!r}.", todo="Check the path.")
        return self._usage[path]

    @read
    async def stale(self, cleanup: str) -> Listing:
        """List what a clean-up would remove."""
        folder = self._known(cleanup)
        held = [file for file in folder.files if file.held_by]
        size = sum(file.size for file in folder.stale)
        return Listing(listing=_named(folder.stale), bytes=size, files=folder.stale, held=held)

    async def state(self, target: str) -> dict[str, Any]:
        """Say how much a clean-up would remove."""
        found = await self.stale(target)
        return {"files": len(found.files), "bytes": found.bytes, "listing": found.listing, "most": self._most}

    def _changed(self, thing: _Folder, call: Call) -> dict[str, Any]:
        """Remove exactly what was listed."""
        if call.arguments.get("listing") != _named(thing.stale):
            raise Refused("The files have changed since they were listed.", todo="List them again.")
        return {"files": [file for file in thing.files if file.held_by]}


def _named(files: list[StaleFile]) -> str:
    return digest([file.model_dump(mode="json") for file in files])


class FakeCertificates(Certificates):
    """Certificates in memory.

    Args:
        shown: What servers show.
    """

    def __init__(self, shown: Iterable[Certificate]) -> None:
        self._shown = {one.address: one for one in shown}

    @read
    async def certificate(self, address: str) -> Certificate:
        """Say what a server shows."""
        if address not in self._shown:
            raise NotFound(f"There is no {address!r}.", todo="Write it like www.example.org:443.")
        return self._shown[address]

    async def state(self, target: str) -> dict[str, Any]:
        """Say what a server shows."""
        return (await self.certificate(target)).model_dump(mode="json")

    async def ping(self) -> str:
        """Say what is in memory."""
        return f"in memory, {len(self._shown)} address(es), nobody asks who we are; reads"

    async def apply(self, call: Call, key: str, token: int) -> None:
        """Refuse: certificates are only read."""
        raise Refused("Certificates are only read here.")
