"""Every error rbkit raises. Each class says what the operator does next.

RunbookError
├── RefusedInput               refused before anything was touched        exit 2
│   ├── ContractError          the notebook does not say what it must
│   ├── ParameterError         a parameter is unknown, missing or wrong
│   ├── SettingsError          a setting or an environment file is wrong
│   └── NotFound               no such runbook, run, signal or capability
├── IllegalMove                the run is not in a state that allows this exit 1
├── JournalError               the journal cannot be written or trusted   exit 1
│   ├── JournalBroken          an entry was changed, cut or forged
│   └── StoreUnavailable       the store cannot be reached or written
├── AdapterError               a real system answered with a failure      exit 1
│   ├── Refused                it said no; it certainly did not act
│   ├── Unreachable            it was never reached; it certainly did not act
│   ├── BadAnswer              it answered with something unusable
│   └── MayHaveActed           the request left and no answer came back
├── SecretError                a secret cannot be had; nothing replaces it exit 5
├── ReplayMiss                 the tape has no such effect                exit 1
├── GuardRail                  a limit of the contract would be crossed   exit 1
├── Held                       somebody else holds a run or a target      exit 4
├── Fenced                     another process took the run over          exit 4
└── RunEnded                   the run ended; the exit code says how
    ├── StepFailed, StepUnknown, CheckFailed, ApprovalNeeded, Denied, Cancelled
"""

from typing import ClassVar

__all__ = [
    "AdapterError",
    "ApprovalNeeded",
    "BadAnswer",
    "Cancelled",
    "CheckFailed",
    "ContractError",
    "Denied",
    "Fenced",
    "GuardRail",
    "Held",
    "IllegalMove",
    "JournalBroken",
    "JournalError",
    "MayHaveActed",
    "NotFound",
    "ParameterError",
    "Refused",
    "RefusedInput",
    "ReplayMiss",
    "RunEnded",
    "RunbookError",
    "SecretError",
    "SettingsError",
    "StepFailed",
    "StepUnknown",
    "StoreUnavailable",
    "Unreachable",
]


class RunbookError(Exception):
    """What happened, why, and what to do next.

    Args:
        what: One sentence: what happened and why.
        todo: One sentence: what to do next; the class's own advice when empty.
    """

    exit_code: ClassVar[int] = 1
    advice: ClassVar[str] = "Look at the run with `rbkit show RUN`."

    def __init__(self, what: str, *, todo: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.todo = todo or self.advice

    def __str__(self) -> str:
        return f"{self.what} {self.todo}".strip()

    def _render_traceback_(self) -> list[str]:
        """Show a short card in a notebook instead of a traceback (an IPython hook)."""
        return [f"✗ {type(self).__name__}: {self.what}", f"  → {self.todo}"]


class RefusedInput(RunbookError):
    """Something that was given is wrong; nothing was started."""

    exit_code = 2
    advice = "Correct it and start again; nothing was touched."


class ContractError(RefusedInput):
    """The notebook does not describe itself as a runbook must."""

    advice = "Mend the notebook; `rbkit lint NOTEBOOK` shows every fault."


class ParameterError(RefusedInput):
    """A parameter is unknown, missing, of the wrong type or out of bounds."""

    advice = "`rbkit plan NOTEBOOK` lists the parameters with type, default and meaning."

    def __init__(self, what: str, *, field: str = "", todo: str = "") -> None:
        super().__init__(what, todo=todo)
        self.field = field


class SettingsError(RefusedInput):
    """A setting or an environment file is wrong."""

    advice = "Correct the file or variable that is named."


class NotFound(RefusedInput):
    """There is no such runbook, run, signal, capability or file."""

    advice = "`rbkit list` shows what there is."


class IllegalMove(RunbookError):
    """The run's state does not allow this."""

    advice = "`rbkit show RUN` says where the run stands and what can be done."


class JournalError(RunbookError):
    """The journal cannot be written or cannot be trusted."""

    advice = "Nothing may be changed without a journal: mend the store, then look at the run."


class JournalBroken(JournalError):
    """An entry of the journal was changed, cut out or forged."""

    advice = "Compare with the store's copy: `rbkit record verify RUN`."

    def __init__(self, what: str, *, seq: int, todo: str = "") -> None:
        super().__init__(what, todo=todo)
        self.seq = seq


class StoreUnavailable(JournalError):
    """The store cannot be reached, is full, or is read-only."""

    advice = "Free space or mend the path; `rbkit show RUN` then tells what had been done, and what is in doubt."


class AdapterError(RunbookError):
    """A real system answered with a failure.

    Args:
        what: What happened.
        todo: What to do next.
        retry_after_s: How long the system asked to be left alone, seconds.
        fault: Whether the system itself is ill, and not what it was asked; such errors open its breaker.
    """

    advice = "Look at the system that is named; its own log says more."
    faulty: ClassVar[bool] = False

    def __init__(self, what: str, *, todo: str = "", retry_after_s: float = 0.0, fault: bool | None = None) -> None:
        super().__init__(what, todo=todo)
        self.retry_after_s = retry_after_s
        self.fault = self.faulty if fault is None else fault


class Refused(AdapterError):
    """The system said no, so it certainly did not act."""


class Unreachable(AdapterError):
    """The system was never reached, so it certainly did not act."""

    advice = "Check that it is up and that the environment file names the right address."
    faulty = True


class BadAnswer(AdapterError):
    """The system answered with something that cannot be used."""


class MayHaveActed(AdapterError):
    """The request left and no usable answer came back: it may have acted."""

    advice = "Look at the target before anything is repeated."
    faulty = True


class SecretError(RunbookError):
    """A secret cannot be had; nothing stands in for it."""

    exit_code = 5
    advice = "Check the reference and your rights; rbkit never falls back to another secret."


class ReplayMiss(RunbookError):
    """The tape holds no such effect."""

    advice = "The runbook differs from the one that was recorded; run it live or record it again."


class GuardRail(RunbookError):
    """A limit that the contract declares would be crossed."""

    advice = "Narrow the targets, or raise the limit in the contract and have it reviewed."


class Held(RunbookError):
    """Somebody else holds the run or the target; until when is said."""

    exit_code = 4
    advice = "Wait until then, or look at who holds it: `rbkit show RUN`."


class Fenced(RunbookError):
    """Another process has taken the run over; this one may write and act no more."""

    exit_code = 4
    advice = "Nothing is to be done here: `rbkit show RUN` says who goes on with it."


class RunEnded(RunbookError):
    """The run ended without success; the outcome is in the journal."""


class StepFailed(RunEnded):
    """A step failed and certainly left nothing half done."""


class StepUnknown(RunEnded):
    """A step ended without a known result: it may have acted."""

    exit_code = 6
    advice = "Look at the target first; then `rbkit show RUN` lists the ways out."


class CheckFailed(RunEnded):
    """A precondition or postcondition did not pass."""


class ApprovalNeeded(RunEnded):
    """A step needs an approval that nobody has given."""

    exit_code = 4
    advice = "Have it approved by somebody who may, or run it with somebody at the keyboard."


class Denied(RunEnded):
    """Somebody who was asked said no."""

    exit_code = 5
    advice = "`rbkit show RUN` says who denied what, and why."


class Cancelled(RunEnded):
    """Somebody stopped the run."""

    exit_code = 130
    advice = "`rbkit show RUN` says what had been done and what was undone."
