"""Panoptic Scene Graph (Yang et al. 2022) as it is published, into dataset dicts.

Objects are the segments of a panoptic segmentation, things and stuff alike; here they are boxes.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vrd_d2.data.boxes import XYWH_ABS, XYXY_ABS
from vrd_d2.data.datasets.spec import DatasetSpec, Select, SplitFiles
from vrd_d2.data.record_values import checked_box, checked_index, checked_size, member, short
from vrd_d2.data.records.packed import PackedRecords
from vrd_d2.data.source_files import collector_paused, located, read_json
from vrd_d2.data.vocabulary import PSG, Vocabulary
from vrd_d2.media.images import read_stored

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")


def panoptic_scene_graph_vocabulary(document: Any) -> Vocabulary:
    """Return the names of the parsed ``psg.json``: thing classes, then stuff classes; predicates.

    Raises:
        ValueError: a list is missing, or its names are no different strings.
    """
    things, stuff, predicates = (
        member(document, key, list)
        for key in ("thing_classes", "stuff_classes", "predicate_classes")
    )
    return Vocabulary(objects=things + stuff, predicates=predicates)


def load_panoptic_scene_graph(
    json_file: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
    *,
    split: str,
    num_val: int = 1000,
    vocabulary: Vocabulary | None = None,
    select: Select | None = None,
) -> PackedRecords:
    """Read one part of ``psg.json``.

    The file separates test from training only, so validation is the first `num_val` images with
    relations that are not in its test_image_ids, and training all others ("train" and "val"
    together are the public training set). Images without relations are read, and boxes stay as
    annotated. Where an image has no "annotations", boxes are those around its segments in the
    panoptic PNG, whose pixels number segments by R + 256 G + 256^2 B; x2 and y2 are one beyond the
    last pixel.

    Args:
        json_file: "data": [{"file_name", "image_id", "width", "height", "segments_info": [{"id",
            "category_id"}], "annotations": [{"bbox", "bbox_mode", "category_id"}],
            "pan_seg_file_name", "relations": [[subject, object, predicate]]}], "thing_classes",
            "stuff_classes", "predicate_classes", "test_image_ids". Indices count from 0.
        image_root: what file names are relative to, COCO's folder; None is the JSON's.
        split: "train", "val" or "test".
        num_val: images for validation.
        vocabulary: names that the file must have; None takes them as they are.
        select: chooses among the records of the split, whose "file_name" is the whole path, before
            panoptic PNGs are opened; None takes all.

    Returns:
        Dataset dicts in the order of the file, as
        :func:`~vrd_d2.data.formats.relations_json.load_relations_json` returns them; "id" of an
        annotation counts from 1 through what is returned.

    Raises:
        ValueError: names the file, the image and what is wrong with it.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}: choose one of {', '.join(SPLITS)}")
    root = os.path.dirname(os.fspath(json_file)) if image_root is None else os.fspath(image_root)
    document = read_json(json_file)
    with located(json_file):
        names = panoptic_scene_graph_vocabulary(document)
        if vocabulary is not None and names != vocabulary:
            raise ValueError(
                f"its {len(names.objects)} classes and {len(names.predicates)} predicates are not "
                f"the {len(vocabulary.objects)} and {len(vocabulary.predicates)} expected: is this "
                "psg.json?"
            )
        chosen = [
            record | {"file_name": os.path.join(root, record["file_name"])}
            for record in _part(document, split, num_val)
        ]
    if select is not None:
        chosen = select(chosen)
    numbers = iter(range(1, 2**63))

    def records() -> Iterator[dict]:
        for record in chosen:
            with located(f"image {record['image_id']!r}"):
                yield _image(record, root, names, numbers)

    with located(json_file), collector_paused():
        packed = PackedRecords.pack(records())
    logger.info(
        "%s, %s: %d images, %d objects, %d relations",
        json_file, split, len(packed), packed.box_counts.sum(), packed.relation_counts.sum(),
    )  # fmt: skip
    return packed


def segment_boxes(png_file: str | os.PathLike, segment_ids: list[int]) -> tuple[list, tuple]:
    """Return the boxes around the segments of a panoptic PNG, and its size.

    Args:
        png_file: RGB; a pixel belongs to segment R + 256 G + 256^2 B.
        segment_ids: of the S boxes wanted.

    Returns:
        S boxes [x1, y1, x2, y2], x2 and y2 one beyond the last pixel; (width, height).

    Raises:
        ValueError: the file is missing or no image, or no pixel belongs to a segment.
    """
    rgb = read_stored(png_file, "RGB").astype(np.int64)
    owner = rgb @ np.array([1, 256, 256**2])  # H x W
    boxes = []
    for number in segment_ids:
        inside = owner == number
        xs, ys = inside.any(0).nonzero()[0], inside.any(1).nonzero()[0]
        if not len(xs):
            raise ValueError(
                f"no pixel of {png_file} belongs to segment {number}: get the file again"
            )
        boxes.append([float(v) for v in (xs[0], ys[0], xs[-1] + 1, ys[-1] + 1)])
    return boxes, (owner.shape[1], owner.shape[0])


