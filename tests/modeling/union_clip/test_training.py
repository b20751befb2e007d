"""Training of UnionCLIP: what is trained and at what cost, several processes, every tower."""

import itertools
import json
from functools import partial
from pathlib import Path

import open_clip
import pytest
import torch
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel
from union_models import (
    DEEPER_CLIP,
    SMALL_RESNET,
    WAYS,
    build,
    close,
    examples_of,
    gradients,
    union_config,
)

from vrd_d2.engine.build import build_trained_model
from vrd_d2.engine.trainer import Trainer
from vrd_d2.modeling import UnionCLIP
from vrd_d2.modeling.encoders.clip import load_clip


@pytest.fixture
def make(make_cfg, tmp_path):
    """(way, overrides...) -> config of a small UnionCLIP."""
    return partial(union_config, make_cfg, tmp_path)


# ---- What is trained, and at what cost -----------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_only_what_the_way_names_is_trained(make, way):
    cfg = make(way, "SOLVER.BASE_LR", 0.01)
    trainer = Trainer(cfg)
    model = trainer._trainer.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer.train()
    part = ".adapter." if way == "mlp" else ".upper."
    changed = {n for n, v in model.state_dict().items() if not torch.equal(before[n], v)}
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert changed == trained == {n for n in before if part in n}
    if way == "attention":
        blocks = {".".join(n.split(".")[:4]) for n in trained if ".blocks." in n}
        assert len(blocks) == 4  # two of three, on either side


def test_an_mlp_starts_at_zero_shot_clip(make):
    examples = examples_of(make("none"))
    plain = build(make("none")).eval()(examples)
    residual = build(make("mlp")).eval()(examples)
    alone = build(make("mlp", "MODEL.UNION_CLIP.MLP_RESIDUAL", False)).eval()(examples)
    probs = [output[0]["relations"].predicate_probs for output in (plain, residual, alone)]
    torch.testing.assert_close(probs[0], probs[1])
    assert (probs[0] - probs[2]).abs().max() > 1e-3


