"""The frozen events a journal holds. State is a fold over them; nothing else is kept."""

from typing import Annotated, Any, Literal

from pydantic import Field

from rbkit.asking import (
    Answered,
    ApprovalDenied,
    ApprovalEnded,
    ApprovalGiven,
    ApprovalRequested,
    Asked,
    CancelRequested,
    ConfirmationRequested,
    Confirmed,
)
from rbkit.facts import Call, Event, Json, Mode, Outcome, Phase, Purpose, Verdict4  # fmt: skip

__all__ = [
    "Answered", "AnyEvent", "ApprovalDenied", "ApprovalEnded", "ApprovalGiven", "ApprovalRequested", "Asked",
    "BreakerSet", "Call", "CancelRequested", "ChangeDone", "ChangeFailed", "ChangeIntended", "ChangePlanned",
    "ChangeUnknown",
    "CheckEnded", "CheckSkipped", "CheckStarted", "ConfirmationRequested", "Confirmed", "Decided", "Event",
    "FallbackChosen", "InputRefused", "Json", "LeaseAwaited", "Mode", "Observed", "Outcome", "Phase", "Purpose",
    "RecordSealed", "RollbackEnded", "RollbackStarted", "RollingEnded", "RollingPlanned", "RunClosed", "RunOpened",
    "SessionBegan", "StepDone", "StepFailed", "StepPlanned", "StepSkipped", "StepStarted", "StepUnknown",
    "TokenTold", "Verdict4",
]  # fmt: skip


class RunOpened(Event):
    """A run began: what, where, with which parameters, by which driver."""

    kind: Literal["run_opened"] = "run_opened"
    runbook: str
    version: str
    owner: str
    mode: Mode
    environment: str
    environment_digest: str
    digest: str
    contract: Json
    parameters: Json
    driver: str
    host: str
    pid: int
    notebook: str
    budget_s: float
    resumes: str = ""
    path: str = ""
    source: str = ""


class SessionBegan(Event):
    """Another process took the run over, with a higher token: to resume it, to end it, or to say that it broke off."""

    kind: Literal["session_began"] = "session_began"
    session: int
    purpose: Purpose
    host: str
    pid: int
    why: str = ""
    digest: str = ""
    differences: list[str] = Field(default_factory=list)

    @property
    def move(self) -> str:
        """What it is for: `resume`, `roll_back`, `abandon` or `interruption`."""
        return self.purpose


class LeaseAwaited(Event):
    """The run waits for a target that another run holds."""

    kind: Literal["lease_awaited"] = "lease_awaited"
    target: str
    holder: str
    until: str


class CheckStarted(Event):
    """A precondition or postcondition is being measured."""

    kind: Literal["check_started"] = "check_started"
    name: str
    phase: Phase
    sentence: str


class CheckEnded(Event):
    """A check has a verdict; only PASS lets the run go on."""

    kind: Literal["check_ended"] = "check_ended"
    name: str
    phase: Phase
    verdict: Verdict4
    why: str
    seconds: float

    @property
    def move(self) -> str:
        """`precondition_fail`, `postcondition_pass` and so on."""
        return f"{self.phase}_{self.verdict.lower()}"


class CheckSkipped(Event):
    """A check was not measured, and why."""

    kind: Literal["check_skipped"] = "check_skipped"
    name: str
    phase: Phase
    why: str


class Observed(Event):
    """The world was read: what was asked, what that has cost; the answer lies on the tape under its digest.

    `instead` names the signal that answered in the place of the one that was asked for; `missing` says why nothing
    could be had of a signal without which a run goes on; `cost` holds bytes and attempts.
    """

    kind: Literal["observed"] = "observed"
    name: str
    source: str
    query: str
    arguments: Json
    rows: int
    answer: str
    seconds: float
    weak: str = ""
    instead: str = ""
    missing: str = ""
    cost: Json = Field(default_factory=dict)


class Decided(Event):
    """Rules were applied; the trace says why."""

    kind: Literal["decided"] = "decided"
    rules: str
    version: str
    digest: str
    inputs: Json
    trace: list[Json]
    outcome: str
    target: str | None
    why: str
    ends: Literal["", "not_applicable", "needs_operator"] = ""
    now: str = ""
    partial: list[str] = Field(default_factory=list)

    @property
    def move(self) -> str:
        """`decided`, or `decided_not_applicable` when the decision ends the run."""
        return f"decided_{self.ends}" if self.ends else "decided"


class StepStarted(Event):
    """A step began; it must end before its deadline."""

    kind: Literal["step_started"] = "step_started"
    step: str
    intent: str
    risk: str
    timeout_s: float
    deadline: str


class StepDone(Event):
    """A step is acknowledged: it is never repeated."""

    kind: Literal["step_done"] = "step_done"
    step: str
    result: Any
    seconds: float


class StepPlanned(Event):
    """A step of a dry run: its changes were planned and not applied."""

    kind: Literal["step_planned"] = "step_planned"
    step: str
    seconds: float


class StepFailed(Event):
    """A step failed and certainly left nothing half done."""

    kind: Literal["step_failed"] = "step_failed"
    step: str
    error: str
    why: str
    seconds: float


