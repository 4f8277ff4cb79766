"""A kernel gets a token of its own; it is ended on every way out, and after a SIGKILL by the reaper."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from labs import BACK, CHECK, CLOSE, DRAIN, LEASE, Lab, cell, step, until, waiting
from servers.vault import Place, vaults

from rbkit.errors import SecretError
from rbkit.execute.tokens import Budget, handed_over, sweep
from rbkit.journal import AUDIT
from rbkit.masking import MASK
from rbkit.secretkeeping import ACCESSOR, WRAPPED
from rbkit.settings import Settings
from rbkit.stores.memory import MemoryStore
from rbkit.stores.sqlite import SqliteStore

RUN = "20260101-000000-aaaaaa"
VAULT = """
vault:
  url: {url}
  mount: {mount}
  role_id: env:RBKIT_TEST_ROLE
  secret_id: env:RBKIT_TEST_SECRET
  policies: [{policy}]
  patience: 1s
"""


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A Vault, and variables to log in with."""
    with vaults("double") as found:
        monkeypatch.setenv("RBKIT_TEST_ROLE", found.role_id)
        monkeypatch.setenv("RBKIT_TEST_SECRET", found.secret_id())
        yield found


def section(place: Place) -> str:
    """Write the section `vault:` of an environment file."""
    return VAULT.format(url=place.url, mount=place.approle, policy=place.policy)


@pytest.fixture
def settings(place: Place, tmp_path: Path) -> Settings:
    """Settings with an environment `test` that has the Vault, and one that names no policies."""
    (tmp_path / "test.yaml").write_text("name: test" + section(place))
    (tmp_path / "plain.yaml").write_text("name: plain\n")
    return Settings.read(home=tmp_path, parameters=tmp_path, actor="os:test")


def lives(place: Place, accessor: str) -> bool:
    """Ask Vault whether a token lives."""
    with place.root_client() as root:
        try:
            root.auth.token.lookup_accessor(accessor)
        except Exception as error:  # noqa: BLE001 - hvac has a class for each status
            assert "accessor" in str(error)
            return False
        return True


def told(store: Any) -> list[tuple[str, str]]:
    """List what the audit journal says of tokens."""
    events = [entry.event for entry in store.read(AUDIT)]
    return [(event["run"], event["what"]) for event in events if event["kind"] == "token_told"]


def test_a_token_lives_as_long_as_the_kernel(place, settings) -> None:
    """Made before, ended after, also when the block raises; noted meanwhile, and told to the audit journal."""
    store, seen = MemoryStore(), []

    def use() -> None:
        with handed_over(Budget(RUN, "book", "test", 60), settings, store) as variables:
            seen.append(variables[ACCESSOR])
            assert variables[WRAPPED] and lives(place, variables[ACCESSOR])
            assert (variables["RBKIT_TEST_ROLE"], variables["RBKIT_TEST_SECRET"]) == ("", "")
            assert seen[0] in store.notes("token:")[f"token:{RUN}"]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert not lives(place, seen[0])
    assert (store.notes("token:"), told(store)) == ({f"token:{RUN}": ""}, [(RUN, "issued"), (RUN, "revoked")])
    assert seen[0] not in str(settings)


@pytest.mark.parametrize("environment", ["plain", ""])
def test_without_a_vault_there_is_no_token(settings, environment) -> None:
    """Nothing is asked for, and nothing is noted."""
    store = MemoryStore()
    with handed_over(Budget(RUN, "book", environment, 60), settings, store) as variables:
        assert variables == {}
    assert store.noted == {}


def test_no_run_begins_without_the_token_that_it_should_have(place, settings) -> None:
    """A sealed Vault is waited for, and then it is an error: nothing stands in."""
    place.double.sealed = True
    with pytest.raises(SecretError, match="sealed"), handed_over(Budget(RUN, "b", "test", 60), settings, MemoryStore()):
        pytest.fail("began")


def test_what_a_dead_process_left_is_ended_by_the_reaper(place, settings) -> None:
    """Not while Vault is away: then it is told, and the next sweep tries again. One of a living run is left alone."""
    store = MemoryStore()
    made = handed_over(Budget(RUN, "book", "test", 60), settings, store)
    variables = made.__enter__()
    accessor = variables[ACCESSOR]
    place.double.sealed = True
    assert "could not be ended" in sweep(store, settings)[0]
    place.double.sealed = False
    assert lives(place, accessor) and sweep(store, settings) == []
    assert not lives(place, accessor) and sweep(store, settings) == []
    made.__exit__(None, None, None)


def test_a_token_of_an_environment_that_is_gone_is_told(settings, tmp_path) -> None:
    """Whoever took the file away must end it by hand; its time ends it, too."""
    store = MemoryStore()
    made = handed_over(Budget(RUN, "book", "test", 60), settings, store)
    made.__enter__()
    text = (tmp_path / "test.yaml").read_text()
    (tmp_path / "test.yaml").unlink()
    assert "There is no environment 'test'" in sweep(store, settings)[0]
    (tmp_path / "test.yaml").write_text(text)
    made.__exit__(None, None, None)


