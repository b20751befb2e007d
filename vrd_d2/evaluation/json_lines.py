"""Ground truth and predictions as JSON Lines, one image a line, plain or gzip.

A line of predictions holds image_id, boxes [[x1, y1, x2, y2], ...], classes [...], scores [...],
pairs [[subject, object], ...] and predicate_scores [[one number a foreground predicate], ...];
or, instead of the last two, triplets [[subject, object, predicate, score], ...] whose score ranks
them as it is. Where the task gives boxes or classes they may be left out. A line of ground truth
holds image_id, gt_boxes, gt_classes and gt_relations [[subject, object, predicate], ...],
optionally height and width. Both may stand in one line. README.md has examples.
"""

import codecs
import contextlib
import gzip
import json
import os
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vrd_d2.addresses import refuse_address
from vrd_d2.data.record_values import short
from vrd_d2.data.source_files import parse_json, require_regular
from vrd_d2.evaluation.records import GroundTruth, Prediction
from vrd_d2.tasks import Task

_FAR = 1e9  # pixels; no image is that large


class LineError(ValueError):
    """A line that cannot be used; the message has its number and the reason."""

    def __init__(self, path: str | Path, number: int, reason: object) -> None:
        super().__init__(f"{path}, line {number}: {reason}")


def read_json_lines(path: str | Path, *, progress: bool = False) -> Iterator[tuple[int, dict]]:
    """Yield (line number from 1, content) of lines that are of an image each.

    Args:
        path, progress: as in :func:`read_objects`.

    Raises:
        LineError: a line is no JSON object or has no image_id.
    """
    for number, value in read_objects(path, progress=progress):
        if type(value.get("image_id")) not in (int, str):
            raise LineError(path, number, "needs image_id, a whole number or a string")
        yield number, value


def read_objects(path: str | Path, *, progress: bool = False) -> Iterator[tuple[int, dict]]:
    """Yield (line number from 1, content), one line in memory at a time; empty ones are skipped.

    Args:
        path: plain text, or gzip whatever its name.
        progress: show a bar.

    Raises:
        LineError: a line is no JSON object.
    """
    refuse_address(path)
    path = Path(path)
    require_regular(path)
    with path.open("rb") as raw:
        stream = gzip.GzipFile(fileobj=raw) if _is_packed(raw) else raw
        bar = tqdm(
            total=path.stat().st_size,
            unit="B",
            unit_scale=True,
            desc=path.name,
            disable=not progress,
        )
        with bar:
            number = 0
            try:
                for number, line in enumerate(stream, 1):
                    bar.update(raw.tell() - bar.n)
                    if line.strip():
                        yield number, _object(path, number, line)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise LineError(path, number + 1, f"broken gzip: {error}") from error


def starts_like_lines(path: str | os.PathLike, *keys: str) -> bool:
    """Return whether the first line is of one image, or meant to be: it has one of the keys.

    A JSON document on one line, which lists "images", is none, whatever it is packed in.
    """
    require_regular(path)
    with contextlib.suppress(EOFError, gzip.BadGzipFile, zlib.error), open(path, "rb") as raw:
        stream = gzip.GzipFile(fileobj=raw) if _is_packed(raw) else raw
        first = next((line for line in stream if line.strip()), b"")
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(first)
            return isinstance(value, dict) and "images" not in value
        named = any(f'"{key}"'.encode() in first for key in keys)
        return named and first.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"{"
    return True  # broken gzip, which the reader of lines says


def _is_packed(raw: BufferedReader) -> bool:
    return raw.peek(2)[:2] == b"\x1f\x8b"


def _object(path: Path, number: int, line: bytes) -> dict:
    try:
        value = parse_json(line, repeated_keys=True)
    except ValueError as error:
        raise LineError(path, number, f"no JSON: {error}") from error
    if not isinstance(value, dict):
        raise LineError(path, number, f"must be a JSON object, not {type(value).__name__}")
    return value


