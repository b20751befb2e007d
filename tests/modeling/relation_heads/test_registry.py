"""Heads of other kinds through the trainer, the evaluator, the predictor and a resumed run."""

import shutil
from pathlib import Path

import pytest
import small_heads
import torch
import torch.nn.functional as F
from detectron2.data import DatasetCatalog

from vrd_d2 import Predictor
from vrd_d2.data.dataset_mapper import RelationMapper
from vrd_d2.engine.trainer import Trainer
from vrd_d2.export import exportable
from vrd_d2.modeling.relation_heads.base import RELATION_HEAD_REGISTRY, RelationHead
from vrd_d2.modeling.relation_heads.relclip import RelCLIPHead

HEADS = [small_heads.SequentialHead, small_heads.DroppingHead, small_heads.AllPairsHead]


@pytest.fixture
def head_cfg(make_cfg):
    """Return a function of a head, overrides and a config's name: a config of that head."""

    def make(head, *overrides, config="relclip_sgcls.yaml"):
        return make_cfg(config, "MODEL.RELATION_HEAD.NAME", head.__name__, *overrides)

    return make


def train(cfg, *, resume=False):
    torch.manual_seed(0)
    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer.checkpointer.model


def examples_of(cfg, *, is_train):
    mapper = RelationMapper(cfg, is_train=is_train)
    return [mapper(record) for record in DatasetCatalog.get(cfg.DATASETS.TRAIN[0])]


def watched(model):
    """Return a list that the batches and outputs of the head will be appended to."""
    seen = []
    model.head.register_forward_hook(lambda _, inputs, output: seen.append((*inputs, output)))
    return seen


def test_the_name_chooses_the_head(make_cfg, head_cfg):
    assert type(Trainer.build_model(make_cfg("relclip_predcls.yaml")).head) is RelCLIPHead
    for head in HEADS:
        assert type(Trainer.build_model(head_cfg(head)).head) is head


def test_an_unknown_name_is_refused_with_the_choices(make_cfg):
    cfg = make_cfg("relclip_predcls.yaml", "MODEL.RELATION_HEAD.NAME", "IMPHead")
    with pytest.raises(ValueError, match=r"MODEL\.RELATION_HEAD\.NAME.*IMPHead.*RelCLIPHead"):
        Trainer.build_model(cfg)


def test_an_unknown_kind_of_context_is_refused(make_cfg):
    class WrongHead(small_heads.AllPairsHead):
        context_pairs = "some"

    RELATION_HEAD_REGISTRY.register(WrongHead)
    cfg = make_cfg("relclip_predcls.yaml", "MODEL.RELATION_HEAD.NAME", "WrongHead")
    with pytest.raises(ValueError, match=r"WrongHead\.context_pairs.*sampled"):
        Trainer.build_model(cfg)


def test_a_head_is_its_context_alone():
    with pytest.raises(TypeError, match="context"):
        RelationHead(features=None, predictor=None)


@pytest.mark.parametrize("head", HEADS)
def test_train_resume_evaluate_predict(head, head_cfg, tmp_path):
    unbroken = train(cfg := head_cfg(head))
    # The checkpoint after two iterations, in a folder where nothing else is.
    folder = tmp_path / "resumed"
    folder.mkdir()
    shutil.copy(Path(cfg.OUTPUT_DIR) / "model_0000001.pth", folder)
    (folder / "last_checkpoint").write_text("model_0000001.pth")
    resumed = train(head_cfg(head, "OUTPUT_DIR", str(folder)), resume=True)
    for name, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name

    metrics = Trainer.test(cfg, unbroken.eval())["relations"]
    assert 0 <= metrics["R@50"] <= 100

    predictor = Predictor(Path(cfg.OUTPUT_DIR) / "model_final.pth")
    record = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])[0]
    boxes = [annotation["bbox"] for annotation in record["annotations"]]
    graph = predictor(record["file_name"], boxes=boxes)
    with torch.no_grad():
        output = unbroken(examples_of(cfg, is_train=False)[:1])[0]
    names = predictor.vocabulary.objects
    assert graph.labels == [names[i] for i in output["instances"].pred_classes.tolist()]
    assert len(graph.relations) == len(output["relations"]) > 0
    _, maps = predictor.explain(record["file_name"], boxes=boxes, choose=1)
    assert maps[0].max() == pytest.approx(1)


