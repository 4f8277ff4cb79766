"""Reads an adapter's options that are more than a word."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from rbkit.errors import SettingsError

__all__ = ["option"]

T = TypeVar("T", bound=BaseModel)


def option(model: type[T], place: str, given: Any) -> T:
    """Read one option of an adapter.

    Args:
        model: What it must be.
        place: Where it stands among the options, for example `programs.restart`.
        given: What the environment file says.

    Returns:
        The option.

    Raises:
        SettingsError: It is wrong; the place is named.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in (place, *first["loc"]))
        raise SettingsError(f"The option {where} is wrong: {first['msg']}.") from error