def ground_truth_from_json(value: dict) -> GroundTruth:
    """Return the ground truth of a line.

    Raises:
        ValueError: a field is missing or malformed.
    """
    fields = ("gt_boxes", "gt_classes", "gt_relations")
    _require(value, *fields)
    _check_lists(value, *fields)
    size = [value.get(name) for name in ("height", "width")]
    if not all(side is None or (type(side) in (int, float) and 0 < side < _FAR) for side in size):
        raise ValueError(f"height and width must be positive, finite numbers, not {short(size)}")
    return GroundTruth(
        value["gt_boxes"],
        value["gt_classes"],
        value["gt_relations"],
        longer_side=None if None in size else max(size),
    )


def prediction_from_json(value: dict, ground_truth: GroundTruth, task: Task) -> Prediction:
    """Return the predictions of a line, scores in single precision as public evaluators use.

    Args:
        ground_truth: of the same image: stands for what the task gives and the line leaves out.

    Raises:
        ValueError: a field is missing or malformed.
    """
    _check_lists(value, "boxes", "classes", "scores", "pairs", "predicate_scores", "triplets")
    listed = value.get("triplets") is not None
    if listed and (value.get("pairs") or value.get("predicate_scores")):
        raise ValueError("give either triplets or pairs with predicate_scores, not both")
    boxes, classes, scores = (value.get(name) for name in ("boxes", "classes", "scores"))
    if boxes is None and task.boxes_given:
        boxes = ground_truth.boxes
    if classes is None and task.classes_given:
        classes = ground_truth.classes
    if scores is None and (listed or task.classes_given) and boxes is not None:
        scores = np.ones(len(boxes), np.float32)
    found = {**value, "boxes": boxes, "classes": classes, "scores": scores}
    _require(found, "boxes", "classes", "scores")
    if not listed:
        _require(value, "pairs", "predicate_scores")
        return Prediction(
            boxes,
            classes,
            _single(scores, "scores"),
            pairs=value["pairs"],
            predicate_scores=_single(value["predicate_scores"], "predicate_scores"),
        )
    triplets = value["triplets"]
    if not all(isinstance(row, list) and len(row) == 4 for row in triplets):
        raise ValueError("triplets must be rows [subject, object, predicate, score]")
    return Prediction(
        boxes,
        classes,
        _single(scores, "scores"),
        triplets=[row[:3] for row in triplets],
        triplet_scores=_single([row[3] for row in triplets], "triplets"),
    )


def _require(value: dict, *names: str) -> None:
    absent = [name for name in names if value.get(name) is None]
    if absent:
        raise ValueError(f"needs {', '.join(absent)}")


def _check_lists(value: dict, *names: str) -> None:
    for name in names:
        if not isinstance(value.get(name, []), (list, type(None))):
            raise ValueError(f"{name} must be a list, not {type(value[name]).__name__}")


def _single(values: object, name: str) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):  # infinity, which the check refuses
            return np.asarray(values, np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} must be numbers in rows of one length") from error


def prediction_line(image_id: int | str, prediction: Prediction) -> str:
    """Return predictions of scored pairs as a line; nine digits hold single precision exactly."""
    fields = [
        ("image_id", json.dumps(image_id)),
        ("boxes", _rows(prediction.boxes)),
        ("classes", json.dumps(prediction.classes.tolist())),
        ("scores", _numbers(prediction.scores)),
        ("pairs", json.dumps(prediction.pairs.tolist())),
        ("predicate_scores", _rows(prediction.predicate_scores)),
    ]
    return "{" + ", ".join(f'"{name}": {text}' for name, text in fields) + "}\n"


def _numbers(values: np.ndarray) -> str:
    return "[" + ",".join(["%.9g"] * len(values)) % tuple(values.tolist()) + "]"


def _rows(values: np.ndarray) -> str:
    return "[" + ",".join(_numbers(row) for row in values) + "]"
