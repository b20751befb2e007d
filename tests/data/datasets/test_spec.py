"""A new dataset by its spec alone; and what setting up the datasets of a config does."""

import json

import numpy as np
import pytest
from conftest import TINY_OBJECTS, TINY_PREDICATES, tiny_images
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import BoxMode

from vrd_d2.config.loading import load_config
from vrd_d2.data.build import RecordsDataset
from vrd_d2.data.datasets import builtin
from vrd_d2.data.datasets.registrar import exclude_images, register_dataset
from vrd_d2.data.datasets.setup import register_builtin_datasets, setup_datasets
from vrd_d2.data.datasets.spec import DatasetSpec, SplitFiles
from vrd_d2.data.formats.relations_json import load_relations_json
from vrd_d2.data.records.packed import PackedRecords
from vrd_d2.data.vocabulary import Vocabulary
from vrd_d2.engine.trainer import Trainer

NAMES = Vocabulary(TINY_OBJECTS, TINY_PREDICATES)


class Module:
    """What the module of a new dataset has: files, load, triplets, and a spec of them."""

    def __init__(self, name: str, remembered: bool):
        self.reads = 0
        self.spec = DatasetSpec(
            name, ("train", "test"), self.files, NAMES, self.load, self.triplets, remembered
        )

    def files(self, root, split):
        return SplitFiles({"boxes": root / f"{split}.json"}, root, "write it")

    def load(self, files, split, select):
        self.reads += 1
        for record in json.loads(files.paths["boxes"].read_text()):
            annotations = [{**a, "bbox_mode": BoxMode(0)} for a in record["annotations"]]
            yield {**record, "annotations": annotations}

    def triplets(self, files, split):
        return PackedRecords.pack(self.load(files, split, None)).triplets()


@pytest.fixture(params=[False, True], ids=["read again", "remembered"])
def module(request, tmp_path):
    images = tiny_images(tmp_path)
    plain = [{**r, "relations": r["relations"].tolist()} for r in images]
    (tmp_path / "train.json").write_text(json.dumps(plain[1:2]))
    (tmp_path / "test.json").write_text(json.dumps(plain))
    made = Module(f"tiny_spec_{tmp_path.name.replace('-', '_')}", request.param)
    register_dataset(made.spec, tmp_path)
    yield made
    exclude_images("", [])
    for split in made.spec.splits:
        DatasetCatalog.remove(made.spec.dataset_name(split))
        MetadataCatalog.remove(made.spec.dataset_name(split))


def test_a_new_dataset_costs_one_spec(module, tmp_path, make_cfg):
    test, train = (f"{module.spec.name}_{split}" for split in ("test", "train"))
    metadata = MetadataCatalog.get(test)
    assert metadata.thing_classes == list(TINY_OBJECTS) and module.reads == 0
    assert metadata.image_root == str(tmp_path) and metadata.get("zero_shot_triplets") is None
    records = DatasetCatalog.get(test)
    assert isinstance(records, RecordsDataset) and len(records) == 5
    assert records[1]["relations"].tolist() == [[1, 0, 3], [2, 1, 0], [1, 1, 0]]
    # (subject class, object class, predicate) of images 1 and 5 that image 2 does not have.
    assert set(metadata.zero_shot_triplets) == {(0, 1, 1), (0, 1, 3), (0, 2, 2), (0, 1, 0)}
    before = module.reads
    DatasetCatalog.get(test)
    assert module.reads == before + (not module.spec.remembered)
    cfg = make_cfg("relclip_predcls.yaml", "DATASETS.TRAIN", (train,), "DATASETS.TEST", (test,))
    batch = next(iter(Trainer.build_train_loader(cfg)))
    assert {example["image_id"] for example in batch} == {2}
    assert len(list(Trainer.build_test_loader(cfg, test))) == 5


def test_files_that_change_are_read_again(module, tmp_path):
    test = f"{module.spec.name}_test"
    assert len(DatasetCatalog.get(test)) == 5
    (tmp_path / "test.json").write_text("[]")
    assert len(DatasetCatalog.get(test)) == 0
    (tmp_path / "test.json").unlink()
    with pytest.raises(ValueError, match=rf"'{test}' needs .*test\.json.*write it"):
        DatasetCatalog.get(test)


