"""Files spoiled at random at every entrance: a tool ends with an exit code, never a traceback.

A few fixed examples an entrance in an ordinary run; ``pytest tests/test_fuzz.py --fuzz 2000``
draws so many others.
"""

import copy
import json
import logging
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from relations_document import DOCUMENT
from safetensors.torch import save_file
from spoiled import damaged, spoil

from vrd_d2.checkpoint.checkpointer import load_weights
from vrd_d2.commands import dataset, evaluate, predict, run_tool
from vrd_d2.config.loading import load_config, load_inference_config
from vrd_d2.onnx_runtime import METADATA_KEY, OnnxPredictor

LINES = [
    {
        "image_id": image,
        "gt_boxes": [[0, 0, 10, 10], [5, 5, 20, 20]],
        "gt_classes": [0, 1],
        "gt_relations": [[0, 1, 2]],
        "pairs": [[0, 1], [1, 0]],
        "predicate_scores": [[0.1, 0.2, 0.7], [0.3, 0.3, 0.4]],
    }
    for image in (1, "b")
]
RESULTS = [
    {"image_id": 7, "category_id": 10, "bbox": [1, 2, 30, 40], "score": 0.9},
    {"image_id": "x", "category_id": 20, "bbox": [0, 0, 5, 5], "score": 0.4},
]
CONFIG = {
    "_BASE_": "configs/quickstart/relclip_predcls.yaml",
    "MODEL": {"RELATION": {"TASK": "predcls"}, "RCL": {"LEVELS": ["predicate"], "GAMMA": 0.5}},
    "DATASETS": {"REGISTER": [["a", "a.json", "images"]], "TRAIN": ["a"], "DETECTIONS": []},
    "SOLVER": {"BASE_LR": 0.01, "STEPS": [10, 20]},
    "VERSION": 2,
}


