"""The frequency baseline: predicates by how often a pair of classes has them in training data.

Zellers et al. 2018 ("Neural Motifs", FREQ and FREQ-OVERLAP). Nothing is learnt and nothing is seen.
"""

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from vrd_d2.data.vocabulary import Vocabulary, get_vocabulary
from vrd_d2.modeling.geometry import candidate_pairs
from vrd_d2.modeling.relation_model import Entities, PairPrediction, RelationModel, TrainingPairs


def count_relations(
    dataset_dicts: list[dict], vocabulary: Vocabulary, *, require_overlap: bool
) -> Tensor:
    """Counts of predicates, and of no relation, for every ordered pair of classes.

    Args:
        dataset_dicts: with XYXY "bbox", "category_id" and "relations" (R, 3).
        vocabulary: gives C and K.
        require_overlap: candidate pairs without a relation count only if their boxes overlap.

    Returns:
        (C, C, K + 1) float32, background last.
    """
    num_classes, num_predicates = len(vocabulary.objects), len(vocabulary.predicates)
    counts = np.zeros((num_classes, num_classes, num_predicates + 1), dtype=np.float32)
    for record in dataset_dicts:
        classes = np.array([a["category_id"] for a in record["annotations"]], dtype=np.int64)
        relations = np.asarray(record["relations"], dtype=np.int64).reshape(-1, 3)
        # No candidate pair is of one box with itself, so such rows tell nothing of pairs.
        relations = relations[relations[:, 0] != relations[:, 1]]
        subjects, objects, predicates = relations.T
        if max(classes, default=0) >= num_classes or max(predicates, default=0) >= num_predicates:
            raise ValueError(
                f"picture {record['file_name']} has a class or predicate id beyond the "
                f"{num_classes} classes and {num_predicates} predicates of MODEL.VOCABULARY: set "
                "it to the data set's own"
            )
        np.add.at(counts, (classes[subjects], classes[objects], predicates), 1)
        boxes = torch.tensor([a["bbox"] for a in record["annotations"]]).reshape(-1, 4)
        pairs = candidate_pairs(boxes, require_overlap=require_overlap).numpy()
        related = np.zeros((len(classes), len(classes)), dtype=bool)
        related[subjects, objects] = True
        pairs = pairs[~related[pairs[:, 0], pairs[:, 1]]]
        np.add.at(counts, (classes[pairs[:, 0]], classes[pairs[:, 1]], num_predicates), 1)
    return torch.from_numpy(counts)


def training_counts(cfg: CfgNode) -> Tensor:
    """:func:`count_relations` of all DATASETS.TRAIN."""
    vocabulary = get_vocabulary(cfg.MODEL.VOCABULARY)
    overlap = cfg.MODEL.RELATION.REQUIRE_OVERLAP
    return sum(
        count_relations(DatasetCatalog.get(name), vocabulary, require_overlap=overlap)
        for name in cfg.DATASETS.TRAIN
    )


@META_ARCH_REGISTRY.register()
class FrequencyBaseline(RelationModel):
    """Ranks predicates by P(predicate | subject class, object class) of the training set.

    Args:
        counts: (C, C, K + 1), background last.
        base: arguments of :class:`RelationModel`.
    """

    @configurable
    def __init__(self, *, counts: Tensor, **base):
        super().__init__(**base)
        if self.task.boxes_given and not self.task.classes_given:
            raise ValueError(
                "FrequencyBaseline sees nothing and cannot classify given boxes: set "
                "MODEL.RELATION.TASK to predcls or sgdet"
            )
        self.register_buffer("counts", counts)

    @classmethod
    def from_config(cls, cfg) -> dict:
        vocabulary = get_vocabulary(cfg.MODEL.VOCABULARY)
        return {**RelationModel.base_config(cfg, vocabulary), "counts": training_counts(cfg)}

    def losses(
        self, batched_inputs: list[dict], entities: list[Entities], sampled: list[TrainingPairs]
    ) -> dict[str, Tensor]:
        """There is nothing to train: raises."""
        raise ValueError("FrequencyBaseline has nothing to train: run train_net.py --eval-only")

    def predict(
        self, batched_inputs: list[dict], entities: list[Entities], pairs: list[Tensor]
    ) -> list[PairPrediction]:
        """Relative frequencies; a pair of classes never seen together is background."""
        predictions = []
        for entity, pair in zip(entities, pairs, strict=True):
            rows = self.counts[entity.classes[pair[:, 0]], entity.classes[pair[:, 1]]]
            total = rows.sum(1, keepdim=True)
            probs = rows / total.clamp(min=1)
            probs[:, -1:] += (total == 0).to(probs.dtype)
            predictions.append(PairPrediction(entity.classes, entity.scores, probs, probs[:, :-1]))
        return predictions
