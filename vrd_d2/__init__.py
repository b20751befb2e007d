"""Visual relationship detection and scene graphs with CLIP, as a Detectron2 extension."""

from vrd_d2.version import __version__

__all__ = [
    "Predictor",
    "SceneGraph",
    "__version__",
    "add_vrd_config",
    "get_vocabulary",
    "load_config",
]


def _require_detectron2() -> None:
    """Everything below needs Detectron2, which `pip install` cannot fetch as a dependency."""
    try:
        import detectron2  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "detectron2":
            raise
        raise ImportError(
            "vrd_d2 needs Detectron2, which is not installed. In a checkout of vrd_d2 run\n"
            "    bash tools/setup_environment.sh\n"
            "anywhere else install this build of it, or your own from source:\n"
            "    pip install --no-deps --only-binary=:all: --python-version 3.10"
            " --implementation cp --target"
            ' "$(python -c \'import sysconfig; print(sysconfig.get_path("purelib"))\')"'
            " sal-detectron2==0.7.2",
            name="detectron2",
        ) from error


_require_detectron2()

# Behind the guard, whose message they would otherwise pre-empt. Importing them registers the
# built-in data sets and the meta-architectures with Detectron2.
from vrd_d2 import data, modeling  # noqa: E402, F401
from vrd_d2.config import add_vrd_config  # noqa: E402
from vrd_d2.data.vocabulary import get_vocabulary  # noqa: E402
from vrd_d2.engine import load_config  # noqa: E402
from vrd_d2.predictor import Predictor  # noqa: E402
from vrd_d2.scene_graph import SceneGraph  # noqa: E402
