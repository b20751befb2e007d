"""UnionCLIP: the table's losses against the paper's equations, and inference."""

import itertools
import json
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY_OBJECTS, TINY_PREDICATES
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from union_models import WAYS, build, examples_of, gradients, union_config

from vrd_d2.engine.build import build_trained_model
from vrd_d2.engine.trainer import Trainer
from vrd_d2.inference.predictor import Predictor
from vrd_d2.modeling.encoders.clip import load_clip
from vrd_d2.modeling.union_clip.crops import cut_crops
from vrd_d2.modeling.union_clip.loss import table_losses


@pytest.fixture
def make(make_cfg, tmp_path):
    """(way, overrides...) -> config of a small UnionCLIP."""
    return partial(union_config, make_cfg, tmp_path)


# ---- The two equations ---------------------------------------------------------------------------


def by_the_equations(regions, texts, labels, scale):
    """L_v-CE and L_l-CE, term by term."""
    n, m = labels.shape
    d = [[scale * (regions[i] @ texts[j]) for j in range(m)] for i in range(n)]
    visual = language = 0.0
    for i in range(n):
        for j in range(m):
            if labels[i, j]:
                over_texts = sum(d[i][k].exp() for k in range(m))
                over_regions = sum(d[k][j].exp() for k in range(n))
                visual = visual - (d[i][j].exp() / over_texts).log()
                language = language - (d[i][j].exp() / over_regions).log()
    return visual / n, language / m


def test_losses_and_gradients_equal_the_two_equations():
    generator = torch.Generator().manual_seed(0)
    regions, texts = (
        F.normalize(torch.randn(shape, generator=generator), dim=-1).requires_grad_()
        for shape in [(5, 6), (9, 6)]
    )
    # Several texts of a region, several regions of a text, a text and a region without any.
    positives = torch.tensor([[0, 1], [0, 4], [1, 4], [2, 8], [4, 8], [4, 0]])
    labels = torch.zeros(5, 9)
    labels[positives[:, 0], positives[:, 1]] = 1
    scale = torch.tensor(7.0)
    found = table_losses(regions, texts, positives, scale=scale, text_sizes=[9])
    expected = by_the_equations(regions, texts, labels, scale)
    torch.testing.assert_close(torch.stack(list(found.values())), torch.stack(expected))
    for name, value in zip(found, expected, strict=True):
        for a, b in zip(
            torch.autograd.grad(found[name], (regions, texts), retain_graph=True),
            torch.autograd.grad(value, (regions, texts), retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def reference_table(cfg, clip, examples):
    """Make the table of a batch with open_clip's forward pass, each pair and string by hand."""
    parts = load_clip(cfg.MODEL.CLIP.NAME)
    crops, truths, class_pairs = [], [], set()
    for example in examples:
        boxes = example["instances"].gt_boxes.tensor.tolist()
        classes = example["instances"].gt_classes.tolist()
        regions = {}
        for i, j in itertools.permutations(range(len(boxes)), 2):
            a, b = boxes[i], boxes[j]
            low = [math.floor(min(a[k], b[k])) for k in (0, 1)]
            high = [math.ceil(max(a[k], b[k])) for k in (2, 3)]
            regions.setdefault((*low, *high), [])
            for s, o, p in example["relations"].tolist():
                if (s, o) == (i, j):
                    regions[(*low, *high)].append((classes[i], p, classes[j]))
                    class_pairs.add((classes[i], classes[j]))
        image = example["image"].flip(0)  # BGR -> RGB
        for window, truth in regions.items():
            crops.append(cut_crops(image, torch.tensor([window]), (64, 64), mode="squash")[0])
            truths.append(set(truth))
    class_pairs = sorted(class_pairs)
    triples = [(s, p, o) for s, o in class_pairs for p in range(len(TINY_PREDICATES))]
    strings = [f"{TINY_OBJECTS[s]} {TINY_PREDICATES[p]} {TINY_OBJECTS[o]}" for s, p, o in triples]
    labels = torch.zeros(len(crops), len(triples) + 1)
    for row, truth in enumerate(truths):
        for triple in truth:
            labels[row, triples.index(triple)] = 1
        labels[row, -1] = not truth
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (parts.mean, parts.std))
    regions = clip.encode_image((torch.stack(crops) / 255 - mean) / std, normalize=True)
    tokens = parts.tokenizer([*strings, "null relation"])
    texts = clip.encode_text(tokens, normalize=True)
    return regions, texts, labels, clip.logit_scale.exp()


def test_a_batch_is_the_table_of_the_paper(make):
    """Loss and gradients of the attention way against the whole open_clip model under autograd."""
    cfg = make("attention")
    torch.manual_seed(0)
    clip = load_clip(cfg.MODEL.CLIP.NAME).model.requires_grad_(True)
    model = build(cfg).train()
    examples = examples_of(cfg)
    losses = model(examples)
    expected = by_the_equations(*reference_table(cfg, clip, examples))
    torch.testing.assert_close(torch.stack(list(losses.values())), torch.stack(expected))
    found = gradients(model, losses)
    sum(expected).backward()
    visual, text = clip.visual.transformer.resblocks, clip.transformer.resblocks
    pairs = {
        "crops.upper.proj": clip.visual.proj,
        "crops.upper.ln_post.weight": clip.visual.ln_post.weight,
        "crops.upper.blocks.0.mlp.c_fc.weight": visual[1].mlp.c_fc.weight,
        "crops.upper.blocks.1.attn.in_proj_weight": visual[2].attn.in_proj_weight,
        "phrases.upper.text_projection": clip.text_projection,
        "phrases.upper.ln_final.bias": clip.ln_final.bias,
        "phrases.upper.blocks.0.attn.in_proj_weight": text[1].attn.in_proj_weight,
        "phrases.upper.blocks.1.mlp.c_proj.weight": text[2].mlp.c_proj.weight,
    }
    for name, parameter in pairs.items():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-5, rtol=1e-3)


