"""The documentation tells of everything that there is."""

import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import typer

from rbkit.environment import Environment, SignalSettings
from rbkit.policy import EXIT_CODES
from rbkit.sandbox.lifecycle import FAULTS
from rbkit.settings import Settings

REPO = Path(__file__).parents[1]
DOCS = {path.stem: path.read_text() for path in (REPO / "docs").glob("*.md")}
EVERYTHING = "\n".join([(REPO / "README.md").read_text(), *DOCS.values()])


def commands() -> list[str]:
    """Every command of the command line."""
    import rbkit.cli  # noqa: F401 - its modules add their commands to the app
    from rbkit.cli.app import app

    group = typer.main.get_command(app)
    found = []
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        found += [f"{name} {inner}" for inner in getattr(command, "commands", {})] or [name]
    return found


@pytest.mark.parametrize("command", commands())
def test_commands(command: str) -> None:
    """Every command is documented."""
    assert f"rbkit {command}" in EVERYTHING or f"make {command}" in EVERYTHING


def test_promises() -> None:
    """Every test that the page on reliability names exists, and each promise names at least one place."""
    defined = {
        name for path in (REPO / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    rows = [line for line in DOCS["reliability"].splitlines() if line.startswith("| ") and "`test" in line]
    named = {name for row in rows for name in re.findall(r"`(test_\w+)`", row)}
    places = {name for row in rows for name in re.findall(r"`(tests/[\w/.]+)`", row)}
    assert len(rows) > 20
    assert named - defined == set()
    assert [place for place in places if not (REPO / place).exists()] == []


@pytest.mark.parametrize("name", Settings.model_fields)
def test_settings(name: str) -> None:
    """Every environment variable is documented."""
    assert f"`RBKIT_{name.upper()}`" in DOCS["environment"]


@pytest.mark.parametrize("name", [*Environment.model_fields, *SignalSettings.model_fields])
def test_environment_keys(name: str) -> None:
    """Every key of an environment file is documented."""
    assert name == "digest" or re.search(rf"\b{name}\b", DOCS["environment"])


@pytest.mark.parametrize(("outcome", "code"), EXIT_CODES.items())
def test_exit_codes(outcome: str, code: int) -> None:
    """Every outcome is documented with its exit code."""
    assert f"| {outcome} | {code} |" in DOCS["run"]


@pytest.mark.parametrize("name", FAULTS)
def test_faults(name: str) -> None:
    """Every fault of the sandbox is documented."""
    assert f"`{name}`" in DOCS["sandbox"]


@pytest.mark.parametrize("name", sorted(point.name for point in entry_points(group="rbkit.adapters")))
def test_adapters(name: str) -> None:
    """Every adapter is documented."""
    assert f"`{name}`" in DOCS["adapters"]


def test_links() -> None:
    """No link to a file of the repository is dead."""
    for page in [REPO / "README.md", *(REPO / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
