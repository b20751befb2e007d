"""Training and evaluation on Detectron2's trainer; names are imported at their first use."""

from typing import TYPE_CHECKING

from vrd_d2.moved import lazy_attributes

if TYPE_CHECKING:
    from vrd_d2.engine.build import build_mapper, build_trained_model
    from vrd_d2.engine.trainer import Trainer

__all__ = ["Trainer", "build_mapper", "build_trained_model"]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "Trainer": "vrd_d2.engine.trainer",
        "build_mapper": "vrd_d2.engine.build",
        "build_trained_model": "vrd_d2.engine.build",
    },
)
