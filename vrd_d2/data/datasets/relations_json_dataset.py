"""Specs of datasets that are relations_json files: the drawn scenes, Visual Genome, users'."""

from pathlib import Path

from vrd_d2.data.datasets.spec import DatasetSpec, Loaded, Select, SplitFiles
from vrd_d2.data.formats.relations_json import read_packed
from vrd_d2.data.vocabulary import SCENES, VG20, VG150

_SPLITS = ("train", "val", "test")
_SCENES_REMEDY = "draw it with `python datasets/prepare_scenes.py`"
_VG_REMEDY = (
    "`python datasets/prepare_vg.py` writes it from the raw files; datasets/README.md says where "
    "to get those and where they go"
)


def load_relations_json_split(files: SplitFiles, split: str, select: Select) -> Loaded:
    """Load the file "relations_json" with the names in it."""
    return Loaded(*read_packed(files.paths["relations_json"], files.image_root))


def user_spec(
    name: str, json_file: str, image_root: str, *, zero_shot: Path | None = None
) -> DatasetSpec:
    """Return the spec of a file of the user's, wherever it is."""
    # As texts: the metadata has the file as the user names it.
    files = SplitFiles({"relations_json": json_file}, image_root, "", zero_shot=zero_shot)
    return DatasetSpec(
        name, ("",), lambda root, split: files, None, load_relations_json_split, remembered=True
    )


def _scenes_files(root: Path, split: str) -> SplitFiles:
    folder = root / "scenes"
    path = folder / f"{split}.json"
    return SplitFiles(
        {"relations_json": path}, folder, _SCENES_REMEDY, zero_shot=folder / "zero_shot.json"
    )


def _vg150_files(root: Path, split: str) -> SplitFiles:
    return _genome_files(root, "vg150", split)


def _vg20_files(root: Path, split: str) -> SplitFiles:
    return _genome_files(root, "vg20", split)


def _genome_files(root: Path, name: str, split: str) -> SplitFiles:
    folder = root / "visual_genome"
    return SplitFiles(
        {"relations_json": folder / f"{name}_{split}.json"},
        folder / "images",
        _VG_REMEDY,
        zero_shot=folder / f"{name}_zero_shot.json",
    )


SPECS = tuple(
    DatasetSpec(name, _SPLITS, files, vocabulary, load_relations_json_split, remembered=True)
    for name, files, vocabulary in (
        ("scenes", _scenes_files, SCENES),
        ("vg150", _vg150_files, VG150),
        ("vg20", _vg20_files, VG20),
    )
)
