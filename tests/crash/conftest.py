"""Homes in which runs are killed, and the command line in this process."""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rbkit.cli import main
from rbkit.stores.sqlite import SqliteStore

from .book import write_book, write_environment
from .homes import Home

Make = Callable[..., Home]
Tell = Callable[..., tuple[int, str]]


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_book(tmp_path_factory.mktemp("book") / "notebooks")


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a store that holds nothing: to copy it is much faster than to make its tables each time."""
    home = tmp_path_factory.mktemp("empty") / "home"
    SqliteStore(home).close()
    return home


@pytest.fixture
def make(book: Path, empty: Path, tmp_path: Path) -> Iterator[Make]:
    """Make a home with a world of its own; nothing that was started in it is left."""
    with tempfile.TemporaryDirectory(prefix="rb-", ignore_cleanup_errors=True) as short:

        def home(*, keys: bool = True, tokens: bool = True, late: int = 0) -> Home:
            shutil.copytree(empty, tmp_path / "home")
            write_environment(tmp_path / "home", keys=keys, tokens=tokens, late=late)
            return Home(tmp_path / "home", book, Path(short))

        yield home
        for pid in Home(tmp_path / "home", book, Path(short)).running():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def tell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tell:
    """Call the command line in this process, where no kernel is needed; return its exit code and all it said."""

    def call(home: Home, *words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["rbkit", "--home", str(home.path), *words])
        monkeypatch.setenv("RBKIT_PARAMETERS", str(home.path / "parameters"))
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, err = capsys.readouterr()
        return code, out + err

    return call
