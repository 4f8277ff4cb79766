"""The frozen events a journal holds. State is a fold over them; nothing else is kept."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "Answered", "AnyEvent", "ApprovalRequested", "Asked", "Call", "CancelRequested", "ChangeDone", "ChangeFailed",
    "ChangeIntended", "ChangePlanned", "ChangeUnknown", "CheckEnded", "CheckSkipped", "CheckStarted", "Decided",
    "Event", "InputRefused", "Json", "Mode", "Observed", "Outcome", "Phase", "RecordSealed", "RollbackEnded",
    "RollbackStarted", "RunClosed", "RunOpened", "StepDone", "StepFailed", "StepPlanned", "StepSkipped",
    "StepStarted", "StepUnknown", "Verdict4",
]  # fmt: skip

Mode = Literal["live", "dry_run", "replay", "resume"]
Outcome = Literal["resolved", "not_applicable", "rolled_back", "failed", "needs_operator", "aborted", "unknown"]
Phase = Literal["precondition", "postcondition"]
Verdict4 = Literal["PASS", "FAIL", "INCONCLUSIVE", "ERROR"]
Json = dict[str, Any]


class Event(BaseModel):
    """Something that happened; never changed afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: str

    @property
    def move(self) -> str:
        """The name under which the lifecycle table knows this event."""
        return self.kind


class Call(BaseModel):
    """A change as data: any process with the environment file can make it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    capability: str
    action: str
    target: str
    arguments: Json = {}

    def __str__(self) -> str:
        extra = "".join(f", {key}={value!r}" for key, value in self.arguments.items())
        return f"{self.capability}.{self.action}({self.target}{extra})"


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
    """The world was read: what was asked, how much came back; the answer lies on the tape under its digest."""

    kind: Literal["observed"] = "observed"
    name: str
    source: str
    query: str
    arguments: Json
    rows: int
    answer: str
    seconds: float
    weak: str = ""


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
    differs: Json = {}
    inverse: Call | None
    irreversible: str = ""
    undoes: str = ""


class ChangePlanned(Event):
    """What would be changed, in a dry run."""

    kind: Literal["change_planned"] = "change_planned"
    key: str
    step: str
    call: Call
    before: Json
    after: Json
    differs: Json = {}
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


class ApprovalRequested(Event):
    """A step waits for somebody's approval of exactly this."""

    kind: Literal["approval_requested"] = "approval_requested"
    step: str
    risk: str
    needed: int
    digest: str


class Asked(Event):
    """The run asks a person."""

    kind: Literal["asked"] = "asked"
    name: str
    prompt: str
    options: list[str]
    default: str


class Answered(Event):
    """A person answered, or the default was taken."""

    kind: Literal["answered"] = "answered"
    name: str
    answer: str
    how: Literal["operator", "default"]
    why: str = ""


class CancelRequested(Event):
    """Somebody asked the run to stop, roll back and finish its record."""

    kind: Literal["cancel_requested"] = "cancel_requested"
    reason: str


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


AnyEvent = Annotated[
    RunOpened | CheckStarted | CheckEnded | CheckSkipped | Observed | Decided | StepStarted | StepDone | StepPlanned
    | StepFailed | StepUnknown | StepSkipped | ChangeIntended | ChangePlanned | ChangeDone | ChangeFailed
    | ChangeUnknown | ApprovalRequested | Asked | Answered | CancelRequested | RollbackStarted | RollbackEnded
    | RunClosed | RecordSealed | InputRefused,
    Field(discriminator="kind"),
]  # fmt: skip
