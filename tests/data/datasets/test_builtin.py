"""Registration of the built-in datasets and of those that a config names."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from relations_document import DOCUMENT, write

from vrd_d2.data.datasets.loading import load_zero_shot
from vrd_d2.data.datasets.setup import (
    register_builtin_datasets,
    register_user_datasets,
    setup_datasets,
)
from vrd_d2.data.formats.relations_json import save_relations_json
from vrd_d2.data.vocabulary import SCENES, VG150, Vocabulary

KINDS = ("scenes", "vg150", "vg20", "vg_sgg", "vg20_sgg")
NAMES = [f"{kind}_{split}" for kind in KINDS for split in ("train", "val", "test")]


@pytest.fixture
def root(tmp_path):
    """Built-in datasets below a folder of the test's own."""
    register_builtin_datasets(tmp_path)
    yield tmp_path
    register_builtin_datasets()


def save_one(json_file, image_root, vocabulary: Vocabulary) -> None:
    image_root.mkdir(parents=True, exist_ok=True)
    (image_root / "1.jpg").touch()
    annotations = [
        {"bbox": [0, 0, 9, 9], "bbox_mode": BoxMode.XYXY_ABS, "category_id": i} for i in (0, 1)
    ]
    record = {
        "file_name": str(image_root / "1.jpg"),
        "image_id": 1,
        "height": 10,
        "width": 10,
        "annotations": annotations,
        "relations": np.array([[0, 1, 2]]),
    }
    save_relations_json([record], vocabulary, json_file, image_root=image_root)


@pytest.mark.parametrize(
    "first_use",
    [
        "from vrd_d2 import Predictor",
        "from detectron2.config import get_cfg; import vrd_d2; vrd_d2.add_vrd_config(get_cfg())",
        "from vrd_d2.config.defaults import add_vrd_config as a; from detectron2.config import *;"
        " a(get_cfg())",
    ],
)
def test_the_first_use_registers_below_the_variable_and_reads_nothing(repository, first_use):
    script = (
        f"{first_use}\n"
        "from detectron2.data import DatasetCatalog, MetadataCatalog\n"
        f"assert set({NAMES} + ['visual_genome_raw']) <= set(DatasetCatalog.list())\n"
        "assert MetadataCatalog.get('scenes_val').json_file == '/nowhere/scenes/val.json'\n"
        "assert MetadataCatalog.get('scenes_val').image_root == '/nowhere/scenes'\n"
        "assert MetadataCatalog.get('vg150_test').json_file == "
        "'/nowhere/visual_genome/vg150_test.json'\n"
    )
    environment = {**os.environ, "DETECTRON2_DATASETS": "/nowhere"}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=repository, env=environment)


def test_metadata_is_known_before_the_files_are(root):
    assert MetadataCatalog.get("scenes_train").thing_classes == list(SCENES.objects)
    assert MetadataCatalog.get("vg150_train").predicate_classes == list(VG150.predicates)
    assert MetadataCatalog.get("visual_genome_raw").thing_classes == list(VG150.objects)
    assert MetadataCatalog.get("visual_genome_raw").evaluator_type == "relation"


@pytest.mark.parametrize("name", [*NAMES, "visual_genome_raw"])
def test_data_that_are_not_there_say_where_they_come_from(root, name):
    remedy = "prepare_scenes.py" if name.startswith("scenes") else "datasets/README.md says where"
    with pytest.raises(ValueError, match=f"dataset '{name}' needs {root}.*{remedy}"):
        DatasetCatalog.get(name)


def test_load_with_zero_shot_triplets(root):
    save_one(root / "scenes/test.json", root / "scenes", SCENES)
    triplet = [SCENES.objects[3], SCENES.predicates[1], SCENES.objects[5]]
    (root / "scenes/zero_shot.json").write_text(json.dumps([triplet]))
    (record,) = DatasetCatalog.get("scenes_test")
    assert record["relations"].tolist() == [[0, 1, 2]]
    assert record["file_name"] == str(root / "scenes/1.jpg")
    assert MetadataCatalog.get("scenes_test").zero_shot_triplets == [(3, 5, 1)]
    assert DatasetCatalog.get("scenes_test")  # a second time


def test_metadata_that_a_user_adds_stays_while_the_data_do(root):
    save_one(root / "scenes/test.json", root / "scenes", SCENES)
    (root / "scenes/zero_shot.json").write_text("[]")
    for name in ("scenes_test", "vg_sgg_test"):
        MetadataCatalog.get(name).set(zero_shot_triplets=[(1, 2, 3)], note="mine")
    register_builtin_datasets(root, missing_images="skip")
    assert len(DatasetCatalog.get("scenes_test")) == 1
    for name in ("scenes_test", "vg_sgg_test"):
        assert MetadataCatalog.get(name).zero_shot_triplets == [(1, 2, 3)]
        assert MetadataCatalog.get(name).note == "mine"
    register_builtin_datasets(root / "elsewhere")
    assert MetadataCatalog.get("scenes_test").get("note") is None


