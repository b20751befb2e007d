"""Checkpoints: loaded without code and without what does not fit, and written at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from torch import nn

from vrd_d2 import assets
from vrd_d2.checkpoint.downloads import local_file
from vrd_d2.checkpoint.folder import TAG
from vrd_d2.checkpoint.renamed_weights import with_new_names
from vrd_d2.checkpoint.stamp import STAMP, check_stamp, of_other_names, weights_of_names
from vrd_d2.checkpoint.weights_files import (
    NotFiniteError,
    check_finite,
    read_safetensors,
    read_tensors,
    read_zoo_pickle,
    write_tensors,
)
from vrd_d2.data.atomic_files import write_text
from vrd_d2.data.record_values import short
from vrd_d2.data.source_files import located

_SHIPPED_DETECTORS = {"scenes": assets.path("scenes_faster_rcnn.pth")}


def detector_file(weights: str) -> str:
    """Return the file of MODEL.DETECTOR.WEIGHTS or MODEL.VISUAL.WEIGHTS; "scenes" ships."""
    return str(_SHIPPED_DETECTORS.get(weights, weights))


class SafeCheckpointer(DetectionCheckpointer):
    """Reads tensors, arrays and plain values, and never runs code that a file brings along.

    Files are .safetensors, what ``torch.load(weights_only=True)`` reads, or a .pkl of arrays as in
    Detectron2's model zoo. What is written is complete or not there at all, and is finite.

    Attributes:
        last_saved: path of the checkpoint that was written last, or "".
    """

    last_saved: str = ""

    def save(self, name: str, **kwargs: Any) -> None:
        """Write the model and all states to `name`.pth, which last_checkpoint then names.

        Raises:
            NotFiniteError: a weight is not finite; nothing is written.
            OSError: names the file that cannot be written; the one before it is still there.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        check_finite(self.model)
        states = {key: part.state_dict() for key, part in self.checkpointables.items()}
        file = Path(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", file)
        write_tensors({"model": self.model.state_dict(), **states, **kwargs}, file)
        self.tag_last_checkpoint(file.name)
        self.last_saved = str(file)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name a file of the folder as the one to go on from."""
        write_text(Path(self.save_dir, TAG), last_filename_basename)

    def _load_file(self, filename):
        if filename.endswith(".safetensors"):
            loaded = {"model": read_safetensors(filename)}
        elif filename.endswith(".pkl"):
            with PathManager.open(filename, "rb") as file:
                loaded = read_zoo_pickle(file)
        else:
            if filename.endswith(".pyth"):
                self._torch_load(filename)  # only to refuse: Detectron2 loads such files itself
            loaded = super()._load_file(filename)
        if not isinstance(loaded["model"], Mapping):
            raise ValueError(f"the file holds a {type(loaded['model']).__name__}, no weights")
        if not all(isinstance(name, str) for name in loaded["model"]):
            raise ValueError("the file holds weights whose names are no text")
        return {**loaded, "model": with_new_names(loaded["model"], self.model.state_dict())}

    def _torch_load(self, f):
        return read_tensors(f)

    def _load_model(self, checkpoint):
        incompatible = super()._load_model(checkpoint)
        try:
            check_finite(self.model)
        except NotFiniteError as error:
            raise NotFiniteError(
                f"{error}: the checkpoint is of a training that diverged, take an earlier one"
            ) from error
        return incompatible


def read_stamp(path: str) -> Mapping[str, Any]:
    """Return the content of the :class:`~vrd_d2.checkpoint.stamp.Stamp` in a checkpoint.

    Raises:
        ValueError: the file is missing, holds code, or has no stamp.
    """
    file = local_file(path)
    try:
        stored = read_tensors(file).get(STAMP)
        if not isinstance(stored, Mapping) or not {"config", "objects"} <= stored.keys():
            raise ValueError("it holds no config: give the YAML as well")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return stored


class StrictCheckpointer(SafeCheckpointer):
    """Refuses a checkpoint of another kind, or one without weights for a part of the model.

    Args:
        model: to load into.
        expected: of ``stamp_of``; None compares names and shapes of the weights alone.
        save_dir, states: see Detectron2's checkpointer.

    Attributes:
        stored: the stamp of the checkpoint that was loaded last; None if it had none.
    """

    def __init__(
        self,
        model: nn.Module,
        expected: Mapping[str, Any] | None = None,
        save_dir: str = "",
        **states: Any,
    ):
        super().__init__(model, save_dir, **states)
        self.expected = expected
        self.stored: Mapping[str, Any] | None = None

    def _load_model(self, checkpoint):
        stored = self.stored = _pop_stamp(checkpoint)
        if stored is not None and self.expected is not None:
            check_stamp(stored, self.expected)
        incompatible = super()._load_model(checkpoint)
        unused = [key for key in incompatible.unexpected_keys if key.startswith("detector.")]
        if unused and getattr(self.model, "detector", None) is None:
            # Given boxes replace it. Every other weight of the file must be in the model.
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
                f"the checkpoint does not fit the model ({self._tasks(stored)}): "
                + "; ".join(problems[:5])
                + more
            )
        return incompatible

    def _tasks(self, stored: Mapping[str, Any] | None) -> str:
        trained, wanted = ((s or {}).get("task") for s in (stored, self.expected))
        if trained == wanted or not trained or not wanted:
            return "another config, task or vocabulary?"
        return f"it was trained for {trained}, MODEL.RELATION.TASK is {wanted}"


class StartingCheckpointer(SafeCheckpointer):
    """Loads what fits into a model that is going to be trained, and says what does not.

    A classifier of other names is left out as one of another number of names is, whose weights
    have another shape.

    Args:
        model: to load into.
        expected: of ``stamp_of``.
    """

    def __init__(self, model: nn.Module, expected: Mapping[str, Any] | None = None):
        super().__init__(model)
        self.expected = expected

    def _load_model(self, checkpoint):
        stored, weights = _pop_stamp(checkpoint), checkpoint["model"]
        if self.expected is not None and stored is not None:
            left_out, why = of_other_names(weights, stored, self.expected)
            for name in left_out:
                del weights[name]
            if left_out:
                self.logger.warning("%s: not loaded are %s", why, ", ".join(left_out))
        elif self.expected is not None:
            self._warn_of_unknown_names(weights)
        return super()._load_model(checkpoint)

    def _warn_of_unknown_names(self, weights: Mapping[str, Any]) -> None:
        of_model = self.model.state_dict()
        fitting = {
            name: weight
            for name, weight in weights.items()
            if name in of_model and getattr(weight, "shape", None) == of_model[name].shape
        }
        taken = {
            name
            for kind in ("objects", "predicates")
            for name in weights_of_names(fitting, kind, len(self.expected.get(kind, ())))
        }
        if taken:
            self.logger.warning(
                "the checkpoint does not say which names it was trained with: %s are taken as they "
                "are, as if those were MODEL.VOCABULARY's, in its order",
                ", ".join(sorted(taken)),
            )


def _pop_stamp(checkpoint: dict[str, Any]) -> Mapping[str, Any] | None:
    stored = checkpoint.pop(STAMP, None)
    if stored is not None and not isinstance(stored, Mapping):
        raise ValueError(f"the stamp of the checkpoint, {STAMP!r}, is {stored!r}")
    for kind in ("objects", "predicates"):
        names = (stored or {}).get(kind, [])
        if not isinstance(names, (list, tuple)) or not all(isinstance(n, str) for n in names):
            raise ValueError(f"{kind} in the stamp of the checkpoint is {short(names)}, no names")
    return stored


def load_weights(
    model: nn.Module,
    path: str,
    *,
    expected: Mapping[str, Any] | None = None,
    start: bool = False,
) -> None:
    """Load the weights of a model.

    Args:
        model: whose every parameter and buffer must be in the file.
        path: local file (.pth, .safetensors, or a .pkl of arrays), or a URL or ``detectron2://``
            name.
        expected: the stamp that the checkpoint must have, of ``stamp_of``; a checkpoint without
            one is compared by names and shapes alone.
        start: the model is going to be trained, and need not get all of its weights there.
            Weights that do not fit, and classifiers of other names, are left out with a warning.

    Raises:
        ValueError: the file is missing, holds code or values that are not finite, or does not fit.
    """
    file = local_file(path)
    if path.endswith((".onnx", ".pt2", ".ts")):
        raise ValueError(
            f"{path} is an exported model, no checkpoint: tools/predict.py takes ONNX as --model"
        )
    stored = "" if file == path else f", stored as {file}"
    with located(f"{path}{stored}"):
        (StartingCheckpointer if start else StrictCheckpointer)(model, expected).load(path)
