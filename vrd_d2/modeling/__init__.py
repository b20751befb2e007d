"""Models. Names are imported when they are first used; :mod:`.registration` registers them all."""

from importlib import import_module
from typing import Any

_MODULES = {
    "CLIPViT": "encoders.clip",
    "FrequencyBaseline": "frequency",
    "RelCLIP": "relclip",
    "RelationModel": "relation_model",
    "TextEncoder": "encoders.clip",
    "UnionCLIP": "union_clip.model",
    "load_clip": "encoders.clip",
}

__all__ = [
    "CLIPViT",
    "FrequencyBaseline",
    "RelCLIP",
    "RelationModel",
    "TextEncoder",
    "UnionCLIP",
    "load_clip",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
