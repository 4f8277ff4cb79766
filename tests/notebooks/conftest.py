"""A sandbox per module, and the command line in it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rbkit.journal import Journal
from rbkit.sandbox import lifecycle
from rbkit.stores.sqlite import SqliteStore

REPO = Path(__file__).parents[2]


@dataclass(frozen=True)
class Lab:
    """A home with a sandbox."""

    home: Path

    @property
    def env(self) -> dict[str, str]:
        """Variables for a process of this lab."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RBKIT_", "JPY_"))}
        return {**kept, "RBKIT_HOME": str(self.home), "NO_COLOR": "1"}

    def rbkit(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run the command line from the repository."""
        return self.python("-m", "rbkit", *words)

    def python(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run Python from the repository."""
        return subprocess.run(
            [sys.executable, *words], env=self.env, cwd=REPO, text=True, capture_output=True, timeout=120, check=False
        )

    def journal(self) -> Journal:
        """Open the newest run's journal."""
        store = SqliteStore(self.home)
        return Journal(store, next(name for name in store.runs() if name != "audit"), "cli")

    def world(self) -> dict[str, tuple[object, object]]:
        """Pid and balancer state of every instance."""
        found = lifecycle.status(self.home / "sandbox")
        states = {member["name"]: member["state"] for member in found.members}
        return {service["name"]: (service["pid"], states[service["name"]]) for service in found.services}

    def leak(self, above_mb: float) -> None:
        """Make checkout-2 leak, and wait until it is well above a limit."""
        lifecycle.break_(self.home / "sandbox", "memory-leak", "checkout-2")
        deadline = time.monotonic() + 60
        while lifecycle.status(self.home / "sandbox").rss_mb["checkout-2"] < above_mb:
            assert time.monotonic() < deadline, "the leak did not come within a minute"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    home = tmp_path_factory.mktemp("home")
    lifecycle.up(home / "sandbox", lifecycle.free_base_port())
    yield Lab(home)
    lifecycle.down(home / "sandbox")


@pytest.fixture
def healthy(lab: Lab) -> Iterator[Lab]:
    yield lab
    lifecycle.heal(lab.home / "sandbox")
