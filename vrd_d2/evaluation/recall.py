"""Recall metrics of a dataset, counted from the few numbers kept of each ground-truth row."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vrd_d2.evaluation.image import ROW
from vrd_d2.evaluation.matching import MISS
from vrd_d2.evaluation.protocols import Protocol
from vrd_d2.tasks import Task

DEFAULT_KS = (20, 50, 100)

# Of an image: its key, its number of rows, whether the protocol admitted any predicted pair.
IMAGE = np.dtype([("key", np.int64), ("rows", np.int32), ("pairs", bool)])

Metrics = dict[str, dict[int, float]]  # "mR" -> {20: 0.21, 50: ..., 100: ...}


class RowStore:
    """Rows of the images seen so far: 19 bytes a ground-truth row, 13 an image.

    An image that comes twice (samplers pad the last batch) is kept once.
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
        """Keeps what ``evaluate_image`` returned for the image numbered ``key``."""
        if key in self._seen:
            return
        place, end = len(self._seen), self._num_rows + len(rows)
        if place == len(self._images):
            self._images = np.resize(self._images, 2 * place)
        if end > len(self._rows):
            self._rows = np.resize(self._rows, max(end, 2 * len(self._rows)))
        self._images[place] = (key, len(rows), num_pairs > 0)
        self._rows[self._num_rows : end] = rows
        self._num_rows = end
        self._seen.add(key)

    def state(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and rows as two arrays, valid until the next image: what is exchanged."""
        return self._images[: len(self._seen)], self._rows[: self._num_rows]

    @staticmethod
    def merge(states: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        """The states of several processes as one, ordered by key, every image once.

        The order makes sums, and so the results, independent of who processed what.
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
        metrics: name -> {K: value}. R, ngR, mR, ngmR, F, ngF, PR and head, body, tail of mR; zR and
            ngzR with a zero-shot list; A and top1 (K = 1) where boxes are given; phrase_R and
            phrase_ngR in protocols with phrase detection.
        intervals: the same shape, (low, high) bounds of 95 % bootstrap intervals over images.
        images: counts of images.
        predicate_counts: (K,) ground-truth rows of each predicate in the scored images.
        predicate_images: (K,) scored images that have the predicate.
        predicate_recall: "R" and "ngR" -> (number of Ks, K), whose means are mR and ngmR; where
            boxes are given "top1" -> (1, K), hits / rows.
        groups: "head", "body", "tail" -> predicate ids.
        confusion: (K, K + 1) rows: of the ground truth; columns: what the best prediction on the
            pair named, last: no prediction on the pair within the largest K.
    """

    metrics: Metrics
    intervals: dict[str, dict[int, tuple[float, float]]]
    images: dict[str, int]
    predicate_counts: np.ndarray
    predicate_images: np.ndarray
    predicate_recall: dict[str, np.ndarray]
    groups: dict[str, np.ndarray]
    confusion: np.ndarray


def frequency_thirds(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Predicates by descending count (equal counts by id) in three parts, head first.

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
    """All metrics from the rows of all images.

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
    tally = _Tally(rows, image_of_row, count, num_predicates, protocol, tuple(ks), groups)
    names = ["R", "ngR", "mR", "ngmR", "F", "ngF", "PR", "mR_head", "mR_body", "mR_tail"]
    if with_zero_shot:
        names += ["zR", "ngzR"]
    if task.boxes_given:
        names += ["A", "top1"]
    if protocol.phrase:
        names += ["phrase_R", "phrase_ngR"]

    def keyed(values: dict[str, np.ndarray]) -> dict[str, dict]:
        return {n: dict(zip(ks_of(n, ks), values[n].tolist(), strict=True)) for n in names}

    values, recalls = tally.metrics(np.ones(count))
    if task.boxes_given:
        named = np.bincount(rows["predicate"][rows["top1"]], minlength=num_predicates)
        recalls["top1"] = (named / np.maximum(counts, 1))[None]
    image_counts = {
        "total": len(images),
        "scored": count,
        "skipped_no_gt_relations": int((~annotated).sum()),
        "skipped_no_predicted_pairs": int((annotated & ~scored).sum()),
        "zeroshot_scored": len(np.unique(image_of_row[rows["zero_shot"]])),
    }
    answer = np.where(rows["answer"] == MISS, num_predicates, rows["answer"])
    cell = rows["predicate"] * np.int32(num_predicates + 1) + answer
    confusion = np.bincount(cell, minlength=num_predicates * (num_predicates + 1))
    return Summary(
        metrics=keyed(values),
        intervals=keyed(_intervals(tally, count, bootstrap)) if bootstrap and count else {},
        images=image_counts,
        predicate_counts=counts,
        predicate_images=tally.predicate_images,
        predicate_recall=recalls,
        groups=groups,
        confusion=confusion.reshape(num_predicates, num_predicates + 1),
    )


def checked_ks(ks: Sequence[int]) -> tuple[int, ...]:
    """The K of Recall@K in ascending order.

    Raises:
        ValueError: there is none, or one is out of range.
    """
    ordered = tuple(sorted(set(ks)))
    if not ordered or ordered[0] < 1 or ordered[-1] >= MISS:
        raise ValueError(f"the K of Recall@K are {list(ks)}: give numbers from 1 to {MISS - 1}")
    return ordered


def ks_of(name: str, ks: Sequence[int]) -> Sequence[int]:
    """The K of a metric: 1 for top1."""
    return (1,) if name == "top1" else ks


def _intervals(tally: "_Tally", count: int, resamples: int) -> dict[str, np.ndarray]:
    """2.5 % and 97.5 % quantiles of every metric over resamples of the images."""
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


class _Tally:
    """Hits of the scored images, arranged so that any weighting of the images is one sum."""

    def __init__(
        self,
        rows: np.ndarray,
        image: np.ndarray,
        count: int,
        num_predicates: int,
        protocol: Protocol,
        ks: tuple[int, ...],
        groups: dict[str, np.ndarray],
    ) -> None:
        self._num_predicates = num_predicates
        self._pooled = protocol.pooled
        self._groups = groups
        everything = np.ones(len(rows), bool)

        def per_image(
            ranks: np.ndarray, of: np.ndarray, cuts: Sequence[int] = ks
        ) -> tuple[np.ndarray, np.ndarray]:
            """Hits (count, number of cuts) and rows (count,) of every image, of rows ``of``."""
            hits = [np.bincount(image[of & (ranks < k)], minlength=count) for k in cuts]
            whole = np.bincount(image[of], minlength=count)
            return np.stack(hits, axis=1).astype(np.int32), whole.astype(np.int32)

        self._by_image = {
            "R": per_image(rows["R"], everything),
            "ngR": per_image(rows["ngR"], everything),
            "PR": per_image(rows["pair"], rows["new_pair"]),
            "zR": per_image(rows["R"], rows["zero_shot"]),
            "ngzR": per_image(rows["ngR"], rows["zero_shot"]),
            "A": per_image(rows["A"], everything),
            "top1": per_image(~rows["top1"], everything, (1,)),
            "phrase_R": per_image(rows["phrase"], everything),
            "phrase_ngR": per_image(rows["ng_phrase"], everything),
        }
        # One cell for every predicate that an image has, ordered by predicate.
        cells, cell = np.unique(
            rows["predicate"] * np.int64(max(count, 1)) + image, return_inverse=True
        )
        predicate, self._cell_image = np.divmod(cells, max(count, 1))
        del cells
        self.predicate_images = np.bincount(predicate, minlength=num_predicates)
        self._present = np.flatnonzero(self.predicate_images)
        self._first_cells = np.searchsorted(predicate, self._present)
        cell = cell.astype(np.int32)
        size = len(predicate)
        self._cell_rows = np.bincount(cell, minlength=size).astype(np.int32)
        self._cell_hits = {
            name: [np.bincount(cell[rows[name] < k], minlength=size).astype(np.int32) for k in ks]
            for name in ("R", "ngR")
        }

    def metrics(self, weights: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Every metric, and recall by predicate, with each image counted ``weights`` times."""
        values = {}
        for name, (hits, rows) in self._by_image.items():
            if self._pooled or name in ("A", "top1"):
                values[name] = _ratio(weights @ hits, weights @ rows)
            else:
                having = weights * (rows > 0)
                values[name] = _ratio(having @ (hits / np.maximum(rows, 1)[:, None]), having.sum())
        recalls = self._by_predicate(weights)
        for name, recall in recalls.items():
            mean = name.replace("R", "mR")
            values[mean] = recall.mean(1)
            both = values[name] + values[mean]
            values[name.replace("R", "F")] = (
                2 * values[name] * values[mean] / np.where(both, both, 1)
            )
        for group, members in self._groups.items():
            values[f"mR_{group}"] = _ratio(recalls["R"][:, members].sum(1), len(members))
        return values, recalls

    def _by_predicate(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """(number of Ks, K) recall of each predicate, 0 where it has no ground truth."""
        weight = weights[self._cell_image]
        if not self._pooled:
            weight /= self._cell_rows

        def total(of_cells: np.ndarray) -> np.ndarray:
            sums = np.zeros(self._num_predicates)
            if len(self._present):
                sums[self._present] = np.add.reduceat(weight * of_cells, self._first_cells)
            return sums

        whole = total(self._cell_rows)
        whole[whole == 0] = 1
        return {
            name: np.stack([total(hits) for hits in columns]) / whole
            for name, columns in self._cell_hits.items()
        }


def _ratio(part: np.ndarray, whole: float) -> np.ndarray:
    """part / whole, NaN where there is nothing to divide by."""
    return part / whole if whole > 0 else np.full(len(part), np.nan)
