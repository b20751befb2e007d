"""RelationMapper loses nothing where Detectron2's own mapper does; errors name the image."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from vrd_d2.data.dataset_mapper import DetectionMapper, RelationMapper, relation_example

HEIGHT, WIDTH = 40, 60
# The second box has no area, the fourth is partly and the fifth entirely outside, and the third a
# crowd: Detectron2's mapper drops the second, third and fifth.
BOXES = [[5, 5, 30, 35], [10, 10, 10, 20], [20, 8, 50, 38], [40, 30, 70, 50], [80, 0, 90, 10]]
CLASSES = [2, 0, 1, 3, 1]
RELATIONS = [[0, 2, 1], [3, 4, 0], [1, 0, 2], [0, 2, 1], [4, 4, 3]]


def make_cfg(**values) -> CfgNode:
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN = (80,)
    cfg.INPUT.MIN_SIZE_TEST = 120
    cfg.INPUT.RANDOM_FLIP = "none"
    for key, value in values.items():
        cfg.INPUT[key] = value
    return cfg


@pytest.fixture
def record(tmp_path) -> dict:
    rng = np.random.default_rng(0)
    path = tmp_path / "image.png"
    Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(path)
    annotations = [
        {
            "id": i + 1,
            "bbox": list(map(float, box)),
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": c,
        }
        for i, (box, c) in enumerate(zip(BOXES, CLASSES, strict=True))
    ]
    annotations[2]["iscrowd"] = 1
    return {
        "file_name": str(path),
        "image_id": 9,
        "height": HEIGHT,
        "width": WIDTH,
        "annotations": annotations,
        "relations": np.array(RELATIONS),
        "captions": ["noise"],
    }


@pytest.mark.parametrize(("is_train", "scale"), [(True, 2.0), (False, 3.0)])
def test_no_box_and_no_relation_is_lost_in_training_and_test(record, is_train, scale):
    example = RelationMapper(make_cfg(), is_train=is_train)(record)
    assert example["image"].shape == (3, HEIGHT * scale, WIDTH * scale)
    assert example["image"].dtype == torch.uint8
    assert (example["height"], example["width"]) == (HEIGHT, WIDTH)
    assert (example["image_id"], example["file_name"]) == (9, record["file_name"])
    instances = example["instances"]
    assert instances.image_size == (HEIGHT * scale, WIDTH * scale)
    torch.testing.assert_close(instances.gt_boxes.tensor, torch.tensor(BOXES) * scale)
    assert instances.gt_classes.tolist() == CLASSES
    assert example["relations"].tolist() == RELATIONS
    assert example["relations"].dtype == instances.gt_classes.dtype == torch.int64


def test_the_stock_mapper_would_shift_and_lose_the_indices(record):
    """Why there is a mapper of our own: relation (0, 2) would join other boxes, or none."""
    stock = DatasetMapper(make_cfg(), is_train=True)(record)
    assert stock["instances"].gt_classes.tolist() == [CLASSES[0], CLASSES[3]]
    assert "instances" not in DatasetMapper(make_cfg(), is_train=False)(record)


def test_the_dataset_dict_is_not_changed_nor_shared(record):
    before = copy.deepcopy(record)
    example = RelationMapper(make_cfg(), is_train=True)(record)
    example["relations"] += 1
    example["instances"].gt_boxes.tensor.zero_()
    example["instances"].gt_classes.zero_()
    assert (record.pop("relations") == before.pop("relations")).all()
    assert record == before


@pytest.mark.parametrize("is_train", [True, False])
def test_examples_of_detectors_are_detectron2s(record, is_train):
    """With the same random flips and sizes; boxes without area and crowds are dropped as there."""
    cfg = make_cfg(RANDOM_FLIP="horizontal", MIN_SIZE_TRAIN=(60, 80, 90))
    del record["height"], record["width"]
    examples = []
    for mapper in (DatasetMapper(cfg, is_train=is_train), DetectionMapper(cfg, is_train=is_train)):
        np.random.seed(3)
        examples.append([mapper(record) for _ in range(6)])
    for expected, found in zip(*examples, strict=True):
        assert list(found) == list(expected)
        assert torch.equal(found.pop("image"), expected.pop("image"))
        boxes = [example.pop("instances", None) for example in (expected, found)]
        if is_train:
            assert torch.equal(boxes[0].gt_boxes.tensor, boxes[1].gt_boxes.tensor)
            assert torch.equal(boxes[0].gt_classes, boxes[1].gt_classes)
            assert boxes[0].image_size == boxes[1].image_size
        relations = [example.pop("relations") for example in (expected, found)]
        np.testing.assert_array_equal(*relations)
        assert found == expected
    assert len({example["image_id"] for example in examples[0]}) == 1


@pytest.mark.parametrize("image_format", ["L", "YCbCr"])
def test_detectors_of_other_colours_read_as_detectron2(record, image_format):
    options = {"is_train": False, "augmentations": [], "image_format": image_format}
    found, expected = (
        kind(**options)(record)["image"] for kind in (DetectionMapper, DatasetMapper)
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_ordinary_images_are_as_detectron2_reads_them(record, tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    Image.open(record["file_name"]).save(path, exif=exif)
    record = {"file_name": str(path), "image_id": 1}
    cfg = make_cfg(MIN_SIZE_TEST=33)
    expected = DatasetMapper(cfg, is_train=False)(record)["image"]
    assert torch.equal(RelationMapper(cfg, is_train=False)(record)["image"], expected)


def test_channels_are_in_the_order_of_input_format(record):
    rgb = np.asarray(Image.open(record["file_name"])).transpose(2, 0, 1)
    sizes = {"MIN_SIZE_TEST": HEIGHT}  # no resize
    bgr = RelationMapper(make_cfg(**sizes, FORMAT="BGR"), is_train=False)(record)["image"]
    same = RelationMapper(make_cfg(**sizes, FORMAT="RGB"), is_train=False)(record)["image"]
    assert (bgr.numpy() == rgb[::-1]).all()
    assert (same.numpy() == rgb).all()


def test_the_longer_side_is_bounded(record):
    mapper = RelationMapper(make_cfg(MIN_SIZE_TEST=100, MAX_SIZE_TEST=90), is_train=False)
    example = mapper(record)
    assert example["image"].shape == (3, 60, 90)
    torch.testing.assert_close(
        example["instances"].gt_boxes.tensor, torch.tensor(BOXES, dtype=torch.float32) * 1.5
    )


def test_no_flip_unless_the_config_says_so(record):
    mapper = RelationMapper(make_cfg(), is_train=True)
    assert not any(isinstance(augmentation, T.RandomFlip) for augmentation in mapper.augmentations)
    first = mapper(record)["image"]
    assert all((mapper(record)["image"] == first).all() for _ in range(8))


def test_a_flip_moves_boxes_and_leaves_indices(record):
    mapper = RelationMapper(make_cfg(RANDOM_FLIP="horizontal"), is_train=True)
    plain = RelationMapper(make_cfg(), is_train=True)(record)
    np.random.seed(0)
    examples = [mapper(record) for _ in range(16)]
    flipped = [e for e in examples if not (e["image"] == plain["image"]).all()]
    assert 0 < len(flipped) < 16
    for example in flipped:
        assert (example["image"] == plain["image"].flip(2)).all()
        expected = plain["instances"].gt_boxes.tensor[:, [2, 1, 0, 3]].clone()
        expected[:, ::2] = 2 * WIDTH - expected[:, ::2]
        torch.testing.assert_close(example["instances"].gt_boxes.tensor, expected)
        assert example["instances"].gt_classes.tolist() == CLASSES
        assert example["relations"].tolist() == RELATIONS
    test_mapper = RelationMapper(make_cfg(RANDOM_FLIP="horizontal"), is_train=False)
    assert not any(isinstance(a, T.RandomFlip) for a in test_mapper.augmentations)


def test_crops_are_refused(record):
    cfg = make_cfg()
    cfg.INPUT.CROP.ENABLED = True
    with pytest.raises(ValueError, match=r"INPUT\.CROP\.ENABLED"):
        RelationMapper(cfg, is_train=True)
    RelationMapper(cfg, is_train=False)(record)  # Detectron2 does not crop at test time either


def test_other_box_modes(record):
    expected = RelationMapper(make_cfg(), is_train=False)(record)["instances"].gt_boxes.tensor
    for annotation in record["annotations"]:
        x1, y1, x2, y2 = annotation["bbox"]
        annotation.update(bbox=[x1, y1, x2 - x1, y2 - y1], bbox_mode=BoxMode.XYWH_ABS)
    found = RelationMapper(make_cfg(), is_train=False)(record)["instances"].gt_boxes.tensor
    torch.testing.assert_close(found, expected)


def test_an_image_without_annotations(record):
    del record["annotations"], record["relations"]
    example = RelationMapper(make_cfg(), is_train=False)(record)
    assert example["instances"].gt_boxes.tensor.shape == (0, 4)
    assert example["instances"].gt_classes.shape == (0,)
    assert example["instances"].gt_classes.dtype == torch.int64
    assert example["relations"].shape == (0, 3)
    assert example["relations"].dtype == torch.int64


def test_a_missing_image_is_named(record):
    Path(record["file_name"]).unlink()
    with pytest.raises(ValueError, match=r"image\.png.*image 9.*missing"):
        RelationMapper(make_cfg(), is_train=True)(record)


@pytest.mark.parametrize("content", ["", "no image", "cut off"])
def test_a_broken_image_is_named(record, content):
    path = Path(record["file_name"])
    path.write_bytes(path.read_bytes()[:900] if content == "cut off" else content.encode())
    with pytest.raises(ValueError, match=r"image\.png.*image 9.*\d+ bytes"):
        RelationMapper(make_cfg(), is_train=True)(record)


def test_an_image_of_another_size_is_named(record):
    record["width"], record["height"] = HEIGHT, WIDTH
    with pytest.raises(ValueError, match=r"image\.png.*60 x 40.*40 x 60"):
        RelationMapper(make_cfg(), is_train=True)(record)


def test_relations_that_point_at_no_box_are_named(record):
    record["relations"] = np.array([[0, 1, 0], [0, 5, 0]])
    with pytest.raises(ValueError, match=r"image\.png.*relations\[1\].*\[0, 5, 0\]"):
        RelationMapper(make_cfg(), is_train=True)(record)


def test_the_mapper_is_relation_example_of_the_image(record):
    mapper = RelationMapper(make_cfg(), is_train=False)
    image = np.asarray(Image.open(record["file_name"]))[:, :, ::-1]
    own = relation_example(
        image, BOXES, CLASSES, relations=RELATIONS, augmentations=mapper.augmentations
    )
    mapped = mapper(record)
    assert (own["image"] == mapped["image"]).all()
    assert (own["instances"].gt_boxes.tensor == mapped["instances"].gt_boxes.tensor).all()
    assert (own["relations"] == mapped["relations"]).all()
    assert set(mapped) - set(own) == {"file_name", "image_id"}


def test_relation_example_of_arrays():
    # In memory as (3, H, W), so that the transpose is not what makes the copy.
    image = np.zeros((3, HEIGHT, WIDTH), np.uint8).transpose(1, 2, 0)
    example = relation_example(image, np.array([[1, 2, 3, 4]]))  # integer boxes, SGCls
    assert example["image"].shape == (3, HEIGHT, WIDTH)
    assert example["instances"].gt_boxes.tensor.tolist() == [[1.0, 2.0, 3.0, 4.0]]
    assert not example["instances"].has("gt_classes")
    assert example["relations"].shape == (0, 3)
    example["image"].fill_(7)
    assert image.max() == 0
    assert len(relation_example(image)["instances"]) == 0  # SGDet


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": np.zeros((4, 4, 3))}, r"image is float64 \(4, 4, 3\)"),
        ({"image": np.zeros((4, 4), np.uint8)}, r"image is uint8 \(4, 4\)"),
        ({"boxes": [1, 2, 3, 4]}, r"boxes\[0\] is 1: "),
        ({"boxes": [[1, 2, 3, np.nan]]}, "finite"),
        ({"boxes": [[1, 2, 3, 4]], "classes": [1, 2]}, r"classes of shape \(2,\) for 1 boxes"),
        ({"boxes": [[1, 2, 3, 4]], "relations": [[0, 0]]}, r"relations of shape \(1, 2\)"),
        ({"boxes": [[1, 2, 3, 4]], "relations": [[-1, 0, 0]]}, r"relations\[0\] is \[-1, 0, 0\]"),
    ],
)
def test_bad_arrays_are_refused(arguments, message):
    arguments = {"image": np.zeros((4, 4, 3), np.uint8), **arguments}
    with pytest.raises(ValueError, match=message):
        relation_example(**arguments)
