"""Recall metrics of a dataset, counted from the few numbers stored of each ground-truth row."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vrd_d2.evaluation.image import ROW
from vrd_d2.evaluation.matching import MISS
from vrd_d2.evaluation.metrics import Metric, chosen_metrics
from vrd_d2.evaluation.protocols import Protocol
from vrd_d2.evaluation.tally import Tally
from vrd_d2.tasks import Task

DEFAULT_KS = (20, 50, 100)

# Of an image: its key, its number of rows, whether the protocol admitted any predicted pair.
IMAGE = np.dtype([("key", np.int64), ("rows", np.int32), ("pairs", bool)])

Values = dict[str, dict[int, float]]  # "mR" -> {20: 0.21, 50: ..., 100: ...}


class RowStore:
    """Rows of the images seen so far: 21 bytes a ground-truth row, 13 an image.

    An image that comes twice (samplers pad the last batch) is stored once.
    """

    def __init__(self) -> None:
        self._rows = np.empty(1024, ROW)
        self._images = np.empty(256, IMAGE)
        self._num_rows = 0
        self._seen: set[int] = set()

    def __contains__(self, key: int) -> bool:
        return key in self._seen

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, key: int, rows: np.ndarray, num_pairs: int) -> None:
        """Store what ``evaluate_image`` returned for the image numbered ``key``."""
        if key in self._seen:
            return
        index, end = len(self._seen), self._num_rows + len(rows)
        if index == len(self._images):
            self._images = np.resize(self._images, 2 * index)
        if end > len(self._rows):
            self._rows = np.resize(self._rows, max(end, 2 * len(self._rows)))
        self._images[index] = (key, len(rows), num_pairs > 0)
        self._rows[self._num_rows : end] = rows
        self._num_rows = end
        self._seen.add(key)

    def state(self) -> tuple[np.ndarray, np.ndarray]:
        """Return images and rows as two arrays, valid until the next image is added."""
        return self._images[: len(self._seen)], self._rows[: self._num_rows]

    @staticmethod
    def merge(states: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        """Join the states of several processes, ordered by key, every image once.

        The order makes sums, and so the results, independent of which process saw which image.
        """
        states = list(states)
        if len(states) == 1 and (np.diff(states[0][0]["key"]) > 0).all():
            return states[0]
        images = np.concatenate([state[0] for state in states])
        rows = np.concatenate([state[1] for state in states])
        starts = np.cumsum(images["rows"]) - images["rows"]
        _, first = np.unique(images["key"], return_index=True)
        images, starts = images[first], starts[first]
        shift = np.repeat(starts - (np.cumsum(images["rows"]) - images["rows"]), images["rows"])
        return images, rows[np.arange(len(shift)) + shift]


@dataclass
class Summary:
    """Results over a dataset, fractions in 0..1 (NaN where nothing was annotated).

    Attributes:
        metrics: name -> {K: value}, of the metrics in ``METRICS`` whose condition holds.
        intervals: the same shape, (low, high) bounds of 95 % bootstrap intervals over images.
        images: counts of images.
        predicate_counts: (K,) ground-truth rows of each predicate in the scored images.
        predicate_images: (K,) scored images that have the predicate.
        predicate_recall: "R" and "ngR" -> (number of Ks, K), whose means are mR and ngmR; and of
            metrics with ``by_predicate``, as "top1" -> (1, K), hits / rows.
        groups: "head", "body", "tail" -> predicate ids.
        confusion: (K, K + 1) rows: of the ground truth; columns: what the best prediction on the
            pair named, last: no prediction on the pair within the largest K.
    """

    metrics: Values
    intervals: dict[str, dict[int, tuple[float, float]]]
    images: dict[str, int]
    predicate_counts: np.ndarray
    predicate_images: np.ndarray
    predicate_recall: dict[str, np.ndarray]
    groups: dict[str, np.ndarray]
    confusion: np.ndarray


def frequency_thirds(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return the predicates by descending count (equal counts by id) in thirds, head first.

    Where their number is no multiple of three the first parts are longer by one: 17, 17, 16 of 50.
    """
    order = np.argsort(-np.asarray(counts), kind="stable")
    return dict(zip(("head", "body", "tail"), np.array_split(order, 3), strict=True))


