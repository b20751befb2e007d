"""Object and predicate names of the drawn scenes; ids are positions, from 0.

No imports: the generator loads this file by path, without the rest of the package.
"""

SCENES_OBJECTS: tuple[str, ...] = (
    "man",
    "woman",
    "person",
    "dog",
    "horse",
    "bike",
    "bicycle",
    "surfboard",
    "board",
    "hat",
    "cap",
    "bag",
    "umbrella",
    "shirt",
    "table",
    "chair",
    "bench",
    "box",
    "ball",
    "cup",
    "tree",
    "car",
)

SCENES_PREDICATES: tuple[str, ...] = (
    "on",
    "wearing",
    "near",
    "has",
    "holding",
    "behind",
    "in front of",
    "next to",
    "under",
    "above",
    "riding",
    "sitting on",
    "standing on",
    "carrying",
    "looking at",
    "beside",
)
