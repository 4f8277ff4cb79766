"""Deployments from a folder of releases when something stands in the way; what goes well is in tests/ports."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pings import pinged
from servers.supervisord import Supervisor, supervisord

from rbkit.adapters import version_file as module
from rbkit.adapters.version_file import VersionFile
from rbkit.errors import AdapterError, BadAnswer, MayHaveActed, NotFound, Refused, Unreachable
from rbkit.facts import Call
from rbkit.kinds import Service

LATER = datetime(2100, 1, 1, tzinfo=UTC)
PROCESS = Service(name="web-1", service="web", state="running", pid=1, started_at=LATER, version="", restarts=-1)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """A supervisord with two processes of which one version runs, one has no program, and one dies at once."""
    folder = tmp_path_factory.mktemp("releases")
    for version in ("good", "empty", "dying"):
        (folder / "releases" / version).mkdir(parents=True)
    for version, does in (("good", "exec sleep 1000"), ("dying", "exit 1")):
        program = folder / "releases" / version / "run"
        program.write_text(f"#!/bin/sh\n{does}\n")
        program.chmod(0o755)
    (folder / "current").symlink_to("releases/good")
    command = f"{folder}/current/run"
    with supervisord(folder, {"web": {"web-1": command, "web-2": command}}, more="startsecs = 1") as running:
        yield running


def call(version: str) -> Call:
    """Make a call."""
    return Call(capability="d", action="deploy", target="web", arguments={"version": version})


def run(folder: Path, url: str, work: Callable[[VersionFile], Awaitable[Any]]) -> Any:
    """Run a coroutine with an adapter."""

    async def closed() -> Any:
        adapter = VersionFile({"web": str(folder)}, url)
        try:
            return await work(adapter)
        finally:
            await adapter.aclose()

    return asyncio.run(closed())


def deploy(folder: Path, version: str, monkeypatch: pytest.MonkeyPatch, *results: Any) -> list[str]:
    """Deploy with processes that come up, or fail with these results; return which were restarted."""
    left, asked = list(results), list[str]()

    async def instances(service: str) -> list[Service]:
        early = datetime.fromtimestamp(0, UTC)
        return [PROCESS.model_copy(update={"name": f"web-{n}", "started_at": early}) for n in (1, 2)]

    async def renew(target: str) -> None:
        asked.append(target)
        if left and (error := left.pop(0)):
            raise error

    async def work(adapter: VersionFile) -> None:
        monkeypatch.setattr(adapter._processes, "instances", instances)
        monkeypatch.setattr(adapter._processes, "renew", renew)
        await adapter.apply(call(version), "key", 1)

    run(folder, "http://127.0.0.1:1", work)
    return asked


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two releases, of which `one` is chosen by a link."""
    for version in ("one", "two"):
        (tmp_path / "releases" / version).mkdir(parents=True)
    (tmp_path / "current").symlink_to("releases/one")
    return tmp_path


def test_a_version_without_a_program_touches_nothing(real) -> None:
    """supervisord refuses before it stops anything: the version of before is chosen again, and everything runs on."""
    before = run(real.folder, real.url, lambda d: d.state("web"))
    pids = [real.info(f"web:{name}")["pid"] for name in ("web-1", "web-2")]
    with pytest.raises(Refused, match="empty was not started, and good is chosen again"):
        run(real.folder, real.url, lambda d: d.apply(call("empty"), "key", 1))
    assert [real.info(f"web:{name}")["pid"] for name in ("web-1", "web-2")] == pids
    after = run(real.folder, real.url, lambda d: d.state("web"))
    assert (after["version"], after["wanted"]) == (before["version"], 2)


def test_a_version_that_dies_stops_the_deployment_at_the_first_process(real, until) -> None:
    """The other process keeps what it runs; what was done is in doubt; going back brings all of it up again."""
    run(real.folder, real.url, lambda d: d.apply(call("good"), "key", 1))
    other = real.info("web:web-2")["pid"]
    with pytest.raises(MayHaveActed, match="dying is chosen, and no process was started with it"):
        run(real.folder, real.url, lambda d: d.apply(call("dying"), "key", 1))
    assert real.info("web:web-2")["pid"] == other
    state = run(real.folder, real.url, lambda d: d.state("web"))
    assert state == {"version": "dying", "ready": 0, "wanted": 2}
    run(real.folder, real.url, lambda d: d.apply(call("good"), "key", 1))
    until(lambda: run(real.folder, real.url, lambda d: d.state("web")) == {"version": "good", "ready": 2, "wanted": 2})


def test_a_deployment_that_was_broken_off_is_finished(real, until) -> None:
    """The version was chosen and nothing restarted: the state shows it, and the same deployment finishes it."""
    run(real.folder, real.url, lambda d: d.apply(call("good"), "key", 1))
    module._choose(real.folder, "good")
    assert run(real.folder, real.url, lambda d: d.state("web")) == {"version": "good", "ready": 0, "wanted": 2}
    run(real.folder, real.url, lambda d: d.apply(call("good"), "key", 1))
    until(lambda: run(real.folder, real.url, lambda d: d.state("web"))["ready"] == 2)


def test_a_link_stays_a_link_and_a_file_a_file(folder, monkeypatch) -> None:
    """Whatever names the version is replaced by its like; a file keeps its mode, and nothing else is left behind."""
    assert deploy(folder, "two", monkeypatch) == ["web-1", "web-2"]
    assert (folder / "current").readlink() == Path("releases/two")
    (folder / "current").unlink()
    (folder / "current").write_text("two\n")
    (folder / "current").chmod(0o640)
    deploy(folder, "one", monkeypatch)
    assert (folder / "current").read_text() == "one\n"
    assert (folder / "current").stat().st_mode & 0o777 == 0o640
    assert sorted(entry.name for entry in folder.iterdir()) == ["current", "releases"]


