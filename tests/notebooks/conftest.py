"""A sandbox per module, and the command line in it."""

from labs import healthy, lab

__all__ = ["healthy", "lab"]
