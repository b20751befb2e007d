"""Figures of a dataset's statistics."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vrd_d2.data.analysis.statistics import DatasetStatistics
from vrd_d2.data.images.saving import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BAR, _MARK, _GRID = "#4477aa", "#222222", "#dddddd"
_NAMED = 150  # bars that still have room for a name


def write_statistics_plots(
    statistics: DatasetStatistics,
    folder: str | Path,
    *,
    objects: Sequence[str],
    predicates: Sequence[str],
    title: str,
) -> list[Path]:
    """Write classes.png, images.png and, where there are relations, predicates.png and
    class_pairs.png.

    Args:
        folder: made where it does not exist.
        objects, predicates: names of the C classes and K predicates.
        title: name of the dataset.

    Returns:
        The files.
    """
    folder = Path(folder)
    figures = {
        "classes": plot_counts(statistics.class_counts, objects, f"{title}: boxes of each class"),
        "images": plot_images(statistics, title),
    }
    if statistics.class_pairs:
        text = f"{title}: relations of each predicate"
        figures["predicates"] = plot_counts(statistics.predicate_counts, predicates, text)
        figures["class_pairs"] = plot_class_pairs(statistics, title)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        save_figure(figure, paths[-1], dpi=130)
    return paths


def plot_counts(counts: np.ndarray, names: Sequence[str], title: str) -> "Figure":
    """Draw bars on a logarithmic scale, the most frequent first; those of 0 are only counted."""
    from matplotlib.figure import Figure

    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 0]
    named = len(order) <= _NAMED
    width = float(np.clip(2 + 0.17 * len(order), 6, 26)) if named else 12.0
    figure = Figure(figsize=(width, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(order)), counts[order], color=_BAR, width=0.8 if named else 1.0)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlim(-0.8, max(len(order), 1) - 0.2)
    if named:
        axes.set_xticks(range(len(order)), [names[i] for i in order], rotation=90, fontsize=8)
    else:
        axes.set_xlabel("rank")
    absent = len(counts) - len(order)
    note = f" ({absent} of {len(counts)} do not occur)" if absent else ""
    axes.set_title(title + note, loc="left", fontsize=10)
    _plain(axes)
    return figure


def plot_images(statistics: DatasetStatistics, title: str) -> "Figure":
    """Draw how many images have how many boxes and relations."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    for axes, counts, what in zip(
        figure.subplots(1, 2),
        (statistics.objects_per_image, statistics.relations_per_image),
        ("boxes", "relations"),
        strict=True,
    ):
        # The last bar holds the longest tail, or a single crowded image would squeeze the rest.
        top = int(max(np.quantile(counts, 0.995), 1)) if len(counts) else 1
        step = max(1, -(-top // 60))
        edges = np.arange(0, top + 2 * step, step)
        axes.hist(np.minimum(counts, edges[-1] - 1), bins=edges - 0.5, color=_BAR, rwidth=0.9)
        beyond = int((counts > edges[-1] - 1).sum())
        note = f" (last bar: and more, {beyond} images)" if beyond else ""
        axes.set_xlabel(f"{what} of an image{note}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("images")
        middle = float(np.median(counts)) if len(counts) else 0.0
        axes.axvline(middle, color=_MARK, lw=1, ls="--", label=f"median {middle:g}")
        axes.legend(frameon=False, fontsize=9)
        _plain(axes)
    figure.suptitle(f"{title}: {statistics.images:,} images", x=0.01, ha="left", fontsize=10)
    return figure


def plot_class_pairs(statistics: DatasetStatistics, title: str) -> "Figure":
    """Draw the share of the most frequent predicate of each class pair."""
    from matplotlib.figure import Figure

    shares = np.array([pair.share for pair in statistics.class_pairs])
    weights = np.array([pair.relations for pair in statistics.class_pairs])
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axes = figure.subplots()
    edges = np.linspace(0, 1, 21)
    for values, color, label in (
        (np.ones_like(shares), "#bbbbbb", f"of {len(shares):,} class pairs"),
        (weights, _BAR, f"of {weights.sum():,} relations"),
    ):
        height, _ = np.histogram(shares, edges, weights=100 * values / values.sum())
        offset = 0.0125 * (1 if color == _BAR else -1)
        axes.bar((edges[:-1] + edges[1:]) / 2 + offset, height, 0.024, color=color, label=label)
    mean = statistics.dominant_share
    axes.axvline(mean, color=_MARK, lw=1, ls="--", label=f"all relations together: {mean:.0%}")
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("share of the most frequent predicate of a class pair")
    axes.set_ylabel("%")
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    axes.set_title(title, loc="left", fontsize=10)
    _plain(axes)
    return figure


def _plain(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=_GRID, lw=0.7)