# Real processes


@pytest.fixture
def vaulted(healthy: Lab, place: Place, tmp_path: Path) -> Lab:
    """The lab, with the sandbox's token in Vault and nowhere else."""
    token = healthy.layout.token()
    place.put("app/sandbox", token=token)
    folder = tmp_path / "parameters"
    lab = healthy.rules(folder).set(
        test_role=os.environ["RBKIT_TEST_ROLE"], test_secret=os.environ["RBKIT_TEST_SECRET"]
    )
    text = (folder / "sandbox.yaml").read_text()
    reference = "token: file:${RBKIT_HOME}/sandbox/token"
    assert reference in text
    text = text.replace(reference, f"token: vault:{place.mount}/app/sandbox#token")
    (folder / "sandbox.yaml").write_text(text + section(place))
    return lab


def accessor(lab: Lab) -> str:
    """The accessor of the newest token."""
    events = [entry.event for entry in SqliteStore(lab.home).read(AUDIT)]
    return str([event["accessor"] for event in events if event["kind"] == "token_told"][-1])


def test_a_run_acts_with_a_secret_that_is_nowhere(vaulted, place, book) -> None:
    """The balancer took the token, so the kernel had it; no file, no journal and no output has, and it is over."""
    done = vaulted.rbkit("run", book(DRAIN, BACK, CHECK, CLOSE))
    assert done.returncode == 0, done.stdout + done.stderr
    assert vaulted.acted(vaulted.runs()[0]) == ["drain/0", "back/1"] and not lives(place, accessor(vaulted))
    secret = vaulted.layout.token()
    found = [path for path in vaulted.home.rglob("*") if path.is_file() and "sandbox" not in path.parts]
    assert any(path.suffix == ".ipynb" for path in found)
    assert [str(path) for path in found if secret.encode() in path.read_bytes()] == []
    assert secret not in done.stdout + done.stderr


def test_a_notebook_that_prints_its_secret_shows_a_mask(vaulted, place, book) -> None:
    """Printed whole and in pieces, displayed, raised: nothing of it is in the record, the journal or on the screen."""
    fetch = f"found = run.gate.world._secrets.fetch('vault:{place.mount}/app/sandbox#token').get_secret_value()\n"
    pieces = "for part in (found[:9], found[9:]):\n    print(part, end='', flush=True)\n"
    shows = cell("diagnose", f"{fetch}print(found)\n{pieces}found")
    raises = cell("diagnose", "raise ValueError('login with ' + found)")
    done = vaulted.rbkit("run", book(DRAIN, shows, raises, BACK, CHECK, CLOSE))
    assert done.returncode == 3, done.stdout + done.stderr
    secret, run = vaulted.layout.token(), vaulted.runs()[0]
    record = (vaulted.home / "records" / f"{run}.ipynb").read_text()
    assert record.count(MASK) >= 3 and f"login with {MASK}" in record
    found = [path for path in vaulted.home.rglob("*") if path.is_file() and "sandbox" not in path.parts]
    assert [str(path) for path in found if secret.encode() in path.read_bytes()] == []
    assert secret not in done.stdout + done.stderr


def test_on_a_sigterm_the_token_is_ended(vaulted, place, book, tmp_path) -> None:
    """The run is rolled back with it, and then it is over."""
    mark, go = tmp_path / "mark", tmp_path / "go"
    process = vaulted.start("run", book(DRAIN, step("wait", waiting(mark, go)), BACK, CHECK, CLOSE))
    until(mark.exists)
    held = accessor(vaulted)
    assert lives(place, held)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert (process.returncode, vaulted.member(), lives(place, held)) == (130, "ready", False), out + err


def test_after_a_sigkill_the_reaper_ends_the_token(vaulted, place, book, tmp_path) -> None:
    """Neither supervisor nor kernel could: `rbkit reap` finds the run dead and ends what it had."""
    lab, mark, go = vaulted.set(lease=LEASE), tmp_path / "mark", tmp_path / "go"
    process = lab.start("run", book(DRAIN, step("wait", waiting(mark, go)), BACK, CHECK, CLOSE))
    until(mark.exists)
    held = accessor(lab)
    assert lives(place, held)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    run = lab.runs()[0]
    until(lambda: lab.lost(run))
    reaped = lab.rbkit("reap")
    assert reaped.returncode == 0 and not lives(place, held), reaped.stdout + reaped.stderr
    assert told(SqliteStore(lab.home))[-1] == (run, "revoked")
    assert json.loads(lab.rbkit("show", run, "--json").stdout)["lost"]
    go.touch()
    assert lab.rbkit("rollback", run).returncode == 3
