"""RelCLIP as a whole: tasks, outputs, frozen parts, gradients, and the traps of real data."""

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances

from vrd_d2.data.dataset_mapper import RelationMapper
from vrd_d2.engine.trainer import Trainer
from vrd_d2.modeling import RelCLIP
from vrd_d2.modeling.structures import Entities

TASKS = ["predcls", "sgcls", "sgdet"]


def examples_of(cfg, *, is_train):
    mapper = RelationMapper(cfg, is_train=is_train)
    return [mapper(record) for record in DatasetCatalog.get(cfg.DATASETS.TRAIN[0])]


def small_detector(cfg_maker, task):
    """Return a config with the narrow detector for SGDet; given boxes need none."""
    name = "quickstart/relclip_sgdet.yaml" if task == "sgdet" else f"relclip_{task}.yaml"
    return cfg_maker(name)


@pytest.fixture(params=TASKS)
def built(request, make_cfg):
    cfg = small_detector(make_cfg, request.param)
    torch.manual_seed(0)
    return cfg, RelCLIP(cfg)


def test_losses_reach_every_trainable_parameter_and_no_frozen_one(built):
    cfg, model = built
    losses = model.train()(examples_of(cfg, is_train=True))
    expected = {"loss_predicate", "loss_rcl_sp", "loss_rcl_po"}
    if not model.task.classes_given:
        expected.add("loss_object")
    assert set(losses) == expected
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        frozen = name.startswith(("visual.", "detector."))
        assert parameter.requires_grad != frozen, name
        assert (parameter.grad is None) == frozen, name


def test_images_without_any_pair_still_give_every_gradient(built):
    cfg, model = built
    lonely = [example for example in examples_of(cfg, is_train=True) if example["image_id"] == 4]
    if model.detector is not None:
        model.detector.inference = lambda *_, **__: [
            Instances(
                (96, 96),
                pred_boxes=Boxes(torch.zeros(0, 4)),
                pred_classes=torch.zeros(0, dtype=torch.int64),
                scores=torch.zeros(0),
            )
        ]
    losses = model.train()(lonely)
    assert losses["loss_predicate"] == 0 and losses["loss_rcl_sp"] == 0
    sum(losses.values()).backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


def test_outputs_keep_every_given_box_and_its_index(built):
    cfg, model = built
    examples = examples_of(cfg, is_train=False)
    records = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
    with torch.no_grad():
        outputs = model.eval()(examples)
    for record, output in zip(records, outputs, strict=True):
        instances, relations = output["instances"], output["relations"]
        assert instances.image_size == (record["height"], record["width"])
        probs = relations.predicate_probs
        assert probs.shape[1] == 5 and relations.predicate_scores.shape[1] == 4
        torch.testing.assert_close(probs.sum(1), torch.ones(len(probs)))
        assert len(relations) == 0 or int(relations.pairs.max()) < len(instances)
        if not model.task.boxes_given:
            continue
        expected = torch.tensor([a["bbox"] for a in record["annotations"]])
        torch.testing.assert_close(instances.pred_boxes.tensor, expected, atol=1e-3, rtol=1e-5)
        if model.task.classes_given:
            assert (instances.scores == 1).all()
            classes = [a["category_id"] for a in record["annotations"]]
            assert instances.pred_classes.tolist() == classes


def test_a_single_box_makes_no_pair(make_cfg):
    cfg = make_cfg("relclip_predcls.yaml")
    lonely = [example for example in examples_of(cfg, is_train=False) if example["image_id"] == 4]
    output = RelCLIP(cfg).eval()(lonely)[0]
    assert len(output["instances"]) == 1
    assert output["relations"].pairs.shape == (0, 2)
    assert output["relations"].predicate_probs.shape == (0, 5)


def test_an_image_does_not_depend_on_its_batch_mates(built):
    cfg, model = built
    examples = examples_of(cfg, is_train=False)
    with torch.no_grad():
        together = model.eval()(examples)
        for example, expected in zip(examples, together, strict=True):
            alone = model([example])[0]
            torch.testing.assert_close(
                alone["relations"].predicate_probs,
                expected["relations"].predicate_probs,
                atol=1e-5,
                rtol=1e-4,
            )


def test_frozen_parts_do_not_change_in_training(make_cfg):
    cfg = make_cfg("quickstart/relclip_sgdet.yaml")
    trainer = Trainer(cfg)
    model = trainer._trainer.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer.train()
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not any(name.startswith(("visual.", "detector.")) for name in changed)


def test_train_returns_the_model_and_keeps_frozen_parts_in_eval_mode(make_cfg):
    model = RelCLIP(make_cfg("quickstart/relclip_sgdet.yaml"))
    assert model.train() is model and model.training and model.head.training
    assert not model.detector.training and not model.visual.training
    assert model.eval() is model and not model.head.training


