"""Exported ONNX models without torch and without Detectron2: onnxruntime, numpy and Pillow only.

A file of its own that imports nothing of this project. tools/export_model.py lays a copy of it
beside the model, so that the folder runs anywhere:

    python onnx_runtime.py model.onnx image.jpg

Shapes: M entities, P pairs, K predicates.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

METADATA_KEY = "vrd_d2"
# Of Pillow's many formats those of images, and none that starts another program (PostScript).
IMAGE_FORMATS = ["JPEG", "MPO", "JPEG2000", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF"]
IMAGE_FORMATS += ["PPM"]
ImageInput = str | os.PathLike | np.ndarray


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
        except Exception as error:  # onnxruntime has a type of its own for every cause
            raise ValueError(
                f"{model} is no ONNX model that can be run: {error}"
                + ("" if str(model).endswith(".onnx") else " (a checkpoint goes to --weights)")
            ) from error
        stored = self._session.get_modelmeta().custom_metadata_map
        if METADATA_KEY not in stored:
            raise ValueError(
                f"{model} does not say what it is (no metadata {METADATA_KEY!r}): write it with "
                "tools/export_model.py"
            )
        self.metadata = _checked_metadata(stored[METADATA_KEY], os.fspath(model))
        self.input_names = [entry.name for entry in self._session.get_inputs()]
        self._outputs = [entry.name for entry in self._session.get_outputs()]

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
        """The scene graph of an image.

        Arguments are those of ``vrd_d2.inference.predictor.Predictor``.

        Args:
            image: path, or uint8 (H, W, 3) RGB.
            boxes: (M, 4) XYXY pixels of the image, where the model takes boxes.
            labels: M class names, where the model takes classes.
            top_k: relations to keep, the best of different pairs.
            min_score: relations with a lower score are left out.
            min_entity_score: entities with a lower score are left out, with their relations.
            predicates: a name, or names among which the best of each pair is chosen; None for all.
            max_overlap: of found entities that overlap by a larger IoU, whatever their classes,
                only the best stays; 1 keeps all. Given boxes always stay.

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
        names = self.metadata["predicates"]
        wanted = names if predicates is None else predicates
        wanted = [wanted] if isinstance(wanted, str) else wanted
        columns = sorted(set(_positions(wanted, names, "predicate")))
        keep = found["scores"] >= min_entity_score
        if boxes is None and max_overlap < 1:
            keep &= _without_overlap(found["boxes"], found["scores"], max_overlap)
        graph: dict[str, Any] = {} if isinstance(image, np.ndarray) else {"file_name": str(image)}
        graph["width"], graph["height"] = pixels.shape[1], pixels.shape[0]
        graph["entities"] = [
            {
                "id": number,
                "label": self.metadata["objects"][found["classes"][index]],
                "bbox": [round(float(v), 2) for v in (x1, y1, x2 - x1, y2 - y1)],
                "score": _six_digits(found["scores"][index]),
            }
            for number, index in enumerate(keep.nonzero()[0])
            for x1, y1, x2, y2 in [found["boxes"][index].astype(np.float64)]
        ]
        graph["relations"] = self._relations(found, keep, columns, top_k, min_score)
        return graph

    def run(
        self,
        image: ImageInput,
        *,
        boxes: Sequence[Sequence[float]] | None = None,
        labels: Sequence[str] | None = None,
    ) -> dict[str, np.ndarray]:
        """Everything that the model says of an image.

        Args:
            image, boxes, labels: as above.

        Returns:
            boxes (M, 4) XYXY in pixels of the image, classes (M,) ids, scores (M,), pairs (P, 2)
            rows (subject, object), predicate_probs (P, K + 1) with background last,
            predicate_scores (P, K). A detector has no pairs.

        Raises:
            ValueError: the image cannot be read, boxes or labels are missing, malformed, or not
                taken by this model.
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
        result = dict(zip(self._outputs, self._session.run(None, feed), strict=True))
        result = {**{k: v for k, v in feed.items() if k != "image"}, **result}
        shrink = np.array([width / size[1], height / size[0]] * 2, np.float32)
        result["boxes"] = result["boxes"] * shrink
        result.setdefault("scores", np.ones(len(result["boxes"]), np.float32))
        count = len(self.metadata["predicates"])
        result.setdefault("pairs", np.zeros((0, 2), np.int64))
        result.setdefault("predicate_probs", np.zeros((0, count + 1), np.float32))
        result.setdefault("predicate_scores", np.zeros((0, count), np.float32))
        return result

    def _relations(
        self,
        found: dict[str, np.ndarray],
        keep: np.ndarray,
        columns: list[int],
        top_k: int,
        min_score: float,
    ) -> list[dict[str, Any]]:
        pairs = found["pairs"]
        rows = keep[pairs].all(1).nonzero()[0]
        if not len(rows) or not columns:
            return []
        pairs, ranking = pairs[rows], found["predicate_scores"][rows][:, columns].astype(np.float64)
        best = ranking.argmax(1)
        scores = ranking.max(1) * found["scores"].astype(np.float64)[pairs].prod(1)
        order = np.argsort(-scores, kind="stable")[:top_k]
        number = keep.cumsum() - 1
        return [
            {
                "subject": int(number[pairs[row, 0]]),
                "predicate": self.metadata["predicates"][columns[best[row]]],
                "object": int(number[pairs[row, 1]]),
                "score": _six_digits(scores[row]),
            }
            for row in order
            if scores[row] >= min_score
        ]


def checked_pixels(image: Any) -> np.ndarray:
    """An array as an image: uint8 (H, W, 3) RGB. Raises ValueError: it is something else."""
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
        metadata = json.loads(text)
        names = [*metadata["objects"], *metadata["predicates"]]
        sizes = [metadata["preprocessing"][key] for key in ("min_size", "max_size")]
        known = metadata["what"], metadata["task"], metadata["preprocessing"]["channel_order"]
        if not all(isinstance(value, str) for value in [*names, *known]) or min(sizes) < 0:
            raise ValueError("a name is no text, or a size is negative")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"the metadata of {model} are broken ({error!r}): export it again"
        ) from error
    return metadata


def read_image(image: ImageInput) -> np.ndarray:
    """uint8 (H, W, 3) RGB: a file, upright as its EXIF says and on white, or an array as it is.

    Of an animation the first image. Pillow's limit of pixels stands.
    """
    if not isinstance(image, (str, os.PathLike)):
        return checked_pixels(image)
    try:
        with Image.open(image, formats=image_formats()) as file:
            upright = ImageOps.exif_transpose(file)
            if "transparency" in upright.info or upright.mode in ("RGBA", "LA", "PA"):
                upright = upright.convert("RGBA")
                white = Image.new("RGBA", upright.size, (255, 255, 255, 255))
                upright = Image.alpha_composite(white, upright)
            if upright.mode.startswith("I") or upright.mode == "F":
                upright = Image.fromarray(to_8_bits(np.asarray(upright))[0])
            return np.array(upright.convert("RGB"))
    # Pillow's decoders raise nearly anything on what is broken: OSError, SyntaxError, IndexError.
    except Exception as error:
        raise ValueError(
            f"the image {image} cannot be read ({type(error).__name__}: {error}): get it again, "
            "or save it as JPEG or PNG"
        ) from error


def image_formats() -> list[str]:
    """Those of IMAGE_FORMATS that this build of Pillow knows."""
    Image.init()
    return [name for name in IMAGE_FORMATS if name in Image.OPEN]


def to_8_bits(values: np.ndarray) -> tuple[np.ndarray, str]:
    """Grey values of 16 or 32 bits: the whole range of 16 bits, or that of the image, to 8.

    Args:
        values: (H, W), of any type.

    Returns:
        uint8 (H, W), and what was done in words, or "".
    """

    def numbers(row: np.ndarray) -> np.ndarray:
        # By rows, as 64 bits for each pixel are much for a large image.
        return np.nan_to_num(row.astype(np.float64))

    ends = [(row.min(), row.max()) for row in map(numbers, values) if row.size]
    low, high = (float(min(ends)[0]), float(max(end[1] for end in ends))) if ends else (0.0, 0.0)
    if low >= 0 and 255 < high <= 65_535:
        start, scale, note = 0.0, 1 / 257, "16 bits scaled to 8"
    elif low >= 0 and high <= 255 and (high > 1 or high == 0):
        start, scale, note = 0.0, 1.0, ""
    else:
        start, scale = low, 255 / ((high - low) or 1)
        note = f"grey values from {low:g} to {high:g} scaled to 8 bits"
    result = np.empty(values.shape, np.uint8)
    for row, target in zip(values, result, strict=True):
        target[:] = np.rint((numbers(row) - start) * scale)
    return result, note


def output_size(height: int, width: int, min_size: int, max_size: int) -> tuple[int, int]:
    """Height and width after resizing, by Detectron2's rule (ResizeShortestEdge).

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
    """uint8 (3, H', W'), resized as Detectron2 does: Pillow, bilinear."""
    if size != pixels.shape[:2]:
        image = Image.fromarray(pixels)
        pixels = np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    if channel_order == "BGR":
        pixels = pixels[..., ::-1]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def checked_boxes(boxes: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """Boxes of one's own as float64 (M, 4); they may reach outside the image.

    Raises:
        ValueError: names the box: its corners are no numbers or not in order, or all of it lies
            outside the image, as boxes do that were made for another size.
    """
    given = np.asarray(boxes, np.float64)
    given = given.reshape(0, 4) if not given.size else given
    if given.ndim != 2 or given.shape[1] != 4 or not np.isfinite(given).all():
        raise ValueError(
            f"boxes of shape {given.shape}: they must be (M, 4), finite, x1 y1 x2 y2 in pixels"
        )
    low, high = given[:, :2], given[:, 2:]
    for wrong, reason in (
        (
            high < low,
            "it must be x1 y1 x2 y2, corners left above and right below; x y width height is to be "
            "given as x, y, x + width, y + height",
        ),
        (np.abs(given) > _FARTHEST, "no image is so large"),
        (
            (high < 0) | (low > [width, height]),
            f"it lies outside the image, which is {width} x {height} pixels as it is seen",
        ),
    ):
        (found,) = wrong.any(1).nonzero()
        if len(found):
            raise ValueError(f"boxes[{found[0]}] is {given[found[0]].tolist()}: {reason}")
    if len(given) and min(height, width) > 2 and given.min() >= 0 and given.max() <= 1:
        raise ValueError(
            "no corner of the boxes is beyond 1: they must be in pixels, not in parts of the "
            f"image, which is {width} x {height}"
        )
    return given


_FARTHEST = 1e6  # pixels; areas of what is much larger leave the range of float32


def _positions(wanted: Sequence[str], names: Sequence[str], kind: str) -> list[int]:
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ValueError(f"unknown {kind} {unknown[0]!r}: choose of {', '.join(names)}")
    return [list(names).index(name) for name in wanted]


def _without_overlap(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Non-maximum suppression over all classes: (M,) whether an entity stays."""
    keep = np.zeros(len(boxes), bool)
    sides = boxes[:, 2:] - boxes[:, :2]
    areas = sides.prod(1)
    for index in np.argsort(-scores, kind="stable"):
        low = np.maximum(boxes[index, :2], boxes[keep, :2])
        high = np.minimum(boxes[index, 2:], boxes[keep, 2:])
        shared = (high - low).clip(min=0).prod(1)
        total = areas[index] + areas[keep] - shared
        keep[index] = not (shared > threshold * total).any()
    return keep


def _six_digits(value: float) -> float:
    return float(f"{float(value):.6g}")


def _read_boxes(path: str, *, with_labels: bool) -> dict[str, Any]:
    try:
        entities = json.loads(Path(path).read_text(encoding="utf-8"))
        found = {
            "boxes": [[x, y, x + w, y + h] for x, y, w, h in (e["bbox"] for e in entities)],
        }
        if with_labels:
            found["labels"] = [entity["label"] for entity in entities]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path} must be a JSON list of {{"bbox": [x, y, width, height], "label": "man"}} '
            f"(label where the model takes classes): {error!r}"
        ) from error
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Scene graphs of images, one line of JSON each, on standard output."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model", help=".onnx file of tools/export_model.py")
    parser.add_argument("images", nargs="+")
    parser.add_argument(
        "--boxes",
        help='JSON file of [{"bbox": [x, y, width, height], "label": "man"}, ...], for one image '
        "and models that take boxes",
    )
    parser.add_argument("--top-k", type=int, default=20)
    parser.add_argument("--min-score", type=float, default=0.0)
    args = parser.parse_args(arguments)
    try:
        predictor = OnnxPredictor(args.model)
        given = {}
        if args.boxes:
            given = _read_boxes(args.boxes, with_labels="classes" in predictor.input_names)
        for image in args.images:
            graph = predictor(image, top_k=args.top_k, min_score=args.min_score, **given)
            sys.stdout.write(json.dumps(graph, ensure_ascii=False) + "\n")
    except ValueError as error:
        parser.exit(1, f"error: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
