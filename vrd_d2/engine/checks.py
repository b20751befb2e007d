"""Checks that datasets suit a model, made before anything is trained or evaluated."""

import itertools
import logging
from collections.abc import Sequence

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY

from vrd_d2.data.boxes import annotation_xyxy, check_layout
from vrd_d2.data.datasets.opening import unknown_dataset
from vrd_d2.data.detections import results_files
from vrd_d2.data.knowledge.knowledge_base import KnowledgeBase
from vrd_d2.data.source_files import located
from vrd_d2.data.vocabulary import get_vocabulary
from vrd_d2.evaluation.protocols import get_protocol
from vrd_d2.modeling.relation_model import RelationModel
from vrd_d2.tasks import Task

logger = logging.getLogger(__name__)
_LOOKED_AT = 1000  # images that relations are counted in


def is_relation_model(cfg: CfgNode) -> bool:
    """Return whether the meta-architecture predicts relations (else it is a plain detector)."""
    return issubclass(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE), RelationModel)


def check_datasets(dataset_names: Sequence[str]) -> None:
    """Check that datasets are registered, have images, and boxes in pixels.

    Raises:
        ValueError: names the dataset and the remedy.
    """
    for name in dataset_names:
        if name not in DatasetCatalog:
            raise ValueError(
                f"{unknown_dataset(name, DatasetCatalog)}; correct DATASETS.TRAIN and TEST, or "
                "name its file there or in DATASETS.REGISTER"
            )
        records = DatasetCatalog.get(name)
        if not len(records):
            raise ValueError(
                f"dataset {name!r} has no images (DATASETS.EXCLUDE and MISSING_IMAGES leave "
                "some out): take another one"
            )
        check_layout(records, f"dataset {name!r}")


def check_vocabulary(cfg: CfgNode, dataset_names: list[str] | tuple[str, ...]) -> None:
    """Check that datasets have the very classes and predicates of MODEL.VOCABULARY.

    Raises:
        ValueError: names the dataset, the first difference and the remedy.
    """
    vocabulary = get_vocabulary(cfg.MODEL.VOCABULARY)
    kinds = [("thing_classes", vocabulary.objects)]
    if is_relation_model(cfg):
        kinds.append(("predicate_classes", vocabulary.predicates))
    for dataset_name in dataset_names:
        metadata = MetadataCatalog.get(dataset_name)
        for kind, names in kinds:
            found = list(metadata.get(kind, []))
            if found == list(names) or (kind == "predicate_classes" and not found):
                continue  # boxes only: the model's predicates are as good as any
            index = next(
                (i for i, (a, b) in enumerate(zip(found, names, strict=False)) if a != b),
                min(len(found), len(names)),
            )
            raise ValueError(
                f"dataset {dataset_name!r} has {len(found)} {kind}, MODEL.VOCABULARY "
                f"{cfg.MODEL.VOCABULARY!r} has {len(names)}; they differ at id {index} "
                f"({found[index : index + 1]} and {list(names[index : index + 1])}): set "
                "MODEL.VOCABULARY to the dataset's own JSON"
            )


def evaluated_task(cfg: CfgNode, dataset_name: str) -> Task:
    """Return the task by which a dataset is evaluated: SGDet where its boxes are given results."""
    if dataset_name in results_files(cfg.DATASETS.DETECTIONS):
        return Task.SGDET  # the boxes are not the annotation's: they must be matched
    return Task(cfg.MODEL.RELATION.TASK)


def check_protocol(cfg: CfgNode) -> None:
    """Check that DATASETS.TEST can be evaluated by TEST.RELATION, before a model is trained.

    Raises:
        ValueError: an unknown protocol; annotated pairs where boxes are detected.
    """
    if not is_relation_model(cfg):
        return
    for name in cfg.DATASETS.TEST or ("",):
        with located(f"TEST.RELATION, {name}" if name else "TEST.RELATION"):
            get_protocol(
                cfg.TEST.RELATION.PROTOCOL,
                annotated_pairs=cfg.TEST.RELATION.ANNOTATED_PAIRS,
                task=evaluated_task(cfg, name),
            )


