"""Training and evaluation on Detectron2's trainer, hooks and evaluators."""

import collections
import contextlib
import functools
import logging
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import (
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.engine import DefaultTrainer, defaults, hooks
from detectron2.evaluation import DatasetEvaluators
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.utils.data import Dataset, Sampler

from vrd_d2.checkpoint.checkpointer import SafeCheckpointer
from vrd_d2.checkpoint.stamp import STAMP, Stamp
from vrd_d2.data.build import training_records
from vrd_d2.data.datasets.setup import setup_datasets
from vrd_d2.data.samplers import SkippingSampler, predicate_repeat_factors
from vrd_d2.data.vocabulary import get_vocabulary
from vrd_d2.engine.build import build_mapper, library_checks, load_detector
from vrd_d2.engine.checks import (
    check_datasets,
    check_protocol,
    check_training_data,
    check_vocabulary,
    evaluated_task,
    is_relation_model,
)
from vrd_d2.engine.evaluation import BestCheckpointer, guarded
from vrd_d2.evaluation import RelationEvaluator
from vrd_d2.evaluation.detection import DetectionEvaluator
from vrd_d2.modeling.frequency import training_counts

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def _cpu_ddp(cfg: CfgNode) -> Iterator[None]:
    """Give DDP no GPU on the CPU, where DefaultTrainer would pass it the rank as one."""
    if cfg.MODEL.DEVICE != "cpu":
        yield
        return
    original = defaults.create_ddp_model
    defaults.create_ddp_model = functools.partial(original, device_ids=None)
    try:
        yield
    finally:
        defaults.create_ddp_model = original


def _without_grad_scaler(cfg: CfgNode) -> CfgNode:
    """Return a config whose SOLVER.AMP suits Detectron2's trainer: float16, a scaler, CUDA.

    bfloat16 has the range of float32 and needs neither: the model's own autocast is enough.
    """
    amp = cfg.SOLVER.AMP
    if not amp.ENABLED:
        return cfg
    if amp.PRECISION == "float16" and cfg.MODEL.DEVICE != "cpu":
        return cfg
    if amp.PRECISION != "bfloat16" or not is_relation_model(cfg):
        raise ValueError(
            f"SOLVER.AMP.PRECISION is {amp.PRECISION!r}: choose float16 (on CUDA) or bfloat16 "
            "(relation models, on CUDA and on the CPU)"
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.AMP.ENABLED = False
    return cfg


def _evaluated(cfg: CfgNode) -> dict[str, Any]:
    """Return which weights are evaluated now, so that results name what they are of."""
    try:
        iteration, last = get_event_storage().iter, cfg.SOLVER.MAX_ITER
    except AssertionError:  # no training is going on
        return {"weights": cfg.MODEL.WEIGHTS}
    # Detectron2 counts one more when training is over, and even then if it had nothing to do.
    done = iteration + 1 if iteration < last else max(last, iteration - 1)
    return {"iteration": done, "max_iter": last}


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


class Trainer(DefaultTrainer):
    """Detectron2's trainer with relation data, relation evaluators and a few solver options.

    It trains plain detectors too: for their configs it uses Detectron2's own mapper and evaluator.

    With SEED >= 0 a run is reproducible and a resumed run goes on as if it had not been stopped:
    the data stream continues where it was, and every iteration draws its pairs from another seed.
    (Not so for augmentation by chance, scales or flips, whose state lies in the loader's workers.)

    Attributes:
        failed_evaluators: of the last evaluation in the course of the training, why each of them
            gave no results.
    """

    failed_evaluators: Sequence[str] = ()

    def __init__(self, cfg: CfgNode):
        setup_datasets(cfg)
        with _cpu_ddp(cfg), library_checks(cfg):
            super().__init__(_without_grad_scaler(cfg))
        if cfg.SOLVER.AMP.ENABLED and cfg.SOLVER.AMP.PRECISION == "bfloat16":
            self.checkpointer.model.autocast_dtype = torch.bfloat16

    def resume_or_load(self, resume: bool = True) -> None:
        """Load weights, or all states of the last checkpoint with the position in the data."""
        super().resume_or_load(resume)
        model = self.checkpointer.model
        if (
            not self.start_iter
            and getattr(model, "detector", None) is not None
            and not (self.cfg.MODEL.DETECTOR.WEIGHTS or self.cfg.MODEL.WEIGHTS)
        ):
            raise ValueError(
                "the detector has no weights: train it (configs/faster_rcnn_vg.yaml) and set "
                "MODEL.DETECTOR.WEIGHTS to its checkpoint"
            )
        if not self.start_iter and getattr(model, "needs_counts", False):
            model.set_counts(training_counts(self.cfg))
        if self.start_iter:
            self._trainer.reset_data_loader(
                lambda: self.build_train_loader(self.cfg, start_iter=self.start_iter)
            )

    def before_step(self) -> None:
        """Seed the iteration, so that what it draws does not depend on how the run got there."""
        super().before_step()
        if self.cfg.SEED >= 0:
            torch.manual_seed(self.cfg.SEED + self.iter * comm.get_world_size() + comm.get_rank())

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Build the meta-architecture, with the frozen detector of MODEL.DETECTOR.WEIGHTS."""
        model = super().build_model(cfg)
        load_detector(cfg, model)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """Build SOLVER.OPTIMIZER: "SGD" or "AdamW"."""
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError(
                f"this {cfg.MODEL.META_ARCHITECTURE} has nothing to train: run it with --eval-only"
            )
        if cfg.SOLVER.OPTIMIZER == "SGD":
            return super().build_optimizer(cfg, model)
        if cfg.SOLVER.OPTIMIZER != "AdamW":
            raise ValueError(f"SOLVER.OPTIMIZER is {cfg.SOLVER.OPTIMIZER!r}: choose SGD or AdamW")
        params = get_default_optimizer_params(
            model,
            base_lr=cfg.SOLVER.BASE_LR,
            weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
            bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
            weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        )
        optimizer = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
        return optimizer(params, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, *, start_iter: int = 0):
        """Build the loader of training batches from an iteration on.

        Raises:
            ValueError: the dataset's classes are not those of MODEL.VOCABULARY.
        """
        setup_datasets(cfg)
        check_datasets(cfg.DATASETS.TRAIN)
        dataset = training_records(
            cfg.DATASETS.TRAIN,
            filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
            distant=cfg.DATASETS.DISTANT if is_relation_model(cfg) else (),
        )
        check_training_data(cfg)
        check_protocol(cfg)
        per_process = cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
        return build_detection_train_loader(
            cfg,
            dataset=dataset,
            mapper=build_mapper(cfg, cfg.DATASETS.TRAIN, is_train=True),
            sampler=SkippingSampler(_training_sampler(cfg, dataset), start_iter * per_process),
        )

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        """Build the loader of all images of a dataset, split among the processes."""
        setup_datasets(cfg)
        check_datasets([dataset_name])
        mapper = build_mapper(cfg, [dataset_name], is_train=False)
        loader = build_detection_test_loader(cfg, dataset_name, mapper=mapper)
        check_vocabulary(cfg, [dataset_name])
        return loader

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None):
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

    def build_hooks(self) -> list:
        """Build Detectron2's hooks, and the one of the best checkpoint by TEST.BEST_METRIC."""
        # Here, as Detectron2 makes its checkpointer just before, and its hooks hold on to one.
        self.checkpointer = SafeCheckpointer(
            self.checkpointer.model,
            self.cfg.OUTPUT_DIR,
            trainer=weakref.proxy(self),
            **{STAMP: Stamp(self.cfg)},
        )
        built = super().build_hooks()
        evaluation = [isinstance(hook, hooks.EvalHook) for hook in built].index(True)
        built[evaluation] = hooks.EvalHook(self.cfg.TEST.EVAL_PERIOD, self._test_in_training)
        if self.cfg.TEST.BEST_METRIC and self.cfg.TEST.EVAL_PERIOD > 0:
            best = BestCheckpointer(
                self.cfg.TEST.EVAL_PERIOD, self.checkpointer, self.cfg.TEST.BEST_METRIC
            )
            # Behind EvalHook, which stores the metric, and before the writers.
            built.insert(evaluation + 1, best)
        return built

    def _test_in_training(self) -> dict:
        """Evaluate on DATASETS.TEST; an evaluator that fails is told, and ends no training."""
        names = self.cfg.DATASETS.TEST
        guards = {
            name: guarded(functools.partial(self.build_evaluator, self.cfg, name)) for name in names
        }
        results = self.test(self.cfg, self.model, list(map(DatasetEvaluators, guards.values())))
        self.failed_evaluators = [
            f"{name}: {guard.failure}" for name in names for guard in guards[name] if guard.failure
        ]
        for failure in self.failed_evaluators:
            logger.warning(
                "iteration %d, %s: these results are missing; the training goes on, and "
                "--eval-only evaluates a checkpoint",
                self.iter + 1,
                failure,
            )
        # TEST.EXPECTED_RESULTS are looked up here: what is missing is not as expected.
        self._last_eval_results = collections.defaultdict(dict, results)
        return self._last_eval_results
