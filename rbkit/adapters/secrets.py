"""Secrets from the environment, from mounted files and from the keyring of the one who is at work."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from rbkit.errors import SecretError

__all__ = ["EnvironmentSecrets", "FileSecrets", "KeyringSecrets"]

_LARGEST = 65_536
_NO_KEYRING = "Unlock it, or take the secret from somewhere else: env:NAME, file:PATH, vault:MOUNT/PATH#FIELD."


class EnvironmentSecrets:
    """Secrets in environment variables: `env:NAME`.

    Args:
        variables: Where they are looked up; the process's own when not given.
    """

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        self._variables = variables if variables is not None else os.environ

    def fetch(self, path: str) -> SecretStr:
        """Fetch one secret.

        Raises:
            SecretError: The variable is not set or empty.
        """
        value = self._variables.get(path)
        if not value:
            raise SecretError(f"The variable {path} holds no secret.", todo=f"Set {path} for this process.")
        return SecretStr(value)


class FileSecrets:
    """Secrets in files, such as those an orchestrator mounts: `file:PATH`."""

    def fetch(self, path: str) -> SecretStr:
        """Fetch one secret; line ends after it are not part of it.

        Raises:
            SecretError: The file cannot be read, is no file, empty, too large, not text, or readable by everybody.
        """
        try:
            file = Path(path).expanduser()
            mode, size = file.stat().st_mode, file.stat().st_size
            data = file.read_bytes() if file.is_file() and size <= _LARGEST else b""
        except (OSError, ValueError, RuntimeError) as error:
            raise SecretError(f"The secret file {path} cannot be read: {type(error).__name__}.") from error
        value = _text(data, path).rstrip("\r\n")
        if mode & 0o004:
            raise SecretError(f"The secret file {path} may be read by everybody.", todo=f"chmod o-r {path}")
        if not value:
            raise SecretError(f"The secret file {path} is no file, empty or larger than {_LARGEST} bytes.")
        return SecretStr(value)


def _text(data: bytes, path: str) -> str:
    """Read bytes as text; the error of the decoder holds them, so it goes no further."""
    with contextlib.suppress(UnicodeDecodeError):
        return data.decode()
    raise SecretError(f"The secret file {path} holds no Unicode text.")


class KeyringSecrets:
    """Secrets in the keyring of the desktop or the operating system: `keyring:SERVICE/NAME`.

    Args:
        backend: Which keyring is asked; the one that the package `keyring` finds when not given.
    """

    def __init__(self, backend: Any = None) -> None:
        self._backend = backend

    def fetch(self, path: str) -> SecretStr:
        """Fetch one secret.

        Raises:
            SecretError: There is none, the keyring is locked, or there is no keyring that keeps secrets.
        """
        service, _, name = path.rpartition("/")
        if not service or not name:
            raise SecretError("A secret in the keyring is named SERVICE/NAME.", todo="Write keyring:SERVICE/NAME.")
        found, why = _asked(self._backend, service, name)
        if why:
            raise SecretError(f"The keyring cannot be asked for {path}: {why}.", todo=_NO_KEYRING)
        if not found:
            raise SecretError(f"The keyring holds no {name} of {service}.", todo=f"keyring set {service} {name}")
        return SecretStr(found)


def _asked(backend: Any, service: str, name: str) -> tuple[str, str]:
    """Ask a keyring: the secret, or what stands in the way."""
    try:
        import keyring
    except ImportError:
        return "", "the package keyring is not installed"
    try:
        used = backend if backend is not None else keyring.get_keyring()
        if why := _unfit(used):
            return "", why
        return used.get_password(service, name) or "", ""
    except Exception as error:  # noqa: BLE001 - a keyring is anybody's plugin, and its words may hold the secret
        return "", type(error).__name__


def _unfit(backend: Any) -> str:
    """Say why a keyring is none that keeps secrets: none, one that holds nothing, or files in clear."""
    for one in [backend, *getattr(backend, "backends", [])]:
        module, name = type(one).__module__, type(one).__name__
        if module.startswith(("keyring.backends.fail", "keyring.backends.null")):
            return "there is no keyring on this machine"
        if "plaintext" in f"{module}.{name}".lower() or module.startswith("keyrings.alt"):
            return f"{name} keeps secrets in clear or under a weak key"
    if type(backend).__module__ == "keyring.backends.chainer" and not backend.backends:
        return "there is no keyring on this machine"
    return ""
