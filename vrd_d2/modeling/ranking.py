"""From logits to the answers of a model; shared with the export, so without a branch on the data.

Shapes: M entities and P pairs, C object classes, K predicates.
"""

import torch
from torch import Tensor

from vrd_d2.modeling.structures import HeadOutput

# MODEL.RELATION.RANKING: which of a pair's predicate scores rank its relations.
RANKINGS = ("softmax", "logit")
# Score of a predicate that the knowledge base does not hold for a pair; softmax or logit alike.
NO_CANDIDATE = -1e4


def best_classes(output: HeadOutput, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return class ids (M,) and their probabilities (M,), background left out.

    Args:
        output: of a relation head, with class logits.
        num_classes: C.
    """
    probs = output.class_logits.float().softmax(-1)[:, :num_classes]
    if output.classes is not None:
        return output.classes, probs.gather(1, output.classes[:, None])[:, 0]
    best = probs.max(dim=1)
    return best.indices, best.values


def predicate_scores(logits: Tensor, ranking: str) -> tuple[Tensor, Tensor]:
    """Return probabilities (P, K + 1) and ranking scores (P, K) of predicate logits (P, K + 1)."""
    logits = logits.float()
    probs = logits.softmax(-1)
    return probs, (logits if ranking == "logit" else probs)[:, :-1]


def restrict(probs: Tensor, scores: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Take probability and score from predicates that are no candidates of their pair.

    Args:
        probs: (P, K + 1).
        scores: (P, K).
        allowed: bool (P, K).

    Returns:
        as `probs` and `scores`.
    """
    probs = torch.cat([probs[:, :-1] * allowed, probs[:, -1:]], dim=1)
    probs = probs / probs.sum(1, keepdim=True).clamp(min=1e-12)
    # Logits rank as well, so the lowest score there is must lie below any of them.
    return probs, torch.where(allowed, scores, NO_CANDIDATE)
