"""Completes names at the shell's prompt; anything wrong there completes to nothing."""

from rbkit.errors import RunbookError
from rbkit.settings import Settings

__all__ = ["environments", "runbooks", "runs"]


def runbooks(incomplete: str) -> list[str]:
    """Complete the name of a runbook."""
    from rbkit.notebook import catalogue

    try:
        books, _ = catalogue(Settings.read().folder("notebooks"))
    except RunbookError:
        return []
    return [book.contract.name for book in books if book.contract.name.startswith(incomplete)]


def environments(incomplete: str) -> list[str]:
    """Complete the name of an environment file."""
    names = [path.stem for path in Settings.read().folder("parameters").glob("*.yaml")]
    return sorted(name for name in names if name.startswith(incomplete))


def runs(incomplete: str) -> list[str]:
    """Complete the id of a run, newest first."""
    from rbkit.stores.sqlite import SqliteStore

    try:
        names = SqliteStore(Settings.read().home).runs()
    except RunbookError:
        return []
    return [name for name in names if name.startswith(incomplete)][:50]
