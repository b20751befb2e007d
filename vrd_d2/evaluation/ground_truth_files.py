"""Ground truth from a file, without its images."""

import codecs
from pathlib import Path

import numpy as np

from vrd_d2.data.boxes import BoxLayout
from vrd_d2.data.source_files import parse_json, read_json, require_regular
from vrd_d2.evaluation.json_lines import LineError, ground_truth_from_json, read_json_lines
from vrd_d2.evaluation.records import GroundTruth

Images = dict[int | str, GroundTruth]


def read_ground_truth(path: str | Path) -> tuple[list[str] | None, int | None, Images]:
    """Read a relations_json file or JSON Lines; the content shows which of them it is.

    Returns:
        Names of the predicates and number of classes, None for JSON Lines; ground truth by
        image_id, in the order of the file.

    Raises:
        ValueError: what is wrong and where.
    """
    path = Path(path)
    if _is_json_lines(path):
        return None, None, _read_lines(path)
    return _read_document(
        path, read_json(path, damaged="it is no JSON Lines either", repeated_keys=True)
    )


def _is_json_lines(path: Path) -> bool:
    """Return whether the first line is a JSON object of one image, or the file is packed."""
    require_regular(path)
    with path.open("rb") as file:
        if file.peek(2)[:2] == b"\x1f\x8b":
            return True
        first = next((line for line in file if line.strip()), b"")
    try:
        return "images" not in parse_json(first, repeated_keys=True)
    except (ValueError, TypeError):
        return first.lstrip(codecs.BOM_UTF8 + b" \t")[:1] == b"{" and b"image_id" in first


def _read_lines(path: Path) -> Images:
    images: Images = {}
    layout = BoxLayout()
    for number, value in read_json_lines(path):
        if value["image_id"] in images:
            raise LineError(path, number, f"image_id {value['image_id']!r} comes twice")
        try:
            images[value["image_id"]] = ground_truth_from_json(value)
            images[value["image_id"]].check()
        except ValueError as error:
            raise LineError(path, number, error) from error
        found = images[value["image_id"]]
        layout.add(found.boxes, [found.longer_side or np.inf] * 2)
    if problem := layout.problem():
        raise ValueError(f"{path}: gt_boxes: {problem}")
    return images


def _read_document(path: Path, document: object) -> tuple[list[str], int, Images]:
    """Read a relations_json document: COCO instances plus predicates and relations.

    The dataset loader is not used, because it needs the image files.
    """
    from vrd_d2.data.formats.relations_check import check_document

    errors = check_document(document, str(path)).errors
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise ValueError(errors[0] + more)
    # Classes and predicates count from 0 in the order of their ids.
    class_of, predicate_of = (
        {record["id"]: i for i, record in enumerate(sorted(document[name], key=lambda r: r["id"]))}
        for name in ("categories", "predicates")
    )
    # Boxes of each image, and the position of each annotation among them.
    boxes: dict[int | str, list[tuple[list[float], int]]] = {}
    index_in_image: dict[int | str, int] = {}
    for record in document["annotations"]:
        x, y, width, height = record["bbox"]
        of_image = boxes.setdefault(record["image_id"], [])
        index_in_image[record["id"]] = len(of_image)
        of_image.append(([x, y, x + width, y + height], class_of[record["category_id"]]))
    relations: dict[int | str, list[list[int]]] = {}
    for record in document["relations"]:
        relations.setdefault(record["image_id"], []).append(
            [
                index_in_image[record["subject_id"]],
                index_in_image[record["object_id"]],
                predicate_of[record["predicate_id"]],
            ]
        )
    images: Images = {}
    for record in document["images"]:
        annotated = boxes.get(record["id"], [])
        images[record["id"]] = GroundTruth(
            [box for box, _ in annotated],
            [category for _, category in annotated],
            relations.get(record["id"], []),
            longer_side=max(record["height"], record["width"]),
        )
    names = sorted(document["predicates"], key=lambda r: r["id"])
    return [record["name"] for record in names], len(class_of), images
