"""Configs out of YAML files and out of checkpoints."""

from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import META_ARCH_REGISTRY

from vrd_d2 import assets
from vrd_d2.addresses import refuse_address
from vrd_d2.checkpoint.checkpointer import read_stamp
from vrd_d2.checkpoint.weights_files import first_line
from vrd_d2.config.defaults import add_vrd_config
from vrd_d2.config.files import merge_dump, merge_file, merge_overrides
from vrd_d2.config.ranges import check_paths, check_values
from vrd_d2.data.vocabulary import Vocabulary, keep_vocabulary


def load_config(config_file: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> CfgNode:
    """Read a config with this project's keys.

    Its datasets are registered by :func:`~vrd_d2.data.datasets.setup.setup_datasets`.

    Args:
        config_file: YAML. Keys of earlier versions are translated (see ``renamed_keys``).
        overrides: KEY VALUE KEY VALUE ...

    Raises:
        ValueError: there is no such file, it holds more than plain values, or a key or its value is
            wrong.
    """
    refuse_address(config_file)
    config_file = assets.config_path(config_file)
    if not config_file.is_file():
        raise ValueError(f"there is no config file {config_file}")
    cfg = _default_config()
    merge_file(cfg, config_file)
    _override(cfg, overrides)
    return cfg


def load_inference_config(
    config_file: str | Path | CfgNode, weights: str | Path = "", overrides: Sequence[str] = ()
) -> CfgNode:
    """Read the config of a trained model, for predictions on any images.

    Args:
        config_file: YAML, or a config, which is copied. A checkpoint of this project holds its
            config and its vocabulary: give it alone, as either of the two, and "" for the other.
            The files of its datasets are not needed.
        weights: the checkpoint, which becomes MODEL.WEIGHTS.
        overrides: KEY VALUE KEY VALUE ..., which win over the file.

    Raises:
        ValueError: a file is missing, is no config, or is a checkpoint without a stamp.
    """
    if isinstance(config_file, CfgNode):
        cfg = config_file.clone()
        cfg.defrost()
        _override(cfg, [*overrides, *(["MODEL.WEIGHTS", str(weights)] if str(weights) else [])])
        return cfg
    if not str(config_file):
        config_file, weights = weights, ""
    if Path(config_file).suffix == ".safetensors":
        raise ValueError(f"{config_file} holds no config: give the YAML as well")
    if str(weights) or Path(config_file).suffix != ".pth":
        return load_config(config_file, [*overrides, "MODEL.WEIGHTS", str(weights)])
    stamp = read_stamp(str(config_file))
    if "predicates" not in stamp:
        raise ValueError(f"{config_file} is a detector, which predicts no relations")
    try:
        cfg = read_dump(stamp["config"], str(config_file))
        cfg.MODEL.VOCABULARY = keep_vocabulary(Vocabulary(stamp["objects"], stamp["predicates"]))
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{config_file}: the config in it, of version {stamp.get('version')}, is not one of "
            f"this version ({error}): give the YAML beside it"
        ) from error
    _forget_training(cfg)
    _override(cfg, [*overrides, "MODEL.WEIGHTS", str(config_file)])
    return cfg


def read_dump(text: str, source: str) -> CfgNode:
    """Return a whole config that ``CfgNode.dump`` wrote, by this version or an earlier one.

    Args:
        source: the file that it comes from, for messages.

    Raises:
        ValueError: it is no config.
    """
    cfg = _default_config()
    merge_dump(cfg, text, source)
    return cfg


def _forget_training(cfg: CfgNode) -> None:
    """Leave out files of the training that a model would read but that predictions do not need.

    They may be missing on this machine. Files of datasets are not read: none is registered.
    """
    fresh = _default_config()
    cfg.MODEL.TEXT.WORD_VECTORS = fresh.MODEL.TEXT.WORD_VECTORS
    if not cfg.MODEL.DISTANT.RESTRICT:
        cfg.MODEL.DISTANT = fresh.MODEL.DISTANT
    # RelCLIP's image tower is in the checkpoint. A tag stays: mean and deviation depend on it.
    name, clip = cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.CLIP
    if name not in META_ARCH_REGISTRY:
        raise ValueError(
            f"MODEL.META_ARCHITECTURE is {name!r}, which is not registered: import the module that "
            "registers it"
        )
    kind = META_ARCH_REGISTRY.get(name)
    by_path = Path(clip.PRETRAINED).suffix in (".pt", ".pth", ".bin", ".safetensors")
    in_checkpoint = getattr(kind, "checkpoint_has_clip", False)
    if in_checkpoint and by_path and not Path(clip.PRETRAINED).is_file():
        clip.PRETRAINED = ""


def _default_config() -> CfgNode:
    cfg = get_cfg()
    add_vrd_config(cfg)
    return cfg


def _override(cfg: CfgNode, overrides: Sequence[str]) -> None:
    merge_overrides(cfg, overrides)
    check_values(cfg)
    check_paths(cfg)
    if cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    _check_device(cfg.MODEL.DEVICE)


def _check_device(name: str) -> None:
    """Raise ValueError unless this machine has the device."""
    try:
        device = torch.device(name)
        if device.type == "cuda":  # without starting CUDA in this process
            there = (device.index or 0) < torch.cuda.device_count()
        else:
            there = torch.zeros((), device=device).item() == 0
        reason = "there is none"
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        there, reason = False, first_line(error)
    if not there:
        raise ValueError(
            f"MODEL.DEVICE is {name!r}, which this machine cannot use ({reason}): set cpu, or "
            "to cuda where there is a GPU"
        )
