"""Every check of the interchange format of relations_json.py, record by record.

Columns are taken out first and judged as whole lists: a million records take about two seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
# COCO's evaluator asks for these; nothing else does.
_COCO_ONLY = ("area", "iscrowd")
_TOLERANCE = 1e-2  # pixels; a box rebuilt from a rounded XYWH may stand out by that much
_FAR = 1e9  # pixels; no finite picture is that large


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


def check_document(document: Any, source: str) -> Findings:
    """Check the parsed content of a relations_json file; pictures are not looked for.

    Args:
        document: what `json.load` returned.
        source: name of the file, for the messages.
    """
    findings = Findings(source)
    if not isinstance(document, Mapping):
        findings.error("top level", f"must be an object with the keys {', '.join(_REQUIRED)}")
        return findings
    columns = {name: _section_columns(document, name, findings) for name in _REQUIRED}
    if findings.errors:  # references cannot be followed through records that lack them
        return findings
    _check_names(document, columns, findings)
    _check_images(document, columns, findings)
    _check_annotations(document, columns, findings)
    _check_relations(document, columns, findings)
    return findings


def _where(section: str, index: int, record: Any = None) -> str:
    known = isinstance(record, Mapping) and "id" in record
    return f"{section}[{index}]" + (f" (id {record['id']!r})" if known else "")


def _section_columns(document: Mapping, section: str, findings: Findings) -> dict[str, list]:
    """Values of every required key of a section; errors where one is missing or of a wrong type."""
    records = document.get(section)
    if not isinstance(records, list):
        problem = "is missing" if records is None else "is no list"
        findings.error(section, f"{problem}: add a list (it may be empty)")
        return {}
    strange = [i for i, record in enumerate(records) if type(record) is not dict]
    for i in strange:
        findings.error(_where(section, i), "is no object: write {key: value, ...}")
    if strange:
        return {}
    columns = {}
    for key, types in _REQUIRED[section].items():
        values = columns[key] = [record.get(key) for record in records]
        for i in [i for i, value in enumerate(values) if type(value) not in types]:
            wanted = " or ".join(kind.__name__ for kind in types)
            if key in records[i]:
                text = f"{key} is {values[i]!r}: it must be of type {wanted}"
            else:
                text = f"the key {key} is missing: add it ({wanted})"
            findings.error(_where(section, i, records[i]), text)
    _check_unique(section, columns["id"], findings)
    return columns


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
                f"has the same id as {section}[{first[value]}]: give every record its own",
            )


def _check_names(document: Mapping, columns: dict, findings: Findings) -> None:
    for section in ("categories", "predicates"):
        names = columns[section]["name"]
        if not names:
            findings.error(section, "is empty: list at least one name")
        first: dict[str, int] = {}
        for i, name in enumerate(names):
            where = _where(section, i, document[section][i])
            if not name.strip():
                findings.error(where, "its name is empty: give it one")
            elif first.setdefault(name, i) != i:
                findings.error(where, f"repeats the name {name!r}: names must be unique")


def _check_images(document: Mapping, columns: dict, findings: Findings) -> None:
    records, images = document["images"], columns["images"]
    sizes = zip(images["width"], images["height"], strict=True)
    for i in [i for i, (width, height) in enumerate(sizes) if width < 1 or height < 1]:
        size = f"{images['width'][i]} x {images['height'][i]}"
        findings.error(_where("images", i, records[i]), f"size {size}: both must be positive")
    for i, record in enumerate(records):
        captions = record.get("captions", [])
        if type(captions) is not list or not all(type(text) is str for text in captions):
            findings.error(_where("images", i, record), "captions must be a list of strings")


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
        lacking = sum(key not in record for record in records)
        if lacking:
            findings.warning(
                "annotations", f"{lacking} lack {key!r}, which COCO's evaluator needs: add it"
            )
    if 0 in set(annotations["id"]):
        findings.warning("annotations", "COCO's evaluator takes id 0 for no match: count from 1")
    images = columns["images"]
    extents = zip(images["width"], images["height"], strict=True)
    size_of = dict(zip(images["id"], extents, strict=True)).get
    boxes = zip(annotations["bbox"], annotations["image_id"], strict=True)
    for i, (box, image_id) in enumerate(boxes):
        if not _is_box(box):
            findings.error(
                _where("annotations", i, records[i]),
                f"bbox is {box}: it must be [x, y, width, height], four finite numbers in pixels, "
                "width and height not negative",
            )
            continue
        x, y, w, h = box
        width, height = size_of(image_id, (_FAR, _FAR))
        if w == 0 or h == 0:
            findings.warning(
                _where("annotations", i, records[i]), f"box {box} has no area; it is kept"
            )
        if min(x, y) < -_TOLERANCE or x + w > width + _TOLERANCE or y + h > height + _TOLERANCE:
            findings.warning(
                _where("annotations", i, records[i]),
                f"box {box} reaches outside the picture of {width} x {height}; it is kept",
            )


def _is_box(box: list) -> bool:
    if len(box) != 4 or not _NUMBERS.issuperset(map(type, box)):
        return False
    x, y, w, h = box
    # NaN fails every comparison.
    return -_FAR < x < _FAR and -_FAR < y < _FAR and 0 <= w < _FAR and 0 <= h < _FAR


def _check_known(
    document: Mapping,
    section: str,
    key: str,
    values: Sequence,
    known: set,
    target: str,
    findings: Findings,
) -> None:
    """Every value must be the id of a record in `target`."""
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
    image_of = dict(zip(annotations["id"], annotations["image_id"], strict=True)).get
    seen: set[tuple] = set()
    rows = zip(
        relations["image_id"],
        relations["subject_id"],
        relations["object_id"],
        relations["predicate_id"],
        strict=True,
    )
    for i, (image_id, subject, object_, predicate) in enumerate(rows):
        for key, end in (("subject_id", subject), ("object_id", object_)):
            found = image_of(end, image_id)  # an unknown end has been reported
            if found != image_id:
                findings.error(
                    _where("relations", i, records[i]),
                    f"{key} {end!r} is in image {found!r}, the relation in image {image_id!r}: "
                    "subject and object must be in the relation's own picture",
                )
        if subject == object_:
            findings.warning(
                _where("relations", i, records[i]),
                f"annotation {subject!r} is related to itself; it is kept",
            )
        triplet = (subject, object_, predicate)
        if triplet in seen:
            findings.warning(
                _where("relations", i, records[i]), "repeats an earlier relation; it is kept"
            )
        seen.add(triplet)
