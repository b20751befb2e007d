"""Registers the built-in data sets, and those that a config names. No file is read before a data
set is asked for."""

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from vrd_d2.data.pictures import check_policy
from vrd_d2.data.relations_json import load_registered, register_relations_json
from vrd_d2.data.visual_genome import load_visual_genome_raw
from vrd_d2.data.vocabulary import SCENES, VG150, Vocabulary

_SPLITS = ("train", "val", "test")
_SCENES_REMEDY = "draw it with `python datasets/prepare_scenes.py`"
_RAW_REMEDY = "datasets/README.md says where it is had and where its files go"
_VG_REMEDY = (
    "`python datasets/prepare_vg.py` writes it from the raw files; datasets/README.md says where "
    "those are had and where they go"
)


def register_builtin_datasets(
    root: str | os.PathLike | None = None, *, missing_images: str = "error"
) -> None:
    """Register scenes_*, vg150_* (train, val, test) and visual_genome_raw.

    Done once when this module is imported; calling it again moves them to another folder or
    changes `missing_images`.

    Args:
        root: folder of all data sets; None is $DETECTRON2_DATASETS, or ./datasets without it.
        missing_images: "error" or "skip", see
            :func:`~vrd_d2.data.relations_json.load_relations_json`.
    """
    check_policy(missing_images)
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets") if root is None else root)
    scenes, genome = root / "scenes", root / "visual_genome"
    for split in _SPLITS:
        _register_json(
            f"scenes_{split}", scenes / f"{split}.json", scenes,
            SCENES, _SCENES_REMEDY, missing_images,
        )  # fmt: skip
        _register_json(
            f"vg150_{split}", genome / f"vg150_{split}.json", genome / "images",
            VG150, _VG_REMEDY, missing_images,
        )  # fmt: skip
    _register(
        "visual_genome_raw",
        partial(_load_raw, genome, missing_images),
        VG150,
        image_root=str(genome),
    )


def register_user_datasets(
    entries: Sequence[Sequence[str]], *, missing_images: str = "error"
) -> None:
    """Register the data sets of ``DATASETS.REGISTER``.

    Args:
        entries: rows of [name, relations_json file, image folder]; an empty folder is the file's.
        missing_images: see :func:`~vrd_d2.data.relations_json.load_relations_json`.

    Raises:
        ValueError: a row is not three strings, or its name belongs to another data set.
    """
    for index, entry in enumerate(entries):
        if (
            not isinstance(entry, list | tuple)
            or len(entry) != 3
            or not all(isinstance(part, str) for part in entry)
        ):
            raise ValueError(
                f"DATASETS.REGISTER[{index}] is {entry!r}: it must be "
                "[name, relations_json file, image folder]"
            )
        name, json_file, image_root = entry
        register_relations_json(name, json_file, image_root or None, missing_images=missing_images)


def load_zero_shot(path: str | os.PathLike, vocabulary: Vocabulary) -> list[tuple[int, int, int]]:
    """Triplets that training does not contain, for zR@K.

    Args:
        path: JSON list of [subject name, predicate name, object name].
        vocabulary: of the data set.

    Returns:
        (subject class, object class, predicate) ids, as the metadata holds them.

    Raises:
        ValueError: the file is no such list, or has a name that the vocabulary lacks.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        return [
            (
                vocabulary.object_id(subject),
                vocabulary.object_id(object_),
                vocabulary.predicate_id(predicate),
            )
            for subject, predicate, object_ in rows
        ]
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path}: {error}; it must be a JSON list of [subject name, predicate name, "
            "object name] in the data set's own names"
        ) from error


def _register_json(
    name: str,
    json_file: Path,
    image_root: Path,
    vocabulary: Vocabulary,
    remedy: str,
    missing_images: str,
) -> None:
    _register(
        name,
        partial(_load_json, name, json_file, image_root, vocabulary, remedy, missing_images),
        vocabulary,
        json_file=str(json_file),
        image_root=str(image_root),
    )


def _register(
    name: str, load: Callable[[], list[dict]], vocabulary: Vocabulary, **places: str
) -> None:
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        thing_classes=list(vocabulary.objects),
        predicate_classes=list(vocabulary.predicates),
        evaluator_type="relation",
        **places,
    )


def _load_json(
    name: str,
    json_file: Path,
    image_root: Path,
    vocabulary: Vocabulary,
    remedy: str,
    missing_images: str,
) -> list[dict]:
    _require(name, json_file, remedy)
    dicts = load_registered(name, str(json_file), str(image_root), missing_images=missing_images)
    zero_shot = json_file.with_name("zero_shot.json")
    if zero_shot.is_file():
        MetadataCatalog.get(name).set(zero_shot_triplets=load_zero_shot(zero_shot, vocabulary))
    return dicts


def _load_raw(folder: Path, missing_images: str) -> list[dict]:
    for file_name in ("image_data.json", "objects.json", "relationships.json"):
        _require("visual_genome_raw", folder / file_name, _RAW_REMEDY)
    aliases = {
        f"{kind}_aliases": path
        for kind in ("object", "predicate")
        if (path := folder / f"{kind}_alias.txt").is_file()
    }
    return load_visual_genome_raw(folder, VG150, missing_images=missing_images, **aliases)


def _require(name: str, path: Path, remedy: str) -> None:
    if not path.is_file():
        raise ValueError(
            f"data set {name!r} needs {path}, which does not exist: {remedy}. Other folders than "
            "./datasets are named by the variable DETECTRON2_DATASETS"
        )


register_builtin_datasets()
