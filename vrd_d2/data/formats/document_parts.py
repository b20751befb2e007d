"""Parts of a relations_json document, whose records stay as they are, and other ids for names."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

_OF_IMAGES = ("annotations", "relations")  # sections whose records belong to an image
# Section of names -> section and key of the records that refer to them.
_REFERENCES = {
    "categories": ("annotations", "category_id"),
    "predicates": ("relations", "predicate_id"),
}


def part_of_document(
    document: Mapping[str, Any], file_names: Mapping[int | str, str], folder: str | os.PathLike
) -> dict[str, Any]:
    """Return a document with some of the images, and all that belongs to them.

    Records keep their ids, their order and every further key; so does the document. Only file names
    change: they become relative to the folder of the new file.

    Args:
        document: a checked one.
        file_names: image id -> path of its image, for the images that are chosen.
        folder: of the file that will be written.
    """
    root = os.path.abspath(folder)
    images = [
        {**image, "file_name": _relative(file_names[image["id"]], image["file_name"], root)}
        for image in document["images"]
        if image["id"] in file_names
    ]
    chosen = {
        section: [record for record in document[section] if record["image_id"] in file_names]
        for section in _OF_IMAGES
    }
    return {**document, "images": images, **chosen}


def _relative(path: str, stored: str, root: str) -> str:
    name = os.path.relpath(os.path.abspath(path), root)
    return stored if os.path.normpath(stored) == name else name


def with_names(
    document: Mapping[str, Any],
    categories: Sequence[Mapping],
    predicates: Sequence[Mapping],
    source: str,
) -> dict[str, Any]:
    """Return a document with the ids that other lists give to the same names.

    Args:
        document: a checked one.
        categories, predicates: records with "id" and "name".
        source: of the document, for the message.

    Raises:
        ValueError: names that the document uses are not in the lists.
    """
    changed: dict[str, Any] = {}
    unknown: set[str] = set()
    for section, records in (("categories", categories), ("predicates", predicates)):
        number_of = {record["name"]: record["id"] for record in records}
        name_of = {record["id"]: record["name"] for record in document[section]}
        users, key = _REFERENCES[section]
        used = {record[key] for record in document[users]}
        unknown |= {name_of[number] for number in used} - number_of.keys()
        changed[section] = [dict(record) for record in records]
        changed[users] = [
            {**record, key: number_of.get(name_of[record[key]])} for record in document[users]
        ]
    if unknown:
        names = sorted(unknown)
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise ValueError(
            f"{source} has names that are not in the vocabulary: {', '.join(names[:5])}{more}; "
            "name another --vocabulary, or write a JSON with all of them"
        )
    return {**document, **changed}
