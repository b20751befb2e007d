"""Boxes of the user's own through mapper, models, training, evaluation and predictor."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_OBJECTS
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T

from vrd_d2.checkpoint.checkpointer import load_weights
from vrd_d2.data.dataset_mapper import RelationMapper, relation_example
from vrd_d2.data.formats.coco import Detections
from vrd_d2.engine.build import build_mapper, build_trained_model
from vrd_d2.engine.checks import check_training_data
from vrd_d2.engine.trainer import Trainer
from vrd_d2.inference.predictor import Predictor
from vrd_d2.modeling.relation_model import boxes_replace_detector

SGDET = "quickstart/relclip_sgdet.yaml"
FREQUENCY = "quickstart/frequency_predcls.yaml"


def results_of(record, score=1.0):
    """The annotated boxes of an image as COCO results; the file's category ids count from 1."""
    return [
        {
            "image_id": record["image_id"],
            "category_id": a["category_id"] + 1,
            "bbox": [a["bbox"][0], a["bbox"][1], a["bbox"][2] - a["bbox"][0],
                     a["bbox"][3] - a["bbox"][1]],
            "score": score,
        }
        for a in record["annotations"]
    ]  # fmt: skip


@pytest.fixture
def with_results(make_cfg, tmp_path):
    """(config name, rows of results or None for the annotated boxes, overrides...) -> config."""

    def make(name, rows=None, *overrides):
        cfg = make_cfg(name, *overrides)
        (dataset,) = cfg.DATASETS.TEST
        if rows is None:
            rows = [row for r in DatasetCatalog.get(dataset) for row in results_of(r)]
        path = tmp_path / "results.json"
        path.write_text(json.dumps(rows))
        return make_cfg(name, *overrides, "DATASETS.DETECTIONS", [[dataset, str(path)]])

    return make


def examples(cfg, is_train=False):
    (name,) = cfg.DATASETS.TEST
    mapper = build_mapper(cfg, [name], is_train=is_train)
    return [mapper(record) for record in DatasetCatalog.get(name)]


def test_boxes_follow_the_image():
    image = np.zeros((50, 100, 3), np.uint8)
    own = Detections(np.array([[10.0, 20, 30, 50], [0, 0, 100, 50]]), np.array([2, 0]), [0.5, 0.25])
    steps = [T.ResizeTransform(50, 100, 150, 200), T.HFlipTransform(200)]
    example = relation_example(
        image, [[10, 20, 30, 50]], [1], relations=[[0, 0, 1]], augmentations=steps, detections=own
    )
    found = example["detections"]
    assert found.image_size == (150, 200) == tuple(example["image"].shape[1:])
    assert found.pred_boxes.tensor.tolist() == [[140, 60, 180, 150], [0, 0, 200, 150]]
    assert found.pred_classes.tolist() == [2, 0] and found.scores.tolist() == [0.5, 0.25]
    # and those of the annotation are what they were
    assert example["instances"].gt_boxes.tensor.tolist() == [[140, 60, 180, 150]]
    assert example["instances"].gt_classes.tolist() == [1]
    without = relation_example(image, augmentations=steps)
    assert "detections" not in without


def test_no_box_at_all():
    own = Detections(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, np.float32))
    example = relation_example(np.zeros((9, 9, 3), np.uint8), detections=own)
    assert example["detections"].pred_boxes.tensor.shape == (0, 4)


@pytest.mark.parametrize("classes", ["detector", "head"])
def test_sgdet_takes_them_and_has_no_detector(with_results, make_cfg, classes):
    rows = [
        {"image_id": 1, "category_id": 3, "bbox": [10, 20, 30, 40], "score": 0.75},
        {"image_id": 1, "category_id": 1, "bbox": [20, 30, 60, 50], "score": 0.5},
    ]
    cfg = with_results(SGDET, rows, "MODEL.RELATION.ENTITY_CLASSES", classes)
    model = Trainer.build_model(cfg).eval()
    assert model.detector is None
    assert not [name for name in model.state_dict() if name.startswith("detector.")]
    with torch.no_grad():
        first, second, *_ = model(examples(cfg))
    boxes = first["instances"].pred_boxes.tensor
    np.testing.assert_allclose(boxes, [[10, 20, 40, 60], [20, 30, 80, 80]], atol=1e-3)
    if classes == "detector":
        assert first["instances"].pred_classes.tolist() == [2, 0]
        assert first["instances"].scores.tolist() == [0.75, 0.5]
    assert len(first["relations"]) == 2
    assert len(second["instances"]) == len(second["relations"]) == 0  # nothing was found there


