"""Dataset dicts into the columns of packed.py."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from vrd_d2.data.boxes import annotation_xyxy

_RECORD_KEYS = frozenset(
    ("file_name", "image_id", "height", "width", "annotations", "relations", "captions")
)
_ANNOTATION_KEYS = frozenset(("id", "bbox", "bbox_mode", "category_id", "iscrowd"))


def packed_columns(
    records: Iterable[Mapping[str, Any]], *, drop_other_keys: bool
) -> dict[str, Any]:
    """Return the arguments of :class:`.PackedRecords`; see its `pack`."""
    names, image_ids, sizes, captions, annotation_ids = [], [], [], [], []
    boxes, categories, crowd, relations = array("f"), array("q"), bytearray(), []
    box_counts, relation_counts = array("q"), array("q")
    for index, record in enumerate(records):
        try:
            annotations, rows = record["annotations"], record["relations"]
            if not drop_other_keys:
                _refuse_others(record, annotations)
            names.append(str(record["file_name"]))
            image_ids.append(record["image_id"])
            sizes.append((record.get("height", 0), record.get("width", 0)))
            for annotation in annotations:
                boxes.extend(annotation_xyxy(annotation))
                categories.append(int(annotation["category_id"]))
                crowd.append(bool(annotation.get("iscrowd", 0)))
                annotation_ids.append(annotation.get("id"))
        except (KeyError, ValueError) as error:
            what = f"the key {error} is missing" if isinstance(error, KeyError) else error
            where = record.get("file_name", record.get("image_id"))
            raise ValueError(f"dataset dict {index} ({where}): {what}") from error
        captions.append(record.get("captions"))
        relations.append(np.asarray(rows, np.int64).reshape(-1, 3))
        box_counts.append(len(annotations))
        relation_counts.append(len(relations[-1]))
    return dict(
        file_names=names,
        image_ids=image_ids,
        sizes=np.array(sizes, np.int64).reshape(-1, 2),
        boxes=np.frombuffer(boxes, np.float32),
        categories=np.frombuffer(categories, np.int64),
        box_counts=np.frombuffer(box_counts, np.int64),
        relations=np.concatenate([np.zeros((0, 3), np.int64), *relations]),
        relation_counts=np.frombuffer(relation_counts, np.int64),
        annotation_ids=None if None in annotation_ids else annotation_ids,
        crowd=np.frombuffer(crowd, np.bool_),
        captions=captions if any(texts is not None for texts in captions) else None,
    )


def _refuse_others(record: Mapping, annotations: Sequence[Mapping]) -> None:
    others = record.keys() - _RECORD_KEYS
    others |= set(chain.from_iterable(annotations)) - _ANNOTATION_KEYS
    if others:
        raise ValueError(
            f"PackedRecords cannot hold {', '.join(map(repr, sorted(others)))}: "
            "drop_other_keys leaves them out"
        )
