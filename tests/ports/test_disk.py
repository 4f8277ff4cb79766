"""Every disk, in memory or real, keeps the same promises."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from rbkit.adapters.disk import LocalDisk
from rbkit.adapters.fake_machines import FakeDisk
from rbkit.datakinds import Disk, Filesystem, StaleFile
from rbkit.errors import NotFound, Refused
from rbkit.facts import Call

OLD = 1_700_000_000
NAMES = ["a.log", "b.log", "c.log"]


@pytest.fixture(params=["fake", "real"])
def use(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[Callable[[Disk], Awaitable[Any]]], Any]]:
    """Run a coroutine with a disk: three old files of 5 bytes, the first the oldest, and one that is held open."""
    folder = tmp_path / "logs"
    if request.param == "fake":
        files = [
            StaleFile(
                path=f"{folder}/{name}", size=5, modified_at=datetime.fromtimestamp(OLD + place, UTC), held_by=who
            )
            for place, (name, who) in enumerate([*((name, "") for name in NAMES), ("held.log", "python (1)")])
        ]
        filesystem = Filesystem(path=str(tmp_path), size=10, free=5, used_share=0.5, inodes_used_share=0.1)
        fake = FakeDisk({"logs": files, "small": files}, [filesystem])
        tight = FakeDisk({"small": files}, most=2)
        yield lambda work: asyncio.run(work(tight if work.__name__ == "small" else fake))
        return
    folder.mkdir()
    for place, name in enumerate([*NAMES, "held.log"]):
        (folder / name).write_text("12345")
        os.utime(folder / name, (OLD + place, OLD + place))
    described = {"path": str(folder), "pattern": "*.log", "older_than": "1d"}
    disk = LocalDisk({"logs": described, "small": {**described, "max_files": 2}})
    with ExitStack() as stack:
        stack.enter_context((folder / "held.log").open())
        yield lambda work: asyncio.run(work(disk))


def call(listing: str, cleanup: str = "logs") -> Call:
    """Make a call."""
    return Call(capability="disk", action="clean", target=cleanup, arguments={"listing": listing})


def test_a_listing_shows_what_would_be_removed_and_what_is_held(use) -> None:
    """The oldest first, with size and age; what a process has open is shown with the process, and left out."""
    found = use(lambda d: d.stale("logs"))
    assert [Path(file.path).name for file in found.files] == NAMES and found.bytes == 15
    first = found.files[0]
    assert (first.size, first.modified_at, first.held_by) == (5, datetime.fromtimestamp(OLD, UTC), "")
    assert [Path(file.path).name for file in found.held] == ["held.log"] and "(" in found.held[0].held_by


def test_listing_is_stable_and_is_the_state(use) -> None:
    """Twice the same name for the same files; the state says the same."""
    first, second, state = (
        use(lambda d: d.stale("logs")),
        use(lambda d: d.stale("logs")),
        use(lambda d: d.state("logs")),
    )
    assert first == second and state == {"files": 3, "bytes": 15, "listing": first.listing, "most": 1000}


def test_exactly_what_was_listed_is_removed(use) -> None:
    """What the plan wants comes true, it cannot be undone, and what is held is still there."""
    before = use(lambda d: d.state("logs"))

    async def work(disk: Disk) -> Any:
        plan = disk.plan(call(before["listing"]), before)
        await disk.apply(call(before["listing"]), uuid4().hex, 1)
        return plan

    plan = use(work)
    after = use(lambda d: d.state("logs"))
    assert (
        plan.after.items() <= after.items()
        and plan.undo is None
        and plan.irreversible == "3 files are removed for good"
    )
    assert [Path(file.path).name for file in use(lambda d: d.stale("logs")).held] == ["held.log"]


def test_another_listing_is_refused_and_removes_nothing(use) -> None:
    """By the plan, and by the system when the plan did not know yet."""
    before = use(lambda d: d.state("logs"))

    async def plan(disk: Disk) -> Any:
        return disk.plan(call("sha256:other"), before)

    for work in (plan, lambda d: d.apply(call("sha256:other"), uuid4().hex, 1)):
        with pytest.raises(Refused, match="have changed"):
            use(work)
    assert use(lambda d: d.state("logs")) == before


def test_more_files_than_are_allowed_are_refused(use) -> None:
    """Before the first of them is removed."""

    async def small(disk: Disk) -> None:
        state = await disk.state("small")
        disk.plan(call(state["listing"], "small"), state)

    with pytest.raises(Refused, match="3 files would be removed; the clean-up may remove 2"):
        use(small)


def test_an_unknown_clean_up_is_not_found(use) -> None:
    """Reading or cleaning what the environment file does not name."""
    for work in (
        lambda d: d.state("no-such"), lambda d: d.stale("no-such"),
        lambda d: d.apply(call("x", "no-such"), uuid4().hex, 1),
    ):  # fmt: skip
        with pytest.raises(NotFound, match="no-such"):
            use(work)


def test_usage_says_how_full_it_is(use, tmp_path) -> None:
    """In bytes and shares; a path that is not there is not found."""
    found = use(lambda d: d.usage(str(tmp_path)))
    assert 0 <= found.free <= found.size and 0 <= found.used_share <= 1 and 0 <= found.inodes_used_share <= 1
    with pytest.raises(NotFound, match="no-such"):
        use(lambda d: d.usage("/no-such/folder"))


def test_ping_says_who_we_are_and_what_we_may_do(use, request) -> None:
    """One line, against every one of them: what it is, as whom we are there, what we may do."""
    said = use(lambda one: one.ping())
    assert ("in memory" if request.node.callspec.params["use"] == "fake" else "2 clean-up(s), as ") in said
    assert said.endswith("reads and writes")
