"""Registers the built-in datasets, and those that a config names. No file is read before a data
set is asked for."""

import json
import os
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from vrd_d2.data.datasets.published import RAW_REMEDY, published_datasets
from vrd_d2.data.datasets.visual_genome_h5 import VisualGenomeH5
from vrd_d2.data.datasets.visual_genome_h5_files import CORRUPT_IMAGES
from vrd_d2.data.datasets.visual_genome_raw import load_visual_genome_raw
from vrd_d2.data.formats.relations_json import file_stamp, load_registered, register_relations_json
from vrd_d2.data.image_existence import check_policy
from vrd_d2.data.records.packed import PackedRecords, unseen_triplets
from vrd_d2.data.source_files import require_file
from vrd_d2.data.vocabulary import SCENES, VG20, VG150, Vocabulary

# Files of the public split, each with the names that it goes by.
_H5_FILES = (
    ("VG-SGG-with-attri.h5", "VG-SGG.h5"),
    ("VG-SGG-dicts-with-attri.json", "VG-SGG-dicts.json"),
    ("image_data.json",),
)
_SPLITS = ("train", "val", "test")
_SCENES_REMEDY = "draw it with `python datasets/prepare_scenes.py`"
_H5_REMEDY = (
    "it is part of the public split of Visual Genome; datasets/README.md says where it is had and "
    "where it goes"
)
_VG_REMEDY = (
    "`python datasets/prepare_vg.py` writes it from the raw files; datasets/README.md says where "
    "those are had and where they go"
)


def register_builtin_datasets(
    root: str | os.PathLike | None = None, *, missing_images: str = "error"
) -> None:
    """Register scenes_*, vg_sgg_*, vg20_sgg_*, vg150_*, vg20_* (train, val, test),
    visual_genome_raw, and those of :func:`~vrd_d2.data.datasets.published.published_datasets`.

    Done once when this module is imported; calling it again moves them to another folder or
    changes `missing_images`. Metadata that was added to a dataset stays while its folder does.

    Args:
        root: folder of all datasets; None is $DETECTRON2_DATASETS, or ./datasets without it.
        missing_images: "error", "skip" or "keep", see
            :func:`~vrd_d2.data.formats.relations_json.load_relations_json`.
    """
    check_policy(missing_images)
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets") if root is None else root)
    scenes, genome = root / "scenes", root / "visual_genome"
    for split in _SPLITS:
        _register_json(
            f"scenes_{split}", scenes / f"{split}.json", scenes, scenes / "zero_shot.json",
            SCENES, _SCENES_REMEDY, missing_images,
        )  # fmt: skip
        for kind, vocabulary in (("vg150", VG150), ("vg20", VG20)):
            _register_json(
                f"{kind}_{split}", genome / f"{kind}_{split}.json", genome / "images",
                genome / f"{kind}_zero_shot.json", vocabulary, _VG_REMEDY, missing_images,
            )  # fmt: skip
        for kind, vocabulary in (("vg_sgg", VG150), ("vg20_sgg", VG20)):
            name = f"{kind}_{split}"
            _register(
                name,
                partial(_load_h5, name, split, genome, vocabulary, missing_images),
                vocabulary,
                image_root=str(genome),
            )
    _register(
        "visual_genome_raw",
        partial(_load_raw, genome, missing_images),
        VG150,
        image_root=str(genome),
    )
    for dataset in published_datasets(root, missing_images):
        _register(dataset.name, dataset.load, dataset.vocabulary, image_root=dataset.image_root)


def register_user_datasets(
    entries: Sequence[Sequence[str]], *, missing_images: str = "error"
) -> None:
    """Register the datasets of ``DATASETS.REGISTER``.

    Args:
        entries: rows of [name, relations_json file, image folder]; an empty folder is the file's.
        missing_images: see :func:`~vrd_d2.data.formats.relations_json.load_relations_json`.

    Raises:
        ValueError: a row is not three strings, or its name belongs to another dataset.
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
        load = DatasetCatalog.pop(name)
        DatasetCatalog.register(name, partial(_load_user, name, load, json_file))


def _load_user(name: str, load: Callable[[], PackedRecords], json_file: str) -> PackedRecords:
    """The dataset; a zero_shot.json beside its file gives it the triplets of zero-shot recall."""
    records = load()
    zero_shot_file = Path(json_file).with_name("zero_shot.json")
    metadata = MetadataCatalog.get(name)
    predicates = metadata.get("predicate_classes")
    if predicates and zero_shot_file.is_file():
        vocabulary = Vocabulary(metadata.thing_classes, predicates)
        _set_zero_shot(name, load_zero_shot(zero_shot_file, vocabulary))
    return records


def load_zero_shot(path: str | os.PathLike, vocabulary: Vocabulary) -> list[tuple[int, int, int]]:
    """Triplets that training does not contain, for zR@K.

    Args:
        path: JSON list of [subject name, predicate name, object name].
        vocabulary: of the dataset.

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
            "object name] in the dataset's own names"
        ) from error


