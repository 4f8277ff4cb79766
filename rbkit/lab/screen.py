"""Shows a run in the notebook: lines while it goes on, a plan at its beginning, a summary at its end."""

from typing import Any

from IPython.display import Markdown, display

from rbkit.entries import Entry
from rbkit.fold import RunState
from rbkit.journal import Journal
from rbkit.record.document import JOURNAL_MIME
from rbkit.record.summary import duration, headline, markdown
from rbkit.run import Run
from rbkit.values import human

__all__ = ["NotebookScreen"]


class NotebookScreen:
    """Shows a run as printed text, readable in JupyterLab, in a record and in a terminal.

    Args:
        journal: The run's journal.
        banner: The environment's banner.
        embed: Whether to embed the journal at the end; a supervisor does it otherwise.
    """

    def __init__(self, journal: Journal, banner: str, *, embed: bool) -> None:
        self._journal, self._banner, self._embed = journal, banner, embed

    def plan(self, run: Run) -> None:
        """Show plan, mode and environment."""
        contract = run.contract
        opened = run.state.opened
        where = f"{opened.environment} · {self._banner}" if opened and self._banner else run.parameters["environment"]
        print(f"▌{where}")
        print(f"▌{contract.name} {contract.version} · {_MODES[run.mode]} · run {run.id} · budget "
              f"{human(contract.budget_s)} · owner {contract.owner}")  # fmt: skip
        for check in contract.checks:
            print(f"  ○ {check.phase} {check.name}: {check.sentence}")
        for step in contract.steps:
            print(f"  ○ step {step.name} (risk {step.risk}): {step.intent}")
        for text in contract.assumes:
            print(f"  assumes {text}")

    def line(self, glyph: str, text: str) -> None:
        """Show one line."""
        print(f"{glyph} {text}", flush=True)

    def summary(self, state: RunState) -> None:
        """Show how the run ended, glue its scraps, and embed the journal where nobody else does."""
        display(Markdown(markdown(state)))  # type: ignore[no-untyped-call]
        glue("outcome", state.outcome)
        glue("run", state.run)
        glue("durations", _durations(state))
        glue("changes", [_change(change) for change in state.changes.values()])
        if self._embed:
            embed(self._journal.entries, headline(state))


_MODES = {
    "live": "LIVE: changes are applied", "dry_run": "DRY RUN: nothing is changed",
    "replay": "REPLAY: nothing is changed", "resume": "RESUMED: changes are applied",
}  # fmt: skip


def glue(name: str, data: Any) -> None:
    """Record a value in the cell's output in scrapbook's own format, without importing scrapbook.

    Args:
        name: The scrap's name.
        data: A JSON value other than None.

    Source: scrapbook 0.5.0, scrapbook/schemas/scrap.v1.json
    """
    display(  # type: ignore[no-untyped-call]
        {"application/scrapbook.scrap.json+json": {"name": name, "data": data, "encoder": "json", "version": 1}},
        metadata={"scrapbook": {"name": name, "data": True, "display": False}},
        raw=True,
    )


def embed(entries: list[Entry], title: str) -> None:
    """Put the journal into the cell's output, so that the lone file can be folded back and checked."""
    data = {"journal": [entry.model_dump(mode="json") for entry in entries]}
    text = f"{title}\njournal of {len(entries)} entries; `rbkit record verify FILE` checks it"
    display({JOURNAL_MIME: data, "text/plain": text}, raw=True)  # type: ignore[no-untyped-call]


def _durations(state: RunState) -> dict[str, float]:
    steps = {f"step {step.name}": round(step.seconds, 3) for step in state.steps.values()}
    checks = {f"{check.phase} {check.name}": round(check.seconds, 3) for check in state.checks.values()}
    return {"run": round(duration(state), 3), **steps, **checks}


def _change(change: Any) -> dict[str, Any]:
    return {
        "call": str(change.call), "state": change.state, "how": change.how, "before": change.before,
        "after": change.after or {}, "undone": change.undone, "irreversible": change.irreversible,
    }  # fmt: skip
