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


# Factor of the scores of pairs that a knowledge base does not hold: they rank after those it holds.
BACKED_OFF = 1e-6


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
        """Return relative frequencies, see :func:`frequencies`, which rank the predicates."""
        has_background = bool(self.counts[..., -1].any())
        predictions = []
        for entity, pair in zip(entities, pairs, strict=True):
            subjects, objects = entity.classes[pair[:, 0]], entity.classes[pair[:, 1]]
            probs = frequencies(self.counts, subjects, objects)
            scores = probs[:, :-1]
            if not has_background:
                # A base tells what relates a pair, and not whether anything does.
                unseen = _unrelated(self.counts[subjects, objects])
                scores = torch.where(unseen, BACKED_OFF * scores, scores)
            predictions.append(PairPrediction(entity.classes, entity.scores, probs, scores))
        return predictions


def frequencies(counts: Tensor, subjects: Tensor, objects: Tensor) -> Tensor:
    """Return P(predicate | subject class, object class), with a back-off.

    A pair of classes that was never seen with a predicate takes one observation that is shared out
    as those of its subject class are; where that class was subject of no relation, as those of its
    object class; else as all that was counted. So every pair has a likeliest predicate, and one
    that was often seen without a relation still ranks low.

    Args:
        counts: (C, C, K + 1), background last.
        subjects, objects: (P,) class ids.

    Returns:
        (P, K + 1) float32 rows that sum to 1; background alone where nothing was counted at all.
    """
    rows = counts[subjects, objects].double()
    unseen = _unrelated(rows)
    if unseen.any():
        of_subject, of_object = (counts.sum(axis, dtype=torch.float64) for axis in (1, 0))
        share = torch.where(
            _unrelated(of_subject)[subjects], of_object[objects], of_subject[subjects]
        )
        share = torch.where(_unrelated(share), of_subject.sum(0), share)
        rows += unseen * share / share.sum(1, keepdim=True).clamp(min=1)
    total = rows.sum(1, keepdim=True)
    rows[:, -1:] += total == 0
    return (rows / total.where(total > 0, 1)).float()


def _unrelated(counts: Tensor) -> Tensor:
    """Return which rows (N, K + 1) have no predicate but background: (N, 1) bool."""
    return counts[:, :-1].sum(1, keepdim=True) == 0
