"""Which values the keys of a config can have: what lies outside trains or measures nonsense."""

import math
from typing import Any

from detectron2.config import CfgNode

from vrd_d2.addresses import refuse_address

_NO_LIMIT = math.inf
_ABOVE_0 = math.ulp(0.0)
_BELOW_1 = math.nextafter(1.0, 0.0)
# Least and greatest value; of a list or a tuple, those of each of its items.
RANGES: dict[str, tuple[float, float]] = {
    "MODEL.RELATION.BATCH_SIZE_PER_IMAGE": (1, _NO_LIMIT),
    "MODEL.RELATION.POSITIVE_FRACTION": (0, 1),
    "MODEL.RELATION.IOU_THRESHOLD": (0, 1),
    "MODEL.RELATION_HEAD.DIM": (1, _NO_LIMIT),
    "MODEL.RELATION_HEAD.POSITION_DIM": (1, _NO_LIMIT),
    "MODEL.RELATION_HEAD.ATTENTION_LAYERS": (0, _NO_LIMIT),
    "MODEL.RELATION_HEAD.ATTENTION_HEADS": (1, _NO_LIMIT),
    "MODEL.RELATION_HEAD.POOLER_RESOLUTION": (1, _NO_LIMIT),
    "MODEL.RELATION_HEAD.POOLER_SAMPLING_RATIO": (0, _NO_LIMIT),
    "MODEL.RELATION_LOSS.OBJECT_WEIGHT": (0, _NO_LIMIT),
    "MODEL.RELATION_LOSS.PREDICATE_WEIGHT": (0, _NO_LIMIT),
    "MODEL.RELATION_LOSS.FOCAL_GAMMA": (0, _NO_LIMIT),
    "MODEL.RELATION_LOSS.CLASS_BALANCED_BETA": (0, _BELOW_1),
    "MODEL.PREDICATE_PRIOR.LOGIT_ADJUSTMENT_TAU": (0, _NO_LIMIT),
    "MODEL.RCL.LOSS_WEIGHT": (0, _NO_LIMIT),
    "MODEL.RCL.TEMPERATURE": (_ABOVE_0, _NO_LIMIT),
    "MODEL.RCL.GAMMA": (0, 1),
    "MODEL.RCL.EPSILON": (-1, 1),  # a cosine similarity
    "MODEL.RCL.ETA": (-1, 1),
    "MODEL.RCL.MEMORY_BANK": (0, _NO_LIMIT),
    "MODEL.DISTANT.MIN_COUNT": (0, _NO_LIMIT),
    "MODEL.UNION_CLIP.TRAINED_BLOCKS": (0, _NO_LIMIT),
    "MODEL.UNION_CLIP.CROP_CHUNK": (1, _NO_LIMIT),
    "MODEL.UNION_CLIP.TEXT_CHUNK": (1, _NO_LIMIT),
    "MODEL.UNION_CLIP.TEXT_CACHE_GB": (0, _NO_LIMIT),
    "INPUT.MIN_SIZE_TRAIN": (0, _NO_LIMIT),
    "INPUT.MAX_SIZE_TRAIN": (1, _NO_LIMIT),
    "INPUT.MIN_SIZE_TEST": (0, _NO_LIMIT),
    "INPUT.MAX_SIZE_TEST": (1, _NO_LIMIT),
    "DATALOADER.NUM_WORKERS": (0, _NO_LIMIT),
    "DATALOADER.REPEAT_THRESHOLD": (0, 1),
    "SOLVER.MAX_ITER": (0, _NO_LIMIT),
    "SOLVER.IMS_PER_BATCH": (1, _NO_LIMIT),
    "SOLVER.REFERENCE_WORLD_SIZE": (0, _NO_LIMIT),
    "SOLVER.BASE_LR": (0, _NO_LIMIT),
    "SOLVER.BASE_LR_END": (0, _NO_LIMIT),
    "SOLVER.MOMENTUM": (0, _BELOW_1),
    "SOLVER.WEIGHT_DECAY": (0, _NO_LIMIT),
    "SOLVER.WEIGHT_DECAY_NORM": (0, _NO_LIMIT),
    "SOLVER.BIAS_LR_FACTOR": (0, _NO_LIMIT),
    "SOLVER.GAMMA": (_ABOVE_0, _NO_LIMIT),
    "SOLVER.STEPS": (0, _NO_LIMIT),
    "SOLVER.WARMUP_FACTOR": (0, 1),
    "SOLVER.WARMUP_ITERS": (0, _NO_LIMIT),
    "SOLVER.CHECKPOINT_PERIOD": (1, _NO_LIMIT),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": (_ABOVE_0, _NO_LIMIT),
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": (_ABOVE_0, _NO_LIMIT),
    "TEST.EVAL_PERIOD": (0, _NO_LIMIT),
}
_ADDRESSES = ("MODEL.WEIGHTS", "MODEL.DETECTOR.WEIGHTS", "MODEL.VISUAL.WEIGHTS")
_NAMES = ("DATASETS.TRAIN", "DATASETS.TEST", "DATASETS.DISTANT", "MODEL.TEXT.ENTITY_PROMPTS")
_NAMES += ("MODEL.TEXT.RELATION_PROMPTS", "MODEL.RCL.LEVELS")


def check_paths(cfg: CfgNode, section: str = "") -> None:
    """Check that an internet address stands only where one is read: as weights of a model.

    Raises:
        ValueError: names the key and the address.
    """
    for name, value in cfg.items():
        key = f"{section}{name}"
        if isinstance(value, CfgNode):
            check_paths(value, f"{key}.")
        elif key not in _ADDRESSES:
            for text in value if isinstance(value, (list, tuple)) else (value,):
                refuse_address(text, key)


def check_values(cfg: CfgNode) -> None:
    """Check that numbers are finite and in their ranges, and that names are texts.

    Raises:
        ValueError: names the key, its value and what it can be.
    """
    for key, (least, most) in RANGES.items():
        value = _value(cfg, key)
        for number in value if isinstance(value, (list, tuple)) else (value,):
            numeric = isinstance(number, (int, float)) and not isinstance(number, bool)
            # Infinity is within no range: NORM_TYPE alone gives it a meaning.
            finite = numeric and (math.isfinite(number) or key.endswith("NORM_TYPE"))
            if not (finite and least <= number <= most):
                raise ValueError(f"{key} is {value!r}: it must be {_range(least, most)}")
    for key in _NAMES:
        value = _value(cfg, key)
        if not all(isinstance(name, str) for name in value):
            raise ValueError(f"{key} is {value!r}: it must be a list of texts")
    if list(cfg.SOLVER.STEPS) != sorted(set(cfg.SOLVER.STEPS)):
        raise ValueError(f"SOLVER.STEPS is {cfg.SOLVER.STEPS!r}: iterations must increase")
    if cfg.SEED >= 2**32:
        raise ValueError(f"SEED is {cfg.SEED!r}: it must be below {2**32}; below 0 is no seed")


def _value(cfg: CfgNode, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def _range(least: float, most: float) -> str:
    low = "above 0" if least == _ABOVE_0 else f"{least:g} or more"
    if most == _NO_LIMIT:
        return f"a number, {low}"
    return f"a number, {low}, and {'below 1' if most == _BELOW_1 else f'{most:g} at most'}"
