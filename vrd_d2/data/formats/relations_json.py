"""The interchange format: a COCO instances JSON that also lists predicates and relations.

``datasets/README.md`` documents it key by key. COCO tools read the files as they are. What real
data contain stays: boxes without area or partly outside the image, relations of a box to
itself, repeated relations, images without any. Nothing is dropped, so indices never shift.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vrd_d2.data.atomic_files import write_text
from vrd_d2.data.formats.coco import is_boxes_only, with_empty_relations
from vrd_d2.data.formats.relations_check import Findings, check_document
from vrd_d2.data.formats.relations_document import (
    contiguous_ids,
    names_by_id,
    pack_document,
    to_document,
)
from vrd_d2.data.image_existence import check_policy, drop_missing_images, missing_files
from vrd_d2.data.messages import lines_by_kind
from vrd_d2.data.records.packed import PackedRecords
from vrd_d2.data.source_files import collector_paused, read_json
from vrd_d2.data.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

_SHOWN = 5  # errors that an exception quotes


def load_relations_json(
    json_file: str | os.PathLike,
    image_root: str | os.PathLike | None = None,
    *,
    missing_images: str = "error",
) -> list[dict]:
    """Read a relations_json file as Detectron2 dataset dicts with relations.

    Args:
        json_file: the file; a COCO instances file, with neither "predicates" nor "relations", is
            read as well: images without relations.
        image_root: folder that its file names are relative to; None is the file's own folder.
        missing_images: "error" raises when an image file is missing; "skip" leaves the image
            out and logs a warning with the names.

    Returns:
        One dict an image, in the order of the file: "file_name", "image_id", "height", "width",
        "annotations" (each "id", "bbox" as XYXY_ABS floats, "bbox_mode", "category_id" 0-based in
        the order of the file's category ids, "iscrowd" where it is 1), "relations": int64 (R, 3)
        rows (subject index, object index, predicate id) into the annotations, and "captions"
        where there are any.

    Raises:
        ValueError: names the file, the first wrong records and the remedy.
    """
    check_policy(missing_images)
    with collector_paused():
        # Doubles, so that a file that is loaded and saved again has the same last digits.
        records = pack_document(
            read_document(json_file), _root(json_file, image_root), box_dtype=np.float64
        )
        return list(_existing(records, json_file, missing_images))


def validate_relations_json(
    json_file: str | os.PathLike, image_root: str | os.PathLike | None = None
) -> list[str]:
    """Return every problem of a relations_json file.

    Args:
        json_file: the file.
        image_root: as in :func:`load_relations_json`.

    Returns:
        Messages, each with file, record and remedy: first those that begin with "error:", which
        must be repaired before the file can be loaded (missing images among them), then those
        that begin with "warning:". An empty list means that all is well.
    """
    try:
        document, findings = _read_checked(json_file)
    except ValueError as error:
        return [f"error: {error}"]
    if not findings.errors:
        root = _root(json_file, image_root)
        paths = [os.path.join(root, image["file_name"]) for image in document["images"]]
        missing = set(missing_files(paths))
        for index, path in enumerate(paths):
            if path in missing:
                findings.error(
                    f"images[{index}] (id {document['images'][index]['id']!r})",
                    f"there is no image {path}: put it there or correct the image folder",
                )
    return [f"error: {text}" for text in findings.errors] + [
        f"warning: {text}" for text in findings.warnings
    ]


def save_relations_json(
    dataset_dicts: Sequence[Mapping[str, Any]],
    vocabulary: Vocabulary,
    json_file: str | os.PathLike,
    *,
    image_root: str | os.PathLike | None = None,
    always_relative: bool = False,
) -> None:
    """Write dataset dicts as relations_json.

    Loading the file gives them back (box corners up to the last bit of a float, because COCO
    stores widths and heights). Annotation ids stay if every annotation has one and all differ;
    else they are numbered from 1. Other keys than those that :func:`load_relations_json` returns
    are not written. The file appears when it is complete.

    Args:
        dataset_dicts: as :func:`load_relations_json` returns them. Boxes may be in any BoxMode.
        vocabulary: what category and predicate ids stand for.
        json_file: file to write; its folder is made.
        image_root: file names below this folder are written relative to it, others as absolute
            paths; None is the file's own folder.
        always_relative: write those others as relative ("../images/1.jpg"), too, so that file
            and images can be moved together.

    Raises:
        ValueError: names the record that cannot be written.
    """
    document = to_document(
        dataset_dicts, vocabulary, _root(json_file, image_root), always_relative=always_relative
    )
    save_document(document, json_file)


def save_document(document: Mapping[str, Any], json_file: str | os.PathLike) -> None:
    """Write the content of a relations_json file; it appears when it is complete.

    Raises:
        ValueError: names the record that cannot be written.
    """
    write_text(json_file, document_text(document, f"dataset dicts for {json_file}"))


def document_text(document: Mapping[str, Any], source: str) -> str:
    """Return the checked text of a relations_json file.

    Args:
        source: where the document comes from, for messages.

    Raises:
        ValueError: names the record that cannot be written.
    """
    _raise_errors(check_document(document, source))
    try:
        return json.dumps(document, allow_nan=False)
    except ValueError as error:  # in a key that is not checked
        where = next(_unwritable(document), "a key of the file")
        raise ValueError(
            f"{source}: {where} holds a number that JSON does not have, NaN or infinity: correct it"
        ) from error


def _unwritable(document: Mapping[str, Any]) -> Iterator[str]:
    for section, records in document.items():
        for index, record in enumerate(records if isinstance(records, list) else ()):
            for key, value in record.items() if isinstance(record, dict) else ():
                try:
                    json.dumps(value, allow_nan=False)
                except ValueError:
                    yield f"{section}[{index}] (id {record.get('id')!r}): {key}"


def read_packed(
    json_file: str | os.PathLike, image_root: str | os.PathLike
) -> tuple[PackedRecords, dict[str, Any]]:
    """Read a relations_json or COCO file as Detectron2's catalogs need it.

    Args:
        json_file: the file.
        image_root: folder that its file names are relative to.

    Returns:
        The records, boxes in single precision, whether their images exist or not; and the metadata
        thing_classes, predicate_classes (not for boxes only) and
        thing_dataset_id_to_contiguous_id, with which COCOEvaluator finds the file's class ids.

    Raises:
        ValueError: names the file, the first wrong records and the remedy.
    """
    with collector_paused():
        document = read_document(json_file)
        metadata: dict[str, Any] = {"thing_classes": names_by_id(document["categories"])}
        if document["predicates"]:  # else there are boxes only
            metadata["predicate_classes"] = names_by_id(document["predicates"])
        metadata["thing_dataset_id_to_contiguous_id"] = contiguous_ids(document["categories"])
        return pack_document(document, os.fspath(image_root)), metadata


def _root(json_file: str | os.PathLike, image_root: str | os.PathLike | None) -> str:
    return os.path.dirname(os.fspath(json_file)) if image_root is None else os.fspath(image_root)


def _read_checked(json_file: str | os.PathLike) -> tuple[Any, Findings]:
    document = read_json(json_file, damaged="write or copy it again", repeated_keys=True)
    boxes_only = is_boxes_only(document)
    if boxes_only:
        document = with_empty_relations(document)
    return document, check_document(document, str(json_file), boxes_only=boxes_only)


def read_document(json_file: str | os.PathLike) -> dict[str, Any]:
    """Return the content of a relations_json or COCO file; the latter gets empty lists.

    Raises:
        ValueError: names the file, the first wrong records and the remedy.
    """
    document, findings = _read_checked(json_file)
    _raise_errors(findings)
    for text in lines_by_kind(findings.warnings):
        # What names and boxes are meant to be is seen in no result; the other oddities are common.
        told = any(words in text for words in ("only by case", "another size"))
        logger.log(logging.WARNING if told else logging.INFO, "%s", text)
    return document


def _raise_errors(findings: Findings) -> None:
    if not findings.errors:
        return
    more = len(findings.errors) - _SHOWN
    raise ValueError(
        "\n".join(findings.errors[:_SHOWN])
        + (f"\nand {more} more (validate_relations_json lists them all)" if more > 0 else "")
    )


def _existing(
    records: PackedRecords, json_file: str | os.PathLike, missing_images: str
) -> PackedRecords:
    return drop_missing_images(records, missing_images=missing_images, source=str(json_file))
