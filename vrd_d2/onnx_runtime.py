"""Exported ONNX models without torch and without Detectron2: onnxruntime, numpy and Pillow only.

This file imports nothing of this project. tools/export_model.py copies it beside the model, so that
the folder runs anywhere:

    python onnx_runtime.py model.onnx image.jpg

The package itself uses it for what must not exist twice: how the pixels of an image are read
(:func:`open_image`, :func:`to_rgb`), and which triplets a scene graph shows (:func:`select`).

Shapes: M entities, P pairs, K predicates, R relations.
"""

import argparse
import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from PIL import Image

METADATA_KEY = "vrd_d2"
# Of Pillow's many formats those of images, and none that starts another program (PostScript).
IMAGE_FORMATS = ["JPEG", "MPO", "JPEG2000", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF"]
IMAGE_FORMATS += ["PPM"]
# Six hundred megabytes as RGB; the largest cameras of telephones take so many.
MAX_PIXELS = 200_000_000
ImageInput = str | os.PathLike | np.ndarray

_ORIENTATION = 0x0112  # the tag of EXIF; its values and what undoes them:
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)  # orientations that swap width and height


class OnnxPredictor:
    """A detector or relation model that tools/export_model.py wrote.

    Args:
        model: the .onnx file.
        threads: of onnxruntime; 0 takes all cores.
        providers: of onnxruntime, such as ["CUDAExecutionProvider"]; None is the CPU.

    Attributes:
        metadata: what the model is: task, vocabulary, preprocessing, inputs, outputs, versions.
        input_names: "image", and "boxes" and "classes" where the model takes them.

    Raises:
        ValueError: the file is missing, or no model of this project.
    """

    def __init__(
        self,
        model: str | os.PathLike,
        *,
        threads: int = 0,
        providers: Sequence[str] | None = None,
    ):
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise ValueError("onnxruntime is not installed: pip install onnxruntime") from error
        if not Path(model).is_file():
            raise ValueError(f"there is no model file {model}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                os.fspath(model), options, providers=providers or ["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has a type for every cause
            raise ValueError(
                f"{model} is no ONNX model that can be run: {error}"
                + ("" if str(model).endswith(".onnx") else " (a checkpoint goes to --weights)")
            ) from error
        self._file = os.fspath(model)
        try:
            stored = self._session.get_modelmeta().custom_metadata_map
        except ValueError as error:  # bytes that are no text
            raise _broken(self._file, error) from error
        if METADATA_KEY not in stored:
            raise ValueError(
                f"{model} does not say what it is (no metadata {METADATA_KEY!r}): write it with "
                "tools/export_model.py"
            )
        self.metadata = _checked_metadata(stored[METADATA_KEY], self._file)
        self.input_names = [entry.name for entry in self._session.get_inputs()]
        self._outputs = [entry.name for entry in self._session.get_outputs()]
        self._check_names()

    def _check_names(self) -> None:
        """Raise ValueError unless inputs and outputs are those of the metadata's model."""
        unknown = {*self.input_names} - {"image", "boxes", "classes"}
        needed = {"boxes", "classes"} | ({*_OF_PAIRS} if self.metadata["predicates"] else set())
        missing = ({"image"} - {*self.input_names}) | (
            needed - {*self.input_names} - {*self._outputs}
        )
        for names, what in ((unknown, "unknown inputs"), (missing, "missing inputs or outputs")):
            if names:
                raise ValueError(
                    f"{self._file} does not fit its metadata ({what}: {', '.join(sorted(names))}): "
                    "export it again"
                )

    def __call__(
        self,
        image: ImageInput,
        *,
        boxes: Sequence[Sequence[float]] | None = None,
        labels: Sequence[str] | None = None,
        top_k: int = 20,
        min_score: float = 0.0,
        min_entity_score: float = 0.0,
        predicates: str | Sequence[str] | None = None,
        max_overlap: float = 0.7,
    ) -> dict[str, Any]:
        """Predict the scene graph of an image.

        Arguments are those of ``vrd_d2.inference.predictor.Predictor``.

        Args:
            image: path, or uint8 (H, W, 3) RGB.
            boxes: (M, 4) XYXY pixels of the image, where the model takes boxes.
            labels: M class names, where the model takes classes.
            top_k, min_score, min_entity_score, predicates: see :func:`select`.
            max_overlap: of found entities that overlap by a larger IoU, whatever their classes,
                only the one with the best score remains; 1 removes none. Given boxes always remain.

        Returns:
            {"file_name" (of a path), "width", "height", "entities": [{"id", "label", "bbox" XYWH,
            "score"}], "relations": [{"subject", "predicate", "object", "score"}]}, best first:
            what ``vrd_d2.scene_graph.SceneGraph.from_dict`` takes.

        Raises:
            ValueError: see :meth:`run`; or a predicate is unknown.
        """
        check_top_k(top_k)
        pixels = read_image(image)
        found = self.run(pixels, boxes=boxes, labels=labels)
        selection = select(
            found,
            self.metadata["predicates"],
            top_k=top_k,
            min_score=min_score,
            min_entity_score=min_entity_score,
            predicates=predicates,
            max_overlap=max_overlap if boxes is None else 1.0,
        )
        of_file = not isinstance(image, np.ndarray)
        graph: dict[str, Any] = {"file_name": os.fsdecode(image)} if of_file else {}
        graph["width"], graph["height"] = pixels.shape[1], pixels.shape[0]
        graph["entities"] = [
            {
                "id": number,
                "label": self.metadata["objects"][found["classes"][index]],
                "bbox": [round(float(v), 2) for v in (x1, y1, x2 - x1, y2 - y1)],
                "score": _six_digits(found["scores"][index]),
            }
            for number, index in enumerate(selection.entities)
            for x1, y1, x2, y2 in [found["boxes"][index].astype(np.float64)]
        ]
        graph["relations"] = [
            {
                "subject": subject,
                "predicate": self.metadata["predicates"][predicate],
                "object": obj,
                "score": _six_digits(score),
            }
            for (subject, obj), predicate, score in zip(
                selection.pairs.tolist(), selection.predicates, selection.scores, strict=True
            )
        ]
        return graph

    def run(
        self,
        image: ImageInput,
        *,
        boxes: Sequence[Sequence[float]] | None = None,
        labels: Sequence[str] | None = None,
    ) -> dict[str, np.ndarray]:
        """Return all outputs of the model for an image.

        Args:
            image, boxes, labels: as above.

        Returns:
            boxes (M, 4) XYXY in pixels of the image, classes (M,) ids, scores (M,), pairs (P, 2)
            rows (subject, object), predicate_probs (P, K + 1) with background last,
            predicate_scores (P, K). A detector has no pairs.

        Raises:
            ValueError: the image cannot be read, boxes or labels are missing, malformed, or not
                taken by this model; or a score or box of the model is not finite.
        """
        for name, value in (("boxes", boxes), ("classes", labels)):
            if (name in self.input_names) != (value is not None):
                word = "boxes" if name == "boxes" else "labels"
                raise ValueError(
                    f"the model ({self.metadata['what']}, task {self.metadata['task']}) takes "
                    f"{'' if name in self.input_names else 'no '}{word}"
                    + ("" if name in self.input_names else ": export 'relations' for one that does")
                )
        pixels = read_image(image)
        height, width = pixels.shape[:2]
        preprocessing = self.metadata["preprocessing"]
        size = output_size(height, width, preprocessing["min_size"], preprocessing["max_size"])
        if not min(size):
            raise ValueError(
                f"an image of {width} x {height} pixels is too narrow: nothing is left of it when "
                f"its longer side is {preprocessing['max_size']}"
            )
        feed = {"image": _prepare(pixels, size, preprocessing["channel_order"])}
        if boxes is not None:
            given = checked_boxes(boxes, height, width)
            stretch = np.array([size[1] / width, size[0] / height] * 2)
            feed["boxes"] = (given * stretch).astype(np.float32)
        if labels is not None:
            feed["classes"] = np.array(
                _positions(labels, self.metadata["objects"], "label"), np.int64
            )
            if len(labels) != len(feed["boxes"]):
                raise ValueError(f"{len(labels)} labels for {len(feed['boxes'])} boxes")
        result = dict(zip(self._outputs, self._answer(feed), strict=True))
        result = {**{k: v for k, v in feed.items() if k != "image"}, **result}
        result.setdefault("scores", np.ones(np.shape(result["boxes"])[:1], np.float32))
        count = len(self.metadata["predicates"])
        result.setdefault("pairs", np.zeros((0, 2), np.int64))
        result.setdefault("predicate_probs", np.zeros((0, count + 1), np.float32))
        result.setdefault("predicate_scores", np.zeros((0, count), np.float32))
        wrong = _misfit(result, len(self.metadata["objects"]), count)
        if wrong:
            raise ValueError(
                f"the answer of {self._file} does not fit its metadata ({wrong}): export it again"
            )
        wrong = not_finite(result)
        if wrong:
            raise ValueError(
                f"{self._file}: its {wrong} are not finite, as after a training that diverged: "
                "export an earlier checkpoint"
            )
        shrink = np.array([width / size[1], height / size[0]] * 2, np.float32)
        result["boxes"] = result["boxes"] * shrink
        return result

    def _answer(self, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        try:
            return self._session.run(None, feed)
        except MemoryError:
            raise
        except Exception as error:  # onnxruntime has a type for every cause
            raise ValueError(f"{self._file} fails on this image: {error}") from error


# What a model with predicates answers beside its entities.
_OF_PAIRS = ("pairs", "predicate_probs", "predicate_scores")


def _misfit(result: Mapping[str, np.ndarray], objects: int, predicates: int) -> str:
    """Say what of a model's answer does not fit numbers of names, or ""."""
    for name in ("boxes", "pairs"):
        if not np.ndim(result[name]):
            return f"{name} are a single value"
    count, pairs = len(result["boxes"]), len(result["pairs"])
    for name, shape, kinds, limit in (
        ("boxes", (count, 4), "f", None),
        ("classes", (count,), "iu", objects),
        ("scores", (count,), "f", None),
        ("pairs", (pairs, 2), "iu", count),
        ("predicate_probs", (pairs, predicates + 1), "f", None),
        ("predicate_scores", (pairs, predicates), "f", None),
    ):
        values = result[name]
        if values.shape != shape or values.dtype.kind not in kinds:
            return f"{name} are {values.dtype} {values.shape}, not {shape}"
        if limit is not None and values.size and not 0 <= values.min() <= values.max() < limit:
            return f"{name} are {values.min()} to {values.max()}, not below {limit}"
    return ""


def not_finite(outputs: Mapping[str, np.ndarray]) -> str:
    """Return the name of the first of a model's outputs that holds NaN or infinity, or ""."""
    numbers = (name for name, values in outputs.items() if values.dtype.kind == "f")
    return next((name for name in numbers if not np.isfinite(outputs[name]).all()), "")


def checked_pixels(image: Any) -> np.ndarray:
    """Return an image array as it is: uint8 (H, W, 3) RGB.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(image, np.ndarray):
        raise ValueError(
            f"the image is a {type(image).__name__}: give a path, or a uint8 array (H, W, 3), RGB"
        )
    if image.dtype != np.uint8 or image.shape[2:] != (3,) or not image.size:
        raise ValueError(
            f"the image is {image.dtype} {image.shape}: it must be a uint8 array (H, W, 3), RGB, "
            "with values from 0 to 255, and not empty"
        )
    return image


def check_top_k(top_k: int) -> None:
    """Raise ValueError unless it is a number of relations."""
    if not isinstance(top_k, (int, np.integer)) or top_k < 1:
        raise ValueError(f"top_k is {top_k!r}: it must be a whole number, 1 at least")


def _checked_metadata(text: str, model: str) -> dict[str, Any]:
    try:
        metadata = _json(text)
        for kind in ("objects", "predicates"):
            names = metadata[kind]
            if not isinstance(names, list) or (not names and kind == "objects"):
                raise ValueError(f"{kind} are no list of names")
            for name in names:
                if not isinstance(name, str) or not name.strip():
                    raise ValueError(f"{name!r} among {kind} is no name")
                name.encode()  # half of a character cannot be
            if len(set(names)) < len(names):
                raise ValueError(f"{kind} repeat a name")
        preprocessing = metadata["preprocessing"]
        for key, least in (("min_size", 0), ("max_size", 1)):
            if type(preprocessing[key]) is not int or not least <= preprocessing[key] <= _LARGEST:
                raise ValueError(f"{key} is no number of pixels")
        if preprocessing["channel_order"] not in ("RGB", "BGR"):
            raise ValueError("channel_order is neither RGB nor BGR")
        if not all(isinstance(metadata[key], str) for key in ("what", "task")):
            raise ValueError("what or task is no text")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _broken(model, error) from error
    return metadata


_LARGEST = 65_535  # pixels of a side, as JPEG has it


def _broken(model: str, error: Exception) -> ValueError:
    return ValueError(f"the metadata of {model} are broken ({_some(error)}): export it again")


def _some(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _json(text: str) -> Any:
    """Parse JSON, with a byte order mark or without."""
    return json.loads(text.removeprefix("\ufeff"))


def read_image(image: ImageInput) -> np.ndarray:
    """Return an image as uint8 (H, W, 3) RGB: a file as :func:`to_rgb` reads it, an array as it is.

    Raises:
        ValueError: names the file and why it cannot be read.
    """
    if not isinstance(image, (str, os.PathLike)):
        return checked_pixels(image)
    image = os.fsdecode(image)
    if os.path.exists(image) and not os.path.isfile(image):  # to read a pipe would wait for ever
        raise ValueError(f"the image {image} is a folder, a pipe or a device")
    try:
        with open_image(image) as file:
            return to_rgb(file)[0]
    except TooManyPixels as error:
        raise ValueError(f"the image {image} {error}") from error
    # Pillow's decoders raise nearly anything on what is broken: OSError, SyntaxError, IndexError.
    except Exception as error:
        raise ValueError(
            f"the image {image} cannot be read ({type(error).__name__}: {error}): get it again, "
            "or save it as JPEG or PNG"
        ) from error


class TooManyPixels(ValueError):
    """An image has more pixels than the limit."""


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raise TooManyPixels if an image of this size has more than `max_pixels`."""
    if width * height > max_pixels:
        raise TooManyPixels(
            f"has {width} x {height} pixels, {width * height / 1e6:.0f} million: the limit is "
            f"{max_pixels / 1e6:g} million; make it smaller, or raise the limit where there is "
            "--max-pixels"
        )


class _LiftedLimit:
    """Pillow's own limit of pixels, lifted as long as any thread is within.

    Pillow applies it as soon as a file is opened, and it belongs to the whole process.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._limit: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._threads:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._threads += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._threads -= 1
            if not self._threads:
                Image.MAX_IMAGE_PIXELS = self._limit


_LIFTED_LIMIT = _LiftedLimit()


@contextlib.contextmanager
def open_image(path: str | os.PathLike, *, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open an image file with Pillow, under this limit of pixels in place of Pillow's own.

    Args:
        path: the file; its content decides what it is, not its suffix.
        max_pixels: an image with more is refused before it is decoded.

    Raises:
        TooManyPixels: without the name of the file.
        Exception: nearly any, of Pillow's decoders.
    """
    with _LIFTED_LIMIT, Image.open(path, formats=image_formats()) as image:
        check_pixels(*image.size, max_pixels)
        yield image


def to_rgb(image: Image.Image) -> tuple[np.ndarray, list[str]]:
    """Convert an image as a person sees it: upright, transparent parts on white, values scaled.

    Args:
        image: of any mode, opened or made by Pillow. Of an animation the first image is taken.

    Returns:
        uint8 (H, W, 3) RGB, and notes on what was done beyond decoding, such as "turned upright,
        as its EXIF says". A note is of one kind for all images up to the details in brackets:
        "grey values scaled to 8 bits (from 0 to 0.7)". H and W are those of the upright image:
        boxes refer to it.
    """
    notes = []
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"the first of several images in the file ({frames})")
    # Pillow itself turns a TIFF upright when it is loaded. Others are loaded first: to look for
    # their EXIF would load some of them, and hide that they are broken.
    stored = _orientation(image) if image.format == "TIFF" else None
    deep = _has_deep_colours(image)
    image.load()
    orientation = _orientation(image)
    if image.mode.startswith("I") or image.mode == "F":
        values, note = to_8_bits(np.asarray(image))
        image = Image.fromarray(values)
        notes += [note] if note else []
    elif deep:
        notes.append("16 bits scaled to 8")
    # An alpha channel, or a colour or entries of the palette that stand for transparent.
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            notes.append("transparent parts shown on white")
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image)
    if image.mode in ("CMYK", "LAB"):
        notes.append(f"{image.mode} converted without its colour profile")
    if image.mode != "RGB":
        image = image.convert("RGB")
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    if orientation in _UPRIGHT or stored in _UPRIGHT:
        notes.append("turned upright, as its EXIF says")
    return np.array(image), notes


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height of the array that :func:`to_rgb` makes, without decoding pixels."""
    if image.format == "TIFF":  # which Pillow turns as it loads it, whatever its size was before
        image.load()
    width, height = image.size
    return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # a broken EXIF block does not make the image unreadable
        return None


def _has_deep_colours(image: Image.Image) -> bool:
    """Return whether the file has more than 8 bits a colour, of which Pillow loads the upper 8."""
    for tile in getattr(image, "tile", ()):
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if ";16" in str(arguments[0]):
            return True
        if tile[0].startswith("ppm") and isinstance(arguments[-1], int) and arguments[-1] > 255:
            return True
    return False


def image_formats() -> list[str]:
    """Return those of IMAGE_FORMATS that this build of Pillow knows."""
    Image.init()
    return [name for name in IMAGE_FORMATS if name in Image.OPEN]


def to_8_bits(values: np.ndarray) -> tuple[np.ndarray, str]:
    """Scale grey values of 16 or 32 bits: the whole range of 16 bits, or that of the image, to 8.

    Args:
        values: (H, W), of any type. What is no number is black, and what is infinite as the
            least or the greatest number.

    Returns:
        uint8 (H, W), and what was done in words, or "".
    """

    # By rows, as 64 bits for each pixel are much for a large image.
    rows = (row[np.isfinite(row)].astype(np.float64) for row in values)
    ends = [(row.min(), row.max()) for row in rows if row.size]
    low, high = (float(min(ends)[0]), float(max(end[1] for end in ends))) if ends else (0.0, 0.0)
    if low >= 0 and 255 < high <= 65_535:
        start, scale, note = 0.0, 1 / 257, "16 bits scaled to 8"
    elif low >= 0 and high <= 255 and (high > 1 or high == 0):
        start, scale, note = 0.0, 1.0, ""
    else:
        start, scale = low, 255 / ((high - low) or 1)
        note = f"grey values scaled to 8 bits (from {low:g} to {high:g})"
    result = np.empty(values.shape, np.uint8)
    for row, target in zip(values, result, strict=True):
        numbers = np.nan_to_num(row.astype(np.float64), nan=start).clip(min(start, low), high)
        target[:] = np.rint((numbers - start) * scale)
    return result, note


def output_size(height: int, width: int, min_size: int, max_size: int) -> tuple[int, int]:
    """Return height and width after resizing, by Detectron2's rule (ResizeShortestEdge).

    The shorter side becomes `min_size`, unless the longer one would exceed `max_size`, which it
    then becomes; 0 does not resize.
    """
    if not min_size:
        return height, width
    scale = min_size / min(height, width)
    # Products and comparison as Detectron2 has them, since a rounded size must not differ by one.
    new = (min_size, scale * width) if height < width else (scale * height, min_size)
    if max(new) > max_size:
        shrink = max_size / max(new)
        new = new[0] * shrink, new[1] * shrink
    return int(new[0] + 0.5), int(new[1] + 0.5)


def _prepare(pixels: np.ndarray, size: tuple[int, int], channel_order: str) -> np.ndarray:
    """Return uint8 (3, H', W'), resized as Detectron2 does: Pillow, bilinear."""
    if size != pixels.shape[:2]:
        image = Image.fromarray(pixels)
        pixels = np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    if channel_order == "BGR":
        pixels = pixels[..., ::-1]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


class BoxLayout:
    """Judge from all boxes of a file, or of one image, whether they are laid out as they should be.

    Told apart are corners in pixels from parts of the image (0 to 1), and corners from width and
    height, both ways. A few boxes prove nothing: annotated ones do reach outside the image.

    Args:
        form: what a box must be, for the message.
        of_one_image: the boxes are given for an image, where one that covers a single pixel is the
            whole of it in parts.
    """

    def __init__(self, form: str = "[x1, y1, x2, y2]", *, of_one_image: bool = False) -> None:
        self._form, self._of_one_image = form, of_one_image
        self._count = self._parts = self._reversed = self._no_sizes = 0
        self._outside = self._no_corners = self._sized = self._near = 0

    def add(
        self, boxes: np.ndarray, sizes: np.ndarray | tuple[float, float] = (np.inf, np.inf)
    ) -> None:
        """Look at some boxes.

        Args:
            boxes: (M, 4), as they are used: x1 y1 x2 y2.
            sizes: (M, 2) or (2,) width and height of their images; inf where not known.
        """
        boxes, sizes = np.asarray(boxes, np.float64), np.asarray(sizes, np.float64)
        low, high = boxes[:, :2], boxes[:, 2:]
        with np.errstate(over="ignore"):
            extent, ends = high - low, low + high
        largest = np.abs(boxes).max(1, initial=0)
        edge = sizes * 1.01 + 1  # rounded numbers may stand out
        self._count += len(boxes)
        # A whole number may be a pixel.
        fractions = (boxes % 1 != 0).any(1) | ((boxes == [0, 0, 1, 1]).all(1) & self._of_one_image)
        self._parts += ((largest <= np.minimum(2, sizes.min(-1) / 4)) & fractions).sum()
        self._reversed += (extent < 0).any(1).sum()
        self._no_sizes += ((high < 0) | (low < -1) | (ends > edge)).any(1).sum()
        self._outside += (high > sizes * 1.1).any(1).sum()
        known = np.isfinite(sizes).all(-1)
        self._sized += np.broadcast_to(known, len(boxes)).sum()
        self._near += (known & (high <= sizes / 2).all(1)).sum()
        self._no_corners += ((extent < low) | (low < -1) | (extent > edge)).any(1).sum()

    def problem(self) -> str | None:
        """Return a sentence on the boxes that were added, or None if nothing is wrong."""
        few = self._count / 100
        if self._parts > self._count / 2:
            return (
                f"{self._parts} of {self._count} boxes are within the first 2 pixels of "
                f"their images: are they in parts of the image (0 to 1)? They must be {self._form} "
                "in pixels: multiply by the image's width and height"
            )
        if self._reversed > 10 * few:
            meant = ": is it [x, y, width, height]?" if self._no_sizes <= few else "."
            return (
                f"{self._reversed} of {self._count} boxes end before they begin (x2 < x1 or "
                f"y2 < y1){meant} They must be {self._form}: give width and height as x2 = x + "
                "width, y2 = y + height"
            )
        if self._outside > 10 * few and self._no_corners <= few:
            return (
                f"{self._outside} of {self._count} boxes reach far outside their images, and "
                "none would if what is used as width and height were the lower right corners: is "
                f"it [x1, y1, x2, y2]? They must be {self._form}: give corners as width = x2 - x1, "
                "height = y2 - y1. If the boxes are right, cut them off at the edge of the image"
            )
        return None

    def hint(self) -> str | None:
        """Return a sentence on what is unlikely but possible, or None; it is no reason to stop."""
        if self.problem() is not None:
            return None
        if self._outside >= 3 and self._outside > self._count / 10:
            where = f"{self._outside} of {self._count} boxes reach far outside their images"
        elif self._near >= 20 and self._near == self._sized:
            where = f"all {self._near} boxes are in the upper left quarter of their images"
        else:
            return None
        return (
            f"{where}: are they of images of another size, in percent, or in another order? They "
            f"must be {self._form} in pixels of the images as they are"
        )


def checked_boxes(boxes: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """Return given boxes as float64 (M, 4); they may reach outside the image.

    Raises:
        ValueError: names the box: its corners are no numbers or not in order, or all of it lies
            outside the image, as boxes do that were made for another size; or says in which other
            layout they are.
    """
    given = box_array(boxes)
    layout = BoxLayout(of_one_image=True)
    layout.add(given, (width, height))
    low, high = given[:, :2], given[:, 2:]
    for wrong, reason in (
        (high < low, layout.problem() or "it must be [x1, y1, x2, y2], with x1 <= x2, y1 <= y2"),
        (np.abs(given) > _FARTHEST, "no image is so large"),
        (
            (high < 0) | (low > [width, height]),
            f"it lies outside the image, which is {width} x {height} pixels as it is seen",
        ),
    ):
        (found,) = wrong.any(1).nonzero()
        if len(found):
            raise ValueError(f"boxes[{found[0]}] is {given[found[0]].tolist()}: {reason}")
    if problem := layout.problem():
        raise ValueError(f"{problem}; the image has {width} x {height}")
    return given


def box_array(boxes: Any) -> np.ndarray:
    """Return boxes as float64 (M, 4), finite.

    Raises:
        ValueError: they are none; names the first that is not four numbers.
    """
    try:
        given = np.asarray(boxes, np.float64)
    except (ValueError, TypeError, OverflowError):  # of different lengths, or no numbers
        given = np.zeros(1)
    if given.size == 0 and given.ndim < 3:
        return given.reshape(0, 4)
    if given.ndim == 2 and given.shape[1] == 4 and np.isfinite(given).all():
        return given
    wanted = "boxes must be (M, 4), four finite numbers x1 y1 x2 y2 in pixels each"
    try:
        rows = list(boxes)
    except TypeError:
        rows = []
    for index, row in enumerate(rows):
        try:
            values = np.asarray(row, np.float64)
        except (ValueError, TypeError, OverflowError):
            values = np.zeros(0)
        if values.shape != (4,) or not np.isfinite(values).all():
            shown = row.tolist() if isinstance(row, np.ndarray) else row
            raise ValueError(f"boxes[{index}] is {repr(shown)[:80]}: {wanted}")
    raise ValueError(f"boxes are {repr(boxes)[:80]}: {wanted}")


_FARTHEST = 1e6  # pixels; areas of what is much larger leave the range of float32


def _positions(wanted: Sequence[str], names: Sequence[str], kind: str) -> list[int]:
    if not isinstance(wanted, (Sequence, np.ndarray, Set)):
        raise ValueError(f"{kind}s are {wanted!r}: give a list of names")
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ValueError(f"unknown {kind} {unknown[0]!r}: choose of {', '.join(names)}")
    return [list(names).index(name) for name in wanted]


@dataclass(frozen=True)
class Selection:
    """What of a model's output a scene graph shows.

    Attributes:
        entities: int64 (M',) indices of the entities, ascending.
        rows: int64 (R,) indices of the relations' pairs, best first.
        pairs: int64 (R, 2) subject, object as indices into `entities`.
        predicates: int64 (R,) predicate ids.
        scores: float64 (R,).
    """

    entities: np.ndarray
    rows: np.ndarray
    pairs: np.ndarray
    predicates: np.ndarray
    scores: np.ndarray


def select(
    found: Mapping[str, np.ndarray],
    names: Sequence[str],
    *,
    top_k: int = 20,
    min_score: float = 0.0,
    min_entity_score: float = 0.0,
    predicates: str | Sequence[str] | None = None,
    max_overlap: float = 1.0,
) -> Selection:
    """Choose the best triplets of a model's output under the graph constraint.

    Each pair has one predicate, its best. The score of a triplet is the ranking score of the
    predicate times the scores of subject and object. Ties keep the order of the pairs.

    Args:
        found: of one image: "boxes" (M, 4) XYXY, "scores" (M,), "pairs" (P, 2) subject, object
            indices, "predicate_scores" (P, K).
        names: of the K predicates.
        top_k: number of relations, which are those of the best pairs.
        min_score: relations with a lower score are left out.
        min_entity_score: entities with a lower score are left out, with their relations.
        predicates: a name, or names among which the best of each pair is chosen; None for all.
        max_overlap: of entities that overlap by a larger IoU, whatever their classes, only the one
            with the best score remains: a detector may find one thing as man and as person. 1
            removes none.

    Raises:
        ValueError: `top_k` is no number of relations, a predicate is unknown, or a score is not
            finite.
    """
    check_top_k(top_k)
    wrong = not_finite({name: found[name] for name in ("scores", "predicate_scores")})
    if wrong:
        raise ValueError(f"{wrong} are not finite: the model is of a training that diverged")
    wanted = names if predicates is None else predicates
    wanted = [wanted] if isinstance(wanted, str) else wanted
    columns = np.array(sorted(set(_positions(wanted, names, "predicate"))), np.int64)

    for name, value in (
        ("min_score", min_score),
        ("min_entity_score", min_entity_score),
        ("max_overlap", max_overlap),
    ):
        if not isinstance(value, (int, float, np.number)) or np.isnan(value):
            raise ValueError(f"{name} is {value!r}: it must be a number")

    # Entities.
    entity_scores, pairs = found["scores"], found["pairs"]
    # In the type of the scores: 0.7 is not what it is in single precision.
    remain = entity_scores >= entity_scores.dtype.type(min_entity_score)
    if max_overlap < 1:
        remain &= without_overlap(found["boxes"], entity_scores, max_overlap)
    (entities,) = remain.nonzero()

    # Pairs of remaining entities, each with its best predicate.
    (rows,) = remain[pairs].all(1).nonzero()
    if not len(rows) or not len(columns):
        none = rows[:0]
        return Selection(entities, none, pairs[none], none, none.astype(np.float64))
    ranking = found["predicate_scores"][rows][:, columns].astype(np.float64)
    best = ranking.argmax(1)
    scores = ranking.max(1) * entity_scores.astype(np.float64)[pairs[rows]].prod(1)

    # The best of them.
    order = np.argsort(-scores, kind="stable")[:top_k]
    order = order[scores[order] >= min_score]
    rows = rows[order]
    number = remain.cumsum() - 1
    return Selection(entities, rows, number[pairs[rows]], columns[best[order]], scores[order])


def without_overlap(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Return which entities remain after non-maximum suppression over all classes.

    The same ones as torchvision's `nms`, which computes in single precision.

    Args:
        boxes: (M, 4) XYXY.
        scores: (M,).
        threshold: an entity is removed if its IoU with one of a better score is larger.

    Returns:
        bool (M,).
    """
    boxes, scores = boxes.astype(np.float32), scores.astype(np.float32)
    low, high = boxes[:, :2], boxes[:, 2:]
    areas = (high - low).prod(1)
    remain = np.zeros(len(boxes), bool)
    waiting = np.argsort(-scores, kind="stable")
    while len(waiting):
        best, waiting = waiting[0], waiting[1:]
        remain[best] = True
        sides = np.minimum(high[best], high[waiting]) - np.maximum(low[best], low[waiting])
        shared = sides.clip(min=0).prod(1)
        with np.errstate(invalid="ignore"):  # two boxes without area: not a number, never larger
            overlap = shared / (areas[best] + areas[waiting] - shared)
        # The threshold is not rounded to single precision.
        waiting = waiting[~(overlap.astype(np.float64) > threshold)]
    return remain


def _six_digits(value: float) -> float:
    return float(f"{float(value):.6g}")


def _read_boxes(path: str, *, with_labels: bool) -> dict[str, Any]:
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # as with images
            raise ValueError("it is a folder, a pipe or a device")
        entities = _json(Path(path).read_text(encoding="utf-8"))
        found: dict[str, Any] = {"boxes": [], "labels": []}
        for entity in entities:
            x, y, width, height = numbers = entity["bbox"]
            if not all(type(number) in (int, float) and abs(number) < 1e9 for number in numbers):
                raise ValueError(f"bbox is {_some(numbers)}")
            found["boxes"].append([x, y, x + width, y + height])
            if with_labels:
                if not isinstance(entity["label"], str):
                    raise ValueError(f"label is {_some(entity['label'])}")
                found["labels"].append(entity["label"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f'{path} must be a JSON list of {{"bbox": [x, y, width, height], "label": "man"}} '
            f"(boxes in pixels, label where the model takes classes): {_some(error)}"
        ) from error
    return found if with_labels else {"boxes": found["boxes"]}


def _one_line(error: BaseException) -> str:
    """Return a message on one line that a terminal shows as it is."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _finite(text: str) -> float:
    value = float(text)
    if not np.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is no number to compare with")
    return value


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(1, f"error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the scene graphs of images, one line of JSON each.

    The exit code is 1 where something cannot be used, which one line names, and 130 after Ctrl-C.
    """
    parser = _Parser(description=main.__doc__)
    parser.add_argument("model", help=".onnx file of tools/export_model.py")
    parser.add_argument("images", nargs="+")
    parser.add_argument(
        "--boxes",
        help='JSON file of [{"bbox": [x, y, width, height], "label": "man"}, ...], for one image '
        "and models that take boxes",
    )
    parser.add_argument("--top-k", type=int, default=20)
    parser.add_argument("--min-score", type=_finite, default=0.0)
    args = parser.parse_args(arguments)
    try:
        predictor = OnnxPredictor(args.model)
        given = {}
        if args.boxes:
            given = _read_boxes(args.boxes, with_labels="classes" in predictor.input_names)
        for image in args.images:
            graph = predictor(image, top_k=args.top_k, min_score=args.min_score, **given)
            _print_json(graph)
    except KeyboardInterrupt:
        parser.exit(130, "stopped\n")
    except BrokenPipeError:  # of a reader that ended early; Python would try it again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, MemoryError) as error:
        parser.exit(1, f"error: {_one_line(error)}\n")
    return 0


def _print_json(content: dict[str, Any]) -> None:
    """Print JSON, readable where the encoding of the output has all its letters."""
    text = json.dumps(content, ensure_ascii=False)
    if sys.stdout is None:  # it was closed
        return
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(content)
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
