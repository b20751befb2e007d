"""Merging of YAML files, of dumped configs and of KEY VALUE overrides into a config."""

import difflib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, downgrade_config, upgrade_config
from detectron2.config.compat import guess_version

from vrd_d2 import assets
from vrd_d2.config.plain_yaml import read_yaml
from vrd_d2.config.renamed_keys import RENAMED_KEYS, translate_config, translate_overrides

BASE = "_BASE_"
# For every other key None is a value that was forgotten; yacs would take it.
_MAY_BE_NONE = ("SOLVER.WEIGHT_DECAY_BIAS", "TEST.RELATION.ANNOTATED_PAIRS")
# What yacs raises for a config that it cannot merge.
CONFIG_ERRORS = (
    *(KeyError, AttributeError, TypeError, AssertionError),
    *(RecursionError, MemoryError),  # of Python's parser, for values such as "(((((..."
)


def merge_file(cfg: CfgNode, path: str | Path) -> None:
    """Merge a YAML file and its ``_BASE_`` chain into a config, in place.

    Args:
        cfg: of the present version, with every key.
        path: of the file. Keys of earlier versions are translated.

    Raises:
        ValueError: a file is missing, is no config or holds more than plain values, or a key or
            its value is wrong.
    """
    content = _read(str(path), cfg, ())
    try:
        loaded = CfgNode(content)
        version = loaded.get("VERSION") or guess_version(loaded, str(path))
        if version == cfg.VERSION:
            cfg.merge_from_other_cfg(loaded)
        else:
            # As Detectron2 does it with configs of its own first version.
            old = downgrade_config(cfg, to_version=version)
            old.merge_from_other_cfg(loaded)
            cfg.update(upgrade_config(old))
    except (ValueError, *CONFIG_ERRORS) as error:
        raise ValueError(f"{path} is no config: {error}") from error


def merge_dump(cfg: CfgNode, text: str, source: str) -> None:
    """Merge a config that ``CfgNode.dump`` wrote, of this version or an earlier one, in place.

    Args:
        source: the file that it comes from, for messages.

    Raises:
        ValueError: it is no config, or not one of a version that is known.
    """
    loaded = _keys_in(read_yaml(text, source), source)
    loaded = translate_config(loaded, source, level=logging.INFO)
    _check_keys(loaded, cfg, source)
    try:
        cfg.merge_from_other_cfg(CfgNode(loaded))
    except (ValueError, *CONFIG_ERRORS) as error:
        raise ValueError(f"{source} is no config: {error}") from error


def merge_overrides(cfg: CfgNode, overrides: Sequence[Any]) -> None:
    """Merge KEY VALUE KEY VALUE ... into a config, in place.

    Raises:
        ValueError: there is no such key, or its value is wrong.
    """
    overrides = translate_overrides(overrides)
    if len(overrides) % 2:
        raise ValueError(f"overrides are KEY VALUE KEY VALUE ...: {overrides[-1]} has no value")
    known = dict(_keys(cfg))
    for key in overrides[::2]:
        if key not in known:
            raise ValueError(f"overrides are KEY VALUE KEY VALUE ...: {_unknown(key, known)}")
        if isinstance(known[key], dict):
            raise ValueError(f"overrides: {key} is a section: name a key in it")
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        if value in (None, "None") and known[key] is not None and key not in _MAY_BE_NONE:
            raise ValueError(f"overrides: {key} is None: give a value such as {known[key]!r}")
    try:
        cfg.merge_from_list(overrides)
    except CONFIG_ERRORS as error:
        raise ValueError(f"overrides are KEY VALUE KEY VALUE ...: {error}") from error


def _read(path: str, cfg: CfgNode, chain: tuple[str, ...]) -> dict[str, Any]:
    """Read a file and its bases as one config; keys are translated and checked file by file."""
    whole_path = os.path.realpath(path)
    if whole_path in chain:
        raise ValueError(f"{path} is its own {BASE}: {' -> '.join((*chain, whole_path))}")
    content = _read_alone(path)
    bases = content.pop(BASE, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ValueError(f"{path}: {BASE} is {bases!r}, no path and no list of paths")
    content = translate_config(content, path)
    # Keys of Detectron2's first version have other names, which it translates itself.
    if content.get("VERSION", cfg.VERSION) == cfg.VERSION:
        try:
            _check_keys(content, cfg, path)
        except ValueError:
            if "VERSION" in content or _guessed_version(content, path) in (None, cfg.VERSION):
                raise
    merged: dict[str, Any] = {}
    for base in bases:
        _merge(_read(_base_path(base, path), cfg, (*chain, whole_path)), merged, path)
    _merge(content, merged, path)
    return merged


def _guessed_version(content: Mapping[str, Any], path: str) -> int | None:
    """Return the version that keys of Detectron2 show; None where they are no config."""
    try:
        return guess_version(CfgNode(content), path)
    except CONFIG_ERRORS:
        return None


def _read_alone(path: str) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or no name of a file
        raise ValueError(f"{path} cannot be read as a config: {error}") from error
    return _keys_in(read_yaml(text, path), path)


def _keys_in(content: Any, source: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{source} is no config: it holds a {type(content).__name__}, no keys")
    return content


def _base_path(base: str, path: str) -> str:
    if base.startswith("~"):
        return os.path.expanduser(base)
    if "://" in base:
        # Whoever writes a config must not decide what is fetched where it is read.
        raise ValueError(f"{path}: {BASE} is the address {base}: download it and name the file")
    beside = os.path.join(os.path.dirname(path), base)
    # From the folder of the file, never from that of the process.
    return beside if os.path.exists(beside) else str(assets.shipped_config(base) or beside)


def _merge(part: Mapping[str, Any], whole: dict[str, Any], path: str, section: str = "") -> None:
    """Put the values of a file over those of its bases."""
    for name, value in part.items():
        if isinstance(value, dict) and name in whole:
            if not isinstance(whole[name], dict):
                raise ValueError(f"{path}: {section}{name} is a section, in {BASE} it is a value")
            _merge(value, whole[name], path, f"{section}{name}.")
        else:
            whole[name] = value


def _check_keys(content: Mapping[str, Any], cfg: CfgNode, source: str) -> None:
    known = dict(_keys(cfg))

    def check(node: Mapping[str, Any], section: str) -> None:
        for name, value in node.items():
            key = f"{section}{name}"
            if key not in known:
                raise ValueError(f"{source} is no config: {_unknown(key, known)}")
            if isinstance(value, dict):
                check(value, f"{key}.")
            elif isinstance(known[key], dict):
                raise ValueError(f"{source} is no config: {key} is a section, not {value!r}")
            elif value is None and known[key] is not None and key not in _MAY_BE_NONE:
                raise ValueError(
                    f"{source} is no config: {key} has no value: give one such as {known[key]!r}"
                )

    check(content, "")


def _keys(node: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the whole name of every section and key, and its value."""
    for name, value in node.items():
        yield f"{section}{name}", value
        if isinstance(value, dict):
            yield from _keys(value, f"{section}{name}.")


def _unknown(key: str, known: Mapping[str, Any]) -> str:
    # A renamed key with a slip in it leads to its new name.
    names = {**RENAMED_KEYS, **{name: name for name in sorted(known)}}
    (nearest,) = difflib.get_close_matches(str(key), names, n=1, cutoff=0.0)
    return f"there is no key {key}: do you mean {names[nearest]}?"
