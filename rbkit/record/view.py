"""Where a run stands, as one JSON value: what `--json` prints and every screen draws."""

from typing import Any

from rbkit.fold import Change, RunState
from rbkit.policy import EXIT_CODES
from rbkit.record.summary import GLYPHS, duration

__all__ = ["view"]


def view(state: RunState) -> dict[str, Any]:
    """Describe a run.

    Args:
        state: The run.

    Returns:
        A JSON object: identity, state, outcome, position, what runs, what waits, what is next, checks,
        steps, changes, decisions, and the ways out.
    """
    opened = state.opened
    steps = _steps(state)
    return {
        "run": state.run, "runbook": opened.runbook if opened else "", "version": opened.version if opened else "",
        "environment": opened.environment if opened else "", "mode": opened.mode if opened else "",
        "parameters": opened.parameters if opened else {}, "started_by": state.actor,
        "driver": opened.driver if opened else "", "state": state.state, "outcome": state.outcome,
        "exit_code": EXIT_CODES[state.outcome] if state.outcome else None,  # type: ignore[index]
        "reason": state.reason, "started": state.started, "ended": state.ended, "seconds": round(duration(state), 3),
        "position": {"done": sum(s["state"] in _OVER for s in steps), "total": len(steps)},
        "running": state.running_step.name if state.running_step else "", "waits_for": state.waits_for,
        "next": next((s["name"] for s in steps if s["state"] == "pending"), "") if not state.finished else "",
        "checks": _checks(state), "steps": steps, "changes": [_change(c) for c in state.changes.values()],
        "decisions": [{"at": d.at, **d.event.model_dump(mode="json", exclude={"kind"})} for d in state.decisions],
        "rollback": state.rollback.model_dump(mode="json", exclude={"kind"}) if state.rollback else None,
        "ways_out": _ways_out(state),
    }  # fmt: skip


_OVER = {"done", "planned", "skipped"}


def _steps(state: RunState) -> list[dict[str, Any]]:
    declared = (state.opened.contract.get("steps", []) if state.opened else []) or []
    names = list(dict.fromkeys([step["name"] for step in declared] + list(state.steps)))
    intents = {step["name"]: step["intent"] for step in declared}
    return [_step(state, name, intents.get(name, "")) for name in names]


def _step(state: RunState, name: str, intent: str) -> dict[str, Any]:
    step = state.steps.get(name)
    word = step.state if step else "pending"
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


def _ways_out(state: RunState) -> list[str]:
    """Name what a person can do now, the safest first."""
    if not state.finished:
        return ["Ctrl-C in the terminal that runs it: stop, roll back, finish the record"]
    if state.outcome in {"resolved", "not_applicable", "rolled_back"}:
        return [f"rbkit record show {state.run}"]
    doubt = [str(c.call) for c in state.changes.values() if c.in_doubt and not c.undone]
    looks = [f"look at the target of {call}: it may or may not have happened" for call in doubt]
    left = state.rollback.left if state.rollback else []
    undo = [f"by hand: {state.changes[key].inverse}" for key in left]
    return [*looks, *undo, f"rbkit record show {state.run}"]
