"""Labels of pairs without annotated relations: distant supervision (RelCLIP, section 3.4).

Shapes: M entities and P pairs of an image, G annotated objects, K predicates.
"""

from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from vrd_d2.data.knowledge.candidate_weights import CandidateWeights
from vrd_d2.data.knowledge.knowledge_base import KnowledgeBase
from vrd_d2.data.vocabulary import Vocabulary


class DistantLabels:
    """Label weights of the pairs of an image by a knowledge base.

    Args:
        base: triplets and how often each was counted.
        weights: how likely each candidate is in each image (KB+EXT), or None for the same weight
            for all candidates (KB).
        min_count: triplets counted less often are no candidates.
    """

    def __init__(
        self, base: KnowledgeBase, weights: CandidateWeights | None = None, *, min_count: int = 1
    ):
        if weights is not None and weights.num_predicates != len(base.vocabulary.predicates):
            raise ValueError(
                f"MODEL.DISTANT.WEIGHTS: {weights.folder} has weights of {weights.num_predicates} "
                f"predicates, the vocabulary has {len(base.vocabulary.predicates)}: make them again"
            )
        self.base = base
        self.weights = weights
        self.min_count = min_count

    @classmethod
    def from_config(cls, cfg: CfgNode, vocabulary: Vocabulary) -> "DistantLabels | None":
        """Build from MODEL.DISTANT; None without a knowledge base.

        Raises:
            ValueError: a file is missing or does not fit the vocabulary, or a setting needs a
                knowledge base that is not given.
        """
        distant = cfg.MODEL.DISTANT
        if not distant.KNOWLEDGE_BASE:
            for key, value in (
                ("DATASETS.DISTANT", cfg.DATASETS.DISTANT),
                ("MODEL.DISTANT.RESTRICT", distant.RESTRICT),
                ("MODEL.DISTANT.WEIGHTS", distant.WEIGHTS),
            ):
                if value:
                    raise ValueError(
                        f"{key} is {value!r}, which needs MODEL.DISTANT.KNOWLEDGE_BASE: make one "
                        "with datasets/prepare_knowledge_base.py"
                    )
            return None
        unknown = [name for name in cfg.DATASETS.DISTANT if name not in cfg.DATASETS.TRAIN]
        if unknown:
            raise ValueError(f"DATASETS.DISTANT: {unknown} are not in DATASETS.TRAIN: add them")
        base = KnowledgeBase.load(distant.KNOWLEDGE_BASE)
        base.require(vocabulary)
        weights = CandidateWeights(distant.WEIGHTS) if distant.WEIGHTS else None
        return cls(base, weights, min_count=distant.MIN_COUNT)

    def targets(self, image_id: Any, pairs: Tensor, gt_index: Tensor, classes: Tensor) -> Tensor:
        """Return label weights of the pairs of one image, as annotated relations would give.

        Args:
            image_id: of the image.
            pairs: (P, 2) entity indices.
            gt_index: (M,) annotated object that each entity stands for, -1 for none.
            classes: (G,) classes of the annotated objects.

        Returns:
            (P, K) float32; a row sums to 1, or to 0 for a pair without candidates (background).

        Raises:
            ValueError: the image was not scored.
        """
        result = torch.zeros(
            (len(pairs), len(self.base.vocabulary.predicates)), device=pairs.device
        )
        subject, obj = gt_index[pairs].unbind(1)
        rows = ((subject >= 0) & (obj >= 0) & (subject != obj)).nonzero()[:, 0]
        subject, obj = subject[rows], obj[rows]
        if self.weights is None:
            result[rows] = self.base.weights(
                classes[subject], classes[obj], min_count=self.min_count
            )
            return result
        found = self.weights.lookup(image_id, subject.cpu().numpy(), obj.cpu().numpy())
        if found is None:
            raise ValueError(
                f"MODEL.DISTANT.WEIGHTS: {self.weights.folder} has no image with image id "
                f"{image_id!r}: run tools/score_candidates.py on its dataset, to the end"
            )
        found = torch.from_numpy(found).to(pairs.device)
        # Half precision on disk: the sum is only nearly 1.
        result[rows] = found / found.sum(1, keepdim=True).clamp(min=1e-6)
        return result

    def candidates(self, classes: Tensor, pairs: Tensor) -> Tensor:
        """Return which predicates the base holds for pairs of entities: bool (P, K).

        Args:
            classes: (M,) of the entities.
            pairs: (P, 2).
        """
        subject, obj = classes[pairs].unbind(1)
        return self.base.candidates(subject, obj, min_count=self.min_count)
