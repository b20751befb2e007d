"""Weights that were trained with another activation than the model has do not load unnoticed."""

import hashlib
import json

import open_clip
import pytest
import torch
from conftest import SMALL_CLIP

from vrd_d2.modeling.encoders import clip_activation
from vrd_d2.modeling.encoders.clip import load_clip
from vrd_d2.modeling.encoders.clip_activation import check_activation


@pytest.fixture
def weights(tmp_path):
    """Random weights of the small CLIP, which load into it whatever its activation."""
    path = tmp_path / "weights.pt"
    config = tmp_path / "source_clip.json"
    config.write_text(json.dumps(SMALL_CLIP))
    torch.save(load_clip(str(config)).model.state_dict(), path)
    return path


def model_config(folder, name="small_activation", **stated):
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**SMALL_CLIP, **stated}))
    return path


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.name.startswith("vrd_d2.modeling")]


@pytest.mark.parametrize("stated", [{}, {"quick_gelu": True}, {"quick_gelu": False}])
def test_what_cannot_be_known_is_said_unless_the_config_states_it(
    tmp_path, weights, caplog, stated
):
    config = model_config(tmp_path, f"stated_{stated.get('quick_gelu')}", **stated)
    load_clip(str(config), str(weights))
    found = warnings(caplog)
    assert len(found) == (not stated)
    for line in found:
        assert all(part in line for part in (str(weights), str(config), "MODEL.CLIP", "quick_gelu"))


@pytest.mark.parametrize(
    ("name", "other"), [("ViT-B-32", "ViT-B-32-quickgelu"), ("ViT-B-32-quickgelu", "ViT-B-32")]
)
def test_both_kinds_of_a_name_are_named(weights, caplog, name, other):
    check_activation(name, weights)
    (line,) = warnings(caplog)
    assert f"set MODEL.CLIP.NAME to {other}" in line and str(weights) in line


@pytest.mark.parametrize("quick", [True, False])
def test_the_config_beside_weights_of_the_hub_is_believed(tmp_path, weights, caplog, quick):
    file = weights.rename(tmp_path / "open_clip_pytorch_model.bin")
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": {"embed_dim": 16, **({"quick_gelu": True} if quick else {})}})
    )
    same = model_config(tmp_path, f"same_{quick}", quick_gelu=quick)
    load_clip(str(same), str(file))
    other = model_config(tmp_path, f"other_{quick}", quick_gelu=not quick)
    with pytest.raises(ValueError, match=r"open_clip_config\.json.*\"quick_gelu\": ") as raised:
        load_clip(str(other), str(file))
    assert f'"quick_gelu": {str(quick).lower()} in {other}' in str(raised.value)
    assert not warnings(caplog)


@pytest.mark.parametrize(
    ("file", "right"),
    [
        ("vit_b_32-quickgelu-laion400m_e32-46683a32.pt", "ViT-B-32-quickgelu"),
        ("vit_b_16-laion400m_e32-55e67d44.pt", "ViT-B-16"),
    ],
)
def test_released_files_are_known_by_name(weights, file, right):
    file = weights.rename(weights.with_name(file))
    check_activation(right, file)
    wrong = right.removesuffix("-quickgelu") if "quick" in right else f"{right}-quickgelu"
    with pytest.raises(ValueError, match=rf"{file.name}.*MODEL\.CLIP\.NAME to {right}$"):
        check_activation(wrong, file)


def test_openai_s_short_names_are_believed_by_hash(weights, caplog, monkeypatch):
    file = weights.rename(weights.with_name("ViT-B-32.pt"))
    check_activation("ViT-B-32", file)  # any file may be called so
    assert len(warnings(caplog)) == 1
    known = open_clip.get_pretrained_cfg("ViT-B-32", "openai")
    (digest,) = [part for part in known["url"].split("/") if len(part) == 64]
    monkeypatch.setattr(clip_activation, "_sha256", lambda _: digest)
    with pytest.raises(ValueError, match=r"QuickGELU.*MODEL\.CLIP\.NAME to ViT-B-32-quickgelu"):
        check_activation("ViT-B-32", file)
    monkeypatch.undo()
    assert clip_activation._sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_weights_of_openai_s_form(weights):
    content = torch.load(weights)
    content |= {name: torch.tensor(1) for name in ("input_resolution", "context_length")}
    torch.save({**content, "vocab_size": torch.tensor(49408)}, weights)
    with pytest.raises(ValueError, match=r"trained with QuickGELU.*MODEL\.CLIP\.NAME"):
        check_activation("ViT-B-32", weights)
    check_activation("ViT-B-32-quickgelu", weights)


def test_a_torchscript_archive_is_refused_with_the_remedy(tmp_path):
    path = tmp_path / "archive.pt"
    traced = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    torch.jit.save(traced, path)
    with pytest.raises(ValueError, match=r"archive\.pt.*TorchScript.*MODEL\.CLIP\.PRETRAINED"):
        load_clip("ViT-B-32", str(path))


def test_one_kind_of_model_and_broken_files_say_nothing(weights, caplog):
    check_activation("ViT-B-16-SigLIP", weights)
    weights.write_bytes(b"torn")
    with pytest.raises(ValueError, match="could not be loaded"):
        load_clip("RN50", str(weights))
