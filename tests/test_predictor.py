"""Single pictures through a predictor, with the model's own and with given boxes."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog

from vrd_d2.engine import Trainer
from vrd_d2.predictor import Predictor
from vrd_d2.visualization import draw_scene_graph


@pytest.fixture
def make(make_cfg, tmp_path):
    def build(name):
        cfg = make_cfg(name)
        torch.manual_seed(0)
        weights = tmp_path / "model.pth"
        torch.save({"model": Trainer.build_model(cfg).state_dict()}, weights)
        config = tmp_path / "config.yaml"
        config.write_text(cfg.dump())
        return Predictor(config, weights), DatasetCatalog.get(cfg.DATASETS.TRAIN[0])[0]

    return build


def test_given_boxes_and_labels(make):
    predictor, record = make("relclip_predcls.yaml")
    boxes = [a["bbox"] for a in record["annotations"]]
    graph = predictor(record["file_name"], boxes=boxes, labels=["man", "dog", "hat"], top_k=4)
    np.testing.assert_allclose(graph.boxes, boxes, atol=1e-3)
    assert list(graph.labels) == ["man", "dog", "hat"] and len(graph.relations) == 4
    assert sorted(graph.scores, reverse=True) == graph.scores
    assert {predicate for _, _, predicate in graph.relations} <= set(
        predictor.model.vocabulary.predicates
    )


def test_path_and_rgb_array_agree(make):
    predictor, record = make("quickstart/relclip_sgdet.yaml")
    from PIL import Image

    array = np.asarray(Image.open(record["file_name"]).convert("RGB"))
    first, second = predictor(record["file_name"]), predictor(array)
    np.testing.assert_array_equal(first.boxes, second.boxes)
    assert first.relations == second.relations
    drawn = draw_scene_graph(array, first.boxes, first.labels, first.relations)
    assert drawn.dtype == np.uint8


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "task is predcls: give boxes and labels"),
        ({"boxes": [[0, 0, 9, 9]]}, "give boxes and labels"),
        ({"boxes": [[0, 0, 9, 9]], "labels": ["mna"]}, "mna"),
        ({"boxes": [[0, 0, 9, 9]], "labels": ["man", "dog"]}, "classes of shape"),
    ],
)
def test_what_the_task_needs(make, arguments, message):
    predictor, record = make("relclip_predcls.yaml")
    with pytest.raises(ValueError, match=message):
        predictor(record["file_name"], **arguments)


def test_unreadable_picture_is_named(make, tmp_path):
    predictor, _ = make("quickstart/relclip_sgdet.yaml")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    for path in (broken, tmp_path / "none.png"):
        with pytest.raises(ValueError, match=path.name):
            predictor(path)
