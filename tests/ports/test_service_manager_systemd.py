"""systemd keeps the promises of a service manager. There is no systemd here: systemctl is a double on disk.

The double is called as the real program is, on this machine and over a real SSH server. With RBKIT_SYSTEMD_UNIT set to
a unit that may be stopped and started, the same promises are tried with the machine's own systemctl.
"""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from servers.sshd import Machine, sshd

from rbkit.adapters.fakes import FakeServices
from rbkit.adapters.systemd import Systemd
from rbkit.errors import NotFound
from rbkit.facts import Call
from rbkit.kinds import ServiceManager

REAL = os.environ.get("RBKIT_SYSTEMD_UNIT", "")
UNITS = ["checkout@1.service", "checkout@2.service"]
RUNS = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "NRestarts": "2"}
WORLD = {
    **{
        unit: {**RUNS, "MainPID": str(pid), "ExecMainStartTimestamp": "Sun 2026-11-22 09:05:00 UTC"}
        for pid, unit in enumerate(UNITS, 100)
    },
    "_": {"next": 500},
}  # fmt: skip


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A real SSH server for the module."""
    with sshd(tmp_path_factory.mktemp("sshd")) as found:
        yield found


def systemctl(folder: Path) -> str:
    """Put the double on disk, as a program that is called like the real one."""
    (folder / "units.json").write_text(json.dumps(WORLD))
    double = Path(__file__).parents[1] / "adapters" / "systemctl.py"
    program = folder / "systemctl"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -I {double} {folder} "$@"\n')
    program.chmod(0o755)
    return str(program)


@pytest.fixture(params=["fake", "local", "ssh", "real"])
def where(request: pytest.FixtureRequest) -> str:
    """In memory, by the double here and over SSH, or by this machine's own systemctl."""
    if request.param == "real" and not REAL:
        pytest.skip("RBKIT_SYSTEMD_UNIT names no unit")
    return str(request.param)


@pytest.fixture
def units(where: str) -> list[str]:
    """The units that are played with."""
    return [REAL] if where == "real" else UNITS


@pytest.fixture
def use(
    where: str, units: list[str], machine: Machine, tmp_path: Path
) -> Callable[[Callable[[ServiceManager], Awaitable[Any]]], Any]:
    """Run a coroutine with a manager of units that all run."""
    if where == "fake":
        fake = FakeServices({"checkout": units})
        return lambda work: asyncio.run(work(fake))
    options = {"ssh": machine.options()} if where == "ssh" else {}
    options |= {} if where == "real" else {"systemctl": systemctl(tmp_path)}

    async def closed(work: Any) -> Any:
        adapter = Systemd({"checkout": units}, **options)
        try:
            return await work(adapter)
        finally:
            await adapter.aclose()

    return lambda work: asyncio.run(closed(work))


def call(action: str, target: str) -> Call:
    """Make a call."""
    return Call(capability="services", action=action, target=target)


def holds(plan: Any, state: dict[str, Any]) -> bool:
    """Tell whether a state is what a plan wants."""
    return plan.after.items() <= state.items() and all(state[key] != value for key, value in plan.differs.items())


def test_instances_are_listed_in_a_stable_order(use, units) -> None:
    """Each has its name, service, state, process and start."""
    found = use(lambda s: s.instances("checkout"))
    assert [one.name for one in found] == units
    assert all((one.service, one.state) == ("checkout", "running") and one.pid and one.started_at for one in found)


def test_an_unknown_service_has_no_instances(use) -> None:
    """An empty list, not an error."""
    assert use(lambda s: s.instances("no-such-service")) == []


def test_an_unknown_instance_is_not_found(use) -> None:
    """Reading, changing or fencing what the environment file does not name is refused, whatever the machine has."""
    for work in (
        lambda s: s.state("no-such.service"), lambda s: s.fence("no-such.service", 1),
        lambda s: s.apply(call("restart", "no-such.service"), uuid4().hex, 1),
    ):  # fmt: skip
        with pytest.raises(NotFound, match="no-such"):
            use(work)


@pytest.mark.parametrize("actions", [("restart",), ("stop", "start"), ("stop", "stop", "start", "start")])
def test_what_a_plan_wants_comes_true(use, units, until, actions) -> None:
    """After each action the state shows what the plan promised; the other units stay as they are."""
    target, others = units[-1], units[:-1]
    left = [use(lambda s, other=other: s.state(other)) for other in others]
    for action in actions:
        before = use(lambda s: s.state(target))

        async def work(services: ServiceManager, action: str = action, before: Any = before) -> Any:
            plan = services.plan(call(action, target), before)
            await services.fence(target, 2)
            await services.apply(call(action, target), uuid4().hex, 2)
            return plan

        plan = use(work)
        until(lambda plan=plan: holds(plan, use(lambda s: s.state(target))))
    assert [use(lambda s, other=other: s.state(other)) for other in others] == left


def test_ping_says_who_we_are_and_what_we_may_do(use, where) -> None:
    """One line, against every one of them: what it is, as whom we are there, what we may do."""
    said = use(lambda one: one.ping())
    assert ("in memory" if where == "fake" else "systemd with ") in said and "reads and writes" in said