@pytest.mark.parametrize("config", ["relclip_predcls.yaml", "quickstart/relclip_sgdet.yaml"])
@pytest.mark.parametrize("head", HEADS)
def test_other_tasks(head, config, head_cfg):
    cfg = head_cfg(head, config=config)
    torch.manual_seed(0)
    model = Trainer.build_model(cfg).train()
    losses = model(examples_of(cfg, is_train=True))
    assert ("loss_object" in losses) == (not model.task.classes_given)
    assert ("loss_related" in losses) == (head is small_heads.DroppingHead)
    sum(losses.values()).backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    with torch.no_grad():
        answers = model.eval()(examples_of(cfg, is_train=False))
    for answer in answers:
        probs = answer["relations"].predicate_probs
        torch.testing.assert_close(probs.sum(1), torch.ones(len(probs)))


@pytest.mark.parametrize("head", HEADS)
def test_rcl_reads_the_embeddings_of_any_head(head, head_cfg):
    cfg = head_cfg(head)
    torch.manual_seed(0)
    model = Trainer.build_model(cfg).train()
    seen = watched(model)
    torch.manual_seed(1)
    losses = model(examples_of(cfg, is_train=True))
    assert {"loss_rcl_sp", "loss_rcl_po"} <= losses.keys()
    ((_, output),) = seen
    gradients = torch.autograd.grad(
        losses["loss_rcl_sp"] + losses["loss_rcl_po"], (output.entities, output.relations)
    )
    assert all(gradient.any() for gradient in gradients)


def test_rcl_needs_embeddings_of_entities(head_cfg, monkeypatch):
    cfg = head_cfg(small_heads.AllPairsHead, config="relclip_predcls.yaml")
    model = Trainer.build_model(cfg).train()
    context = model.head.context

    def without_entities(batch):
        output = context(batch)
        output.entities = None
        return output

    monkeypatch.setattr(model.head, "context", without_entities)
    with pytest.raises(ValueError, match=r"MODEL\.RCL\.LEVELS"):
        model(examples_of(cfg, is_train=True))


def cross_entropy(logits, targets):
    """Return the mean cross-entropy by hand; a row of zeros is background."""
    rows = torch.cat([targets, (targets.sum(1, keepdim=True) == 0).float()], 1)
    rows = rows / rows.sum(1, keepdim=True)
    return F.cross_entropy(logits, rows)


def test_a_context_that_sees_all_pairs_and_a_loss_that_counts_the_sample(head_cfg):
    cfg = head_cfg(
        small_heads.AllPairsHead,
        *("MODEL.RELATION.BATCH_SIZE_PER_IMAGE", 2, "MODEL.RELATION.POSITIVE_FRACTION", 0.5),
        *("MODEL.RCL.SAMPLING", False),
    )
    torch.manual_seed(0)
    model = Trainer.build_model(cfg).train()
    seen = watched(model)
    examples = examples_of(cfg, is_train=True)
    losses = model(examples)
    ((batch, output),) = seen
    candidates = [model.pairs(model.entities(example)) for example in examples]
    assert [len(pairs) for pairs in candidates] == batch.pair_counts
    assert max(batch.pair_counts) > 2
    counted = [int(mask.sum()) for mask in batch.loss_mask]
    assert counted == [min(2, count) for count in batch.pair_counts]
    mask = torch.cat(batch.loss_mask)
    assert len(output.predicate_logits) == len(mask)
    expected = cross_entropy(output.predicate_logits[mask], torch.cat(batch.targets)[mask])
    torch.testing.assert_close(losses["loss_predicate"], expected)
    # RCL, too, has the sampled positives alone.
    (gradient,) = torch.autograd.grad(losses["loss_rcl_sp"], output.relations)
    positive = torch.cat(batch.targets).sum(1) > 0
    assert (positive & ~mask).any()
    assert torch.equal(gradient.abs().sum(1) > 0, positive & mask)


def test_a_sampled_context_sees_the_sample(head_cfg):
    cfg = head_cfg(small_heads.DroppingHead, "MODEL.RELATION.BATCH_SIZE_PER_IMAGE", 2)
    model = Trainer.build_model(cfg).train()
    seen = watched(model)
    model(examples_of(cfg, is_train=True))
    ((batch, _),) = seen
    assert batch.loss_mask is None and max(batch.pair_counts) == 2


