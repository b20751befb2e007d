"""Training, prediction, exported models, drawing and checks read every image alike."""

import warnings
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from vrd_d2 import onnx_runtime
from vrd_d2.data.dataset_mapper import DetectionMapper, RelationMapper
from vrd_d2.data.datasets.panoptic_scene_graph import segment_boxes
from vrd_d2.data.images.check import check_images
from vrd_d2.data.images.sizes import read_size
from vrd_d2.data.vocabulary import SCENES
from vrd_d2.inference.comparison import read_image as read_for_drawing
from vrd_d2.inference.predictor import Predictor
from vrd_d2.media.images import read_image, read_stored
from vrd_d2.scene_graph import SceneGraph
from vrd_d2.tasks import Task

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
GREY[0, :2] = 0, 255
RGB = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (20, 30), dtype=np.uint8)


def three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, 2)


def on_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return rgb * share + 255 * (1 - share)


# Each writes a file and returns what a person sees in it: float (H, W, 3).
def turned_jpeg(folder: Path) -> tuple[Path, np.ndarray]:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter to the right
    Image.fromarray(RGB).save(folder / "a.jpg", exif=exif)
    with Image.open(folder / "a.jpg") as image:
        return folder / "a.jpg", np.rot90(np.asarray(image), -1)


def grey_of_16_bits(folder: Path) -> tuple[Path, np.ndarray]:
    Image.fromarray(GREY.astype(np.uint16) * 257).save(folder / "a.png")
    return folder / "a.png", three(GREY)


def alpha_channel(folder: Path) -> tuple[Path, np.ndarray]:
    Image.fromarray(np.dstack([RGB, ALPHA])).save(folder / "a.png")
    return folder / "a.png", on_white(RGB, ALPHA)


def grey_with_alpha(folder: Path) -> tuple[Path, np.ndarray]:
    Image.fromarray(np.dstack([GREY, ALPHA]), "LA").save(folder / "a.png")
    return folder / "a.png", on_white(three(GREY), ALPHA)


def transparent_palette(folder: Path) -> tuple[Path, np.ndarray]:
    image = Image.fromarray(RGB).quantize(8)
    image.save(folder / "a.png", transparency=3)
    seen = np.asarray(image.convert("RGB")).copy()
    seen[np.asarray(image) == 3] = 255
    return folder / "a.png", seen


def floats(folder: Path) -> tuple[Path, np.ndarray]:
    Image.fromarray(GREY.astype(np.float32) / 1000 - 0.1).save(folder / "a.tif")
    return folder / "a.tif", three(GREY)


