"""Losses and priors against the long tail of predicates; each off by default.

Shapes: C object classes, K predicates, P pairs; background is predicate K.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOSSES = ("cross_entropy", "focal", "class_balanced")
ADJUSTMENTS = ("none", "train", "test")


class PredicatePrior(nn.Module):
    """Counts of the training set, which are known before an image is seen.

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
                f"MODEL.PREDICATE_PRIOR.LOGIT_ADJUSTMENT is {adjustment!r}: choose one of "
                f"{ADJUSTMENTS}"
            )
        self.frequency_bias = frequency_bias
        self.adjustment = adjustment
        self.tau = tau
        if frequency_bias:
            shape = (num_classes, num_classes, num_predicates + 1)
            self.register_buffer("log_joint", torch.zeros(shape))
        self.register_buffer("counts", torch.zeros(num_predicates))

    def set_counts(self, counts: Tensor) -> None:
        """Set the counts of the training set.

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
        """Return the logits with what is known beforehand.

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
    """Return the sum over pairs of a predicate loss.

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
        raise ValueError(f"MODEL.RELATION_LOSS.PREDICATE is {kind!r}: choose one of {LOSSES}")
    return terms.sum()
