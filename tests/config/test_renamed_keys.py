"""Keys of earlier versions in files, in chains of files, in checkpoints and on the command line."""

import logging
from pathlib import Path

import pytest
import yaml
from detectron2.config import CfgNode, get_cfg

from vrd_d2.config import add_vrd_config, load_config
from vrd_d2.config.files import merge_dump, merge_file, merge_overrides
from vrd_d2.config.renamed_keys import RENAMED_KEYS, translate_config

# The sections of an earlier version, as its defaults stood in the dump of a checkpoint.
EARLIER = """
MODEL:
  CLIP: {NAME: "ViT-B-16", FEATURE_CACHE: "maps"}
  FREQUENCY: {COUNTS: "counts.json"}
  RELATION:
    TASK: "sgcls"
    DIM: 96
    POSITION_DIM: 24
    ATTENTION_LAYERS: 3
    ATTENTION_HEADS: 4
    ATTENTION: "axial"
    CLASS_EMBEDDING: True
    POOLER_RESOLUTION: 5
    POOLER_SAMPLING_RATIO: 1
    OBJECT_LOSS_WEIGHT: 0.5
    PREDICATE_LOSS_WEIGHT: 0.25
    PREDICATE_LOSS: "focal"
    FOCAL_GAMMA: 3.0
    CLASS_BALANCED_BETA: 0.9
    LOGIT_ADJUSTMENT: "test"
    LOGIT_ADJUSTMENT_TAU: 2.0
    FREQUENCY_BIAS: True
    RANKING: "logit"
VERSION: 2
"""


def fresh() -> CfgNode:
    cfg = get_cfg()
    add_vrd_config(cfg)
    return cfg


def check_earlier(cfg: CfgNode) -> None:
    model = cfg.MODEL
    assert (model.CLIP.NAME, model.VISUAL.FEATURE_CACHE) == ("ViT-B-16", "maps")
    assert "FEATURE_CACHE" not in model.CLIP and "FREQUENCY" not in model
    assert (model.RELATION.TASK, model.RELATION.RANKING) == ("sgcls", "logit")
    head = model.RELATION_HEAD
    assert (head.DIM, head.POSITION_DIM, head.ATTENTION_LAYERS) == (96, 24, 3)
    assert (head.ATTENTION_HEADS, head.ATTENTION, head.CLASS_EMBEDDING) == (4, "axial", True)
    assert (head.POOLER_RESOLUTION, head.POOLER_SAMPLING_RATIO) == (5, 1)
    loss = model.RELATION_LOSS
    assert (loss.OBJECT_WEIGHT, loss.PREDICATE_WEIGHT, loss.PREDICATE) == (0.5, 0.25, "focal")
    assert (loss.FOCAL_GAMMA, loss.CLASS_BALANCED_BETA) == (3.0, 0.9)
    prior = model.PREDICATE_PRIOR
    assert (prior.COUNTS, prior.FREQUENCY_BIAS) == ("counts.json", True)
    assert (prior.LOGIT_ADJUSTMENT, prior.LOGIT_ADJUSTMENT_TAU) == ("test", 2.0)


def test_every_old_key_is_gone_and_every_new_one_exists() -> None:
    cfg = fresh()
    for old, new in RENAMED_KEYS.items():
        with pytest.raises(AttributeError):
            get(cfg, old)
        get(cfg, new)


def get(cfg: CfgNode, key: str) -> object:
    for name in key.split("."):
        cfg = getattr(cfg, name)
    return cfg


def test_old_keys_in_a_file_and_in_its_base(tmp_path: Path, caplog) -> None:
    (tmp_path / "base.yaml").write_text(EARLIER)
    (tmp_path / "old.yaml").write_text("_BASE_: base.yaml\nMODEL: {RELATION: {DIM: 32}}\n")
    (tmp_path / "new.yaml").write_text("_BASE_: base.yaml\nMODEL: {RELATION_HEAD: {DIM: 32}}\n")
    cfg = fresh()
    with caplog.at_level(logging.WARNING):
        merge_file(cfg, tmp_path / "base.yaml")
    check_earlier(cfg)
    assert len(caplog.records) == 1
    for old, new in RENAMED_KEYS.items():
        assert old in caplog.text and new in caplog.text
    # What a file states wins over its base, whichever of them has the old name.
    for name in ("old.yaml", "new.yaml"):
        cfg = fresh()
        merge_file(cfg, tmp_path / name)
        assert cfg.MODEL.RELATION_HEAD.DIM == 32 and cfg.MODEL.RELATION_HEAD.POSITION_DIM == 24


