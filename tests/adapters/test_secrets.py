"""A secret that cannot be had is an error; nothing stands in for it."""

import os
import sys
from typing import Any

import keyring
import keyring.backends.fail
import keyring.backends.null
import keyring.errors
import pytest

from rbkit.adapters.secrets import EnvironmentSecrets, FileSecrets, KeyringSecrets
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


class Ring:
    """A keyring that answers or raises what a test wants."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def get_password(self, service: str, username: str) -> Any:
        """Answer."""
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize("path", ["", "token", "/token", "pager/"])
def test_a_secret_in_the_keyring_is_named_by_service_and_name(path):
    """Anything else is refused before the keyring is asked."""
    with pytest.raises(SecretError, match="is named SERVICE/NAME"):
        KeyringSecrets(Ring("hunter2")).fetch(path)


@pytest.mark.parametrize(
    "error",
    [keyring.errors.KeyringLocked("hunter2"), keyring.errors.InitError("hunter2"), RuntimeError("hunter2"),
     OSError("hunter2"), type("DBusErrorResponse", (Exception,), {})("hunter2")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_a_keyring_that_fails_is_told(error):
    """Locked, away, or any error of the plugin: its kind is told, its words are not."""
    with pytest.raises(SecretError, match=f"cannot be asked for a/pager/token: {type(error).__name__}") as caught:
        KeyringSecrets(Ring(error)).fetch("a/pager/token")
    assert "hunter2" not in f"{caught.value} {caught.value.todo}" and caught.value.__context__ is None


@pytest.mark.parametrize("answer", [None, ""])
def test_a_keyring_without_the_secret_is_told(answer):
    """How it is put there is said."""
    with pytest.raises(SecretError, match="holds no token of pager") as caught:
        KeyringSecrets(Ring(answer)).fetch("pager/token")
    assert caught.value.todo == "keyring set pager token"


def _chain(*backends: Any) -> Any:
    return type("ChainerBackend", (Ring,), {"__module__": "keyring.backends.chainer", "backends": list(backends)})("x")


def _named(module: str, name: str) -> Any:
    return type(name, (Ring,), {"__module__": module})("hunter2")


@pytest.mark.parametrize(
    ("backend", "why"),
    [
        (keyring.backends.fail.Keyring(), "no keyring on this machine"),
        (keyring.backends.null.Keyring(), "no keyring on this machine"),
        (_chain(), "no keyring on this machine"),
        (_chain(_named("keyring.backends.null", "Keyring")), "no keyring on this machine"),
        (_named("keyrings.alt.file", "PlaintextKeyring"), "in clear or under a weak key"),
        (_named("keyrings.alt.file", "EncryptedKeyring"), "in clear or under a weak key"),
        (_named("mine", "PlainTextRing"), "in clear or under a weak key"),
        (_chain(Ring("x"), _named("keyrings.alt.file", "PlaintextKeyring")), "in clear or under a weak key"),
    ],
)  # fmt: skip
def test_a_keyring_that_keeps_no_secrets_is_refused(backend, why):
    """None at all, one that holds nothing, files in clear, also behind others: it is said, and nothing is asked."""
    with pytest.raises(SecretError, match=why):
        KeyringSecrets(backend).fetch("pager/token")


def test_several_keyrings_behind_one_are_fine():
    """A chain of good ones is asked."""
    assert KeyringSecrets(_chain(Ring("y"))).fetch("pager/token").get_secret_value() == "x"


def test_the_keyring_of_the_machine_is_the_default(monkeypatch):
    """What the package finds is asked."""
    monkeypatch.setattr(keyring, "get_keyring", lambda: Ring("hunter2"))
    assert KeyringSecrets().fetch("pager/token").get_secret_value() == "hunter2"


def test_a_missing_keyring_package_is_told(monkeypatch):
    """It is an extra."""
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(SecretError, match="the package keyring is not installed"):
        KeyringSecrets().fetch("pager/token")


def test_bytes_that_are_no_text_are_in_no_error(tmp_path):
    """The decoder's error holds all of them: it goes no further."""
    file = tmp_path / "token"
    file.write_bytes(b"hunter2\xff")
    file.chmod(0o600)
    with pytest.raises(SecretError) as caught:
        FileSecrets().fetch(str(file))
    assert caught.value.__context__ is None and caught.value.__cause__ is None