@pytest.mark.parametrize("error", [Refused("no"), MayHaveActed("hm"), Unreachable("gone"), NotFound("gone")])
def test_what_fails_after_the_first_restart_leaves_a_doubt(folder, monkeypatch, error) -> None:
    """One process runs the version already: the version stays chosen, and nobody says that nothing was done."""
    with pytest.raises(MayHaveActed, match="two is chosen, and web-1 was started with it"):
        deploy(folder, "two", monkeypatch, None, error)
    assert (folder / "current").readlink().name == "two"


@pytest.mark.parametrize("error", [MayHaveActed("hm"), Unreachable("gone"), NotFound("gone")])
def test_only_a_refusal_of_the_first_restart_is_taken_back(folder, monkeypatch, error) -> None:
    """Anything else may have stopped it."""
    with pytest.raises(MayHaveActed, match="no process was started"):
        deploy(folder, "two", monkeypatch, error)
    assert (folder / "current").readlink().name == "two"


def test_what_was_chosen_before_is_not_taken_back(folder, monkeypatch) -> None:
    """The version was chosen by an earlier attempt: there is none to go back to."""
    with pytest.raises(MayHaveActed, match="one is chosen"):
        deploy(folder, "one", monkeypatch, Refused("no"))


def test_somebody_elses_choice_is_not_taken_back(folder, monkeypatch) -> None:
    """Another version was chosen meanwhile: it stays."""
    (folder / "releases" / "three").mkdir()

    def chosen_by_others(*_: Any) -> bool:
        module._choose(folder, "three")
        return taken_back(*_)

    taken_back = module._taken_back
    monkeypatch.setattr(module, "_taken_back", chosen_by_others)
    with pytest.raises(MayHaveActed):
        deploy(folder, "two", monkeypatch, Refused("no"))
    assert (folder / "current").readlink().name == "three"


def test_what_cannot_be_taken_back_leaves_a_doubt(folder, monkeypatch) -> None:
    """The disk is full when the version of before is to be chosen again."""
    choose = module._choose

    def full(where: Path, version: str) -> None:
        if version == "one":
            raise Refused("No space left on device")
        choose(where, version)

    monkeypatch.setattr(module, "_choose", full)
    with pytest.raises(MayHaveActed, match="two is chosen"):
        deploy(folder, "two", monkeypatch, Refused("no"))


def test_a_choice_that_cannot_be_written_is_refused(folder, monkeypatch) -> None:
    """Nothing was changed."""

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    (folder / "current").unlink()
    (folder / "current").write_text("one")
    monkeypatch.setattr(module, "write_atomically", full)
    with pytest.raises(Refused, match="No space left"):
        deploy(folder, "two", monkeypatch)
    assert (folder / "current").read_text() == "one"


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_release_is_a_folder_of_its_own(folder, monkeypatch, tmp_path_factory, kind) -> None:
    """A link that leads out of the releases is no release, and neither is a file."""
    path = folder / "releases" / "evil"
    if kind == "link":
        path.symlink_to(tmp_path_factory.mktemp("elsewhere"))
    else:
        path.write_text("x")
    with pytest.raises(NotFound, match="evil"):
        deploy(folder, "evil", monkeypatch)
    assert [one.version for one in run(folder, "http://127.0.0.1:1", lambda d: d.versions("web"))] == ["one", "two"]


def test_a_folder_without_releases_is_said(tmp_path) -> None:
    """Neither the releases nor the choice can be read."""
    with pytest.raises(Unreachable):
        run(tmp_path, "http://127.0.0.1:1", lambda d: d.state("web"))
    (tmp_path / "current").write_text("one")
    with pytest.raises(BadAnswer, match="cannot be listed"):
        run(tmp_path, "http://127.0.0.1:1", lambda d: d.versions("web"))


def test_a_supervisord_that_is_gone_leaves_a_doubt(folder) -> None:
    """The version is chosen, and whoever should start it is not there."""
    with pytest.raises(Unreachable):
        run(folder, "http://127.0.0.1:1", lambda d: d.state("web"))
    with pytest.raises(AdapterError, match="two is chosen"):
        run(folder, "http://127.0.0.1:1", lambda d: d.apply(call("two"), "key", 1))


def test_the_newest_release_stands_first_among_the_others(folder) -> None:
    """The one that runs comes first, with the moment when it was chosen."""
    for age, version in enumerate(("three", "four")):
        (folder / "releases" / version).mkdir()
        os.utime(folder / "releases" / version, (2_000_000_000 - age, 2_000_000_000 - age))
    found = run(folder, "http://127.0.0.1:1", lambda d: d.versions("web"))
    assert [one.version for one in found] == ["one", "three", "four", "two"]
    assert found[0].deployed_at.tzinfo is UTC and found[1].deployed_at is None


def test_ping_names_a_folder_that_we_may_not_write(real, tmp_path, monkeypatch) -> None:
    """What is chosen must be readable; whether another one may be chosen is told."""
    with pytest.raises(Unreachable, match="cannot be read"):
        pinged(VersionFile({"web": str(tmp_path)}, real.url))
    monkeypatch.setattr(os, "access", lambda *asked, **how: False)
    assert f"may not write {real.folder}; supervisord" in pinged(VersionFile({"web": str(real.folder)}, real.url))