# ---- Inference -----------------------------------------------------------------------------------


@torch.no_grad()
def test_predictions_are_the_cosines_of_crop_and_strings(make):
    """Of every pair, also of classes that no training relation has; encoded one by one."""
    cfg = make("none")
    torch.manual_seed(0)
    parts = load_clip(cfg.MODEL.CLIP.NAME)
    model = build(cfg).eval()
    example = next(e for e in examples_of(cfg, is_train=False) if e["image_id"] == 5)
    boxes, classes = example["instances"].gt_boxes.tensor, example["instances"].gt_classes
    output = model([example])[0]["relations"]
    assert len(output) == 12 and output.predicate_probs.shape == (12, 5)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (parts.mean, parts.std))
    for pair, probs, scores in zip(
        output.pairs.tolist(), output.predicate_probs, output.predicate_scores, strict=True
    ):
        both = boxes[pair]
        window = torch.cat([both[:, :2].amin(0).floor(), both[:, 2:].amax(0).ceil()]).long()
        crop = cut_crops(example["image"].flip(0), window[None], (64, 64), mode="squash")[0]
        s, o = (TINY_OBJECTS[classes[i]] for i in pair)
        tokens = parts.tokenizer([*(f"{s} {p} {o}" for p in TINY_PREDICATES), "null relation"])
        visual = parts.model.encode_image(((crop / 255 - mean) / std)[None], normalize=True)
        logits = parts.model.encode_text(tokens, normalize=True) @ visual[0]
        expected = (logits * parts.model.logit_scale.exp()).softmax(0)
        torch.testing.assert_close(probs, expected, atol=2e-3, rtol=2e-3)
        assert torch.equal(scores, probs[:-1])


def test_an_image_does_not_depend_on_its_batch_mates(make):
    cfg = make("mlp", "MODEL.UNION_CLIP.CROP_CHUNK", 2)
    model = build(cfg).eval()
    examples = examples_of(cfg, is_train=False)
    together = model(examples)
    for example, expected in zip(examples, together, strict=True):
        found = model([example])[0]["relations"]
        assert torch.equal(found.pairs, expected["relations"].pairs)
        torch.testing.assert_close(
            found.predicate_probs, expected["relations"].predicate_probs, atol=1e-6, rtol=1e-5
        )