def test_dropped_pairs_are_in_no_loss_and_in_no_answer(head_cfg):
    cfg = head_cfg(small_heads.DroppingHead)
    torch.manual_seed(0)
    model = Trainer.build_model(cfg).train()
    seen = watched(model)
    losses = model(examples_of(cfg, is_train=True))
    ((batch, output),) = seen
    assert len(output.pair_index) < sum(batch.pair_counts)
    targets = torch.cat(batch.targets)[output.pair_index]
    expected = cross_entropy(output.predicate_logits, targets)
    torch.testing.assert_close(losses["loss_predicate"], expected)
    torch.testing.assert_close(losses["loss_related"], output.losses["loss_related"])

    examples = examples_of(cfg, is_train=False)
    with torch.no_grad():
        answers = model.eval()(examples)
    batch, output = seen[-1]
    start = 0
    for pairs, answer in zip(batch.pairs, answers, strict=True):
        inside = (output.pair_index >= start) & (output.pair_index < start + len(pairs))
        left = pairs[output.pair_index[inside] - start]
        start += len(pairs)
        assert torch.equal(answer["relations"].pairs, left)
        assert len(left) == min(small_heads.BEST_PAIRS, len(pairs))
        probs = output.predicate_logits[inside].softmax(1)
        torch.testing.assert_close(answer["relations"].predicate_probs, probs)


def test_heat_maps_belong_to_the_pairs_that_are_left(head_cfg):
    cfg = head_cfg(small_heads.DroppingHead)
    torch.manual_seed(0)
    model = Trainer.build_model(cfg).eval()
    example = examples_of(cfg, is_train=False)[-1]
    first = model.pairs(model.entities(example))[: small_heads.BEST_PAIRS]
    with torch.no_grad():
        pairs = model([example])[0]["relations"].pairs
        if torch.equal(pairs, first):
            model.head.relatedness.weight.neg_()
            pairs = model([example])[0]["relations"].pairs
    assert not torch.equal(pairs, first)
    rows = list(range(len(pairs)))
    maps = model.relation_activations(example, rows, [0] * len(rows))
    boxes = example["instances"].gt_boxes.tensor
    for pair, heat in zip(pairs, maps, strict=True):
        x1, y1 = boxes[pair][:, :2].amin(0).tolist()
        x2, y2 = boxes[pair][:, 2:].amax(0).tolist()
        y, x = heat.nonzero().float().unbind(1)
        assert (x * 4 + 4 >= x1).all() and (x * 4 <= x2).all()
        assert (y * 4 + 4 >= y1).all() and (y * 4 <= y2).all()


def test_classes_that_a_head_decides_are_the_answer(head_cfg):
    cfg = head_cfg(small_heads.SequentialHead, "MODEL.PREDICATE_PRIOR.FREQUENCY_BIAS", True)
    torch.manual_seed(0)
    model = Trainer.build_model(cfg).eval()
    model.set_counts(torch.randint(9, (3, 3, 5)).float())
    seen = watched(model)
    with torch.no_grad():
        answers = model(examples_of(cfg, is_train=False))
        ((batch, output),) = seen
        # The prior is that of the decided classes.
        plain = model.head.predictor.predicates(output.relations)
    decided = output.classes.split(batch.entity_counts)
    probs = output.class_logits.softmax(1).split(batch.entity_counts)
    for classes, rows, answer in zip(decided, probs, answers, strict=True):
        assert torch.equal(answer["instances"].pred_classes, classes)
        expected = torch.stack([row[i] for row, i in zip(rows, classes, strict=True)])
        torch.testing.assert_close(answer["instances"].scores, expected)
    assert not torch.equal(output.classes, output.class_logits[:, :3].argmax(1))
    subjects, objects = output.classes[batch.indices].unbind(1)
    expected = plain + model.head.predictor.prior.log_joint[subjects, objects]
    torch.testing.assert_close(output.predicate_logits, expected)


def test_a_head_without_a_form_that_exports_says_so(head_cfg):
    model = Trainer.build_model(head_cfg(small_heads.SequentialHead))
    with pytest.raises(ValueError, match=r"RelCLIP.*SequentialHead"):
        exportable(model, "relations")
