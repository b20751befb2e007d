"""Visual relationship detection and scene graphs with CLIP, as a Detectron2 extension.

Importing this package loads neither torch nor Detectron2. Each name is imported at its first use;
that of Predictor, add_vrd_config or load_config registers datasets and architectures with
Detectron2. Where torch or Detectron2 is missing, exported models still run.
"""

import importlib
import logging
import warnings
from typing import TYPE_CHECKING, Any

from vrd_d2 import moved
from vrd_d2.version import __version__

if TYPE_CHECKING:
    from vrd_d2.config.defaults import add_vrd_config
    from vrd_d2.config.loading import load_config
    from vrd_d2.data.vocabulary import get_vocabulary
    from vrd_d2.inference.predictor import Predictor
    from vrd_d2.scene_graph import SceneGraph

__all__ = [
    "Predictor",
    "SceneGraph",
    "__version__",
    "add_vrd_config",
    "get_vocabulary",
    "load_config",
]

_HOMES = {
    "Predictor": "vrd_d2.inference.predictor",
    "SceneGraph": "vrd_d2.scene_graph",
    "add_vrd_config": "vrd_d2.config.defaults",
    "get_vocabulary": "vrd_d2.data.vocabulary",
    "load_config": "vrd_d2.config.loading",
}
_PARTS = (
    *("assets", "checkpoint", "commands", "config", "data", "demo", "engine", "evaluation"),
    *("export", "inference", "media", "modeling", "onnx_runtime", "scene_graph", "tasks"),
    "visualization",
)

# Today's torch warns about calls in Detectron2 whenever it is imported, and nobody here can change
# them. Here, because this module runs before any other module of the package imports torch.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
warnings.filterwarnings("ignore", "torch.meshgrid: in an upcoming release", UserWarning)
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)

moved.install()


def __getattr__(name: str) -> Any:
    """Import a public name, or a part of the package, at its first use."""
    if name in _PARTS or f"vrd_d2.{name}" in moved.MODULES:
        return importlib.import_module(f"vrd_d2.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        package = missing_package(error)
        if package is None:
            raise
        raise ImportError(how_to_install(f"vrd_d2.{name}", package), name=package) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def missing_package(error: ImportError) -> str | None:
    """Return which of torch and Detectron2 an error is about that is not installed; else None."""
    package = (error.name or "").partition(".")[0]
    if package not in ("torch", "detectron2"):
        return None
    from importlib.util import find_spec

    return package if find_spec(package) is None else None


def how_to_install(what: str, package: str) -> str:
    """Return how to get torch and Detectron2, which `pip install` cannot fetch as a dependency."""
    return (
        f"{what} needs {package}, which is not installed. In a checkout of vrd_d2 "
        "run\n    bash tools/setup_environment.sh\n"
        "anywhere else install vrd_d2 with pip, and this build of Detectron2, or your own from "
        "source:\n"
        "    pip install --no-deps --only-binary=:all: --python-version 3.10"
        " --implementation cp --target"
        ' "$(python -c \'import sysconfig; print(sysconfig.get_path("purelib"))\')"'
        " sal-detectron2==0.7.2"
    )
