"""Visual relationship detection and scene graphs with CLIP, as a Detectron2 extension.

Where torch or Detectron2 is missing, only what exported models need can be imported: SceneGraph,
and the modules that tools/predict.py --model uses.
"""

import logging
import warnings
from importlib.util import find_spec
from typing import NoReturn

from vrd_d2.scene_graph import SceneGraph
from vrd_d2.version import __version__

__all__ = [
    "Predictor",
    "SceneGraph",
    "__version__",
    "add_vrd_config",
    "get_vocabulary",
    "load_config",
]

_MISSING = [package for package in ("torch", "detectron2") if find_spec(package) is None]

if not _MISSING:
    # What today's torch says of calls in Detectron2, at every start, and nobody here can change.
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
    warnings.filterwarnings("ignore", "torch.meshgrid: in an upcoming release", UserWarning)
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)

    from vrd_d2.config.defaults import add_vrd_config
    from vrd_d2.config.loading import load_config
    from vrd_d2.data.datasets.setup import register_builtin_once
    from vrd_d2.data.vocabulary import get_vocabulary
    from vrd_d2.inference.predictor import Predictor
    from vrd_d2.modeling import registration  # noqa: F401

    register_builtin_once()
else:

    def __getattr__(name: str) -> NoReturn:
        """Say how to get Detectron2, which `pip install` cannot fetch as a dependency."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        raise ImportError(
            f"vrd_d2.{name} needs {_MISSING[0]}, which is not installed. In a checkout of vrd_d2 "
            "run\n    bash tools/setup_environment.sh\n"
            "anywhere else install vrd_d2 with pip, and this build of Detectron2, or your own from "
            "source:\n"
            "    pip install --no-deps --only-binary=:all: --python-version 3.10"
            " --implementation cp --target"
            ' "$(python -c \'import sysconfig; print(sysconfig.get_path("purelib"))\')"'
            " sal-detectron2==0.7.2",
            name=_MISSING[0],
        )