def cmyk(folder: Path) -> tuple[Path, np.ndarray]:
    Image.fromarray(RGB).convert("CMYK").save(folder / "a.jpg", quality=100)
    with Image.open(folder / "a.jpg") as image:
        ink = np.asarray(image).astype(float)
    return folder / "a.jpg", (255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255


def colours_of_16_bits(folder: Path) -> tuple[Path, np.ndarray]:
    values = RGB[..., ::-1].astype(np.uint16) * 257
    assert cv2.imwrite(str(folder / "a.png"), values)
    return folder / "a.png", RGB


def tiff_of_16_bits(folder: Path) -> tuple[Path, np.ndarray]:
    values = RGB[..., ::-1].astype(np.uint16) * 257
    assert cv2.imwrite(str(folder / "a.tif"), values)
    return folder / "a.tif", RGB


def pixmap_of_16_bits(folder: Path) -> tuple[Path, np.ndarray]:
    values = RGB.astype(">u2") * 257
    (folder / "a.ppm").write_bytes(b"P6\n30 20\n65535\n" + values.tobytes())
    return folder / "a.ppm", RGB


KINDS = [
    turned_jpeg,
    colours_of_16_bits,
    tiff_of_16_bits,
    pixmap_of_16_bits,
    grey_of_16_bits,
    alpha_channel,
    grey_with_alpha,
    transparent_palette,
    floats,
    cmyk,
]


class Watcher:
    """A model that finds nothing and stores what it was shown."""

    task, detector, needs_classes, vocabulary = Task.SGDET, object(), False, SCENES

    def __call__(self, examples: list[dict]) -> list[dict]:
        self.seen = [example["image"].numpy() for example in examples]
        size = (1, 1)
        found = {
            "pred_boxes": Boxes(torch.zeros(0, 4)),
            "pred_classes": torch.zeros(0, dtype=torch.long),
            "scores": torch.zeros(0),
        }
        pairs = {
            "pairs": torch.zeros(0, 2, dtype=torch.long),
            "predicate_scores": torch.zeros(0, len(SCENES.predicates)),
        }
        empty = {"instances": Instances(size, **found), "relations": Instances(size, **pairs)}
        return [empty] * len(examples)


def predictor(image_format: str) -> Predictor:
    """A predictor without a checkpoint, which does not resize."""
    made = Predictor.__new__(Predictor)
    made.cfg = SimpleNamespace(INPUT=SimpleNamespace(MAX_SIZE_TEST=1333))
    made.model, made._augmentations, made._format = Watcher(), (), image_format
    return made


def detection_mapper(**options) -> DetectionMapper:
    return DetectionMapper(is_train=False, augmentations=[], **options)


def readings(path: Path) -> dict[str, np.ndarray]:
    """The image as each part of the package reads it: uint8 (H, W, 3) RGB."""
    record = {"file_name": str(path), "image_id": 1}
    found = {
        "reader": read_image(path)[0],
        "exported models": onnx_runtime.read_image(path),
        "drawing of datasets": read_for_drawing(record),
        "drawing of graphs": SceneGraph(np.zeros((0, 4)), [], [], file_name=str(path))._image(None),
    }
    for image_format, order in (("RGB", slice(None)), ("BGR", slice(None, None, -1))):
        relations = RelationMapper(augmentations=(), image_format=image_format)
        detector = detection_mapper(image_format=image_format)
        for name, mapper in (("relations", relations), ("detector", detector)):
            pixels = mapper(record)["image"].numpy()[order]
            found[f"training of {name} in {image_format}"] = pixels.transpose(1, 2, 0)
        for name, image in (("file", path), ("opened file", Image.open(path))):
            made = predictor(image_format)
            made(image)
            pixels = made.model.seen[0][order].transpose(1, 2, 0)
            found[f"prediction of {name} in {image_format}"] = pixels
    return found


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_part_reads_what_a_person_sees(tmp_path, kind):
    path, seen = kind(tmp_path)
    for name, pixels in readings(path).items():
        assert pixels.dtype == np.uint8 and pixels.shape == seen.shape, name
        # Colours under alpha and of ink are rounded to whole numbers in between.
        assert np.abs(pixels - seen.astype(float)).max() <= 1, name
        np.testing.assert_array_equal(pixels, read_image(path)[0], err_msg=name)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_sizes_and_notes_are_those_of_the_reader(tmp_path, kind):
    path, seen = kind(tmp_path)
    width, height = seen.shape[1::-1]
    assert read_size(path) == (width, height)
    report = check_images([{"file_name": str(path), "width": width, "height": height}])
    assert report.problems == []
    assert report.notes == {note.partition(" (")[0]: [str(path)] for note in read_image(path)[1]}
    assert len(report.notes) == 1


def test_the_limit_of_pixels_is_one(tmp_path, monkeypatch):
    """Of an image over PIL's limit nobody speaks; one over ours is named everywhere."""
    path = tmp_path / "large.png"
    Image.fromarray(RGB).save(path)
    for limit in (500, 100):  # of which PIL warns, and which it refuses
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for name, pixels in readings_of_files(path).items():
                np.testing.assert_array_equal(pixels, RGB, err_msg=name)
            assert read_size(path) == (30, 20)
            assert check_images([{"file_name": str(path)}]).problems == []
        assert limit == Image.MAX_IMAGE_PIXELS


def readings_of_files(path: Path) -> dict[str, np.ndarray]:
    record = {"file_name": str(path), "image_id": 1}
    made = predictor("RGB")
    made(path)
    mappers = (
        RelationMapper(augmentations=(), image_format="RGB"),
        detection_mapper(image_format="RGB"),
    )
    return {
        "exported models": onnx_runtime.read_image(path),
        "drawing": read_for_drawing(record),
        "prediction": made.model.seen[0].transpose(1, 2, 0),
        **{type(m).__name__: m(record)["image"].numpy().transpose(1, 2, 0) for m in mappers},
    }


def test_an_image_over_the_limit_is_named_everywhere(tmp_path, monkeypatch):
    path = tmp_path / "huge.png"
    Image.new("1", (20_000, 10_001)).save(path)
    record = {"file_name": str(path), "image_id": 7}
    readers = {
        "prediction": lambda: predictor("BGR")(path),
        "exported models": lambda: onnx_runtime.read_image(path),
        "drawing": lambda: read_for_drawing(record),
        "training": lambda: RelationMapper(augmentations=(), image_format="BGR")(record),
        "detector": lambda: detection_mapper(image_format="BGR")(record),
        "size": lambda: read_size(path),
    }
    for read in readers.values():
        with pytest.raises(ValueError, match=r"huge\.png.*20000 x 10001.*200 million"):
            read()
    with pytest.raises(ValueError, match=r"image 7"):
        readers["training"]()
    (problem,) = check_images([record]).problems
    assert problem.kind == "unreadable"
    assert "huge.png" in problem.message and "200 million" in problem.message


def test_maps_of_labels_are_read_by_the_one_reader(tmp_path):
    """Detectron2's own mapper reads them, and images with proposals, by a reader of its own."""
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "a.png")
    labels = np.arange(600, dtype=np.uint8).reshape(20, 30)
    Image.fromarray(labels).save(tmp_path / "labels.png")
    record = {
        "file_name": str(tmp_path / "a.png"),
        "sem_seg_file_name": str(tmp_path / "labels.png"),
        "proposal_boxes": np.array([[1.0, 2, 20, 15]]),
        "proposal_objectness_logits": np.array([0.5]),
        "proposal_bbox_mode": 0,
        "image_id": 1,
    }
    mapper = DetectionMapper(
        is_train=False, augmentations=[], image_format="RGB", precomputed_proposal_topk=5
    )
    example = mapper(record)
    np.testing.assert_array_equal(example["sem_seg"].numpy(), labels)
    np.testing.assert_array_equal(example["image"].numpy().transpose(1, 2, 0), three(GREY))
    assert example["proposals"].proposal_boxes.tensor.tolist() == [[1, 2, 20, 15]]
    assert "sem_seg_file_name" not in example and "sem_seg_file_name" in record
    Image.fromarray(labels[:5]).save(tmp_path / "labels.png")
    with pytest.raises(ValueError, match=r"a\.png.*30 x 20.*labels\.png.*30 x 5"):
        mapper(record)
    Image.new("1", (20_000, 10_001)).save(tmp_path / "labels.png")
    for read in (
        lambda: mapper(record),
        lambda: segment_boxes(tmp_path / "labels.png", [1]),
        lambda: read_stored(tmp_path / "labels.png", "L"),
    ):
        with pytest.raises(ValueError, match=r"labels\.png.*20000 x 10001.*200 million"):
            read()
