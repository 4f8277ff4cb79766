"""Plan before act: asks people to approve exactly what is about to be done, waits, and lets nothing else through."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Literal

from rbkit import events as ev
from rbkit.approvals import Approval, covering
from rbkit.clock import wall
from rbkit.contract import StepSpec
from rbkit.errors import ApprovalNeeded, Cancelled, Denied, Fenced, GuardRail, RunEnded
from rbkit.events import Json
from rbkit.journal import Journal
from rbkit.policy import ApprovalRules, approvals_needed, on_partial_evidence, partial_evidence
from rbkit.values import digest, human

__all__ = ["Permits"]

POLL_S = 0.25
_ROUNDS = 5
"""How often a plan is asked for anew because the world has changed meanwhile."""


class Permits:
    """The approvals of one run.

    Args:
        journal: The run's journal.
        rules: What the environment file says of approvals.
        on_disk: Returns the digest of the runbook's file as it is now; empty when there is none.
        say: Shows one line.
        busy: Tells whether a change is being made; people are asked when none is.
    """

    def __init__(
        self, journal: Journal, rules: ApprovalRules, on_disk: Callable[[], str], say: Callable[[str, str], None],
        busy: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._journal, self._rules, self._on_disk, self._say, self._busy = journal, rules, on_disk, say, busy
        self._one = asyncio.Lock()
        self._refusals: dict[str, RunEnded] = {}

    @property
    def asking(self) -> bool:
        """Whether people are being asked; no change is begun meanwhile."""
        return self._one.locked()

    async def answered(self) -> None:
        """Wait until nobody is being asked."""
        async with self._one:
            return

    def possible(self, step: StepSpec) -> bool:
        """Tell whether any change of a step could need an approval, without looking at the world."""
        return self._count(step, final=True) > 0 or self._partly(step, final=True) != "go"

    def needed(self, step: StepSpec, items: list[Json]) -> int:
        """Return how many people must approve these changes of a step.

        Raises:
            GuardRail: They rest on partial evidence, and the environment file lets nothing of this risk do so.
        """
        final = any(item["irreversible"] for item in items)
        word, count = self._partly(step, final=final), self._count(step, final=final)
        if word == "stop":
            what = "what cannot be undone" if final else f"risk {step.risk}"
            missing = "; ".join(partial_evidence(self._journal.known))
            raise GuardRail(
                f"Step {step.name} was decided on partial evidence ({missing}), and the environment file lets nothing "
                f"be done on that for {what}.",
                todo="Bring the source back and run it again, or do it by hand.",
            )
        return max(count, 1) if word == "approve" else count

    def _count(self, step: StepSpec, *, final: bool) -> int:
        needed = approvals_needed(step.risk, step.approvals, self._rules.needed)
        return max(needed, approvals_needed("irreversible", 0, self._rules.needed) if final else 0)

    def _partly(self, step: StepSpec, *, final: bool) -> str:
        """Say what partial evidence means for a step: nothing, when the evidence was whole."""
        if not partial_evidence(self._journal.known):
            return "go"
        return on_partial_evidence(step.risk, final=final, environment=self._rules.partial)

    def covering(self, step: StepSpec, items: list[Json]) -> list[str]:
        """Find the approvals under which changes may be made now, one each; empty where there is none."""
        approvals, facts = self._journal.state.approvals, self._facts(step)
        now = self._journal.clock.now().isoformat(timespec="microseconds")
        return [covering(approvals, facts, item, now) for item in items]

    async def ask(self, step: StepSpec, look: Callable[[], Awaitable[list[Json]]]) -> None:
        """Ask for approval of what a look at the world says would be done, until an answer fits the world.

        Args:
            step: The step that makes the changes.
            look: Reads the world and returns the changes as they would be made now.

        Raises:
            ApprovalNeeded: Nobody answered in time, or the world changed again and again.
            Denied: Somebody said no; nobody is asked again for this step.
            Cancelled: Somebody asked the run to stop.
            Fenced: Another process has taken the run over.
        """
        async with self._one:
            if no := self._refusals.get(step.name):
                raise type(no)(no.what)
            while self._busy():
                await self._journal.clock.sleep(POLL_S)
            try:
                await self._asked(step, look)
            except (ApprovalNeeded, Denied) as no:
                self._refusals[step.name] = no
                raise

    async def _asked(self, step: StepSpec, look: Callable[[], Awaitable[list[Json]]]) -> None:
        items = await look()
        for _ in range(_ROUNDS):
            if all(self.covering(step, items)):
                return
            self._void(step, items)
            asked = self._request(step, items)
            try:
                items = await self._looked(asked, look)
            except BaseException:
                self._leave(asked)
                raise
            if (items, self._facts(step)) == (asked.plan["changes"], asked.plan["facts"]):
                self._end(asked.digest, "granted", "approved, and nothing has changed meanwhile")
                return
            self._end(asked.digest, "void", "the world, the arguments or the runbook changed while it was asked for")
            self._say("⏸", f"{step.name}: what was approved is not what would be done now; it is asked for anew")
        raise ApprovalNeeded(f"Step {step.name} changed {_ROUNDS} times while people were asked to approve it.")

    async def _looked(self, asked: ev.ApprovalRequested, look: Callable[[], Awaitable[list[Json]]]) -> list[Json]:
        """Wait for the answer, then look at the world again; somebody may say no while it is looked at."""
        while not self._approved(asked):
            await self._journal.clock.sleep(POLL_S)
        items = await look()
        self._approved(asked)
        return items

    def _facts(self, step: StepSpec) -> Json:
        state = self._journal.known
        opened = state.opened
        return {
            "runbook": opened.runbook if opened else "", "version": opened.version if opened else "",
            "digest": state.digest, "on_disk": self._on_disk(), "code": step.code, "step": step.name,
            "environment": opened.environment if opened else "",
            "environment_digest": self._rules.digest, "partial_evidence": partial_evidence(state),
            "parameters": opened.parameters if opened else {},
        }  # fmt: skip

    def _request(self, step: StepSpec, items: list[Json]) -> ev.ApprovalRequested:
        until = self._journal.clock.now() + timedelta(seconds=self._rules.wait_s)
        plan = {
            "run": self._journal.run, "request": len(self._journal.known.approvals), "facts": self._facts(step),
            "changes": items,
        }  # fmt: skip
        asked = ev.ApprovalRequested(
            step=step.name, risk=step.risk, needed=self.needed(step, items), digest=digest(plan), plan=plan,
            until=until.isoformat(timespec="microseconds"), valid_s=self._rules.valid_s,
            approvers=list(self._rules.approvers), own=self._rules.own,
        )  # fmt: skip
        self._journal.append(asked)
        self._show(asked, until)
        return asked

    def _show(self, asked: ev.ApprovalRequested, until: datetime) -> None:
        who = ", ".join(asked.approvers) + ("" if asked.own else ", but not who started it")
        self._say("⏸", f"{asked.step}: waits for {asked.needed} approval(s) by {who} until {wall(until)} "
                  f"({human(self._rules.wait_s)}); no answer is a no")  # fmt: skip
        for item in asked.plan["changes"]:
            self._say(" ", f"{item['call']} {item['before']} → {item['after'] or 'another'}; "
                      f"{item['undo'] or 'irreversible: ' + item['irreversible']}")  # fmt: skip
        self._say(" ", f"rbkit approve {self._journal.run}  ·  rbkit deny {self._journal.run}")

    def _approved(self, asked: ev.ApprovalRequested) -> bool:
        """Tell whether enough people have approved; raise whatever else ends the waiting."""
        state = self._journal.state
        if state.session != self._journal.session:
            raise Fenced(f"The run {state.run} was taken over while step {asked.step} waited for an approval.")
        if state.cancel:
            raise Cancelled(f"Stopped: {state.cancel}.")
        found = state.approvals[-1]
        if found.denied:
            why = found.reason or "no reason was given"
            self._end(asked.digest, "denied", why)
            raise Denied(f"{found.denied} denied step {asked.step}: {why}.")
        if not found.complete:
            self._expire(found)
        return found.complete

    def _expire(self, found: Approval) -> None:
        asked = found.request
        if self._journal.clock.now() > datetime.fromisoformat(asked.until):
            missing = asked.needed - len(found.given)
            self._end(asked.digest, "expired", f"{missing} of {asked.needed} approval(s) did not come in time")
            raise ApprovalNeeded(
                f"Step {asked.step} (risk {asked.risk}) needs {asked.needed} approval(s) and got {len(found.given)} "
                f"within {human(self._rules.wait_s)}."
            )

    def _leave(self, asked: ev.ApprovalRequested) -> None:
        """Close a request that nobody waits for any more: a step that goes on must not seem to wait."""
        found = self._journal.state.approval(asked.digest)
        if found and not found.result:
            self._end(asked.digest, "void", "it was not waited for any longer")

    def _void(self, step: StepSpec, items: list[Json]) -> None:
        """Void what was granted to this step, is not used up and does not fit any more; it stays in the journal.

        Where several changes are made at once, what was granted to another of them is left alone.
        """
        calls = {item["call"] for item in items}
        granted = [found for found in self._journal.known.approvals if found.result == "granted"]
        for approval in [found for found in granted if found.request.step == step.name]:
            unused = set(approval.changes) - set(approval.used)
            if unused & calls or (unused and step.parallel == 1):
                self._end(approval.request.digest, "void", "something has changed since it was approved")

    def _end(self, digest: str, result: Literal["granted", "denied", "expired", "void"], why: str) -> None:
        self._journal.append(ev.ApprovalEnded(digest=digest, result=result, why=why))