def test_text_is_not_part_of_the_checkpoint_nor_of_inference(make_cfg):
    cfg = make_cfg("relclip_sgcls.yaml", "MODEL.RELATION_HEAD.CLASS_EMBEDDING", True)
    model = RelCLIP(cfg).eval()
    assert not any("token_embedding" in name for name in model.state_dict())
    model.text = model.phrases = None
    assert len(model(examples_of(cfg, is_train=False))) == 5


def test_color_order_and_normalisation_are_those_of_clip(make_cfg):
    """A BGR image reaches the tower as RGB in 0..1, less CLIP's mean, over its deviation."""
    cfg = make_cfg("relclip_predcls.yaml")
    model = RelCLIP(cfg)
    seen = []
    model.visual.maps = lambda images: seen.extend(images)
    image = torch.zeros((3, 4, 4), dtype=torch.uint8)
    image[0] = 255  # blue
    model.visual_maps([{"image": image}])
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    expected = [(0 - mean[0]) / std[0], (0 - mean[1]) / std[1], (1 - mean[2]) / std[2]]
    assert seen[0][:, 0, 0].tolist() == pytest.approx(expected, abs=1e-5)


def test_detections_stand_for_the_objects_that_they_overlap(make_cfg):
    cfg = make_cfg("quickstart/relclip_sgdet.yaml", "MODEL.RELATION.ADD_GT_BOXES", False)
    model = RelCLIP(cfg).train()
    example = examples_of(cfg, is_train=True)[0]
    gt = example["instances"].gt_boxes.tensor
    boxes = torch.cat([gt[[2, 0]] + 1, torch.tensor([[70.0, 70, 75, 75]])])
    model.detector.inference = lambda *_, **__: [
        Instances(
            (96, 96),
            pred_boxes=Boxes(boxes),
            pred_classes=torch.tensor([1, 1, 1]),
            scores=torch.ones(3),
        )
    ]
    entities = model.entities(example)
    assert entities.gt_index.tolist() == [2, 0, -1]
    sample = model.training_pairs(example, entities)
    assert sample.classes.tolist() == [2, 0, 3]  # hat, man, background
    labelled = sample.pairs[sample.targets.sum(1) > 0].tolist()
    assert labelled == [[1, 0]]  # man wearing hat


def test_given_boxes_are_needed_and_named(make_cfg):
    model = RelCLIP(make_cfg("relclip_predcls.yaml")).eval()
    with pytest.raises(ValueError, match=r"street\.jpg.*predcls"):
        model([{"image": torch.zeros((3, 64, 64), dtype=torch.uint8), "file_name": "street.jpg"}])


def test_score_of_a_detected_entity_by_head_or_by_detector(make_cfg):
    for source in ("head", "detector"):
        cfg = make_cfg("quickstart/relclip_sgdet.yaml", "MODEL.RELATION.ENTITY_CLASSES", source)
        torch.manual_seed(0)
        model = RelCLIP(cfg).eval()
        entity = Entities(
            torch.tensor([[0.0, 0, 30, 30], [10, 10, 60, 60]]),
            torch.tensor([2, 1]),
            torch.tensor([0.9, 0.8]),
        )
        example = examples_of(cfg, is_train=False)[0]
        with torch.no_grad():
            prediction = model.predict([example], [entity], [model.pairs(entity)])[0]
        same = torch.equal(prediction.scores, entity.scores)
        assert same == (source == "detector")
        assert int(prediction.classes.max()) < 3


@pytest.mark.parametrize(
    "key, value",
    [
        ("MODEL.RELATION.TASK", "sgclass"),
        ("MODEL.RELATION.RANKING", "rank"),
        ("MODEL.RELATION.ENTITY_CLASSES", "none"),
        ("MODEL.TEXT.RELATION_PROMPTS", ["{subject} {verb} {object}"]),
        ("MODEL.TEXT.WORD_VECTORS", "missing_glove.txt"),
    ],
)
def test_wrong_values_are_refused_with_their_key(make_cfg, key, value):
    with pytest.raises(ValueError, match=r"MODEL\.|sgclass"):
        RelCLIP(make_cfg("relclip_predcls.yaml", key, value))


def test_an_autocast_around_the_model_is_respected(make_cfg):
    cfg = make_cfg("relclip_predcls.yaml")
    torch.manual_seed(0)
    model = RelCLIP(cfg).eval()
    examples = examples_of(cfg, is_train=False)
    with torch.no_grad():
        plain = model(examples)[0]["relations"].predicate_probs
        with torch.autocast("cpu", torch.bfloat16):
            half = model(examples)[0]["relations"].predicate_probs
    assert not torch.equal(plain, half)
    torch.testing.assert_close(plain, half, atol=0.02, rtol=0.05)
