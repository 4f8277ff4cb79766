"""The command line: thin, it only calls the other floors."""

from rbkit.cli.app import main

__all__ = ["main"]
