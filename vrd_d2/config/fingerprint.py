"""A hash of a config that stays the same when keys are renamed or added."""

import hashlib

from detectron2.config import CfgNode

from vrd_d2.config.renamed_keys import RENAMED_KEYS

# Keys added since 0.1 with their defaults, which mean what was done before. A key that is missing
# here makes the prediction folders of before look as if another config had written them.
ADDED_KEYS: dict[str, object] = {
    "MODEL.RELATION_HEAD.NAME": "RelCLIPHead",
    "TEST.RELATION.ANNOTATED_PAIRS": None,
}


def config_fingerprint(cfg: CfgNode) -> str:
    """Return the SHA-256 of a config as version 0.1 would have dumped it.

    Folders of results hold it, and are continued by later versions with the same config only.
    """
    return hashlib.sha256(earlier_config(cfg).dump().encode()).hexdigest()


def earlier_config(cfg: CfgNode) -> CfgNode:
    """Return a copy with the keys of version 0.1, and with added keys that are not at default."""
    earlier = cfg.clone()
    earlier.defrost()
    for key, default in ADDED_KEYS.items():
        node, name = _node(earlier, key)
        if node[name] == default:
            del node[name]
    for old, new in RENAMED_KEYS.items():
        node, name = _node(earlier, new)
        value = node.pop(name)
        node, name = _node(earlier, old)
        node[name] = value
    # Sections that came with the new names.
    for section in {new.rpartition(".")[0] for new in RENAMED_KEYS.values()}:
        node, name = _node(earlier, section)
        if not node[name]:
            del node[name]
    return earlier


def _node(cfg: CfgNode, key: str) -> tuple[CfgNode, str]:
    """Return the section that a key belongs to, made where it is missing, and its name there."""
    *sections, name = key.split(".")
    for section in sections:
        if section not in cfg:
            cfg[section] = CfgNode()
        cfg = cfg[section]
    return cfg, name
