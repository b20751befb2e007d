"""Configs: every key with its default, and their reading from YAML files and checkpoints.

Names are imported at their first use, so that this package itself costs nothing.
"""

from typing import TYPE_CHECKING

from vrd_d2.moved import lazy_attributes

if TYPE_CHECKING:
    from vrd_d2.config.defaults import add_vrd_config
    from vrd_d2.config.loading import load_config, load_inference_config

__all__ = ["add_vrd_config", "load_config", "load_inference_config"]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "add_vrd_config": "vrd_d2.config.defaults",
        "load_config": "vrd_d2.config.loading",
        "load_inference_config": "vrd_d2.config.loading",
    },
)
