"""The rules of a runbook's anatomy: what each demands, and what to do when it is broken."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

__all__ = ["HINTS", "RULES", "Fault", "Finding"]

_TABLE = {
    "RB001": ("The file is a local notebook of at most 20 MB that can be read.",
              "Give a .ipynb file that JupyterLab has saved."),
    "RB002": ("The notebook has format 4.5 and only code, markdown and raw cells.",
              "Open it in a present JupyterLab and save it."),
    "RB003": ("Every cell has an id of its own.", "Open it in a present JupyterLab and save it; ids are made then."),
    "RB004": ("A committed notebook carries no outputs and no execution counts.",
              "Clear all outputs and save; executed notebooks go to the store, never to git."),
    "RB005": ("A committed notebook carries no machine metadata.",
              "Keep kernelspec (python3) and language_info.name only; of a cell's metadata keep its tags."),
    "RB006": ("The file is UTF-8 without a mark and ends with a new line.", "Save it with one new line at its end."),
    "RB101": ("The first cell is markdown and its first line is the title, `# ` and the alert's name.",
              "Begin with a markdown cell `# AlertName`."),
    "RB102": ("A table before the first code cell tells owner, severity, blast radius, budget and last exercised.",
              "Add the column with its value; `never` is a value of last exercised."),
    "RB103": ("The text before the first code cell says when not to use the runbook.",
              "Add a sentence: **Do not use it** when …"),
    "RB104": ("**Meaning** and **Impact** stand before the first code cell.",
              "Say what the alert means and what users notice, each after its word in bold."),
    "RB105": ("A mermaid diagram before the first code cell shows the decision path.",
              "Add a fenced block ```mermaid with the path from alert to outcome."),
    "RB201": ("Exactly one code cell is tagged parameters.", "Tag the cell with the parameters, and no other."),
    "RB202": ("A parameter is written `name: type = literal`, and its default fits its type.",
              "Use str, int, float, bool, list[…], dict[str, …], Literal[…] and | None; one parameter a line."),
    "RB203": ("Every parameter has a comment that says what it means.",
              "Write it behind the value: `# Meaning, unit`."),
    "RB204": ("The comment of a number ends with its unit.", "End it with the unit: `# …, MB` or `# … (seconds)`."),
    "RB205": ("No secret stands in the notebook, by its name, its known form or its randomness.",
              "Revoke it if it was real; name a reference such as env:NAME in the environment file."),
    "RB206": ("Every parameter is used, by a cell or by a rule set.", "Use it or take it out."),
    "RB207": ("Exactly one code cell is tagged contract, and it holds `run = open_run(…)`.",
              "Write `from rbkit import open_run` and `run = open_run(…)` in one cell tagged contract."),
    "RB208": ("The contract can be read off the notebook.", "Mend what is named; `rbkit plan` says the same."),
    "RB301": ("Every code cell is plain Python.", "Mend the line, or make the cell markdown."),
    "RB302": ("No cell uses IPython magics, a shell or get_ipython.",
              "Do it through a capability of the environment file."),
    "RB303": ("Cells import only modules that cannot reach the world.",
              "Everything outside goes through run.observe and run.use; what is missing there belongs in a plugin."),
    "RB304": ("Of rbkit a notebook imports `from rbkit import open_run` and nothing else.",
              "Use what the run offers; longer code belongs in a plugin."),
    "RB305": ("Cells touch nothing private: no name beginning with _ and nothing behind the run.",
              "Use run.observe, run.use, run.decide, run.ask and the results they give."),
    "RB306": ("Cells open no file, evaluate no text and look up no attribute by a computed name.",
              "Read through run.observe or run.use; write names out; ask with run.ask."),
    "RB307": ("No cell ends the kernel.",
              "Return False from a check, or let the error rise; run.close() ends the run."),
    "RB308": ("No cell swallows errors: no bare except, no except Exception that does not raise.",
              "Name the error that is expected, or let it rise: the run then ends in a known state."),
    "RB309": ("observe, use, decide and rolling take the name as a literal, as the contract is read without executing.",
              "Write the name as text; what differs between environments belongs in their files."),
    "RB401": ("Every code cell has exactly one tag, and every tag is known.",
              "Use one of parameters, contract, precondition, diagnose, decide, step, postcondition, close."),
    "RB402": ("No cell is tagged raises-exception.", "Take the tag off: a run whose cell fails has failed."),
    "RB403": ("Cells stand in the order of the anatomy.",
              "Order: parameters, contract, precondition, diagnose, decide, step, postcondition, close."),
    "RB404": ("A markdown cell stands before every code cell but parameters, contract and close.",
              "Say in a markdown cell before it what the operator will see."),
    "RB405": ("A check or step is one `async def` and one `await` of it; an alternative is not awaited.",
              "Split the cell; what both need belongs in a diagnose cell."),
    "RB406": ("The function of a cell is decorated with its tag, `@run.step(…)` in a step, and stands nowhere else.",
              "Decorate it with run.precondition, run.step or run.postcondition as the cell is tagged."),
    "RB407": ("A step's cell has at most 10 lines, its docstring and blank lines not counted.",
              "Split the step, or move the work into a plugin."),
    "RB408": ("A step's docstring tells its intent, `Undo:` and `Expect:`.",
              "Write: What it does. Undo: how it is taken back, or none and why. Expect: what is seen then."),
    "RB409": ("A step says its risk and its timeout.", 'Write @run.step(risk="medium", timeout="30s").'),
    "RB410": ("The markdown before a step says why, what is seen and how it is undone.",
              "Write two sentences or more, with `You should see …` and `Undone by …`."),
    "RB411": ("Changes are made in steps only.", "Move it into a step; elsewhere only read."),
    "RB412": ("There is at least one postcondition.", "Measure that the alert's cause is gone."),
    "RB413": ("The last code cell is the only one tagged close and holds only `run.close()`.",
              "End the notebook with `run.close()` in a cell tagged close, and call it nowhere else."),
    "RB414": ("A precondition or postcondition says in its docstring what must hold.",
              "Write one sentence as the docstring; the record shows it."),
    "RB415": ("A decide cell decides by rules or by asking.", "Call run.decide(…) or run.ask(…), or tag it diagnose."),
    "RB416": ("Every rule set that is named can be read.", "Write rules/NAME.yaml next to the notebook."),
}  # fmt: skip

RULES: dict[str, str] = {rule: sentence for rule, (sentence, _) in _TABLE.items()}
HINTS: dict[str, str] = {rule: hint for rule, (_, hint) in _TABLE.items()}


class Fault(NamedTuple):
    """A broken rule and its place in the notebook."""

    rule: str
    message: str
    cell: int | None = None
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken rule as it is shown.

    Args:
        rule: Its id, such as `RB101`.
        path: The notebook.
        cell: The cell's place, from 0; None when it is about the file.
        line: The line in the cell, from 1; None when it is about the whole cell.
        message: What is wrong; never the value of a secret.
        hint: What to do.
    """

    rule: str
    path: Path
    cell: int | None
    line: int | None
    message: str
    hint: str
