"""Secrets from the environment and from mounted files."""

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from rbkit.errors import SecretError

__all__ = ["EnvironmentSecrets", "FileSecrets"]

_LARGEST = 65_536


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
            value = file.read_text(encoding="utf-8").rstrip("\r\n") if file.is_file() and size <= _LARGEST else ""
        except (OSError, ValueError, RuntimeError) as error:
            raise SecretError(f"The secret file {path} cannot be read: {type(error).__name__}.") from error
        if mode & 0o004:
            raise SecretError(f"The secret file {path} may be read by everybody.", todo=f"chmod o-r {path}")
        if not value:
            raise SecretError(f"The secret file {path} is no file, empty or larger than {_LARGEST} bytes.")
        return SecretStr(value)
