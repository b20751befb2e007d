"""What the web demo does with images, boxes and words; its page is in test_web_demo.py."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from vrd_d2.data.vocabulary import SCENES
from vrd_d2.demo.answers import answer, boxes_of, found_boxes, names_of
from vrd_d2.demo.models import DemoModel
from vrd_d2.inference.predictor import Predictor

ROWS = [[20, 30, 80, 90, "man"], [70, 60, 120, 70, "horse"], [None, None, None, None, ""]]


@pytest.fixture(scope="module")
def models(repository) -> dict[str, DemoModel]:
    """Zero-shot UnionCLIP of each task, with the weights that ship."""
    config = repository / "configs/quickstart/unionclip_zero_shot_sgdet.yaml"
    overrides = ["MODEL.DEVICE", "cpu", "MODEL.RELATION.TASK"]
    return {
        task: DemoModel(config, "", [*overrides, task]) for task in ("sgdet", "sgcls", "predcls")
    }


def test_words_are_one_a_line():
    assert names_of("  riding \n\n next   to\n") == ["riding", "next to"]
    assert names_of(None) == []


def test_boxes_of_the_table():
    boxes, labels = boxes_of([["20", 30.5, 80, 90, " hot  dog "], [None, "", None, None, ""]])
    assert boxes == [[20, 30.5, 100, 120.5]] and labels == ["hot dog"]
    for row, message in [
        ([1, 2, 0, 5, "man"], "box 1: width and height must be greater than 0"),
        ([1, 2, "x", 5, "man"], "box 1: x, y, width and height must be numbers"),
        ([1, 2, None, 5, "man"], "box 1: x, y, width and height must be numbers"),
        ([1, 2, float("nan"), 5, "man"], "box 1: width and height must be greater than 0"),
        ([1, 2, 10**400, 5, "man"], "box 1: x, y, width and height must be numbers"),
        ([1, 2, "9" * 5000, 5, "man"], "box 1"),
        ([1, float("inf"), 3, 5, "man"], "box 1"),
        ([[1], 2, 3, 5, "man"], "box 1: x, y, width and height must be numbers"),
        ([1, 2, 3, 5], "box 1"),
        ([1, 2, 3, 4, 5, "man"], "box 1"),
        ("1234m", "box 1"),
        ([1, 2, 3, 5, "\ud800"], "box 1.*ud800"),
        ([1, 2, 3, 5, "a\x1b[31m"], r"box 1.*x1b"),
        (7, "box 1"),
        (None, "box 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            boxes_of([row])
    with pytest.raises(ValueError, match="51 boxes: at most 50"):
        boxes_of([[1, 2, 3, 4, "man"]] * 51)


def test_predcls_reads_labels_and_predicates_of_the_user(models, noise_image, tmp_path):
    rows = [
        [*row[:4], label] for row, label in zip(ROWS, ("skater", "skateboard", ""), strict=True)
    ]
    words = ["rolling on", "afraid of"]
    found = answer(models["predcls"], noise_image, tmp_path, rows=rows, predicates=words)
    assert found.graph.labels == ["skater", "skateboard"]
    assert {p for _, p, _ in found.graph.triplets} <= set(words)
    boxes = [[20, 30, 100, 120], [70, 60, 190, 130]]
    np.testing.assert_allclose(found.graph.boxes, boxes, atol=1e-4)
    assert json.loads(found.files[0].read_text())["entities"][1]["label"] == "skateboard"
    assert np.asarray(Image.open(found.files[1])).std() > 10
    assert found.files[2].read_text(encoding="utf-8") == found.page and "street.png" in found.page


def test_sgcls_names_boxes_with_objects_of_the_user(models, noise_image, tmp_path):
    found = answer(models["sgcls"], noise_image, tmp_path, rows=ROWS, objects=["walrus", "teapot"])
    assert len(found.graph.labels) == 2 and set(found.graph.labels) <= {"walrus", "teapot"}


def test_sgdet_keeps_the_classes_of_its_detector(models, noise_image, tmp_path):
    found = answer(
        models["sgdet"], noise_image, tmp_path, predicates=["beside"], min_entity_score=0.0
    )
    assert set(found.graph.labels) <= set(SCENES.objects)
    assert {p for _, p, _ in found.graph.triplets} <= {"beside"}
    with pytest.raises(ValueError, match=r"2 object classes, but the detector finds 22"):
        models["sgdet"].predictor.with_vocabulary(type(SCENES)(("a", "b"), ("on",)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "this task needs boxes"),
        ({"rows": [[1, 2, 30, 40, ""]]}, "box 1 has no label"),
        ({"rows": ROWS, "predicates": ["on", "on"]}, "'on'"),
        ({"rows": ROWS, "predicates": ["p" * 61]}, "is too long: 60 characters"),
        ({"rows": ROWS, "predicates": [str(i) for i in range(201)]}, "201 predicates: at most 200"),
        (
            {
                "rows": [[i, i, 9, 9, f"thing {i}"] for i in range(30)],
                "predicates": [str(i) for i in range(60)],
            },
            "30 names and 60 predicates are 54000 triplets: at most 50000",
        ),
        ({"rows": ROWS, "max_pixels": 30_000}, "the limit is 0.03 million"),
        ({"rows": ROWS, "predicates": ["on", "\ud800"]}, "ud800"),
        ({"rows": ROWS, "predicates": ["on\u202e"]}, "u202e"),
        ({"rows": ROWS, "top_k": 0}, "top_k is 0"),
        ({"rows": ROWS, "top_k": None}, "top_k is None"),
        ({"rows": ROWS, "min_score": float("nan")}, "min_score is nan"),
        ({"rows": ROWS, "min_score": None}, "min_score is None"),
        ({"rows": ROWS, "min_entity_score": "x"}, "min_entity_score is 'x'"),
    ],
)
def test_wrong_input_is_a_message(models, noise_image, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        answer(models["predcls"], noise_image, tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_few_vocabularies_are_kept(models, noise_image, tmp_path):
    model = models["predcls"]
    first = model.with_words(["man"], ["on"])
    assert model.with_words(["man"], ["on"]) is first
    assert model.with_words(SCENES.objects, SCENES.predicates) is model.predictor
    for i in range(8):
        model.with_words(["man"], [f"on {i}"])
    assert len(model._variants) == 8 and model.with_words(["man"], ["on"]) is not first


def test_found_boxes_fill_the_table(models, noise_image):
    rows = found_boxes(models["sgdet"], noise_image, min_entity_score=0.0)
    assert rows and all(row[4] in SCENES.objects and min(row[2:4]) >= 0 for row in rows)
    with pytest.raises(ValueError, match="the detector finds nothing"):
        found_boxes(models["sgdet"], noise_image, min_entity_score=1.1)


def test_other_models_know_their_own_words_only(repository):
    config = repository / "configs/quickstart/relclip_predcls.yaml"
    model = DemoModel(config, "", ["MODEL.DEVICE", "cpu"])
    assert model.explains
    assert not model.takes_words and not model.takes_objects
    with pytest.raises(ValueError, match=r"there is no file of weights none\.pth"):
        DemoModel(config, "none.pth")


# ---- Other words ---------------------------------------------------------------------------------


def test_other_words_leave_the_model_as_it_is(repository, noise_image):
    """Predicates in another order: the same scores. One predicate: against the null text alone."""
    config = repository / "configs/quickstart/unionclip_zero_shot.yaml"
    predictor = Predictor(config, "", ["MODEL.DEVICE", "cpu"])
    given = {"boxes": [row[:4] for row in ROWS[:2]], "labels": ["man", "horse"]}
    given["boxes"] = [[x, y, x + w, y + h] for x, y, w, h in given["boxes"]]
    before = predictor(noise_image, **given).to_dict()
    names = type(SCENES)(SCENES.objects[::-1], SCENES.predicates[::-1])
    twin = predictor.with_vocabulary(names)
    after = twin(noise_image, **given).to_dict()
    assert [r["predicate"] for r in after["relations"]] == [
        r["predicate"] for r in before["relations"]
    ]
    for kind in ("entities", "relations"):
        for ours, theirs in zip(after[kind], before[kind], strict=True):
            assert ours.get("score") == pytest.approx(theirs.get("score"), abs=2e-3)
    assert predictor(noise_image, **given).to_dict() == before
    assert twin.vocabulary == names and predictor.vocabulary == SCENES
    assert twin.model.crops is predictor.model.crops


def test_scores_of_other_words_are_those_of_their_texts(repository, noise_image):
    config = repository / "configs/quickstart/unionclip_zero_shot.yaml"
    predictor = Predictor(config, "", ["MODEL.DEVICE", "cpu"])
    words = ["towing", "made of"]
    twin = predictor.with_vocabulary(type(SCENES)(("kite", "lamp"), words))
    boxes = [[20, 30, 100, 120], [70, 60, 190, 130]]
    example = twin._example(np.asarray(Image.open(noise_image)), boxes, ["kite", "lamp"])
    model = twin.model
    with torch.no_grad():
        found = model([example])[0]["relations"]
        row = found.pairs.tolist().index([0, 1])
        texts = [f"kite {word} lamp" for word in words] + ["null relation"]
        (region,) = model.crops.embed(
            model.crops.states(model._cut(example, torch.tensor([[20, 30, 190, 130]])))
        )
        expected = (model.logit_scale.exp() * model.phrases(texts) @ region).softmax(0)
    # The bank keeps texts in half precision.
    torch.testing.assert_close(found.predicate_probs[row], expected, atol=5e-3, rtol=0)
