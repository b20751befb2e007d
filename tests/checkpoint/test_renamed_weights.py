"""Checkpoints from before relation heads were made of features, context and predictor."""

from pathlib import Path

import pytest
import torch

from vrd_d2.checkpoint.checkpointer import load_weights
from vrd_d2.checkpoint.renamed_weights import RENAMED, with_new_names
from vrd_d2.engine.trainer import Trainer

LAYERS = 2
LINEAR = ("weight", "bias")


def old_adaptor(name):
    """Return the parameters of an adaptor under their old names, in their old order."""
    parts = [f"position.{i}.{x}" for i in (0, 2) for x in LINEAR]
    parts += ["fc_visual.weight", *(f"fc_position.{x}" for x in LINEAR)]
    for layer in range(LAYERS):
        parts += [f"attention.{layer}.{m}.{x}" for m in ("norm", "qkv", "out") for x in LINEAR]
    return [f"head.{name}_adaptor.{part}" for part in parts]


def old_parameters(*, classifier):
    """Return all names of the parameters of a head, as the optimizer numbered them."""
    names = old_adaptor("relation") + [f"head.predicate_classifier.{x}" for x in LINEAR]
    names += old_adaptor("entity")
    return names + [f"head.class_classifier.{x}" for x in LINEAR] * classifier


def with_old_names(weights):
    """Return weights as the version before would have named them."""
    inverse = {new: old for old, new in RENAMED.items()}
    renamed = {}
    for name, weight in weights.items():
        new = next((prefix for prefix in inverse if name.startswith(prefix)), "")
        renamed[inverse.get(new, "") + name.removeprefix(new)] = weight
    return renamed


def train(cfg, *, resume=False):
    torch.manual_seed(0)
    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer.checkpointer.model.state_dict()


@pytest.mark.parametrize("task, classifier", [("predcls", False), ("sgcls", True)])
def test_parameters_have_their_old_order(make_cfg, task, classifier):
    """By which states of optimizers are numbered."""
    model = Trainer.build_model(make_cfg(f"relclip_{task}.yaml"))
    names = [name for name, _ in model.named_parameters() if name.startswith("head.")]
    old = with_new_names(dict.fromkeys(old_parameters(classifier=classifier)), ())
    assert names == list(old)


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_a_run_of_before_resumes(make_cfg, tmp_path, optimizer):
    options = (
        *("SOLVER.OPTIMIZER", optimizer, "MODEL.RELATION_HEAD.CLASS_EMBEDDING", True),
        *("MODEL.PREDICATE_PRIOR.FREQUENCY_BIAS", True),
    )
    cfg = make_cfg("relclip_sgcls.yaml", *options)
    unbroken = train(cfg)
    stored = torch.load(Path(cfg.OUTPUT_DIR) / "model_0000001.pth")
    stored["model"] = with_old_names(stored["model"])
    assert set(old_parameters(classifier=True)) <= stored["model"].keys()
    assert {"head.class_table", "head.prior.counts"} <= stored["model"].keys()
    folder = tmp_path / "resumed"
    folder.mkdir()
    torch.save(stored, folder / "model_0000001.pth")
    (folder / "last_checkpoint").write_text("model_0000001.pth")
    resumed = train(
        make_cfg("relclip_sgcls.yaml", *options, "OUTPUT_DIR", str(folder)), resume=True
    )
    for name, value in unbroken.items():
        assert torch.equal(value, resumed[name]), name


def test_weights_of_before_load(make_cfg, tmp_path):
    cfg = make_cfg("relclip_predcls.yaml")
    model, other = Trainer.build_model(cfg), Trainer.build_model(cfg)
    torch.save({"model": with_old_names(model.state_dict())}, tmp_path / "old.pth")
    load_weights(other, str(tmp_path / "old.pth"))
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_names_that_the_model_has_stay():
    weights = {"head.prior.counts": 1, "visual.head.prior.counts": 2}
    assert with_new_names(weights, {"head.prior.counts"}) == weights
    assert with_new_names(weights, ()) == {
        "head.predictor.prior.counts": 1,
        "visual.head.prior.counts": 2,
    }
