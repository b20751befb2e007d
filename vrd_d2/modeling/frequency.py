"""The frequency baseline: predicates by how often a pair of classes has them in training data.

Zellers et al. 2018 ("Neural Motifs", FREQ and FREQ-OVERLAP). Nothing is learnt and nothing is seen.
"""

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from vrd_d2.data.knowledge.counts import load_triplet_counts
from vrd_d2.data.knowledge.knowledge_base import KnowledgeBase
from vrd_d2.data.records.columns import flat_ranges
from vrd_d2.data.records.packed import PackedRecords
from vrd_d2.data.vocabulary import Vocabulary, get_vocabulary
from vrd_d2.modeling.relation_model import RelationModel
from vrd_d2.modeling.structures import Entities, PairPrediction, TrainingPairs

_IMAGES_AT_ONCE = 2000  # some hundred thousand pairs of boxes


def count_relations(
    dataset_dicts: Sequence[dict], vocabulary: Vocabulary, *, require_overlap: bool
) -> Tensor:
    """Counts of predicates, and of no relation, for every ordered pair of classes.

    Args:
        dataset_dicts: a list, or PackedRecords (quicker), with "relations" (R, 3).
        vocabulary: gives C and K.
        require_overlap: candidate pairs without a relation count only if their boxes overlap.

    Returns:
        (C, C, K + 1) float32, background last.

    Raises:
        ValueError: names the image that has an id beyond the vocabulary.
    """
    num_classes, num_predicates = len(vocabulary.objects), len(vocabulary.predicates)
    counts = np.zeros((num_classes**2, num_predicates + 1), dtype=np.int64)
    for start in range(0, len(dataset_dicts), _IMAGES_AT_ONCE):
        part = dataset_dicts[start : start + _IMAGES_AT_ONCE]
        if not isinstance(part, PackedRecords):
            part = PackedRecords.pack(part, drop_other_keys=True)
        _check_ids(part, num_classes, num_predicates)
        _add_counts(counts, part, num_classes, require_overlap)
    return torch.from_numpy(counts.astype(np.float32).reshape(num_classes, num_classes, -1))


def _add_counts(
    counts: np.ndarray, records: PackedRecords, num_classes: int, require_overlap: bool
) -> None:
    """All images at once; boxes are numbered through them."""
    boxes, classes = records.boxes, records.categories.astype(np.int64)
    starts = records.box_offsets[:-1]

    def class_pairs(subjects: np.ndarray, objects: np.ndarray) -> np.ndarray:
        return classes[subjects] * num_classes + classes[objects]

    def candidates(subjects: np.ndarray, objects: np.ndarray) -> np.ndarray:
        keep = subjects != objects  # no candidate pair is of one box with itself
        if require_overlap:
            keep = keep & overlapping(boxes[subjects], boxes[objects])
        return keep

    relations = records.relations.astype(np.int64)
    first = np.repeat(starts, records.relation_counts)
    subjects, objects = first + relations[:, 0], first + relations[:, 1]
    told = subjects != objects
    np.add.at(counts, (class_pairs(subjects, objects)[told], relations[told, 2]), 1)
    # Background: the candidate pairs without the related ones among them.
    related = np.unique(np.column_stack([subjects, objects]), axis=0).T
    related = related[:, candidates(*related)]
    pairs = all_pairs(starts, records.box_counts)
    pairs = pairs[:, candidates(*pairs)]
    for sign, found in ((1, pairs), (-1, related)):
        counts[:, -1] += sign * np.bincount(class_pairs(*found), minlength=len(counts))


def overlapping(subjects: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Whether boxes (P, 4) and (P, 4) intersect in an area > 0, as :func:`candidate_pairs` asks."""
    low = np.maximum(subjects[:, :2], objects[:, :2])
    return (np.minimum(subjects[:, 2:], objects[:, 2:]) - low > 0).all(1)


def all_pairs(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(2, P): for each image every ordered pair of its boxes, also of one with itself.

    Args:
        starts: (N,) number of each image's first box.
        sizes: (N,) boxes of each image.
    """
    subjects = flat_ranges(starts, sizes)
    partners = np.repeat(sizes, sizes)
    objects = flat_ranges(np.repeat(starts, sizes), partners)
    return np.stack([np.repeat(subjects, partners), objects])


def _check_ids(records: PackedRecords, num_classes: int, num_predicates: int) -> None:
    for ids, offsets, limit in (
        (records.categories, records.box_offsets, num_classes),
        (records.relations[:, 2], records.relation_offsets, num_predicates),
    ):
        wrong = (ids < 0) | (ids >= limit)
        if wrong.any():
            image = int(np.searchsorted(offsets, wrong.argmax(), side="right")) - 1
            raise ValueError(
                f"image {records[image]['file_name']} has a class or predicate id beyond the "
                f"{num_classes} classes and {num_predicates} predicates of MODEL.VOCABULARY: set "
                "it to the dataset's own"
            )


def knowledge_counts(base: KnowledgeBase, vocabulary: Vocabulary) -> Tensor:
    """The counts of a knowledge base, (C, C, K + 1) float32; it tells nothing of background."""
    base.require(vocabulary)
    num_classes, num_predicates = len(vocabulary.objects), len(vocabulary.predicates)
    counts = torch.zeros(num_classes, num_classes, num_predicates + 1)
    subject, predicate, object = torch.from_numpy(base.triplets).unbind(1)
    counts[subject, object, predicate] = torch.from_numpy(base.triplet_counts).float()
    return counts


def training_counts(cfg: CfgNode) -> Tensor:
    """MODEL.PREDICATE_PRIOR.COUNTS, or without it :func:`count_relations` of DATASETS.TRAIN.

    Relations of DATASETS.DISTANT are not counted: they are not known.

    Returns:
        (C, C, K + 1) float32, background last.
    """
    vocabulary = get_vocabulary(cfg.MODEL.VOCABULARY)
    path = cfg.MODEL.PREDICATE_PRIOR.COUNTS
    if path.endswith(".npz"):
        return knowledge_counts(KnowledgeBase.load(path), vocabulary)
    if path:
        return load_triplet_counts(path, vocabulary)
    labelled = [name for name in cfg.DATASETS.TRAIN if name not in cfg.DATASETS.DISTANT]
    if not labelled:
        raise ValueError(
            "DATASETS.DISTANT leaves no training set whose relations may be counted: set "
            "MODEL.PREDICATE_PRIOR.COUNTS, to the knowledge base for example"
        )
    overlap = cfg.MODEL.RELATION.REQUIRE_OVERLAP
    return sum(
        count_relations(DatasetCatalog.get(name), vocabulary, require_overlap=overlap)
        for name in labelled
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
