"""Small UnionCLIP models for tests."""

import copy
import json

import torch
from conftest import SMALL_CLIP
from detectron2.data import DatasetCatalog

from vrd_d2.data.dataset_mapper import RelationMapper
from vrd_d2.modeling import UnionCLIP

DEEPER_CLIP = copy.deepcopy(SMALL_CLIP)
DEEPER_CLIP["vision_cfg"]["layers"] = DEEPER_CLIP["text_cfg"]["layers"] = 3
SMALL_RESNET = copy.deepcopy(SMALL_CLIP)
SMALL_RESNET["vision_cfg"] = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}
SMALL_RESNET["text_cfg"]["layers"] = 2
WAYS = ["mlp", "attention"]


def union_config(make_cfg, folder, way, *overrides, base="unionclip_mlp.yaml", clip=DEEPER_CLIP):
    """Config of UnionCLIP on the tiny data and a small CLIP, two blocks of it to be trained."""
    path = folder / "union_test_clip.json"
    path.write_text(json.dumps(clip))
    return make_cfg(
        base,
        *("MODEL.UNION_CLIP.FINETUNE", way, "MODEL.UNION_CLIP.TRAINED_BLOCKS", 2),
        *("MODEL.CLIP.NAME", str(path)),
        *overrides,
    )


def build(cfg):
    """Build the model with the same random weights each time."""
    torch.manual_seed(0)
    return UnionCLIP(cfg)


def examples_of(cfg, *, is_train=True):
    """All mapped images."""
    mapper = RelationMapper(cfg, is_train=is_train)
    return [mapper(record) for record in DatasetCatalog.get(cfg.DATASETS.TRAIN[0])]


def gradients(model, losses):
    """Name -> gradient of everything that is trained."""
    model.zero_grad()
    sum(losses.values()).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def close(results, expected, **tolerance):
    """Two dicts of tensors are alike."""
    assert set(results) == set(expected)
    for name in expected:
        torch.testing.assert_close(results[name], expected[name], **tolerance)
