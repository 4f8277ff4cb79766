"""Judges what happened from the world's history and the journals alone; it shares no rule with the code under test.

Each rule is one function that yields a sentence for every breach.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from typing import Any

from rbkit.entries import Entry
from rbkit.errors import JournalBroken
from rbkit.journal import verify

from .world import History, Noted

OUTSIDE = {"cancel_requested", "approval_given", "approval_denied", "confirmed"}


@dataclass(frozen=True)
class Attempt:
    """One intent to make a change, and where it was written down."""

    place: int
    who: str
    run: str
    event: Mapping[str, Any]

    @property
    def first(self) -> str:
        """The key under which the systems know it."""
        return str(self.event["repeats"] or self.event["key"])

    @property
    def change(self) -> tuple[str, str, str, str]:
        """What it is about, however often it was tried."""
        call = self.event["call"]
        return (self.run, self.event["step"], call["action"], call["target"])


@dataclass
class Evidence:
    """What is known of a simulation.

    Args:
        history: What the store and the systems were asked, in order.
        journals: The entries of each run, as they stand at the end.
    """

    history: History
    journals: Mapping[str, list[Entry]]

    @cached_property
    def written(self) -> list[tuple[Noted, Entry]]:
        """Every entry with the note of its first successful write."""
        found: dict[tuple[str, int], tuple[Noted, Entry]] = {}
        for note in self.history.of("append"):
            entry = note.facts["values"][0]
            if note.facts["result"]:
                found.setdefault((entry.run, entry.seq), (note, entry))
        return list(found.values())

    @cached_property
    def attempts(self) -> dict[str, Attempt]:
        """Every intent by its key."""
        return {
            entry.event["key"]: Attempt(note.place, note.who, entry.run, entry.event)
            for note, entry in self.written if entry.event["kind"] == "change_intended"
        }  # fmt: skip

    @cached_property
    def acts(self) -> list[Noted]:
        """Every application that had an effect."""
        return [note for note in self.history.of("apply") if note.facts["acted"]]

    def events(self, *kinds: str) -> Iterator[tuple[Noted, Entry]]:
        """List the entries of some kinds with the notes of their writes."""
        return ((note, entry) for note, entry in self.written if entry.event["kind"] in kinds)

    def attempt(self, act: Noted) -> Attempt | None:
        """Find the intent that an application belongs to: the newest before it with its key and token."""
        key, token = act.facts["key"], act.facts["token"]
        same = [a for a in self.attempts.values() if (a.first, a.event["token"]) == (key, token)]
        return max((a for a in same if a.place < act.place), key=lambda a: a.place, default=None)


Rule = Callable[[Evidence], Iterator[str]]


def an_intent_comes_first(evidence: Evidence) -> Iterator[str]:
    """Nothing is applied whose intent was not durable before."""
    for note in evidence.history.of("apply", "refused"):
        if note.what == "apply" and evidence.attempt(note) is None:
            yield f"{_say(note)} has no intent"


def a_change_is_made_once(evidence: Evidence) -> Iterator[str]:
    """However often a run is taken over, none of its changes has an effect twice.

    What undoes one may have it again when another run has changed the target in between: it is read anew each time.
    """
    acts: dict[Any, list[tuple[Noted, Attempt]]] = defaultdict(list)
    for act in evidence.acts:
        if attempt := evidence.attempt(act):
            acts[(*attempt.change, attempt.event["undoes"])].append((act, attempt))
    for change, found in acts.items():
        for (first, attempt), (second, _) in pairwise(found):
            if not attempt.event["undoes"] or not _disturbed(evidence, attempt, second.place):
                yield f"{change} was made by {_say(first)} and by {_say(second)}"


def tokens_never_fall(evidence: Evidence) -> Iterator[str]:
    """Nothing acts with a token lower than one that the system has seen for the target."""
    seen: dict[tuple[str, str], int] = {}
    for note in evidence.history.of("apply", "fence"):
        place = (note.facts["system"], note.facts["target"])
        token = note.facts["token"]
        if note.what == "apply" and note.facts["acted"] and token < seen.get(place, 0):
            yield f"{_say(note)} acted with token {token} after {seen[place]}"
        seen[place] = max(token, seen.get(place, 0))


def a_live_lease_is_nobody_elses(evidence: Evidence) -> Iterator[str]:
    """No lease is given to somebody while another one's has not lapsed and was not given back."""
    standing: dict[str, Any] = {}
    for note in evidence.history.of("acquire", "renew", "release"):
        for name, lease in _after(note, standing).items():
            before = standing.get(name)
            if before and lease and lease.holder != before.holder and before.until > note.at:
                yield f"{name} of {before.holder} until {before.until} was given to {lease.holder} at {note.at}"
            standing[name] = lease


