"""The files of visual_genome_h5.py: reading and checks."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from vrd_d2.addresses import refuse_address
from vrd_d2.data.source_files import located, read_json, require_regular
from vrd_d2.data.vocabulary import VG150, Vocabulary, get_vocabulary

# Images of image_data.json that are broken files, which the .h5 leaves out.
CORRUPT_IMAGES = (1592, 1722, 4616, 4617)
_BOX_SCALES = (1024, 512)  # longer side of the image that the boxes are given for
_OF_IMAGES = ("img_to_first_box", "img_to_last_box", "img_to_first_rel", "img_to_last_rel", "split")
_MOST_ROWS = 10**8  # Visual Genome has 1.4 million boxes
_MOST_COMPRESSED = 1100  # bytes that a stored one may stand for; zlib reaches 1032
_REMEDY = "is it a complete copy of VG-SGG.h5 or VG-SGG-with-attri.h5?"


def read_vocabulary(
    dicts_file: str | os.PathLike, wanted: Vocabulary | None
) -> tuple[Vocabulary, np.ndarray, np.ndarray]:
    """Return the vocabulary, and the id in it of each class and predicate of the file, -1: none."""
    refuse_address(dicts_file)
    if not Path(dicts_file).is_file():
        raise ValueError(f"there is no file {dicts_file}: it is VG-SGG-dicts-with-attri.json")
    found = get_vocabulary(dicts_file)
    maps = []
    for kind in ("objects", "predicates"):
        names, known = getattr(found, kind), getattr(wanted or VG150, kind)
        if wanted is None and names != known:
            pairs = enumerate(zip((*names, None), (*known, None), strict=False))
            at = next(i for i, (name, expected) in pairs if name != expected)
            raise ValueError(
                f"{dicts_file} has {len(names)} {kind}, VG150 {len(known)}; they differ at id {at} "
                f"({names[at : at + 1]} and {known[at : at + 1]}): get the dicts that belong to "
                f'the .h5, or say which names you want: vocabulary=get_vocabulary("{dicts_file}")'
            )
        # All objects must be known; of the predicates some may be left out.
        absent = set(names) - set(known) if kind == "objects" else set(known) - set(names)
        if absent:
            where = "the vocabulary" if kind == "objects" else dicts_file
            raise ValueError(
                f"{where} is without the {kind} {sorted(absent)[:5]} ({len(absent)} in all) of "
                f"{dicts_file if kind == 'objects' else 'the vocabulary'}: correct the vocabulary, "
                "or get the dicts that belong to the .h5"
            )
        position = {name: index for index, name in enumerate(known)}
        maps.append(np.array([position.get(name, -1) for name in names], np.int64))
    return wanted or VG150, *maps


def read_h5(path: str) -> SimpleNamespace:
    """Read the arrays of the file, those of one column as vectors, and check their lengths."""
    import h5py  # here, as it takes long to import and few need it

    refuse_address(path)
    require_regular(path)
    if not os.path.isfile(path):
        raise ValueError(f"there is no file {path}: datasets/README.md says where to get it")
    try:
        file = h5py.File(path, "r")
    except Exception as error:  # h5py has nearly any for what is damaged
        raise ValueError(f"{path} is no complete HDF5 file ({error}): get it again") from error
    with file, located(path), _damage_named():
        found = list(file)
        scales = [scale for scale in _BOX_SCALES if f"boxes_{scale}" in found]
        boxes = f"boxes_{scales[0] if scales else _BOX_SCALES[0]}"
        keys = ("labels", boxes, "relationships", "predicates", *_OF_IMAGES)
        missing = [key for key in keys if key not in found]
        if missing:
            raise ValueError(
                f"it has no {', '.join(missing)} (it has {', '.join(found):.300}): {_REMEDY}"
            )
        columns = {boxes: 4, "relationships": 2}
        arrays = {key: _read_array(file, key, columns.get(key), whole=key != boxes) for key in keys}
    groups = [("labels", boxes), ("predicates", "relationships")]
    for key, other in groups + [("split", other) for other in _OF_IMAGES[:-1]]:
        if len(arrays[key]) != len(arrays[other]):
            raise ValueError(
                f"{path}: {key} has {len(arrays[key])} rows, {other} {len(arrays[other])}; they "
                f"must be equal: {_REMEDY}"
            )
    sizes = arrays[boxes]
    wrong = ~(np.isfinite(sizes).all(1) & (sizes[:, 2:] >= 0).all(1))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"{path}: {boxes}[{row}] is {sizes[row].tolist()}: it must be centre x, centre y, "
            "width and height, finite, the sizes not negative"
        )
    return SimpleNamespace(boxes=arrays.pop(boxes), scale=int(boxes.split("_")[1]), **arrays)


@contextlib.contextmanager
def _damage_named(what: str = "its list of arrays") -> Iterator[None]:
    """Make a ValueError of whatever h5py raises on what is damaged, which is nearly any."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"{what} cannot be read ({error}): get the file again") from error


