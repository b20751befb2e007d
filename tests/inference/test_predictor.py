"""Images through a predictor, alone and in lists, with found and with given boxes."""

import io
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image

from vrd_d2.checkpoint.checkpointer import SafeCheckpointer
from vrd_d2.checkpoint.stamp import Stamp
from vrd_d2.engine.trainer import Trainer
from vrd_d2.inference.predictor import Predictor
from vrd_d2.modeling.encoders.clip import load_clip
from vrd_d2.visualization.scene_graph_image import draw_scene_graph


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


def test_boxes_may_reach_outside_and_be_lines(make):
    predictor, record = make("relclip_predcls.yaml")
    boxes = [[-20, 10, 50, 120], [30, 30, 30, 60], [100, 0, 100, 100]]
    graph = predictor(record["file_name"], boxes=boxes, labels=["man", "dog", "hat"])
    np.testing.assert_allclose(graph.boxes, boxes, atol=1e-3)
    assert np.isfinite(graph.scores).all()


def test_any_object_with_a_path_is_one(make):
    """As an exported model takes it."""
    predictor, record = make("quickstart/relclip_sgdet.yaml")
    with os.scandir(Path(record["file_name"]).parent) as entries:
        (entry,) = [e for e in entries if e.path == record["file_name"]]
    assert predictor(entry).to_dict() == predictor(record["file_name"]).to_dict()


def test_path_and_rgb_array_agree(make):
    predictor, record = make("quickstart/relclip_sgdet.yaml")
    array = np.asarray(Image.open(record["file_name"]).convert("RGB"))
    first, second = predictor(record["file_name"]), predictor(array)
    np.testing.assert_array_equal(first.boxes, second.boxes)
    assert first.relations == second.relations
    drawn = draw_scene_graph(array, first.boxes, first.labels, first.relations)
    assert drawn.dtype == np.uint8
    third = predictor(Image.open(record["file_name"]))
    np.testing.assert_array_equal(third.boxes, first.boxes)
    for graph in (second, third):
        assert graph.file_name is None
        np.testing.assert_array_equal(graph.draw(), first.draw())
        assert graph._repr_html_() is not None
    assert second.image is array


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "NoneType"),
        (torch.zeros(3, 5, 5), "Tensor"),
        (np.zeros((5, 5, 3)), r"float64 \(5, 5, 3\)"),
        (np.zeros((5, 5), np.uint8), r"uint8 \(5, 5\)"),
        (np.zeros((5, 5, 4), np.uint8), r"uint8 \(5, 5, 4\)"),
        (np.zeros((0, 0, 3), np.uint8), r"\(0, 0, 3\)"),
    ],
)
def test_what_is_no_image_is_refused(make, image, message):
    predictor, _ = make("quickstart/relclip_sgdet.yaml")
    for call in (predictor, predictor.explain, lambda image: predictor([image])):
        with pytest.raises(ValueError, match=message):
            call(image)


