"""Where a run stands, as one JSON value: what `--json` prints and every screen draws."""

from typing import Any

from rbkit.approvals import Approval
from rbkit.fold import RunState
from rbkit.policy import exit_code, to_undo
from rbkit.progress import Change
from rbkit.record.summary import GLYPHS, duration, standing_word

__all__ = ["view"]


def view(state: RunState, lost: str = "") -> dict[str, Any]:
    """Describe a run.

    Args:
        state: The run.
        lost: Why its process counts as dead; empty when it lives or the run is over.

    Returns:
        A JSON object: identity, state, outcome, position, what runs, what waits, what is next, checks,
        steps, changes, decisions, and the ways out.
    """
    opened = state.opened
    steps = _steps(state, lost)
    return {
        "run": state.run, "runbook": opened.runbook if opened else "", "version": opened.version if opened else "",
        "environment": opened.environment if opened else "", "mode": opened.mode if opened else "",
        "parameters": opened.parameters if opened else {}, "started_by": state.actor,
        "driver": opened.driver if opened else "", "state": state.state, "stands": standing_word(state, lost),
        "lost": lost, "session": state.session, "outcome": state.outcome,
        "exit_code": exit_code(state) if state.outcome else None,
        "reason": state.reason, "started": state.started, "ended": state.ended, "seconds": round(duration(state), 3),
        "position": {"done": sum(s["state"] in _OVER for s in steps), "total": len(steps)},
        "running": state.running_step.name if state.running_step and not lost else "", "waits_for": state.waits_for,
        "in_flight": [str(change.call) for change in state.changes.values() if change.state == "intended"],
        "approvals": [_approval(approval) for approval in state.approvals],
        "next": next((s["name"] for s in steps if s["state"] == "pending"), "") if not state.finished else "",
        "checks": _checks(state), "steps": steps, "changes": [_change(c) for c in state.changes.values()],
        "decisions": [{"at": d.at, **d.event.model_dump(mode="json", exclude={"kind"})} for d in state.decisions],
        "rollback": state.rollback.model_dump(mode="json", exclude={"kind"}) if state.rollback else None,
        "ways_out": _ways_out(state, lost),
    }  # fmt: skip


_OVER = {"done", "planned", "skipped"}


def _steps(state: RunState, lost: str) -> list[dict[str, Any]]:
    declared = (state.opened.contract.get("steps", []) if state.opened else []) or []
    names = list(dict.fromkeys([step["name"] for step in declared] + list(state.steps)))
    intents = {step["name"]: step["intent"] for step in declared}
    return [_step(state, name, intents.get(name, ""), lost) for name in names]


def _step(state: RunState, name: str, intent: str, lost: str) -> dict[str, Any]:
    step = state.steps.get(name)
    word = step.state if step else "pending"
    word = "interrupted" if lost and word == "running" else word
    return {
        "name": name, "state": word, "glyph": GLYPHS[word], "intent": intent or (step.intent if step else ""),
        "risk": step.risk if step else "", "seconds": round(step.seconds, 3) if step else 0.0,
        "why": step.why if step else "", "deadline": step.deadline if step else "",
    }  # fmt: skip


def _checks(state: RunState) -> list[dict[str, Any]]:
    declared = (state.opened.contract.get("checks", []) if state.opened else []) or []
    found = []
    for spec in declared:
        check = state.checks.get(spec["name"])
        word = check.verdict if check else ""
        found.append({
            "name": spec["name"], "phase": spec["phase"], "sentence": spec["sentence"], "verdict": word,
            "glyph": GLYPHS.get(word, GLYPHS["pending"]), "why": check.why if check else "",
        })  # fmt: skip
    return found


def _change(change: Change) -> dict[str, Any]:
    return {
        "key": change.key, "call": str(change.call), "step": change.step, "state": change.state, "how": change.how,
        "undone": change.undone, "moved": change.moved, "before": change.before,
        "planned": change.planned, "differs": change.differs,
        "after": change.after, "undo": str(change.inverse) if change.inverse else "",
        "irreversible": change.irreversible, "undoes": change.undoes, "why": change.why,
    }  # fmt: skip


def _approval(approval: Approval) -> dict[str, Any]:
    asked = approval.request
    return {
        "step": asked.step, "risk": asked.risk, "digest": asked.digest, "needed": asked.needed, "until": asked.until,
        "approvers": asked.approvers, "given": list(approval.given), "denied": approval.denied,
        "result": approval.result, "why": approval.why, "changes": asked.plan.get("changes", []),
    }  # fmt: skip


def _ways_out(state: RunState, lost: str) -> list[str]:
    """Name what a person can do now, the safest first."""
    if lost:
        forward = state.state not in {"stranded", "failing", "rolling_back", "rolled_back", "stuck"}
        resume = [f"rbkit resume {state.run}: go on where it stood; what is done is not repeated"] if forward else []
        return [*resume, _undoing(state), f"rbkit abandon {state.run}: close it and leave everything as it is"]
    if not state.finished:
        stop = f"rbkit cancel {state.run}: stop, roll back, finish the record"
        return [*_answers(state), stop]
    record = f"rbkit record show {state.run}"
    if state.outcome in {"resolved", "not_applicable", "rolled_back"}:
        return [record]
    doubt = [str(c.call) for c in state.changes.values() if c.in_doubt and not c.undone and not c.undoes]
    looks = [f"look at the target of {call}: it may or may not have happened" for call in doubt]
    hands = [f"by hand: {text}" for text in _left(state)]
    again = [_undoing(state)] if to_undo(state.changes.values()) else []
    return [*looks, *hands, *again, record]


def _left(state: RunState) -> list[str]:
    """What a rollback left to be undone by hand."""
    if state.rollback is None:
        return []
    return state.rollback.by_hand or [
        str(state.changes[key].inverse) for key in state.rollback.left if key in state.changes
    ]


def _answers(state: RunState) -> list[str]:
    if state.asks:
        return [
            f"rbkit approve {state.run}: let exactly this plan through",
            f"rbkit deny {state.run}: stop and roll back",
        ]
    return [f"rbkit confirm {state.run}: what was done may stand"] if state.state == "confirming" else []


def _undoing(state: RunState) -> str:
    """Say what a rollback would undo and what it cannot."""
    todo = to_undo(state.changes.values())
    undo = [str(change.inverse) for change in todo if change.inverse]
    stays = [str(change.call) for change in todo if not change.inverse]
    cannot = f"; cannot undo {', '.join(stays)}" if stays else ""
    return f"rbkit rollback {state.run}: {', '.join(undo) or 'nothing is to be undone'}{cannot}"
