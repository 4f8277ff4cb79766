"""A secret that cannot be had is an error; nothing stands in for it."""

import os

import pytest

from rbkit.adapters.secrets import EnvironmentSecrets, FileSecrets
from rbkit.errors import SecretError


def test_the_process_environment_is_the_default(monkeypatch) -> None:
    """Variables of the process are read when they are asked for."""
    monkeypatch.setenv("RBKIT_TEST_TOKEN", "hunter2")
    assert EnvironmentSecrets().fetch("RBKIT_TEST_TOKEN").get_secret_value() == "hunter2"
    with pytest.raises(SecretError, match="Set RBKIT_TEST_OTHER"):
        EnvironmentSecrets({}).fetch("RBKIT_TEST_OTHER")


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\n\n"])
def test_line_ends_after_a_secret_are_not_part_of_it(tmp_path, ending) -> None:
    """Editors and orchestrators add them; spaces inside are kept."""
    file = tmp_path / "token"
    file.write_bytes(b" hunter 2" + ending.encode())
    file.chmod(0o600)
    assert FileSecrets().fetch(str(file)).get_secret_value() == " hunter 2"


def test_a_path_may_begin_at_home(tmp_path, monkeypatch) -> None:
    """`~` is the user's home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "token").write_text("hunter2")
    (tmp_path / "token").chmod(0o600)
    assert FileSecrets().fetch("~/token").get_secret_value() == "hunter2"


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [(b"", 0o600, "empty"), (b"\n", 0o600, "empty"), (b"\xff", 0o600, "Unicode"), (b"x" * 65_537, 0o600, "larger"),
     (b"hunter2", 0o644, "read by everybody")],
)  # fmt: skip
def test_a_file_that_is_no_secret_is_refused(tmp_path, content, mode, why) -> None:
    """Empty, binary, huge and public files are refused; what is in them is not shown."""
    file = tmp_path / "token"
    file.write_bytes(content)
    file.chmod(mode)
    with pytest.raises(SecretError, match=why) as caught:
        FileSecrets().fetch(str(file))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("path", ["/no/such/file", "a\0b", "~nosuchuser/token"])
def test_a_path_that_leads_nowhere_is_refused(path) -> None:
    """Whatever is wrong with a path is a secret that cannot be had."""
    with pytest.raises(SecretError, match="cannot be read"):
        FileSecrets().fetch(path)


def test_what_is_no_file_is_not_waited_for(tmp_path) -> None:
    """A folder or a pipe holds no secret; reading does not hang."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir(mode=0o700)
    for name in ("pipe", "folder"):
        with pytest.raises(SecretError, match="no file"):
            FileSecrets().fetch(str(tmp_path / name))
