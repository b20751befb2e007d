"""On a GPU the models say and learn what they do on the CPU; several GPUs are not needed."""

import numpy as np
import pytest
import torch
from detectron2.engine import DefaultTrainer
from exported_models import REPOSITORY, build
from union_models import DEEPER_CLIP, close, examples_of, gradients, union_config

from vrd_d2 import Predictor
from vrd_d2.engine.trainer import Trainer
from vrd_d2.modeling.union_clip import model as union_clip
from vrd_d2.modeling.union_clip.crops import cut_crops

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

TOLERANCE = {"atol": 1e-4, "rtol": 1e-3}
# Config and overrides of every path that makes tensors of its own.
MODELS = {
    "predcls": ("relclip_predcls.yaml",),
    "sgcls": ("relclip_sgcls.yaml",),
    # All pairs, as each device has random numbers of its own.
    "sgdet": ("quickstart/relclip_sgdet.yaml", "MODEL.RELATION.BATCH_SIZE_PER_IMAGE", 10**6),
    "subject attention": ("relclip_predcls.yaml", "MODEL.RELATION_HEAD.ATTENTION", "subject"),
    "axial attention": ("relclip_predcls.yaml", "MODEL.RELATION_HEAD.ATTENTION", "axial"),
    "extras": (
        "relclip_predcls.yaml",
        *(
            "MODEL.RELATION_HEAD.CLASS_EMBEDDING",
            True,
            "MODEL.PREDICATE_PRIOR.FREQUENCY_BIAS",
            True,
        ),
        *("MODEL.RCL.MEMORY_BANK", 64),
    ),
}


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    """Convolutions are TF32 by default, with three digits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def both(cfg):
    """Build the same model on the CPU and on the GPU."""
    models = []
    for device in ("cpu", "cuda"):
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.DEVICE = device
        torch.manual_seed(0)
        models.append(DefaultTrainer.build_model(cfg))
    models[1].load_state_dict(models[0].state_dict())
    return models


def on_cpu(values):
    return {name: value.detach().cpu() for name, value in values.items()}


def assert_alike(cfg):
    """Losses, gradients and predictions."""
    own, found = both(cfg)
    assert found.device.type == "cuda" and own.device.type == "cpu"
    examples = examples_of(cfg)
    losses = [model.train()(examples) for model in (own, found)]
    close(on_cpu(losses[1]), on_cpu(losses[0]), **TOLERANCE)
    close(on_cpu(gradients(found, losses[1])), gradients(own, losses[0]), **TOLERANCE)
    examples = examples_of(cfg, is_train=False)
    with torch.no_grad():
        for a, b in zip(own.eval()(examples), found.eval()(examples), strict=True):
            relations = a["relations"].get_fields(), b["relations"].to("cpu").get_fields()
            assert torch.equal(relations[1].pop("pairs"), relations[0].pop("pairs"))
            close(relations[1], relations[0], **TOLERANCE)


@pytest.mark.parametrize("name", MODELS)
def test_relclip(make_cfg, name):
    assert_alike(make_cfg(*MODELS[name]))


def test_crops():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 90, 130), np.uint8)
    image, windows = torch.from_numpy(pixels), torch.tensor([[0, 0, 130, 90], [20, 5, 60, 85]])
    own, found = (
        cut_crops(image.to(device), windows, (64, 48), mode="squash") for device in ("cpu", "cuda")
    )
    assert (own.int() - found.cpu().int()).abs().max() <= 1


@pytest.mark.parametrize("way", ["mlp", "attention"])
def test_union_clip(make_cfg, tmp_path, monkeypatch, way):
    """On the same crops: a grey level is much to random weights."""

    def cut_on_gpu(image, *args, **options):
        return cut_crops(image.cuda(), *args, **options).to(image.device)

    monkeypatch.setattr(union_clip, "cut_crops", cut_on_gpu)
    assert_alike(union_config(make_cfg, tmp_path, way, clip=DEEPER_CLIP))


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_training(make_cfg, precision):
    amp = ("SOLVER.AMP.ENABLED", precision != "float32", "SOLVER.AMP.PRECISION", precision)
    cfg = make_cfg("relclip_sgcls.yaml", "MODEL.DEVICE", "cuda", *amp)
    trainer = Trainer(cfg)
    before = {n: p.clone() for n, p in trainer._trainer.model.named_parameters()}
    trainer.train()
    for name, parameter in trainer._trainer.model.named_parameters():
        assert parameter.isfinite().all()
        assert parameter.requires_grad or torch.equal(parameter, before[name])
    results = Trainer.test(cfg, trainer._trainer.model)["relations"]
    assert 0 <= results["R@100"] <= 100


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """SGDet on the shipped detector, its relation head random."""
    _, model = build("relclip_sgdet.yaml")
    path = tmp_path_factory.mktemp("cuda") / "model.pth"
    torch.save({"model": model.state_dict()}, path)
    return path


def test_predictions_and_heat_maps(checkpoint):
    config = REPOSITORY / "configs/quickstart/relclip_sgdet.yaml"
    own, found = (
        Predictor(config, checkpoint, overrides=["MODEL.DEVICE", device])
        for device in ("cpu", "cuda")
    )
    coarse = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    image = np.kron(coarse, np.ones((40, 40, 1), np.uint8))
    boxes = [[10, 20, 120, 200], [90, 40, 250, 180], [30, 100, 300, 230]]
    options = {"boxes": boxes, "labels": ["man", "horse", "hat"], "top_k": 6}
    graphs = [predictor.explain(image, choose=2, **options) for predictor in (own, found)]
    (a, own_maps), (b, maps) = graphs
    assert b.triplets == a.triplets and len(a.triplets) == 6
    np.testing.assert_allclose(b.scores, a.scores, atol=1e-4)
    assert maps.keys() == own_maps.keys() == {0, 1}
    for i, heat in maps.items():
        np.testing.assert_allclose(heat, own_maps[i], atol=1e-2)
    assert len(found(image, min_score=0).boxes) == len(own(image, min_score=0).boxes)
