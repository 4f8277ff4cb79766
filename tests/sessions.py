"""Runs with a contract of their own, and runs that another process takes over."""

from dataclasses import replace
from typing import Any

from rbkit import events as ev
from rbkit.contract import Contract
from rbkit.gate import Gate
from rbkit.journal import Journal
from rbkit.leases import new_holder
from rbkit.reaping import began
from rbkit.run import Run


def opened(
    rig: Any, mode: Any = "live", *, attended: bool = False, tape: str = "", driver: str = "headless", **contract: Any
) -> Run:
    """Open a run with a contract of its own, as a notebook holds it."""
    promised = Contract(name="test", version="1", owner="me", budget_s=60, digest="", **contract)
    gate = rig.gate(mode, tape=tape)
    gate.journal.append(
        ev.RunOpened(
            runbook="test", version="1", owner="me", mode=mode, environment="test", environment_digest="", digest="",
            contract=promised.model_dump(mode="json"), parameters={}, driver=driver, host="h", pid=1, notebook="",
            budget_s=60,
        )
    )  # fmt: skip
    return _held(rig, gate, promised, attended)


def taken(rig: Any, purpose: Any = "resume") -> Gate:
    """Take a run over, as a new process does when the leases of the old one have lapsed."""
    rig.clock.advance(20.0)
    onlooker = rig.journal().state
    journal = Journal(rig.store, onlooker.run, "kernel", actor="os:test", clock=rig.clock, session=0)
    journal.append(began(onlooker.session + 1, purpose, ""))
    terms = replace(rig.terms, holder=new_holder(onlooker.run))
    return Gate(journal, rig.world(), mode="resume" if purpose == "resume" else "live", terms=terms)


def resumed(rig: Any, *, attended: bool = False, **contract: Any) -> Run:
    """Go on with a run in a new process."""
    promised = Contract(name="test", version="1", owner="me", budget_s=60, digest="", **contract)
    return _held(rig, taken(rig), promised, attended)


def _held(rig: Any, gate: Gate, contract: Contract, attended: bool) -> Run:
    return Run(
        contract, complete=True, parameters={"environment": "test", "limit": 300.0}, gate=gate, rules=rig.rules,
        screen=rig.screen, fresh_world=rig.world, attended=attended,
    )  # fmt: skip
