"""`rbkit env` and `rbkit breaker`: whether everything is there, what would be asked, what is left alone."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rbkit.journal import AUDIT
from rbkit.sandbox.layout import Layout
from rbkit.stores.sqlite import SqliteStore

Rbkit = Callable[..., tuple[int, str, str]]
BOOKS = """
runbooks:
  memory-leak: {{{defaults}}}
"""


def environment(folder: Path, more: str = "") -> None:
    """Write an environment with one source that is there and one that is not."""
    (folder / "trial.yaml").write_text(
        "name: trial\nsources:\n  logs: {adapter: jsonl-logs, files: '/nothing/*.jsonl'}\n"
        "  metrics: {adapter: prometheus, url: 'http://127.0.0.1:9'}\n"
        "signals:\n  memory: {source: metrics, query: 'm{service=$service}', unit: MB, otherwise: errors}\n"
        "  errors: {source: logs, where: {service: $service}}\n" + more
    )


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the environment `trial`."""
    monkeypatch.setenv("RBKIT_PARAMETERS", str(tmp_path))
    environment(tmp_path)
    (tmp_path / "_base.yaml").write_text("banner: base\n")
    return tmp_path


def test_environments_are_listed_without_their_bases(rbkit: Rbkit, trial: Path) -> None:
    """What can be used, and nothing else."""
    assert rbkit("env", "list")[:2] == (0, "trial\n")


def test_what_cannot_be_reached_is_told_with_what_to_do(rbkit: Rbkit, trial: Path) -> None:
    """Each endpoint has its line; one that is not there makes the exit code 1."""
    code, out, _ = rbkit("env", "check", "trial")
    assert code == 1 and "✗ source metrics (prometheus)" in out and "→" in out and "of 2 reached" in out
    code, out, _ = rbkit("env", "check", "trial", "--json")
    rows = {row["endpoint"]: row for row in json.loads(out)}
    assert (code, rows["source metrics"]["reached"], rows["source metrics"]["ms"] >= 0) == (1, False, True)


def test_the_sandbox_is_all_there(rbkit: Rbkit, home: Path, sandbox: Layout) -> None:
    """Against real processes: all reached, exit 0."""
    home.mkdir()
    (home / "sandbox").symlink_to(sandbox.home)
    code, out, err = rbkit("env", "check", "sandbox")
    assert code == 0, out + err
    assert "4 of 4 reached" in out and "✗" not in out


def test_a_signal_is_explained_and_nothing_is_asked(rbkit: Rbkit, trial: Path) -> None:
    """The query as it would be sent, whom it would go to, and the limits; hostile values stay values."""
    code, out, _ = rbkit("env", "explain", "trial", "memory", "-p", 'service=x"} or vector(1) #', "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["query"] == 'm{service="x\\"} or vector(1) #"}'
    assert (facts["adapter"], facts["address"], facts["otherwise"]) == ("prometheus", "http://127.0.0.1:9", "errors")
    code, out, _ = rbkit("env", "explain", "trial", "errors")
    assert code == 0 and "$service" in out and "fields" in out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["env", "explain", "trial", "memori"], "Did you mean 'memory'"),
        (["env", "explain", "trial", "memory", "-p", "service"], "no name=value"),
        (["env", "explain", "trial", "memory", "-p", "servce=a"], "no place for 'servce'"),
        (["env", "check", "tryal"], "Did you mean 'trial'"),
        (["breaker", "open", "trial/source metric", "-m", "x"], "Did you mean 'source metrics'"),
        (["breaker", "open", "nowhere", "-m", "x"], "no environment"),
        (["breaker", "close", "trial/source metrics"], "--reason"),
    ],
)
def test_slips_are_refused(rbkit: Rbkit, trial: Path, words: list[str], named: str) -> None:
    """Exit 2, with the nearest right word."""
    code, _, err = rbkit(*words)
    assert (code, named in err) == (2, True), err


def test_a_breaker_is_set_by_a_person_and_the_audit_says_who(rbkit: Rbkit, home: Path, trial: Path) -> None:
    """Open, closed, and on its own again; each with its reason."""
    name = "trial/source metrics"
    assert "no endpoint is left alone" in rbkit("breaker", "list")[1]
    assert rbkit("breaker", "open", name, "-m", "maintenance")[0] == 0
    assert "open (set by os:" in rbkit("breaker", "list")[1] and "maintenance" in rbkit("breaker", "list")[1]
    assert rbkit("breaker", "close", name, "-m", "it works")[0] == 0
    found = json.loads(rbkit("breaker", "list", "--json")[1])
    assert (found[name]["forced"], found[name]["why"]) == ("closed", "it works")
    assert rbkit("breaker", "auto", name)[0] == 0
    assert "no endpoint is left alone" in rbkit("breaker", "list")[1]
    events = [entry.event for entry in SqliteStore(home).read(AUDIT)]
    assert [(event["kind"], event["to"]) for event in events] == [
        ("breaker_set", "open"), ("breaker_set", "closed"), ("breaker_set", "auto"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("defaults", "named"),
    [("memory_limit: 1", "'memory_limit'"), ("memory_limit_mb: much", "memory_limit_mb"), ("service: 7", "service")],
)
def test_a_wrong_default_of_the_environment_file_is_refused(
    rbkit: Rbkit, trial: Path, defaults: str, named: str
) -> None:
    """A default for a runbook's parameter is checked as what is given is: before any kernel starts."""
    text = Path("parameters/sandbox.yaml").read_text() + BOOKS.format(defaults=defaults)
    (trial / "sandbox.yaml").write_text(text)
    code, _, err = rbkit("run", "memory-leak", "-e", "sandbox")
    assert (code, named in err) == (2, True), err