def test_a_list_of_bases(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("SEED: 1\nMODEL: {RELATION: {DIM: 16, TASK: predcls}}\n")
    (tmp_path / "b.yaml").write_text("SEED: 2\nMODEL: {RELATION_HEAD: {DIM: 48}}\n")
    (tmp_path / "c.yaml").write_text("_BASE_: [a.yaml, b.yaml]\nMODEL: {RELATION: {DIM: 64}}\n")
    cfg = fresh()
    merge_file(cfg, tmp_path / "c.yaml")
    assert (cfg.SEED, cfg.MODEL.RELATION_HEAD.DIM, cfg.MODEL.RELATION.TASK) == (2, 64, "predcls")


def test_old_keys_in_the_config_of_a_checkpoint() -> None:
    cfg = fresh()
    merge_dump(cfg, EARLIER, "model.pth")
    check_earlier(cfg)
    again = fresh()
    merge_dump(again, cfg.dump(), "model.pth")
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())


def test_old_keys_among_overrides(caplog) -> None:
    cfg = fresh()
    with caplog.at_level(logging.WARNING):
        merge_overrides(cfg, ["MODEL.RELATION.DIM", "32", "MODEL.RELATION_HEAD.DIM", "32"])
    assert cfg.MODEL.RELATION_HEAD.DIM == 32
    assert "MODEL.RELATION.DIM" in caplog.text and "MODEL.RELATION_HEAD.DIM" in caplog.text


def test_translation_leaves_its_input_alone() -> None:
    config = yaml.safe_load(EARLIER)
    translate_config(config, "test")
    assert config == yaml.safe_load(EARLIER)


def test_old_and_new_with_different_values_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "both.yaml"
    path.write_text("MODEL: {RELATION: {DIM: 32}, RELATION_HEAD: {DIM: 32}}\n")
    load_config(path)
    path.write_text("MODEL: {RELATION: {DIM: 32}, RELATION_HEAD: {DIM: 64}}\n")
    names = r"MODEL\.RELATION\.DIM.*32.*MODEL\.RELATION_HEAD\.DIM.*64"
    with pytest.raises(ValueError, match=rf"both\.yaml.*{names}"):
        load_config(path)
    with pytest.raises(ValueError, match=names):
        merge_overrides(fresh(), ["MODEL.RELATION_HEAD.DIM", "64", "MODEL.RELATION.DIM", "32"])


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("MODEL: {RELATION: {TSAK: 1}}", r"MODEL\.RELATION\.TSAK.*MODEL\.RELATION\.TASK"),
        ("MODEL: {RELATION: {FOCAL_GAMA: 1}}", r"FOCAL_GAMA.*MODEL\.RELATION_LOSS\.FOCAL_GAMMA"),
        ("BASE_LR: 1", r"BASE_LR.*SOLVER\.BASE_LR"),
        ("MODEL: {RELATION_HAED: {DIM: 3}}", r"MODEL\.RELATION_HAED.*MODEL\.RELATION_HEAD"),
        ("MODEL: {RELATION_HEAD: 5, RELATION: {DIM: 3}}", r"MODEL\.RELATION\.DIM.*RELATION_HEAD"),
        ("SEED: [1]", "wrong.yaml.*SEED"),
        ("_BASE_: wrong.yaml", "wrong.yaml.*_BASE_"),
        ("_BASE_: ./../{folder}/wrong.yaml", "wrong.yaml.*_BASE_"),
        ("_BASE_: 5", "wrong.yaml.*_BASE_.*5"),
        ("MODEL: 5\n_BASE_: good.yaml", "wrong.yaml.*MODEL"),
        ("MODEL: {DEVICE: {A: 1}}\n_BASE_: good.yaml", r"wrong.yaml.*MODEL\.DEVICE"),
        ("MODEL: {DEVICE: {A: 1}}", r"wrong.yaml.*MODEL\.DEVICE"),
        ("", "wrong.yaml"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, names: str) -> None:
    (tmp_path / "good.yaml").write_text("MODEL: {DEVICE: cpu}\n")
    (tmp_path / "wrong.yaml").write_text(text.replace("{folder}", tmp_path.name))
    with pytest.raises(ValueError, match=names):
        load_config(tmp_path / "wrong.yaml")


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["MODEL.RELATION.FOCAL_GAMA", "1"], r"FOCAL_GAMA.*MODEL\.RELATION_LOSS\.FOCAL_GAMMA"),
        (["SOLVER.BASELR", "1"], r"SOLVER\.BASELR.*SOLVER\.BASE_LR"),
        (["SEED", "1", "SOLVER.BASE_LR"], r"KEY VALUE.*SOLVER\.BASE_LR"),
        (["SEED", "a"], "SEED"),
        (["MODEL.RELATION", "1"], r"MODEL\.RELATION"),
    ],
)
def test_what_is_wrong_among_overrides_is_named(overrides: list[str], names: str) -> None:
    with pytest.raises(ValueError, match=names):
        merge_overrides(fresh(), overrides)
