"""onnx_runtime.py as a program, on models, boxes, images and terminals as they come."""

import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vrd_d2 import onnx_runtime
from vrd_d2.inference.batch_model import ExportedModel
from vrd_d2.onnx_runtime import METADATA_KEY, OnnxPredictor

onnx = pytest.importorskip("onnx", reason="onnx is not installed: the extra export")

METADATA = {
    "what": "full",
    "task": "sgdet",
    "objects": ["man", "Bär"],
    "predicates": ["on", "wearing"],
    "preprocessing": {"min_size": 20, "max_size": 40, "channel_order": "RGB"},
}
OUTPUTS = {
    "boxes": np.array([[0, 0, 9, 9], [1, 1, 5, 5]], np.float32),
    "classes": np.array([0, 1], np.int64),
    "scores": np.array([0.9, 0.8], np.float32),
    "pairs": np.array([[0, 1], [1, 0]], np.int64),
    "predicate_probs": np.array([[0.2, 0.7, 0.1]] * 2, np.float32),
    "predicate_scores": np.array([[0.2, 0.7]] * 2, np.float32),
}
GIVEN = {"boxes": [None, 4], "classes": [None]}


def write_model(path: Path, metadata=METADATA, inputs=(), **changes) -> Path:
    """Write a model whose answer is the same for every image."""
    values = {**OUTPUTS, **changes}
    values = {k: v for k, v in values.items() if v is not None and k not in inputs}
    kinds = {"boxes": onnx.TensorProto.FLOAT, "classes": onnx.TensorProto.INT64}
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, [3, None, None])
    entries = [image] + [
        onnx.helper.make_tensor_value_info(n, kinds.get(n, 1), GIVEN.get(n, [1])) for n in inputs
    ]
    nodes, outputs = [], []
    for name, value in values.items():
        tensor = onnx.numpy_helper.from_array(value, name)
        nodes.append(onnx.helper.make_node("Constant", [], [name], value=tensor))
        outputs.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, value.shape))
    graph = onnx.helper.make_graph(nodes, "constant", entries, outputs)
    opset = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=9)
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    onnx.helper.set_model_props(model, {METADATA_KEY: text})
    onnx.save(model, path)
    return path


