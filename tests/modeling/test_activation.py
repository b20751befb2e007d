"""Heat maps: the two methods by hand, their place in the image, and those of a whole model."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import roi_align

from vrd_d2 import Predictor
from vrd_d2.config.loading import load_config
from vrd_d2.engine.build import load_detector
from vrd_d2.engine.trainer import Trainer
from vrd_d2.modeling.activation import activation, over_image

PHOTO = np.random.default_rng(0).integers(0, 256, (72, 100, 3), dtype=np.uint8)
BOXES = [[4.0, 6, 40, 60], [30, 20, 90, 66], [50, 2, 96, 40]]


def test_grad_cam_of_a_linear_score_by_hand():
    # Two channels, 1 x 2 cells. The score is 3 a0 - a1 + 2 b1, so the mean gradients are 1 and 1.
    feature_map = torch.tensor([[[1.0, -4.0]], [[2.0, 1.0]]], requires_grad=True)
    a, b = feature_map[:, 0]
    score = 3 * a[0] - a[1] + 2 * b[1]
    # Cells: 1 + 2 = 3, and -4 + 1 < 0.
    assert activation(feature_map, score).tolist() == [[3.0, 0.0]]
    # Each value times its own gradient: 3 * 1 + 0 * 2 = 3, and -1 * -4 + 2 * 1 = 6.
    assert activation(feature_map, score, method="elementwise").tolist() == [[3.0, 6.0]]


def test_elementwise_products_add_up_to_a_linear_score():
    torch.manual_seed(0)
    feature_map = torch.rand(5, 4, 6, requires_grad=True)  # positive, so nothing is cut off
    weights = torch.rand(5, 4, 6)
    score = (weights * feature_map).sum()
    found = activation(feature_map, score, method="elementwise")
    torch.testing.assert_close(found.sum(), score.detach())


def test_a_score_that_does_not_look_gives_zeros():
    feature_map = torch.rand(3, 2, 2, requires_grad=True)
    assert activation(feature_map, torch.zeros(1, requires_grad=True)[0]).eq(0).all()


def test_unknown_method():
    with pytest.raises(ValueError, match="'saliency'"):
        activation(torch.rand(1, 1, 1, requires_grad=True), torch.tensor(0.0), method="saliency")


@pytest.mark.parametrize("size", [(32, 48), (30, 41), (17, 33)])
def test_a_value_lies_where_its_cell_lies(size):
    """roi_align of tiny boxes reads the same bilinear surface, with the padding left out."""
    torch.manual_seed(0)
    cells = torch.rand(2, 3)  # 16 pixels each: 32 x 48
    found = over_image(cells, stride=16, image_size=size, step=4)
    height, width = -(-size[0] // 4), -(-size[1] // 4)
    assert found.shape == (height, width)
    y = (torch.arange(height) + 0.5) * size[0] / height
    x = (torch.arange(width) + 0.5) * size[1] / width
    y, x = torch.meshgrid(y, x, indexing="ij")
    tiny = 1e-3
    boxes = torch.stack([0 * x, x - tiny, y - tiny, x + tiny, y + tiny], -1).reshape(-1, 5)
    expected = roi_align(cells[None, None], boxes, 1, 1 / 16, 1, aligned=True)
    torch.testing.assert_close(found.flatten(), expected.flatten(), atol=1e-4, rtol=0)


def test_nothing_outside_the_box():
    found = over_image(torch.ones(2, 2), stride=16, image_size=(32, 32), box=(8, 0, 16, 24), step=4)
    # Centres 2, 6, 10, 14, ...: columns 2 and 3, rows 0 to 5.
    expected = torch.zeros(8, 8)
    expected[:6, 2:4] = 1
    assert found.equal(expected)


@pytest.fixture
def predictor(make_cfg, tmp_path):
    """PredCls with a small CLIP, and a head that learnt nothing."""
    torch.manual_seed(0)
    cfg = make_cfg("quickstart/relclip_predcls.yaml")
    torch.save({"model": Trainer.build_model(cfg).state_dict()}, tmp_path / "model.pth")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    return Predictor(tmp_path / "config.yaml", tmp_path / "model.pth")


@pytest.fixture
def given(predictor):
    return {"boxes": BOXES, "labels": predictor.vocabulary.objects[:3]}


@pytest.mark.parametrize("method", ["grad_cam", "elementwise"])
def test_heat_maps_of_a_model_by_hooks(predictor, given, method):
    """The same from a map and logits that are caught in the model's own forward."""
    graph, found = predictor.explain(PHOTO, choose=2, method=method, **given)
    assert graph.to_dict() == predictor(PHOTO, **given).to_dict()
    assert list(found) == [0, 1] and all(heat.max() == 1 for heat in found.values())
    model, caught = predictor.model, []
    classifier = model.head.predictor.predicates
    hook = classifier.register_forward_hook(lambda module, inputs, output: caught.append(output))
    encode = model.visual_maps
    model.visual_maps = lambda batch: [
        caught.append(m.requires_grad_()) or m for m in encode(batch)
    ]
    example = predictor._example(PHOTO, *given.values())
    pairs = model([example])[0]["relations"].pairs.tolist()
    hook.remove()
    feature_map, logits = caught
    for relation, heat in found.items():
        subject, object_, name = graph.relations[relation]
        score = logits[pairs.index([subject, object_]), predictor.vocabulary.predicate_id(name)]
        (gradient,) = torch.autograd.grad(score, feature_map, retain_graph=True)
        box = None
        if method == "grad_cam":
            gradient = gradient.mean((1, 2))[:, None, None]
            both = example["instances"].gt_boxes.tensor[[subject, object_]]
            box = [*both[:, :2].amin(0).tolist(), *both[:, 2:].amax(0).tolist()]
        expected = over_image(
            nn.functional.relu((gradient * feature_map).sum(0)).detach(),
            stride=model.visual.stride,
            image_size=tuple(example["image"].shape[-2:]),
            box=box,
        )
        np.testing.assert_allclose(heat, expected / expected.max(), atol=1e-5)