@torch.no_grad()
@pytest.mark.parametrize("way", ["none", *WAYS])
def test_classes_of_given_boxes_are_zero_shot_clips_whatever_was_trained(make, way):
    cfg = make(way, "MODEL.RELATION.TASK", "sgcls", "MODEL.TEXT.ENTITY_PROMPTS", ["a {object}"])
    torch.manual_seed(0)
    parts = load_clip(cfg.MODEL.CLIP.NAME)
    model = build(cfg).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.3 * torch.randn_like(parameter))
    example = examples_of(cfg, is_train=False)[0]
    instances = model([example])[0]["instances"]
    boxes = example["instances"].gt_boxes.tensor
    windows = torch.cat([boxes[:, :2].floor(), boxes[:, 2:].ceil()], 1).long()
    crops = cut_crops(example["image"].flip(0), windows, (64, 64), mode="squash")
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (parts.mean, parts.std))
    visual = parts.model.encode_image((crops / 255 - mean) / std, normalize=True)
    tokens = parts.tokenizer([f"a {name}" for name in TINY_OBJECTS])
    logits = visual @ parts.model.encode_text(tokens, normalize=True).T
    best = (logits * parts.model.logit_scale.exp()).softmax(-1).max(1)
    assert torch.equal(instances.pred_classes, best.indices)
    torch.testing.assert_close(instances.scores, best.values, atol=1e-4, rtol=1e-3)


def test_sgdet_trains_and_predicts_on_detections(make):
    cfg = make("mlp", "MODEL.RELATION.TASK", "sgdet", base="quickstart/unionclip_mlp.yaml")
    model = build(cfg).train()
    losses = model(examples_of(cfg)[:2])
    assert sum(losses.values()) > 0 and all(
        g.isfinite().all() for g in gradients(model, losses).values()
    )
    found = Instances((96, 96), pred_boxes=Boxes(torch.tensor([[5.0, 5, 60, 60], [30, 9, 80, 90]])))
    found.pred_classes, found.scores = torch.tensor([2, 0]), torch.tensor([0.9, 0.4])
    model.detector.inference = lambda *_, **__: [found]
    output = model.eval()(examples_of(cfg, is_train=False)[:1])[0]
    assert output["instances"].pred_classes.tolist() == [2, 0]
    assert output["instances"].scores.tolist() == pytest.approx([0.9, 0.4])
    assert output["relations"].pairs.tolist() == [[0, 1], [1, 0]]


def test_zero_shot_needs_no_weights_and_takes_any_list_of_names(make, tmp_path):
    cfg = make("none")
    results = Trainer.test(cfg, build_trained_model(cfg))
    assert "top1" in results["relations"]
    names = tmp_path / "own.json"
    names.write_text(json.dumps({"objects": ["cat", "sofa"], "predicates": ["asleep on", "under"]}))
    config = tmp_path / "own.yaml"
    config.write_text(cfg.dump())
    predictor = Predictor(config, overrides=["MODEL.VOCABULARY", str(names)])
    image = DatasetCatalog.get(cfg.DATASETS.TEST[0])[0]["file_name"]
    graph = predictor(image, boxes=[[1, 1, 50, 50], [20, 20, 80, 90]], labels=["cat", "sofa"])
    assert {predicate for _, _, predicate in graph.relations} <= {"asleep on", "under"}
    assert len(graph.relations) == 2


def test_a_model_with_something_to_train_needs_its_weights(make):
    with pytest.raises(ValueError, match=r"MODEL\.WEIGHTS"):
        build_trained_model(make("mlp"))


def test_zero_shot_clip_has_nothing_to_train(make):
    with pytest.raises(ValueError, match=r"MODEL\.UNION_CLIP\.FINETUNE"):
        build(make("none")).train()(examples_of(make("none")))
    with pytest.raises(ValueError, match="UnionCLIP"):
        Trainer(make("none"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (("MODEL.UNION_CLIP.FINETUNE", "all"), r"MODEL\.UNION_CLIP\.FINETUNE.*'all'"),
        (("MODEL.UNION_CLIP.CROP", "warp"), r"MODEL\.UNION_CLIP\.CROP.*'warp'"),
        (("MODEL.UNION_CLIP.TRAINED_BLOCKS", 4), r"MODEL\.UNION_CLIP\.TRAINED_BLOCKS.*4.*3"),
        (("MODEL.UNION_CLIP.TRAINED_BLOCKS", 0), r"MODEL\.UNION_CLIP\.TRAINED_BLOCKS.*0"),
        (("MODEL.UNION_CLIP.CROP_CHUNK", 0), r"MODEL\.UNION_CLIP\.CROP_CHUNK.*0"),
    ],
)
def test_wrong_settings_are_named(make, override, message):
    with pytest.raises(ValueError, match=message):
        build(make("attention", *override))