def test_missing_and_excluded_images_are_the_registrars(module, tmp_path):
    test, train = (f"{module.spec.name}_{split}" for split in ("test", "train"))
    (tmp_path / "0.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 5 .*0\.png"):
        DatasetCatalog.get(test)
    (tmp_path / "bad.txt").write_text("0.png\n4.png\n")
    exclude_images(tmp_path / "bad.txt", [train, test])
    assert [record["image_id"] for record in DatasetCatalog.get(test)] == [2, 3, 4]
    (tmp_path / "bad.txt").write_text("0.png\n9.png\n")
    exclude_images(tmp_path / "bad.txt", [train, test])
    with pytest.raises(ValueError, match=r"bad\.txt: 1 of 2 .*9\.png"):
        DatasetCatalog.get(train)
    exclude_images("", [])
    register_dataset(module.spec, tmp_path, missing_images="skip")
    assert len(DatasetCatalog.get(test)) == 4


def test_every_built_in_dataset_is_in_the_table():
    names = list(builtin.builtin_names())
    assert len(names) == len(set(names)) == 26
    for name, (spec, split) in builtin.builtin_names().items():
        assert spec.dataset_name(split) == name and name in DatasetCatalog


def test_load_config_registers_nothing(tiny_json, repository, tmp_path):
    config, name = repository / "configs/relclip_predcls.yaml", f"mine_{tmp_path.name}"
    (tmp_path / "bad.txt").write_text("0.png\n")
    before = dict(DatasetCatalog)
    rows = [[name, str(tiny_json), str(tiny_json.parent)]]
    overrides = [
        "DATASETS.REGISTER",
        rows,
        "DATASETS.MISSING_IMAGES",
        "skip",
        "MODEL.DEVICE",
        "cpu",
    ]
    overrides += ["DATASETS.TEST", (name,), "DATASETS.EXCLUDE", str(tmp_path / "bad.txt")]
    cfg = load_config(config, overrides)
    assert dict(DatasetCatalog) == before
    setup_datasets(cfg)
    assert len(DatasetCatalog.get(name)) == 4
    loader = DatasetCatalog[name]
    setup_datasets(cfg)
    assert DatasetCatalog[name] is loader  # nothing is done twice
    cfg.DATASETS.EXCLUDE = ""
    assert len(Trainer.build_evaluator(cfg, name)._evaluators[0]._key_of) == 5


def test_setting_up_keeps_the_folder_of_the_built_in_datasets(make_cfg, tmp_path):
    register_builtin_datasets(tmp_path)
    try:
        make_cfg("relclip_predcls.yaml", "DATASETS.MISSING_IMAGES", "skip")
        assert MetadataCatalog.get("scenes_val").json_file == str(tmp_path / "scenes/val.json")
    finally:
        register_builtin_datasets()
    assert MetadataCatalog.get("scenes_val").json_file != str(tmp_path / "scenes/val.json")


def test_detectron2_takes_dicts_whose_box_mode_is_a_number(tiny_json, tmp_path):
    dicts = load_relations_json(tiny_json)
    plain = [{**r, "annotations": [{**a, "bbox_mode": 0} for a in r["annotations"]]} for r in dicts]
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN = (96,)
    mapped = DatasetMapper(cfg, is_train=True, augmentations=[])(plain[0])
    boxes = [annotation["bbox"] for annotation in plain[0]["annotations"]]
    np.testing.assert_allclose(mapped["instances"].gt_boxes.tensor.numpy(), boxes)
    name = f"plain_{tmp_path.name}"
    DatasetCatalog.register(name, lambda: plain)
    MetadataCatalog.get(name).set(thing_classes=list(TINY_OBJECTS))
    evaluator = COCOEvaluator(name, output_dir=str(tmp_path))
    x, y, width, height = evaluator._coco_api.anns[1]["bbox"]
    np.testing.assert_allclose([x, y, x + width, y + height], boxes[0])
    DatasetCatalog.remove(name)