@pytest.fixture
def photo(tmp_path) -> Path:
    Image.fromarray(np.full((40, 60, 3), 120, np.uint8)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def program(capsys, *arguments) -> tuple[int, str, list[str]]:
    """Return the exit code, the output, and the lines of errors."""
    try:
        code = onnx_runtime.main(list(map(str, arguments)))
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    return code, out, err.splitlines()


def test_a_sound_model(tmp_path, photo, capsys):
    code, out, errors = program(capsys, write_model(tmp_path / "m.onnx"), photo)
    assert code == 0 and not errors
    graph = json.loads(out)
    assert [e["label"] for e in graph["entities"]] == ["man", "Bär"]
    assert [r["predicate"] for r in graph["relations"]] == ["wearing", "wearing"]
    text = "\ufeff" + json.dumps(METADATA)
    assert program(capsys, write_model(tmp_path / "bom.onnx", text), photo)[0] == 0


def changed(**changes) -> dict:
    return {k: v for k, v in {**METADATA, **changes}.items() if v != "absent"}


SIZES = METADATA["preprocessing"]
BROKEN = {
    "deep": "[" * 100_000,
    "deep object": '{"a":' * 50_000,
    "digits": '{"objects": ' + "9" * 5000 + "}",
    "two keys": '{"what": 1} {}',
    "a list": [METADATA],
    "null": None,
    "no objects": changed(objects="absent"),
    "no predicates": changed(predicates="absent"),
    "no preprocessing": changed(preprocessing="absent"),
    "no task": changed(task="absent"),
    "objects a text": changed(objects="man"),
    "objects an object": changed(objects={"man": 0, "hat": 1}),
    "objects empty": changed(objects=[]),
    "objects repeated": changed(objects=["man", "man"]),
    "predicates repeated": changed(predicates=["on", "on"]),
    "an empty name": changed(objects=["man", " "]),
    "a lone surrogate": changed(objects=["man", "\ud800"]),
    "a predicate's surrogate": changed(predicates=["on", "\udfff"]),
    "a number as name": changed(predicates=["on", 5]),
    "task a list": changed(task=["sgdet"]),
    "preprocessing a list": changed(preprocessing=[20, 40]),
    "size a text": changed(preprocessing={**SIZES, "min_size": "20"}),
    "size NaN": changed(preprocessing={**SIZES, "max_size": float("nan")}),
    "size infinite": changed(preprocessing={**SIZES, "max_size": float("inf")}),
    "size true": changed(preprocessing={**SIZES, "min_size": True}),
    "size negative": changed(preprocessing={**SIZES, "min_size": -1}),
    "size 0": changed(preprocessing={**SIZES, "max_size": 0}),
    "size huge": changed(preprocessing={**SIZES, "min_size": 10**30, "max_size": 10**30}),
    "channels": changed(preprocessing={**SIZES, "channel_order": "CMYK"}),
}


@pytest.mark.parametrize("metadata", BROKEN.values(), ids=BROKEN)
def test_metadata_that_cannot_be(tmp_path, photo, capsys, metadata):
    model = write_model(tmp_path / "odd.onnx", metadata)
    code, out, errors = program(capsys, model, photo)
    assert code == 1 and not out and len(errors) == 1
    assert errors[0].startswith("error: ") and "odd.onnx" in errors[0] and len(errors[0]) < 600
    with pytest.raises(ValueError, match=r"odd\.onnx"):
        ExportedModel(model)


def test_metadata_that_are_no_text(tmp_path, photo, capsys):
    model = write_model(tmp_path / "odd.onnx", json.dumps(changed(task="TASK")))
    model.write_bytes(model.read_bytes().replace(b"TASK", b"\xff\xfe\x80\x81"))
    code, _, errors = program(capsys, model, photo)
    assert code == 1 and len(errors) == 1 and "odd.onnx" in errors[0]


LIES = {
    "classes beyond the names": {"classes": np.array([0, 2])},
    "negative classes": {"classes": np.array([0, -1])},
    "fewer classes": {"classes": np.array([0])},
    "classes that are no integers": {"classes": np.array([0.0, 1.0])},
    "fewer scores": {"scores": np.array([0.5], np.float32)},
    "boxes of five": {"boxes": np.zeros((2, 5), np.float32)},
    "boxes a number": {"boxes": np.array(1, np.float32)},
    "pairs a number": {"pairs": np.array(1)},
    "boxes in a row": {"boxes": np.zeros(8, np.float32)},
    "pairs beyond the boxes": {"pairs": np.array([[0, 2], [1, 0]])},
    "negative pairs": {"pairs": np.array([[0, -1], [1, 0]])},
    "pairs of three": {"pairs": np.zeros((2, 3), np.int64)},
    "more predicates": {"predicate_scores": np.zeros((2, 3), np.float32)},
    "fewer predicates": {"predicate_scores": np.zeros((2, 1), np.float32)},
    "fewer rows": {"predicate_scores": np.zeros((1, 2), np.float32)},
    "no boxes": {"boxes": None},
    "no classes": {"classes": None},
    "no scores of predicates": {"predicate_scores": None},
    "no pairs": {"pairs": None},
    "texts": {"scores": np.array(["a", "b"], dtype=object)},
}


@pytest.mark.parametrize("changes", LIES.values(), ids=LIES)
def test_answers_that_do_not_fit_the_metadata(tmp_path, photo, capsys, changes):
    model = write_model(tmp_path / "odd.onnx", **changes)
    code, out, errors = program(capsys, model, photo)
    assert code == 1 and not out and len(errors) == 1, errors
    assert "odd.onnx" in errors[0] and "metadata" in errors[0]


@pytest.mark.parametrize("inputs", [["mask"], ["boxes", "classes", "mask"]])
def test_inputs_that_nothing_gives(tmp_path, photo, capsys, inputs):
    model = write_model(tmp_path / "odd.onnx", inputs=inputs)
    code, _, errors = program(capsys, model, photo)
    assert code == 1 and len(errors) == 1 and "mask" in errors[0] and "odd.onnx" in errors[0]


BOXES = {
    "an object": {"bbox": [1, 2, 3, 4], "label": "man"},
    "a number": 5,
    "numbers": [1, 2, 3, 4],
    "null": [None],
    "short": [{"bbox": [1, 2, 3], "label": "man"}],
    "a text": [{"bbox": "1234", "label": "man"}],
    "texts": [{"bbox": ["1", "2", "3", "4"], "label": "man"}],
    "nested": [{"bbox": [[1], [2], [3], [4]], "label": "man"}],
    "true": [{"bbox": [True, 2, 3, 4], "label": "man"}],
    "null in it": [{"bbox": [1, 2, 3, None], "label": "man"}],
    "NaN": [{"bbox": [1, 2, 3, float("nan")], "label": "man"}],
    "infinite": [{"bbox": [1, 2, 3, float("inf")], "label": "man"}],
    "huge": [{"bbox": [1, 2, 3, 10**400], "label": "man"}],
    "far": [{"bbox": [1, 2, 1e39, 1e39], "label": "man"}],
    "negative": [{"bbox": [1, 2, -3, 4], "label": "man"}],
    "outside": [{"bbox": [100, 200, 3, 4], "label": "man"}],
    "no label": [{"bbox": [1, 2, 3, 4]}],
    "unknown label": [{"bbox": [1, 2, 3, 4], "label": "dragon\x1b[31m\n"}],
    "a list as label": [{"bbox": [1, 2, 3, 4], "label": ["man"]}],
    "a lone surrogate": [{"bbox": [1, 2, 3, 4], "label": "\ud800"}],
}


@pytest.mark.parametrize(
    "content",
    [*BOXES.values(), "{", "[" * 100_000, b"\xff\xfe\x00", "[" + "9" * 5000 + "]"],
    ids=[*BOXES, "cut", "deep", "bytes", "digits"],
)
def test_boxes_that_cannot_be(tmp_path, photo, capsys, content):
    model = write_model(tmp_path / "m.onnx", inputs=["boxes", "classes"])
    file = tmp_path / "boxes.json"
    if isinstance(content, (str, bytes)):
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    else:
        file.write_text(json.dumps(content))
    code, out, errors = program(capsys, model, photo, "--boxes", file)
    assert code == 1 and not out and len(errors) == 1, errors
    assert "boxes" in errors[0] or "label" in errors[0]
    assert "\x1b" not in errors[0] and len(errors[0]) < 1000


def test_boxes_with_a_byte_order_mark(tmp_path, photo, capsys):
    model = write_model(tmp_path / "m.onnx", inputs=["boxes", "classes"])
    file = tmp_path / "boxes.json"
    rows = [{"bbox": [1, 2, 30, 10], "label": "man"}, {"bbox": [1, 2, 3, 4.5], "label": "Bär"}]
    file.write_text("\ufeff" + json.dumps(rows), encoding="utf-8")
    code, out, errors = program(capsys, model, photo, "--boxes", file)
    assert code == 0, errors
    assert json.loads(out)["entities"][1]["bbox"] == [1, 2, 3, 4.5]


def test_any_object_with_a_path_is_one(tmp_path, photo):
    predictor = OnnxPredictor(write_model(tmp_path / "m.onnx"))
    with os.scandir(tmp_path) as entries:
        (entry,) = [entry for entry in entries if entry.name == photo.name]
    assert predictor(entry) == predictor(str(photo))
    photo.write_bytes(b"")
    with pytest.raises(ValueError, match=f"image {photo} cannot"):
        predictor(entry)


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "empty", "text", "NUL", "svg"])
def test_images_that_are_none(tmp_path, capsys, kind):
    path = tmp_path / "photo.png"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind != "missing":
        path.write_bytes({"text": b"hello\n", "svg": b"<svg/>"}.get(kind, b""))
    image = f"{path}\0x" if kind == "NUL" else path
    code, out, errors = program(capsys, write_model(tmp_path / "m.onnx"), image)
    assert code == 1 and not out and len(errors) == 1 and "photo.png" in errors[0]


