"""The papermill engine `rbkit`: `papermill --engine rbkit IN OUT`, and what `rbkit run` uses.

papermill imports this module while it is itself being imported, so nothing else of rbkit may import it.
"""

from typing import Any

from papermill.engines import Engine

from rbkit.clock import SystemClock
from rbkit.contract import read_cells
from rbkit.execute.manager import CellManager
from rbkit.execute.supervise import Supervision, supervise
from rbkit.notebook import cells_of
from rbkit.settings import Settings
from rbkit.stores.sqlite import SqliteStore
from rbkit.values import new_run_id

__all__ = ["RunbookEngine"]


class RunbookEngine(Engine):
    """Executes a runbook under supervision; whatever happens, its run is closed."""

    @classmethod
    def execute_notebook(
        cls, nb: Any, kernel_name: str, output_path: str | None = None, progress_bar: Any = True,
        log_output: bool = False, autosave_cell_every: int = 30, **options: Any,
    ) -> Any:  # fmt: skip
        """Execute a notebook that papermill has parameterized; papermill calls this.

        Returns:
            The executed notebook.
        """
        bar = progress_bar and options.get("supervision") is None
        manager = CellManager(nb, output_path=output_path, progress_bar=bar, log_output=log_output)
        manager.notebook_start()
        try:
            cls.execute_managed_notebook(manager, kernel_name, **options)
        finally:
            manager.cleanup_pbar()
            manager.notebook_complete()
        return manager.nb

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> None:
        """Execute the cells, then end the run if the notebook did not."""
        supervision = options.get("supervision") or Supervision(new_run_id(SystemClock()), Settings.read())
        contract = read_cells(cells_of(nb_man.nb, "The notebook"))
        store = SqliteStore(supervision.settings.home)
        try:
            supervise(supervision, nb_man, kernel_name, contract, store)
        finally:
            store.close()