@pytest.fixture(autouse=True, scope="module")
def quiet():
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def fuzz(request, capsys) -> Callable:
    """Run a trial, which takes hypothesis' data, and judge what it returns and prints."""
    examples = request.config.getoption("--fuzz")

    def run(trial: Callable[[st.DataObject], int], fixed: int = 15) -> None:
        @settings(
            max_examples=examples or fixed,
            derandomize=not examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(data=st.data())
        def one(data: st.DataObject) -> None:
            capsys.readouterr()
            code = trial(data)
            printed = capsys.readouterr()
            assert "Traceback" not in printed.err, printed.err
            assert code in (0, 1, 2)
            errors = [
                line
                for line in (printed.out + printed.err).splitlines()
                if line.startswith("error: ")
            ]
            assert code != 1 or errors, printed
            assert all(len(line) > len("error: ") + 10 for line in errors)

        one()

    return run


def spoiled_json(content, path: Path, data: st.DataObject) -> Path:
    """Write a document with random changes, or its text with a damaged place."""
    content = copy.deepcopy(content)
    if data.draw(st.booleans()):
        spoil(content, data)
        path.write_text(json.dumps(content))
    else:
        path.write_bytes(damaged(json.dumps(content).encode(), data))
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    (folder / "sub").mkdir()
    Image.new("RGB", (100, 80)).save(folder / "a.jpg")
    Image.new("RGB", (50, 60)).save(folder / "sub/b.jpg")
    return folder


@pytest.mark.parametrize("command", ["check", "stats", "convert", "split", "zero-shot"])
def test_relations_json(fuzz, images: Path, tmp_path: Path, command: str) -> None:
    output = tmp_path / "out"
    more = {
        "check": [],
        "stats": [],
        "convert": [str(output / "new.json")],
        "split": ["--output", str(output), "--val", "0.5", "--test", "0"],
        "zero-shot": [str(images / "fuzzed.json"), "--output", str(output / "z.json")],
    }[command]

    def trial(data: st.DataObject) -> int:
        shutil.rmtree(output, ignore_errors=True)
        path = spoiled_json(DOCUMENT, images / "fuzzed.json", data)
        folder = [] if command == "zero-shot" else ["--images", str(images)]
        return dataset.main([command, str(path), *more, *folder])

    fuzz(trial)


@pytest.mark.parametrize("which", ["ground truth", "predictions", "zero-shot", "gzip"])
def test_files_of_evaluate(fuzz, tmp_path: Path, which: str) -> None:
    lines, zero_shot = tmp_path / "lines.jsonl", tmp_path / "zero.json"
    document = {**DOCUMENT, "predicates": [*DOCUMENT["predicates"], {"id": 5, "name": "on"}]}
    truth = tmp_path / "truth.json"

    def trial(data: st.DataObject) -> int:
        truth.write_text(json.dumps(document))
        zero_shot.write_text("[[0, 1, 2]]")
        content = copy.deepcopy(LINES)
        for line, image_id in zip(content, (7, "x"), strict=True):
            line["image_id"] = image_id
        if which == "ground truth":
            spoiled_json(document, truth, data)
        elif which == "zero-shot":
            spoiled_json([[0, 1, 2], ["man", "riding", "horse"]], zero_shot, data)
        elif which == "predictions":
            spoil(content, data)
        text = "\n".join(json.dumps(line) for line in content).encode()
        if which == "predictions" and data.draw(st.booleans()):
            text = damaged(text, data)
        elif which == "gzip":
            import gzip

            text = damaged(gzip.compress(text, mtime=0), data)
        lines.write_bytes(text)
        return evaluate.main(
            [
                *("--ground-truth", str(truth), "--predictions", str(lines), "--task", "predcls"),
                *("--zero-shot", str(zero_shot), "--bootstrap", "0"),
                *("--output", str(tmp_path / "results.json")),
            ]
        )

    fuzz(trial)


def test_coco_results(fuzz, tmp_path: Path) -> None:
    from vrd_d2.data.formats.coco import load_detections

    def trial(data: st.DataObject) -> int:
        path = spoiled_json(RESULTS, tmp_path / "results.json", data)
        return run_tool.run_tool(lambda: load_detections(path, {10: 0, 20: 1}) and None)

    fuzz(trial)


def test_coco_boxes(fuzz, tmp_path: Path) -> None:
    from vrd_d2.inference.coco_boxes import load_given_boxes

    def trial(data: st.DataObject) -> int:
        path = spoiled_json(DOCUMENT, tmp_path / "boxes.json", data)
        return run_tool.run_tool(lambda: load_given_boxes(path) and None)

    fuzz(trial)


def test_h5(fuzz, tmp_path: Path) -> None:
    from vrd_d2.data.datasets.visual_genome_h5 import load_visual_genome_h5

    names = [tmp_path / name for name in ("VG-SGG.h5", "VG-SGG-dicts.json", "image_data.json")]
    arrays = {
        "labels": [[1], [2]], "boxes_1024": [[100, 100, 50, 60], [300, 300, 90, 80]],
        "relationships": [[0, 1]], "predicates": [[2]], "split": [0],
        "img_to_first_box": [0], "img_to_last_box": [1],
        "img_to_first_rel": [0], "img_to_last_rel": [0],
    }  # fmt: skip
    dicts = {
        "label_to_idx": {"man": 1, "horse": 2},
        "predicate_to_idx": {"on": 1, "riding": 2},
        "idx_to_label": {"1": "man", "2": "horse"},
    }
    entries = [{"image_id": 1, "width": 640, "height": 480, "url": "http"}]
    odd = st.sampled_from([-5, -1, 0, 1, 7, 2**31 - 1, 0.5, np.nan, b"text"])

    def trial(data: st.DataObject) -> int:
        changed = {key: np.array(values, np.int32) for key, values in arrays.items()}
        names[1].write_text(json.dumps(dicts))
        names[2].write_text(json.dumps(entries))
        kind = data.draw(st.sampled_from(["value", "shape", "missing", "bytes", "dicts", "sizes"]))
        key = data.draw(st.sampled_from(list(arrays)))
        if kind == "value":
            value = data.draw(odd)
            changed[key] = np.full_like(arrays[key], value, dtype=np.asarray(value).dtype)
        elif kind == "shape":
            shape = data.draw(st.sampled_from([(), (0,), (3,), (1, 5), (2, 2, 2)]))
            changed[key] = np.ones(shape, np.int32)
        elif kind == "missing":
            del changed[key]
        names[0].unlink(missing_ok=True)
        with h5py.File(names[0], "w") as file:
            for name, values in changed.items():
                file[name] = values
        if kind == "bytes":
            names[0].write_bytes(damaged(names[0].read_bytes(), data))
        if kind == "dicts":
            spoiled_json(dicts, names[1], data)
        elif kind == "sizes":
            spoiled_json(entries, names[2], data)
        return run_tool.run_tool(
            lambda: (
                list(load_visual_genome_h5(*names, tmp_path, split="train", val_images=0)) and None
            )
        )

    fuzz(trial)


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "pkl"])
def test_weights(fuzz, tmp_path: Path, suffix: str) -> None:
    model = torch.nn.Linear(3, 2)
    path = tmp_path / f"model.{suffix}"
    if suffix == "safetensors":
        save_file(model.state_dict(), path)
    elif suffix == "pth":
        torch.save({"model": model.state_dict(), "iteration": 3}, path)
    else:
        arrays = {name: value.numpy() for name, value in model.state_dict().items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "x"}))
    whole = path.read_bytes()
    load_weights(model, str(path))

    def trial(data: st.DataObject) -> int:
        path.write_bytes(damaged(whole, data))
        return run_tool.run_tool(load_weights, model, str(path))

    fuzz(trial)


