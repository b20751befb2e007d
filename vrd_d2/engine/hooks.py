"""What goes on across resumes: the log of metrics, and the best checkpoint."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.engine import hooks

logger = logging.getLogger(__name__)


def without_torn_line(path: Path) -> None:
    """Cut off the last line of a file of lines that a killed process has not finished."""
    if not path.is_file():
        return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        at = end
        while at:
            start = max(at - 65536, 0)
            file.seek(start)
            found = file.read(at - start).rfind(b"\n")
            if found >= 0:
                at = start + found + 1
                break
            at = start
        if at < end:
            file.truncate(at)


class BestCheckpointer(hooks.BestCheckpointer):
    """Detectron2's, which knows in a resumed run how good the best checkpoint of before is.

    Its own begins anew, and overwrites the best checkpoint with the first that comes; and it takes
    the metric of an earlier iteration where an evaluation has failed. A checkpoint
    is written before the model is evaluated; a run that is resumed from there evaluates it now, as
    it may have been stopped in between.

    Args:
        evaluate: the hook that does it.
        arguments: see Detectron2's hook.
    """

    def __init__(self, evaluate: hooks.EvalHook, *arguments: Any):
        super().__init__(*arguments)
        self._evaluate = evaluate

    def before_train(self) -> None:
        """Evaluate what a resumed run begins with, where it is an iteration to be evaluated."""
        trainer = self.trainer
        first = trainer.start_iter
        if not first or first % self._period or first >= trainer.max_iter:
            return
        trainer.iter = trainer.storage.iter = first - 1
        self._evaluate._do_eval()
        self._best_checking()
        trainer.iter = trainer.storage.iter = first

    def state_dict(self) -> dict[str, Any]:
        """Return the best metric so far, or that of the checkpoint that is just being written."""
        value, iteration = self._saving or (self.best_metric, self.best_iter)
        if value is None:
            return {}
        return {"metric": self._val_metric, "value": float(value), "iteration": int(iteration)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the best metric of before, if it is the same metric and the checkpoint is there."""
        file = Path(self._checkpointer.save_dir, f"{self._file_prefix}.pth")
        if state["metric"] == self._val_metric and file.is_file():
            self.best_metric, self.best_iter = state["value"], state["iteration"]

    _saving: tuple[float, int] | None = None

    def _best_checking(self) -> None:
        storage = self.trainer.storage
        self._saving = storage.latest().get(self._val_metric)
        if self._saving is not None and self._saving[1] != storage.iter:
            self._saving = None
            logger.warning(
                "TEST.BEST_METRIC %s was not computed at iteration %d: the best checkpoint is "
                "still that of iteration %s",
                self._val_metric,
                storage.iter,
                self.best_iter,
            )
            return
        try:
            super()._best_checking()
        finally:
            self._saving = None
