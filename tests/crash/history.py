"""Checks what a run asked of the world, from the world's own log and the raw journal: nothing of rbkit's is used."""

from dataclasses import dataclass
from typing import Any

from .homes import Home
from .world.worldlog import Line, world

__all__ = ["AFTER", "BEFORE", "STEPS", "History", "check_resumed", "restarted"]

STEPS = ("drain", "restart", "put_back", "park")
BEFORE = world([])
AFTER = BEFORE | {
    ("services", "checkout-2"): {"state": "running", "pid": 1002, "restarts": 1},
    ("services", "checkout-3"): {"state": "stopped", "pid": 1001, "restarts": 0},
}


def restarted(times: int) -> dict[tuple[str, str], dict[str, Any]]:
    """Describe the world as it was before the run, but for a restart: that cannot be undone."""
    return BEFORE | {("services", "checkout-2"): {"state": "running", "pid": 1001 + times, "restarts": times}}


@dataclass(frozen=True)
class History:
    """A journal and the world's log at one moment.

    Args:
        events: The journal's events.
        lines: The world's log.
    """

    events: list[dict[str, Any]]
    lines: list[Line]

    @classmethod
    def of(cls, home: Home) -> "History":
        """Take both from a home."""
        return cls(home.events(), home.log())

    @property
    def outcome(self) -> str:
        """How the run ended last; empty while it is not over."""
        moves = [event for event in self.events if event["kind"] in {"run_closed", "session_began"}]
        return str(moves[-1].get("outcome", "")) if moves else ""

    def begun(self, step: str) -> bool:
        """Tell whether a step's change was intended."""
        return bool(self._keys(step))

    def acknowledged(self, step: str) -> bool:
        """Tell whether a step's change was journaled as done."""
        done = {event["key"] for event in self.events if event["kind"] == "change_done"}
        return bool(done & self._keys(step))

    @property
    def only_a_restart_stands(self) -> bool:
        """Tell whether the run itself has put back what it drained, and has not gone on yet."""
        return self.acknowledged("put_back") and not self.begun("park")

    def requests(self, step: str) -> list[Line]:
        """List what the world was asked for by a step, without what undoes it."""
        keys = self._keys(step)
        return [line for line in self._asked() if line["key"] in keys]

    def acts(self, step: str) -> list[Line]:
        """List the requests of a step that the world acted on."""
        return [line for line in self.requests(step) if line["acted"]]

    def undoes(self) -> list[Line]:
        """List the requests that take something back."""
        keys = {event["key"] for event in self._intended() if event["undoes"]}
        return [line for line in self._asked() if line["key"] in keys]

    def check_requests(self, crashed: "History") -> None:
        """Check the promise on every step: nothing acknowledged is asked for again, nothing else without a look.

        Args:
            crashed: Journal and log as they were when the process died.
        """
        assert self.lines[: len(crashed.lines)] == crashed.lines
        known = {event["key"] for event in self._intended()}
        assert {line["key"] for line in self._asked()} <= known, "the world was asked for something not journaled"
        for step in STEPS:
            requests = self.requests(step)
            assert len(requests) <= (2 if crashed.begun(step) and not crashed.acknowledged(step) else 1), step
            if len(requests) == 2:
                self._check_looked(*requests)

    def check_undone_once(self) -> None:
        """Check that each change was taken back at most once, and that only a change of this run was."""
        undone = [event["undoes"] for event in self._intended() if event["undoes"]]
        acting = [line["key"] for line in self.undoes() if line["acted"]]
        target = {event["key"]: event["undoes"] for event in self._intended()}
        assert len({target[key] for key in acting}) == len(acting), "a change was taken back twice"
        assert set(undone) <= {key for step in STEPS for key in self._keys(step)}

    def _check_looked(self, first: Line, second: Line) -> None:
        """Check that whoever asked a second time read the target after the first request."""
        between = self.lines[self.lines.index(first) + 1 : self.lines.index(second)]
        looks = [line for line in between if (line["what"], line["target"]) == ("read", second["target"])]
        assert second["pid"] != first["pid"]
        assert second["pid"] in {line["pid"] for line in looks}, "it was asked for again without a look"

    def _intended(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["kind"] == "change_intended"]

    def _keys(self, step: str) -> set[str]:
        return {event["key"] for event in self._intended() if event["step"] == step and not event["undoes"]}

    def _asked(self) -> list[Line]:
        return [line for line in self.lines if line["what"] == "apply"]


def check_resumed(home: Home, crashed: History) -> None:
    """Resume a run and check that it is resolved, that each change was made once, and what the world looks like.

    Args:
        home: Where the run died.
        crashed: Journal and log as they were when it died.
    """
    resumed = home.rbkit("resume")
    history = History.of(home)
    assert (resumed.returncode, history.outcome) == (0, "resolved"), resumed.stderr
    history.check_requests(crashed)
    assert [len(history.acts(step)) for step in STEPS] == [1, 1, 1, 1]
    assert home.world() == AFTER
