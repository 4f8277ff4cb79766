"""A sandbox per module, and a place for notebooks whose cells misbehave on purpose."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import labs
import pytest
from labs import healthy, lab

__all__ = ["book", "healthy", "lab"]


@pytest.fixture
def book(tmp_path: Path) -> Callable[..., str]:
    """Write a runbook from its cells, and return its path."""
    return partial(labs.book, tmp_path / "trial.ipynb")
