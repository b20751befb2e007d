"""Results as a table for people and as JSON for programs."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from vrd_d2.evaluation.protocols import Protocol
from vrd_d2.evaluation.recall import Metrics, Summary, ks_of
from vrd_d2.tasks import Task

# Name in JSON -> name in tables and in Detectron2's results. A "-" keeps a number out of
# Detectron2's one-line summary.
DISPLAY_NAMES = {
    "R": "R",
    "ngR": "ng-R",
    "mR": "mR",
    "ngmR": "ng-mR",
    "F": "F",
    "ngF": "ng-F",
    "zR": "zR",
    "ngzR": "ng-zR",
    "A": "A",
    "top1": "top1",
    "PR": "PR",
    "mR_head": "mR-head",
    "mR_body": "mR-body",
    "mR_tail": "mR-tail",
    "phrase_R": "phrase-R",
    "phrase_ngR": "phrase-ng-R",
}


def flat_results(metrics: Metrics) -> dict[str, float]:
    """{"R@20": 31.4, ..., "ng-R@50": ...} in percent, as Detectron2's evaluators report."""
    return {
        shown if name == "top1" else f"{shown}@{k}": 100 * value
        for name, shown in DISPLAY_NAMES.items()
        for k, value in metrics.get(name, {}).items()
    }


def results_table(summary: Summary, *, protocol: Protocol, task: Task, title: str) -> str:
    """One table that names protocol, task and dataset; percent, 95 % intervals in brackets."""
    ks = sorted(summary.metrics["R"])
    lines = []
    for name, shown in DISPLAY_NAMES.items():
        if name not in summary.metrics:
            continue
        cells = []
        for k in ks:
            key = 1 if name == "top1" and k == ks[0] else k
            value = summary.metrics[name].get(key)
            cells.append("" if value is None else _percent(value))
            if value is not None and name in summary.intervals:
                low, high = (100 * bound for bound in summary.intervals[name][key])
                cells[-1] += f" [{low:.1f}, {high:.1f}]"
        lines.append([shown if name == "top1" else f"{shown}@K", *cells])
    images = summary.images
    skipped = (
        f"{images['skipped_no_gt_relations']} without relations, "
        f"{images['skipped_no_predicted_pairs']} without predicted pairs left out"
    )
    return (
        f"{title}: {task.value}, protocol {protocol.name} ({protocol.source}), in percent\n"
        + tabulate(lines, ["", *(f"K={k}" for k in ks)], tablefmt="pipe", stralign="right")
        + f"\n{images['scored']} of {images['total']} images scored ({skipped})"
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
    """Everything in a form that JSON holds: fractions in 0..1, null where nothing is annotated."""
    ks = sorted(summary.metrics["R"])
    recalls = {
        name: [
            dict(zip(map(str, ks_of(name, ks)), column.tolist(), strict=True))
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
            "images": summary.images,
            "metrics": _text_keys(summary.metrics),
            "intervals_95": _text_keys(summary.intervals),
            "per_predicate": per_predicate,
        }
    )


def _text_keys(metrics: dict[str, dict]) -> dict[str, dict]:
    return {name: {str(k): v for k, v in values.items()} for name, values in metrics.items()}


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_json(results: dict, path: str | Path) -> None:
    """Writes results; the folder must exist."""
    Path(path).write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
