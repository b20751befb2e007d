"""The contrastive kernel of both papers.

Shapes: N queries (positive relation instances), Q candidates.
"""

import torch
from torch import Tensor


def contrastive_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the multi-positive contrastive cross-entropy of rows, each with a dictionary.

    For row k with logits s_kq, targets y_kq and weights u_kq:

        l_k = - sum_q y_kq * ( s_kq - log sum_r u_kr exp(s_kr) )

    RelCLIP's Eq. (4) has the identity as targets and Q_k as weights (1 for the positive, 0 for what
    is not in the dictionary); the column loss is the same function of the transposed logits.
    UnionCLIP has a table of several positives a row and weights of one.

    Args:
        logits: (N, Q) similarities already divided by the temperature.
        targets: (N, Q) non-negative; a row of zeros contributes 0.
        weights: (N, Q) non-negative, positive wherever the target is; None means 1.

    Returns:
        (N,) losses in float32, not averaged.
    """
    logits = logits.float()
    dictionary = logits if weights is None else logits + weights.float().log()
    log_partition = dictionary.logsumexp(dim=1, keepdim=True)
    return -(targets * (logits - log_partition)).sum(dim=1)


def negative_weights(
    similarity: Tensor,
    *,
    first: int = 0,
    epsilon: float = 0.7,
    eta: float = 0.0,
    sampling: bool = True,
    weighted: bool = True,
) -> Tensor:
    """Return the dictionaries Q_k of semantic-aware active sampling as weights (RelCLIP, Eq. 7).

    Of the other samples, those more similar than ``epsilon`` are synonyms and those less similar
    than ``eta`` carry no information: neither becomes a negative. The rest weigh as much as they
    are similar, relative to the mean over the negatives of the query, so that a weighted and an
    unweighted dictionary have the same total mass.

    Args:
        similarity: (N, Q) cosine of word embeddings of N queries and Q >= N samples.
        first: query k is itself sample ``first + k``; that entry is not read.
        epsilon, eta: thresholds, both inclusive.
        sampling: False makes every other sample a negative of weight 1 ("No Sampling", Table 5).
        weighted: False gives every sampled negative weight 1 ("No Weight").

    Returns:
        (N, Q) weights; those of the positives are 1.
    """
    if not sampling:
        return torch.ones_like(similarity)
    positive = one_positive_each(similarity, first)
    negatives = (similarity >= eta) & (similarity <= epsilon) & ~positive
    weights = negatives.to(similarity.dtype)
    if weighted:
        mass = similarity.clamp(min=0) * weights
        mean = mass.sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp(min=1)
        # Negatives that all have similarity 0 to the query weigh the same.
        weights = torch.where(mean > 0, mass / mean.clamp(min=1e-12), weights)
    return weights.masked_fill(positive, 1.0)


def one_positive_each(table: Tensor, first: int = 0) -> Tensor:
    """Return a table bool (N, Q) whose row k is true in column ``first + k`` alone."""
    columns = torch.arange(table.shape[1], device=table.device)
    return columns == first + torch.arange(len(table), device=table.device)[:, None]
