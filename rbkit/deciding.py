"""Applies rules in a run: decided, journaled, and in a resumed run compared with what was decided before."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rbkit import events as ev
from rbkit.decide import Verdict, decide, load_rules
from rbkit.gate import Gate
from rbkit.progress import Moment
from rbkit.signal import Signal
from rbkit.values import digest

__all__ = ["Decider"]


class Decider:
    """The decisions of one run.

    Args:
        gate: The way to the world; its journal keeps the decisions.
        rules: The folder with the rule sets.
        parameters: The run's parameters.
    """

    def __init__(self, gate: Gate, rules: Path, parameters: Mapping[str, Any]) -> None:
        self._journal, self._rules, self._parameters = gate.journal, rules, parameters
        timeline = gate.journal.state.timeline if gate.mode == "resume" else []
        self._before: dict[tuple[str, int], tuple[ev.Decided, str]] = {}
        for event, place, at in _numbered(timeline):
            before, since = self._before.get((event.rules, place), (None, at))
            self._before[event.rules, place] = event, since if before and _same(before, event) else at
        self._since = len(timeline)

    def decide(self, rules: str, signals: Mapping[str, Signal]) -> tuple[Verdict, str]:
        """Apply a rule set.

        In a resumed run the rules are applied again. If something was done on the earlier decision, that one
        stands: half of a plan is not finished by another plan; the difference is journaled and told.

        Args:
            rules: The name of a file in `rules/` next to the runbook.
            signals: Signals by the names that the rules use.

        Returns:
            The verdict that holds, and what to tell of a difference; empty when there is none.
        """
        verdict = decide(load_rules(rules, self._rules), signals, self._parameters)
        before, at = self._earlier(_event(verdict))
        same = before is None or _same(before, verdict)
        if before is None or same or not self._acted_since(at):
            self._journal.append(_event(verdict))
            return verdict, "" if before is None or same else f"decided otherwise before: {_short(before)}"
        kept = Verdict.model_validate({name: getattr(before, name) for name in Verdict.model_fields})
        self._journal.append(_event(kept, now=_short(verdict)))
        return kept, f"kept, as what was done rests on it; the rules would now say {_short(verdict)}"

    def _earlier(self, said: ev.Decided) -> tuple[ev.Decided | None, str]:
        """Find the decision that was made in this one's place before this process took the run over; and when."""
        now = Moment("", "", "", said)
        *_, (_, place, _) = _numbered([*self._journal.state.timeline[self._since :], now])
        return self._before.get((said.rules, place), (None, ""))

    def _acted_since(self, at: str) -> bool:
        return any(change.acted and change.at >= at for change in self._journal.state.changes.values())


def _numbered(timeline: Iterable[Moment]) -> Iterator[tuple[ev.Decided, int, str]]:
    """Number the decisions by each rule set, anew in each session; an operator's second look is no second decision."""
    places, last, looks = Counter[str](), "", False
    for moment in timeline:
        match moment.event:
            case ev.RunOpened() as event:
                looks = event.driver == "operator"
            case ev.SessionBegan():
                places, looks = Counter[str](), False
            case ev.ChangeIntended():
                last = ""
            case ev.Decided() as event:
                places[event.rules] += not looks or _question(event) != last
                last = _question(event)
                yield event, places[event.rules], moment.at


def _question(event: ev.Decided) -> str:
    """What a decision was about: its rules, and the series that were looked at."""
    return digest([event.rules, {name: sorted(facts.get("latest", {})) for name, facts in event.inputs.items()}])


def _same(one: ev.Decided, other: ev.Decided | Verdict) -> bool:
    """Whether two decisions come to the same; one that is repeated stands since it was made first."""
    return (one.outcome, one.target) == (other.outcome, other.target)


def _short(said: Verdict | ev.Decided) -> str:
    return f"{said.outcome}{f' {said.target}' if said.target else ''}: {said.why}"


def _event(verdict: Verdict, now: str = "") -> ev.Decided:
    return ev.Decided(
        rules=verdict.rules, version=verdict.version, digest=verdict.digest, inputs=verdict.inputs,
        trace=list(verdict.trace), outcome=verdict.outcome, target=verdict.target, why=verdict.why,
        ends=verdict.ends, now=now, partial=list(verdict.partial),
    )  # fmt: skip
