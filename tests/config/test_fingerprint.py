"""The hash of a config, by which folders of predictions know the model that filled them."""

import hashlib

import pytest
import yaml
from detectron2.config import CfgNode, get_cfg

from vrd_d2.config import add_vrd_config
from vrd_d2.config.files import merge_dump
from vrd_d2.config.fingerprint import ADDED_KEYS, config_fingerprint, earlier_config

# Every key that version 0.1 added to Detectron2's, by section.
EARLIER_KEYS = {
    "DATASETS": "DETECTIONS DISTANT EXCLUDE MISSING_IMAGES REGISTER",
    "MODEL": "VOCABULARY",
    "MODEL.CLIP": "CACHE_DIR FEATURE_CACHE NAME PRETRAINED",
    "MODEL.DETECTOR": "WEIGHTS",
    "MODEL.DISTANT": "KNOWLEDGE_BASE MIN_COUNT RESTRICT WEIGHTS",
    "MODEL.FREQUENCY": "COUNTS",
    "MODEL.RCL": "EPSILON ETA GAMMA LEVELS LOSS_WEIGHT MEMORY_BANK SAMPLING TEMPERATURE WEIGHTED",
    "MODEL.RELATION": "ADD_GT_BOXES ATTENTION ATTENTION_HEADS ATTENTION_LAYERS "
    "BATCH_SIZE_PER_IMAGE CLASS_BALANCED_BETA CLASS_EMBEDDING DIM ENTITY_CLASSES FOCAL_GAMMA "
    "FREQUENCY_BIAS IOU_THRESHOLD LOGIT_ADJUSTMENT LOGIT_ADJUSTMENT_TAU OBJECT_LOSS_WEIGHT "
    "POOLER_RESOLUTION POOLER_SAMPLING_RATIO POSITION_DIM POSITIVE_FRACTION PREDICATE_LOSS "
    "PREDICATE_LOSS_WEIGHT RANKING REQUIRE_OVERLAP TASK",
    "MODEL.TEXT": "ENTITY_PROMPTS RELATION_PROMPTS WORD_VECTORS",
    "MODEL.UNION_CLIP": "CROP CROP_CHUNK FINETUNE MLP_RESIDUAL NULL_TEXT TEXT_BANK TEXT_CACHE_GB "
    "TEXT_CHUNK TRAINED_BLOCKS",
    "MODEL.VISUAL": "ENCODER FEATURE WEIGHTS",
    "SOLVER": "OPTIMIZER",
    "SOLVER.AMP": "PRECISION",
    "TEST": "BEST_METRIC",
    "TEST.RELATION": "PROTOCOL WRITE_PREDICTIONS",
}


def fresh() -> CfgNode:
    cfg = get_cfg()
    add_vrd_config(cfg)
    return cfg


def keys(node: CfgNode, section: str = "") -> set[str]:
    found = set()
    for name, value in node.items():
        key = f"{section}{name}"
        found |= keys(value, f"{key}.") if isinstance(value, CfgNode) else {key}
    return found


def test_keys_are_those_of_before() -> None:
    """A key that is added belongs into ADDED_KEYS, one that is renamed into RENAMED_KEYS."""
    expected = {f"{section}.{n}" for section, names in EARLIER_KEYS.items() for n in names.split()}
    cfg = fresh()
    assert keys(earlier_config(cfg)) - keys(get_cfg()) == expected
    again = fresh()
    merge_dump(again, earlier_config(cfg).dump(), "dump")
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())


def test_it_is_the_hash_of_the_dump_of_before() -> None:
    """Written out here key by key, beside the code that is tested."""
    cfg = fresh()
    cfg.MODEL.RELATION_HEAD.DIM = 96
    old = cfg.clone()
    model = old.MODEL
    relation, head, loss, prior = (
        model.pop(name)
        for name in ("RELATION", "RELATION_HEAD", "RELATION_LOSS", "PREDICATE_PRIOR")
    )
    del head["NAME"], old.TEST.RELATION["ANNOTATED_PAIRS"]
    model.FREQUENCY = CfgNode({"COUNTS": prior.pop("COUNTS")})
    model.CLIP.FEATURE_CACHE = model.VISUAL.pop("FEATURE_CACHE")
    names = {
        "OBJECT_WEIGHT": "OBJECT_LOSS_WEIGHT",
        "PREDICATE_WEIGHT": "PREDICATE_LOSS_WEIGHT",
        "PREDICATE": "PREDICATE_LOSS",
    }
    loss = {names.get(name, name): value for name, value in loss.items()}
    model.RELATION = CfgNode({**relation, **head, **loss, **prior})
    assert config_fingerprint(cfg) == hashlib.sha256(old.dump().encode()).hexdigest()


@pytest.mark.parametrize("key", ["MODEL.RELATION_HEAD.DIM", "SEED", *ADDED_KEYS])
def test_every_other_value_gives_another_hash(key: str) -> None:
    cfg = fresh()
    before = config_fingerprint(cfg)
    cfg.merge_from_list([key, "Other" if key in ADDED_KEYS else 7])
    assert config_fingerprint(cfg) != before
    assert cfg.MODEL.RELATION_HEAD.NAME, "the config itself is not changed"
