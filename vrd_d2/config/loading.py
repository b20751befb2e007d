"""Configs out of YAML files and out of checkpoints."""

from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import META_ARCH_REGISTRY

from vrd_d2.checkpoint.checkpointer import read_stamp
from vrd_d2.config.defaults import add_vrd_config
from vrd_d2.data.vocabulary import Vocabulary, keep_vocabulary


def load_config(config_file: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> CfgNode:
    """Read a config with this project's keys.

    Its datasets are registered by :func:`~vrd_d2.data.datasets.setup.setup_datasets`.

    Args:
        config_file: YAML.
        overrides: KEY VALUE KEY VALUE ...

    Raises:
        ValueError: there is no such file, it holds more than plain values, or a key or its value is
            wrong.
    """
    if not Path(config_file).is_file():
        raise ValueError(f"there is no config file {config_file}")
    cfg = _default_config()
    try:
        # Detectron2 would run what tags of YAML ask for.
        cfg.merge_from_file(str(config_file), allow_unsafe=False)
    except yaml.constructor.ConstructorError as error:
        raise ValueError(
            f"{config_file} or one of its _BASE_ holds more than plain values, which is not read "
            f"because it could run any code ({error.problem}): write the values themselves"
        ) from error
    except (yaml.YAMLError, UnicodeError, OSError, *_CONFIG_ERRORS) as error:
        raise ValueError(f"{config_file} is no config: {error}") from error
    _override(cfg, overrides)
    return cfg


def load_inference_config(
    config_file: str | Path, weights: str | Path = "", overrides: Sequence[str] = ()
) -> CfgNode:
    """Read the config of a trained model, for predictions on any images.

    Args:
        config_file: YAML. A checkpoint of this project brings its config and its vocabulary along:
            give it alone, as either of the two, and "" for the other. The files of its datasets
            are not asked for.
        weights: the checkpoint, which becomes MODEL.WEIGHTS.
        overrides: KEY VALUE KEY VALUE ..., stronger than the file.

    Raises:
        ValueError: a file is missing, is no config, or does not say what it is.
    """
    if not str(config_file):
        config_file, weights = weights, ""
    if Path(config_file).suffix == ".safetensors":
        raise ValueError(f"{config_file} brings no config along: give the YAML as well")
    if str(weights) or Path(config_file).suffix != ".pth":
        return load_config(config_file, [*overrides, "MODEL.WEIGHTS", str(weights)])
    stamp = read_stamp(str(config_file))
    if "predicates" not in stamp:
        raise ValueError(f"{config_file} is a detector, which predicts no relations")
    cfg = _default_config()
    try:
        cfg.merge_from_other_cfg(CfgNode(yaml.safe_load(stamp["config"])))
        cfg.MODEL.VOCABULARY = keep_vocabulary(Vocabulary(stamp["objects"], stamp["predicates"]))
    except (yaml.YAMLError, ValueError, *_CONFIG_ERRORS) as error:
        raise ValueError(
            f"{config_file}: the config in it, of version {stamp.get('version')}, is not one of "
            f"this version ({error!r}): give the YAML beside it"
        ) from error
    _forget_training(cfg)
    _override(cfg, [*overrides, "MODEL.WEIGHTS", str(config_file)])
    return cfg


def _forget_training(cfg: CfgNode) -> None:
    """Leave out files of the training that a model would read but that predictions do not need.

    They may be elsewhere. Those of datasets are not read: none is registered.
    """
    fresh = _default_config()
    cfg.MODEL.TEXT.WORD_VECTORS = fresh.MODEL.TEXT.WORD_VECTORS
    if not cfg.MODEL.DISTANT.RESTRICT:
        cfg.MODEL.DISTANT = fresh.MODEL.DISTANT
    # A tag of CLIP's weights stays: mean and deviation are looked up by it.
    kind, clip = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE), cfg.MODEL.CLIP
    by_path = Path(clip.PRETRAINED).suffix in (".pt", ".pth", ".bin", ".safetensors")
    in_checkpoint = getattr(kind, "checkpoint_has_clip", False)
    if in_checkpoint and by_path and not Path(clip.PRETRAINED).is_file():
        clip.PRETRAINED = ""


_CONFIG_ERRORS = (KeyError, AttributeError, TypeError, AssertionError)


def _default_config() -> CfgNode:
    cfg = get_cfg()
    add_vrd_config(cfg)
    return cfg


def _override(cfg: CfgNode, overrides: Sequence[str]) -> None:
    try:
        cfg.merge_from_list(list(overrides))
    except _CONFIG_ERRORS as error:
        raise ValueError(f"overrides are KEY VALUE KEY VALUE ...: {error}") from error
    if cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
