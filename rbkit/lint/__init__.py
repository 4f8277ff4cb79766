"""The anatomy of a runbook's notebook, checked by reading alone: nothing is executed."""

from pathlib import Path

from rbkit.errors import RefusedInput
from rbkit.lint.anatomy import check_anatomy
from rbkit.lint.book import Book, read_book
from rbkit.lint.code import check_code
from rbkit.lint.file import check_file
from rbkit.lint.opening import check_contract, check_opening, check_secrets
from rbkit.lint.prose import check_prose
from rbkit.lint.rules import HINTS, RULES, Fault, Finding
from rbkit.parameters import known_token

__all__ = ["RULES", "Finding", "check"]


def check(path: Path) -> list[Finding]:
    """Check a notebook's anatomy.

    Args:
        path: A local `.ipynb` file; whatever it holds, nothing of it is executed.

    Returns:
        What is wrong, from top to bottom; empty when the notebook is a good runbook. A file that cannot be read
        is a finding too.
    """
    try:
        faults = _faults(read_book(path))
    except RefusedInput as error:
        faults = [Fault("RB001", error.what)]
    except (RecursionError, MemoryError):
        faults = [Fault("RB001", f"{path} is nested too deeply to be read.")]
    return [Finding(f.rule, path, f.cell, f.line, _masked(f.message), HINTS[f.rule]) for f in _sorted(faults)]


def _masked(message: str) -> str:
    """Keep back a message that repeats a secret, be it a tag, a name or a key."""
    kind = known_token(message)
    return f"What is wrong here holds what looks like {kind}." if kind else message


def _faults(book: Book) -> list[Fault]:
    """Apply every rule; the contract as a whole is read only when nothing else is wrong with the code."""
    checks = (check_file, check_prose, check_opening, check_secrets, check_code, check_anatomy)
    faults = [fault for part in checks for fault in part(book)]
    return faults if any(fault.rule >= "RB2" for fault in faults) else faults + list(check_contract(book))


def _sorted(faults: list[Fault]) -> list[Fault]:
    """Order faults by place; the same rule is told once a line."""
    once = {(f.rule, f.cell, f.line, "" if f.line else f.message): f for f in reversed(faults)}
    return sorted(once.values(), key=lambda f: (-1 if f.cell is None else f.cell, f.line or 0, f.rule))
