"""Reads the description of a step or check from the function that a notebook decorates."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from rbkit.errors import ContractError
from rbkit.events import Phase
from rbkit.specs import CHECK_WITHIN_S, CheckSpec, StepSpec, sections, step_spec
from rbkit.values import digest, seconds

__all__ = ["check_spec", "step_of"]


def step_of(function: Callable[..., Any], given: Mapping[str, Any]) -> StepSpec:
    """Describe a step.

    Args:
        function: The decorated function.
        given: The arguments of `@run.step`.

    Raises:
        ContractError: It is not `async def`, or an argument is out of bounds.
    """
    _must_be_async(function)
    spec = step_spec(function.__name__, inspect.getdoc(function), given, f"step {function.__name__}")
    return spec.model_copy(update={"code": _code(function)})


def check_spec(function: Callable[..., Any], phase: Phase, within: str) -> CheckSpec:
    """Describe a precondition or postcondition.

    Raises:
        ContractError: It is not `async def`.
    """
    _must_be_async(function)
    limit = seconds(within) if within else CHECK_WITHIN_S
    sentence = sections(inspect.getdoc(function))["intent"]
    return CheckSpec(name=function.__name__, phase=phase, sentence=sentence, within_s=limit)


def _code(function: Callable[..., Any]) -> str:
    """Digest a function's source as it runs, so that an edited cell is not what was approved; empty if unknown."""
    try:
        return digest(inspect.getsource(function))
    except (OSError, TypeError):
        return ""


def _must_be_async(function: Callable[..., Any]) -> None:
    if not inspect.iscoroutinefunction(function):
        raise ContractError(f"{function.__name__} must be `async def`.", todo="Write `async def` and await the calls.")