class StepUnknown(Event):
    """A step ended without a known result: it may have acted."""

    kind: Literal["step_unknown"] = "step_unknown"
    step: str
    error: str
    why: str
    seconds: float


class FallbackChosen(Event):
    """A step failed, and another one is made in its place."""

    kind: Literal["fallback_chosen"] = "fallback_chosen"
    step: str
    otherwise: str
    risk: str
    how: Literal["automatic", "operator"]


class RollingPlanned(Event):
    """The targets of a fan-out, frozen before the first of them is touched."""

    kind: Literal["rolling_planned"] = "rolling_planned"
    step: str
    action: str
    targets: list[str]
    batches: list[int]
    max_errors: int
    at_least: int


class RollingEnded(Event):
    """A fan-out is over: what was done, what failed and why, what was left alone."""

    kind: Literal["rolling_ended"] = "rolling_ended"
    step: str
    done: list[str]
    failed: list[tuple[str, str]]
    remaining: list[str]
    why: str = ""


class StepSkipped(Event):
    """A step was not run, and why."""

    kind: Literal["step_skipped"] = "step_skipped"
    step: str
    why: str


class ChangeIntended(Event):
    """What is about to be changed and how it is undone: durable before anything is applied."""

    kind: Literal["change_intended"] = "change_intended"
    key: str
    step: str
    call: Call
    before: Json
    after: Json
    differs: Json = Field(default_factory=dict)
    inverse: Call | None
    irreversible: str = ""
    undoes: str = ""
    repeats: str = ""
    approval: str = ""
    token: int = 0


class ChangePlanned(Event):
    """What would be changed, in a dry run."""

    kind: Literal["change_planned"] = "change_planned"
    key: str
    step: str
    call: Call
    before: Json
    after: Json
    differs: Json = Field(default_factory=dict)
    inverse: Call | None
    irreversible: str = ""


class ChangeDone(Event):
    """A change holds in the world, read back: applied now, already so, or settled after a doubt."""

    kind: Literal["change_done"] = "change_done"
    key: str
    how: Literal["applied", "already", "settled"]
    after: Json
    seconds: float


class ChangeFailed(Event):
    """A change was certainly not made."""

    kind: Literal["change_failed"] = "change_failed"
    key: str
    error: str
    why: str


class ChangeUnknown(Event):
    """A change may or may not have been made."""

    kind: Literal["change_unknown"] = "change_unknown"
    key: str
    error: str
    why: str


class RollbackStarted(Event):
    """What was done is being undone, last first."""

    kind: Literal["rollback_started"] = "rollback_started"
    why: str
    undo: list[str]
    irreversible: list[str]


class RollbackEnded(Event):
    """The rollback is over; what is left is named."""

    kind: Literal["rollback_ended"] = "rollback_ended"
    undone: list[str]
    left: list[str]
    in_doubt: list[str]
    by_hand: list[str] = Field(default_factory=list)

    @property
    def move(self) -> str:
        """`rollback_ended`, or `rollback_incomplete` when something is left."""
        return "rollback_incomplete" if self.left else "rollback_ended"


class RunClosed(Event):
    """The run is over."""

    kind: Literal["run_closed"] = "run_closed"
    outcome: Outcome
    reason: str

    @property
    def move(self) -> str:
        """`run_closed_resolved` and so on: the table says which state may end how."""
        return f"run_closed_{self.outcome}"


class RecordSealed(Event):
    """The record was written; its cells can be checked one by one."""

    kind: Literal["record_sealed"] = "record_sealed"
    notebook: str
    cells: list[str]


class InputRefused(Event):
    """Input was refused before a run began (only in the audit journal)."""

    kind: Literal["input_refused"] = "input_refused"
    runbook: str
    field: str
    why: str


class BreakerSet(Event):
    """A person has set the breaker of an endpoint (only in the audit journal)."""

    kind: Literal["breaker_set"] = "breaker_set"
    endpoint: str
    to: Literal["open", "closed", "auto"]
    reason: str


class TokenTold(Event):
    """What became of a run's token; its accessor names it and gives no rights (only in the audit journal)."""

    kind: Literal["token_told"] = "token_told"
    run: str
    what: Literal["issued", "revoked", "revoke_failed"]
    accessor: str
    why: str = ""
    ttl_s: int = 0


AnyEvent = Annotated[
    RunOpened | SessionBegan | LeaseAwaited | CheckStarted | CheckEnded | CheckSkipped | Observed | Decided
    | StepStarted | StepDone | StepPlanned | StepFailed | StepUnknown | StepSkipped | FallbackChosen | RollingPlanned
    | RollingEnded | ChangeIntended | ChangePlanned | ChangeDone | ChangeFailed | ChangeUnknown | ApprovalRequested
    | ApprovalGiven | ApprovalDenied | ApprovalEnded | Asked | Answered | CancelRequested | ConfirmationRequested
    | Confirmed | RollbackStarted | RollbackEnded | RunClosed | RecordSealed | InputRefused
    | BreakerSet | TokenTold,
    Field(discriminator="kind"),
]  # fmt: skip
