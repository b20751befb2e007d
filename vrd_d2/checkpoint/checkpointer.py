"""Checkpoints that say what they are, and their loading: nothing that does not fit, no code.

A checkpoint of the trainer holds, beside the weights, a stamp under the key "vrd_d2": version,
meta-architecture, task, names of classes and predicates, image encoder, and the whole config.
"""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from vrd_d2 import assets
from vrd_d2.checkpoint.array_pickle import read_array_pickle
from vrd_d2.checkpoint.renamed_weights import with_new_names
from vrd_d2.data.vocabulary import get_vocabulary
from vrd_d2.version import __version__

_SHIPPED_DETECTORS = {"scenes": assets.path("scenes_faster_rcnn.pth")}

DETECTOR = "GeneralizedRCNN"
STAMP = "vrd_d2"


class Stamp:
    """The part of a checkpoint that says what it is, as the checkpointer of Detectron2 wants it.

    Args:
        cfg: of the training.
    """

    def __init__(self, cfg: CfgNode):
        self.content = {
            **stamp_of(cfg),
            "version": __version__,
            "pretrained": Path(cfg.MODEL.CLIP.PRETRAINED).name,
            "config": cfg.dump(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Strings and lists, which ``torch.load(weights_only=True)`` reads."""
        return self.content

    def load_state_dict(self, stored: Mapping[str, Any]) -> None:
        """Refuse to resume another training: raises ValueError."""
        check_stamp(stored, self.content)


def detector_file(weights: str) -> str:
    """The file of MODEL.DETECTOR.WEIGHTS, MODEL.VISUAL.WEIGHTS; "scenes" is the one that ships."""
    return str(_SHIPPED_DETECTORS.get(weights, weights))


def stamp_of(cfg: CfgNode, *, part: str = "model") -> dict[str, Any]:
    """What a checkpoint must say to fit a config.

    Args:
        cfg: of the model that is to be loaded.
        part: "model", or "detector" for MODEL.DETECTOR.WEIGHTS.
    """
    vocabulary = get_vocabulary(cfg.MODEL.VOCABULARY)
    architecture = DETECTOR if part == "detector" else cfg.MODEL.META_ARCHITECTURE
    stamp: dict[str, Any] = {
        "meta_architecture": architecture,
        "objects": list(vocabulary.objects),
    }
    if architecture != DETECTOR:
        stamp["predicates"] = list(vocabulary.predicates)
        stamp["task"] = cfg.MODEL.RELATION.TASK
        encoder = cfg.MODEL.VISUAL.ENCODER
        name = cfg.MODEL.CLIP.NAME
        # A JSON of one's own may lie in another folder elsewhere.
        name = Path(name).stem if name.endswith(".json") else name.replace("/", "-")
        stamp["image_encoder"] = name if encoder == "clip" else encoder
    return stamp


def check_stamp(stored: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Compare what a checkpoint says of itself with what a config needs.

    Raises:
        ValueError: another architecture, vocabulary or image encoder; names the first difference.
    """
    keys = {
        "meta_architecture": "MODEL.META_ARCHITECTURE",
        "image_encoder": "MODEL.CLIP.NAME or MODEL.VISUAL.ENCODER",
    }
    for name, key in keys.items():
        if name in expected and stored.get(name) != expected[name]:
            raise ValueError(
                f"the checkpoint is of {name} {stored.get(name)!r}, the config of "
                f"{expected[name]!r}: set {key} to the checkpoint's, or take another checkpoint"
            )
    for name in ("objects", "predicates"):
        if name in expected and list(stored.get(name, ())) != expected[name]:
            raise ValueError(
                f"the checkpoint has other {name} than MODEL.VOCABULARY: "
                f"{_first_difference(stored.get(name, ()), expected[name])}; set MODEL.VOCABULARY "
                "to that of its training"
            )


def _first_difference(found: Sequence[str], expected: Sequence[str]) -> str:
    index = next(
        (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b),
        min(len(found), len(expected)),
    )
    names = [repr(names[index]) if index < len(names) else "none" for names in (found, expected)]
    return (
        f"{len(found)} and {len(expected)}, which differ at id {index} ({names[0]} and {names[1]})"
    )


def first_line(error: Exception) -> str:
    """What an error says, without its explanations; its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


class SafeCheckpointer(DetectionCheckpointer):
    """Reads tensors, arrays and plain values, and never runs code that a file brings along.

    Files are .safetensors, what ``torch.load(weights_only=True)`` reads, or a .pkl of arrays as in
    Detectron2's model zoo.
    """

    def _load_file(self, filename):
        if filename.endswith(".safetensors"):
            try:
                loaded = {"model": load_file(filename)}
            except SafetensorError as error:
                raise _broken(error) from error
        elif filename.endswith(".pkl"):
            with PathManager.open(filename, "rb") as file:
                loaded = _zoo_format(file)
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
        return _load_tensors(f)


def _load_tensors(file: str) -> Mapping[str, Any]:
    """What is in a file of torch. Raises ValueError: it is broken, or no dict of plain values."""
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        reason = next((line for line in lines if "WeightsUnpickler" in line), first_line(error))
        raise ValueError(
            "the file holds more than weights, which is not loaded because it could run any "
            f"code ({reason.split('. ')[0]}): save the tensors alone, "
            'torch.save({"model": model.state_dict()}, path), or as .safetensors'
        ) from error
    except OSError:
        raise
    except Exception as error:  # what is broken may raise anything
        raise _broken(error) from error
    if not isinstance(loaded, Mapping):
        raise ValueError(f"the file holds a {type(loaded).__name__}, no weights by name")
    return loaded


def _broken(error: Exception) -> ValueError:
    return ValueError(f"the file is broken or no checkpoint ({first_line(error)}): get it again")


def _zoo_format(file: BinaryIO) -> dict[str, Any]:
    """A .pkl of Detectron2's model zoo, or of Caffe2's, which has names of its own."""
    try:
        content = read_array_pickle(file)
    except ValueError as error:
        raise ValueError(
            f"{error}; it is not loaded because it could run any code: only files of Detectron2's "
            "model zoo are taken as .pkl"
        ) from error
    if "model" in content and "__author__" in content:
        return dict(content)
    blobs = content.get("blobs", content)
    if isinstance(blobs, Mapping):
        blobs = {n: blob for n, blob in blobs.items() if not str(n).endswith("_momentum")}
    return {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}


def read_stamp(path: str) -> Mapping[str, Any]:
    """What a checkpoint says of itself: the content of a :class:`Stamp`.

    Raises:
        ValueError: the file is missing, holds code, or says nothing.
    """
    if not PathManager.isfile(path):
        raise ValueError(f"there is no weights file {path}")
    try:
        stored = _load_tensors(path).get(STAMP)
        if not isinstance(stored, Mapping) or not {"config", "objects"} <= stored.keys():
            raise ValueError("it does not bring its config along: give the YAML as well")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return stored


class StrictCheckpointer(SafeCheckpointer):
    """Refuses a checkpoint of another kind, or that leaves a part of the model without weights.

    Args:
        model: to load into.
        expected: of :func:`stamp_of`; None compares names and shapes of the weights alone.
    """

    def __init__(self, model: nn.Module, expected: Mapping[str, Any] | None = None):
        super().__init__(model)
        self.expected = expected

    def _load_model(self, checkpoint):
        stored = checkpoint.pop(STAMP, None)
        if stored is not None and not isinstance(stored, Mapping):
            raise ValueError(f"what the checkpoint says of itself ({STAMP!r}) is {stored!r}")
        if stored is not None and self.expected is not None:
            check_stamp(stored, self.expected)
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


def load_weights(model: nn.Module, path: str, *, expected: Mapping[str, Any] | None = None) -> None:
    """Load all weights of a model.

    Args:
        model: whose every parameter and buffer must be in the file.
        path: local file (.pth, .safetensors, or a .pkl of arrays), or a URL or ``detectron2://``
            name.
        expected: what the checkpoint must say of itself, of :func:`stamp_of`; a checkpoint that
            says nothing is judged by names and shapes alone.

    Raises:
        ValueError: the file is missing, holds code, or does not fit.
    """
    if "://" not in path and not PathManager.isfile(path):
        raise ValueError(f"there is no weights file {path}")
    if path.endswith((".onnx", ".pt2", ".ts")):
        raise ValueError(
            f"{path} is an exported model, no checkpoint: tools/predict.py takes ONNX as --model"
        )
    try:
        StrictCheckpointer(model, expected).load(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
