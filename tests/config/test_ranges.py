"""Values that a key cannot have are refused by name; those of all shipped configs are not."""

import pytest

from vrd_d2.config.loading import load_config
from vrd_d2.config.ranges import RANGES, check_values


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.RELATION.POSITIVE_FRACTION", "-1.0"),
        ("MODEL.RELATION.POSITIVE_FRACTION", "1.01"),
        ("MODEL.RELATION.BATCH_SIZE_PER_IMAGE", "0"),
        ("MODEL.RELATION_HEAD.ATTENTION_HEADS", "0"),
        ("MODEL.RELATION_LOSS.CLASS_BALANCED_BETA", "1.0"),
        ("MODEL.RCL.TEMPERATURE", "0.0"),
        ("MODEL.RCL.EPSILON", "1e400"),
        ("MODEL.RCL.MEMORY_BANK", "-1"),
        ("MODEL.RCL.LEVELS", "[1]"),
        ("INPUT.MIN_SIZE_TRAIN", "('x',)"),
        ("INPUT.MIN_SIZE_TRAIN", "(800, True)"),
        ("DATASETS.TRAIN", "(-1,)"),
        ("SOLVER.BASE_LR", "-0.1"),
        ("SOLVER.STEPS", "('x',)"),
        ("SOLVER.STEPS", "(20, 10)"),
        ("SOLVER.CHECKPOINT_PERIOD", "0"),
        ("SOLVER.IMS_PER_BATCH", "0"),
        ("SEED", "4294967296"),
    ],
)
def test_a_value_outside_its_range_is_named(key: str, value: str) -> None:
    with pytest.raises(ValueError, match=key):
        load_config("configs/relclip_predcls.yaml", [key, value])


def test_an_infinite_norm_is_one() -> None:
    cfg = load_config("configs/relclip_predcls.yaml")
    cfg.SOLVER.CLIP_GRADIENTS.NORM_TYPE = float("inf")
    check_values(cfg)
    cfg.SOLVER.BASE_LR = float("inf")
    with pytest.raises(ValueError, match=r"SOLVER\.BASE_LR.*inf"):
        check_values(cfg)


def test_limits_themselves_are_allowed() -> None:
    cfg = load_config("configs/relclip_predcls.yaml")
    for key, (least, most) in RANGES.items():
        section, _, name = key.rpartition(".")
        node = cfg
        for part in section.split("."):
            node = node[part]
        if isinstance(node[name], (list, tuple)):
            continue
        for value in (least, most if most < 10 else 10):
            node[name] = value
            check_values(cfg)


@pytest.mark.parametrize("device", ["gpu", "CPU", "", " ", "meta", "cuda:64", "cpu:x"])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(ValueError, match=r"MODEL\.DEVICE"):
        load_config("configs/relclip_predcls.yaml", ["MODEL.DEVICE", device])
