"""Configs: every key with its default, and their reading from YAML files and checkpoints.

What is named here is imported at its first use, so that this package itself costs nothing.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "add_vrd_config": "defaults",
    "load_config": "loading",
    "load_inference_config": "loading",
}

__all__ = ["add_vrd_config", "load_config", "load_inference_config"]


def __getattr__(name: str) -> Any:
    """Import what is asked for (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
