"""Cached visual maps: the same results, no second encoding, and never those of another encoder."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model

from vrd_d2.config import load_config
from vrd_d2.data.dataset_mapper import RelationMapper
from vrd_d2.modeling import RelCLIP
from vrd_d2.modeling.encoders.feature_cache import FeatureCache, fingerprint


def images(count):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(256, (3, 8 + i, 10), generator=generator, dtype=torch.uint8)
        for i in range(count)
    ]


class Encoder:
    def __init__(self, images):
        self.images, self.calls = images, []

    def __call__(self, indices):
        self.calls.append(indices)
        return [self.images[i].float()[:, ::2, ::2] / 7 for i in indices]


def test_each_image_is_encoded_once(tmp_path):
    inputs = images(3)
    encoder = Encoder(inputs)
    cache = FeatureCache(tmp_path / "maps", "a")
    first = cache.get(inputs[:2], encoder)
    again = cache.get(inputs, encoder)
    assert encoder.calls == [[0, 1], [2]]
    for a, b, image in zip(first, again, inputs, strict=False):
        assert torch.equal(a, b) and a.dtype == torch.float32
        torch.testing.assert_close(a, image.float()[:, ::2, ::2] / 7, atol=0.02, rtol=1e-3)
    assert FeatureCache(tmp_path / "maps", "a").get(inputs, encoder)[0].equal(first[0])
    assert len(encoder.calls) == 2


def test_other_pixels_are_another_entry(tmp_path):
    image = images(1)[0]
    cache = FeatureCache(tmp_path, "a")
    for variant in (image, image.flip(2), image + 1, image.reshape(3, 10, 8)):
        encoder = Encoder([variant])
        cache.get([variant], encoder)
        assert encoder.calls == [[0]]


def test_cache_of_another_encoder_is_refused(tmp_path):
    FeatureCache(tmp_path, "a")
    with pytest.raises(ValueError, match=r"MODEL\.VISUAL\.FEATURE_CACHE"):
        FeatureCache(tmp_path, "b")


@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        ("relclip_predcls", "bebc20754f26a033"),
        ("relclip_predcls_detector_encoder", "2e0942cea1dcee7c"),
        ("unionclip_mlp", "f685c8a8b10c96e5"),
    ],
)
def test_folders_of_version_0_1_are_accepted(name, encoder, repository, tmp_path):
    """What stood in their encoder.json, with the weights that ship."""
    folder = tmp_path / "maps"
    folder.mkdir()
    (folder / "encoder.json").write_text(json.dumps({"encoder": encoder}))
    overrides = ["MODEL.DEVICE", "cpu", "MODEL.VISUAL.FEATURE_CACHE", str(folder)]
    model = build_model(load_config(repository / f"configs/quickstart/{name}.yaml", overrides))
    model.eval()
    image = torch.zeros(3, 96, 96, dtype=torch.uint8)
    if name.startswith("unionclip"):
        model.crops.states(image[None])
    else:
        model.visual_maps([{"image": image}])
    assert len(list(folder.glob("*/*.npy"))) == 1


def test_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"MODEL\.VISUAL\.FEATURE_CACHE.*encoder\.json"):
        FeatureCache(tmp_path, "a")


def test_damaged_file_is_named(tmp_path):
    image = images(1)[0]
    cache = FeatureCache(tmp_path, "a")
    cache.get([image], Encoder([image]))
    path = next(tmp_path.rglob("*.npy"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=path.name):
        cache.get([image], Encoder([image]))


def test_fingerprint_depends_on_weights_and_settings():
    torch.manual_seed(0)
    module = torch.nn.BatchNorm1d(3)
    before = fingerprint(module, (1, 2))
    assert before == fingerprint(module, (1, 2)) != fingerprint(module, (1, 3))
    with torch.no_grad():
        module.bias[1] += np.float32(1e-7)
    assert before != fingerprint(module, (1, 2))


def test_model_with_cache_equals_model_without(make_cfg, tmp_path):
    results = []
    for folder in ("", str(tmp_path / "maps"), str(tmp_path / "maps")):
        cfg = make_cfg("relclip_predcls.yaml", "MODEL.VISUAL.FEATURE_CACHE", folder)
        torch.manual_seed(0)
        model = RelCLIP(cfg).eval()
        if len(results) == 2:
            model.visual.maps = None  # everything is read
        mapper = RelationMapper(cfg, is_train=False)
        examples = [mapper(record) for record in DatasetCatalog.get(cfg.DATASETS.TRAIN[0])]
        with torch.no_grad():
            results.append([output["relations"].predicate_probs for output in model(examples)])
    for plain, cached, read in zip(*results, strict=True):
        torch.testing.assert_close(plain, cached, atol=1e-3, rtol=1e-2)
        assert torch.equal(cached, read)
