"""The one reader of environment variables."""

import os
from pathlib import Path
from typing import Any, Literal

from platformdirs import user_data_path
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from rbkit.envfile import load_environment
from rbkit.environment import Environment, check_duration
from rbkit.errors import SettingsError
from rbkit.events import Mode
from rbkit.values import seconds

__all__ = ["Settings"]


class Settings(BaseSettings):
    """What the environment variables say; every one begins with RBKIT_.

    Args:
        home: RBKIT_HOME: the folder of the store and the records.
        parameters: RBKIT_PARAMETERS: the folder of the environment files.
        notebooks: RBKIT_NOTEBOOKS: the folder of the runbooks.
        run: RBKIT_RUN: the run that a kernel belongs to (set by the supervisor).
        notebook: RBKIT_NOTEBOOK: the notebook that a kernel executes (set by the supervisor).
        mode: RBKIT_MODE: live, dry_run, replay or resume.
        driver: RBKIT_DRIVER: supervised (set by the supervisor), headless or operator.
        tape: RBKIT_TAPE: the recorded run that a replay answers from.
        actor: RBKIT_ACTOR: who acts, when a supervisor acts for somebody.
        lease: RBKIT_LEASE: how long a run may be silent before it counts as dead, for example `15s`.
        session: RBKIT_SESSION: the session of the run that a kernel belongs to (set by the supervisor).
        holder: RBKIT_HOLDER: in whose name a kernel holds its targets (set by the supervisor).
    """

    model_config = SettingsConfigDict(env_prefix="RBKIT_", extra="ignore")
    home: Path = Field(default_factory=lambda: user_data_path("rbkit", appauthor=False))
    parameters: Path | None = None
    notebooks: Path | None = None
    run: str = ""
    notebook: str = ""
    mode: Mode = "live"
    driver: Literal["", "supervised", "headless", "operator"] = ""
    tape: str = ""
    actor: str = ""
    lease: str = "15s"
    session: int = Field(default=1, ge=1)
    holder: str = ""

    @field_validator("lease")
    @classmethod
    def _long_enough(cls, text: str) -> str:
        return check_duration(text, at_least_s=1.0)

    @property
    def lease_s(self) -> float:
        """How long a lease lasts unless it is renewed, seconds."""
        return seconds(self.lease)

    @classmethod
    def read(cls, **given: Any) -> "Settings":
        """Read the variables; what is given here wins.

        Raises:
            SettingsError: A variable has a value that cannot be used.
        """
        try:
            return cls(**{name: value for name, value in given.items() if value is not None})
        except ValidationError as error:
            first = error.errors()[0]
            name = f"RBKIT_{'_'.join(str(part) for part in first['loc']).upper()}"
            raise SettingsError(f"{name}: {first['msg']}.") from error

    def environment(self, name: str) -> "Environment":
        """Read an environment file; `${RBKIT_NAME}` in it stands for the variable, RBKIT_HOME for the home in use."""
        return load_environment(name, self.folder("parameters"), {**os.environ, "RBKIT_HOME": str(self.home)})

    def folder(self, word: Literal["parameters", "notebooks"]) -> Path:
        """Find a folder: as set, or in the working folder, or beside a folder above it."""
        found: Path | None = getattr(self, word)
        if found:
            return found
        here = Path.cwd()
        return next((up / word for up in (here, *here.parents) if (up / word).is_dir()), here / word)