def test_a_broken_image_of_pillow_is_named(make, tmp_path):
    """It is decoded when it is used, and not when it is opened."""
    predictor, _ = make("quickstart/relclip_sgdet.yaml")
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    for kind in ("jpeg", "png", "gif", "tiff"):
        file = io.BytesIO()
        Image.fromarray(noise).save(file, kind)
        path = tmp_path / f"cut.{kind}"
        path.write_bytes(file.getvalue()[: len(file.getvalue()) * 2 // 3])
        try:
            image = Image.open(path)
        except OSError:  # its head is at the end
            continue
        with pytest.raises(ValueError, match=rf"cut\.{kind}.*get it again"):
            predictor(image)
    with pytest.raises(ValueError, match="of Pillow"):
        predictor(Image.open(io.BytesIO((tmp_path / "cut.png").read_bytes())))


def test_options_of_other_types_are_refused(make):
    """With the name of the option, not in the words of numpy."""
    predictor, record = make("relclip_predcls.yaml")
    boxes = [annotation["bbox"] for annotation in record["annotations"]]
    file, names = record["file_name"], ["man", "dog", "hat"]
    for options, message in (
        ({"labels": [["man"], "dog", "hat"]}, r"object class \['man'\]"),
        ({"labels": [{}, "dog", "hat"]}, r"object class \{\}"),
        ({"labels": ["\ud800", "dog", "hat"]}, "ud800"),
        ({"labels": 5}, "labels is 5"),
        ({"labels": names[:2]}, r"\(2,\) for 3 boxes"),
        ({"min_score": None}, "min_score is None"),
        ({"min_score": "0.5"}, "min_score is '0.5'"),
        ({"min_score": float("nan")}, "min_score is nan"),
        ({"min_entity_score": []}, r"min_entity_score is \[\]"),
        ({"predicates": 5}, "predicates are 5"),
        ({"predicates": [["on"]]}, r"predicate \['on'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            predictor(file, **{"boxes": boxes, "labels": names, **options})
    with pytest.raises(ValueError, match="boxes for no list of images"):
        predictor([file], boxes=5, labels=[names])
    for choose in (None, 2.5, [5], [None]):
        with pytest.raises(ValueError, match=r"pattern|triplet"):
            predictor.explain(file, boxes=boxes, labels=names, choose=choose)
    detector, _ = make("quickstart/relclip_sgdet.yaml")
    with pytest.raises(ValueError, match="max_overlap is 'a'"):
        detector(file, max_overlap="a")


def test_one_text_in_place_of_a_list(make):
    predictor, record = make("relclip_predcls.yaml")
    given = {"boxes": [a["bbox"] for a in record["annotations"]], "labels": ["man", "dog", "hat"]}
    one = predictor(record["file_name"], **given, predicates="on")
    assert one.relations == predictor(record["file_name"], **given, predicates=["on"]).relations
    graph, maps = predictor.explain(record["file_name"], **given, choose="* on *")
    assert list(maps) == graph.find("* on *") == graph.find(["* on *"])
    with pytest.raises(ValueError, match=r"labels.*'man'"):
        predictor(record["file_name"], boxes=given["boxes"][:1], labels="man")


@pytest.mark.parametrize("top_k", [0, -1, 2.5, "3", None])
def test_top_k_is_a_number_of_relations(make, top_k):
    predictor, record = make("quickstart/relclip_sgdet.yaml")
    with pytest.raises(ValueError, match=re.escape(f"top_k is {top_k!r}")):
        predictor(record["file_name"], top_k=top_k)


def test_boxes_in_parts_of_the_image_are_refused(make):
    predictor, record = make("relclip_predcls.yaml")
    with pytest.raises(ValueError, match=r"boxes.*pixels"):
        predictor(record["file_name"], boxes=[[0, 0.1, 0.5, 1]], labels=["man"])


def test_a_checkpoint_is_enough(make_cfg, tmp_path):
    """Its config and its vocabulary are in it; the files of its training need not be there."""
    names = ("results.json", "vectors.txt", "clip.pt", "names.json", "bad.txt")
    results, vectors, clip, vocabulary, bad = files = [tmp_path / name for name in names]
    cfg = make_cfg("relclip_predcls.yaml")
    (dataset,) = cfg.DATASETS.TEST
    results.write_text("[]")
    bad.write_text("")
    words = ("man", "dog", "hat", "on", "holding", "wearing", "next", "to")
    vectors.write_text("".join(f"{word} 0 1\n" for word in words))
    torch.save(load_clip(cfg.MODEL.CLIP.NAME).model.state_dict(), clip)
    vocabulary.write_text(Path(cfg.DATASETS.REGISTER[0][1]).read_text())
    cfg.MODEL.CLIP.PRETRAINED, cfg.MODEL.TEXT.WORD_VECTORS = str(clip), str(vectors)
    cfg.MODEL.VOCABULARY, cfg.DATASETS.EXCLUDE = str(vocabulary), str(bad)
    cfg.DATASETS.DETECTIONS = [[dataset, str(results)]]
    torch.manual_seed(0)
    model = Trainer.build_model(cfg)
    SafeCheckpointer(model, str(tmp_path), vrd_d2=Stamp(cfg)).save("model")
    config = tmp_path / "config.yaml"
    config.write_text(cfg.dump())
    record = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])[0]
    given = {"boxes": [a["bbox"] for a in record["annotations"]], "labels": ["man", "dog", "hat"]}
    expected = Predictor(config, tmp_path / "model.pth")(record["file_name"], **given)
    for file in (config, *files):
        file.unlink()
    predictor = Predictor(tmp_path / "model.pth")
    assert predictor(record["file_name"], **given).to_dict() == expected.to_dict()
    assert predictor.vocabulary.predicates == ("on", "holding", "wearing", "next to")
    smaller = Predictor(tmp_path / "model.pth", overrides=["INPUT.MIN_SIZE_TEST", "64"])
    assert smaller.cfg.INPUT.MIN_SIZE_TEST == 64


def test_a_config_in_place_of_its_file(make, make_cfg, tmp_path):
    """It is copied; its MODEL.WEIGHTS are loaded unless others are given."""
    expected, record = make("relclip_predcls.yaml")
    weights = str(tmp_path / "model.pth")
    boxes = [a["bbox"] for a in record["annotations"]]
    given = {"boxes": boxes, "labels": ["man", "dog", "hat"]}
    graph = expected(record["file_name"], **given).to_dict()
    cfg = make_cfg("relclip_predcls.yaml", "MODEL.WEIGHTS", weights)
    before = cfg.dump()
    cfg.freeze()
    predictor = Predictor(cfg, overrides=["INPUT.MAX_SIZE_TEST", "777"])
    assert predictor(record["file_name"], **given).to_dict() == graph
    assert predictor.cfg.INPUT.MAX_SIZE_TEST == 777 and cfg.dump() == before
    other = make_cfg("relclip_predcls.yaml", "MODEL.WEIGHTS", "none.pth")
    assert Predictor(other, weights)(record["file_name"], **given).to_dict() == graph
    with pytest.raises(ValueError, match=r"none\.pth"):
        Predictor(other)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {}}, "YAML"),
        ({"model": {}, "vrd_d2": {"objects": ["a"], "config": "A: 1"}}, "detector"),
        (
            {"vrd_d2": {"objects": ["a"], "predicates": ["b"], "config": "A: 1"}},
            "version.*YAML",
        ),
        (
            {"vrd_d2": {"objects": [], "predicates": ["b"], "config": "SEED: 1"}},
            "version.*YAML",
        ),
    ],
)
def test_a_checkpoint_that_does_not_say_what_it_is(tmp_path, content, message):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=rf"model\.pth.*{message}"):
        Predictor(tmp_path / "model.pth")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "predcls.*boxes.*labels"),
        ({"boxes": [[0, 0, 9, 9]]}, "predcls.*labels"),
        ({"boxes": [[0, 0, 9, 9]], "labels": ["mna"]}, "mna"),
        ({"boxes": [[0, 0, 9, 9]], "labels": ["man", "dog"]}, "2"),
        (
            {"boxes": [[0, 0, 9, 9], [400, 0, 500, 90]], "labels": ["man", "dog"]},
            r"boxes\[1\].*400\.0, 0\.0, 500\.0, 90\.0.*100 x 100",
        ),
        ({"boxes": [[0, -9, 9, -1]], "labels": ["man"]}, r"boxes\[0\].*100 x 100"),
        ({"boxes": [[50, 40, 20, 60]], "labels": ["man"]}, r"boxes\[0\].*x1, y1, x2, y2"),
    ],
)
def test_what_the_task_needs(make, arguments, message):
    predictor, record = make("relclip_predcls.yaml")
    with pytest.raises(ValueError, match=message):
        predictor(record["file_name"], **arguments)


