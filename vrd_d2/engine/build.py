"""Mappers and models out of a config, with the weights that it names."""

import contextlib
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from torch import nn

from vrd_d2.checkpoint.checkpointer import detector_file, load_weights
from vrd_d2.checkpoint.stamp import stamp_of
from vrd_d2.data.dataset_mapper import DetectionMapper, RelationMapper
from vrd_d2.data.detections import load_own_boxes
from vrd_d2.engine.checks import is_relation_model

_LIBRARIES = ("detectron2", "fvcore", "yacs", "torch", "torchvision", "timm", "open_clip")


@contextlib.contextmanager
def library_checks(cfg: CfgNode) -> Iterator[None]:
    """Turn what libraries raise for values of a config into a ValueError.

    Detectron2 and torch check values by assertions, registries and errors of many types. Errors
    that other code raises, or that the machine causes, pass.

    Raises:
        ValueError: names the library's module and its words.
    """
    try:
        yield
    except (ValueError, OSError, MemoryError, ImportError, FloatingPointError):
        raise
    except Exception as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        module = frame.f_globals.get("__name__", "")
        text = f"{type(error).__name__} {error}".splitlines()[0]
        if module.partition(".")[0] not in _LIBRARIES or "memory" in text:
            raise
        raise ValueError(
            f"{cfg.MODEL.META_ARCHITECTURE} cannot be built from this config: {text} (in "
            f"{module}): correct the keys that you changed"
        ) from error


def build_mapper(
    cfg: CfgNode, dataset_names: Sequence[str], *, is_train: bool
) -> RelationMapper | DetectionMapper:
    """Build what turns dicts of datasets into examples, with boxes of DATASETS.DETECTIONS."""
    if not is_relation_model(cfg):
        return DetectionMapper(cfg, is_train=is_train)
    detections = load_own_boxes(cfg.DATASETS.DETECTIONS, dataset_names)
    return RelationMapper(cfg, is_train=is_train, detections=detections)


def load_detector(cfg: CfgNode, model: nn.Module) -> None:
    """Load MODEL.DETECTOR.WEIGHTS, a file or the name of one that ships, into the detector."""
    weights = cfg.MODEL.DETECTOR.WEIGHTS
    if weights and getattr(model, "detector", None) is not None:
        file = detector_file(weights)
        load_weights(model.detector, file, expected=stamp_of(cfg, part="detector"))


def build_trained_model(cfg: CfgNode) -> nn.Module:
    """Build a model ready for evaluation, from MODEL.WEIGHTS alone where that is set.

    Raises:
        ValueError: there are no weights for a model that needs them, or they do not fit.
    """
    with library_checks(cfg):
        model = DefaultTrainer.build_model(cfg).eval()
    if cfg.MODEL.WEIGHTS:
        load_weights(model, cfg.MODEL.WEIGHTS, expected=stamp_of(cfg))
        model.weights_file = cfg.MODEL.WEIGHTS
        return model
    if any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f"{cfg.MODEL.META_ARCHITECTURE} has no weights: set MODEL.WEIGHTS (--weights, or "
            "`weights` of a Predictor) to the checkpoint of a finished training, such as "
            f"{Path(cfg.OUTPUT_DIR) / 'model_final.pth'}"
        )
    load_detector(cfg, model)
    return model
