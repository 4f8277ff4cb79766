"""What the chaos tests share: a simulation per seed, judged, with the seed in every failure."""

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path

import pytest

from rbkit.gate import Gate
from rbkit.stores import connections
from rbkit.stores.memory import MemoryStore
from rbkit.stores.sqlite import SqliteStore

from .checker import RULES, Rule, breaches
from .scene import Scene

Judged = Callable[..., Scene]


@pytest.fixture(autouse=True)
def _nothing_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away the one lock that simulated processes share and real ones do not: a cached property's."""
    targets = Gate.__dict__.get("targets")
    if hasattr(targets, "lock"):
        monkeypatch.setattr(targets, "lock", nullcontext())


def _played(scene: Scene, rules: tuple[Rule, ...] = RULES) -> Scene:
    random.seed(scene.seed)  # what waits for the store waits for a random while
    try:
        scene.play()
    except BaseException as error:
        raise AssertionError(f"seed {scene.seed}: {type(error).__name__}: {error}") from error
    found = breaches(scene.evidence(), rules)
    assert not found, f"seed {scene.seed}: " + "; ".join(found)
    left = [run for run in scene.books if (state := scene.journal(run).state).opened and not state.finished]
    assert not left, f"seed {scene.seed}: {left} were left behind"
    return scene


@pytest.fixture(scope="session")
def played() -> Callable[..., Scene]:
    """Play a scene and judge what happened; every run that was opened is over in the end."""
    return _played


@pytest.fixture(scope="session")
def judged() -> Judged:
    """Play and judge the scene of a seed."""
    return lambda seed, store=None, rules=RULES, **more: _played(Scene(seed, store or MemoryStore(), **more), rules)


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[object], SqliteStore]]:
    """Make real stores that do not wait for the disk, with pages so small that an entry needs one of its own."""
    monkeypatch.setattr(connections, "_PRAGMAS", ("synchronous=OFF", *connections._PRAGMAS[1:]))
    (tmp_path / "empty").mkdir()
    with closing(sqlite3.connect(tmp_path / "empty" / "rbkit.db")) as connection:
        connection.execute("PRAGMA page_size = 512")
        connection.execute("VACUUM")
    SqliteStore(tmp_path / "empty").close()
    with ExitStack() as stack:

        def make(name: object) -> SqliteStore:
            home = shutil.copytree(tmp_path / "empty", tmp_path / str(name))
            return stack.enter_context(closing(SqliteStore(home)))

        yield make