def test_patterns_choose(predictor, given):
    man, horse, _ = given["labels"]
    graph, found = predictor.explain(PHOTO, choose=[f"{man.upper()} * {horse}"], **given)
    assert [graph.triplets[i][::2] for i in found] == [(man, horse)]
    for count in (0, 1):
        few = {name: values[:count] for name, values in given.items()}
        graph, found = predictor.explain(PHOTO, **few)
        assert len(graph.labels) == count and found == {}
    with pytest.raises(ValueError, match="predcls"):
        predictor.explain(PHOTO)


def test_the_detector_runs_once(repository, tmp_path, monkeypatch):
    """SGDet: the relations of the maps are those of the graph, from the same detections."""
    cfg = load_config(repository / "configs/quickstart/relclip_sgdet.yaml", ["MODEL.DEVICE", "cpu"])
    torch.manual_seed(0)
    model = Trainer.build_model(cfg)
    load_detector(cfg, model)
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    predictor = Predictor(
        repository / "configs/quickstart/relclip_sgdet.yaml", tmp_path / "model.pth"
    )
    runs = []
    detect = predictor.model.detector.inference
    monkeypatch.setattr(
        predictor.model.detector,
        "inference",
        lambda *arguments, **options: runs.append(1) or detect(*arguments, **options),
    )
    options = {"min_entity_score": 0.01, "top_k": 4}
    graph, found = predictor.explain(PHOTO, choose=9, **options)
    assert len(runs) == 1
    assert graph.to_dict() == predictor(PHOTO, **options).to_dict()
    assert list(found) == list(range(len(graph.relations)))


def test_other_models_have_none(repository):
    predictor = Predictor(repository / "configs/quickstart/unionclip_zero_shot.yaml")
    assert not predictor.explains
    with pytest.raises(ValueError, match="UnionCLIP"):
        predictor.explain(PHOTO)
