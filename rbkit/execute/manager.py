"""papermill's bookkeeping of cells, with honest statuses and atomic, throttled saves."""

import json
import time
from pathlib import Path
from typing import Any

from papermill.engines import NotebookExecutionManager

from rbkit.files import write_atomically

__all__ = ["CellManager"]

SAVE_EVERY_S = 5.0


class CellManager(NotebookExecutionManager):
    """Keeps papermill's metadata of each cell.

    Unlike papermill's own it writes atomically, not the whole file after every cell, and never calls a cell
    completed that did not run.
    """

    def save(self, **kwargs: Any) -> None:
        """Write the notebook if it was not written for a while."""
        if self.output_path and time.monotonic() - getattr(self, "_saved", float("-inf")) >= SAVE_EVERY_S:
            self.write()

    def write(self) -> None:
        """Write the notebook now."""
        if self.output_path:
            text = json.dumps(self.nb, indent=1, ensure_ascii=False, default=str)
            write_atomically(Path(self.output_path), text.encode("utf-8", "backslashreplace") + b"\n")
            self._saved = time.monotonic()

    def notebook_complete(self, **kwargs: Any) -> None:
        """Finish the notebook's metadata; a cell that never ran stays pending."""
        pending = [cell for cell in self.nb.cells if cell.metadata.papermill["status"] == self.PENDING]
        super().notebook_complete(**kwargs)
        for cell in pending:
            cell.metadata.papermill["status"] = self.PENDING
        self.write()

    def cell_broken(self, cell: Any) -> None:
        """Mark a cell whose kernel was lost or killed."""
        cell.metadata.papermill["status"] = self.FAILED
        cell.metadata.papermill["exception"] = True
        self.nb.metadata.papermill["exception"] = True
