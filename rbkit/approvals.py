"""Pure rules of an approval: whose answer counts, how long, for exactly what, and only once."""

from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from rbkit.asking import ApprovalDenied, ApprovalEnded, ApprovalGiven, ApprovalRequested
from rbkit.errors import IllegalMove
from rbkit.events import ChangeIntended
from rbkit.facts import Json
from rbkit.values import canonical

__all__ = [
    "Approval", "check_answer", "check_confirmed", "check_end", "check_request", "check_use", "covering", "entitled",
    "instant", "item_of",
]  # fmt: skip


@dataclass(slots=True)
class Approval:
    """A request for approval and what became of it.

    Args:
        request: What was asked, for exactly which plan.
        at: When it was asked, UTC, ISO 8601.
        given: Reasons by the person who approved.
        denied: Who refused it; empty when nobody did.
        reason: Why it was refused.
        result: granted, denied, expired or void; empty while it waits.
        why: Why it ended so.
        granted: When it was granted; empty before.
        used: The changes that were made under it.
        begun: Whether the process that holds the run has begun to use it, and so may finish what it is for.
    """

    request: ApprovalRequested
    at: str
    given: dict[str, str] = field(default_factory=dict)
    denied: str = ""
    reason: str = ""
    result: str = ""
    why: str = ""
    granted: str = ""
    used: list[str] = field(default_factory=list)
    begun: bool = False

    @property
    def complete(self) -> bool:
        """Whether enough people have approved."""
        return len(self.given) >= self.request.needed

    @property
    def changes(self) -> list[str]:
        """The changes of the plan, as text."""
        return [item["call"] for item in self.request.plan.get("changes", [])]

    @property
    def targets(self) -> list[str]:
        """The targets of the plan, each once."""
        return list(dict.fromkeys(item["target"] for item in self.request.plan.get("changes", [])))

    def usable(self, at: str) -> bool:
        """Whether a change may still be made under it: granted, and begun in time."""
        if self.result != "granted":
            return False
        return self.begun or (instant(at) - instant(self.granted)).total_seconds() <= self.request.valid_s


def entitled(actor: str, patterns: Iterable[str]) -> bool:
    """Tell whether somebody is among those whom an environment file names, for example `os:alice` or `*`."""
    return any(fnmatchcase(actor, pattern) for pattern in patterns)


def item_of(intended: Json) -> Json:
    """Take what is approved of a planned change: call, before → after, inverse, why it cannot be undone.

    Args:
        intended: call, before, after, differs, inverse, irreversible, waits.

    Returns:
        A JSON object; it leaves out what moves by itself, such as the number of requests under way.
    """
    waits = set(intended["waits"])
    after = {key: value for key, value in intended["after"].items() if key not in waits}
    keys = [*after, *intended["differs"]]
    return {
        "call": str(intended["call"]), "target": intended["call"].target,
        "before": {key: intended["before"].get(key) for key in keys}, "after": after, "differs": intended["differs"],
        "undo": str(intended["inverse"]) if intended["inverse"] else "", "irreversible": intended["irreversible"],
    }  # fmt: skip


def covering(approvals: Iterable[Approval], facts: Json, item: Json, at: str) -> str:
    """Find the approval under which a change may be made.

    Args:
        approvals: The run's approvals.
        facts: Runbook, environment, parameters and step as they are now.
        item: The change as it would be made now.
        at: The present time, UTC, ISO 8601.

    Returns:
        The digest of the newest that covers it to the letter and was not used for it; empty when none does.
    """
    fitting = [
        approval.request.digest
        for approval in approvals
        if approval.usable(at) and item["call"] not in approval.used and _says(approval.request.plan, facts, item)
    ]
    return fitting[-1] if fitting else ""


def _says(plan: Json, facts: Json, item: Json) -> bool:
    """Whether a plan says the same to the letter: as it is written, 1 is neither 1.0 nor true."""
    wanted = canonical(item)
    return canonical(plan["facts"]) == canonical(facts) and any(canonical(said) == wanted for said in plan["changes"])


def check_request(event: ApprovalRequested, at: str) -> None:
    """Refuse a request that nobody could answer.

    Raises:
        IllegalMove: Its times cannot be read, or its plan does not name the changes and their targets.
    """
    instant(at)
    instant(event.until)
    items = event.plan.get("changes")
    named = isinstance(items, list) and all(isinstance(item, dict) and item.keys() >= _NAMED for item in items)
    if not named or event.needed < 1:
        raise IllegalMove(f"The plan {event.digest[:19]}… names no changes, or nobody is asked to approve it.")


_NAMED = {"call", "target"}


