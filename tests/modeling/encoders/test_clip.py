"""The CLIP adapter against open_clip itself, on small models with random weights."""

import json

import open_clip
import pytest
import torch
import torch.nn.functional as F

from vrd_d2.modeling.encoders.clip import CLIPViT, TextEncoder, load_clip

SMALL = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
VITS = ["ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-H-14"]


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small_clip.json"
    path.write_text(json.dumps(SMALL))
    torch.manual_seed(0)
    return load_clip(str(path))


def dense_reference(visual, images):
    """open_clip's own tokens after ln_post, projected."""
    visual.output_tokens = True
    _, tokens = visual(images)
    visual.output_tokens = False
    return tokens @ visual.proj


def test_equals_open_clip_at_the_native_size(small):
    images = torch.randn(2, 3, 64, 64)
    got = CLIPViT(small.model.visual)(images)["clip"]
    expected = dense_reference(small.model.visual, images).transpose(1, 2).reshape(2, 24, 4, 4)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", VITS)
def test_the_usual_vits(name, tmp_path):
    """The real widths, patches and head sizes; one layer, since depth repeats."""
    config = open_clip.get_model_config(name)
    config["vision_cfg"]["layers"] = config["text_cfg"]["layers"] = 1
    path = tmp_path / f"shallow_{name}.json"
    path.write_text(json.dumps(config))
    backbone = CLIPViT(load_clip(str(path)).model.visual)
    images = torch.randn(1, 3, 224, 224)
    expected = dense_reference(backbone.visual, images)
    got = backbone(images)["clip"]
    torch.testing.assert_close(got.flatten(2).transpose(1, 2), expected, atol=1e-4, rtol=1e-4)
    shape = backbone.output_shape()["clip"]
    assert shape.stride == config["vision_cfg"]["patch_size"] == backbone.size_divisibility
    assert shape.channels == config["embed_dim"] == got.shape[1]
    odd = backbone(torch.randn(1, 3, 101, 155))["clip"]
    assert odd.shape[2:] == (-(-101 // shape.stride), -(-155 // shape.stride))


def test_positions_are_interpolated_to_other_sizes(small):
    """The same image drawn twice as large as a 2x2 grid of constants keeps its layout."""
    backbone = CLIPViT(small.model.visual)
    table = backbone._positions(7, 9)
    grid = small.model.visual.positional_embedding[1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, size=(7, 9), mode="bicubic")
    torch.testing.assert_close(table[1:].T.reshape(32, 7, 9), expected[0])
    torch.testing.assert_close(table[0], small.model.visual.positional_embedding[0])


def test_features_do_not_depend_on_batch_mates(small):
    backbone = CLIPViT(small.model.visual)
    sizes = [(64, 64), (50, 96), (64, 60), (33, 170), (49, 90)]
    images = [torch.randn(3, *size) for size in sizes]
    together = backbone.maps(images)
    for image, feature_map in zip(images, together, strict=True):
        alone = backbone(image[None])["clip"][0]
        torch.testing.assert_close(feature_map, alone, atol=1e-5, rtol=1e-5)


def test_frozen_under_train(small):
    backbone = CLIPViT(small.model.visual)
    assert backbone.train() is backbone
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not backbone(torch.randn(1, 3, 64, 64))["clip"].requires_grad


def test_text_encoder_equals_open_clip(small):
    texts = ["a photo of a man.", "a dog", "a photo of a man riding a very tall brown horse"]
    got = TextEncoder(small)(texts)
    expected = F.normalize(small.model.encode_text(small.tokenizer(texts)), dim=-1)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)


def test_text_is_encoded_once(small, monkeypatch):
    encoder = TextEncoder(small, batch_size=2)
    seen = []
    original = encoder._encode
    monkeypatch.setattr(encoder, "_encode", lambda t: seen.append(len(t)) or original(t))
    first = encoder(["a", "b", "a", "c"])
    assert sum(seen) == 3 and torch.equal(first[0], first[2])
    second = encoder(["c", "a"])
    assert sum(seen) == 3 and torch.equal(second, first[[3, 0]])


def test_weights_from_a_local_path(small, tmp_path):
    weights = tmp_path / "weights.pt"
    torch.save(small.model.state_dict(), weights)
    torch.manual_seed(1)
    loaded = load_clip(str(tmp_path / "small_clip.json"), str(weights))
    for name, value in small.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value), name


@pytest.mark.parametrize(
    "name, pretrained, message",
    [
        ("ViT-B-23", "", r"MODEL\.CLIP\.NAME.*ViT-B-32"),
        ("ViT-B-32", "no_such_tag", r"MODEL\.CLIP\.PRETRAINED.*no_such_tag.*openai"),
        ("missing.json", "", r"MODEL\.CLIP\.NAME.*missing\.json"),
    ],
)
def test_bad_names(name, pretrained, message):
    with pytest.raises(ValueError, match=message):
        load_clip(name, pretrained)


def test_config_without_text_is_refused(tmp_path):
    path = tmp_path / "broken.json"
    path.write_text('{"embed_dim": 3}')
    with pytest.raises(ValueError, match=r"MODEL\.CLIP\.NAME.*broken\.json"):
        load_clip(str(path))


def test_weights_of_another_model_are_refused(small, tmp_path):
    weights = tmp_path / "other.pt"
    torch.save({"nothing": torch.zeros(2)}, weights)
    with pytest.raises(ValueError, match=r"MODEL\.CLIP\.PRETRAINED.*other\.pt"):
        load_clip(str(tmp_path / "small_clip.json"), str(weights))


def test_a_convolutional_tower_is_refused():
    visual = open_clip.create_model("RN50").visual
    with pytest.raises(ValueError, match="VisionTransformer"):
        CLIPViT(visual)


def test_an_embedding_does_not_depend_on_the_texts_beside_it(small):
    """To the last bit, on the CPU: after a resume the cache has others."""
    objects, predicates = ("man", "tall tree", "big red car"), ("on", "in front of")
    texts = [f"a photo of a {a} {b} a {c}." for a in objects for b in predicates for c in objects]
    together = TextEncoder(small)(texts)
    for start in (0, 5, 11):
        others = TextEncoder(small)([*texts[start:], "on"])
        assert torch.equal(others[:-1], together[start:])
    alone = torch.cat([TextEncoder(small)([text]) for text in texts])
    assert torch.equal(alone, together)
