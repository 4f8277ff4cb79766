"""Measures rbkit against papermill in the same run, and the cost of the gate; writes results.json and results.md."""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rbkit.adapters.fakes import FakeBalancer
from rbkit.contract import StepSpec
from rbkit.environment import Environment, PortSettings
from rbkit.events import Call, CheckEnded, CheckStarted, RunOpened, StepDone, StepStarted
from rbkit.gate import Gate, current_step
from rbkit.journal import Journal
from rbkit.stores.sqlite import SqliteStore
from rbkit.wiring import Wiring

HERE = Path(__file__).parent
ROUNDS = int(os.environ.get("ROUNDS", "5"))
_OPEN = 'from rbkit import open_run\nrun = open_run("bench", version="1", owner="bench", budget="5m")'
_STEP = (
    '@run.step(risk="low", timeout="30s")\nasync def step_{number}():\n    """Do it. Undo: none. Expect: done."""\n'
    "    return {number}\n\nawait step_{number}()"
)
_CHECK = '@run.postcondition\nasync def fine():\n    """Fine."""\n    return True\n\nawait fine()'


def notebook(sources: list[tuple[str, str]]) -> dict[str, Any]:
    """Build a notebook of code cells from (tag, source)."""
    cells = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {"tags": [tag]}, "source": source, "outputs": [],
         "execution_count": None} for i, (tag, source) in enumerate(sources)
    ]  # fmt: skip
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}


def commands(folder: Path, trivial: int) -> dict[str, list[str]]:
    """Write the same trivial cells as a plain notebook and as a runbook; return what executes each."""
    plain = [("parameters", 'environment: str = "bench"'), *[("diagnose", f"x = {i}") for i in range(trivial)]]
    book = [*plain, ("contract", _OPEN), ("postcondition", _CHECK), ("close", "run.close()")]
    (folder / "plain.ipynb").write_text(json.dumps(notebook(plain)))
    (folder / "book.ipynb").write_text(json.dumps(notebook(book)))
    python = sys.executable
    return {
        "papermill, plain cells": [python, "-m", "papermill", "plain.ipynb", "out.ipynb"],
        "papermill, the runbook": [python, "-m", "papermill", "book.ipynb", "out.ipynb"],
        "rbkit run, the runbook": [python, "-m", "rbkit", "run", "book.ipynb"],
    }


def timed(words: list[str], folder: Path) -> float:
    """Run a command to its end; return seconds."""
    variables = {**os.environ, "RBKIT_HOME": str(folder / "home"), "RBKIT_PARAMETERS": str(folder)}
    began = time.perf_counter()
    subprocess.run(words, cwd=folder, env=variables, check=True, capture_output=True)
    return time.perf_counter() - began


def whole_runs(trivial: int) -> list[dict[str, Any]]:
    """Time the commands in turn, round by round; the ratio is that of the medians to papermill's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bench.yaml").write_text("name: bench\n")
        found: dict[str, list[float]] = {}
        for _ in range(ROUNDS + 1):
            for title, words in commands(folder, trivial).items():
                found.setdefault(title, []).append(timed(words, folder))
    medians = {title: statistics.median(values[1:]) for title, values in found.items()}
    base = medians["papermill, plain cells"]
    return [
        {"what": f"{title}, {trivial} cells", "seconds": round(value, 2), "ratio": round(value / base, 2)}
        for title, value in medians.items()
    ]


def resumed(steps: int = 200) -> list[dict[str, Any]]:
    """Interrupt a run of many finished steps before its end and resume it; time what that adds to a kernel's start."""
    stop = "import os, pathlib, time\nif not pathlib.Path('again').exists():\n    pathlib.Path('again').touch()\n"
    stop += "    os.kill(os.getppid(), 9)\n    time.sleep(60)"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bench.yaml").write_text("name: bench\n")
        marks = [("step", _STEP.format(number=number)) for number in range(steps)]
        cells = [("parameters", 'environment: str = "bench"'), ("contract", _OPEN), *marks, ("diagnose", stop)]
        (folder / "long.ipynb").write_text(
            json.dumps(notebook([*cells, ("postcondition", _CHECK), ("close", "run.close()")]))
        )
        (folder / "short.ipynb").write_text(
            json.dumps(notebook([*cells[:2], ("postcondition", _CHECK), ("close", "run.close()")]))
        )
        begin = [sys.executable, "-m", "rbkit", "run", "long.ipynb"]
        variables = {
            **os.environ,
            "RBKIT_HOME": str(folder / "home"),
            "RBKIT_PARAMETERS": str(folder),
            "RBKIT_LEASE": "1s",
        }
        subprocess.run(begin, cwd=folder, env=variables, check=False, capture_output=True)
        time.sleep(2.0)  # the lease of the killed run lapses
        long = timed([sys.executable, "-m", "rbkit", "resume", "last"], folder)
        short = statistics.median(timed([*begin[:-1], "short.ipynb"], folder) for _ in range(3))
    what = f"resume of {steps} finished steps, beyond the run of an empty runbook"
    return [{"what": what, "seconds": round(long - short, 2)}]