def tokens_rise(evidence: Evidence) -> Iterator[str]:
    """Each new holder of a lease has a higher token than every one before."""
    last: dict[str, Any] = {}
    for note in evidence.history.of("acquire"):
        lease = note.facts["result"]
        before = last.get(lease.name)
        if before and (lease.token < before.token or (lease.holder != before.holder and lease.token == before.token)):
            yield f"{lease.name}: {lease.holder} got token {lease.token} after {before.holder} had {before.token}"
        last[lease.name] = lease


def no_two_act_at_once(evidence: Evidence) -> Iterator[str]:
    """Two runs never act on one target while each of them may believe that it holds it."""
    beliefs = _beliefs(evidence)
    acts = [(act, attempt) for act in evidence.acts if (attempt := evidence.attempt(act))]
    for place, (act, attempt) in enumerate(acts):
        for earlier, other in acts[:place]:
            same = earlier.facts["target"] == act.facts["target"] and other.run != attempt.run
            if same and _believes(beliefs, earlier, act.at) and _believes(beliefs, act, act.at):
                yield f"{_say(act)} while {_say(earlier)} was still in possession"


def the_lease_is_looked_at_before_acting(evidence: Evidence) -> Iterator[str]:
    """Between a durable intent and its application, the process has seen that its lease is live."""
    looks = evidence.history.of("leases")
    for note in evidence.history.of("apply"):
        attempt = evidence.attempt(note)
        if attempt is None:
            continue
        mine = [look for look in looks if look.who == attempt.who and attempt.place < look.place < note.place]
        if not any(_shows(look, note.facts["target"], note.facts["token"]) for look in mine):
            yield f"{_say(note)} was not preceded by a look at its lease"


def only_the_newest_session_writes(evidence: Evidence) -> Iterator[str]:
    """After a session has begun, no process of an older one writes anything that only the run itself may write."""
    owner: dict[str, str] = {}
    session: dict[str, int] = {}
    for note, entry in evidence.written:
        kind, run = entry.event["kind"], entry.run
        if kind in {"run_opened", "session_began"}:
            number = entry.event.get("session", 1)
            if number <= session.get(run, 0):
                yield f"{run}: session {number} began after session {session[run]}"
            owner[run], session[run] = note.who, number
        elif kind not in OUTSIDE and owner.get(run) != note.who:
            yield f"{run}: {note.who} wrote {kind} in the session of {owner.get(run)}"


def journals_verify(evidence: Evidence) -> Iterator[str]:
    """Every journal is whole, legal, and holds exactly what was written."""
    for run, entries in evidence.journals.items():
        try:
            verify(entries)
        except JournalBroken as error:
            yield f"{run}: {error}"
        hashes = {(entry.run, entry.seq): entry.hash for _, entry in evidence.written}
        yield from (f"{run}: entry {e.seq} is not what was written" for e in entries if hashes[run, e.seq] != e.hash)
        if len(entries) != sum(entry.run == run for _, entry in evidence.written):
            yield f"{run}: an entry that was written is lost"


def acknowledged_means_made(evidence: Evidence) -> Iterator[str]:
    """A change that was journaled as applied had its effect once before that, or another run brought the same about."""
    for note, entry in evidence.events("change_done"):
        attempt = evidence.attempts[entry.event["key"]]
        acts = [act for act in evidence.acts if act.facts["key"] == attempt.first and act.place < note.place]
        made = len(acts) == 1 or (not acts and _disturbed(evidence, attempt, note.place))
        if entry.event["how"] == "applied" and not made:
            yield f"{attempt.change} was acknowledged and acted {len(acts)} times"


