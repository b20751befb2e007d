"""What of a dataset does not suit a model is reported before the training."""

import numpy as np
import pytest
from conftest import TINY_OBJECTS, TINY_PREDICATES
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode
from PIL import Image

from vrd_d2.data.formats.relations_json import save_relations_json
from vrd_d2.data.knowledge.knowledge_base import KnowledgeBase
from vrd_d2.data.vocabulary import Vocabulary
from vrd_d2.engine.checks import check_training_data
from vrd_d2.engine.trainer import Trainer


@pytest.mark.parametrize(
    ("apart", "message"), [(3, "nothing is left to learn from"), (2, "False"), (1, None)]
)
def test_relations_that_overlap_leaves_out_are_reported(
    make_cfg, tmp_path, caplog, monkeypatch, apart, message
):
    """Of three relations so many are between boxes that do not overlap."""
    Image.fromarray(np.zeros((80, 80, 3), np.uint8)).save(tmp_path / "a.png")
    record = {"file_name": str(tmp_path / "a.png"), "image_id": 1, "height": 80, "width": 80}
    boxes = [[0, 0, 20, 20], [10, 10, 30, 30], [20, 0, 40, 10]]  # the third only touches the first
    record["annotations"] = [
        {"id": i, "bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": i}
        for i, box in enumerate(boxes)
    ]
    rows = [(0, 2, p) if p < apart else (0, 1, p) for p in range(3)]
    record["relations"] = np.array(rows)
    file, name = tmp_path / "mine.json", f"apart_{apart}"
    save_relations_json([record], Vocabulary(TINY_OBJECTS, TINY_PREDICATES), file)
    changes = ["DATASETS.REGISTER", [[name, str(file), ""]], "DATASETS.TRAIN", (name,)]
    cfg = make_cfg("relclip_predcls.yaml", "MODEL.VOCABULARY", str(file), *changes)
    DatasetCatalog.get(name)
    if apart == 3:
        monkeypatch.setattr("vrd_d2.engine.checks._LOOKED_AT", 0)  # the rest may overlap
        check_training_data(cfg)
        monkeypatch.undo()
        with pytest.raises(ValueError, match=f"3 of 3 relations .*REQUIRE_OVERLAP.*{message}"):
            check_training_data(cfg)
        cfg.MODEL.RELATION.REQUIRE_OVERLAP = False
    check_training_data(cfg)
    logged = [r.getMessage() for r in caplog.records if "REQUIRE_OVERLAP" in r.getMessage()]
    assert (message in logged[0]) if apart == 2 else not logged


def training_config(make_cfg, tmp_path, name, images, *changes):
    """Config of a training set: images are lists of (boxes' classes, relations)."""
    Image.fromarray(np.zeros((80, 80, 3), np.uint8)).save(tmp_path / "a.png")
    records = [
        {
            "file_name": str(tmp_path / "a.png"), "image_id": number, "height": 80, "width": 80,
            "annotations": [
                {"bbox": [5 * i, 5, 5 * i + 30, 60], "bbox_mode": BoxMode.XYXY_ABS,
                 "category_id": category}
                for i, category in enumerate(classes)
            ],
            "relations": np.array(rows, np.int64).reshape(-1, 3),
        }
        for number, (classes, rows) in enumerate(images)
    ]  # fmt: skip
    vocabulary, file = Vocabulary(TINY_OBJECTS, TINY_PREDICATES), tmp_path / f"{name}.json"
    save_relations_json(records, vocabulary, file)
    KnowledgeBase(vocabulary, [[0, 1, 1], [1, 2, 2]], [5, 1]).save(tmp_path / "base.npz")
    changes = ["DATASETS.REGISTER", [[name, str(file), ""]], "DATASETS.TRAIN", (name,), *changes]
    cfg = make_cfg("relclip_predcls.yaml", "MODEL.VOCABULARY", str(file), *changes)
    DatasetCatalog.get(name)
    return cfg


@pytest.mark.parametrize(
    "images",
    [
        [([0, 1, 2], []), ([0, 1], [])],  # a join that failed
        [([0], []), ([1], []), ([2], [])],  # one box an image
        [([0], [(0, 0, 1)]), ([1, 2], [(1, 1, 0)])],  # boxes related to themselves alone
    ],
)
@pytest.mark.parametrize("foreign", [False, True])
def test_a_dataset_without_relations_is_refused(make_cfg, tmp_path, images, foreign):
    name = f"nothing_{tmp_path.name}"
    cfg = training_config(make_cfg, tmp_path, name, images)
    if foreign:  # dataset dicts of the user's own loader
        records = [dict(record) for record in DatasetCatalog.get(name)]
        DatasetCatalog.remove(name)
        DatasetCatalog.register(name, lambda: records)
    with pytest.raises(ValueError, match=rf"{name}.*DATASETS\.TRAIN.*nothing to learn") as error:
        check_training_data(cfg)
    assert f"{len(images)} images" in str(error.value)
    DatasetCatalog.remove(name)


def test_one_relation_is_something_to_learn(make_cfg, tmp_path):
    name = f"something_{tmp_path.name}"
    images = [([0], []), ([0, 1], []), ([1, 2], [(0, 1, 1)])]
    check_training_data(training_config(make_cfg, tmp_path, name, images))


@pytest.mark.parametrize(
    ("classes", "min_count", "fine"),
    [
        ([[0], [1], [2]], 1, False),  # no pair
        ([[0, 0], [2, 2]], 1, False),  # none that the base holds
        ([[2], [2, 1]], 1, True),
        ([[2], [2, 1]], 2, False),  # too rare
        ([[2], [1, 0]], 2, True),
    ],
)
def test_distant_supervision_without_candidates_is_refused(
    make_cfg, tmp_path, classes, min_count, fine
):
    name = f"distant_{tmp_path.name}"
    changes = (
        "MODEL.DISTANT.KNOWLEDGE_BASE", str(tmp_path / "base.npz"), "DATASETS.DISTANT", (name,),
        "MODEL.DISTANT.MIN_COUNT", min_count,
    )  # fmt: skip
    images = [(of_image, []) for of_image in classes]
    cfg = training_config(make_cfg, tmp_path, name, images, *changes)
    if fine:
        check_training_data(cfg)
        return
    with pytest.raises(ValueError, match=rf"{name}.*KNOWLEDGE_BASE.*nothing to learn"):
        check_training_data(cfg)


@pytest.mark.parametrize("name", ["mistyped_test", "no/such/file.json"])
def test_a_test_set_that_is_missing_ends_no_training_at_its_end(make_cfg, name):
    cfg = make_cfg("relclip_predcls.yaml", "DATASETS.TEST", (name,))
    with pytest.raises(ValueError, match=name):
        Trainer(cfg)


def test_no_training_set(make_cfg):
    cfg = make_cfg("relclip_predcls.yaml", "DATASETS.TRAIN", ())
    with pytest.raises(ValueError, match=r"DATASETS\.TRAIN is empty"):
        Trainer(cfg)
