"""The published datasets below a root folder: which files each needs, and how it is loaded.

``datasets/README.md`` says where the files are had. Nothing is read before a dataset is asked for.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from detectron2.data import MetadataCatalog

from vrd_d2.data.datasets.gqa import load_gqa
from vrd_d2.data.datasets.open_images import load_open_images
from vrd_d2.data.datasets.panoptic_scene_graph import load_panoptic_scene_graph
from vrd_d2.data.datasets.stanford_vrd import load_stanford_vrd, stanford_vrd_vocabulary
from vrd_d2.data.records.packed import unseen_triplets
from vrd_d2.data.source_files import require_file
from vrd_d2.data.vocabulary import PSG, VRD, Vocabulary, get_vocabulary

RAW_REMEDY = "datasets/README.md says where it is had and where its files go"
_VOCABULARY_REMEDY = "`python datasets/prepare_vocabulary.py {}` writes it from the training file"
_OPEN_IMAGES_SPLITS = {"train": "train", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class PublishedDataset:
    """One dataset to be registered.

    Attributes:
        name: in DatasetCatalog.
        image_root: folder of the images, for the metadata.
        vocabulary: its names, or None where they become known when it is read.
        load: reads it.
    """

    name: str
    image_root: str
    vocabulary: Vocabulary | None
    load: Callable[[], Sequence[dict]]


def published_datasets(root: Path, missing_images: str) -> Iterator[PublishedDataset]:
    """vrd_*, psg_*, oiv6_* and gqa_* below a folder.

    Args:
        root: folder of all datasets.
        missing_images: see :func:`~vrd_d2.data.formats.relations_json.load_relations_json`.
    """
    for folder, splits, load, vocabulary in (
        ("vrd", ("train", "test"), _load_vrd, VRD),
        ("psg", ("train", "val", "test"), _load_psg, PSG),
        ("oiv6", ("train", "val", "test"), _load_oiv6, None),
        ("gqa", ("train", "val"), _load_gqa, None),
    ):
        place = root / folder
        image_root = _psg_images(place) if folder == "psg" else place
        for split in splits:
            name = f"{folder}_{split}"
            yield PublishedDataset(
                name, str(image_root), vocabulary, partial(load, name, place, split, missing_images)
            )


def open_images_files(folder: Path, split: str) -> dict[str, Path]:
    """Arguments of :func:`~.open_images.load_open_images` that are files: those of one split.

    File names may begin with "oidv6-" or not, as the published ones do and do not. The two
    optional files are there if they exist.
    """

    def find(name: str, *others: str) -> Path:
        names = [prefix + stem for stem in (name, *others) for prefix in ("oidv6-", "")]
        return next((folder / n for n in names if (folder / n).is_file()), folder / names[0])

    stem = f"{_OPEN_IMAGES_SPLITS[split]}-annotations"
    optional = {"boxes_csv": find(f"{stem}-bbox.csv"), "sizes": folder / "sizes.json"}
    return {
        "relations_csv": find(f"{stem}-vrd.csv"),
        "class_descriptions": find("class-descriptions.csv", "class-descriptions-boxable.csv"),
        **{key: path for key, path in optional.items() if path.is_file()},
    }


def _load_vrd(name: str, folder: Path, split: str, missing_images: str) -> Sequence[dict]:
    json_file = folder / f"annotations_{split}.json"
    require_file(name, json_file, RAW_REMEDY)
    if (folder / "objects.json").is_file() and stanford_vrd_vocabulary(folder) != VRD:
        raise ValueError(
            f"{folder}: objects.json and predicates.json have not the names of Stanford VRD: get "
            "them again, or load the files by load_stanford_vrd with a vocabulary of their own"
        )
    sizes = folder / "sizes.json"
    load = partial(load_stanford_vrd, sizes=sizes if sizes.is_file() else None)
    dicts = load(json_file, folder, missing_images=missing_images)
    training = folder / "annotations_train.json"
    if split == "test" and training.is_file():
        # Of the annotation as a whole, whether its images are there or not.
        parts = (
            load_stanford_vrd(path, folder, missing_images="keep").triplets()
            for path in (json_file, training)
        )
        MetadataCatalog.get(name).set(zero_shot_triplets=unseen_triplets(*parts))
    return dicts


def _load_psg(name: str, folder: Path, split: str, missing_images: str) -> Sequence[dict]:
    json_file = folder / "psg.json"
    require_file(name, json_file, RAW_REMEDY)
    return load_panoptic_scene_graph(
        json_file,
        _psg_images(folder),
        split=split,
        vocabulary=PSG,
        missing_images=missing_images,
    )


def _psg_images(folder: Path) -> Path:
    """COCO's folder: the dataset's own, or Detectron2's."""
    own = folder / "coco"
    return own if own.is_dir() else folder.parent / "coco"


def _load_oiv6(name: str, folder: Path, split: str, missing_images: str) -> Sequence[dict]:
    files = open_images_files(folder, split)
    for key in ("relations_csv", "class_descriptions"):
        require_file(name, files[key], RAW_REMEDY)
    vocabulary = _open_vocabulary(name, folder)
    return load_open_images(
        image_root=folder, vocabulary=vocabulary, missing_images=missing_images, **files
    )


def _load_gqa(name: str, folder: Path, split: str, missing_images: str) -> Sequence[dict]:
    json_file = folder / f"{split}_sceneGraphs.json"
    require_file(name, json_file, RAW_REMEDY)
    vocabulary = _open_vocabulary(name, folder)
    return load_gqa(json_file, folder, vocabulary=vocabulary, missing_images=missing_images)


def _open_vocabulary(name: str, folder: Path) -> Vocabulary:
    """The vocabulary that a folder's vocabulary.json chooses; it enters the metadata."""
    path = folder / "vocabulary.json"
    require_file(name, path, _VOCABULARY_REMEDY.format(folder.name))
    vocabulary = get_vocabulary(path)
    metadata = MetadataCatalog.get(name)
    for key, names in (
        ("thing_classes", vocabulary.objects),
        ("predicate_classes", vocabulary.predicates),
    ):
        if metadata.get(key, list(names)) != list(names):
            raise ValueError(
                f"{path} has changed since dataset {name!r} was read: register the datasets again"
            )
        metadata.set(**{key: list(names)})
    return vocabulary
