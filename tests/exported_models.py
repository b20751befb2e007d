"""Small models with random heads, their exports, and their own answers, for the tests of export."""

import functools
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from torch import nn

from vrd_d2.config.loading import load_config
from vrd_d2.data.dataset_mapper import RelationMapper, relation_example
from vrd_d2.engine.build import load_detector
from vrd_d2.export import FILES, describe, exportable, write_model

REPOSITORY = Path(__file__).resolve().parent.parent
# As ViT-B/32, but two layers and a short text tower.
VIT_B32 = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 768, "patch_size": 32},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}


def build(config: str, *overrides: object) -> tuple[CfgNode, nn.Module]:
    """Build a model of a quick-start config, its random head sure enough to tell pairs apart."""
    cfg = load_config(
        REPOSITORY / "configs/quickstart" / config,
        ["MODEL.DEVICE", "cpu", "MODEL.VISUAL.FEATURE_CACHE", "", *overrides],
    )
    torch.manual_seed(0)
    model = DefaultTrainer.build_model(cfg).eval()
    load_detector(cfg, model)
    for name, parameter in model.named_parameters():
        if name.startswith("head.") and parameter.dim() > 1:
            nn.init.xavier_normal_(parameter)
    return cfg, model


@functools.cache
def folder() -> Path:
    """Where the exported models of this run lie."""
    return Path(tempfile.mkdtemp(prefix="vrd_d2_exported_"))


@functools.cache
def exported(
    config: str, what: str, file_format: str, *overrides: object
) -> tuple[CfgNode, nn.Module, Path]:
    """Config, model and file of an export, made once."""
    cfg, model = build(config, *overrides)
    module = exportable(model, what)
    metadata = describe(cfg, module, what=what, file_format=file_format)
    path = Path(tempfile.mkdtemp(dir=folder())) / FILES[file_format]
    write_model(module, path, file_format=file_format, metadata=metadata)
    return cfg, model, path


def clip_json(content: dict) -> str:
    """Path of an open_clip model config."""
    path = folder() / "vit_b32_short.json"
    path.write_text(json.dumps(content))
    return str(path)


def random_boxes(height: int, width: int, count: int, *, seed: int = 0) -> np.ndarray:
    """(count, 4) XYXY inside an image."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.random((count, 2, 2)), axis=1) * [width, height]
    return corners.reshape(count, 4)


@torch.no_grad()
def own_answer(
    cfg: CfgNode, model: nn.Module, image: np.ndarray, boxes=None, classes=None
) -> dict[str, np.ndarray]:
    """Return the answer of the model for an RGB image, in its pixels, named as by an export."""
    mapper = RelationMapper(cfg, is_train=False)
    bgr = np.ascontiguousarray(image[..., ::-1])
    example = relation_example(
        bgr, () if boxes is None else boxes, classes, augmentations=mapper.augmentations
    )
    output = model([example])[0]
    instances, relations = output["instances"], output["relations"]
    return {
        "boxes": instances.pred_boxes.tensor.numpy(),
        "classes": instances.pred_classes.numpy(),
        "scores": instances.scores.numpy(),
        "pairs": relations.pairs.numpy(),
        "predicate_probs": relations.predicate_probs.numpy(),
        "predicate_scores": relations.predicate_scores.numpy(),
    }