def _read_array(file: Any, key: str, columns: int | None, *, whole: bool) -> np.ndarray:
    """Read an array of an open .h5 file: (n, columns), or (n,) of (n, 1) without `columns`.

    What it declares is looked at before anything is read: it may be in another file, which this
    program must not open, or larger than the memory.

    Args:
        file: of h5py.
        key: of the array.
        columns: how many there must be; None: one.
        whole: numbers must be whole ones, which become int64.

    Raises:
        ValueError: it is a link, lies elsewhere, or has another shape or type.
    """
    import h5py

    if not isinstance(file.get(key, getlink=True), h5py.HardLink):
        raise ValueError(f"{key} is a link, perhaps into another file: {_REMEDY}")
    with _damage_named(key):
        found = file[key]
        if not isinstance(found, h5py.Dataset):
            raise ValueError(f"{key} is no array: {_REMEDY}")
        if found.is_virtual or found.external:
            raise ValueError(f"the numbers of {key} are in another file: {_REMEDY}")
        shape, kind = found.shape, found.dtype.kind
        if shape is None or kind not in "iuf":
            raise ValueError(f"{key} holds no numbers, but {found.dtype}: {_REMEDY}")
        wanted = f"(n, {columns})" if columns else "(n, 1) or (n,)"
        if shape[1:] != (columns or 1,) and (columns or len(shape) != 1):
            raise ValueError(f"{key} is {shape}, not {wanted}: {_REMEDY}")
        stored, size = found.id.get_storage_size(), found.size * found.dtype.itemsize
        if shape[0] > _MOST_ROWS or size > _MOST_COMPRESSED * stored:
            raise ValueError(
                f"{key} declares {shape[0]} rows and stores {stored} bytes of them: {_REMEDY}"
            )
        values = found[()]
    if not whole:
        return values
    values = values if columns else values.reshape(-1)
    with np.errstate(invalid="ignore"):
        numbers = values.astype(np.int64)
    if kind == "f" and not (numbers == values).all():
        raise ValueError(f"{key} must be whole numbers: {_REMEDY}")
    return numbers


def ranges_of(
    data: SimpleNamespace, kind: str, total: int, path: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first box or relation of every image (0 where there is none), and the number."""
    first, last = (getattr(data, f"img_to_{end}_{kind}") for end in ("first", "last"))
    none = (first == -1) & (last == -1)
    wrong = ~none & ((first < 0) | (last < first) | (last >= total))
    if wrong.any():
        at = int(wrong.argmax())
        raise ValueError(
            f"{path}: image {at} has img_to_first_{kind} {first[at]} and img_to_last_{kind} "
            f"{last[at]}: they must be -1 both, or indices in order below {total}; {_REMEDY}"
        )
    return np.where(none, 0, first), np.where(none, 0, last - first + 1)


def translate(data: SimpleNamespace, key: str, ids: np.ndarray, path: str) -> np.ndarray:
    """Return 1-based ids of the file as those of the vocabulary."""
    numbers = getattr(data, key)
    wrong = (numbers < 1) | (numbers > len(ids))
    if wrong.any():
        at = int(wrong.argmax())
        raise ValueError(
            f"{path}: {key}[{at}] is {numbers[at]}, but the dicts have the ids 1 to {len(ids)}: "
            "get the dicts that belong to the .h5"
        )
    return ids[numbers - 1]


def read_image_data(
    path: str | os.PathLike, excluded: Iterable[int], h5_file: str, expected: int
) -> tuple[np.ndarray, np.ndarray]:
    """Read ids (I,) and sizes (I, 2) height, width of the images of the .h5."""
    entries = read_json(path, missing="it is part of Visual Genome", repeated_keys=True)
    try:
        # The first release calls the image's id "id".
        table = [(e.get("image_id", e.get("id")), e["height"], e["width"]) for e in entries]
        strange = next((i for i, row in enumerate(table) if not _is_entry(row)), None)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no list of entries with image_id, width and height: get it again"
        ) from error
    if strange is not None:
        raise ValueError(
            f"{path}: entry {strange} has image_id, height, width {table[strange]}: they must be "
            "integers, the sizes positive"
        )
    numbers = np.array(table, np.int64).reshape(-1, 3)
    if len(numbers) != expected:
        numbers = numbers[~np.isin(numbers[:, 0], np.array(list(excluded), np.int64))]
    if len(numbers) != expected:
        corrupt = sorted(set(CORRUPT_IMAGES).intersection(numbers[:, 0].tolist()))
        remedy = (
            f"give exclude_image_ids=CORRUPT_IMAGES, because it still has the images {corrupt}"
            if corrupt and len(numbers) - len(corrupt) == expected
            else "get the image_data.json that belongs to the .h5, or name the surplus entries in "
            "exclude_image_ids"
        )
        raise ValueError(
            f"{h5_file} has {expected} images, {path} {len(numbers)} entries: their order alone "
            "says which is which, so the numbers must be equal. Some public copies of "
            f"image_data.json leave out the {len(CORRUPT_IMAGES)} images whose files are broken "
            f"({', '.join(map(str, CORRUPT_IMAGES))}), as the .h5 does, others have them: {remedy}"
        )
    unique, first = np.unique(numbers[:, 0], return_index=True)
    if len(unique) != len(numbers):
        again = np.setdiff1d(np.arange(len(numbers)), first)[0]
        raise ValueError(f"{path} has image_id {numbers[again, 0]} twice: get it again")
    return numbers[:, 0], numbers[:, 1:]


def _is_entry(row: tuple) -> bool:
    return all(type(value) is int for value in row) and min(row[1:]) > 0
