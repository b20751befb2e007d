"""Figures of a summary: recall beside prevalence, and which predicates are confused."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vrd_d2.data.atomic_files import atomic_write
from vrd_d2.data.images.saving import save_figure
from vrd_d2.evaluation.metrics import get_metric, metric_by_predicate
from vrd_d2.evaluation.recall import Summary

_BAR, _MARK, _SHARE, _GRID = "#4477aa", "#222222", "#bbbbbb", "#dddddd"


def write_plots(
    summary: Summary,
    folder: str | Path,
    *,
    predicate_names: Sequence[str] | None = None,
    title: str = "",
) -> list[Path]:
    """Write predicate_recall and predicate_confusion, each as .png and .csv.

    Args:
        folder: made where it does not exist.
        predicate_names: K names; by default the ids.
        title: shown above both figures, protocol and task for instance.

    Returns:
        The four files.
    """
    folder = Path(folder)
    names = [str(i) for i in range(len(summary.predicate_counts))]
    names = list(predicate_names) if predicate_names is not None else names
    paths = [
        folder / f"predicate_{what}.{kind}"
        for what in ("recall", "confusion")
        for kind in ("png", "csv")
    ]
    save_figure(plot_recall(summary, names, title), paths[0], dpi=130)
    _write_recall(summary, names, paths[1])
    save_figure(plot_confusion(summary, names, title), paths[2], dpi=130)
    _write_confusion(summary, names, paths[3])
    return paths


def _by_frequency(summary: Summary) -> np.ndarray:
    """Return ids of the predicates that have ground truth, the most frequent first."""
    counts = summary.predicate_counts
    order = np.argsort(-counts, kind="stable")
    return order[counts[order] > 0]


def plot_recall(summary: Summary, names: Sequence[str], title: str = "") -> Figure:
    """Draw the recall of every predicate above its share of the ground truth (Figure 2 of the
    contrastive fine-tuning paper)."""
    order = _by_frequency(summary)
    counts = summary.predicate_counts
    k = max(summary.metrics["R"])
    columns = np.arange(len(order))
    width = float(np.clip(2.5 + 0.27 * len(order), 6, 60))
    figure = Figure(figsize=(width, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    recall = 100 * summary.predicate_recall["R"][-1][order]
    free = 100 * summary.predicate_recall["ngR"][-1][order]
    above.bar(
        columns, recall, color=_BAR, label=f"{get_metric('R').label(k)}, one predicate a pair"
    )
    label = f"{get_metric('ngR').label(k)}, any number of predicates"
    above.plot(columns, free, "_", color=_MARK, ms=9, mew=1.8, label=label)
    if "top1" in summary.predicate_recall:
        top1 = 100 * summary.predicate_recall["top1"][0][order]
        above.plot(
            columns, top1, "o", mfc="white", color=_MARK, ms=4.5, label=get_metric("top1").display
        )
    above.set_ylim(0, 105)
    above.set_ylabel("recall [%]")
    above.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, fontsize=9)
    below.bar(columns, 100 * counts[order] / max(counts.sum(), 1), color=_SHARE)
    below.set_yscale("log")
    below.yaxis.set_major_formatter("{x:g}")
    below.set_ylabel("share of\nground truth [%]")
    below.set_xticks(columns, [names[i] for i in order], rotation=90, fontsize=8)
    below.set_xlim(-0.7, max(len(order), 1) - 0.3)
    for axes in (above, below):
        _plain(axes)
    absent = len(counts) - len(order)
    note = f"; {absent} predicates have no ground truth" if absent else ""
    figure.suptitle(f"{title}{note}", x=0.01, ha="left", fontsize=10)
    figure.align_ylabels()
    return figure


def plot_confusion(summary: Summary, names: Sequence[str], title: str = "") -> Figure:
    """Draw what the best prediction on each annotated pair named, in percent of the row.

    The last column counts pairs on which nothing was predicted within the largest K.
    """
    order = _by_frequency(summary)
    k = max(summary.metrics["R"])
    missed = summary.confusion.shape[1] - 1
    named = np.flatnonzero(summary.confusion[:, :missed].sum(0))
    columns = [*order, *(i for i in named if i not in set(order.tolist())), missed]
    share = 100 * summary.confusion[np.ix_(order, columns)]
    share = share / np.maximum(summary.predicate_counts[order, None], 1)
    side = float(np.clip(0.2 * len(columns), 2.5, 40))
    figure = Figure(figsize=(side + 3.2, 0.2 * max(len(order), 8) + 2.2), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    axes.axvline(len(columns) - 1.5, color="white", lw=4)
    axes.axvline(len(columns) - 1.5, color=_MARK, lw=0.8)
    labels = [*(names[i] for i in columns[:-1]), "no prediction"]
    axes.set_xticks(range(len(columns)), labels, rotation=90, fontsize=7)
    axes.set_yticks(
        range(len(order)),
        [f"{names[i]} ({summary.predicate_counts[i]})" for i in order],
        fontsize=7,
    )
    axes.set_xlabel("predicate of the best prediction on the pair")
    axes.set_ylabel("ground truth (rows)")
    axes.tick_params(length=0)
    for row, column in np.argwhere(share >= 0.5):
        value = share[row, column]
        axes.text(
            column,
            row,
            f"{value:.0f}",
            ha="center",
            va="center",
            fontsize=5.5,
            color="white" if value > 55 else _MARK,
        )
    figure.colorbar(image, ax=axes, label="% of the row", fraction=0.025, pad=0.01)
    figure.suptitle(f"{title}, best {k} predictions", x=0.01, ha="left", fontsize=10)
    return figure


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=_GRID, lw=0.7)


def _write_recall(summary: Summary, names: Sequence[str], path: Path) -> None:
    ks = sorted(summary.metrics["R"])
    recalls = summary.predicate_recall
    header = [
        name if metric_by_predicate(name).at_one else f"{name}@{k}"
        for name in recalls
        for k in metric_by_predicate(name).ks(ks)
    ]
    with (
        atomic_write(path) as unfinished,
        unfinished.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["predicate", "name", "rows", "images", *header])
        for i, name in enumerate(names):
            values = [f"{v:.6f}" for recall in recalls.values() for v in recall[:, i]]
            counts = [summary.predicate_counts[i], summary.predicate_images[i]]
            writer.writerow([i, name, *counts, *values])


def _write_confusion(summary: Summary, names: Sequence[str], path: Path) -> None:
    with (
        atomic_write(path) as unfinished,
        unfinished.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["ground truth", *names, "no prediction"])
        for name, row in zip(names, summary.confusion.tolist(), strict=True):
            writer.writerow([name, *row])