def check_training_data(cfg: CfgNode) -> None:
    """Check that DATASETS.TRAIN has what the model learns from; the datasets have been read.

    Raises:
        ValueError: the classes are not MODEL.VOCABULARY's, a dataset has boxes only, no relation
            or candidate of one between two boxes, or no related boxes that overlap though the
            model takes no others, or DATASETS.DETECTIONS would replace annotated boxes that are
            learnt from.
    """
    check_vocabulary(cfg, cfg.DATASETS.TRAIN)
    if not is_relation_model(cfg):
        return
    files = results_files(cfg.DATASETS.DETECTIONS)
    for name in cfg.DATASETS.TRAIN:
        labelled = name not in cfg.DATASETS.DISTANT  # else a knowledge base gives the relations
        if labelled and not MetadataCatalog.get(name).get("predicate_classes"):
            raise ValueError(
                f"dataset {name!r} of DATASETS.TRAIN has boxes only, and no relations to learn "
                "from: train on one with relations, or name it in DATASETS.DISTANT as well"
            )
        if labelled:
            _check_relations(name)
        elif cfg.MODEL.DISTANT.KNOWLEDGE_BASE:
            _check_candidates(cfg, name)
        if labelled and cfg.MODEL.RELATION.REQUIRE_OVERLAP:
            _check_overlap(name)
        if name in files and Task(cfg.MODEL.RELATION.TASK).boxes_given:
            raise ValueError(
                f"DATASETS.DETECTIONS has a row for the training set {name!r}, but "
                f"{cfg.MODEL.RELATION.TASK} learns from annotated boxes: remove the rows of "
                "training sets, or set MODEL.RELATION.TASK to sgdet"
            )


def _check_relations(name: str) -> None:
    """Raise unless some relation joins two boxes; one of a box to itself is not learnt."""
    records = DatasetCatalog.get(name)
    for record in records:
        rows = np.asarray(record.get("relations", ()), np.int64).reshape(-1, 3)
        if (rows[:, 0] != rows[:, 1]).any():
            return
    raise ValueError(
        f"dataset {name!r} of DATASETS.TRAIN has no relation between two boxes in any of its "
        f"{len(records)} images, and so nothing to learn from: correct its relations, or name it "
        "in DATASETS.DISTANT as well"
    )


def _check_candidates(cfg: CfgNode, name: str) -> None:
    """Raise unless some image has two boxes that the knowledge base has a predicate for."""
    distant, records = cfg.MODEL.DISTANT, DatasetCatalog.get(name)
    base = KnowledgeBase.load(distant.KNOWLEDGE_BASE)
    triplets = base.triplets[base.triplet_counts >= distant.MIN_COUNT]
    known = set(map(tuple, triplets[:, [0, 2]].tolist()))
    for record in records:
        classes = [annotation["category_id"] for annotation in record["annotations"]]
        if not known.isdisjoint(itertools.permutations(classes, 2)):
            return
    raise ValueError(
        f"dataset {name!r} of DATASETS.DISTANT has no image with two boxes whose classes "
        f"MODEL.DISTANT.KNOWLEDGE_BASE {distant.KNOWLEDGE_BASE!r} joins by a predicate (with "
        f"MIN_COUNT {distant.MIN_COUNT}, {len(known)} pairs of classes), and so nothing to learn "
        "from: make the base from more captions, or lower MIN_COUNT"
    )


def _check_overlap(name: str) -> None:
    """Warn or raise for relations that REQUIRE_OVERLAP leaves out, judged by the first images."""
    related = apart = 0
    records = DatasetCatalog.get(name)
    for record in itertools.islice(records, _LOOKED_AT):
        rows = np.asarray(record.get("relations", ()), np.int64).reshape(-1, 3)
        boxes = np.array([annotation_xyxy(a) for a in record["annotations"]]).reshape(-1, 4)
        subjects, objects = boxes[rows[:, 0]], boxes[rows[:, 1]]
        low = np.maximum(subjects[:, :2], objects[:, :2])
        high = np.minimum(subjects[:, 2:], objects[:, 2:])
        related += len(rows)
        apart += int((high <= low).any(1).sum())
    if not apart:
        return
    found = (
        f"{apart} of {related} relations in the first {min(len(records), _LOOKED_AT)} images of "
        f"the training set {name!r} are between boxes that do not overlap, which "
        "MODEL.RELATION.REQUIRE_OVERLAP leaves out"
    )
    if apart == related and len(records) <= _LOOKED_AT:
        raise ValueError(f"{found}: nothing is left to learn from; set it to False")
    if 2 * apart > related:
        logger.warning("%s: set it to False to learn them, too", found)
