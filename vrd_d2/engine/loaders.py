"""Loaders of training and test examples, and the evaluators of a dataset, out of a config."""

from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.evaluation import DatasetEvaluators
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch.utils.data import Dataset, Sampler

from vrd_d2.data.build import SeededExamples, training_records
from vrd_d2.data.datasets.setup import setup_datasets
from vrd_d2.data.samplers import (
    GroupingSampler,
    NumberingSampler,
    SkippingSampler,
    predicate_repeat_factors,
    wide_images,
)
from vrd_d2.data.vocabulary import get_vocabulary
from vrd_d2.engine.build import build_mapper
from vrd_d2.engine.checks import (
    check_datasets,
    check_protocol,
    check_training_data,
    check_vocabulary,
    evaluated_task,
    is_relation_model,
)
from vrd_d2.evaluation import RelationEvaluator
from vrd_d2.evaluation.detection import DetectionEvaluator


def training_loader(cfg: CfgNode, *, start_iter: int = 0):
    """Build the loader of training batches from an iteration on.

    Raises:
        ValueError: the dataset's classes are not those of MODEL.VOCABULARY.
    """
    setup_datasets(cfg)
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: name the dataset to train on")
    check_datasets(cfg.DATASETS.TRAIN)
    dataset = training_records(
        cfg.DATASETS.TRAIN,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        distant=cfg.DATASETS.DISTANT if is_relation_model(cfg) else (),
    )
    check_training_data(cfg)
    # Before hours of training, what would end them.
    check_protocol(cfg)
    check_datasets(cfg.DATASETS.TEST)
    check_vocabulary(cfg, cfg.DATASETS.TEST)
    per_process = cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
    sampler = _training_sampler(cfg, dataset)
    if cfg.DATALOADER.ASPECT_RATIO_GROUPING:
        sampler = GroupingSampler(sampler, wide_images(dataset), per_process)
    mapper = build_mapper(cfg, cfg.DATASETS.TRAIN, is_train=True)
    seed = (cfg.SEED, comm.get_rank()) if cfg.SEED >= 0 else None
    return build_detection_train_loader(
        SeededExamples(dataset, mapper, seed=seed),
        mapper=None,
        sampler=SkippingSampler(NumberingSampler(sampler), start_iter * per_process),
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=False,  # as the sampler has done it
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def test_loader(cfg: CfgNode, dataset_name: str):
    """Build the loader of all images of a dataset, split among the processes."""
    setup_datasets(cfg)
    check_datasets([dataset_name])
    mapper = build_mapper(cfg, [dataset_name], is_train=False)
    loader = build_detection_test_loader(cfg, dataset_name, mapper=mapper)
    check_vocabulary(cfg, [dataset_name])
    return loader


def evaluators(
    cfg: CfgNode, dataset_name: str, output_folder: str | None = None
) -> DatasetEvaluators:
    """Build evaluators: relation metrics, and detection AP where boxes are detected."""
    setup_datasets(cfg)
    check_protocol(cfg)
    # The name may be the path of a file.
    name = "_".join(part for part in Path(dataset_name).parts if part.strip("./"))
    folder = output_folder or str(Path(cfg.OUTPUT_DIR) / "inference" / name)
    evaluators = []
    if is_relation_model(cfg):
        evaluators.append(
            RelationEvaluator(
                dataset_name,
                task=evaluated_task(cfg, dataset_name),
                protocol=cfg.TEST.RELATION.PROTOCOL,
                annotated_pairs=cfg.TEST.RELATION.ANNOTATED_PAIRS,
                output_dir=folder,
                write_predictions=cfg.TEST.RELATION.WRITE_PREDICTIONS,
                evaluated=_evaluated(cfg),
            )
        )
    if not is_relation_model(cfg) or cfg.MODEL.RELATION.TASK == "sgdet":
        evaluators.append(DetectionEvaluator(dataset_name, output_dir=folder))
    return DatasetEvaluators(evaluators)


def _training_sampler(cfg: CfgNode, dataset: list[dict] | Dataset) -> Sampler:
    seed = cfg.SEED if cfg.SEED >= 0 else None
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name == "TrainingSampler":
        return TrainingSampler(len(dataset), seed=seed)
    if name != "RepeatFactorTrainingSampler":
        raise ValueError(
            f"DATALOADER.SAMPLER_TRAIN is {name!r}: choose TrainingSampler or "
            "RepeatFactorTrainingSampler"
        )
    threshold = cfg.DATALOADER.REPEAT_THRESHOLD
    if is_relation_model(cfg):
        num_predicates = len(get_vocabulary(cfg.MODEL.VOCABULARY).predicates)
        factors = predicate_repeat_factors(dataset, num_predicates, threshold)
    else:
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dataset, threshold
        )
    return RepeatFactorTrainingSampler(factors, seed=seed)


def _evaluated(cfg: CfgNode) -> dict[str, Any]:
    """Return which weights are evaluated now, so that results name what they are of."""
    try:
        iteration, last = get_event_storage().iter, cfg.SOLVER.MAX_ITER
    except AssertionError:  # no training is going on
        return {"weights": cfg.MODEL.WEIGHTS}
    # Detectron2 counts one more when training is over, and even then if it had nothing to do.
    done = iteration + 1 if iteration < last else max(last, iteration - 1)
    return {"iteration": done, "max_iter": last}