def test_annotated_boxes_as_results_change_nothing_in_predcls(with_results, make_cfg):
    """Two ways to give the same boxes and classes, hence the same predictions."""
    torch.manual_seed(0)
    cfg = make_cfg("relclip_predcls.yaml")
    model = Trainer.build_model(cfg).eval()
    own = with_results("relclip_predcls.yaml")
    with torch.no_grad():
        given, detected = model(examples(cfg)), model(examples(own))
    for one, other in zip(given, detected, strict=True):
        torch.testing.assert_close(
            one["instances"].pred_boxes.tensor, other["instances"].pred_boxes.tensor
        )
        assert one["instances"].pred_classes.tolist() == other["instances"].pred_classes.tolist()
        assert one["relations"].pairs.tolist() == other["relations"].pairs.tolist()
        torch.testing.assert_close(
            one["relations"].predicate_probs, other["relations"].predicate_probs
        )


def test_sgcls_takes_boxes_but_not_their_classes(with_results):
    cfg = with_results("relclip_sgcls.yaml")
    model = Trainer.build_model(cfg)
    example = examples(cfg)[0]
    assert model.eval().entities(example).classes is None
    # In training the annotated boxes are what is learnt from.
    assert model.train().entities(example).gt_index.tolist() == [0, 1, 2]


def test_frequencies_of_own_boxes_are_evaluated_by_matching(with_results, make_cfg):
    """PredCls cannot take boxes by their order here, so they are matched as detections are."""
    reference = make_cfg(FREQUENCY, "MODEL.RELATION.REQUIRE_OVERLAP", False)
    expected = Trainer.test(reference, build_trained_model(reference))["relations"]
    cfg = with_results(FREQUENCY, None, "MODEL.RELATION.REQUIRE_OVERLAP", False)
    results = Trainer.test(cfg, build_trained_model(cfg))["relations"]
    assert results["R@50"] == pytest.approx(expected["R@50"]) and results["R@50"] > 50
    assert "A@50" in expected and "A@50" not in results  # there are no given pairs
    fewer = with_results(
        FREQUENCY,
        [row for row in json.loads(Path(cfg.DATASETS.DETECTIONS[0][1]).read_text())
         if row["category_id"] != 1],
        "MODEL.RELATION.REQUIRE_OVERLAP", False,
    )  # fmt: skip
    results = Trainer.test(fewer, build_trained_model(fewer))["relations"]
    assert results["R@50"] < expected["R@50"]


def test_frequencies_in_sgdet_need_no_detector(with_results):
    cfg = with_results(FREQUENCY, None, "MODEL.RELATION.TASK", "sgdet")
    model = build_trained_model(cfg)
    assert model.detector is None
    results = Trainer.test(cfg, model)
    assert results["relations"]["R@100"] > 30
    # All are found again. The hat without area, which nothing can match, does not count.
    assert results["bbox"]["AP50"] == pytest.approx(100)


def test_sgdet_learns_from_them(with_results):
    cfg = with_results(SGDET, None, "MODEL.RELATION.ADD_GT_BOXES", False)
    check_training_data_after_reading(cfg)
    torch.manual_seed(0)
    model = Trainer.build_model(cfg).train()
    batch = examples(cfg, is_train=True)
    entities = [model.entities(example) for example in batch]
    # Each box stands for the annotated one that it is; that without area matches none.
    assert [e.gt_index.tolist() for e in entities] == [
        [0, 1, 2], [0, 1, -1], [0, 1], [0], [0, 1, 2, 3],
    ]  # fmt: skip
    losses = model(batch)
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def check_training_data_after_reading(cfg):
    for name in cfg.DATASETS.TRAIN:
        DatasetCatalog.get(name)
    check_training_data(cfg)


def test_a_checkpoint_with_a_detector_serves_a_model_without(with_results, make_cfg, tmp_path):
    whole = Trainer.build_model(make_cfg(SGDET))
    path = tmp_path / "whole.pth"
    torch.save({"model": whole.state_dict()}, path)
    cfg = with_results(SGDET)
    model = Trainer.build_model(cfg)
    load_weights(model, str(path))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[name])
    # The other way round a part of the model would stay random.
    torch.save({"model": model.state_dict()}, path)
    with pytest.raises(ValueError, match=r"detector\..*not in the checkpoint"):
        load_weights(whole, str(path))


def test_the_detector_stays_where_a_test_set_has_no_row(with_results):
    cfg = with_results(SGDET)
    assert boxes_replace_detector(cfg)
    cfg.DATASETS.TEST = (*cfg.DATASETS.TEST, "scenes_test")
    assert not boxes_replace_detector(cfg)


