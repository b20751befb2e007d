"""The order of predicted triplets, on plain arrays.

Equal scores stay in the order of the input everywhere, so that results do not depend on a sorting
algorithm. Products are computed in the precision given and in the order of the public evaluators.
"""

from dataclasses import dataclass

import numpy as np

from vrd_d2.evaluation.records import Prediction


def best_first(scores: np.ndarray, limit: int) -> np.ndarray:
    """Return indices of the ``limit`` highest scores, best first, equal scores by index.

    The same as a stable descending sort cut at ``limit``, without sorting everything.

    Args:
        scores: (N,) without NaN.

    Returns:
        (min(N, limit),) indices.
    """
    if len(scores) <= limit:
        return np.argsort(-scores, kind="stable")
    least = len(scores) - limit  # index of the last one chosen, in ascending order
    threshold = np.partition(scores, least)[least]
    above = np.flatnonzero(scores > threshold)
    ties = np.flatnonzero(scores == threshold)[: limit - len(above)]
    chosen = np.concatenate([above, ties])
    chosen.sort()
    return chosen[np.argsort(-scores[chosen], kind="stable")]


def best_products(
    predicate_scores: np.ndarray, best: np.ndarray, weights: np.ndarray | None, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ``limit`` best (pair, predicate) products: the ranking without constraint.

    Equal products are ordered by pair, then by predicate. A product among the best ``limit``
    belongs to a pair whose own best product is among the best ``limit`` or equal to the last of
    them, so only those pairs are looked at.

    Args:
        predicate_scores: (P, K).
        best: (P,) maxima of the rows.
        weights: (P,) product of both entity scores, not negative; None where all are 1.

    Returns:
        Pair indices (T,) and predicates (T,), best first.

    Raises:
        ValueError: a product is NaN.
    """
    top = best if weights is None else weights * best
    if len(top) > limit:
        least = len(top) - limit
        pairs = np.flatnonzero(top >= np.partition(top, least)[least])
    else:
        pairs = np.arange(len(top))
    products = predicate_scores[pairs]
    if weights is not None:
        with np.errstate(invalid="ignore"):
            products = weights[pairs, None] * products
    products = products.ravel()
    if np.isnan(products).any():
        raise ValueError("predicate_scores hold infinite values: they must be finite")
    flat = best_first(products, limit)
    return pairs[flat // predicate_scores.shape[1]], flat % predicate_scores.shape[1]


@dataclass
class Ranking:
    """Triplets of one image, best first: rows (subject index, object index, predicate).

    Attributes:
        constrained: (T, 3) one predicate a predicted pair, its best.
        free: (T', 3) any number of predicates a pair.
    """

    constrained: np.ndarray
    free: np.ndarray

    def cut(self, limit: int) -> "Ranking":
        """Return the best ``limit`` of both."""
        return Ranking(self.constrained[:limit], self.free[:limit])


def rank_triplets(prediction: Prediction, *, limit: int, unit_scores: bool) -> Ranking:
    """Rank the triplets of an image, with and without graph constraint.

    Args:
        prediction: checked.
        limit: length of both lists.
        unit_scores: entity scores are 1 (PredCls).

    Raises:
        ValueError: a score is not finite.
    """
    if prediction.triplets is not None:
        return _rank_listed(prediction).cut(limit)
    pairs, scores, best = prediction.pairs, prediction.predicate_scores, prediction.best
    weights = None
    pair_scores = best
    if not unit_scores:
        subject, obj = prediction.scores[pairs[:, 0]], prediction.scores[pairs[:, 1]]
        weights = subject * obj
        pair_scores = best * subject * obj
    chosen = best_first(pair_scores, limit)
    free_pairs, free_predicates = best_products(scores, best, weights, limit)
    return Ranking(
        np.column_stack([pairs[chosen], scores[chosen].argmax(1)]),
        np.column_stack([pairs[free_pairs], free_predicates]),
    )


def rank_annotated(
    prediction: Prediction,
    relations: np.ndarray,
    *,
    limit: int,
    unit_scores: bool,
    one_a_row: bool,
) -> Ranking:
    """Rank the triplets on annotated pairs as if nothing else had been predicted.

    Args:
        prediction: checked; its boxes are those of the ground truth.
        relations: (R, 3) annotated rows.
        limit: length of the list without graph constraint. The other one has all pairs.
        unit_scores: as of :func:`rank_triplets`.
        one_a_row: with graph constraint every annotated row has one prediction, the best of its
            pair, so that a pair annotated twice stands there twice in a row (Lu et al. 2016);
            else every predicted pair has one.
    """
    size = len(prediction.boxes)
    times = np.zeros((size, size), np.int64)  # how often each pair is annotated
    np.add.at(times, (relations[:, 0], relations[:, 1]), 1)
    pairs = prediction.pairs
    prediction = prediction.chosen(times[pairs[:, 0], pairs[:, 1]] > 0)
    everything = max(limit, len(prediction.pairs))
    ranking = rank_triplets(prediction, limit=everything, unit_scores=unit_scores)
    constrained = ranking.constrained
    if one_a_row:
        constrained = constrained[_first_of_pairs(constrained, size)]
        constrained = constrained.repeat(times[constrained[:, 0], constrained[:, 1]], axis=0)
    return Ranking(constrained, ranking.free[:limit])


def _rank_listed(prediction: Prediction) -> Ranking:
    """Rank a list of triplets: under graph constraint only the best one of a pair."""
    order = np.argsort(-prediction.triplet_scores, kind="stable")
    ranked = prediction.triplets[order]
    return Ranking(ranked[_first_of_pairs(ranked, len(prediction.boxes))], ranked)


def _first_of_pairs(ranked: np.ndarray, size: int) -> np.ndarray:
    """Return ascending indices (T',) of the first triplet of each pair among (T, 3)."""
    codes = ranked[:, 0] * max(size, 1) + ranked[:, 1]
    return np.sort(np.unique(codes, return_index=True)[1])
