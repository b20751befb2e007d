"""Hits of a dataset's images, arranged so that any weighting of the images is one sum.

Shapes: I scored images, R ground-truth rows, C cells (a predicate in an image), P predicates.
"""

from collections.abc import Sequence

import numpy as np

from vrd_d2.evaluation.metrics import Metric

# Of a metric: ranks, rows, at_one.
_Columns = tuple[str, str, bool]


class Tally:
    """Counts from which every metric follows, with each image weighted at will.

    Args:
        rows: (R,) of type ``image.ROW``, of the scored images.
        image: (R,) index of the image of each row.
        count: I.
        num_predicates: P.
        metrics: what is counted; a harmonic mean stands after its parts.
        pooled: a mean over images is hits / rows of all images.
        ks: the K of Recall@K.
        groups: "head", "body", "tail" -> predicate ids.

    Attributes:
        predicate_images: (P,) images that have the predicate.
    """

    def __init__(
        self,
        rows: np.ndarray,
        image: np.ndarray,
        count: int,
        num_predicates: int,
        metrics: Sequence[Metric],
        *,
        pooled: bool,
        ks: Sequence[int],
        groups: dict[str, np.ndarray],
    ) -> None:
        self._num_predicates = num_predicates
        self._metrics = metrics
        self._pooled = pooled
        self._groups = groups
        plain = [metric for metric in metrics if not metric.harmonic]
        # Rows (I,) and hits (I, number of Ks) of every image.
        self._by_image = {}
        for metric in plain:
            if metric.mean != "predicates":
                whole, hits = _count(metric, rows, image, count, ks)
                self._by_image[metric.name] = whole, np.ascontiguousarray(hits.T)
        # Hits / rows of each predicate, with every image counted once.
        counts = np.bincount(rows["predicate"], minlength=num_predicates)
        self._rates = {
            metric.by_predicate: np.stack(
                [
                    np.bincount(rows["predicate"][hit], minlength=num_predicates)
                    for hit in _hits(metric, rows[metric.ranks], ks)
                ]
            )
            / np.maximum(counts, 1)
            for metric in plain
            if metric.by_predicate and metric.mean != "predicates"
        }
        # Cells are ordered by predicate.
        cells, cell = np.unique(
            rows["predicate"] * np.int64(max(count, 1)) + image, return_inverse=True
        )
        predicate, self._cell_image = np.divmod(cells, max(count, 1))
        del cells
        self.predicate_images = np.bincount(predicate, minlength=num_predicates)
        self._present = np.flatnonzero(self.predicate_images)
        self._first_cells = np.searchsorted(predicate, self._present)
        cell = cell.astype(np.int32)
        # Rows (C,) and hits (number of Ks, C) of every cell, by which rows count.
        self._by_cell: dict[str, tuple[np.ndarray, dict[_Columns, np.ndarray]]] = {}
        # Metrics of groups share the counts of the whole.
        for metric in {_columns(m): m for m in plain if m.mean == "predicates"}.values():
            whole, hits = _count(metric, rows, cell, len(predicate), ks)
            self._by_cell.setdefault(metric.rows, (whole, {}))[1][_columns(metric)] = hits

    def metrics(self, weights: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Count each image ``weights`` (I,) times.

        Returns:
            Every metric, (number of its Ks,); and, by the names of ``Metric.by_predicate``, values
            of each predicate, (number of Ks, P).
        """
        recalls = self._recalls(weights)
        values: dict[str, np.ndarray] = {}
        for metric in self._metrics:
            if metric.harmonic:
                a, b = (values[name] for name in metric.harmonic)
                values[metric.name] = 2 * a * b / np.where(a + b, a + b, 1)
            elif metric.mean == "predicates":
                recall = recalls[_columns(metric)]
                if metric.group:
                    members = self._groups[metric.group]
                    values[metric.name] = _ratio(recall[:, members].sum(1), len(members))
                else:
                    values[metric.name] = recall.mean(1)
            else:
                rows, hits = self._by_image[metric.name]
                if self._pooled or metric.mean == "rows":
                    values[metric.name] = _ratio(weights @ hits, weights @ rows)
                else:
                    having = weights * (rows > 0)
                    shares = hits / np.maximum(rows, 1)[:, None]
                    values[metric.name] = _ratio(having @ shares, having.sum())
        by_predicate = {
            metric.by_predicate: recalls[_columns(metric)]
            for metric in self._metrics
            if metric.by_predicate and metric.mean == "predicates"
        }
        return values, by_predicate | self._rates

    def _recalls(self, weights: np.ndarray) -> dict[_Columns, np.ndarray]:
        """Return (number of Ks, P) recall of each predicate, 0 where it has no ground truth."""
        recalls = {}
        for rows, hits in self._by_cell.values():
            weight = weights[self._cell_image]
            if not self._pooled:
                weight /= np.maximum(rows, 1)
            whole = self._total(weight * rows)
            whole[whole == 0] = 1
            for columns, of_columns in hits.items():
                sums = np.stack([self._total(weight * of_k) for of_k in of_columns])
                recalls[columns] = sums / whole
        return recalls

    def _total(self, of_cells: np.ndarray) -> np.ndarray:
        """Return the sum over the cells of each predicate, (P,)."""
        sums = np.zeros(self._num_predicates)
        if len(self._present):
            sums[self._present] = np.add.reduceat(of_cells, self._first_cells)
        return sums


def _columns(metric: Metric) -> _Columns:
    """Return what the counts of a metric depend on."""
    return metric.ranks, metric.rows, metric.at_one


def _count(
    metric: Metric, rows: np.ndarray, index: np.ndarray, size: int, ks: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (size,) and hits (number of Ks, size) of each image or cell, by its index."""
    ranks = np.ascontiguousarray(rows[metric.ranks])
    if metric.rows:
        index, ranks = index[rows[metric.rows]], ranks[rows[metric.rows]]
    whole = np.bincount(index, minlength=size)
    hits = [np.bincount(index[hit], minlength=size) for hit in _hits(metric, ranks, ks)]
    return whole.astype(np.int32), np.array(hits, np.int32)


def _hits(metric: Metric, ranks: np.ndarray, ks: Sequence[int]) -> list[np.ndarray]:
    """Return which rows are hit within each K, (R,) bool."""
    return [ranks if ranks.dtype == bool else ranks < k for k in metric.ks(ks)]


def _ratio(part: np.ndarray, whole: float) -> np.ndarray:
    """Return part / whole, NaN where there is nothing to divide by."""
    return part / whole if whole > 0 else np.full(len(part), np.nan)
