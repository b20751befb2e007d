"""The torch-free runtime: the model's own preprocessing, ranking and answers, and clear errors."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from exported_models import exported, random_boxes
from PIL import Image

from vrd_d2 import onnx_runtime
from vrd_d2.data.mapper import RelationMapper, relation_example
from vrd_d2.data.vocabulary import SCENES
from vrd_d2.engine import load_config
from vrd_d2.graph_reading import predicted_graph
from vrd_d2.media import read_picture
from vrd_d2.onnx_runtime import OnnxPredictor, output_size
from vrd_d2.predictor import Predictor
from vrd_d2.scene_graph import SceneGraph

pytest.importorskip("onnxscript")


def picture_file(path: Path, height: int = 150, width: int = 230) -> Path:
    """A picture of noise blown up, so that resizing it has something to blur."""
    rng = np.random.default_rng(height)
    coarse = rng.integers(0, 255, (height // 5, width // 5, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST).save(path)
    return path


@pytest.fixture(scope="module")
def small() -> tuple:
    """A PredCls model of scenes: config, model, file."""
    return exported("relclip_predcls.yaml", "relations", "onnx", "MODEL.RELATION.DIM", "64")


def test_sizes_are_detectron2s() -> None:
    rng = np.random.default_rng(0)
    for _ in range(3000):
        height, width = (int(side) for side in np.exp(rng.uniform(0, 8.5, 2)) + 1)
        short, long = int(rng.integers(1, 1200)), int(rng.integers(1, 1500))
        expected = T.ResizeShortestEdge.get_output_shape(height, width, short, long)
        if min(expected):
            assert output_size(height, width, short, long) == expected, (height, width, short, long)
    assert output_size(301, 402, 0, 50) == (301, 402)


@pytest.mark.parametrize(("height", "width"), [(97, 181), (640, 480), (300, 300), (31, 500)])
def test_pixels_and_boxes_are_those_of_the_mapper(
    repository: Path, tmp_path: Path, height: int, width: int
) -> None:
    cfg = load_config(repository / "configs/quickstart/relclip_predcls.yaml")
    file = picture_file(tmp_path / "picture.png", height, width)
    pixels = onnx_runtime.read_picture(file)
    bgr = np.ascontiguousarray(pixels[..., ::-1])
    mapper = RelationMapper(cfg, is_train=False)
    example = relation_example(bgr, augmentations=mapper.augmentations)
    size = output_size(height, width, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    image = onnx_runtime._prepare(pixels, size, cfg.INPUT.FORMAT)
    np.testing.assert_array_equal(image, example["image"].numpy())


@pytest.mark.parametrize("kind", ["exif", "rgba", "palette", "grey"])
def test_pictures_are_read_as_the_package_reads_them(tmp_path: Path, kind: str) -> None:
    rgb = Image.open(picture_file(tmp_path / "start.png"))
    path, options = tmp_path / f"{kind}.png", {}
    if kind == "exif":
        path, rgb = tmp_path / "turned.jpg", rgb.copy()
        options["exif"] = rgb.getexif()
        options["exif"][0x0112] = 6
    elif kind == "rgba":
        rgb = rgb.convert("RGBA")
        rgb.putalpha(rgb.getchannel("R"))
    elif kind == "palette":
        rgb, options = rgb.quantize(16), {"transparency": 3}
    else:
        rgb = rgb.convert("L")
    rgb.save(path, **options)
    np.testing.assert_array_equal(onnx_runtime.read_picture(path), read_picture(path)[0])


def test_graphs_are_those_of_the_predictor(tmp_path: Path) -> None:
    """SGDet on a file, with every option: the very JSON that the package itself writes."""
    cfg, model, path = exported("relclip_sgdet.yaml", "full", "onnx")
    file = picture_file(tmp_path / "picture.png", 210, 290)
    predictor = Predictor.__new__(Predictor)  # of this model, which has no checkpoint
    mapper = RelationMapper(cfg, is_train=False)
    predictor.cfg, predictor.model = cfg, model
    predictor._augmentations, predictor._format = mapper.augmentations, mapper.image_format
    onnx = OnnxPredictor(path, threads=1)
    options = [
        {},
        {"top_k": 3, "max_overlap": 1.0},
        {"min_score": 1e-3, "min_entity_score": 0.08, "predicates": ["on", "near"]},
    ]
    for option in options:
        graph, own = onnx(file, **option), predictor(str(file), **option).to_dict()
        assert list(graph) == list(own)
        assert len(graph["entities"]) == len(own["entities"]) > 0
        for found, expected in zip(graph["entities"], own["entities"], strict=True):
            assert found["label"] == expected["label"] and found["id"] == expected["id"]
            assert found["bbox"] == pytest.approx(expected["bbox"], abs=0.02)
            assert found["score"] == pytest.approx(expected["score"], abs=2e-5)
        for found, expected in zip(graph["relations"], own["relations"], strict=True):
            assert found["score"] == pytest.approx(expected["score"], abs=2e-5)
        SceneGraph.from_dict(graph).to_json()


def test_ranking_against_predicted_graph(small: tuple) -> None:
    """The reduction of arrays to a graph, on arrays of its own: ties, filters and overlaps."""
    predictor = OnnxPredictor(small[2], threads=1)
    rng = np.random.default_rng(5)
    boxes = random_boxes(120, 160, 12)
    boxes[6:9] = boxes[:3] + 1
    pairs = np.argwhere(~np.eye(12, dtype=bool))
    found = {
        "boxes": boxes.astype(np.float32),
        "classes": rng.integers(0, 22, 12),
        "scores": rng.permutation(12).astype(np.float32) / 12,
        "pairs": pairs,
        "predicate_scores": rng.integers(0, 4, (len(pairs), 16)).astype(np.float32) / 4,
    }
    predictor.run = lambda *_, **__: found
    size = (120, 160)
    output = {
        "instances": Instances(
            size,
            pred_boxes=Boxes(torch.from_numpy(found["boxes"])),
            pred_classes=torch.from_numpy(found["classes"]),
            scores=torch.from_numpy(found["scores"]),
        ),
        "relations": Instances(
            size,
            pairs=torch.from_numpy(pairs),
            predicate_scores=torch.from_numpy(found["predicate_scores"]),
        ),
    }
    for option in [
        {"top_k": 1000},
        {"top_k": 7, "min_score": 0.2},
        {"min_entity_score": 0.5, "max_overlap": 0.4, "predicates": ["near", "on", "near"]},
        {"predicates": []},
    ]:
        graph = predictor(np.zeros((*size, 3), np.uint8), **{"max_overlap": 1.0, **option})
        assert graph == predicted_graph(output, SCENES, **option).to_dict()


def test_wrong_use_is_told(small: tuple, tmp_path: Path) -> None:
    predictor = OnnxPredictor(small[2], threads=1)
    picture = np.zeros((50, 60, 3), np.uint8)
    box = [[1, 2, 30, 40]]
    for given, message in [
        ({}, "takes boxes"),
        ({"boxes": box}, "takes labels"),
        ({"boxes": [[1, 2, 3]], "labels": ["man"]}, r"must be \(M, 4\)"),
        ({"boxes": [[1, 2, 3, np.nan]], "labels": ["man"]}, "finite"),
        ({"boxes": box, "labels": ["unicorn"]}, "unknown label 'unicorn'"),
        ({"boxes": box, "labels": ["man", "man"]}, "2 labels for 1 boxes"),
        ({"boxes": box, "labels": ["man"], "predicates": ["eats"]}, "unknown predicate 'eats'"),
    ]:
        with pytest.raises(ValueError, match=message):
            predictor(picture, **given)
    with pytest.raises(ValueError, match="must be a uint8 array"):
        predictor(picture.astype(float), boxes=box, labels=["man"])
    with pytest.raises(ValueError, match="2000 x 1 pixels is too narrow"):
        predictor(np.zeros((1, 2000, 3), np.uint8), boxes=box, labels=["man"])
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken\.jpg cannot be read"):
        predictor(broken, boxes=box, labels=["man"])
    sgdet = OnnxPredictor(exported("relclip_sgdet.yaml", "full", "onnx")[2], threads=1)
    with pytest.raises(ValueError, match="takes no boxes"):
        sgdet(picture, boxes=box)


def test_wrong_models_are_told(tmp_path: Path) -> None:
    import onnx

    with pytest.raises(ValueError, match="there is no model file"):
        OnnxPredictor(tmp_path / "absent.onnx")
    path = tmp_path / "text.onnx"
    path.write_text("no model")
    with pytest.raises(ValueError, match="no ONNX model that can be run"):
        OnnxPredictor(path)
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    other = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Neg", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "foreign", [value], [other])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    with pytest.raises(ValueError, match="does not say what it is"):
        OnnxPredictor(path)


@pytest.fixture(scope="module")
def clean_python() -> Path:
    """Python of an environment with onnxruntime, numpy and Pillow alone; made once and kept."""
    packages = ["onnxruntime", "numpy", "pillow"]
    key = hashlib.sha256(" ".join([sys.version, *packages]).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "vrd_d2" / f"onnx_environment_{key}"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not (folder / "ready").is_file():
        install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages]
        try:
            for command in ([sys.executable, "-m", "venv", "--clear", folder], install):
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
        except (OSError, subprocess.SubprocessError) as error:
            told = str(getattr(error, "stderr", "") or error).strip().splitlines()[-1:]
            pytest.skip(f"no clean environment could be made: {told}")
        (folder / "ready").touch()
    return python


def test_runs_without_torch_and_detectron2(
    small: tuple, clean_python: Path, tmp_path: Path
) -> None:
    """By path, in an environment that has neither; the same answer as here."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    script = Path(onnx_runtime.__file__)
    picture = picture_file(tmp_path / "picture.png")
    boxes = tmp_path / "boxes.json"
    entities = [
        {"bbox": [10, 20, 80, 100], "label": "man"},
        {"bbox": [40, 60, 90, 70], "label": "horse"},
        {"bbox": [120, 10, 60, 50], "label": "hat"},
    ]
    boxes.write_text(json.dumps(entities))

    def run(*command: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [clean_python, *command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    for module in ("torch", "detectron2", "vrd_d2"):
        assert "ModuleNotFoundError" in run("-c", f"import {module}").stderr
    result = run(script, small[2], picture, "--boxes", boxes, "--top-k", "4")
    assert result.returncode == 0, result.stderr
    own = OnnxPredictor(small[2], threads=1)(
        picture,
        boxes=[[x, y, x + w, y + h] for x, y, w, h in (e["bbox"] for e in entities)],
        labels=[entity["label"] for entity in entities],
        top_k=4,
    )
    graph = json.loads(result.stdout)
    assert len(graph["relations"]) == 4
    # The two environments may hold different versions of onnxruntime.
    for found, expected in zip(graph["relations"], own["relations"], strict=True):
        assert found["score"] == pytest.approx(expected.pop("score"), abs=1e-4)
        assert {k: v for k, v in found.items() if k != "score"} == expected
    assert graph["entities"] == own["entities"]
    boxes.write_text('[{"label": "man"}]')
    result = run(script, small[2], picture, "--boxes", boxes)
    assert result.returncode == 1 and "boxes.json must be a JSON list" in result.stderr
    result = run(script, small[2], picture)
    assert result.returncode == 1 and "takes boxes" in result.stderr
