"""The closing summary of a run, in Markdown: the same facts in the same words everywhere."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from rbkit import events as ev
from rbkit.clock import wall
from rbkit.fold import RunState
from rbkit.progress import Change, Moment
from rbkit.values import human, human_bytes

__all__ = ["GLYPHS", "duration", "headline", "markdown", "standing_word", "tell"]

GLYPHS = {
    "pending": "○", "running": "◐", "waiting": "⏸", "done": "✓", "planned": "✓", "skipped": "↷", "failed": "✗",
    "rolled_back": "↩", "unknown": "?", "resolved": "✓", "not_applicable": "↷", "needs_operator": "⏸",
    "aborted": "✗", "intended": "?", "PASS": "✓", "FAIL": "✗", "INCONCLUSIVE": "?", "ERROR": "✗", "SKIPPED": "↷",
    "RUNNING": "◐", "interrupted": "?", "replaced": "↷", "rolling_back": "↩",
}  # fmt: skip
_WORDS = {
    "waiting": "waiting", "confirming": "waiting", "interrupted": "interrupted", "stranded": "interrupted",
    "rolling_back": "rolling_back", "new": "not opened",
}  # fmt: skip


def headline(state: RunState, lost: str = "") -> str:
    """Say in one line how a run stands.

    Args:
        state: The run.
        lost: Why its process counts as dead; empty when it lives or the run is over.
    """
    word = standing_word(state, lost)
    name = f"{state.opened.runbook} {state.opened.version} on {state.opened.environment}" if state.opened else state.run
    mode = " · dry run" if state.opened and state.opened.mode == "dry_run" else ""
    return f"{GLYPHS.get(word, '◐')} {word.replace('_', ' ')} — {name}{mode}"


def standing_word(state: RunState, lost: str = "") -> str:
    """Name how a run stands: its outcome when it is over, else running, waiting, rolling_back or interrupted."""
    if state.outcome and state.finished:
        return state.outcome
    return "interrupted" if lost else _WORDS.get(state.state, "running")


def duration(state: RunState) -> float:
    """Return the seconds from opening to closing; 0 while it is open."""
    if not (state.started and state.ended):
        return 0.0
    return (datetime.fromisoformat(state.ended) - datetime.fromisoformat(state.started)).total_seconds()


def markdown(state: RunState) -> str:
    """Write the closing summary.

    Args:
        state: The run.

    Returns:
        Markdown: outcome, facts, changes, decisions, checks, timeline in UTC.
    """
    parts = [f"## {headline(state)}", f"**{_plain(state.reason)}**", _facts(state), *_sections(state)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _sections(state: RunState) -> Iterator[str]:
    yield _table("Changes", ["", "Change", "Before", "After", "Undo"], [_change(c) for c in state.changes.values()])
    decisions = [
        [wall(_at(d.at)), f"{d.event.rules} {d.event.version}", d.event.outcome, d.event.target or "", d.event.why,
         _inputs(d.event.inputs)]
        for d in state.decisions
    ]  # fmt: skip
    yield _table("Decisions", ["UTC", "Rules", "Outcome", "Target", "Why", "Inputs"], decisions)
    yield _table("Approvals", ["", "Step", "Plan", "Result", "Who", "Why"], _approvals(state))
    checks = [[GLYPHS.get(c.verdict, ""), c.phase, c.name, c.verdict, c.why] for c in state.checks.values()]
    yield _table("Checks", ["", "Phase", "Check", "Verdict", "Evidence"], checks)
    steps = [[GLYPHS.get(s.state, ""), s.name, s.state, human(s.seconds), s.why or s.intent]
             for s in state.steps.values()]  # fmt: skip
    yield _table("Steps", ["", "Step", "State", "Took", "What"], steps)
    timeline = [[wall(_at(m.at)), m.actor, m.source, tell(m)] for m in state.timeline]
    yield _table("Timeline", ["UTC", "Who", "From", "What"], timeline)


def _facts(state: RunState) -> str:
    opened = state.opened
    if opened is None:
        return ""
    given = ", ".join(f"{name}={value!r}" for name, value in opened.parameters.items())
    rows = [
        ["Run", state.run], ["Runbook", f"{opened.runbook} {opened.version} ({opened.digest[:19]}…)"],
        ["Environment", opened.environment], ["Mode", opened.mode], ["Started by", f"{state.actor} ({opened.driver})"],
        ["Began", wall(_at(state.started))], ["Took", human(duration(state))], ["Parameters", given],
        ["Rolled back", _rollback(state)], ["By hand", "; ".join(state.rollback.by_hand) if state.rollback else ""],
    ]  # fmt: skip
    return _table("", ["", ""], [row for row in rows if row[1]])


def _approvals(state: RunState) -> list[list[str]]:
    return [
        [GLYPHS.get(_APPROVED.get(a.result, ""), "⏸"), a.request.step, "; ".join(a.changes), a.result or "waits",
         ", ".join(a.given) or a.denied, a.why or a.reason]
        for a in state.approvals
    ]  # fmt: skip


_APPROVED = {"granted": "done", "denied": "failed", "expired": "failed", "void": "skipped"}


def _rollback(state: RunState) -> str:
    if not state.rollback_why:
        return ""
    done = state.rollback
    if done is None:
        return "began, not finished"
    stays = [str(c.call) for c in state.changes.values() if c.irreversible and c.acted]
    text = f"{len(done.undone)} undone, {len(done.left)} left, {len(done.in_doubt)} in doubt"
    return text + (f"; cannot be undone: {', '.join(stays)}" if stays else "")


def _change(change: Change) -> list[str]:
    keys = [*change.planned, *change.differs]
    after = change.after if change.after is not None else change.planned
    undo = str(change.inverse) if change.inverse else f"irreversible: {change.irreversible}"
    label = f"{change.call}" + (f" (undoes {change.undoes.rsplit('/', 2)[-2]})" if change.undoes else "")
    word = "undone" if change.undone else change.how or change.state
    glyph = GLYPHS["rolled_back"] if change.undone else GLYPHS.get(change.state, "")
    return [f"{glyph} {word}", label, _pick(change.before, keys), _pick(after, keys), undo]


def _pick(state: dict[str, Any], keys: list[str]) -> str:
    return ", ".join(f"{key}={state[key]}" for key in keys if key in state)


def _inputs(inputs: dict[str, Any]) -> str:
    return "; ".join(f"{name}: {_latest(facts)}" for name, facts in inputs.items())


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _plain(text: str) -> str:
    """Keep a text inside its table cell and free of markup."""
    for char in "\\`*_[]<>|#!":
        text = text.replace(char, f"\\{char}")
    return " ".join(text.split())


def _table(title: str, header: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return ""
    lines = [header, ["---"] * len(header), *[[_plain(str(item)) for item in row] for row in rows]]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"### {title}\n\n{body}" if title else body


def tell(moment: Moment) -> str:
    """Tell an event in one short phrase."""
    return str(_TELL[type(moment.event)](moment.event))


_TELL: dict[type, Any] = {
    ev.RunOpened: lambda e: f"run opened: {e.runbook} {e.version}, {e.mode}, by {e.driver}",
    ev.CheckStarted: lambda e: f"{e.phase} {e.name}: {e.sentence}",
    ev.CheckEnded: lambda e: f"{e.phase} {e.name}: {e.verdict}: {e.why}",
    ev.CheckSkipped: lambda e: f"{e.phase} {e.name} skipped: {e.why}",
    ev.Observed: lambda e: _observed(e),
    ev.Decided: lambda e: (
        f"decided {e.outcome}{_weight(e)} by rules {e.rules} {e.version}: {e.why}"
        f"{f'; kept, the rules would now say {e.now}' if e.now else ''}"
        + ("; on partial evidence: " + "; ".join(e.partial) if e.partial else "")
    ),
    ev.StepStarted: lambda e: f"step {e.step} began (risk {e.risk}, at most {human(e.timeout_s)}): {e.intent}",
    ev.StepDone: lambda e: f"step {e.step} done in {human(e.seconds)}",
    ev.StepPlanned: lambda e: f"step {e.step} planned (dry run)",
    ev.StepFailed: lambda e: f"step {e.step} failed: {e.why}",
    ev.StepUnknown: lambda e: f"step {e.step} ended without a known result: {e.why}",
    ev.StepSkipped: lambda e: f"step {e.step} skipped: {e.why}",
    ev.ChangeIntended: lambda e: f"about to {'undo: ' if e.undoes else ''}{e.call}; {_way_back(e)}",
    ev.ChangePlanned: lambda e: f"would {e.call}; {_way_back(e)}",
    ev.ChangeDone: lambda e: f"{e.how}, read back from the target, in {human(e.seconds)}",
    ev.ChangeFailed: lambda e: f"not changed: {e.why}",
    ev.ChangeUnknown: lambda e: f"may or may not have changed: {e.why}",
    ev.SessionBegan: lambda e: f"{_PURPOSES[e.purpose]} by process {e.pid} on {e.host} (session {e.session}){_more(e)}",
    ev.LeaseAwaited: lambda e: f"waits for {e.target}, held by run {e.holder} until {_time(e.until)}",
    ev.FallbackChosen: lambda e: f"{e.otherwise} (risk {e.risk}) is made in place of {e.step}, chosen: {e.how}",
    ev.RollingPlanned: lambda e: (
        f"{e.action} on {len(e.targets)} target(s), in batches {e.batches}: {', '.join(e.targets)}"
    ),
    ev.RollingEnded: lambda e: (
        f"{len(e.done)} done, {len(e.failed)} failed, {len(e.remaining)} left alone{f': {e.why}' if e.why else ''}"
    ),
    ev.ApprovalRequested: lambda e: (
        f"step {e.step} (risk {e.risk}) waits for {e.needed} approval(s) by "
        f"{', '.join(e.approvers)} until {_time(e.until)}: {'; '.join(i['call'] for i in e.plan.get('changes', []))}"
    ),
    ev.ApprovalGiven: lambda e: f"approved the plan {e.digest[:19]}…{f': {e.reason}' if e.reason else ''}",
    ev.ApprovalDenied: lambda e: f"denied the plan {e.digest[:19]}…{f': {e.reason}' if e.reason else ''}",
    ev.ApprovalEnded: lambda e: f"approval {e.result} for the plan {e.digest[:19]}…: {e.why}",
    ev.ConfirmationRequested: lambda e: f"waits until {_time(e.until)} for a confirmation, else it is rolled back",
    ev.Confirmed: lambda e: f"confirmed: what was done may stand{f': {e.reason}' if e.reason else ''}",
    ev.Asked: lambda e: f"asked: {e.prompt} [{'/'.join(e.options)}]",
    ev.Answered: lambda e: f"answered {e.answer} ({e.how}{f': {e.why}' if e.why else ''})",
    ev.CancelRequested: lambda e: f"asked to stop: {e.reason}",
    ev.RollbackStarted: lambda e: f"rollback of {len(e.undo)} change(s): {e.why}",
    ev.RollbackEnded: lambda e: f"rollback: {len(e.undone)} undone, {len(e.left)} left, {len(e.in_doubt)} in doubt",
    ev.RunClosed: lambda e: f"run closed: {e.outcome}: {e.reason}",
    ev.RecordSealed: lambda e: f"record sealed, {len(e.cells)} cells",
    ev.InputRefused: lambda e: f"refused {e.runbook} {e.field}: {e.why}",
    ev.TokenTold: lambda e: f"token {e.accessor} of run {e.run}: {e.what}{f': {e.why}' if e.why else ''}",
    ev.BreakerSet: lambda e: f"breaker of {e.endpoint} set to {e.to}: {e.reason}",
}


_PURPOSES: dict[str, str] = {
    "resume": "resumed", "roll_back": "taken over to be rolled back", "abandon": "abandoned",
    "interruption": "found dead",
}  # fmt: skip


def _observed(event: ev.Observed) -> str:
    if event.missing:
        return f"observed nothing of {event.name}: {event.missing}"
    cost = f", {human_bytes(event.cost['bytes'])}" if event.cost.get("bytes") else ""
    tries = f", {event.cost['attempts']} attempts" if event.cost.get("attempts", 1) > 1 else ""
    instead = f" (instead of its own source, which did not answer: {event.instead})" if event.instead else ""
    return (
        f"observed {event.name}: {event.rows} rows in {human(event.seconds)}{cost}{tries} from {event.source}{instead}"
    )


def _more(event: ev.SessionBegan) -> str:
    changed = "; the runbook was changed meanwhile, and that was accepted" if event.differences else ""
    return f"{f': {event.why}' if event.why else ''}{changed}"


def _time(text: str) -> str:
    return wall(_at(text))


def _weight(event: ev.Decided) -> str:
    """Name the target of a decision and the numbers that weighed."""
    if event.target is None:
        return ""
    row: dict[str, Any] = next((row for row in event.trace if row.get("series") == event.target), {})
    return f" for {event.target} ({row.get('value', 'no value')}, limit {row.get('limit', 'unknown')})"


def _way_back(event: ev.ChangeIntended | ev.ChangePlanned) -> str:
    return f"undo by {event.inverse}" if event.inverse else f"cannot be undone: {event.irreversible}"


def _latest(facts: Any) -> str:
    """Name the newest value of each series; what has another form is shown as it is."""
    if not isinstance(facts, dict) or not isinstance(facts.get("latest"), dict):
        return str(facts)
    return ", ".join(f"{series} {value} {facts.get('unit', '')}".strip() for series, value in facts["latest"].items())