def summarize(
    images: np.ndarray,
    rows: np.ndarray,
    *,
    num_predicates: int,
    protocol: Protocol,
    task: Task,
    ks: Sequence[int] = DEFAULT_KS,
    with_zero_shot: bool = False,
    training_counts: np.ndarray | None = None,
    bootstrap: int = 0,
) -> Summary:
    """Compute all metrics from the rows of all images.

    Args:
        images: (N,) of type IMAGE.
        rows: (sum of images["rows"],) of type ROW, image after image.
        ks: the K of Recall@K; none above the ``limit`` the rows were made with.
        with_zero_shot: a zero-shot list was given.
        training_counts: (K,) frequency of the predicates that divides them into head, body and
            tail; by default their number of rows here.
        bootstrap: resamples of the images for the intervals; 0 for none. The same every time.

    Raises:
        ValueError: training_counts are not one for each predicate.
    """
    if training_counts is not None and len(training_counts) != num_predicates:
        raise ValueError(
            f"training_counts hold {len(training_counts)} numbers for {num_predicates} predicates"
        )
    annotated = images["rows"] > 0
    scored = annotated & (images["pairs"] | protocol.empty_counts_zero)
    if not scored[annotated].all():
        rows = rows[np.repeat(scored, images["rows"])]
    count = int(scored.sum())
    image_of_row = np.repeat(np.arange(count, dtype=np.int32), images["rows"][scored])
    counts = np.bincount(rows["predicate"], minlength=num_predicates)
    groups = frequency_thirds(counts if training_counts is None else training_counts)
    metrics = chosen_metrics(task, protocol, with_zero_shot=with_zero_shot)
    tally = Tally(
        rows,
        image_of_row,
        count,
        num_predicates,
        metrics,
        pooled=protocol.pooled,
        ks=ks,
        groups=groups,
    )
    values, recalls = tally.metrics(np.ones(count))
    image_counts = {
        "total": len(images),
        "scored": count,
        "skipped_no_gt_relations": int((~annotated).sum()),
        "skipped_no_predicted_pairs": int((annotated & ~scored).sum()),
        "zeroshot_scored": len(np.unique(image_of_row[rows["zero_shot"]])),
    }
    # What the best prediction on each row's pair names, counted by what it should name.
    answer = np.where(rows["answer"] == MISS, num_predicates, rows["answer"])
    cell = rows["predicate"] * np.int32(num_predicates + 1) + answer
    confusion = np.bincount(cell, minlength=num_predicates * (num_predicates + 1))
    return Summary(
        metrics=_by_k(values, metrics, ks),
        intervals=(
            _by_k(_intervals(tally, count, bootstrap), metrics, ks) if bootstrap and count else {}
        ),
        images=image_counts,
        predicate_counts=counts,
        predicate_images=tally.predicate_images,
        predicate_recall=recalls,
        groups=groups,
        confusion=confusion.reshape(num_predicates, num_predicates + 1),
    )


def _by_k(
    values: dict[str, np.ndarray], metrics: Sequence[Metric], ks: Sequence[int]
) -> dict[str, dict]:
    return {m.name: dict(zip(m.ks(ks), values[m.name].tolist(), strict=True)) for m in metrics}


def checked_ks(ks: Sequence[int]) -> tuple[int, ...]:
    """Return the K of Recall@K in ascending order.

    Raises:
        ValueError: there is none, or one is out of range.
    """
    ordered = tuple(sorted(set(ks)))
    if not ordered or ordered[0] < 1 or ordered[-1] >= MISS:
        raise ValueError(f"the K of Recall@K are {list(ks)}: give numbers from 1 to {MISS - 1}")
    return ordered


def _intervals(tally: Tally, count: int, resamples: int) -> dict[str, np.ndarray]:
    """Return 2.5 % and 97.5 % quantiles of every metric over resamples of the images."""
    generator = np.random.default_rng(0)
    samples: dict[str, list[np.ndarray]] = {}
    for _ in range(resamples):
        drawn = np.bincount(generator.integers(0, count, count), minlength=count)
        for name, value in tally.metrics(drawn.astype(float))[0].items():
            samples.setdefault(name, []).append(value)
    return {
        name: np.array([_quantiles(v) for v in zip(*s, strict=True)]) for name, s in samples.items()
    }


def _quantiles(values: Sequence[float]) -> np.ndarray:
    known = np.array(values)[~np.isnan(values)]
    return np.quantile(known, [0.025, 0.975]) if len(known) else np.full(2, np.nan)
