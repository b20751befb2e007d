"""The frequency baseline: predicates by how often a pair of classes has them in training data.

Zellers et al. 2018 ("Neural Motifs", FREQ and FREQ-OVERLAP). Nothing is learnt and nothing is seen.
"""

from collections.abc import Iterator, Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from vrd_d2.data.datasets.setup import setup_datasets
from vrd_d2.data.knowledge import counts
from vrd_d2.data.knowledge.knowledge_base import KnowledgeBase
from vrd_d2.data.vocabulary import Vocabulary, get_vocabulary
from vrd_d2.modeling.relation_model import RelationModel
from vrd_d2.modeling.structures import Entities, PairPrediction, TrainingPairs


def count_relations(
    dataset_dicts: Sequence[dict], vocabulary: Vocabulary, *, require_overlap: bool
) -> Tensor:
    """Count predicates as a tensor; see :func:`.knowledge.counts.count_relations`."""
    return torch.from_numpy(
        counts.count_relations(dataset_dicts, vocabulary, require_overlap=require_overlap)
    )


def knowledge_counts(base: KnowledgeBase, vocabulary: Vocabulary) -> Tensor:
    """Return the counts of a knowledge base as a tensor (C, C, K + 1), those of background 0."""
    return torch.from_numpy(counts.knowledge_counts(base, vocabulary))


def training_counts(cfg: CfgNode) -> Tensor:
    """Return MODEL.PREDICATE_PRIOR.COUNTS, or without it the counts of DATASETS.TRAIN.

    Relations of DATASETS.DISTANT are not counted: they are not known.

    Returns:
        (C, C, K + 1) float32, background last.

    Raises:
        ValueError: there is nothing to count, or a file or dataset is wrong.
    """
    return torch.from_numpy(
        counts.training_counts(
            cfg.MODEL.PREDICATE_PRIOR.COUNTS,
            _labelled_datasets(cfg),
            get_vocabulary(cfg.MODEL.VOCABULARY),
            require_overlap=cfg.MODEL.RELATION.REQUIRE_OVERLAP,
        )
    )


def _labelled_datasets(cfg: CfgNode) -> Iterator[Sequence[dict]]:
    setup_datasets(cfg)
    for name in cfg.DATASETS.TRAIN:
        if name not in cfg.DATASETS.DISTANT:
            yield DatasetCatalog.get(name)


@META_ARCH_REGISTRY.register()
class FrequencyBaseline(RelationModel):
    """Ranks predicates by P(predicate | subject class, object class) of the training set.

    Args:
        counts: (C, C, K + 1), background last.
        base: arguments of :class:`RelationModel`.
    """

    export_problem = "it looks counts up and at no image"

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
        """Raise a ValueError: there is nothing to train."""
        raise ValueError("FrequencyBaseline has nothing to train: run train_net.py --eval-only")

    def predict(
        self, batched_inputs: list[dict], entities: list[Entities], pairs: list[Tensor]
    ) -> list[PairPrediction]:
        """Return relative frequencies; classes that were never seen as a pair are background."""
        predictions = []
        for entity, pair in zip(entities, pairs, strict=True):
            rows = self.counts[entity.classes[pair[:, 0]], entity.classes[pair[:, 1]]]
            total = rows.sum(1, keepdim=True)
            probs = rows / total.clamp(min=1)
            probs[:, -1:] += (total == 0).to(probs.dtype)
            predictions.append(PairPrediction(entity.classes, entity.scores, probs, probs[:, :-1]))
        return predictions
