"""Training and evaluation on Detectron2's trainer, hooks and evaluators."""

import collections
import contextlib
import functools
import logging
import os
import random
import re
import secrets
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, defaults, hooks, train_loop
from detectron2.evaluation import DatasetEvaluators
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from detectron2.utils import comm
from torch import nn

from vrd_d2.checkpoint.checkpointer import StrictCheckpointer, load_weights
from vrd_d2.checkpoint.folder import newest_checkpoint
from vrd_d2.checkpoint.stamp import STAMP, Stamp, stamp_of
from vrd_d2.checkpoint.weights_files import NotFiniteError, check_finite, first_line
from vrd_d2.data.datasets.setup import setup_datasets
from vrd_d2.data.source_files import located
from vrd_d2.engine.build import library_checks, load_detector
from vrd_d2.engine.checks import is_relation_model
from vrd_d2.engine.evaluation import guarded
from vrd_d2.engine.hooks import BestCheckpointer, without_torn_line
from vrd_d2.engine.loaders import evaluators, test_loader, training_loader
from vrd_d2.engine.solver import (
    changed_settings,
    check_solver,
    decays_as_steps,
    learning_rate_in_words,
    optimizer_state,
    steps_before_the_end,
)
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


@contextlib.contextmanager
def _state_of_a_training() -> Iterator[None]:
    """Turn what a state of another form raises in torch and Detectron2 into a ValueError."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"the state of the training in it has another form than this version's "
            f"({type(error).__name__}: {first_line(error)}): start anew from its weights, with "
            "MODEL.WEIGHTS and without --resume"
        ) from error


@contextlib.contextmanager
def _without_tracebacks() -> Iterator[None]:
    """Leave tracebacks of errors that users can mend out of the log, but say how training ended."""

    def of_the_program(record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], _FORESEEN))

    loop = logging.getLogger(train_loop.__name__)
    loop.addFilter(of_the_program)
    try:
        yield
    except _FORESEEN as error:
        # Errors of a loader's worker bring its traceback along.
        logger.error("training ended early: %s", (str(error).strip().splitlines() or [""])[-1])
        raise
    finally:
        loop.removeFilter(of_the_program)


_FORESEEN = (ValueError, OSError, FloatingPointError)


class Trainer(DefaultTrainer):
    """Detectron2's trainer with relation data, relation evaluators and a few solver options.

    It trains plain detectors too: for their configs it uses Detectron2's own mapper and evaluator.

    With SEED >= 0 a run is reproducible and a resumed run goes on as if it had not been stopped,
    on the CPU to the last bit: the data stream continues where it was, every example is augmented
    and every iteration draws its pairs with a seed of its own, and the scheduler, the optimizer and
    whatever else has a state are in the checkpoint. What SOLVER says counts also where the run
    began with other values.

    Attributes:
        run: a name of the training, which all of its checkpoints have.
        failed_evaluators: of the last evaluation in the course of the training, why each of them
            gave no results.
    """

    failed_evaluators: Sequence[str] = ()

    def __init__(self, cfg: CfgNode):
        processes = comm.get_world_size()
        check_solver(cfg, processes)
        # As Detectron2 would do it: what it makes of the values is checked, too.
        scaled = self.auto_scale_workers(cfg, processes)
        if scaled is not cfg:
            with located(f"SOLVER.REFERENCE_WORLD_SIZE, for {processes} processes"):
                check_solver(scaled, processes)
        setup_datasets(cfg)
        self.run = secrets.token_hex(8)
        self._resumed_from = ""
        with _cpu_ddp(cfg), library_checks(cfg):
            super().__init__(_without_grad_scaler(scaled))
        logger.info(learning_rate_in_words(cfg, scaled, processes))
        if cfg.SOLVER.AMP.ENABLED and cfg.SOLVER.AMP.PRECISION == "bfloat16":
            self.checkpointer.model.autocast_dtype = torch.bfloat16

    def resume_or_load(self, resume: bool = True) -> None:
        """Load all states of the newest whole checkpoint, or MODEL.WEIGHTS to start from.

        Raises:
            ValueError: no checkpoint in OUTPUT_DIR is whole; it, or MODEL.WEIGHTS, does not fit; or
                it was trained for longer than SOLVER.MAX_ITER.
        """
        path = self._checkpoint_to_resume() if resume else ""
        model = self.checkpointer.model
        if path:
            with located(path), _state_of_a_training():
                self.checkpointer.load(path)
            self.start_iter = self.iter + 1
            self._resumed_from = path
            self._trainer.reset_data_loader(
                lambda: self.build_train_loader(self.cfg, start_iter=self.start_iter)
            )
            return
        if resume:
            logger.info("there is no checkpoint in %s: training starts anew", self.cfg.OUTPUT_DIR)
        if self.cfg.MODEL.WEIGHTS:
            expected = stamp_of(self.cfg)
            load_weights(model, self.cfg.MODEL.WEIGHTS, expected=expected, start=True)
        if getattr(model, "detector", None) is not None and not (
            self.cfg.MODEL.DETECTOR.WEIGHTS or self.cfg.MODEL.WEIGHTS
        ):
            raise ValueError(
                "the detector has no weights: train it (configs/faster_rcnn_vg.yaml) and set "
                "MODEL.DETECTOR.WEIGHTS to its checkpoint"
            )
        if getattr(model, "needs_counts", False):
            model.set_counts(training_counts(self.cfg))

    def _checkpoint_to_resume(self) -> str:
        """Return the path of the checkpoint that all processes resume from, or ""."""
        found = wrong = problem = ""
        if comm.is_main_process():
            parameters = {name for name, _ in self.checkpointer.model.named_parameters()}
            try:
                found, wrong = newest_checkpoint(self.cfg.OUTPUT_DIR, parameters=parameters)
            except ValueError as error:
                problem = str(error)
        # The first process decides: another may see another state of a shared folder.
        found, wrong, problem = comm.all_gather((found, wrong, problem))[0]
        if problem:
            raise ValueError(problem)
        if found and not all(comm.all_gather(os.path.isfile(found))):
            raise ValueError(
                f"not all processes can read {found}: OUTPUT_DIR must be a folder that they share"
            )
        if wrong:
            logger.warning("%s: %s; going on from %s", self.cfg.OUTPUT_DIR, wrong, found)
        return found

    def train(self) -> Any:
        """Train from the first or the resumed iteration on, and evaluate.

        Raises:
            NotFiniteError: training has diverged; says what to do.
        """
        if self.start_iter >= self.max_iter:
            logger.warning(
                "%s is of iteration %d, the last one by SOLVER.MAX_ITER %d: nothing is left to "
                "train, and it is evaluated on DATASETS.TEST",
                self._resumed_from,
                self.start_iter - 1,
                self.max_iter,
            )
            final = Path(self.cfg.OUTPUT_DIR, "model_final.pth")
            if not comm.all_gather(final.exists())[0]:  # a kill or a full disk came before it
                self.checkpointer.save(final.stem, iteration=self.max_iter - 1)
        with _without_tracebacks():
            try:
                return super().train()
            except FloatingPointError as error:
                raise NotFiniteError(self._diverged(error)) from error

    def _diverged(self, error: FloatingPointError) -> str:
        solver = self.cfg.SOLVER
        remedies = [f"a smaller SOLVER.BASE_LR than {solver.BASE_LR:g}"]
        if not solver.CLIP_GRADIENTS.ENABLED:
            remedies.append("SOLVER.CLIP_GRADIENTS.ENABLED True")
        if solver.AMP.ENABLED:
            remedies.append("SOLVER.AMP.PRECISION bfloat16")
        last = self.checkpointer.last_saved or self._resumed_from
        begin = "start anew (no checkpoint was written yet)"
        if last:
            begin = (
                f"go on with --resume from the last good checkpoint, {last} (delete it to go on "
                "from an earlier one),"
            )
        reason = "; ".join(line.strip().rstrip("!.") for line in str(error).splitlines())
        reason = re.sub(r"np\.float64\((.*?)\)", r"\1", reason)
        return f"training has diverged: {reason}. To mend it, {begin} with {' or '.join(remedies)}"

    def after_train(self) -> None:
        """Run what hooks do in the end; of a run that did not come so far, what they must close."""
        if self.iter >= self.max_iter:
            self.iter = self.max_iter  # one more, where nothing was left to train
            super().after_train()
            return
        self.storage.iter = self.iter
        for hook in self._hooks:
            if not isinstance(hook, (hooks.EvalHook, hooks.BestCheckpointer)):
                with contextlib.suppress(OSError):  # what has ended the run, a full disk say
                    hook.after_train()

    def before_step(self) -> None:
        """Seed the iteration, so that what it draws does not depend on how the run got there."""
        super().before_step()
        if self.cfg.SEED >= 0:
            # A loader draws a number when it starts, in the first iteration of each process.
            _ = self._trainer._data_loader_iter
            seed = self.cfg.SEED + self.iter * comm.get_world_size() + comm.get_rank()
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of loop, hooks and optimizer, and the name of the run."""
        # After the loop the iteration is the one that would be next.
        last = min(self.iter, self.max_iter - 1)
        return {**super().state_dict(), "iteration": last, "run": self.run}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load the states of a training; SOLVER is the config's, whatever it was before."""
        done = state_dict["iteration"] + 1
        if done > self.max_iter:
            raise ValueError(
                f"it has been trained for {done} iterations, SOLVER.MAX_ITER is {self.max_iter}: "
                "set it to more, or evaluate an earlier checkpoint with --eval-only MODEL.WEIGHTS"
            )
        before = self.cfg
        if self.checkpointer.stored is not None:
            before = changed_settings(self.cfg, self.checkpointer.stored.get("config"), done)
        rates = list(self.scheduler.base_lrs)
        own = self._trainer.state_dict()
        inner = {
            **own,  # a scaler of gradients, say, which the training did without
            **state_dict["_trainer"],
            "optimizer": optimizer_state(
                self.optimizer,
                state_dict["_trainer"]["optimizer"],
                before=lambda: self.build_optimizer(before, self.checkpointer.model),
                same_kind=before.SOLVER.OPTIMIZER == self.cfg.SOLVER.OPTIMIZER,
            ),
        }
        super().load_state_dict({**state_dict, "_trainer": inner})
        self.run = state_dict.get("run", self.run)
        # The schedule of the config at this iteration.
        self.scheduler.base_lrs, self.scheduler.last_epoch = rates, done
        rates = self.scheduler.get_lr()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

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
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        """Build SOLVER.LR_SCHEDULER_NAME."""
        cfg = decays_as_steps(steps_before_the_end(cfg))
        return super().build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, *, start_iter: int = 0):
        """Build the loader of training batches from an iteration on.

        Raises:
            ValueError: the dataset's classes are not those of MODEL.VOCABULARY.
        """
        return training_loader(cfg, start_iter=start_iter)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        """Build the loader of all images of a dataset, split among the processes."""
        return test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None):
        """Build evaluators: relation metrics, and detection AP where boxes are detected."""
        return evaluators(cfg, dataset_name, output_folder)

    def build_hooks(self) -> list:
        """Build Detectron2's hooks, and the one of the best checkpoint by TEST.BEST_METRIC."""
        # Here, as Detectron2 makes its checkpointer just before, and its hooks hold on to one.
        self.checkpointer = StrictCheckpointer(
            self.checkpointer.model,
            stamp_of(self.cfg),
            self.cfg.OUTPUT_DIR,
            trainer=weakref.proxy(self),
            **{STAMP: Stamp(self.cfg)},
        )
        built = super().build_hooks()
        evaluation = [isinstance(hook, hooks.EvalHook) for hook in built].index(True)
        built[evaluation] = hooks.EvalHook(self.cfg.TEST.EVAL_PERIOD, self._test_in_training)
        if self.cfg.TEST.BEST_METRIC and self.cfg.TEST.EVAL_PERIOD > 0:
            # Behind EvalHook, which stores the metric, and before the writers.
            best = BestCheckpointer(
                built[evaluation],
                self.cfg.TEST.EVAL_PERIOD,
                self.checkpointer,
                self.cfg.TEST.BEST_METRIC,
            )
            built.insert(evaluation + 1, best)
        return built

    def _test_in_training(self) -> dict:
        """Evaluate on DATASETS.TEST; an evaluator that fails is told, and ends no training."""
        names = self.cfg.DATASETS.TEST
        guards = {
            name: guarded(functools.partial(self.build_evaluator, self.cfg, name)) for name in names
        }
        results = self.test(
            self.cfg, self.model, [DatasetEvaluators(guards[name]) for name in names]
        )
        self.failed_evaluators = [
            f"{name}: {guard.failure}" for name in guards for guard in guards[name] if guard.failure
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

    def build_writers(self) -> list:
        """Build Detectron2's writers, which append to what a killed run has left."""
        without_torn_line(Path(self.cfg.OUTPUT_DIR, "metrics.json"))
        return super().build_writers()

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> dict:
        """Evaluate on DATASETS.TEST.

        Raises:
            NotFiniteError: a weight is not finite, of which a detector finds nothing.
        """
        check_finite(model)
        return super().test(cfg, model, evaluators)
