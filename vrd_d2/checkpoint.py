"""Loading of weights that refuses what does not fit."""

from pathlib import Path

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from torch import nn

# Detectors that ship with the package, for MODEL.DETECTOR.WEIGHTS and MODEL.VISUAL.WEIGHTS.
SHIPPED_DETECTORS = {"scenes": Path(__file__).resolve().parent / "assets/scenes_faster_rcnn.pth"}


class StrictCheckpointer(DetectionCheckpointer):
    """Refuses a checkpoint that leaves a part of the model without weights."""

    def _load_model(self, checkpoint):
        incompatible = super()._load_model(checkpoint)
        unused = [key for key in incompatible.unexpected_keys if key.startswith("detector.")]
        if unused and getattr(self.model, "detector", None) is None:
            # Boxes of the user's own stand in for it; every other weight has its place.
            self.logger.info("%d weights of the detector are not needed", len(unused))
            incompatible.unexpected_keys[:] = [
                key for key in incompatible.unexpected_keys if key not in set(unused)
            ]
        problems = [
            f"{key}: checkpoint {found}, model {expected}"
            for key, found, expected in incompatible.incorrect_shapes
        ]
        problems += [f"{key}: not in the checkpoint" for key in incompatible.missing_keys]
        # A prior or a layer of the head that is left out changes every number.
        problems += [
            f"{key}: not in the model"
            for key in incompatible.unexpected_keys
            if key.startswith("head.")
        ]
        if problems:
            more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise ValueError(
                "the checkpoint does not fit the model (another config, task or vocabulary?): "
                + "; ".join(problems[:5])
                + more
            )
        return incompatible


def load_weights(model: nn.Module, path: str) -> None:
    """Load all weights of a model.

    Args:
        model: whose every parameter and buffer must be in the file.
        path: local file, or a URL or ``detectron2://`` name.

    Raises:
        ValueError: the file is missing, or does not fit.
    """
    if "://" not in path and not PathManager.isfile(path):
        raise ValueError(f"there is no weights file {path}")
    try:
        StrictCheckpointer(model).load(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
