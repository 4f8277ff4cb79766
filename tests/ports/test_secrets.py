"""Every source of secrets, in memory or real, keeps the same promises."""

from pathlib import Path
from typing import Any

import pytest

from rbkit.adapters.fakes import FakeSecrets
from rbkit.adapters.secrets import EnvironmentSecrets, FileSecrets
from rbkit.errors import SecretError


@pytest.fixture(params=["fake", "env", "file"])
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A source that holds `token` and nothing else."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_text("hunter2\n")
    (tmp_path / "token").chmod(0o600)
    made = {"fake": FakeSecrets({"token": "hunter2"}), "env": EnvironmentSecrets({"token": "hunter2"})}
    return made.get(request.param, FileSecrets())


def test_a_secret_is_handed_out_and_never_shown(source) -> None:
    """The value comes in a wrapper that masks itself."""
    found = source.fetch("token")
    assert found.get_secret_value() == "hunter2" and "hunter2" not in f"{found} {found!r} {source!r}"


def test_a_secret_that_is_not_there_is_an_error(source) -> None:
    """The reference is named, its neighbours are not, and nothing is returned in its place."""
    with pytest.raises(SecretError, match="tokem") as caught:
        source.fetch("tokem")
    assert caught.value.exit_code == 5 and "hunter2" not in str(caught.value)
