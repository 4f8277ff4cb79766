"""What an operator and a reader of the record see."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

from rbkit.contract import CheckSpec, StepSpec
from rbkit.entries import read_entry
from rbkit.journal import verify
from rbkit.lab.screen import NotebookScreen
from rbkit.record.document import JOURNAL_MIME

STEP = StepSpec(name="drain", intent="Take it out.", risk="low", timeout_s=60)
CHECK = CheckSpec(name="spare", phase="precondition", sentence="There is spare capacity.", within_s=1)
SCRAP = "application/scrapbook.scrap.json+json"


@pytest.fixture(autouse=True)
def shell(tmp_path) -> Iterator[None]:
    """A real shell that publishes displays."""
    config = Config()
    config.HistoryManager.enabled = False
    InteractiveShell.clear_instance()
    InteractiveShell.instance(config=config, ipython_dir=str(tmp_path))
    yield
    InteractiveShell.clear_instance()


def ended(rig: Any, embed: bool) -> tuple[Any, Any]:
    """Show a run that drained one member and ended; return it with what was captured."""
    run = rig.run()
    run.screen = NotebookScreen(run.journal, "", embed=embed)

    @run.step()
    async def drain() -> Any:
        """Take it out."""
        return await run.use("balancer").drain("checkout-1")

    with capture_output() as shown:
        asyncio.run(drain())
        run.screen.summary(run.state)
    return run, shown


@pytest.mark.parametrize(
    ("mode", "word"), [("live", "LIVE"), ("dry_run", "DRY RUN"), ("replay", "REPLAY"), ("resume", "RESUMED")]
)
@pytest.mark.parametrize("banner", ["nothing real", ""])
def test_the_plan_says_what_where_and_how(rig, mode, word, banner) -> None:
    """Environment, mode, budget, checks, steps and assumptions stand below the contract's cell."""
    run = rig.run(mode, steps=(STEP,), checks=(CHECK,))
    run.contract = run.contract.model_copy(update={"assumes": ("peace",)})
    with capture_output() as shown:
        NotebookScreen(run.journal, banner, embed=True).plan(run)
    assert shown.stdout.splitlines()[0] == ("▌test · nothing real" if banner else "▌test")
    for text in (
        word,
        run.id,
        "budget 1m 00s",
        "owner me",
        "precondition spare: There is",
        "step drain (risk low)",
        "assumes peace",
    ):
        assert text in shown.stdout


def test_progress_is_printed_line_by_line(rig) -> None:
    """A step shows what it intends, what it changed and how long it took."""
    _, shown = ended(rig, embed=False)
    assert shown.stdout.splitlines() == [
        "◐ drain: Take it out.",
        "✓ balancer.drain(checkout-1): applied state ready → drain",
        "✓ drain: done in 0.0s",
    ]


def test_the_summary_glues_the_facts_for_other_tools(rig) -> None:
    """Outcome, run, durations and changes can be read from the executed notebook with scrapbook."""
    run, shown = ended(rig, embed=False)
    scraps = {out.data[SCRAP]["name"]: out.data[SCRAP] for out in shown.outputs if SCRAP in out.data}
    assert list(scraps) == ["outcome", "run", "durations", "changes"]
    assert scraps["run"]["data"] == run.id and "step drain" in scraps["durations"]["data"]
    assert all((scrap["encoder"], scrap["version"]) == ("json", 1) for scrap in scraps.values())
    (change,) = scraps["changes"]["data"]
    assert (change["call"], change["after"]["state"]) == ("balancer.drain(checkout-1)", "drain")
    assert not any(JOURNAL_MIME in out.data for out in shown.outputs)
    assert "text/markdown" in shown.outputs[0].data


def test_the_journal_is_embedded_where_nobody_else_does(rig) -> None:
    """The lone notebook can be folded back and checked, and says how."""
    run, shown = ended(rig, embed=True)
    data = shown.outputs[-1].data
    entries = [read_entry(item, place) for place, item in enumerate(data[JOURNAL_MIME]["journal"])]
    assert verify(entries).steps["drain"].state == "done" and len(entries) == len(run.journal.entries)
    assert "rbkit record verify FILE" in data["text/plain"]


def test_checks_have_durations_too(rig) -> None:
    """The glued durations name each check with its phase."""
    run = rig.run()
    run.screen = NotebookScreen(run.journal, "", embed=False)

    @run.precondition
    async def spare() -> bool:
        """There is spare capacity."""
        return True

    with capture_output() as shown:
        asyncio.run(spare())
        run.screen.summary(run.state)
    durations = next(
        out.data[SCRAP]["data"] for out in shown.outputs if out.data.get(SCRAP, {}).get("name") == "durations"
    )
    assert durations == {"run": 0.0, "precondition spare": 0.0}
