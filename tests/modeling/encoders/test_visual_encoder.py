"""Other encoders in CLIP's place: timm's and Detectron2's, frozen, as those libraries run them."""

import pytest
import timm
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import GeneralizedRCNN

from vrd_d2.data.dataset_mapper import RelationMapper
from vrd_d2.modeling import RelCLIP
from vrd_d2.modeling.encoders.visual_encoder import build_backbone_encoder, encode_by_size

TIMM = ["MODEL.VISUAL.ENCODER", "timm/resnet10t", "MODEL.VISUAL.FEATURE", "map2"]
FPN = ["MODEL.VISUAL.ENCODER", "build_resnet_fpn_backbone", "MODEL.VISUAL.FEATURE", "p3"]
BASE = "quickstart/relclip_sgcls.yaml"


def test_images_of_one_padded_size_are_encoded_together():
    calls = []

    def encode(batch):
        calls.append(tuple(batch.shape))
        return batch[:, :1]

    images = [torch.full((3, *size), i + 1.0) for i, size in enumerate([(5, 8), (8, 8), (9, 4)])]
    maps = encode_by_size(encode, images, divisor=8)
    assert calls == [(2, 3, 8, 8), (1, 3, 16, 8)]
    for index, ((height, width), result) in enumerate(
        zip([(5, 8), (8, 8), (9, 4)], maps, strict=True)
    ):
        assert (result[0, :height, :width] == index + 1).all()
        assert result.sum() == (index + 1) * height * width  # zeros beyond


def test_timm_map_is_that_of_timm(make_cfg):
    torch.manual_seed(0)
    encoder = build_backbone_encoder(make_cfg(BASE, *TIMM))
    assert (encoder.shape.channels, encoder.shape.stride) == (128, 8)
    images = [torch.randn(3, 64, 40), torch.randn(3, 50, 70)]
    maps = encoder.maps(images)
    reference = timm.create_model("resnet10t", features_only=True).eval()
    reference.load_state_dict(encoder.backbone.state_dict(), strict=False)
    with torch.no_grad():
        torch.testing.assert_close(maps[0], reference(images[0][None])[2][0])
    assert maps[1].shape == (128, 7, 9)
    assert encoder.mean == timm.get_pretrained_cfg("resnet10t").mean


def test_timm_weights_from_a_file(make_cfg, tmp_path):
    torch.manual_seed(3)
    whole = timm.create_model("resnet10t").eval()
    path = tmp_path / "weights.pth"
    torch.save(whole.state_dict(), path)
    encoder = build_backbone_encoder(make_cfg(BASE, *TIMM, "MODEL.VISUAL.WEIGHTS", str(path)))
    assert torch.equal(encoder.backbone.state_dict()["conv1.0.weight"], whole.conv1[0].weight)


def test_detector_backbone_sees_what_it_sees_in_the_detector(make_cfg):
    """Colour order, normalisation and padding included: the map equals the detector's own."""
    cfg = make_cfg("quickstart/relclip_predcls.yaml", *FPN, "MODEL.VISUAL.WEIGHTS", "scenes",
                   "MODEL.ROI_HEADS.NUM_CLASSES", 22, "MODEL.BACKBONE.FREEZE_AT", 0)  # fmt: skip
    model = RelCLIP(cfg).eval()
    detector = GeneralizedRCNN(cfg).eval()
    detector.backbone.load_state_dict(model.visual.backbone.state_dict())
    example = RelationMapper(cfg, is_train=False)(DatasetCatalog.get(cfg.DATASETS.TEST[0])[0])
    with torch.no_grad():
        expected = detector.backbone(detector.preprocess_image([example]).tensor)["p3"][0]
    got = model.visual_maps([example])[0]
    assert expected.std() > 0.01
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=1e-3)
    assert not torch.equal(got, RelCLIP(make_cfg("quickstart/relclip_predcls.yaml", *FPN))
                           .visual_maps([example])[0])  # fmt: skip


@pytest.mark.parametrize("encoder", [TIMM, FPN], ids=["timm", "detectron2"])
def test_training_leaves_the_encoder_alone(make_cfg, encoder):
    cfg = make_cfg(BASE, *encoder)
    model = RelCLIP(cfg).train()
    assert not model.visual.train().backbone.training
    before = {name: value.clone() for name, value in model.visual.state_dict().items()}
    mapper = RelationMapper(cfg, is_train=True)
    losses = model([mapper(record) for record in DatasetCatalog.get(cfg.DATASETS.TRAIN[0])])
    sum(losses.values()).backward()
    assert all(parameter.grad is None for parameter in model.visual.parameters())
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    after = model.visual.state_dict()  # statistics of BatchNorm among it
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["MODEL.VISUAL.ENCODER", "timm/resnet5000"], "'resnet5000'"),
        ([*TIMM, "MODEL.VISUAL.FEATURE", "map17"], "'map17'"),
        ([*TIMM, "MODEL.VISUAL.FEATURE", "res4"], "'res4'"),
        ([*TIMM, "MODEL.VISUAL.WEIGHTS", "/no/where.pth"], "/no/where.pth"),
        (["MODEL.VISUAL.ENCODER", "resnet"], "'resnet'"),
        ([*FPN, "MODEL.VISUAL.FEATURE", "p9"], "['p2', 'p3', 'p4', 'p5', 'p6']"),
        (
            [*FPN, "MODEL.VISUAL.WEIGHTS", "scenes", "MODEL.FPN.OUT_CHANNELS", 32],
            "MODEL.VISUAL.WEIGHTS",
        ),
    ],
)
def test_bad_settings_are_named(make_cfg, changes, message):
    with pytest.raises(ValueError, match=r"MODEL\.VISUAL") as error:
        build_backbone_encoder(make_cfg(BASE, *changes))
    assert message in str(error.value)


def test_weights_that_would_have_to_be_downloaded(make_cfg, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cfg = make_cfg(BASE, *TIMM, "MODEL.VISUAL.WEIGHTS", "pretrained")

    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", no_network)
    with pytest.raises(ValueError, match=r"MODEL\.VISUAL\.WEIGHTS"):
        build_backbone_encoder(cfg)