@pytest.mark.parametrize("way", WAYS)
def test_chunks_change_neither_loss_nor_gradient(make, way):
    cfg = make(way)
    chunked = ["MODEL.UNION_CLIP.CROP_CHUNK", 2, "MODEL.UNION_CLIP.TEXT_CHUNK", 3]
    whole, parts = build(cfg).train(), build(make(way, *chunked)).train()
    parts.load_state_dict(whole.state_dict())
    if way == "mlp":  # beyond its start at zero
        with torch.no_grad():
            for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
                if a.requires_grad:
                    a.add_(0.05 * torch.randn_like(a))
                    b.copy_(a)
    examples = examples_of(cfg)
    expected, found = whole(examples), parts(examples)
    close(found, expected, atol=1e-5, rtol=1e-5)
    close(gradients(parts, found), gradients(whole, expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_cached_states_change_nothing(make, way, tmp_path):
    cfg = make(way, "MODEL.UNION_CLIP.TEXT_CACHE_GB", 0.0)
    folder = str(tmp_path / "crops")
    examples = examples_of(cfg)
    plain = build(cfg).train()
    expected = plain(examples)
    wanted = gradients(plain, expected)
    texts_cached = build(make(way)).train()
    crops_cached = build(make(way, "MODEL.VISUAL.FEATURE_CACHE", folder)).train()
    for _ in range(2):
        found = texts_cached(examples)
        close(found, expected, atol=1e-6, rtol=1e-6)
        close(gradients(texts_cached, found), wanted, atol=1e-6, rtol=1e-5)
        found = crops_cached(examples)  # half precision on disk
        close(found, expected, atol=2e-3, rtol=2e-3)
    # The second round runs neither lower part.
    texts_cached.phrases.lower = crops_cached.crops.lower = None
    texts_cached.phrases._states = None
    crops_cached.crops._states = None
    crops_cached(examples)


def test_cached_texts_are_forgotten_with_other_weights(make):
    cfg = make("attention")
    model, other = build(cfg).train(), build(cfg).train()
    examples = examples_of(cfg)
    model(examples)
    torch.manual_seed(5)
    weights = {n: v + 0.1 * torch.randn_like(v) for n, v in model.state_dict().items()}
    for one in (model, other):
        one.load_state_dict(weights)
    close(model(examples), other(examples))


def test_the_text_cache_stays_within_its_memory(make):
    model = build(make("attention", "MODEL.UNION_CLIP.TEXT_CACHE_GB", 3000 / 2**30)).train()
    model(examples_of(make("attention")))
    cached = model.phrases._cached.values()
    assert 0 < sum(state.nbytes for state in cached) <= 3000
    assert all(state.untyped_storage().nbytes() == state.nbytes for state in cached)


@pytest.mark.parametrize("clip", [DEEPER_CLIP, SMALL_RESNET], ids=["vit", "resnet"])
@pytest.mark.parametrize("way", WAYS)
def test_images_without_any_pair_still_give_every_gradient(make, way, clip):
    cfg = make(way, clip=clip)
    model = build(cfg).train()
    lonely = [example for example in examples_of(cfg) if example["image_id"] == 4]
    losses = model(lonely)
    assert all(loss == 0 for loss in losses.values())
    assert all((grad == 0).all() for grad in gradients(model, losses).values())


def test_a_region_is_drawn_with_all_its_pairs(make):
    cfg = make("mlp", "MODEL.RELATION.BATCH_SIZE_PER_IMAGE", 1)
    model = build(cfg).train()
    example = next(e for e in examples_of(cfg) if e["image_id"] == 3)  # a box inside another
    entities = model.entities(example)
    sample = model.training_pairs(example, entities)
    assert sample.pairs.tolist() == [[0, 1], [1, 0]]


# ---- Several processes ---------------------------------------------------------------------------


class OneBatch(torch.nn.Module):
    """The losses of a model as DDP sees them, with a share of the images."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, examples):
        return self.model(examples)


SPLITS = [((0, 1, 4), (2, 3)), ((0, 1, 4), (3,)), ((3,), (3,)), ((0,), (1, 4))]


def one_rank(cfg, examples, folder):
    results = []
    for split in SPLITS:
        # Without find_unused_parameters.
        model = DistributedDataParallel(OneBatch(build(cfg).train()))
        losses = model([examples[index] for index in split[comm.get_rank()]])
        grads = gradients(model.module.model, losses)
        results.append(({name: loss.detach() for name, loss in losses.items()}, grads))
    torch.save(results, Path(folder) / f"{comm.get_rank()}.pt")


def test_two_processes_equal_one_on_the_whole_batch(make, tmp_path, launch_on_cpu):
    cfg = make("attention", "MODEL.UNION_CLIP.TEXT_CHUNK", 7)
    examples = examples_of(cfg)
    launch_on_cpu(one_rank, 2, cfg, examples, str(tmp_path))
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for number, split in enumerate(SPLITS):
        model = build(cfg).train()
        losses = model([examples[index] for index in itertools.chain(*split)])
        mean = {
            name: (ranks[0][number][0][name] + ranks[1][number][0][name]) / 2 for name in losses
        }
        close(mean, {n: loss.detach() for n, loss in losses.items()}, atol=1e-5, rtol=1e-5)
        expected = gradients(model, losses)
        for rank in ranks:
            close(rank[number][1], expected, atol=1e-5, rtol=1e-4)


# ---- Every tower of Table 2 ----------------------------------------------------------------------

TOWERS = {
    "RN50": {"vision_cfg": {"layers": [3, 4, 6, 3]}},
    "RN101": {"vision_cfg": {"layers": [1, 1, 2, 1]}},
    "ViT-B-16": {"vision_cfg": {"layers": 12}},
    "ViT-B-32": {"vision_cfg": {"layers": 12}},
    "ViT-L-14": {"vision_cfg": {"layers": 2}},
    "ViT-H-14": {"vision_cfg": {"layers": 2}},
}


@pytest.mark.parametrize("name", TOWERS)
def test_every_tower_is_split_and_trained(name, make_cfg, tmp_path, monkeypatch):
    config = open_clip.get_model_config(name)
    config["vision_cfg"].update(TOWERS[name]["vision_cfg"])
    config["text_cfg"]["layers"] = 2
    path = tmp_path / f"short_{name}.json"
    path.write_text(json.dumps(config))
    cfg = make_cfg(
        "unionclip_attention.yaml",
        *("MODEL.CLIP.NAME", str(path), "MODEL.UNION_CLIP.TRAINED_BLOCKS", 2),
        *("MODEL.RELATION.BATCH_SIZE_PER_IMAGE", 2),
    )
    torch.manual_seed(0)
    parts = load_clip(str(path))
    clip = parts.model
    # One set of weights in both, since large ones take long to draw.
    monkeypatch.setattr("vrd_d2.modeling.union_clip.model.load_clip", lambda *_, **__: parts)
    model = UnionCLIP(cfg)
    crops = torch.randint(256, (2, 3, *model.crops.size), dtype=torch.uint8)
    texts = ["dog on man", "a much longer text than the other one"]
    with torch.no_grad():
        pixels = (crops / 255 - model.crops.mean) / model.crops.std
        torch.testing.assert_close(
            model.crops.embed(model.crops.states(crops)),
            clip.encode_image(pixels, normalize=True),
            atol=1e-5,
            rtol=1e-4,
        )
        torch.testing.assert_close(
            model.phrases(texts),
            clip.encode_text(open_clip.get_tokenizer("ViT-B-32")(texts), normalize=True),
            atol=1e-5,
            rtol=1e-4,
        )
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    before = {n: p.detach().clone() for n, p in trained.items()}
    optimizer = torch.optim.SGD(trained.values(), lr=0.1)
    loss = sum(model.train()(examples_of(cfg)[:1]).values())
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss) and all(torch.isfinite(p).all() for p in trained.values())
    assert not any(torch.equal(p, before[n]) for n, p in trained.items() if p.grad.any())
    # A random ResNet's branches begin at zero, as batch norms do there.
    assert sum(bool(p.grad.any()) for p in trained.values()) > 0.6 * len(trained)
    for buffer_name, buffer in model.named_buffers():  # statistics of batch norms
        assert torch.equal(buffer, buffers[buffer_name]), buffer_name


def test_training_learns_and_its_checkpoint_answers_alike(make, tmp_path):
    cfg = make(
        "attention",
        *("SOLVER.MAX_ITER", 60, "SOLVER.BASE_LR", 0.003, "SOLVER.IMS_PER_BATCH", 5),
        *("SOLVER.CHECKPOINT_PERIOD", 1000),
    )
    Path(cfg.OUTPUT_DIR).mkdir()
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    trainer.train()
    results = Trainer.test(cfg, trainer.model)
    assert results["relations"]["top1"] >= 60
    again = cfg.clone()
    again.MODEL.WEIGHTS = str(Path(cfg.OUTPUT_DIR) / "model_final.pth")
    torch.manual_seed(1)  # other random towers, all of which the checkpoint replaces
    loaded = build_trained_model(again)
    examples = examples_of(cfg, is_train=False)
    for a, b in zip(trainer.model.eval()(examples), loaded(examples), strict=True):
        torch.testing.assert_close(a["relations"].predicate_probs, b["relations"].predicate_probs)
