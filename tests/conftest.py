"""Fixtures shared by all tests."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, DRIVER, Browser
from detectron2.engine import launch
from detectron2.structures import BoxMode
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout: configs/, tools/ and datasets/ are below it."""
    return REPOSITORY


@pytest.fixture(scope="session")
def samples() -> Path:
    """Folder of small real data (Visual Genome images, VRD annotations, evaluator cases)."""
    folder = Path(os.environ.get("VRD_D2_SAMPLES", REPOSITORY / "../shared/data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"sample data not found at {folder}: set VRD_D2_SAMPLES to its folder")
    return folder


@pytest.fixture(scope="module")
def dataset_tool(repository):
    """The command vrd-dataset as a module; the built-in datasets are put back where they were."""
    from vrd_d2.commands import dataset
    from vrd_d2.data.datasets.setup import register_builtin_datasets

    yield dataset
    register_builtin_datasets()


@pytest.fixture
def run_dataset_tool(dataset_tool, capsys):
    """(arguments...) -> exit code, what was printed, what was printed as errors."""

    def call(*arguments):
        code = dataset_tool.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


SMALL_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 64, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
TINY_OBJECTS = ("man", "dog", "hat")
TINY_PREDICATES = ("on", "holding", "wearing", "next to")


def tiny_images(folder: Path) -> list[dict]:
    """Five small images of boxes: several predicates on a pair, a repeated triplet, a
    self-relation, a box without area, a single object, and an image without relations."""
    boxes = [
        [[5, 5, 60, 80], [40, 30, 90, 85], [20, 0, 40, 20]],
        [[10, 10, 50, 90], [45, 40, 95, 95], [60, 20, 60, 50]],
        [[0, 0, 99, 79], [30, 30, 60, 60]],
        [[15, 15, 45, 45]],
        [[5, 5, 40, 60], [35, 30, 80, 70], [10, 2, 30, 15], [50, 10, 90, 40]],
    ]
    classes = [[0, 1, 2], [0, 1, 2], [1, 2], [0], [0, 1, 2, 0]]
    relations = [
        [[0, 1, 1], [0, 1, 3], [0, 2, 2], [0, 1, 1]],
        [[1, 0, 3], [2, 1, 0], [1, 1, 0]],
        [],
        [],
        [[0, 2, 2], [3, 1, 0], [1, 3, 3]],
    ]
    rng = np.random.default_rng(0)
    records, number = [], 1
    for index, (image_boxes, image_classes, rows) in enumerate(
        zip(boxes, classes, relations, strict=True)
    ):
        height, width = 100 - 5 * index, 100 + 6 * index
        image = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        for box, category in zip(image_boxes, image_classes, strict=True):
            x1, y1, x2, y2 = box
            image[y1:y2, x1:x2] = np.array([60 * category, 200 - 60 * category, 90])
        path = folder / f"{index}.png"
        Image.fromarray(image).save(path)
        annotations = []
        for box, category in zip(image_boxes, image_classes, strict=True):
            annotations.append(
                {
                    "id": number,
                    "bbox": [float(x) for x in box],
                    "bbox_mode": BoxMode.XYXY_ABS,
                    "category_id": category,
                }
            )
            number += 1
        records.append(
            {
                "file_name": str(path),
                "image_id": index + 1,
                "height": height,
                "width": width,
                "annotations": annotations,
                "relations": np.array(rows, dtype=np.int64).reshape(-1, 3),
            }
        )
    return records


@pytest.fixture(scope="session")
def tiny_json(tmp_path_factory) -> Path:
    """relations_json of :func:`tiny_images`."""
    from vrd_d2.data.formats.relations_json import save_relations_json
    from vrd_d2.data.vocabulary import Vocabulary

    folder = tmp_path_factory.mktemp("tiny")
    path = folder / "tiny.json"
    save_relations_json(tiny_images(folder), Vocabulary(TINY_OBJECTS, TINY_PREDICATES), path)
    return path


@pytest.fixture(scope="session")
def noise_image(tmp_path_factory) -> Path:
    """An image in which nothing is to be seen, 220 x 160."""
    pixels = np.random.default_rng(0).integers(0, 256, (160, 220, 3), dtype=np.uint8)
    file = tmp_path_factory.mktemp("image") / "street.png"
    Image.fromarray(pixels).save(file)
    return file


@pytest.fixture
def make_cfg(tiny_json, tmp_path, repository):
    """(config name, overrides...) -> config of a small model on the tiny data, on the CPU."""

    def make(name: str, *overrides):
        from vrd_d2.config.loading import load_config
        from vrd_d2.data.datasets.setup import setup_datasets

        clip = tmp_path / "small_clip.json"
        clip.write_text(json.dumps(SMALL_CLIP))
        dataset = f"tiny_{tiny_json.parent.name}"
        changes = {
            "MODEL.DEVICE": "cpu",
            "MODEL.VOCABULARY": str(tiny_json),
            "MODEL.CLIP.NAME": str(clip),
            "MODEL.CLIP.PRETRAINED": "",
            "MODEL.VISUAL.FEATURE_CACHE": "",
            "MODEL.VISUAL.WEIGHTS": "",
            "MODEL.DETECTOR.WEIGHTS": "",
            "MODEL.DISTANT.KNOWLEDGE_BASE": "",
            "MODEL.DISTANT.WEIGHTS": "",
            "DATASETS.DISTANT": (),
            "MODEL.WEIGHTS": "",
            "MODEL.ROI_HEADS.NUM_CLASSES": len(TINY_OBJECTS),
            "MODEL.UNION_CLIP.TRAINED_BLOCKS": 1,
            "MODEL.RELATION_HEAD.DIM": 32,
            "MODEL.RELATION_HEAD.POSITION_DIM": 8,
            "DATASETS.REGISTER": [[dataset, str(tiny_json), str(tiny_json.parent)]],
            "DATASETS.TRAIN": (dataset,),
            "DATASETS.TEST": (dataset,),
            "DATALOADER.NUM_WORKERS": 0,
            "INPUT.MIN_SIZE_TRAIN": (96,),
            "INPUT.MIN_SIZE_TEST": 96,
            "SOLVER.IMS_PER_BATCH": 2,
            "SOLVER.MAX_ITER": 4,
            "SOLVER.STEPS": (),
            "SOLVER.WARMUP_ITERS": 0,
            "SOLVER.CHECKPOINT_PERIOD": 2,
            "TEST.EVAL_PERIOD": 0,
            "SEED": 1,
            "OUTPUT_DIR": str(tmp_path / "output"),
        }
        flat = [item for pair in changes.items() for item in pair]
        cfg = load_config(repository / "configs" / name, [*flat, *overrides])
        setup_datasets(cfg)
        return cfg

    return make


@pytest.fixture
def launch_on_cpu(monkeypatch):
    """(function, processes, arguments...): several processes over gloo, whatever GPUs there are."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def start(function, processes, *arguments):
        launch(function, processes, dist_url="auto", args=arguments)

    return start


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium, for all tests of a module."""
    if not DRIVER or not CHROMIUM:
        pytest.skip("no browser: install Debian's chromium and chromium-driver")
    try:
        opened = Browser()
    except RuntimeError as error:
        pytest.skip(str(error))
    yield opened
    opened.close()


def pytest_addoption(parser) -> None:
    parser.addoption(
        "--fuzz", type=int, default=0, help="random examples for each test of test_fuzz.py"
    )
