"""Services that systemd runs, on this machine or on another one by SSH.

Source: https://www.freedesktop.org/software/systemd/man/latest/systemctl.html and org.freedesktop.systemd1
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rbkit.adapters.ssh import able, certainly, read, runner
from rbkit.capability import read as reads_only
from rbkit.errors import AdapterError, BadAnswer, MayHaveActed, NotFound, SettingsError
from rbkit.facts import Call
from rbkit.kinds import Service, ServiceManager
from rbkit.values import nearest, seconds

__all__ = ["Systemd"]

_UNIT = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_:.\\@-]{0,200}\.service")
_SHOWN = ("LoadState", "ActiveState", "SubState", "MainPID", "NRestarts", "ExecMainStartTimestamp")
_STATES = {
    "active": "running", "reloading": "running", "refreshing": "running", "activating": "starting",
    "deactivating": "stopping", "inactive": "stopped", "failed": "crashed", "maintenance": "stopped",
}  # fmt: skip
_REFUSED = (2, 3, 4, 6)
"""Exit codes by which systemctl says that no job was made: wrong argument, not applicable, no right, masked."""
_NO_UNIT = (5,)
_LOOK_S = 10.0


class Systemd(ServiceManager):
    """The services of one machine; systemd cannot remember fencing tokens, so an old holder is not shut out by it.

    An action waits for systemd's job: what systemctl says when the job failed is part of the error.

    Args:
        units: Unit names by service, each with `.service`; an instance is called like its unit.
        ssh: The machine: `host`, `user`, `key_file`, `known_hosts`, `port`; this one when missing.
        systemctl: The program's path.
        through: Words before it, such as `[/usr/bin/sudo, -n]`; only for changes.
        timeout: How long an action may take.

    Raises:
        SettingsError: A name is no unit of a service, or stands twice.
    """

    def __init__(
        self, units: Mapping[str, Sequence[str]], ssh: Mapping[str, Any] | None = None,
        systemctl: str = "/usr/bin/systemctl", through: Sequence[str] = (), timeout: str | float = "90s",
    ) -> None:  # fmt: skip
        self._services = {unit: service for service, names in units.items() for unit in names}
        names = [unit for found in units.values() for unit in found]
        for unit in names:
            if not _UNIT.fullmatch(unit) or names.count(unit) > 1:
                raise SettingsError(f"{unit!r} is no unit such as `checkout@1.service`, or stands twice.")
        self._machine, self._through = runner(ssh), list(through)
        self._systemctl, self._timeout_s = systemctl, seconds(timeout)

    @reads_only
    async def instances(self, service: str) -> list[Service]:
        """List the units of a service."""
        units = [unit for unit, name in self._services.items() if name == service]
        return await self._show(units) if units else []

    async def state(self, target: str) -> dict[str, Any]:
        """Read a unit's state."""
        (found,) = await self._show([self._known(target)])
        if found.state == "missing":
            raise NotFound(f"systemd knows no unit {target!r}.", todo="Check the units of the environment file.")
        return found.model_dump(mode="json")

    async def ping(self) -> str:
        """Look whether the programs may be run by us, and show all units.

        Raises:
            NotFound: systemd does not know one of the units.
            Refused: A program may not be run.
            BadAnswer: systemd answers oddly, or is not what runs there.
            Unreachable: The machine was not reached.
        """
        who = await able(self._machine, [*self._through[:1], self._systemctl])
        found = await self._show(list(self._services)) if self._services else []
        missing = [one.name for one in found if one.state == "missing"]
        if missing:
            raise NotFound(f"systemd knows no {', '.join(missing)}.", todo="Check the units of the environment file.")
        through = f"writes through {self._through[0]}" if self._through else "writes as far as polkit lets us"
        return f"systemd with {len(found)} unit(s), as {who}; reads and {'writes' if who == 'root' else through}"

    async def apply(self, call: Call, key: str, token: int) -> None:
        """Restart, stop or start a unit; a unit that failed on the way down counts as stopped."""
        unit = self._known(call.target)
        await self._do(call.action, unit)
        if call.action == "stop":
            await self._settle(unit)

    async def fence(self, target: str, token: int) -> None:
        """Look whether there is such a unit; systemd cannot remember a token."""
        self._known(target)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._machine.aclose()

    async def _settle(self, unit: str) -> None:
        """Forget that a unit failed on the way down; it was told to stop already, so any failure is a doubt."""
        try:
            if (await self.state(unit))["state"] == "crashed":
                await self._do("reset-failed", unit)
        except (AdapterError, NotFound) as error:
            raise MayHaveActed(f"{unit} was told to stop; then: {error.what}") from error

    async def _do(self, verb: str, unit: str) -> None:
        words = [*self._through, self._systemctl, "--no-ask-password", "--no-pager", verb, "--", unit]
        ran = await self._machine.run(words, self._timeout_s)
        certainly(ran, f"systemctl {verb} {unit}", _REFUSED, _NO_UNIT)

    async def _show(self, units: list[str]) -> list[Service]:
        asked = ["--no-pager", "show", f"--property={','.join(_SHOWN)}", "--", *units]
        words = ["/usr/bin/env", "TZ=UTC", "LC_ALL=C", self._systemctl, *asked]
        ran = await read(self._machine, words, _LOOK_S)
        if ran.code:
            raise BadAnswer(f"systemctl show ended with code {ran.code}: {ran.said}")
        blocks = ran.out.decode(errors="replace").strip().split("\n\n")
        if len(blocks) != len(units):
            raise BadAnswer(f"systemctl described {len(blocks)} units instead of {len(units)}.")
        return [self._service(unit, block) for unit, block in zip(units, blocks, strict=True)]

    def _service(self, unit: str, block: str) -> Service:
        fields = dict(line.partition("=")[::2] for line in block.splitlines())
        try:
            return Service(
                name=unit, service=self._services[unit], state=_state(fields), pid=int(fields["MainPID"]) or None,
                started_at=_moment(fields["ExecMainStartTimestamp"]), version="",
                restarts=int(fields.get("NRestarts") or 0),
            )  # fmt: skip
        except (KeyError, ValueError) as error:
            raise BadAnswer(f"systemctl described {unit} in an unknown form: {block[:200]!r}.") from error

    def _known(self, target: str) -> str:
        if target not in self._services:
            raise NotFound(
                f"The environment file names no unit {target!r}.{nearest(target, self._services)}",
                todo="Check the name of the target.",
            )
        return target


def _state(fields: Mapping[str, str]) -> str:
    """Say a unit's state in rbkit's words; one that waits to be restarted by systemd has crashed."""
    if fields["LoadState"] == "not-found":
        return "missing"
    return "crashed" if fields["SubState"] == "auto-restart" else _STATES[fields["ActiveState"]]


def _moment(text: str) -> datetime | None:
    """Read `Mon 2026-11-23 16:46:31 UTC`; nothing when it was never started."""
    if text in {"", "n/a"}:
        return None
    _, day, time, zone = text.split(" ")
    if zone != "UTC":
        raise ValueError(f"{zone} instead of UTC")
    return datetime.fromisoformat(f"{day} {time}").replace(tzinfo=UTC)
