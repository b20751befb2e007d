"""Every check of the interchange format of relations_json.py, record by record.

Columns are taken out first and judged as whole lists; records are looked at one by one only where
a list as a whole is not clean. This makes the check cheaper than the parsing of the file.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any

import numpy as np

from vrd_d2.data.boxes import BoxLayout
from vrd_d2.data.names import name_problem, same_but_blanks, same_but_case
from vrd_d2.data.record_values import short

_ID = (int, str)  # bool is an int to isinstance, not to type()
_NUMBERS = frozenset((int, float))
# Section -> key -> types of a value that may stand there.
_REQUIRED: dict[str, dict[str, tuple[type, ...]]] = {
    "images": {"id": _ID, "file_name": (str,), "width": (int,), "height": (int,)},
    "categories": {"id": (int,), "name": (str,)},
    "predicates": {"id": (int,), "name": (str,)},
    "annotations": {"id": _ID, "image_id": _ID, "category_id": (int,), "bbox": (list,)},
    "relations": {
        "id": _ID,
        "image_id": _ID,
        "subject_id": _ID,
        "object_id": _ID,
        "predicate_id": (int,),
    },
}
# Keys that may be missing: an image has its size.
_OPTIONAL = {"images": ("width", "height")}
# Some tools for COCO ask for these; nothing else does.
_COCO_ONLY = ("area", "iscrowd")
_TOLERANCE = 1e-2  # pixels; a box rebuilt from a rounded XYWH may stand out by that much
_FAR = 1e9  # pixels; no finite image is that large
_INF = float("inf")


@dataclass
class Findings:
    """What is wrong in a document.

    Attributes:
        source: name of the file, the beginning of every message.
        errors: what must be repaired before the document can be loaded.
        warnings: what real data contain; it is loaded as it is.
    """

    source: str
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def error(self, where: str, text: str) -> None:
        """Note an error of a record or section."""
        self.errors.append(f"{self.source}: {where}: {text}")

    def warning(self, where: str, text: str) -> None:
        """Note an oddity that is kept."""
        self.warnings.append(f"{self.source}: {where}: {text}")


def check_document(document: Any, source: str, *, boxes_only: bool = False) -> Findings:
    """Check the parsed content of a relations_json file; images are not looked for.

    Args:
        document: what `json.load` returned.
        source: name of the file, for the messages.
        boxes_only: there need be no names of predicates.
    """
    findings = Findings(source)
    if not isinstance(document, Mapping):
        findings.error("top level", f"must be an object with the keys {', '.join(_REQUIRED)}")
        return findings
    columns = {name: _section_columns(document, name, findings) for name in _REQUIRED}
    if findings.errors:  # references cannot be followed through incomplete records
        return findings
    for section in ("categories",) if boxes_only else ("categories", "predicates"):
        _check_names(section, document, columns, findings)
    _check_images(document, columns, findings)
    _check_annotations(document, columns, findings)
    _check_relations(document, columns, findings)
    return findings


def _where(section: str, index: int, record: Any = None) -> str:
    known = isinstance(record, Mapping) and "id" in record
    return f"{section}[{index}]" + (f" (id {record['id']!r})" if known else "")


def _section_columns(document: Mapping, section: str, findings: Findings) -> dict[str, list]:
    """Return the values of every required key of a section.

    There are errors where one is missing or of a wrong type.
    """
    records = document.get(section)
    if not isinstance(records, list):
        problem = "is missing" if records is None else "is no list"
        findings.error(section, f"{problem}: add a list (it may be empty)")
        return {}
    strange = _of_other_type(records, (dict,))
    for i in strange:
        findings.error(_where(section, i), "is no object: write {key: value, ...}")
    if strange:
        return {}
    columns = {}
    for key, types in _REQUIRED[section].items():
        values = columns[key] = _column(records, key)
        for i in _of_other_type(values, types):
            if key not in records[i] and key in _OPTIONAL.get(section, ()):
                continue
            wanted = " or ".join(kind.__name__ for kind in types)
            if key in records[i]:
                text = f"{key} is {values[i]!r}: it must be of type {wanted}"
            else:
                text = f"the key {key} is missing: add it ({wanted})"
            findings.error(_where(section, i, records[i]), text)
    _check_unique(section, columns["id"], findings)
    return columns


def _column(records: list[dict], key: str) -> list:
    try:
        return list(map(operator.itemgetter(key), records))
    except KeyError:
        return [record.get(key) for record in records]


def _of_other_type(values: Sequence, types: tuple[type, ...]) -> list[int]:
    if set(types).issuperset(map(type, values)):
        return []
    return [i for i, value in enumerate(values) if type(value) not in types]


def _check_unique(section: str, ids: Sequence, findings: Findings) -> None:
    try:
        if len(set(ids)) == len(ids):
            return
    except TypeError:  # an unhashable id has been reported
        return
    first: dict[Any, int] = {}
    for i, value in enumerate(ids):
        # None is a missing id, which has been reported.
        if value is not None and first.setdefault(value, i) != i:
            findings.error(
                f"{section}[{i}] (id {value!r})",
                f"has the same id as {section}[{first[value]}]: give every record another",
            )


def _check_names(section: str, document: Mapping, columns: dict, findings: Findings) -> None:
    names = columns[section]["name"]
    if not names:
        findings.error(section, "is empty: list at least one name")
    first: dict[str, int] = {}
    for i, name in enumerate(names):
        where = _where(section, i, document[section][i])
        if problem := name_problem(name):
            findings.error(where, f"its name {name!a} {problem}")
        elif first.setdefault(name, i) != i:
            findings.error(where, f"repeats the name {name!r}: names must be unique")
    if twins := same_but_blanks(names):
        known, i = twins
        findings.error(
            _where(section, i, document[section][i]),
            f"its name {names[i]!r} and {names[known]!r} differ only by blanks: correct one",
        )
    for known, i in same_but_case(names):
        findings.warning(
            _where(section, i, document[section][i]),
            f"its name {names[i]!r} and {names[known]!r} differ only by case: are they the same?",
        )


def _check_images(document: Mapping, columns: dict, findings: Findings) -> None:
    records, images = document["images"], columns["images"]
    without = [sizes.count(None) for sizes in (images["width"], images["height"])]
    if any(without):
        findings.warning(
            "images",
            f"{max(without)} have no size, so that their boxes are not compared with it: add "
            "width and height",
        )
    for i, size in enumerate(zip(images["width"], images["height"], strict=True)):
        if None in size and size != (None, None):
            key = "width" if size[0] is None else "height"
            text = f"the key {key} is missing: add it (int), or leave out both width and height"
            findings.error(_where("images", i, records[i]), text)
        elif None not in size and (min(size) < 1 or max(size) >= _FAR):
            text = f"size {short(size[0])} x {short(size[1])}: both must be positive"
            findings.error(_where("images", i, records[i]), text)
    for i in _odd_file_names(images["file_name"]):
        findings.error(
            _where("images", i, records[i]),
            f"file_name {images['file_name'][i]!a} cannot be that of a file: correct it",
        )
    for i, record in enumerate(records):
        captions = record.get("captions", [])
        if type(captions) is not list or not all(type(text) is str for text in captions):
            findings.error(_where("images", i, record), "captions must be a list of strings")


def _odd_file_names(names: list[str]) -> list[int]:
    """Return which names no file can have.

    Bytes that are no UTF-8 are names on many systems; Python reads them as single surrogates.
    """

    def fits(text: str) -> bool:
        try:
            return b"\0" not in text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            return False

    if all(map(str.strip, names)) and fits("".join(names)):
        return []
    return [i for i, name in enumerate(names) if not name.strip() or not fits(name)]


def _check_annotations(document: Mapping, columns: dict, findings: Findings) -> None:
    records, annotations = document["annotations"], columns["annotations"]
    _check_known(
        document, "annotations", "image_id", annotations["image_id"],
        set(columns["images"]["id"]), "images", findings,
    )  # fmt: skip
    _check_known(
        document, "annotations", "category_id", annotations["category_id"],
        set(columns["categories"]["id"]), "categories", findings,
    )  # fmt: skip
    for key in _COCO_ONLY:
        without = len(records) - sum(map(operator.contains, records, repeat(key)))
        if without:
            findings.warning(
                "annotations", f"{without} have no {key!r}, which tools for COCO need: add it"
            )
    for i, record in enumerate(records):
        if (crowd := record.get("iscrowd")) not in (0, 1, None):
            text = f"iscrowd is {short(crowd)}: it must be 0 or 1"
            findings.error(_where("annotations", i, record), text)
    if 0 in set(annotations["id"]):
        findings.warning("annotations", "tools for COCO take id 0 for no match: count from 1")
    images = columns["images"]
    extents = [  # infinite where not known
        size if None not in size and 0 < min(size) <= max(size) < _FAR else (_INF, _INF)
        for size in zip(images["width"], images["height"], strict=True)
    ]
    size_of = dict(zip(images["id"], extents, strict=True)).get
    boxes = annotations["bbox"]
    sizes = [size_of(image_id, (_INF, _INF)) for image_id in annotations["image_id"]]
    odd, layout = _odd_boxes(boxes, sizes)
    if problem := layout.problem():
        findings.error("annotations", problem)
        return
    if hint := layout.hint():
        findings.warning("annotations", hint)
    for i in odd:
        where = _where("annotations", i, records[i])
        if not _is_box(boxes[i]):
            findings.error(
                where,
                f"bbox is {boxes[i]}: it must be [x, y, width, height], four finite numbers in "
                "pixels, width and height not negative",
            )
            continue
        x, y, w, h = boxes[i]
        width, height = sizes[i]
        if w == 0 or h == 0:
            findings.warning(where, f"box {boxes[i]} has no area; it is kept")
        if min(x, y) < -_TOLERANCE or x + w > width + _TOLERANCE or y + h > height + _TOLERANCE:
            findings.warning(
                where,
                f"box {boxes[i]} reaches outside the image of {width} x {height}; it is kept",
            )


def _is_box(box: list) -> bool:
    if len(box) != 4 or not _NUMBERS.issuperset(map(type, box)):
        return False
    x, y, w, h = box
    # NaN fails every comparison.
    return -_FAR < x < _FAR and -_FAR < y < _FAR and 0 <= w < _FAR and 0 <= h < _FAR


def _odd_boxes(boxes: list[list], sizes: list[tuple[int, int]]) -> tuple[Sequence[int], BoxLayout]:
    """Return where a box may be wrong, empty or partly outside: all that are not surely fine.

    And the layout that all of them seem to have.
    """
    layout = BoxLayout("[x, y, width, height]")
    whole = {4}.issuperset(map(len, boxes)) and _NUMBERS.issuperset(
        map(type, chain.from_iterable(boxes))
    )
    chosen = range(len(boxes)) if whole else [i for i, box in enumerate(boxes) if _is_box(box)]
    try:
        xywh, limits = (
            np.fromiter(chain.from_iterable(rows[i] for i in chosen), np.float64)
            for rows in (boxes, sizes)
        )
    except OverflowError:  # an integer that is no float
        return range(len(boxes)), layout
    xywh, limits = xywh.reshape(-1, 4), limits.reshape(-1, 2)
    with np.errstate(invalid="ignore", over="ignore"):
        ends = xywh[:, :2] + xywh[:, 2:]
        sound = (xywh[:, 2:] >= 0).all(1) & (np.abs(xywh) < _FAR).all(1)
        layout.add(np.hstack([xywh[:, :2], ends])[sound], limits[sound])
        inside = (xywh[:, :2] >= 0).all(1) & (ends <= limits).all(1)
        # Too large numbers are not inside, unless the image is as large.
        fine = inside & (xywh[:, 2:] > 0).all(1) & (xywh < _FAR).all(1)
    odd = np.flatnonzero(~fine).tolist() if whole else range(len(boxes))
    return odd, layout


def _check_known(
    document: Mapping,
    section: str,
    key: str,
    values: Sequence,
    known: set,
    target: str,
    findings: Findings,
) -> None:
    """Check that every value is the id of a record in `target`."""
    if known.issuperset(values):
        return
    for i in [i for i, value in enumerate(values) if value not in known]:
        findings.error(
            _where(section, i, document[section][i]),
            f"{key} {values[i]!r} is not an id of {target}: correct it or add that record",
        )


def _check_relations(document: Mapping, columns: dict, findings: Findings) -> None:
    records, relations = document["relations"], columns["relations"]
    annotations = columns["annotations"]
    known = set(annotations["id"])
    for key, target, ids in (
        ("image_id", "images", set(columns["images"]["id"])),
        ("predicate_id", "predicates", set(columns["predicates"]["id"])),
        ("subject_id", "annotations", known),
        ("object_id", "annotations", known),
    ):
        _check_known(document, "relations", key, relations[key], ids, target, findings)
    images = relations["image_id"]
    subjects, objects = relations["subject_id"], relations["object_id"]
    image_of = dict(zip(annotations["id"], annotations["image_id"], strict=True)).get
    for key, ends in (("subject_id", subjects), ("object_id", objects)):
        found = list(map(image_of, ends, images))  # an unknown end has been reported
        for i in [] if found == images else range(len(images)):
            if found[i] != images[i]:
                findings.error(
                    _where("relations", i, records[i]),
                    f"{key} {ends[i]!r} is in image {found[i]!r}, the relation in image "
                    f"{images[i]!r}: subject and object must be in the image of the relation",
                )
    if document["predicates"] and not records:
        findings.warning("relations", "there is none: nothing can be learnt from this file")
    for i in [i for i, (s, o) in enumerate(zip(subjects, objects, strict=True)) if s == o]:
        findings.warning(
            _where("relations", i, records[i]),
            f"annotation {subjects[i]!r} is related to itself; it is kept",
        )
    seen: set[tuple] = set()
    for i, triplet in enumerate(zip(subjects, objects, relations["predicate_id"], strict=True)):
        if triplet in seen:
            findings.warning(
                _where("relations", i, records[i]), "repeats an earlier relation; it is kept"
            )
        seen.add(triplet)