def _part(document: dict, split: str, num_val: int) -> list[dict]:
    """Return the records of one split; ids and what decides on the split are checked for all."""
    test_ids = member(document, "test_image_ids", list)
    for i, number in enumerate(test_ids):
        if type(number) not in (int, str):
            raise ValueError(f"test_image_ids[{i}] is {short(number)}: it must be an image_id")
    test_ids = set(test_ids)
    parts: dict[str, list[dict]] = {name: [] for name in SPLITS}
    seen: dict[int | str, int] = {}
    for i, record in enumerate(member(document, "data", list)):
        with located(f"data[{i}]"):
            number = member(record, "image_id", int, str)
            if seen.setdefault(number, i) != i:
                raise ValueError(
                    f"has the image_id {number!r} of data[{seen[number]}]: ids must be unique"
                )
            member(record, "file_name", str)
            related = bool(member(record, "relations", list))
        if number in test_ids:
            parts["test"].append(record)
        elif related and len(parts["val"]) < num_val:
            parts["val"].append(record)
        else:
            parts["train"].append(record)
    if not parts[split]:
        raise ValueError(
            f"there is no image for {split}: data has {len(seen)} images, {len(test_ids)} "
            "test_image_ids; is this psg.json?"
        )
    return parts[split]


def _image(record: dict, root: str, names: Vocabulary, numbers: Iterator[int]) -> dict[str, Any]:
    width, height = checked_size(record)
    segments = member(record, "segments_info", list) if "segments_info" in record else None
    if record.get("annotations"):
        found = member(record, "annotations", list)
        if segments is not None and len(segments) != len(found):
            raise ValueError(
                f"{len(found)} annotations for {len(segments)} segments_info: relations count "
                "both, so there must be one for each"
            )
        boxes = []
        for i, annotation in enumerate(found):
            with located(f"annotations[{i}]"):
                boxes.append(_annotated_box(annotation))
    else:
        found = segments or []
        boxes = _boxes_of_segments(record, root, found, (width, height)) if found else []
    annotations = []
    for i, (entry, box) in enumerate(zip(found, boxes, strict=True)):
        with located(f"object {i}"):
            category = checked_index(
                member(entry, "category_id", int), len(names.objects), "category_id"
            )
        annotations.append(
            {
                "id": next(numbers),
                "bbox": box,
                "bbox_mode": XYXY_ABS,
                "category_id": category,
            }
        )
    rows = record["relations"]
    for i, row in enumerate(rows):
        with located(f"relations[{i}]"):
            if type(row) is not list or len(row) != 3:
                raise ValueError(f"{short(row)} must be [subject, object, predicate]")
            checked_index(row[0], len(annotations), "subject")
            checked_index(row[1], len(annotations), "object")
            checked_index(row[2], len(names.predicates), "predicate")
    return {
        "file_name": record["file_name"],
        "image_id": record["image_id"],
        "height": height,
        "width": width,
        "annotations": annotations,
        "relations": np.array(rows, np.int64).reshape(-1, 3),
    }


def _annotated_box(annotation: Any) -> list[float]:
    mode = member(annotation, "bbox_mode", int)
    if mode not in (XYXY_ABS, XYWH_ABS):
        raise ValueError(f"bbox_mode is {short(mode)}: it must be 0 (XYXY) or 1 (XYWH)")
    extent = mode == XYWH_ABS
    form = "[x, y, width, height]" if extent else "[x1, y1, x2, y2]"
    return checked_box(member(annotation, "bbox", list), form, (0, 1, 2, 3), extent=extent)


def _boxes_of_segments(
    record: dict, root: str, segments: list, size: tuple[int, int]
) -> list[list[float]]:
    ids = []
    for i, segment in enumerate(segments):
        with located(f"segments_info[{i}]"):
            ids.append(checked_index(member(segment, "id", int), 256**3, "id"))
    path = os.path.join(root, member(record, "pan_seg_file_name", str))
    boxes, found = segment_boxes(path, ids)
    if found != size:
        raise ValueError(
            f"{path} has {found[0]} x {found[1]} pixels, but the image {size[0]} x {size[1]}: "
            "get the file that belongs to it"
        )
    return boxes


def _files(root: Path, split: str) -> SplitFiles:
    folder = root / "psg"
    images = folder / "coco"
    # COCO's folder: in the dataset's folder, or where Detectron2 expects it.
    return SplitFiles({"psg": folder / "psg.json"}, images if images.is_dir() else root / "coco")


def _load(files: SplitFiles, split: str, select: Select) -> PackedRecords:
    return load_panoptic_scene_graph(
        files.paths["psg"], files.image_root, split=split, vocabulary=PSG, select=select
    )


SPEC = DatasetSpec("psg", SPLITS, _files, PSG, _load)
