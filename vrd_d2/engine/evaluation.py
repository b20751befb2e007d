"""Evaluation in the course of a training, which an evaluator that fails does not end."""

import contextlib
from collections.abc import Callable
from typing import Any

from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm


class GuardedEvaluator(DatasetEvaluator):
    """An evaluator whose failure is noted, and leaves its results out in all processes alike.

    Attributes:
        failure: what failed and why, on one line; None if nothing did.
    """

    def __init__(self, evaluator: DatasetEvaluator) -> None:
        self.failure: str | None = None
        self._evaluator = evaluator

    def reset(self) -> None:
        """Prepare an evaluation."""
        self.failure = None
        self._try(self._evaluator.reset)

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Evaluate a batch, unless an earlier one has failed."""
        if self.failure is None:
            self._try(self._evaluator.process, inputs, outputs)

    def evaluate(self) -> dict:
        """Return the results; {} where this or another process has failed."""
        if self.failure is None and hasattr(self._evaluator, "finish"):
            self._try(self._evaluator.finish)
        # The others would wait for what a process that failed has to give.
        failures = [failure for failure in comm.all_gather(self.failure) if failure]
        self.failure = failures[0] if failures else None
        results = {} if failures else self._try(self._results) or {}
        if self.failure is not None:
            self._remove_earlier()
        return results

    def _results(self) -> dict | None:
        results = self._evaluator.evaluate()
        if results:
            for value in flatten_results_dict(results).values():
                float(value)  # as EvalHook does
        return results

    def _try(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self.failure = f"{type(self._evaluator).__name__} failed ({reason})"
            return None

    def _remove_earlier(self) -> None:
        """Remove files of an earlier evaluation, which would be taken for those of this one."""
        if not comm.is_main_process():
            return
        for path in getattr(self._evaluator, "results_files", ()):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


class _NotBuilt(DatasetEvaluator):
    """Stands for evaluators that could not be built."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def reset(self) -> None:
        raise self._error


def guarded(build: Callable[[], DatasetEvaluator]) -> list[GuardedEvaluator]:
    """Return the evaluators that `build` returns, or that they consist of, each guarded."""
    try:
        evaluator = build()
    except Exception as error:
        evaluator = _NotBuilt(error)
    parts = evaluator._evaluators if isinstance(evaluator, DatasetEvaluators) else [evaluator]
    return list(map(GuardedEvaluator, parts))