def test_a_image_without_row_and_detector_is_named(with_results):
    cfg = with_results(SGDET)
    model = Trainer.build_model(cfg).eval()
    record = DatasetCatalog.get(cfg.DATASETS.TEST[0])[0]
    example = RelationMapper(cfg, is_train=False)(record)
    with pytest.raises(ValueError, match=r"0\.png: the model was built without a detector.*add a"):
        model([example])


@pytest.mark.parametrize("name", ["relclip_predcls.yaml", "relclip_sgcls.yaml"])
def test_given_boxes_are_not_learnt_from_results(with_results, name):
    with pytest.raises(ValueError, match=r"DATASETS\.DETECTIONS.*MODEL\.RELATION\.TASK"):
        check_training_data_after_reading(with_results(name))


def test_boxes_only_are_not_learnt_from(make_cfg, tiny_json, tmp_path):
    document = json.loads(tiny_json.read_text())
    del document["predicates"], document["relations"]
    path, name = tmp_path / "boxes.json", f"boxes_{tmp_path.name}"
    path.write_text(json.dumps(document))
    rows = [[name, str(path), str(tiny_json.parent)]]
    cfg = make_cfg("relclip_predcls.yaml", "DATASETS.REGISTER", rows, "DATASETS.TRAIN", (name,))
    with pytest.raises(ValueError, match="has boxes only, and no relations to learn from: train"):
        check_training_data_after_reading(cfg)
    cfg.DATASETS.DISTANT = (name,)  # a knowledge base labels them
    check_training_data_after_reading(cfg)


def test_boxes_only_are_predicted_on(make_cfg, tiny_json, tmp_path):
    document = json.loads(tiny_json.read_text())
    del document["predicates"], document["relations"]
    path, name = tmp_path / "boxes.json", f"boxes_{tmp_path.name}"
    path.write_text(json.dumps(document))
    counted = make_cfg(FREQUENCY)
    rows = [*counted.DATASETS.REGISTER, [name, str(path), str(tiny_json.parent)]]
    overrides = "TEST.RELATION.WRITE_PREDICTIONS", True, "DATASETS.TEST", (name,)
    cfg = make_cfg(FREQUENCY, "DATASETS.REGISTER", rows, *overrides)
    assert Trainer.test(cfg, build_trained_model(cfg)) == {}
    assert (Path(cfg.OUTPUT_DIR) / "inference" / name / "predictions.jsonl.gz").is_file()


@pytest.fixture
def predictor(make_cfg, tmp_path):
    def build(name, *overrides):
        cfg = make_cfg(name, *overrides)
        torch.manual_seed(0)
        weights, config = tmp_path / "model.pth", tmp_path / "config.yaml"
        torch.save({"model": Trainer.build_model(cfg).state_dict()}, weights)
        config.write_text(cfg.dump())
        return Predictor(config, weights), DatasetCatalog.get(cfg.DATASETS.TRAIN[0])[0]

    return build


def test_predictor_takes_boxes_in_place_of_detections(predictor):
    model, record = predictor(SGDET)  # ENTITY_CLASSES detector
    boxes = [[5, 5, 60, 80], [6, 6, 60, 80], [20, 0, 40, 20]]
    graph = model(record["file_name"], boxes=boxes, labels=["man", "dog", "hat"])
    np.testing.assert_allclose(graph.boxes, boxes, atol=1e-3)  # none is suppressed
    assert list(graph.labels) == ["man", "dog", "hat"] and graph.relations
    assert model(record["file_name"]).boxes.shape[1] == 4  # detections, as ever
    with pytest.raises(ValueError, match="sgdet: give either no boxes, or boxes and labels"):
        model(record["file_name"], boxes=boxes)
    with pytest.raises(ValueError, match="give either no boxes"):
        model(record["file_name"], labels=["man"])


def test_predictor_names_the_objects_itself_where_the_head_does(predictor):
    model, record = predictor(SGDET, "MODEL.RELATION.ENTITY_CLASSES", "head")
    boxes = [[5, 5, 60, 80], [20, 0, 40, 20]]
    graph = model(record["file_name"], boxes=boxes)
    np.testing.assert_allclose(graph.boxes, boxes, atol=1e-3)
    assert set(graph.labels) <= set(TINY_OBJECTS)
    with pytest.raises(ValueError, match="boxes and no labels"):
        model(record["file_name"], boxes=boxes, labels=["man", "hat"])
