"""The stamp of a checkpoint: what it was trained as, and whether that fits a config."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from vrd_d2.data.vocabulary import get_vocabulary
from vrd_d2.version import __version__

DETECTOR = "GeneralizedRCNN"
STAMP = "vrd_d2"
# Weights with a row for each name, by the beginning of their own name.
_OF_NAMES = {
    "objects": (
        "head.predictor.classes.",
        "head.predictor.prior.",
        "head.features.class_table",
        "roi_heads.box_predictor.",
        "detector.roi_heads.box_predictor.",
    ),
    "predicates": ("head.predictor.predicates.", "head.predictor.prior."),
}
# Whatever else the predictor of a relation head has.
_HEAD = "head.predictor."


class Stamp:
    """What a checkpoint holds beside the weights, in the form of Detectron2's checkpointer.

    Version, meta-architecture, task, names of classes and predicates, image encoder and the whole
    config.

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
        """Return strings and lists, which ``torch.load(weights_only=True)`` reads."""
        return self.content

    def load_state_dict(self, stored: Mapping[str, Any]) -> None:
        """Refuse to resume another training: raises ValueError."""
        check_stamp(stored, self.content)


def stamp_of(cfg: CfgNode, *, part: str = "model") -> dict[str, Any]:
    """Return the stamp that a checkpoint must have to fit a config.

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
        # A JSON file may lie in another folder on another machine.
        name = Path(name).stem if name.endswith(".json") else name.replace("/", "-")
        stamp["image_encoder"] = name if encoder == "clip" else encoder
    return stamp


def check_stamp(stored: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Compare the stamp of a checkpoint with what a config needs.

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


def of_other_names(
    weights: Mapping[str, Any], stored: Mapping[str, Any], expected: Mapping[str, Any]
) -> tuple[list[str], str]:
    """Return the weights of a checkpoint that stand for other names than a config's, and why.

    They are those of classifiers and tables, which have a row for each name. Another number of
    names shows in their shape as well.

    Args:
        weights: of the checkpoint, by name.
        stored: its stamp.
        expected: the config's, of :func:`stamp_of`.
    """
    left_out: set[str] = set()
    reasons = []
    for kind in ("objects", "predicates"):
        found = list(stored.get(kind, ()))
        if kind not in expected or not found or found == expected[kind]:
            continue
        left_out |= set(weights_of_names(weights, kind, len(found)))
        reasons.append(
            f"the checkpoint has other {kind} than MODEL.VOCABULARY: "
            f"{_first_difference(found, expected[kind])}"
        )
    return sorted(left_out), "; ".join(reasons)


def weights_of_names(weights: Mapping[str, Any], kind: str, count: int) -> list[str]:
    """Return the weights of a checkpoint that have a row for each of `count` names of a kind."""
    with_background = {count, count + 1}
    return [
        name
        for name, weight in weights.items()
        if name.startswith(_OF_NAMES[kind])
        or (name.startswith(_HEAD) and with_background & set(getattr(weight, "shape", ())))
    ]


def _first_difference(found: Sequence[str], expected: Sequence[str]) -> str:
    index = next(
        (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b),
        min(len(found), len(expected)),
    )
    names = [repr(names[index]) if index < len(names) else "none" for names in (found, expected)]
    return (
        f"{len(found)} and {len(expected)}, which differ at id {index} ({names[0]} and {names[1]})"
    )