def quantiles(what: str, work: Callable[[int], None], times: int = 300) -> dict[str, Any]:
    """Time a piece of work many times; return p50 and p99 in milliseconds."""
    values = []
    for number in range(times):
        began = time.perf_counter()
        work(number)
        values.append((time.perf_counter() - began) * 1000)
    cuts = statistics.quantiles(values, n=100)
    return {"what": what, "p50_ms": round(statistics.median(values), 2), "p99_ms": round(cuts[98], 2)}


def opened(folder: Path) -> Journal:
    """Open a journal on SQLite with fsync."""
    journal = Journal(SqliteStore(folder), "20260101-000000-abcdef", "kernel")
    journal.append(
        RunOpened(
            runbook="b",
            version="1",
            owner="b",
            mode="live",
            environment="b",
            environment_digest="",
            digest="",
            pid=1,
            contract={},
            parameters={},
            driver="bench",
            host="",
            notebook="",
            budget_s=1.0,
        )  # fmt: skip
    )
    return journal


def gate_costs() -> list[dict[str, Any]]:
    """Time one journal entry, and one change through the gate (state, intent, apply, read back, done)."""
    with tempfile.TemporaryDirectory() as name:
        journal = opened(Path(name))
        world = Wiring(
            Environment(name="b", capabilities={"balancer": PortSettings(adapter="fake")}),
            {"capability balancer": FakeBalancer({"s": ["a", "b"]})},
        )
        gate = Gate(journal, world)

        def check(number: int) -> None:
            journal.append(CheckStarted(name="c", phase="precondition", sentence="s"))
            journal.append(CheckEnded(name="c", phase="precondition", verdict="PASS", why="w", seconds=0.0))

        def step(number: int) -> None:
            spec = StepSpec(name=f"s{number}", intent="i", timeout_s=1.0)
            journal.append(StepStarted(step=spec.name, intent="i", risk="low", timeout_s=1.0, deadline="d"))
            token = current_step.set(spec)
            action = "drain" if number % 2 == 0 else "ready"
            asyncio.run(gate.change(Call(capability="balancer", action=action, target="a")))
            current_step.reset(token)
            journal.append(StepDone(step=spec.name, result=None, seconds=0.0))

        return [quantiles("two journal entries", check), quantiles("a step with one change", step)]


def table(rows: list[dict[str, Any]]) -> str:
    """Write rows as a Markdown table."""
    keys = list(rows[0])
    lines = [keys, ["---"] * len(keys), *[[str(row[key]) for key in keys] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Measure, write, print."""
    runs = [*whole_runs(1), *whole_runs(20)]
    costs, resumes = gate_costs(), resumed()
    found = {"rounds": ROUNDS, "runs": runs, "costs": costs, "resume": resumes}
    (HERE / "results.json").write_text(json.dumps(found, indent=2) + "\n")
    head = (
        "# Benchmarks\n\nMade by `make bench`; the ratios are to plain papermill in the same run. Trust the ratios.\n"
    )
    text = f"{head}\n{table(runs)}\n\n{table(costs)}\n\n{table(resumes)}\n"
    (HERE / "results.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
