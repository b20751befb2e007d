"""Results files that an evaluation wrote, and which weights they are of."""

import os
from collections.abc import Mapping
from typing import Any

from vrd_d2.data.record_values import member, short
from vrd_d2.data.source_files import located, read_json

_ONE = 1 + 1e-6  # of fractions, sums are rounded
_AGAIN = "evaluate again with tools/train_net.py --eval-only"


def read_results(path: str | os.PathLike) -> dict[str, Any]:
    """Read relations_<task>_<protocol>.json.

    Returns:
        As :func:`~vrd_d2.evaluation.report.results_json` has it; "task", "protocol" and "metrics",
        {name: {K: fraction or None}}, are there and of these types.

    Raises:
        ValueError: the file is missing, or is no results file.
    """
    content = read_json(path, damaged=_AGAIN)
    with located(path):
        member(content, "task", str), member(content, "protocol", str)
        for name, values in member(content, "metrics", dict).items():
            if type(values) is not dict or not all(map(_is_metric, values.values())):
                text = f"metrics: {name!r} is {short(values)}, no numbers by K: {_AGAIN}"
                raise ValueError(text)
    return content


def evaluated_iteration(results: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return how many iterations were trained before an evaluation in training, and of how many.

    None where the file does not say so: an evaluation of a weights file, or an earlier version.
    """
    evaluated = results.get("evaluated")
    if not isinstance(evaluated, dict):
        return None
    found = evaluated.get("iteration"), evaluated.get("max_iter")
    return found if all(type(number) is int for number in found) else None


def why_not_final(results: Mapping[str, Any]) -> str | None:
    """Return why results are not those of a finished training or a weights file; None if so.

    An evaluation during training writes the same file as the last one.
    """
    iterations = evaluated_iteration(results)
    if iterations is not None:
        done, wanted = iterations
        if done >= wanted:
            return None
        return f"evaluated at iteration {done} of {wanted}: go on with tools/train_net.py --resume"
    evaluated = results.get("evaluated")
    if isinstance(evaluated, dict) and type(evaluated.get("weights")) is str:
        return None
    return f"does not say which iteration was evaluated, as in version 0.1: {_AGAIN}"


def _is_metric(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0 <= value <= _ONE)