def _register_json(
    name: str,
    json_file: Path,
    image_root: Path,
    zero_shot_file: Path,
    vocabulary: Vocabulary,
    remedy: str,
    missing_images: str,
) -> None:
    _register(
        name,
        partial(
            _load_json,
            name,
            json_file,
            image_root,
            zero_shot_file,
            vocabulary,
            remedy,
            missing_images,
        ),
        vocabulary,
        json_file=str(json_file),
        image_root=str(image_root),
    )


def _register(
    name: str, load: Callable[[], Sequence[dict]], vocabulary: Vocabulary | None, **places: str
) -> None:
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        if all(MetadataCatalog.get(name).get(key) == place for key, place in places.items()):
            DatasetCatalog.register(name, load)
            return
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, load)
    metadata = MetadataCatalog.get(name).set(evaluator_type="relation", **places)
    if vocabulary is not None:
        metadata.set(
            thing_classes=list(vocabulary.objects),
            predicate_classes=list(vocabulary.predicates),
        )


def _load_json(
    name: str,
    json_file: Path,
    image_root: Path,
    zero_shot_file: Path,
    vocabulary: Vocabulary,
    remedy: str,
    missing_images: str,
) -> PackedRecords:
    require_file(name, json_file, remedy)
    dicts = load_registered(name, str(json_file), str(image_root), missing_images=missing_images)
    if zero_shot_file.is_file():
        _set_zero_shot(name, load_zero_shot(zero_shot_file, vocabulary))
    return dicts


def _set_zero_shot(name: str, triplets: list[tuple[int, int, int]]) -> None:
    """Unless there is a list: a user's own counts more."""
    if MetadataCatalog.get(name).get("zero_shot_triplets") is None:
        MetadataCatalog.get(name).set(zero_shot_triplets=triplets)


def _load_h5(
    name: str, split: str, folder: Path, vocabulary: Vocabulary, missing_images: str
) -> PackedRecords:
    files = []
    for choices in _H5_FILES:
        paths = [folder / choice for choice in choices]
        files.append(next((path for path in paths if path.is_file()), paths[0]))
        require_file(name, files[-1], _H5_REMEDY)
    data = _open_h5(tuple(map(str, files)), tuple(map(file_stamp, files)), vocabulary)
    training = data.triplets("train")
    if split != "train" and len(training):
        _set_zero_shot(name, unseen_triplets(data.triplets(split), training))
    return data.records(split, folder, missing_images=missing_images)


@lru_cache(maxsize=2)
def _open_h5(
    files: tuple[str, ...], stamps: tuple[tuple[int, int], ...], vocabulary: Vocabulary
) -> VisualGenomeH5:
    """Kept until a file changes, because trainer, evaluator and zero-shot list ask for it."""
    # With VG150, whose ids the files must have, None is stricter than a translation by name.
    data = VisualGenomeH5(
        *files,
        vocabulary=None if vocabulary == VG150 else vocabulary,
        exclude_image_ids=CORRUPT_IMAGES,
    )
    if vocabulary != VG150 and data.has_validation_split:
        data.val_images = None  # the file of Chen et al.
    return data


def _load_raw(folder: Path, missing_images: str) -> PackedRecords:
    for file_name in ("image_data.json", "objects.json", "relationships.json"):
        require_file("visual_genome_raw", folder / file_name, RAW_REMEDY)
    aliases = {
        f"{kind}_aliases": path
        for kind in ("object", "predicate")
        if (path := folder / f"{kind}_alias.txt").is_file()
    }
    return PackedRecords.pack(
        load_visual_genome_raw(folder, VG150, missing_images=missing_images, **aliases)
    )


register_builtin_datasets()