def test_without_a_zero_shot_file_there_is_no_list(root):
    save_one(root / "visual_genome/vg150_val.json", root / "visual_genome/images", VG150)
    assert len(DatasetCatalog.get("vg150_val")) == 1
    assert MetadataCatalog.get("vg150_val").get("zero_shot_triplets") is None


def test_a_file_with_another_vocabulary_is_refused(root):
    save_one(root / "scenes/val.json", root / "scenes", VG150)
    with pytest.raises(ValueError, match=r"val\.json has 150 thing_classes .* 22 "):
        DatasetCatalog.get("scenes_val")


def test_missing_images_of_built_in_data_can_be_skipped(root):
    save_one(root / "scenes/val.json", root / "scenes", SCENES)
    (root / "scenes/1.jpg").unlink()
    with pytest.raises(ValueError, match="1 of 1 images are missing"):
        DatasetCatalog.get("scenes_val")
    register_builtin_datasets(root, missing_images="skip")
    assert len(DatasetCatalog.get("scenes_val")) == 0
    with pytest.raises(ValueError, match="missing_images is 'drop'"):
        register_builtin_datasets(root, missing_images="drop")


@pytest.mark.parametrize("with_aliases", [False, True])
def test_raw_visual_genome_takes_the_aliases_beside_it(samples, root, with_aliases):
    folder = root / "visual_genome"
    folder.mkdir()
    for name in ("image_data.json", "objects.json", "relationships.json", "images"):
        (folder / name).symlink_to(samples / "visual_genome" / name)
    if with_aliases:
        for kind in ("object", "predicate"):
            (folder / f"{kind}_alias.txt").symlink_to(samples / f"vg150/{kind}_alias.txt")
    register_builtin_datasets(root, missing_images="skip")
    dicts = DatasetCatalog.get("visual_genome_raw")
    relations = [len(record["relations"]) for record in dicts]
    assert relations == ([29, 7, 3, 4] if with_aliases else [12, 5, 2, 1])


def test_zero_shot_names_are_checked(samples, tmp_path):
    triplets = load_zero_shot(samples / "vg150/zeroshot50_names.json", VG150)
    rows = json.loads((samples / "vg150/zeroshot50_names.json").read_text())
    assert len(triplets) == len(rows)
    subject, obj, predicate = triplets[-1]
    assert rows[-1] == [
        VG150.objects[subject],
        VG150.predicates[predicate],
        VG150.objects[obj],
    ]
    path = tmp_path / "zero_shot.json"
    for content in ('[["man", "onn", "hat"]]', '[["man", "hat"]]', "[3]", "[["):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"zero_shot\.json"):
            load_zero_shot(path, VG150)


def test_datasets_of_a_config(tmp_path):
    path = write(tmp_path, DOCUMENT)
    first, second = f"first_{tmp_path.name}", f"second_{tmp_path.name}"
    for _ in range(2):  # the same config may be loaded again
        register_user_datasets([[first, str(path), str(tmp_path)], (second, str(path), "")])
    assert len(DatasetCatalog.get(first)) == len(DatasetCatalog.get(second)) == 2
    (tmp_path / "a.jpg").unlink()
    register_user_datasets([[first, str(path), str(tmp_path)]], missing_images="skip")
    assert len(DatasetCatalog.get(first)) == 1


@pytest.mark.parametrize("entry", ["name", ["name", "file.json"], ["name", "file.json", 3]])
def test_bad_rows_of_a_config_are_named(entry):
    with pytest.raises(ValueError, match=r"DATASETS\.REGISTER\[0\] is .*it must be"):
        register_user_datasets([entry])


def test_a_config_cannot_take_the_name_of_another_dataset(tmp_path):
    with pytest.raises(ValueError, match="'scenes_train' is taken by"):
        register_user_datasets([["scenes_train", str(tmp_path / "data.json"), ""]])


def test_a_users_own_dataset_of_a_built_in_name_stays(make_cfg):
    cfg = make_cfg("relclip_predcls.yaml")
    cfg.DATASETS.MISSING_IMAGES = "skip"  # other settings than those before
    DatasetCatalog.remove("psg_train")
    DatasetCatalog.register("psg_train", list)
    try:
        setup_datasets(cfg)
        assert DatasetCatalog.get("psg_train") == []
    finally:
        register_builtin_datasets()
    assert DatasetCatalog["psg_train"] is not list


def test_another_registration_does_not_undo_the_settings_of_a_config(make_cfg, root):
    cfg = make_cfg("relclip_predcls.yaml")
    cfg.DATASETS.MISSING_IMAGES = "skip"
    setup_datasets(cfg)
    try:
        register_builtin_datasets(root, missing_images="keep")
        setup_datasets(cfg)
        assert DatasetCatalog["scenes_val"]._missing_images == "skip"
    finally:
        register_builtin_datasets()