def test_unreadable_image_is_named(make, tmp_path):
    predictor, _ = make("quickstart/relclip_sgdet.yaml")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    for path in (broken, tmp_path / "none.png"):
        with pytest.raises(ValueError, match=path.name):
            predictor(path)


def test_a_list_of_images_equals_one_by_one(make):
    """Also where a batch mixes sizes, files and arrays."""
    predictor, record = make("relclip_predcls.yaml")
    records = DatasetCatalog.get(predictor.cfg.DATASETS.TRAIN[0])
    images = [r["file_name"] for r in records]
    images[1] = np.asarray(Image.open(images[1]).convert("RGB"))
    boxes = [[a["bbox"] for a in r["annotations"]] for r in records]
    names = predictor.model.vocabulary.objects
    labels = [[names[a["category_id"]] for a in r["annotations"]] for r in records]
    graphs = predictor(images, boxes=boxes, labels=labels, batch_size=3)
    assert len(graphs) == len(records) == 5
    for i, graph in enumerate(graphs):
        alone = predictor(images[i], boxes=boxes[i], labels=labels[i])
        assert graph.triplets == alone.triplets and graph.file_name == alone.file_name
        np.testing.assert_allclose(graph.scores, alone.scores, rtol=1e-4)
        np.testing.assert_allclose(graph.boxes, boxes[i], atol=1e-3)  # given ones all stay
        assert graph.size == (records[i]["width"], records[i]["height"])
    assert graphs[1].file_name is None and graphs[0].file_name == record["file_name"]
    assert predictor([], boxes=[], labels=[]) == []
    with pytest.raises(ValueError, match=r"boxes.*1.*5"):
        predictor(images, boxes=boxes[:1], labels=labels)
    for size in (0, "3", 1.5):
        with pytest.raises(ValueError, match=rf"batch_size.*{size}"):
            predictor(images, boxes=boxes, labels=labels, batch_size=size)


def test_boxes_refer_to_the_image_turned_upright(make, tmp_path):
    predictor, record = make("relclip_sgcls.yaml")
    upright = Image.open(record["file_name"]).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter to the right
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    boxes = [a["bbox"] for a in record["annotations"]]
    expected = predictor(record["file_name"], boxes=boxes)
    found = predictor(tmp_path / "turned.png", boxes=boxes)
    assert found.size == expected.size == upright.size
    assert found.triplets == expected.triplets and found.scores == expected.scores


def test_a_line_of_pixels_is_too_narrow(make):
    predictor, _ = make("relclip_sgcls.yaml")
    with pytest.raises(ValueError, match=r"5000 x 1.*INPUT\.MAX_SIZE_TEST"):
        predictor(np.zeros((1, 5000, 3), np.uint8), boxes=[[0, 0, 9, 1]])


class Trap:
    """Unpickling it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_a_checkpoint_with_code_is_refused_and_not_run(make_cfg, tmp_path, suffix):
    cfg = make_cfg("relclip_sgcls.yaml")
    config, weights = tmp_path / "config.yaml", tmp_path / f"evil.{suffix}"
    config.write_text(cfg.dump())
    content = {"model": {"x": Trap(tmp_path / "sprung")}}
    if suffix == "pth":
        torch.save(content, weights)
    else:
        weights.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=rf"evil\.{suffix}"):
        Predictor(config, weights)
    assert not (tmp_path / "sprung").exists()
