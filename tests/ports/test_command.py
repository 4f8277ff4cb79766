"""Every runner of allowed programs, in memory, on this machine or over a real SSH server, keeps the same promises."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from servers.sshd import Machine, sshd

from rbkit.adapters.command import Programs
from rbkit.adapters.fake_machines import FakePrograms
from rbkit.errors import NotFound, Refused
from rbkit.facts import Call
from rbkit.kinds import Command

PROGRAM = """
import json, sys
from pathlib import Path
verb, file, target, *rest = sys.argv[1:]
target = target.removeprefix("--target=")
world = json.loads(Path(file).read_text())
if target not in world:
    print(f"no {target}", file=sys.stderr)
    sys.exit(4)
if verb == "set":
    world[target][rest[0]] = json.loads(rest[1])
    Path(file).write_text(json.dumps(world))
elif verb == "restart":
    world[target]["started"] += 1
    Path(file).write_text(json.dumps(world))
else:
    print(json.dumps(world[target] if verb == "state" else {"name": target}))
"""
WORLD = {"web": {"mode": "normal", "started": 1}, "; rm -rf /": {"mode": "normal", "started": 1}}
TARGETS = list(WORLD)


def declared(program: Path, file: Path) -> dict[str, Any]:
    """Declare the programs as an environment file does."""
    line = [sys.executable, "-I", str(program)]
    state = [*line, "state", str(file), "--target={target}"]
    change = {"state": state, "timeout": "20s"}
    return {
        "close": {"argv": [*line, "set", str(file), "{target}", "mode", '"closed"'], "after": {"mode": "closed"},
                  "undo": "open", **change},
        "open": {"argv": [*line, "set", str(file), "{target}", "mode", '"normal"'], "after": {"mode": "normal"},
                 "undo": "close", **change},
        "restart": {"argv": [*line, "restart", str(file), "--target={target}"], "differs": ["started"],
                    "irreversible": "a restart is one", **change},
    }  # fmt: skip


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A real SSH server for the module."""
    with sshd(tmp_path_factory.mktemp("sshd")) as found:
        yield found


@pytest.fixture(params=["fake", "local", "ssh"])
def use(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Callable[[Command], Awaitable[Any]]], Any]:
    """Run a coroutine with programs that change two subjects."""
    program, file = tmp_path / "program.py", tmp_path / "world.json"
    program.write_text(PROGRAM)
    file.write_text(json.dumps(WORLD))
    programs = declared(program, file)
    if request.param == "fake":
        fake = FakePrograms(WORLD, programs, {"name": {target: {"name": target} for target in TARGETS}})
        return lambda work: asyncio.run(work(fake))
    options = request.getfixturevalue("machine").options() if request.param == "ssh" else None
    reads = {"name": [sys.executable, "-I", str(program), "name", str(file), "--target={target}"]}

    async def closed(work: Any) -> Any:
        adapter = Programs(programs, reads, ssh=options, missing_codes=[4])
        try:
            return await work(adapter)
        finally:
            await adapter.aclose()

    return lambda work: asyncio.run(closed(work))


def call(program: str, target: str) -> Call:
    """Make a call."""
    return Call(capability="programs", action="run", target=target, arguments={"program": program})


async def run(programs: Command, program: str, target: str) -> tuple[Any, dict[str, Any]]:
    """Plan and make a change; return the plan and the state afterwards."""
    plan = programs.plan(call(program, target), await programs.state(target))
    await programs.apply(call(program, target), uuid4().hex, 1)
    return plan, await programs.state(target)


@pytest.mark.parametrize("target", TARGETS)
def test_what_a_plan_wants_comes_true_and_goes_back(use, target) -> None:
    """Also for a target that a shell would act on; the other target stays as it is."""
    before = use(lambda p: p.state(target))
    plan, after = use(lambda p: run(p, "close", target))
    assert plan.after.items() <= after.items() and not plan.irreversible
    assert plan.undo == ("run", {"program": "open"})
    _, back = use(lambda p: run(p, "open", target))
    assert back == before
    assert [use(lambda p, other=other: p.state(other)) for other in TARGETS] == list(WORLD.values())


def test_what_must_differ_differs(use) -> None:
    """A program without a known outcome is judged by what is not as before; it cannot be undone."""
    before = use(lambda p: p.state("web"))
    plan, after = use(lambda p: run(p, "restart", "web"))
    assert plan.differs == {"started": before["started"]} and after["started"] != before["started"]
    assert plan.undo is None and plan.irreversible == "a restart is one"


def test_an_unknown_target_is_not_found(use) -> None:
    """Reading or changing what is not there names it."""
    with pytest.raises(NotFound, match="no-such"):
        use(lambda p: p.state("no-such"))
    with pytest.raises(NotFound, match="no-such"):
        use(lambda p: p.ask("name", "no-such"))
    with pytest.raises(NotFound, match="no-such"):
        use(lambda p: p.apply(call("close", "no-such"), uuid4().hex, 1))


def test_a_program_that_is_not_allowed_is_not_found(use) -> None:
    """A slip is answered with the nearest one, in a plan, a change and a question."""
    before = use(lambda p: p.state("web"))
    with pytest.raises(NotFound, match="Did you mean 'close'"):
        use(lambda p: run(p, "clsoe", "web"))
    with pytest.raises(NotFound, match="No program '/bin/rm'"):
        use(lambda p: p.apply(call("/bin/rm", "web"), uuid4().hex, 1))
    with pytest.raises(NotFound, match="Did you mean 'name'"):
        use(lambda p: p.ask("nmae", "web"))
    assert use(lambda p: p.state("web")) == before


@pytest.mark.parametrize("target", TARGETS)
def test_a_program_that_only_reads_answers(use, target) -> None:
    """What it prints comes back."""
    assert use(lambda p: p.ask("name", target)) == {"name": target}


def test_the_same_change_twice_is_once(use) -> None:
    """What is so already stays so, and its way back is to leave it."""
    use(lambda p: run(p, "close", "web"))
    plan, after = use(lambda p: run(p, "close", "web"))
    assert after["mode"] == "closed" and plan.undo == ("run", {"program": "close"})


def test_a_state_that_does_not_show_it_is_refused(use) -> None:
    """A program is never run when nothing could tell whether it worked."""

    async def work(programs: Command) -> None:
        programs.plan(call("close", "web"), {"other": 1})

    with pytest.raises(Refused, match="'mode'"):
        use(work)


def test_ping_says_who_we_are_and_what_we_may_do(use, request) -> None:
    """One line, against every one of them: what it is, as whom we are there, what we may do."""
    named = {"fake": "in memory", "local": "3 program(s)", "ssh": "; reads and writes"}
    said = use(lambda one: one.ping())
    assert named[request.node.callspec.params["use"]] in said and "reads" in said and said.isprintable()
