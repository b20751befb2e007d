"""Keys of earlier versions, and their translation wherever keys are read."""

import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

logger = logging.getLogger(__name__)

# Old key -> new key. The values are the same. Add a row for every key that is renamed.
RENAMED_KEYS: dict[str, str] = {
    "MODEL.CLIP.FEATURE_CACHE": "MODEL.VISUAL.FEATURE_CACHE",
    "MODEL.RELATION.DIM": "MODEL.RELATION_HEAD.DIM",
    "MODEL.RELATION.POSITION_DIM": "MODEL.RELATION_HEAD.POSITION_DIM",
    "MODEL.RELATION.ATTENTION_LAYERS": "MODEL.RELATION_HEAD.ATTENTION_LAYERS",
    "MODEL.RELATION.ATTENTION_HEADS": "MODEL.RELATION_HEAD.ATTENTION_HEADS",
    "MODEL.RELATION.ATTENTION": "MODEL.RELATION_HEAD.ATTENTION",
    "MODEL.RELATION.CLASS_EMBEDDING": "MODEL.RELATION_HEAD.CLASS_EMBEDDING",
    "MODEL.RELATION.POOLER_RESOLUTION": "MODEL.RELATION_HEAD.POOLER_RESOLUTION",
    "MODEL.RELATION.POOLER_SAMPLING_RATIO": "MODEL.RELATION_HEAD.POOLER_SAMPLING_RATIO",
    "MODEL.RELATION.OBJECT_LOSS_WEIGHT": "MODEL.RELATION_LOSS.OBJECT_WEIGHT",
    "MODEL.RELATION.PREDICATE_LOSS_WEIGHT": "MODEL.RELATION_LOSS.PREDICATE_WEIGHT",
    "MODEL.RELATION.PREDICATE_LOSS": "MODEL.RELATION_LOSS.PREDICATE",
    "MODEL.RELATION.FOCAL_GAMMA": "MODEL.RELATION_LOSS.FOCAL_GAMMA",
    "MODEL.RELATION.CLASS_BALANCED_BETA": "MODEL.RELATION_LOSS.CLASS_BALANCED_BETA",
    "MODEL.FREQUENCY.COUNTS": "MODEL.PREDICATE_PRIOR.COUNTS",
    "MODEL.RELATION.FREQUENCY_BIAS": "MODEL.PREDICATE_PRIOR.FREQUENCY_BIAS",
    "MODEL.RELATION.LOGIT_ADJUSTMENT": "MODEL.PREDICATE_PRIOR.LOGIT_ADJUSTMENT",
    "MODEL.RELATION.LOGIT_ADJUSTMENT_TAU": "MODEL.PREDICATE_PRIOR.LOGIT_ADJUSTMENT_TAU",
}


def translate_config(
    config: Mapping[str, Any], source: str, *, level: int = logging.WARNING
) -> dict[str, Any]:
    """Return a nested config with its renamed keys under their new names.

    Args:
        config: as YAML holds it; it is not changed.
        source: where it comes from, for messages.
        level: of the log line that names the renamed keys.

    Raises:
        ValueError: an old key and its new one have different values, or something stands where the
            new key belongs.
    """
    translated = deepcopy(dict(config))
    found = []
    for old, new in RENAMED_KEYS.items():
        *sections, name = old.split(".")
        nodes = _nodes(translated, sections)
        if nodes is None or name not in nodes[-1]:
            continue
        value = nodes[-1].pop(name)
        found.append(old)
        # A section that is empty now would be unknown where all of its keys moved.
        for parent, section in zip(reversed(nodes[:-1]), reversed(sections), strict=True):
            if not parent[section]:
                del parent[section]
        _put(translated, new, value, f"{source}: {old}")
    _report(found, source, level)
    return translated


def translate_overrides(overrides: Sequence[Any]) -> list[Any]:
    """Return KEY VALUE KEY VALUE ... with renamed keys under their new names.

    Raises:
        ValueError: an old key and its new one have different values.
    """
    translated = list(overrides)
    found = []
    for index, key in enumerate(overrides[:-1]):
        if index % 2 or key not in RENAMED_KEYS:
            continue
        new, value = RENAMED_KEYS[key], overrides[index + 1]
        for other, other_value in zip(overrides[::2], overrides[1::2], strict=False):
            if other == new and str(other_value) != str(value):
                raise ValueError(_conflict(f"overrides: {key}", value, new, other_value))
        translated[index] = new
        found.append(key)
    _report(found, "overrides", logging.WARNING)
    return translated


def _nodes(config: dict[str, Any], sections: Sequence[str]) -> list[dict] | None:
    """Return the config and its nested sections in turn; None where one is missing or a value."""
    nodes = [config]
    for section in sections:
        node = nodes[-1].get(section)
        if not isinstance(node, dict):
            return None
        nodes.append(node)
    return nodes


def _put(config: dict[str, Any], key: str, value: Any, origin: str) -> None:
    *sections, name = key.split(".")
    node = config
    for section in sections:
        node = node.setdefault(section, {})
        if not isinstance(node, dict):
            raise ValueError(f"{origin} is {key} now, but {section} is {node!r}, no section")
    if name in node and node[name] != value:
        raise ValueError(_conflict(origin, value, key, node[name]))
    node[name] = value


def _conflict(origin: str, value: Any, new: str, other: Any) -> str:
    return f"{origin} ({value!r}) is {new} now, which is given as {other!r}: state {new} alone"


def _report(found: Sequence[str], source: str, level: int) -> None:
    if found:
        pairs = ", ".join(f"{old} is {RENAMED_KEYS[old]}" for old in found)
        logger.log(level, "%s: renamed keys were translated: %s", source, pairs)