@pytest.mark.parametrize("kind", ["folder", "missing", "pipe"])
def test_files_that_are_none(tmp_path, photo, capsys, kind):
    path = tmp_path / "odd"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    for arguments in ((path, photo), (write_model(tmp_path / "m.onnx"), photo, "--boxes", path)):
        code, _, errors = program(capsys, *arguments)
        assert code == 1 and len(errors) == 1 and "odd" in errors[0]


@pytest.mark.parametrize("options", [["--top-k", "0"], ["--top-k", "x"], ["--min-score", "nan"]])
def test_options_that_are_none(tmp_path, photo, capsys, options):
    code, out, errors = program(capsys, write_model(tmp_path / "m.onnx"), photo, *options)
    assert code == 1 and not out and errors[-1].startswith("error: ")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_terminal_gets_json(tmp_path, monkeypatch, encoding):
    """Also with names that are bytes, and labels that its encoding lacks."""
    photo = tmp_path / ("caf\udce9 狗.png" if sys.platform == "linux" else "狗.png")
    Image.fromarray(np.full((40, 60, 3), 120, np.uint8)).save(photo)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    assert onnx_runtime.main([str(write_model(tmp_path / "m.onnx")), str(photo)]) == 0
    sys.stdout.flush()
    graph = json.loads(sys.stdout.buffer.getvalue().decode(encoding))
    assert graph["file_name"] == str(photo) and graph["entities"][1]["label"] == "Bär"


def test_a_closed_output_takes_what_is_printed(tmp_path, photo, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert onnx_runtime.main([str(write_model(tmp_path / "m.onnx")), str(photo)]) == 0


def test_ctrl_c_is_one_line(tmp_path, photo, capsys, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(OnnxPredictor, "run", stopped)
    code, out, errors = program(capsys, write_model(tmp_path / "m.onnx"), photo)
    assert code == 130 and not out and errors == ["stopped"]


def test_a_model_that_fails_is_named(tmp_path, photo, capsys, monkeypatch):
    predictor = OnnxPredictor(write_model(tmp_path / "m.onnx"))

    class Fails:
        def run(self, *_):
            raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL\n  node Reshape_7")

    monkeypatch.setattr(predictor, "_session", Fails())
    with pytest.raises(ValueError, match=r"(?s)m\.onnx.*Reshape_7"):
        predictor(photo)
