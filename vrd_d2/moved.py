"""Where public modules and names of version 0.1 are now, and how their old paths still work.

An old path works for one release and gives a DeprecationWarning that names the new one.
"""

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Old module: the new ones that have its names.
MODULES = {
    "vrd_d2.config_files": ("vrd_d2.config.loading",),
    "vrd_d2.data.builtin": (
        "vrd_d2.data.datasets.setup",
        "vrd_d2.data.datasets.builtin",
        "vrd_d2.data.datasets.loading",
    ),
    "vrd_d2.data.knowledge_base": ("vrd_d2.data.knowledge.knowledge_base",),
    "vrd_d2.data.mapper": ("vrd_d2.data.dataset_mapper",),
    "vrd_d2.data.relations_json": (
        "vrd_d2.data.formats.relations_json",
        "vrd_d2.data.datasets.registrar",
    ),
    "vrd_d2.data.visual_genome": ("vrd_d2.data.datasets.visual_genome_raw",),
    "vrd_d2.data.visual_genome_h5": ("vrd_d2.data.datasets.visual_genome_h5",),
    "vrd_d2.heat_map": ("vrd_d2.visualization.heat_map", "vrd_d2.scene_graph"),
    "vrd_d2.predictor": ("vrd_d2.inference.predictor",),
}
# Package that was a module: its names and where they are. Some have another name there.
NAMES = {
    "vrd_d2.checkpoint": {
        "SafeCheckpointer": "vrd_d2.checkpoint.checkpointer.SafeCheckpointer",
        "Stamp": "vrd_d2.checkpoint.stamp.Stamp",
        "StrictCheckpointer": "vrd_d2.checkpoint.checkpointer.StrictCheckpointer",
        "check_stamp": "vrd_d2.checkpoint.stamp.check_stamp",
        "detector_file": "vrd_d2.checkpoint.checkpointer.detector_file",
        "load_weights": "vrd_d2.checkpoint.checkpointer.load_weights",
        "read_stamp": "vrd_d2.checkpoint.checkpointer.read_stamp",
        "stamp_of": "vrd_d2.checkpoint.stamp.stamp_of",
    },
    "vrd_d2.engine": {
        "SkippingSampler": "vrd_d2.data.samplers.SkippingSampler",
        "load_detector": "vrd_d2.engine.build.load_detector",
    },
    "vrd_d2.evaluation": {"evaluate_picture": "vrd_d2.evaluation.image.evaluate_image"},
    "vrd_d2.media": {
        "BrokenFrame": "vrd_d2.media.video.BrokenFrame",
        "Frame": "vrd_d2.media.video.Frame",
        "MAX_PIXELS": "vrd_d2.media.images.MAX_PIXELS",
        "read_frames": "vrd_d2.media.video.read_frames",
        "read_picture": "vrd_d2.media.images.read_image",
        "to_rgb": "vrd_d2.media.images.to_rgb",
    },
    "vrd_d2.visualization": {
        "draw_ground_truth": "vrd_d2.inference.comparison.draw_ground_truth",
        "draw_predictions": "vrd_d2.inference.comparison.draw_predictions",
        "draw_scene_graph": "vrd_d2.visualization.scene_graph_image.draw_scene_graph",
        "save_image": "vrd_d2.data.images.saving.save_image",
    },
}


def install() -> None:
    """Make the old modules importable."""
    if _Finder not in sys.meta_path:
        sys.meta_path.append(_Finder)


def lazy_attributes(
    package: str, homes: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` of a package whose names are imported at first use.

    Args:
        package: its `__name__`. Its names in :data:`NAMES` work as well, with a warning.
        homes: public name -> the module that defines it.
    """
    homes = homes or {}
    old = NAMES.get(package, {})

    def get(name: str) -> Any:
        if name in homes:
            value = getattr(importlib.import_module(homes[name]), name)
            setattr(sys.modules[package], name, value)  # the next use finds it there
            return value
        if name in old:
            _warn(f"{package}.{name}", old[name], stacklevel=3)
            module, _, new_name = old[name].rpartition(".")
            return getattr(importlib.import_module(module), new_name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get, names


class _Finder:
    """Finds old modules; the last of sys.meta_path, so that it is asked for nothing that exists."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, _Loader()) if name in MODULES else None


class _Loader:
    """Makes a module whose attributes are those of the new modules."""

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        homes = MODULES[module.__name__]
        _warn(module.__name__, " or ".join(homes), stacklevel=3)

        def get(name: str) -> Any:
            for home in homes:
                found = importlib.import_module(home)
                if hasattr(found, name):
                    return getattr(found, name)
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        module.__getattr__ = get


def _warn(old: str, new: str, *, stacklevel: int) -> None:
    message = f"{old} is now {new}; the old path goes with the next release"
    warnings.warn(message, DeprecationWarning, stacklevel=stacklevel)
