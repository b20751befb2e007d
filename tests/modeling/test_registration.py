"""Imports of the package of models, what it registers, and the abilities of models."""

import subprocess
import sys

import pytest
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY

import vrd_d2.modeling
from vrd_d2.engine.trainer import Trainer
from vrd_d2.modeling import registration  # noqa: F401
from vrd_d2.modeling.relation_heads.base import RELATION_HEAD_REGISTRY


def loaded(statement, *modules):
    """Return those of the modules that are loaded after a statement, in a fresh interpreter."""
    code = f"import sys; {statement}; print([m for m in {modules} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return eval(done.stdout)


def test_registration_registers_everything_and_loads_no_encoder():
    for name in ("RelCLIP", "UnionCLIP", "FrequencyBaseline"):
        assert name in META_ARCH_REGISTRY
    assert "RelCLIPHead" in RELATION_HEAD_REGISTRY
    assert "build_clip_vit_backbone" in BACKBONE_REGISTRY
    heavy = ("open_clip", "timm", "transformers", "sentence_transformers")
    assert loaded("import vrd_d2.modeling.registration", *heavy) == []


def test_the_package_itself_loads_no_model():
    """Its parent aside, which is put in the way as an empty package."""
    parent = (
        "import types; parent = types.ModuleType('vrd_d2'); "
        f"parent.__path__ = {list(vrd_d2.__path__)}; sys.modules['vrd_d2'] = parent; "
    )
    heavy = ("torch", "detectron2", "open_clip", "vrd_d2.modeling.relclip")
    assert loaded(parent + "import vrd_d2.modeling", *heavy) == []


def test_every_public_name_is_there():
    for name in vrd_d2.modeling.__all__:
        assert getattr(vrd_d2.modeling, name).__name__ == name
        assert name in dir(vrd_d2.modeling)
    with pytest.raises(AttributeError, match="no_such_name"):
        vrd_d2.modeling.no_such_name  # noqa: B018


@pytest.mark.parametrize(
    ("config", "heat_maps", "vocabulary", "counts", "exports"),
    [
        ("relclip_predcls.yaml", True, False, False, True),
        ("unionclip_mlp.yaml", False, True, False, False),
        ("quickstart/frequency_predcls.yaml", False, False, False, False),
    ],
)
def test_capabilities(make_cfg, config, heat_maps, vocabulary, counts, exports):
    model = Trainer.build_model(make_cfg(config))
    assert model.has_heat_maps == heat_maps == hasattr(model, "relation_activations")
    assert model.open_vocabulary == vocabulary == hasattr(model, "with_vocabulary")
    assert model.needs_counts == counts
    assert (model.export_problem is None) == exports


def test_a_prior_needs_counts(make_cfg):
    cfg = make_cfg("relclip_predcls.yaml", "MODEL.PREDICATE_PRIOR.FREQUENCY_BIAS", True)
    assert Trainer.build_model(cfg).needs_counts
