"""The events between a run and people: what it asks, waits for, and is told."""

from typing import Literal

from rbkit.facts import Event, Json

__all__ = [
    "Answered", "ApprovalDenied", "ApprovalEnded", "ApprovalGiven", "ApprovalRequested", "Asked", "CancelRequested",
    "ConfirmationRequested", "Confirmed",
]  # fmt: skip


class ApprovalRequested(Event):
    """A change waits until people have approved exactly this plan."""

    kind: Literal["approval_requested"] = "approval_requested"
    step: str
    risk: str
    needed: int
    digest: str
    plan: Json
    until: str
    valid_s: float
    approvers: list[str]
    own: bool


class ApprovalGiven(Event):
    """Somebody approved the plan with this digest."""

    kind: Literal["approval_given"] = "approval_given"
    digest: str
    reason: str = ""


class ApprovalDenied(Event):
    """Somebody refused the plan with this digest."""

    kind: Literal["approval_denied"] = "approval_denied"
    digest: str
    reason: str = ""


class ApprovalEnded(Event):
    """A request is over: granted, denied, expired without an answer, or void as something has changed."""

    kind: Literal["approval_ended"] = "approval_ended"
    digest: str
    result: Literal["granted", "denied", "expired", "void"]
    why: str


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
    how: Literal["operator", "default", "tape"]
    why: str = ""


class CancelRequested(Event):
    """Somebody asked the run to stop, roll back and finish its record."""

    kind: Literal["cancel_requested"] = "cancel_requested"
    reason: str


class ConfirmationRequested(Event):
    """Everything is done; without a confirmation in time it is rolled back."""

    kind: Literal["confirmation_requested"] = "confirmation_requested"
    until: str


class Confirmed(Event):
    """Somebody confirmed that what was done may stand."""

    kind: Literal["confirmed"] = "confirmed"
    reason: str = ""