def check_answer(
    waiting: Approval | None, event: ApprovalGiven | ApprovalDenied, at: str, actor: str, starters: Container[str]
) -> None:
    """Refuse an answer that does not count.

    Args:
        waiting: The request that waits; None when none does.
        event: The answer.
        at: When it came, UTC, ISO 8601.
        actor: Who gave it.
        starters: Who started or resumed the run.

    Raises:
        IllegalMove: It is for another plan, too late, from somebody who may not, or from the same person again.
    """
    if waiting is None or waiting.request.digest != event.digest:
        now = f"waits for an answer to {waiting.request.digest[:19]}…" if waiting else "does not wait for an answer"
        raise IllegalMove(f"The answer is for the plan {event.digest[:19]}…, and the run {now}.")
    if instant(at) > instant(waiting.request.until):
        raise IllegalMove(f"The answer came too late: the request ended at {waiting.request.until}.")
    if not entitled(actor, waiting.request.approvers):
        raise IllegalMove(f"{actor} may not approve here; {', '.join(waiting.request.approvers)} may.")
    if waiting.denied:
        raise IllegalMove(f"{waiting.denied} has denied this plan; no other answer counts any more.")
    if isinstance(event, ApprovalGiven):
        _check_person(waiting, actor, starters)


def _check_person(waiting: Approval, actor: str, starters: Container[str]) -> None:
    if actor in waiting.given:
        raise IllegalMove(f"{actor} has approved this plan already; another person must.")
    if actor in starters and not waiting.request.own:
        raise IllegalMove(f"{actor} has started this run, and here nobody approves a run of their own.")


def check_end(waiting: Approval | None, approval: Approval | None, event: ApprovalEnded, at: str) -> None:
    """Refuse an end that does not follow from the answers.

    Args:
        waiting: The request that waits; None when none does.
        approval: The request that the event speaks of; None when there is none.
        event: The end.
        at: When, UTC, ISO 8601.

    Raises:
        IllegalMove: It is not the one that waits, nor one that was granted and is void now; or the answers say
            something else.
    """
    instant(at)
    voided = waiting is None and approval is not None and (approval.result, event.result) == ("granted", "void")
    if approval is None or not (approval is waiting or voided):
        raise IllegalMove(f"No request for the plan {event.digest[:19]}… is open.")
    if event.result == "granted" and (approval.denied or not approval.complete):
        raise IllegalMove(f"The plan {event.digest[:19]}… has not been approved by {approval.request.needed} people.")
    if event.result == "denied" and not approval.denied:
        raise IllegalMove(f"The plan {event.digest[:19]}… has been denied by nobody.")


def check_use(approval: Approval | None, event: ChangeIntended, at: str) -> None:
    """Refuse to make a change under an approval that does not cover it.

    Raises:
        IllegalMove: It was never granted, is used up, has run out, or is for something else.
    """
    if approval is None or not approval.usable(at):
        raise IllegalMove(f"{event.call} has no approval that holds: it was not granted, is void or has run out.")
    if str(event.call) in approval.used:
        raise IllegalMove(f"{event.call} was made under this approval already; it is good for once.")
    if event.step != approval.request.step or not any(_fits(item, event) for item in approval.request.plan["changes"]):
        raise IllegalMove(f"{event.call} is not in the plan that was approved, or not so.")


def _fits(item: Json, event: ChangeIntended) -> bool:
    """Whether a change is, to the letter, one that was approved; what moves by itself was left out of the plan."""
    after = item.get("after")
    waits = event.after.keys() - (after.keys() if isinstance(after, dict) else set())
    return canonical(item_of({name: getattr(event, name) for name in _APPROVED} | {"waits": waits})) == canonical(item)


_APPROVED = ("call", "before", "after", "differs", "inverse", "irreversible")


def check_confirmed(until: str, cancel: str, at: str) -> None:
    """Refuse a confirmation after its time, or after somebody asked the run to stop.

    Args:
        until: When the run stops waiting for it, UTC, ISO 8601.
        cancel: Why somebody asked the run to stop; empty when nobody did.
        at: When it came, UTC, ISO 8601.

    Raises:
        IllegalMove: It came too late.
    """
    if cancel or instant(at) > instant(until):
        why = f"somebody asked to stop it: {cancel}" if cancel else f"its time was over at {until}"
        raise IllegalMove(f"The confirmation came too late: {why}.")


def instant(text: str) -> datetime:
    """Read a time of the journal; one without a zone is UTC.

    Raises:
        IllegalMove: It is no time.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise IllegalMove(f"{text!r:.40} is no time.") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)
