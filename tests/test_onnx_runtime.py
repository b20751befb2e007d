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
from vrd_d2.config.loading import load_config
from vrd_d2.data.dataset_mapper import RelationMapper, relation_example
from vrd_d2.data.vocabulary import SCENES
from vrd_d2.inference.predictor import Predictor
from vrd_d2.inference.selection import predicted_graph
from vrd_d2.media.images import read_image
from vrd_d2.onnx_runtime import OnnxPredictor, output_size
from vrd_d2.scene_graph import SceneGraph

pytest.importorskip("onnxscript")


def image_file(path: Path, height: int = 150, width: int = 230) -> Path:
    """An image of noise blown up, so that resizing it has something to blur."""
    rng = np.random.default_rng(height)
    coarse = rng.integers(0, 255, (height // 5, width // 5, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST).save(path)
    return path


@pytest.fixture(scope="module")
def small() -> tuple:
    """A PredCls model of scenes: config, model, file."""
    return exported("relclip_predcls.yaml", "relations", "onnx", "MODEL.RELATION_HEAD.DIM", "64")


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
    file = image_file(tmp_path / "image.png", height, width)
    pixels = onnx_runtime.read_image(file)
    bgr = np.ascontiguousarray(pixels[..., ::-1])
    mapper = RelationMapper(cfg, is_train=False)
    example = relation_example(bgr, augmentations=mapper.augmentations)
    size = output_size(height, width, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    image = onnx_runtime._prepare(pixels, size, cfg.INPUT.FORMAT)
    np.testing.assert_array_equal(image, example["image"].numpy())


def odd_image(folder: Path, kind: str) -> Path:
    """An image as they come, for which there is more to do than decoding."""
    rgb = Image.open(image_file(folder / "start.png"))
    grey = np.asarray(rgb.convert("L"))
    path, options = folder / f"{kind}.png", {}
    if kind == "exif":
        path, rgb = folder / "turned.jpg", rgb.copy()
        options["exif"] = rgb.getexif()
        options["exif"][0x0112] = 6
    elif kind == "rgba":
        rgb = rgb.convert("RGBA")
        rgb.putalpha(rgb.getchannel("R"))
    elif kind == "palette":
        rgb, options = rgb.quantize(16), {"transparency": 3}
    elif kind == "grey":
        rgb = rgb.convert("L")
    elif kind == "cmyk":
        path, rgb = folder / "cmyk.jpg", rgb.convert("CMYK")
    elif kind == "animation":
        path = folder / "moving.gif"
        options = {"save_all": True, "append_images": [rgb.transpose(Image.Transpose.ROTATE_90)]}
    elif kind == "16 bits":
        rgb = Image.fromarray(grey.astype(np.uint16) * 200)
    elif kind == "floats":
        path, rgb = folder / "depth.tif", Image.fromarray(grey.astype(np.float32) / 300 - 0.2)
    rgb.save(path, **options)
    return path


ODD = ["exif", "rgba", "palette", "grey", "cmyk", "animation", "16 bits", "floats"]


@pytest.mark.parametrize("kind", ODD)
def test_images_are_read_as_the_package_reads_them(tmp_path: Path, kind: str) -> None:
    path = odd_image(tmp_path, kind)
    found = onnx_runtime.read_image(path)
    np.testing.assert_array_equal(found, read_image(path)[0])
    assert found.std() > 10


@pytest.mark.parametrize("kind", ["zero", "text", "svg", "cut", "missing", "bomb"])
def test_broken_images_are_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "photo.png"
    content = {
        "zero": b"",
        "text": b"hello",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "cut": image_file(tmp_path / "whole.png").read_bytes()[:3000],
    }
    if kind in content:
        path.write_bytes(content[kind])
    elif kind == "bomb":
        Image.new("1", (20_000, 20_000)).save(path)
    with pytest.raises(ValueError, match=r"photo\.png.*400 million" if kind == "bomb" else "photo"):
        onnx_runtime.read_image(path)


def test_graphs_are_those_of_the_predictor(tmp_path: Path) -> None:
    """SGDet on a file, with every option: the very JSON that the package itself writes."""
    cfg, model, path = exported("relclip_sgdet.yaml", "full", "onnx")
    file = image_file(tmp_path / "image.png", 210, 290)
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
    """The reduction of arrays to a graph, on random arrays: ties, filters and overlaps."""
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


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_refused(small: tuple, value: float) -> None:
    """Of a model that was exported from a training that diverged; its file is named."""
    predictor = OnnxPredictor(small[2], threads=1)
    image, given = np.zeros((50, 60, 3), np.uint8), {"boxes": [[1, 2, 30, 40], [5, 5, 20, 45]]}
    if "classes" in predictor.input_names:
        given["labels"] = [predictor.metadata["objects"][0]] * 2
    session, names = predictor._session, predictor._outputs

    class Spoiled:
        def run(self, *feed):
            outputs = dict(zip(names, session.run(*feed), strict=True))
            outputs["predicate_scores"] = np.full_like(outputs["predicate_scores"], value)
            return list(outputs.values())

    assert len(predictor.run(image, **given)["predicate_scores"]) == 2
    predictor._session = Spoiled()
    with pytest.raises(ValueError, match=rf"{small[2].name}: its predicate_scores are not finite"):
        predictor(image, **given)


def test_wrong_use_is_refused(small: tuple, tmp_path: Path) -> None:
    predictor = OnnxPredictor(small[2], threads=1)
    image = np.zeros((50, 60, 3), np.uint8)
    box = [[1, 2, 30, 40]]
    for given, message in [
        ({}, "boxes"),
        ({"boxes": box}, "labels"),
        ({"boxes": [[1, 2, 3]], "labels": ["man"]}, r"boxes.*\(M, 4\)"),
        ({"boxes": [[1, 2, 3, np.nan]], "labels": ["man"]}, "boxes.*finite"),
        ({"boxes": [[70, 2, 90, 40]], "labels": ["man"]}, r"boxes\[0\].*60 x 50"),
        ({"boxes": [[30, 2, 1, 40]], "labels": ["man"]}, r"boxes\[0\].*x1, y1, x2, y2"),
        ({"boxes": box, "labels": ["unicorn"]}, "label 'unicorn'"),
        ({"boxes": box, "labels": ["man", "man"]}, "2 labels.*1 boxes"),
        ({"boxes": box, "labels": ["man"], "predicates": ["eats"]}, "predicate 'eats'"),
    ]:
        with pytest.raises(ValueError, match=message):
            predictor(image, **given)
    with pytest.raises(ValueError, match="uint8"):
        predictor(image.astype(float), boxes=box, labels=["man"])
    with pytest.raises(ValueError, match="2000 x 1"):
        predictor(np.zeros((1, 2000, 3), np.uint8), boxes=box, labels=["man"])
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        predictor(broken, boxes=box, labels=["man"])
    sgdet = OnnxPredictor(exported("relclip_sgdet.yaml", "full", "onnx")[2], threads=1)
    with pytest.raises(ValueError, match=r"sgdet.*boxes"):
        sgdet(image, boxes=box)


def test_wrong_models_are_refused(tmp_path: Path) -> None:
    import onnx

    with pytest.raises(ValueError, match=r"absent\.onnx"):
        OnnxPredictor(tmp_path / "absent.onnx")
    path = tmp_path / "text.onnx"
    path.write_text("no model")
    with pytest.raises(ValueError, match=r"text\.onnx"):
        OnnxPredictor(path)
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    other = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Neg", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "foreign", [value], [other])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    with pytest.raises(ValueError, match=onnx_runtime.METADATA_KEY):
        OnnxPredictor(path)
    good = {"objects": ["man"], "predicates": [], "what": "detector", "task": "detection"}
    good["preprocessing"] = {"min_size": 5, "max_size": 9, "channel_order": "BGR"}
    for text in (
        *("{", "{}", "[]", "5"),
        json.dumps({**good, "objects": 5}),
        json.dumps({**good, "objects": [5]}),
        json.dumps({**good, "preprocessing": {"min_size": "5"}}),
    ):
        model = onnx.load(path)
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, {onnx_runtime.METADATA_KEY: text})
        onnx.save(model, tmp_path / "other.onnx")
        with pytest.raises(ValueError, match=r"metadata.*other\.onnx"):
            OnnxPredictor(tmp_path / "other.onnx")


@pytest.fixture(scope="module")
def clean_python(repository: Path) -> Path:
    """Python of an environment with tools/requirements-onnx.txt alone, made once for all runs."""
    needs = repository / "tools/requirements-onnx.txt"
    packages = ["-r", needs]
    key = hashlib.sha256((sys.version + needs.read_text()).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "vrd_d2" / f"onnx_environment_{key}"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not (folder / "ready").is_file():
        install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages]
        try:
            for command in ([sys.executable, "-m", "venv", "--clear", folder], install):
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
        except (OSError, subprocess.SubprocessError) as error:
            reason = str(getattr(error, "stderr", "") or error).strip().splitlines()[-1:]
            pytest.skip(f"no clean environment could be made: {reason}")
        (folder / "ready").touch()
    return python


def test_runs_without_torch_and_detectron2(
    small: tuple, clean_python: Path, tmp_path: Path
) -> None:
    """By path, in an environment that has neither; the same answer as here."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    script = Path(onnx_runtime.__file__)
    image = image_file(tmp_path / "image.png")
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
    result = run(script, small[2], image, "--boxes", boxes, "--top-k", "4")
    assert result.returncode == 0, result.stderr
    own = OnnxPredictor(small[2], threads=1)(
        image,
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
    result = run(script, small[2], image, "--boxes", boxes)
    assert result.returncode == 1 and "boxes.json" in result.stderr
    result = run(script, small[2], image)
    assert result.returncode == 1 and "boxes" in result.stderr


def test_predict_runs_without_torch_and_detectron2(
    clean_python: Path, repository: Path, tmp_path: Path
) -> None:
    """tools/predict.py --model: the same files as with torch around, drawings and page too."""
    _, _, model = exported("relclip_sgdet.yaml", "full", "onnx")
    photos = tmp_path / "photos"
    photos.mkdir()
    image_file(photos / "a.png", 210, 290)
    (photos / "broken.jpg").write_bytes(b"no image")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    tool = repository / "tools/predict.py"

    def run(python: Path | str, output: str, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, tool, "photos", "--output", output, *options],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(repository), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )

    for output, python in (("clean", clean_python), ("here", sys.executable)):
        result = run(python, output, "--model", str(model), "--top-k", "6")
        assert result.returncode == 2, result.stderr
        assert "1 predicted, 0 already there, 1 not used" in result.stdout
    documents = [
        json.loads((tmp_path / o / "predictions.json").read_text()) for o in ("clean", "here")
    ]
    rows = [
        [(r["subject_id"], r["predicate_id"], r["object_id"]) for r in document["relations"]]
        for document in documents
    ]
    assert len(rows[0]) == 6 and rows[0] == rows[1]
    for kind in ("annotations", "relations"):
        scores = [[row["score"] for row in document[kind]] for document in documents]
        # The two environments may hold different versions.
        np.testing.assert_allclose(*scores, atol=1e-4)
    drawn = np.asarray(Image.open(tmp_path / "clean/drawings/a.png"))
    assert drawn.shape[1] > 960 and drawn.std() > 10
    page = (tmp_path / "clean/pages/a.html").read_text(encoding="utf-8")
    assert page.count('"predicate":') == 6
    result = run(clean_python, "third", "--config-file", "model.yaml")
    assert result.returncode == 1 and "bash tools/setup_environment.sh" in result.stderr
    assert "--model model.onnx" in result.stderr and "Traceback" not in result.stderr
    result = run(clean_python, "fourth", "--model", str(model), "--heat-maps", "1")
    assert result.returncode == 1 and "heat maps" in result.stderr


def test_predict_runs_a_detector_alone(repository: Path, tmp_path: Path) -> None:
    """Entities, and no relations between them; predicates cannot be asked for."""
    _, _, path = exported("relclip_sgdet.yaml", "detector", "onnx")
    file = image_file(tmp_path / "image.png", 210, 290)
    command = [sys.executable, repository / "tools/predict.py", file, "--model", path, "--output"]
    options = {"capture_output": True, "text": True, "timeout": 300, "cwd": tmp_path}
    result = subprocess.run([*command, "out"], **options)
    assert result.returncode == 0, result.stderr
    document = json.loads((tmp_path / "out/predictions.json").read_text())
    assert document["relations"] == document["predicates"] == []
    expected = OnnxPredictor(path, threads=1)(file)["entities"]
    found = [annotation["score"] for annotation in document["annotations"]]
    assert found and found == pytest.approx([entity["score"] for entity in expected], abs=1e-5)
    result = subprocess.run([*command, "other", "--predicates", "on"], **options)
    assert result.returncode == 1 and "'on'" in result.stderr and "detector" in result.stderr
