"""Incident runbooks as Jupyter notebooks: the automation, the operator's console and the record are one file."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rbkit.open import open_run

__all__ = ["__version__", "open_run"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load the notebook's entry point on first use, so that `rbkit --help` stays quick."""
    if name == "open_run":
        from rbkit.open import open_run

        return open_run
    raise AttributeError(f"module 'rbkit' has no attribute {name!r}")
