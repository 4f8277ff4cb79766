"""What systemctl says becomes rbkit's words, and its exit codes become rbkit's errors; against a double on disk."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pings import pinged
from ports.test_service_manager_systemd import WORLD, systemctl

from rbkit.adapters.systemd import Systemd
from rbkit.errors import BadAnswer, MayHaveActed, NotFound, Refused, SettingsError
from rbkit.facts import Call

UNIT = "checkout@1.service"


@pytest.fixture
def services(tmp_path: Path) -> Systemd:
    """One unit on this machine, by the double."""
    return Systemd({"checkout": [UNIT]}, systemctl=systemctl(tmp_path))


def change(folder: Path, **fields: str) -> None:
    """Let the unit be otherwise."""
    world = {**WORLD, UNIT: {**WORLD[UNIT], **fields}}
    (folder / "units.json").write_text(json.dumps(world))


def do(services: Systemd, action: str) -> None:
    """Make a change."""
    asyncio.run(services.apply(Call(capability="s", action=action, target=UNIT), "key", 1))


def state(services: Systemd) -> dict[str, Any]:
    """Read the state."""
    return asyncio.run(services.state(UNIT))


@pytest.mark.parametrize(
    "active, sub, word",
    [
        ("active", "running", "running"), ("active", "exited", "running"), ("reloading", "reload", "running"),
        ("activating", "start-pre", "starting"), ("activating", "auto-restart", "crashed"),
        ("deactivating", "stop-sigterm", "stopping"), ("inactive", "dead", "stopped"), ("failed", "failed", "crashed"),
    ],
)  # fmt: skip
def test_states_are_said_in_our_words(services, tmp_path, active, sub, word) -> None:
    """A unit that waits to be started again by systemd has crashed."""
    change(tmp_path, ActiveState=active, SubState=sub)
    assert state(services)["state"] == word


def test_process_start_and_restarts_are_read(services, tmp_path) -> None:
    """The time is in UTC; a unit that never ran has neither."""
    (found,) = asyncio.run(services.instances("checkout"))
    assert (found.pid, found.restarts, found.started_at) == (100, 2, datetime(2026, 11, 22, 9, 5, tzinfo=UTC))
    for never in ("", "n/a"):
        change(tmp_path, MainPID="0", ExecMainStartTimestamp=never, NRestarts="")
        (found,) = asyncio.run(services.instances("checkout"))
        assert (found.pid, found.restarts, found.started_at) == (None, 0, None)


def test_a_unit_that_the_machine_does_not_have_is_not_found(services, tmp_path) -> None:
    """A list shows it as missing; reading or changing it is an error."""
    (tmp_path / "units.json").write_text(json.dumps({"_": {"next": 1}}))
    assert [one.state for one in asyncio.run(services.instances("checkout"))] == ["missing"]
    with pytest.raises(NotFound, match="systemd knows no unit"):
        state(services)
    with pytest.raises(NotFound, match="not found"):
        do(services, "restart")


def test_a_masked_unit_is_refused(services, tmp_path) -> None:
    """systemd made no job: it did not act."""
    change(tmp_path, LoadState="masked")
    with pytest.raises(Refused, match="is masked"):
        do(services, "start")


def test_a_job_that_failed_may_have_acted(services, tmp_path) -> None:
    """What systemd says is part of the error."""
    change(tmp_path, fails="yes")
    with pytest.raises(MayHaveActed, match="control process exited"):
        do(services, "restart")
    assert state(services)["state"] == "crashed"


def test_a_unit_that_fails_on_the_way_down_counts_as_stopped(services, tmp_path) -> None:
    """Many services end with an error code when they are told to end; that is what was wanted."""
    change(tmp_path, fails="yes")
    do(services, "stop")
    assert state(services)["state"] == "stopped"


@pytest.mark.parametrize("what", ["read", "forget"])
def test_a_failure_after_a_stop_is_a_doubt(services, tmp_path, monkeypatch, what) -> None:
    """The unit was told to stop: neither a state that cannot be read nor a refusal afterwards means that it was not."""
    change(tmp_path, fails="yes")
    real = Systemd._do

    async def do_and_break(self: Any, verb: str, unit: str) -> None:
        await real(self, verb, unit)
        if what == "read":
            (tmp_path / "units.json").write_text(json.dumps({"_": {"next": 1}}))
        else:
            (tmp_path / "systemctl").write_text(
                '#!/bin/sh\nset -- "$@"\n[ "$2" = show ] && exec "$0.show" "$@"\nexit 4\n'
            )

    shown = "LoadState=loaded\nActiveState=failed\nSubState=failed\nMainPID=0\nExecMainStartTimestamp="
    (tmp_path / "systemctl.show").write_text(f"#!/bin/sh\necho '{shown}'\n")
    (tmp_path / "systemctl.show").chmod(0o755)
    monkeypatch.setattr(Systemd, "_do", do_and_break)
    with pytest.raises(MayHaveActed, match="was told to stop"):
        do(services, "stop")


def test_words_before_the_program_are_for_changes(tmp_path) -> None:
    """Reading needs no rights; what stands before is called with its own arguments."""
    log = tmp_path / "log"
    sudo = tmp_path / "sudo"
    sudo.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {log}\nshift\nexec "$@"\n')
    sudo.chmod(0o755)
    services = Systemd({"checkout": [UNIT]}, systemctl=systemctl(tmp_path), through=[str(sudo), "-n"])
    state(services)
    assert not log.exists()
    do(services, "restart")
    assert log.read_text().startswith("-n ") and f"restart -- {UNIT}" in log.read_text()


BLOCK = "LoadState=loaded\nActiveState={}\nSubState=x\nMainPID={}\nExecMainStartTimestamp={}"


@pytest.mark.parametrize(
    "out",
    [
        "", "nonsense", "LoadState=loaded", "LoadState=loaded\n\nLoadState=loaded", BLOCK.format("odd", 1, ""),
        BLOCK.format("active", "x", ""), BLOCK.format("active", 1, "yesterday"),
        BLOCK.format("active", 1, "Mo 2026-11-23 16:46:31 CET"),
    ],
)  # fmt: skip
def test_an_odd_description_is_a_bad_answer(services, tmp_path, out) -> None:
    """Nothing is guessed."""
    (tmp_path / "fault").write_text(json.dumps({"out": out, "code": 0}))
    with pytest.raises(BadAnswer):
        state(services)


def test_a_description_that_fails_is_a_bad_answer(services, tmp_path) -> None:
    """For example because there is no bus."""
    (tmp_path / "fault").write_text(json.dumps({"out": "Failed to connect to bus", "code": 1}))
    with pytest.raises(BadAnswer, match="connect to bus"):
        state(services)


@pytest.mark.parametrize(
    "unit", ["checkout", "-x.service", "a b.service", "a;b.service", "../a.service", ".service", "a.timer"]
)
def test_what_is_no_unit_of_a_service_is_refused(unit) -> None:
    """When the capability is made."""
    with pytest.raises(SettingsError, match="is no unit"):
        Systemd({"checkout": [unit]})


def test_a_unit_that_stands_twice_is_refused() -> None:
    """It would be two instances that are one."""
    with pytest.raises(SettingsError, match="stands twice"):
        Systemd({"a": [UNIT], "b": [UNIT]})


def test_ping_names_units_and_programs_that_are_missing(services, tmp_path) -> None:
    """A unit that systemd does not know, a program that is not there."""
    assert "systemd with 1 unit(s)" in pinged(services)
    (tmp_path / "units.json").write_text(json.dumps({"_": {"next": 1}}))
    with pytest.raises(NotFound, match=r"systemd knows no checkout@1\.service"):
        pinged(services)
    with pytest.raises(Refused, match="no-such"):
        pinged(Systemd({}, systemctl="/no-such"))
    assert "systemd with 0 unit(s)" in pinged(Systemd({}, systemctl="/bin/true"))


@pytest.mark.parametrize(("through", "named"), [(["/usr/bin/env"], "writes through /usr/bin/env"), ([], "as polkit")])
def test_ping_of_somebody_who_is_not_root_says_how_changes_are_made(monkeypatch, through, named) -> None:
    """As far as systemd lets us, or through another program."""

    async def somebody(machine: Any, programs: Any) -> str:
        assert list(programs) == [*through, "/usr/bin/systemctl"]
        return "rbkit"

    monkeypatch.setattr("rbkit.adapters.systemd.able", somebody)
    assert named in pinged(Systemd({}, through=through))
