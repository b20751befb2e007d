"""SOLVER: its values checked, in words, and what a resumed training takes from its checkpoint."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode

from vrd_d2.checkpoint.weights_files import NotFiniteError
from vrd_d2.config.files import merge_dump
from vrd_d2.config.loading import read_dump
from vrd_d2.config.ranges import check_values

logger = logging.getLogger(__name__)

_BY_STEPS, _BY_DECAYS = "WarmupMultiStepLR", "WarmupStepWithFixedGammaLR"
_SCHEDULERS = (_BY_STEPS, "WarmupCosineLR", _BY_DECAYS)
_WARMUPS = ("linear", "constant")
_CLIPPING = ("value", "norm", "full_model")
# Keys that say where a run takes place, and nothing about its results.
_ELSEWHERE = ("OUTPUT_DIR", "MODEL.WEIGHTS", "MODEL.DEVICE", "DATALOADER.NUM_WORKERS", "VIS_PERIOD")


def check_solver(cfg: CfgNode, processes: int) -> None:
    """Check what values of SOLVER a training needs, beyond the ranges of single keys.

    Args:
        cfg: of the training.
        processes: that train together.

    Raises:
        ValueError: names the key, its value and what it may be.
    """
    check_values(cfg)
    solver = cfg.SOLVER
    batch, reference = solver.IMS_PER_BATCH, solver.REFERENCE_WORLD_SIZE
    shared = batch // reference * processes if reference else batch
    for key, fits, wanted in (
        ("MAX_ITER", solver.MAX_ITER > 0, "1 or more: --eval-only evaluates without training"),
        ("BASE_LR", solver.BASE_LR > 0, "above 0"),
        ("BASE_LR_END", solver.BASE_LR_END <= solver.BASE_LR, "SOLVER.BASE_LR at most"),
        (
            "REFERENCE_WORLD_SIZE",
            not (reference and batch % reference),
            f"a number of processes that divides SOLVER.IMS_PER_BATCH {batch}, or 0",
        ),
        ("IMS_PER_BATCH", shared % processes == 0, f"a multiple of the {processes} processes"),
        ("LR_SCHEDULER_NAME", solver.LR_SCHEDULER_NAME in _SCHEDULERS, f"one of {_SCHEDULERS}"),
        (
            "STEPS",
            all(isinstance(step, int) and step > 0 for step in solver.STEPS),
            "iterations above 0",
        ),
        (
            "NUM_DECAYS",
            0 < solver.NUM_DECAYS < solver.MAX_ITER or solver.LR_SCHEDULER_NAME != _BY_DECAYS,
            f"1 or more, and below SOLVER.MAX_ITER {solver.MAX_ITER}",
        ),
        ("WARMUP_METHOD", solver.WARMUP_METHOD in _WARMUPS, f"one of {_WARMUPS}"),
        ("MOMENTUM", solver.MOMENTUM > 0 or not solver.NESTEROV, "above 0 for SOLVER.NESTEROV"),
    ):
        if not fits:
            raise ValueError(f"SOLVER.{key} is {solver[key]!r}: it must be {wanted}")
    clip = solver.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_TYPE not in _CLIPPING:
        raise ValueError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip.CLIP_TYPE!r}: it must be one of {_CLIPPING}"
        )


def decays_as_steps(cfg: CfgNode) -> CfgNode:
    """Return a config whose decays of the learning rate at equal distances are SOLVER.STEPS.

    Detectron2's own schedule of them fails in the last iteration.
    """
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME != _BY_DECAYS:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    parts = solver.NUM_DECAYS + 1
    cfg.SOLVER.STEPS = tuple(-(-solver.MAX_ITER * part // parts) for part in range(1, parts))
    cfg.SOLVER.LR_SCHEDULER_NAME = _BY_STEPS
    return cfg


def steps_before_the_end(cfg: CfgNode) -> CfgNode:
    """Return a config without steps of the learning rate that are never reached, which is logged.

    Detectron2 does so itself, but for a step at SOLVER.MAX_ITER, of which it makes an error.
    """
    steps = tuple(step for step in cfg.SOLVER.STEPS if step < cfg.SOLVER.MAX_ITER)
    if len(steps) == len(cfg.SOLVER.STEPS):
        return cfg
    if cfg.SOLVER.LR_SCHEDULER_NAME == _BY_STEPS:
        logger.warning(
            "SOLVER.STEPS %s: those from SOLVER.MAX_ITER %d on are never reached",
            list(cfg.SOLVER.STEPS),
            cfg.SOLVER.MAX_ITER,
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.STEPS = steps
    return cfg


def learning_rate_in_words(given: CfgNode, used: CfgNode, processes: int) -> str:
    """Say which learning rate is used with which batch, and whether one follows the other.

    Args:
        given: the config.
        used: what Detectron2 made of it by SOLVER.REFERENCE_WORLD_SIZE.
        processes: that train together.
    """
    solver, before = used.SOLVER, given.SOLVER
    batch = (
        f"SOLVER.BASE_LR {solver.BASE_LR:g} is used with batches of {solver.IMS_PER_BATCH} images "
        f"({solver.IMS_PER_BATCH // processes} in each of {processes} processes)"
    )
    reference = before.REFERENCE_WORLD_SIZE
    if reference in (0, processes):
        return (
            f"{batch} as it is: it is not scaled with the batch. SOLVER.REFERENCE_WORLD_SIZE, the "
            "number of processes that a config is meant for, scales both with their number"
        )
    return (
        f"{batch} for {solver.MAX_ITER} iterations: scaled from SOLVER.BASE_LR {before.BASE_LR:g}, "
        f"{before.IMS_PER_BATCH} images and {before.MAX_ITER} iterations for "
        f"SOLVER.REFERENCE_WORLD_SIZE {reference}"
    )


def changed_settings(cfg: CfgNode, stored: Any, iteration: int) -> CfgNode:
    """Return the config that a checkpoint was written with; log what is different now.

    Args:
        cfg: of the training that is resumed.
        stored: text of the config in the checkpoint.
        iteration: from which on `cfg` counts.
    """
    try:
        before = _read(stored, cfg)
    except (ValueError, TypeError, AttributeError) as error:
        logger.warning("%s: it is taken to be the one given", error)
        return cfg
    old, new = dict(_values(before)), dict(_values(cfg))
    changes = [
        f"{key} {old[key]!r} -> {value!r}"
        for key, value in new.items()
        if old.get(key, value) != value and key not in _ELSEWHERE
    ]
    if changes:
        logger.warning(
            "settings have changed since the checkpoint was written, and the new ones count from "
            "iteration %d on: %s",
            iteration,
            ", ".join(changes),
        )
    return before


def _read(stored: Any, cfg: CfgNode) -> CfgNode:
    source = "the config in the checkpoint"
    try:
        return read_dump(stored, source)
    except ValueError:
        # With keys of the user's own, which the config that is given has, too.
        before = cfg.clone()
        before.defrost()
        merge_dump(before, stored, source)
        return before


def _values(node: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from _values(value, f"{section}{name}.")
        else:
            yield f"{section}{name}", _as_lists(value)


def _as_lists(value: Any) -> Any:
    # A dump has no tuples.
    return [_as_lists(part) for part in value] if isinstance(value, (list, tuple)) else value


def optimizer_state(
    optimizer: torch.optim.Optimizer,
    stored: Mapping[str, Any],
    *,
    before: Callable[[], torch.optim.Optimizer],
    same_kind: bool,
) -> dict[str, Any]:
    """Return a state to load into an optimizer: momenta of before, all else its own.

    Args:
        optimizer: built by the config.
        stored: state of the one in the checkpoint.
        before: builds an optimizer of the same parameters as the one in the checkpoint was built,
            whose groups and so whose order of parameters may be others.
        same_kind: both are of one kind; momenta of another mean nothing.
    """
    own = optimizer.state_dict()
    if not same_kind:
        logger.warning("SOLVER.OPTIMIZER is another one than before: it starts without momenta")
        return own
    index = {id(parameter): i for i, parameter in enumerate(_parameters(optimizer))}
    order = [index[id(parameter)] for parameter in _parameters(before())]
    if sum(len(group["params"]) for group in stored["param_groups"]) != len(order):
        raise ValueError(
            "the checkpoint's optimizer has another number of weights than this model trains: "
            "set the config back to that of the checkpoint"
        )
    state = {order[i]: values for i, values in stored["state"].items()}
    _check_momenta(state, list(_parameters(optimizer)))
    return {"state": state, "param_groups": own["param_groups"]}


def _check_momenta(state: Mapping[int, Any], parameters: Sequence[torch.nn.Parameter]) -> None:
    """Raise ValueError unless momenta, by index, have the shapes of weights and are finite."""
    for index, values in state.items():
        for name, value in values.items():
            if not isinstance(value, torch.Tensor):
                continue
            shape = tuple(parameters[index].shape)
            if value.dim() and tuple(value.shape) != shape:  # without dimensions it counts steps
                text = f"the checkpoint's {name} of a weight {shape} has shape {tuple(value.shape)}"
                raise ValueError(f"{text}: start anew from its weights, with MODEL.WEIGHTS")
            if not torch.isfinite(value).all():
                raise NotFiniteError(
                    f"the checkpoint's {name} of a weight {shape} is not finite: delete the "
                    "checkpoint to go on from an earlier one"
                )


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[torch.nn.Parameter]:
    for group in optimizer.param_groups:
        yield from group["params"]