def what_failed_did_not_act(evidence: Evidence) -> Iterator[str]:
    """A change that was journaled as certainly not made had no effect, unless another run took it back meanwhile."""
    for note, entry in evidence.events("change_failed"):
        attempt = evidence.attempts[entry.event["key"]]
        acts = [act for act in evidence.acts if evidence.attempt(act) == attempt]
        if acts and not _disturbed(evidence, attempt, note.place):
            yield f"{attempt.change} was journaled as failed, and {_say(acts[0])}"


def what_is_over_stays_over(evidence: Evidence) -> Iterator[str]:
    """Once the journal says that a change was done, failed or undone, it does not have its effect after all."""
    for note, entry in evidence.events("change_done", "change_failed"):
        attempt = evidence.attempts[entry.event["key"]]
        undone = evidence.attempts.get(attempt.event["undoes"]) if entry.event["kind"] == "change_done" else None
        for act in evidence.acts:
            late = act.place > note.place
            if late and evidence.attempt(act) == attempt:
                yield f"{_say(act)} after {entry.event['kind']} of it was written"
            if late and undone and act.facts["key"] == undone.first:
                yield f"{_say(act)} after it was undone"


RULES: tuple[Rule, ...] = (
    an_intent_comes_first, a_change_is_made_once, tokens_never_fall, a_live_lease_is_nobody_elses, tokens_rise,
    no_two_act_at_once, the_lease_is_looked_at_before_acting, only_the_newest_session_writes, journals_verify,
    acknowledged_means_made, what_failed_did_not_act, what_is_over_stays_over,
)  # fmt: skip


def breaches(evidence: Evidence, rules: tuple[Rule, ...] = RULES) -> list[str]:
    """Apply every rule; return one sentence for each breach."""
    return [f"{rule.__name__}: {breach}" for rule in rules for breach in rule(evidence)]


def _say(note: Noted) -> str:
    facts = note.facts
    return f"#{note.place} {note.who} {facts['system']}.{facts['action']}({facts['target']}) token {facts['token']}"


def _after(note: Noted, standing: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leases as they stand after a note, those that it may have changed."""
    result = note.facts["result"]
    if note.what == "acquire":
        return {result.name: result}
    if note.what == "renew":
        return {lease.name: lease for lease in result}
    holder = note.facts["values"][0]
    return {name: None for name, lease in standing.items() if lease and lease.holder == holder}


def _beliefs(evidence: Evidence) -> dict[tuple[str, str, int], list[tuple[datetime, datetime]]]:
    """When each process may believe that it holds what, by (process, target, token)."""
    beliefs: dict[tuple[str, str, int], list[tuple[datetime, datetime]]] = defaultdict(list)
    for note in evidence.history.of("acquire", "renew", "release"):
        if note.what == "release":
            mine = [key for key in beliefs if note.facts["values"][0].endswith(f"/{key[0]}")]
            beliefs.update({key: [(start, min(end, note.at)) for start, end in beliefs[key]] for key in mine})
            continue
        leases = [note.facts["result"]] if note.what == "acquire" else note.facts["result"]
        for lease in leases:
            owner = lease.holder.rpartition("/")[2]
            if lease.name.startswith("target:") and (owner == note.who or note.what == "renew"):
                beliefs[owner, lease.name.rpartition("/")[2], lease.token].append((note.at, lease.until))
    return beliefs


def _believes(beliefs: Mapping[Any, list[tuple[datetime, datetime]]], act: Noted, at: datetime) -> bool:
    key = (act.who, act.facts["target"], act.facts["token"])
    return any(start <= at < end for start, end in beliefs.get(key, []))


def _shows(look: Noted, target: str, token: int) -> bool:
    return any(
        lease.name.endswith(f"/{target}") and lease.token == token and look.at < lease.until
        and lease.holder.endswith(f"/{look.who}")
        for lease in look.facts["result"]
    )  # fmt: skip


def _disturbed(evidence: Evidence, attempt: Attempt, until: int) -> bool:
    """Whether another run has acted on the same target between an intent and a later place."""
    call = attempt.event["call"]
    return any(
        attempt.place < other.place < until and other.facts["key"].partition("/")[0] != attempt.run
        and (other.facts["system"], other.facts["target"]) == (call["capability"], call["target"])
        for other in evidence.acts
    )  # fmt: skip
