"""Metadata of an exported model, which programs read as JSON and the model card tells people."""

from typing import Any

import torch
import torchvision
from detectron2.config import CfgNode
from detectron2.modeling.meta_arch import GeneralizedRCNN
from torch import nn

from vrd_d2.data.vocabulary import get_vocabulary
from vrd_d2.export.formats import OPSET
from vrd_d2.export.relations import ExportableRelations
from vrd_d2.version import __version__

_MEANINGS = {
    "image": ("uint8", ["3", "height", "width"], "resized image, channels in channel_order"),
    "boxes": ("float32", ["entities", "4"], "x1 y1 x2 y2 in pixels of the resized image"),
    "classes": ("int64", ["entities"], "positions in objects"),
    "scores": ("float32", ["entities"], "confidence of the classes"),
    "pairs": ("int64", ["pairs", "2"], "candidate pairs: rows (subject, object) of entities"),
    "predicate_probs": (
        "float32",
        ["pairs", "predicates + 1"],
        "softmax; columns are predicates, the last is no relation",
    ),
    "predicate_scores": (
        "float32",
        ["pairs", "predicates"],
        "what ranks; times the scores of subject and object it is the score of a triplet",
    ),
}


def describe(cfg: CfgNode, module: nn.Module, *, what: str, file_format: str) -> dict[str, Any]:
    """Return the metadata of an exportable module.

    Args:
        cfg: of the model.
        module: with `inputs` and `outputs`.
        what: "detector", "relations" or "full".
        file_format: key of :data:`~vrd_d2.export.names.FILES`.

    Returns:
        What JSON can hold.
    """
    vocabulary = get_vocabulary(cfg.MODEL.VOCABULARY)
    versions = {"vrd_d2": __version__, "torch": torch.__version__}
    versions["torchvision"] = torchvision.__version__
    if file_format == "onnx":
        versions["opset"] = OPSET
    relations = what != "detector"
    return {
        "format_version": 1,
        "what": what,
        "task": cfg.MODEL.RELATION.TASK if relations else "detection",
        "meta_architecture": cfg.MODEL.META_ARCHITECTURE if relations else "GeneralizedRCNN",
        "objects": list(vocabulary.objects),
        "predicates": list(vocabulary.predicates) if relations else [],
        "preprocessing": {
            "channel_order": cfg.INPUT.FORMAT,
            "min_size": cfg.INPUT.MIN_SIZE_TEST,
            "max_size": cfg.INPUT.MAX_SIZE_TEST,
            "resize": "shorter side to min_size unless the longer exceeds max_size; bilinear of "
            "Pillow on uint8 (antialiased); sides rounded half up",
            "in_model": _inside(cfg, module),
        },
        "inputs": [_entry(name) for name in module.inputs],
        "outputs": [_entry(name) for name in module.outputs],
        "thresholds": _thresholds(cfg, what),
        "image_encoder": _encoder(cfg) if relations else None,
        "versions": versions,
    }


def _entry(name: str) -> dict[str, Any]:
    dtype, shape, meaning = _MEANINGS[name]
    return {"name": name, "dtype": dtype, "shape": shape, "meaning": meaning}


def _encoder(cfg: CfgNode) -> dict[str, str]:
    if cfg.MODEL.VISUAL.ENCODER != "clip":
        return {"name": cfg.MODEL.VISUAL.ENCODER, "feature": cfg.MODEL.VISUAL.FEATURE}
    # A local path is of no use to others, and shows something of the machine.
    name, pretrained = (
        value.replace("\\", "/").rsplit("/", 1)[-1]
        for value in (cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED)
    )
    return {"name": name, "pretrained": pretrained}


def _inside(cfg: CfgNode, module: nn.Module) -> dict[str, Any]:
    """Return normalisation and padding, which are part of the exported graph."""
    found: dict[str, Any] = {}
    for part in module.modules():
        if isinstance(part, GeneralizedRCNN):
            found["detector"] = {
                "mean": part.pixel_mean.flatten().tolist(),
                "std": part.pixel_std.flatten().tolist(),
                "values": "0..255",
                "channel_order": cfg.INPUT.FORMAT,
                "padded_to": part.backbone.size_divisibility,
            }
        elif isinstance(part, ExportableRelations):
            visual = part.visual
            found["encoder"] = {
                "mean": part.pixel_mean.flatten().tolist(),
                "std": part.pixel_std.flatten().tolist(),
                "values": "0..1",
                "channel_order": "RGB",
                "padded_to": getattr(visual, "size_divisibility", None) or visual.divisor,
            }
    return found


def _thresholds(cfg: CfgNode, what: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if what != "relations":
        found["score"] = cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST
        found["nms_iou"] = cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST
        found["detections_per_image"] = cfg.TEST.DETECTIONS_PER_IMAGE
    if what != "detector":
        found["pairs_must_overlap"] = cfg.MODEL.RELATION.REQUIRE_OVERLAP
        found["ranking"] = cfg.MODEL.RELATION.RANKING
    return found