def test_contents_of_checkpoints(fuzz, tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    cfg = load_config("configs/quickstart/relclip_predcls.yaml")
    path = tmp_path / "model.pth"
    whole = {
        "model": {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)},
        "vrd_d2": {
            "config": cfg.dump(), "version": "0.2.0", "task": "predcls",
            "objects": ["man", "dog"], "predicates": ["on"],
        },
        "iteration": 3,
    }  # fmt: skip

    def trial(data: st.DataObject) -> int:
        content = copy.deepcopy(whole)
        spoil(content, data)
        torch.save(content, path)
        code = run_tool.run_tool(load_weights, model, str(path))
        return run_tool.run_tool(lambda: load_inference_config(path) and None) or code

    fuzz(trial)


def test_yaml(fuzz, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"

    def trial(data: st.DataObject) -> int:
        content = copy.deepcopy(CONFIG)
        if data.draw(st.booleans()):
            spoil(content, data)
            path.write_text(yaml.safe_dump(content), encoding="utf-8", errors="replace")
        else:
            path.write_bytes(damaged(yaml.safe_dump(content).encode(), data))
        return run_tool.run_tool(lambda: load_config(path) and None)

    fuzz(trial)


def test_onnx_metadata(fuzz, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="exports need the extra `export`")
    pytest.importorskip("onnxruntime", reason="exports need the extra `export`")
    value = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [3, "h", "w"])
    other = onnx.helper.make_tensor_value_info("boxes", onnx.TensorProto.FLOAT, [3, "h", "w"])
    node = onnx.helper.make_node("Neg", ["image"], ["boxes"])
    graph = onnx.helper.make_graph([node], "small", [value], [other])
    opset = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=9)
    path = tmp_path / "model.onnx"
    metadata = {
        "what": "full", "task": "sgdet", "objects": ["man", "dog"], "predicates": ["on"],
        "preprocessing": {"min_size": 32, "max_size": 64, "channel_order": "BGR"},
        "version": "0.2.0",
    }  # fmt: skip

    def trial(data: st.DataObject) -> int:
        spoiled_json(metadata, tmp_path / "metadata.json", data)
        text = (tmp_path / "metadata.json").read_text(encoding="utf-8", errors="replace")
        onnx.helper.set_model_props(model, {METADATA_KEY: text})
        content = model.SerializeToString()
        path.write_bytes(damaged(content, data) if data.draw(st.booleans()) else content)
        return run_tool.run_tool(lambda: OnnxPredictor(path, threads=1) and None)

    fuzz(trial)


