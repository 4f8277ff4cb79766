"""The moments of the runbook at which its processes are killed; a test compares them with those of a whole run."""

__all__ = ["ACTED", "ASKED", "CELLS", "COMMAND", "FIRST", "KERNEL", "LAST", "POINTS", "UNDOING", "number"]

KERNEL = (
    "before run_opened",
    "run_opened",
    "check_started spare_capacity",
    "observed balancer.members",
    "check_ended spare_capacity",
    "observed memory",
    "decided restart",
    "step_started drain",
    "change_intended drain/0",
    "asked balancer.drain(checkout-2)",
    "acted balancer.drain(checkout-2)",
    "change_done drain/0",
    "step_done drain",
    "step_started restart",
    "change_intended restart/1",
    "asked services.restart(checkout-2)",
    "acted services.restart(checkout-2)",
    "change_done restart/1",
    "step_done restart",
    "step_started survey",
    "observed memory",
    "step_done survey",
    "step_started put_back",
    "change_intended put_back/2",
    "asked balancer.ready(checkout-2)",
    "acted balancer.ready(checkout-2)",
    "change_done put_back/2",
    "step_done put_back",
    "step_started park",
    "change_intended park/3",
    "asked services.stop(checkout-3)",
    "acted services.stop(checkout-3)",
    "change_done park/3",
    "step_done park",
    "check_started memory_is_back",
    "observed memory",
    "check_ended memory_is_back",
    "run_closed resolved",
)
"""Every durable write of the kernel, every request before the world acts, and after it acted but before its answer."""
COMMAND = ("before record_sealed", "record_sealed")
"""Those of the command that supervises it."""
UNDOING = (
    "before step_unknown put_back",
    "step_unknown put_back",
    "rollback_started",
    "change_intended put_back/3",
    "asked balancer.drain(checkout-2)",
    "acted balancer.drain(checkout-2)",
    "change_done put_back/3",
    "change_intended drain/4",
    "asked balancer.ready(checkout-2)",
    "acted balancer.ready(checkout-2)",
    "change_done drain/4",
    "rollback_ended",
    "run_closed rolled_back",
    "record_sealed",
)
"""Those of the command when its kernel has died after the third change and it takes back what was done."""
FIRST, LAST = KERNEL[0], KERNEL[-1]
ASKED = [place for place, name in enumerate(KERNEL) if name.startswith("asked")]
ACTED = [place for place, name in enumerate(KERNEL) if name.startswith("acted")]
POINTS = [place for place in range(1, len(KERNEL) - 1) if place not in ASKED]
"""Where a run that is open can die; just before the world acts is the same moment as just after the intent."""
CELLS = [place for place in POINTS if KERNEL[place] in {
    "run_opened", "check_started spare_capacity", "decided restart", "step_started survey",
    "check_started memory_is_back",
}] + ACTED  # fmt: skip
"""One moment in every cell: a kernel that goes on alone ends its cell, so the others of that cell are the same."""


def number(place: int) -> int:
    """Return how a place is counted by the process that reaches it: from 1."""
    return place + 1
