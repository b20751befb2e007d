"""Results as a table for people and as JSON for programs."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from vrd_d2.data.atomic_files import write_text
from vrd_d2.evaluation.metrics import METRICS, metric_by_predicate
from vrd_d2.evaluation.protocols import Protocol
from vrd_d2.evaluation.recall import Summary, Values
from vrd_d2.tasks import Task


def flat_results(values: Values) -> dict[str, float]:
    """Return {"R@20": 31.4, ..., "ng-R@50": ...} in percent, as Detectron2's evaluators report."""
    return {
        metric.label(k): 100 * value
        for metric in METRICS
        for k, value in values.get(metric.name, {}).items()
    }


def results_table(summary: Summary, *, protocol: Protocol, task: Task, title: str) -> str:
    """Return one table that names protocol, task and dataset.

    Values are percent, with 95 % intervals in brackets.
    """
    ks = sorted(summary.metrics["R"])
    lines = []
    for metric in METRICS:
        if metric.name not in summary.metrics:
            continue
        values, intervals = summary.metrics[metric.name], summary.intervals.get(metric.name)
        cells = ["" for _ in ks]
        for column, k in enumerate(metric.ks(ks)):
            cells[column] = _percent(values[k])
            if intervals:
                low, high = (100 * bound for bound in intervals[k])
                cells[column] += f" [{low:.1f}, {high:.1f}]"
        lines.append([metric.label("K"), *cells])
    images = summary.images
    skipped = (
        f"{images['skipped_no_gt_relations']} without relations, "
        f"{images['skipped_no_predicted_pairs']} without predicted pairs left out"
    )
    ranked = ", annotated pairs alone ranked" if protocol.ranks_annotated(task) else ""
    return (
        f"{title}: {task.value}, protocol {protocol.name} ({protocol.source}){ranked}, in percent\n"
        # As texts: numbers would lose their last digits where these are 0.
        + tabulate(
            lines,
            ["", *(f"K={k}" for k in ks)],
            tablefmt="pipe",
            colalign=["right"] * (1 + len(ks)),
            disable_numparse=True,
        )
        + f"\n{images['scored']} of {images['total']} images scored ({skipped})"
        + _without_rows(summary)
    )


def _without_rows(summary: Summary) -> str:
    """Return a line on the predicates that lower means over predicates; "" where there are none."""
    (absent,) = (summary.predicate_counts == 0).nonzero()
    means = [
        metric.label("K")
        for metric in METRICS
        if metric.mean == "predicates" and not metric.group and metric.name in summary.metrics
    ]
    if not len(absent):
        return ""
    return (
        f"\n{len(absent)} of {len(summary.predicate_counts)} predicates have no scored ground "
        f"truth and count as 0 in {', '.join(means)}"
    )


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def results_json(
    summary: Summary,
    *,
    protocol: Protocol,
    task: Task,
    predicate_names: Sequence[str] | None = None,
) -> dict:
    """Return everything as JSON holds it: fractions in 0..1, null where nothing is annotated."""
    ks = sorted(summary.metrics["R"])
    recalls = {
        name: [
            dict(zip(map(str, metric_by_predicate(name).ks(ks)), column.tolist(), strict=True))
            for column in recall.T
        ]
        for name, recall in summary.predicate_recall.items()
    }
    group_of = {int(p): group for group, members in summary.groups.items() for p in members}
    per_predicate = {
        str(predicate): {
            **({"name": predicate_names[predicate]} if predicate_names else {}),
            "count": int(count),
            "images": int(summary.predicate_images[predicate]),
            "group": group_of[predicate],
            **{name: recall[predicate] for name, recall in recalls.items()},
        }
        for predicate, count in enumerate(summary.predicate_counts)
    }
    return _without_nan(
        {
            "protocol": protocol.name,
            "task": task.value,
            "annotated_pairs": protocol.ranks_annotated(task),
            "images": summary.images,
            "metrics": _text_keys(summary.metrics),
            "intervals_95": _text_keys(summary.intervals),
            "per_predicate": per_predicate,
        }
    )


def _text_keys(values: dict[str, dict]) -> dict[str, dict]:
    return {name: {str(k): v for k, v in of_ks.items()} for name, of_ks in values.items()}


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_json(results: dict, path: str | Path) -> None:
    """Write results; the file is complete or not there, and its folder is made."""
    write_text(path, json.dumps(results, indent=1, allow_nan=False) + "\n")