def test_archives_of_arrays(fuzz, tmp_path: Path) -> None:
    from vrd_d2.data.knowledge.knowledge_base import KnowledgeBase
    from vrd_d2.data.vocabulary import Vocabulary

    base = KnowledgeBase.from_counts(
        Vocabulary(["man", "horse"], ["on", "near"]), {(0, 0, 1): 3, (1, 1, 0): 2}
    )
    path = tmp_path / "base.npz"
    base.save(path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}

    def trial(data: st.DataObject) -> int:
        if data.draw(st.booleans()):
            path.write_bytes(damaged(whole, data))
        else:
            spoiled = data.draw(st.sampled_from(sorted(parts)))
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in parts.items():
                    if name != spoiled:
                        archive.writestr(name, content)
                    elif data.draw(st.booleans()):
                        archive.writestr(name, damaged(content, data))
        return run_tool.run_tool(lambda: KnowledgeBase.load(path) and None)

    fuzz(trial)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> tuple[Path, list[str]]:
    """A folder of results of two images, and the command that made it, without its output."""
    pytest.importorskip("onnxruntime", reason="exports need the extra `export`")
    pytest.importorskip("onnxscript", reason="exports need the extra `export`")
    from exported_models import exported

    options = ("MODEL.RELATION_HEAD.DIM", "64")
    model = exported("relclip_predcls.yaml", "relations", "onnx", *options)[2]
    folder = tmp_path_factory.mktemp("predicted")
    document = copy.deepcopy(DOCUMENT)
    names = ("man", "bike", "hat")
    for category, name in zip(document["categories"], names, strict=True):
        category["name"] = name
    for image, name in zip(document["images"], ("a.png", "b.png"), strict=True):
        image["file_name"] = name
        noise = np.random.default_rng(len(name)).integers(0, 255, (80, 100, 3), dtype=np.uint8)
        Image.fromarray(noise[: image["height"], : image["width"]]).save(folder / name)
    (folder / "boxes.json").write_text(json.dumps(document))
    command = [
        *(str(folder / name) for name in ("a.png", "b.png")),
        *("--model", str(model), "--boxes", str(folder / "boxes.json"), "--drawn", "0"),
    ]
    assert predict.main([*command, "--output", str(folder / "whole")]) == 0
    return folder, command


@pytest.mark.parametrize("file", ["settings.json", "predictions-00000-of-00001.jsonl"])
def test_folders_of_predictions(fuzz, results, file: str) -> None:
    """A run into a spoiled folder ends with all results, or names what is wrong with it."""
    folder, command = results
    output = folder / "again"

    def trial(data: st.DataObject) -> int:
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(folder / "whole", output)
        text = (output / file).read_text()
        if data.draw(st.booleans()):
            lines = [json.loads(text)] if file == "settings.json" else None
            lines = lines or [json.loads(line) for line in text.splitlines()]
            spoil(lines, data)
            text = "\n".join(json.dumps(line) for line in lines) + "\n"
            (output / file).write_bytes(text.encode("utf-8", "surrogatepass"))
        else:
            (output / file).write_bytes(damaged(text.encode(), data))
        code = predict.main([*command, "--output", str(output)])
        if code == 0:
            images = json.loads((output / "predictions.json").read_text())["images"]
            names = [Path(image["file_name"]).name for image in images]
            assert names == ["a.png", "b.png"]
        return code

    fuzz(trial, fixed=4)
