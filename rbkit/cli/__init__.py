"""The command line: thin, it only calls the other floors."""

import sys

from rbkit.cli import approving, environments, output, practice, reading, records, running, steering
from rbkit.cli.app import app
from rbkit.errors import RunbookError

__all__ = ["approving", "environments", "main", "practice", "reading", "records", "running", "steering"]


def main() -> None:
    """Run the command line; an error is told in three parts and gives its exit code."""
    try:
        app()
    except RunbookError as failure:
        if "--debug" in sys.argv:
            raise
        output.error(failure)
        sys.exit(failure.exit_code)
