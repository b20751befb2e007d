"""What relation models pass on between their stages.

Shapes: M entities and P pairs of an image, K predicates, C object classes.
"""

from dataclasses import dataclass

from torch import Tensor

# MODEL.RELATION.RANKING: which of a pair's predicate scores rank its relations.
RANKINGS = ("softmax", "logit")


@dataclass
class Entities:
    """The objects of an image between which relations are looked for.

    Attributes:
        boxes: (M, 4) XYXY pixels of the resized image.
        classes: (M,) given or detected class ids, or None where nothing is known of them yet.
        scores: (M,) confidence of those classes.
        gt_index: (M,) ground-truth object that each stands for, -1 for none; training only.
    """

    boxes: Tensor
    classes: Tensor | None
    scores: Tensor
    gt_index: Tensor | None = None


@dataclass
class PairPrediction:
    """What a model says of one image.

    Attributes:
        classes, scores: (M,) final classes of the entities and their scores.
        predicate_probs: (P, K + 1), background last.
        predicate_scores: (P, K) what ranks the predicates.
    """

    classes: Tensor
    scores: Tensor
    predicate_probs: Tensor
    predicate_scores: Tensor


@dataclass
class TrainingPairs:
    """Sampled pairs of one image and their targets.

    Attributes:
        pairs: (S, 2).
        targets: (S, K) label weights, a row of zeros is background.
        classes: (M,) ground-truth class of each entity, C for those that stand for no object.
    """

    pairs: Tensor
    targets: Tensor
    classes: Tensor
