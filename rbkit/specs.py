"""What a contract consists of: parameters, steps, checks, and what each may say."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from rbkit.errors import ContractError, SettingsError
from rbkit.values import seconds

__all__ = [
    "CHECK_WITHIN_S", "ROLLBACKS", "STEP_KEYS", "STEP_TIMEOUT_S", "Cell", "CheckSpec", "Contract", "ParameterSpec",
    "StepSpec", "duration", "sections", "step_spec",
]  # fmt: skip

STEP_TIMEOUT_S = 60.0
CHECK_WITHIN_S = 30.0
ROLLBACKS = ("on_failure", "always", "never", "ask")
STEP_KEYS: Mapping[str, type] = {
    "risk": str, "timeout": str, "max_targets": int, "approvals": int, "parallel": int, "otherwise": list,
    "automatic": bool,
}  # fmt: skip
"""What `@run.step` takes, and of which kind it is."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A notebook's cell, as far as a contract needs it.

    Args:
        index: Its place in the notebook, from 0.
        kind: code, markdown or raw.
        source: Its text.
        tags: Its tags.
    """

    index: int
    kind: str
    source: str
    tags: tuple[str, ...] = ()


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ParameterSpec(_Value):
    """A parameter: what may be given, what it means, what it is when not given."""

    name: str
    type: str
    default: Any = None
    required: bool = False
    help: str = ""
    unit: str = ""


class StepSpec(_Value):
    """A step: what it intends, how it is undone, what should be seen, and its limits."""

    name: str
    intent: str
    undo: str = ""
    expect: str = ""
    risk: Literal["low", "medium", "high"] = "medium"
    timeout_s: float
    max_targets: int = 1
    approvals: int = 0
    parallel: int = 1
    otherwise: tuple[str, ...] = ()
    automatic: bool = False
    calls: tuple[str, ...] = ()
    cell: int = 0
    code: str = ""


class CheckSpec(_Value):
    """A precondition or postcondition."""

    name: str
    phase: Literal["precondition", "postcondition"]
    sentence: str
    within_s: float
    cell: int = 0


class Contract(_Value):
    """What a runbook promises and needs."""

    name: str
    title: str = ""
    version: str
    owner: str
    budget_s: float
    rollback: Literal["on_failure", "always", "never", "ask"] = "on_failure"
    confirm_within_s: float = 0.0
    assumes: tuple[str, ...] = ()
    parameters: tuple[ParameterSpec, ...] = ()
    checks: tuple[CheckSpec, ...] = ()
    steps: tuple[StepSpec, ...] = ()
    signals: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    digest: str

    def step(self, name: str) -> StepSpec | None:
        """Find a step by its function's name."""
        return next((step for step in self.steps if step.name == name), None)


def step_spec(name: str, docstring: str | None, given: Mapping[str, Any], where: str) -> StepSpec:
    """Make the description of a step from its docstring and the arguments of `@run.step`.

    Args:
        name: The function's name.
        docstring: One sentence of intent; `Undo:` and `Expect:` sentences.
        given: Some of `STEP_KEYS`.
        where: For the error.

    Raises:
        ContractError: An argument is unknown, of another kind or out of bounds.
    """
    _check_kinds(given, where)
    risk, targets, approvals = given.get("risk", "medium"), given.get("max_targets", 1), given.get("approvals", 0)
    parallel, otherwise = given.get("parallel", 1), given.get("otherwise", [])
    if risk not in {"low", "medium", "high"} or targets < 1 or approvals < 0 or parallel < 1:
        raise ContractError(
            f"{where}: risk is low, medium or high; max_targets and parallel at least 1; approvals at least 0."
        )
    if not all(isinstance(item, str) for item in otherwise) or name in otherwise:
        raise ContractError(f"{where}: otherwise is a list of the names of other steps.")
    return StepSpec(
        name=name, **sections(docstring), risk=risk, max_targets=targets, approvals=approvals, parallel=parallel,
        otherwise=tuple(otherwise), automatic=given.get("automatic", False),
        timeout_s=duration(given["timeout"], where) if "timeout" in given else STEP_TIMEOUT_S,
    )  # fmt: skip


def _check_kinds(given: Mapping[str, Any], where: str) -> None:
    """Refuse a slip such as `aproval=2`: what is not understood must not be passed over."""
    for key, value in given.items():
        if key not in STEP_KEYS:
            raise ContractError(f"{where} has an unknown argument {key}; known: {', '.join(STEP_KEYS)}.")
        if type(value) is not STEP_KEYS[key]:
            raise ContractError(f"{key} in {where} must be {STEP_KEYS[key].__name__}, not {type(value).__name__}.")


def sections(docstring: str | None) -> dict[str, str]:
    """Split a step's docstring into intent, undo and expect."""
    text = " ".join((docstring or "").split())
    parts = re.split(r"\b(Undo|Expect):\s*", text)
    named = dict(zip((word.lower() for word in parts[1::2]), (part.strip() for part in parts[2::2]), strict=True))
    return {"intent": parts[0].strip(), "undo": named.get("undo", ""), "expect": named.get("expect", "")}


def duration(text: str, where: str) -> float:
    """Read a duration of a contract; the place is named when it is none."""
    try:
        return seconds(text)
    except SettingsError as error:
        raise ContractError(f"{error.what} It stands in {where}.", todo=error.todo) from error
