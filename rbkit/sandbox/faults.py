"""The faults that can be made to happen, and which of them hold now."""

from dataclasses import dataclass

from rbkit.clock import SystemClock
from rbkit.sandbox.layout import INSTANCES
from rbkit.sandbox.telemetry import iso

__all__ = ["DEFAULT_TARGET", "FAULTS", "ActiveFaults", "Fault"]

DEFAULT_TARGET = "checkout-2"

FAULTS = {
    "memory-leak": "The target allocates about 25 MB a second up to 420 MB and holds it; its restart cures it.",
    "latency": "The target answers every request 0.8 s later; only heal cures it.",
    "errors": "The target answers half of its requests with 500; only heal cures it.",
    "crash": "The target exits with code 70 two seconds after each start, and is restarted; only heal cures it.",
    "bad-deploy": "Every instance is replaced by v2, which is slow and fails 30 % of requests; deploying v1 cures it.",
    "pool-exhausted": "The target's pool loses slot after slot until requests wait and fail with 503; "
    "its restart cures it.",
    "restart-refused": "The supervisor refuses to restart the target, or anything without a target; heal cures it.",
    "restart-hangs": "The supervisor neither does nor answers a restart of the target, or of anything "
    "without a target; heal cures it.",
}

CURED_BY_RESTART = {"memory-leak", "pool-exhausted"}
OF_SUPERVISOR = {"restart-refused", "restart-hangs"}
OF_PROCESS = set(FAULTS) - OF_SUPERVISOR - {"bad-deploy"}


@dataclass(frozen=True)
class Fault:
    """A fault that holds.

    Args:
        fault: Its name.
        target: The instance; None when it concerns all.
        since: When it began, ISO 8601 UTC.
    """

    fault: str
    target: str | None
    since: str

    def to_json(self) -> dict[str, str | None]:
        """Return what the admin API shows."""
        return {"fault": self.fault, "target": self.target, "since": self.since}


class ActiveFaults:
    """Which faults hold now."""

    def __init__(self) -> None:
        self._active: dict[tuple[str, str | None], Fault] = {}

    def all(self) -> list[Fault]:
        """Return them, oldest first."""
        return list(self._active.values())

    def add(self, fault: str, target: str | None) -> Fault:
        """Note that a fault holds; once more keeps the time of the first."""
        return self._active.setdefault((fault, target), Fault(fault, target, iso(SystemClock().now())))

    def remove(self, fault: str) -> None:
        """Note that a fault is cured everywhere."""
        self._active = {key: found for key, found in self._active.items() if key[0] != fault}

    def restarted(self, name: str) -> None:
        """Note that a process started anew, which cures what lived in its memory."""
        gone = {(fault, name) for fault in CURED_BY_RESTART}
        self._active = {key: found for key, found in self._active.items() if key not in gone}

    def lasting(self, name: str) -> list[str]:
        """Return the faults that an instance has again when it starts."""
        lasting = OF_PROCESS - CURED_BY_RESTART
        return [found.fault for found in self.all() if found.fault in lasting and found.target == name]

    def holds(self, fault: str, name: str) -> bool:
        """Tell whether a fault concerns an instance."""
        return any(found.fault == fault and found.target in (None, name) for found in self.all())

    def touched(self) -> set[str]:
        """Return the instances whose processes are ill."""
        return {found.target for found in self.all() if found.fault in OF_PROCESS and found.target in INSTANCES}

    def clear(self) -> None:
        """Forget all."""
        self._active = {}
