"""Tools against the long tail of predicates, and with the prior of classes; each off by default.

Shapes: C object classes, K predicates, P pairs; background is predicate K.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from vrd_d2.data.records.packed import PackedRecords

LOSSES = ("cross_entropy", "focal", "class_balanced")
ADJUSTMENTS = ("none", "train", "test")


class PredicatePrior(nn.Module):
    """What is known of predicates before the image is seen: counts of the training set.

    Filled by :meth:`set_counts` before training and part of the checkpoint from then on.

    Args:
        num_classes: C.
        num_predicates: K.
        frequency_bias: add log P(predicate | classes of the pair) to the logits, as Neural Motifs
            (Zellers et al. 2018) do.
        adjustment: logit adjustment (Menon et al. 2021, "Long-tail learning via logit adjustment"):
            "train" adds tau log P(predicate) to the logits in the loss, "test" takes it off at
            inference, "none" does neither. Foreground only: background is no class of the tail.
        tau: strength of the adjustment.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        num_predicates: int,
        frequency_bias: bool = False,
        adjustment: str = "none",
        tau: float = 1.0,
    ):
        super().__init__()
        if adjustment not in ADJUSTMENTS:
            raise ValueError(
                f"MODEL.RELATION.LOGIT_ADJUSTMENT is {adjustment!r}: choose one of {ADJUSTMENTS}"
            )
        self.frequency_bias = frequency_bias
        self.adjustment = adjustment
        self.tau = tau
        if frequency_bias:
            shape = (num_classes, num_classes, num_predicates + 1)
            self.register_buffer("log_joint", torch.zeros(shape))
        self.register_buffer("counts", torch.zeros(num_predicates))

    def set_counts(self, counts: Tensor) -> None:
        """Take over training counts.

        Args:
            counts: (C, C, K + 1), background last, of
                :func:`~vrd_d2.modeling.frequency.count_relations`.
        """
        self.counts.copy_(counts[..., :-1].sum((0, 1)))
        if self.frequency_bias:
            # One pseudo-count: what was never seen is unlikely, not impossible.
            self.log_joint.copy_(((counts + 1) / (counts + 1).sum(-1, keepdim=True)).log())

    def _log_frequency(self) -> Tensor:
        share = (self.counts + 1) / (self.counts + 1).sum()
        return F.pad(self.tau * share.log(), (0, 1))

    def forward(self, logits: Tensor, subjects: Tensor | None, objects: Tensor | None) -> Tensor:
        """Logits with what is known beforehand.

        Args:
            logits: (P, K + 1).
            subjects, objects: (P,) class ids; read by the frequency bias alone.
        """
        if self.frequency_bias:
            logits = logits + self.log_joint[subjects, objects]
        if self.training and self.adjustment == "train":
            logits = logits + self._log_frequency()
        if not self.training and self.adjustment == "test":
            logits = logits - self._log_frequency()
        return logits


def predicate_loss(
    logits: Tensor, targets: Tensor, *, kind: str, counts: Tensor, gamma: float, beta: float
) -> Tensor:
    """Sum over pairs of a predicate loss.

    Args:
        logits: (P, K + 1).
        targets: (P, K + 1), rows that sum to 1.
        kind: "cross_entropy"; "focal" (Lin et al. 2017: each label's term times (1 - p)^gamma); or
            "class_balanced" (Cui et al. 2019: each predicate's term times the inverse of its
            effective number of samples, mean weight 1 over the predicates; background 1).
        counts: (K,) of the training set.
        gamma: of the focal loss.
        beta: of the effective number, (1 - beta^n) / (1 - beta).
    """
    log_probs = logits.float().log_softmax(1)
    terms = -targets * log_probs
    if kind == "focal":
        terms = terms * (1 - log_probs.exp()) ** gamma
    elif kind == "class_balanced":
        effective = (1 - beta ** counts.clamp(min=1)) / (1 - beta)
        weights = effective.reciprocal()
        terms = terms * F.pad(weights / weights.mean(), (0, 1), value=1.0)
    elif kind != "cross_entropy":
        raise ValueError(f"MODEL.RELATION.PREDICATE_LOSS is {kind!r}: choose one of {LOSSES}")
    return terms.sum()


def predicate_repeat_factors(
    dataset_dicts: Sequence[dict] | Dataset, num_predicates: int, threshold: float
) -> Tensor:
    """Repeat factors of images by their rarest predicate (Gupta et al. 2019, for predicates).

    With f(p) the share of images that have predicate p, an image is repeated
    max over its predicates of max(1, sqrt(threshold / f(p))) times.

    Args:
        dataset_dicts: with "relations" (R, 3); a list, PackedRecords, or several of the latter.
        num_predicates: K.
        threshold: share of images below which a predicate is rare.

    Returns:
        (number of images,) float32, at least 1.
    """
    present = torch.zeros((len(dataset_dicts), num_predicates), dtype=torch.bool)
    start = 0
    for part in getattr(dataset_dicts, "datasets", [dataset_dicts]):  # of a ConcatDataset
        rows = present[start : start + len(part)]
        start += len(part)
        if isinstance(part, PackedRecords):
            owner = np.repeat(np.arange(len(part)), part.relation_counts)
            rows.numpy()[owner, part.relations[:, 2]] = True
            continue
        for row, record in zip(rows, part, strict=True):
            row[torch.as_tensor(record["relations"], dtype=torch.int64).reshape(-1, 3)[:, 2]] = True
    share = present.float().mean(0)
    factors = (threshold / share.clamp(min=1e-12)).sqrt().clamp(min=1)
    return torch.where(present, factors, 1.0).amax(1)
