"""Exports give the model's own numbers, for any image size and any number of boxes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from exported_models import (
    VIT_B32,
    build,
    clip_json,
    exported,
    folder,
    own_answer,
    random_boxes,
)
from PIL import Image

from vrd_d2.data.knowledge.knowledge_base import KnowledgeBase
from vrd_d2.data.vocabulary import SCENES, VG150
from vrd_d2.export import describe, exportable, model_card, write_model
from vrd_d2.export.detector import best_of_groups
from vrd_d2.export.parity import best_triplets
from vrd_d2.modeling.distant import DistantLabels
from vrd_d2.onnx_runtime import OnnxPredictor

pytest.importorskip("onnxscript")

# (height, width): landscape, portrait, no multiple of a patch, square, and small.
SIZES = [(243, 317), (411, 290), (300, 217), (288, 288), (61, 97)]


def drawn(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Draw an image with something in it: smooth noise and a few rectangles."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    image = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    for x1, y1, x2, y2 in random_boxes(height, width, 6, seed=seed).astype(int):
        image[y1:y2, x1:x2] = rng.integers(0, 255, 3)
    return image


def assert_same(answer: dict, own: dict, *, tolerance: float = 2e-5) -> None:
    """Check for the same entities, pairs and best triplets, and scores to rounding."""
    assert answer["boxes"].shape == own["boxes"].shape
    np.testing.assert_allclose(answer["boxes"], own["boxes"], atol=0.01)
    for name in ("classes", "pairs"):
        np.testing.assert_array_equal(answer[name], own[name])
    for name in ("scores", "predicate_probs", "predicate_scores"):
        np.testing.assert_allclose(answer[name], own[name], atol=tolerance, rtol=1e-5)
    # Neighbours that differ by rounding may change places, the list of the best may not.
    assert len(set(best_triplets(answer)) ^ set(best_triplets(own))) <= 2


def half_of_all_triplets() -> KnowledgeBase:
    grid = np.stack(np.meshgrid(np.arange(22), np.arange(16), np.arange(22)), axis=-1)
    triplets = grid.reshape(-1, 3)[np.random.default_rng(0).random(grid.size // 3) < 0.5]
    return KnowledgeBase(SCENES, triplets, np.ones(len(triplets), np.int64))


@pytest.mark.parametrize("attention", ["full", "subject", "axial"])
@pytest.mark.parametrize("task", ["predcls", "sgcls", "sgdet"])
def test_exportable_form_equals_the_model(task: str, attention: str) -> None:
    """Without exporting: all tasks, attention patterns and options of the head."""
    cfg, model = build(
        f"relclip_{task}.yaml",
        *["MODEL.RELATION_HEAD.ATTENTION", attention],
        *["MODEL.RELATION_HEAD.CLASS_EMBEDDING", attention == "axial"],
        *["MODEL.PREDICATE_PRIOR.FREQUENCY_BIAS", attention != "full"],
        *["MODEL.RELATION.REQUIRE_OVERLAP", attention == "subject"],
        *["MODEL.RELATION.RANKING", "logit" if attention == "subject" else "softmax"],
        *["MODEL.RELATION.ENTITY_CLASSES", "head" if attention == "axial" else "detector"],
        *["INPUT.MIN_SIZE_TEST", 0],
    )
    if model.needs_counts:
        model.set_counts(torch.randint(0, 9, (22, 22, 17)).float())
    if attention != "full":
        model.restrict, model.distant = True, DistantLabels(half_of_all_triplets())
    module = exportable(model, "full" if task == "sgdet" else "relations")
    for count, (height, width) in zip([0, 1, 2, 100, 7], SIZES, strict=True):
        image = drawn(height, width)
        tensor = torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).copy())
        given = {}
        inputs = [tensor]
        if task != "sgdet":
            given["boxes"] = random_boxes(height, width, count)
            inputs.append(torch.from_numpy(given["boxes"]).float())
        if task == "predcls":
            given["classes"] = np.arange(count) % 22
            inputs.append(torch.from_numpy(given["classes"]))
        with torch.no_grad():
            found = dict(zip(module.outputs, map(torch.Tensor.numpy, module(*inputs)), strict=True))
        own = own_answer(cfg, model, image, **given)
        for name, values in found.items():
            np.testing.assert_allclose(values, own[name], atol=2e-5, rtol=1e-5, err_msg=name)


def test_groups_do_not_suppress_each_other() -> None:
    """Against non-maximum suppression of one class after the other."""
    from torchvision.ops import nms

    generator = torch.Generator().manual_seed(3)
    corners = torch.rand((400, 2, 2), generator=generator).sort(dim=1).values
    boxes = (corners * torch.tensor([900.0, 600.0])).reshape(-1, 4)
    scores, groups = torch.rand(400, generator=generator), torch.arange(400) % 149
    best = torch.cat(
        [
            (groups == g).nonzero()[:, 0][nms(boxes[groups == g], scores[groups == g], 0.3)]
            for g in range(149)
        ]
    )
    best = best[scores[best].argsort(descending=True)]
    found = best_of_groups(boxes, scores, groups, 149, 0.3, 500, (600, 900))
    torch.testing.assert_close(found[0][: len(best)], boxes[best])
    torch.testing.assert_close(found[2][: len(best)], groups[best])
    assert (found[1][len(best) :] == -torch.inf).all() and len(found[1]) == 500
    few = best_of_groups(boxes, scores, groups, 149, 0.3, 10, (600, 900))
    torch.testing.assert_close(few[1], scores[best[:10]])


@pytest.fixture(scope="module")
def images(repository: Path) -> list[np.ndarray]:
    """Images of sizes other than the traced one."""
    return [drawn(*size, seed=i) for i, size in enumerate(SIZES)]


def test_onnx_detects_and_relates_as_the_model(images: list[np.ndarray]) -> None:
    """SGDet from image to relations, with the trained detector that ships with the package."""
    cfg, model, path = exported("relclip_sgdet.yaml", "full", "onnx")
    predictor = OnnxPredictor(path, threads=1)
    counts = []
    for image in images:
        answer, own = predictor.run(image), own_answer(cfg, model, image)
        assert_same(answer, own)
        counts.append(len(answer["boxes"]))
    assert max(counts) >= 5, "nothing detected, so nothing compared"
    empty = np.full((200, 300, 3), 104, np.uint8)
    assert_same(predictor.run(empty), own_answer(cfg, model, empty))


def test_onnx_of_a_trained_detector_on_scenes(repository: Path) -> None:
    """Drawn scenes, where the detector finds many things."""
    folder_of_scenes = repository / "datasets/scenes/images"
    files = sorted(folder_of_scenes.glob("test_*"))[:4]
    if not files:
        pytest.skip("no scenes: run datasets/prepare_scenes.py")
    cfg, model, path = exported("relclip_sgdet.yaml", "full", "onnx")
    predictor = OnnxPredictor(path, threads=1)
    for file in files:
        image = np.array(Image.open(file).convert("RGB"))
        assert_same(predictor.run(file), own_answer(cfg, model, image))


def vit_b32(task: str) -> tuple[str, ...]:
    """Return overrides: the geometry of ViT-B/32 and the paper's images, classes of VG150."""
    return (
        *("MODEL.CLIP.NAME", clip_json(VIT_B32), "MODEL.CLIP.PRETRAINED", ""),
        *("MODEL.VOCABULARY", "vg150", "MODEL.RELATION_HEAD.DIM", "512"),
        *("INPUT.MIN_SIZE_TEST", "384", "INPUT.MAX_SIZE_TEST", "640"),
        *("MODEL.RELATION.TASK", task, "MODEL.RELATION.REQUIRE_OVERLAP", "True"),
    )


@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_onnx_on_photographs(samples: Path, count: int) -> None:
    """Given boxes on real images: 0, 1, 2 and 100 boxes, full attention over all their pairs."""
    cfg, model, path = exported("relclip_sgcls.yaml", "relations", "onnx", *vit_b32("sgcls"))
    predictor = OnnxPredictor(path, threads=1)
    files = sorted((samples / "visual_genome/images").glob("*.jpg"))
    assert files
    for seed, file in enumerate(files[:2]):
        image = np.array(Image.open(file).convert("RGB"))
        boxes = random_boxes(*image.shape[:2], count, seed=seed)
        answer = predictor.run(file, boxes=boxes)
        assert_same(answer, own_answer(cfg, model, image, boxes))
        assert count < 100 or len(answer["pairs"]) > 1000


OPTIONS = (
    *("MODEL.RELATION_HEAD.ATTENTION", "axial", "MODEL.RELATION_HEAD.CLASS_EMBEDDING", "True"),
    *("MODEL.PREDICATE_PRIOR.FREQUENCY_BIAS", "True", "MODEL.RELATION_HEAD.DIM", "64"),
)


@pytest.mark.parametrize("file_format", ["onnx", "torch_export", "torchscript"])
def test_axial_attention_and_given_classes(file_format: str, images: list[np.ndarray]) -> None:
    cfg, model, path = exported("relclip_predcls.yaml", "relations", file_format, *OPTIONS)
    if file_format == "onnx":
        run = OnnxPredictor(path, threads=1).run
    else:
        run = _torch_run(path, file_format, cfg)
    for count, image in zip([0, 1, 2, 100, 9], images, strict=True):
        boxes, classes = random_boxes(*image.shape[:2], count), np.arange(count) % 22
        answer = run(image, boxes=boxes, labels=[SCENES.objects[c] for c in classes])
        assert_same(answer, own_answer(cfg, model, image, boxes, classes))


def _torch_run(path: Path, file_format: str, cfg):
    """As OnnxPredictor.run, for the files that torch reads; nothing but the files is used."""
    extra = {"metadata.json": ""}
    if file_format == "torch_export":
        program = torch.export.load(path, extra_files=extra).module()
    else:
        program = torch.jit.load(path, _extra_files=extra)
    metadata = json.loads(extra["metadata.json"])
    assert metadata["objects"] == list(SCENES.objects)
    assert [entry["name"] for entry in metadata["inputs"]] == ["image", "boxes", "classes"]

    def run(image, *, boxes, labels):
        from vrd_d2.onnx_runtime import _prepare, output_size

        pre = metadata["preprocessing"]
        height, width = image.shape[:2]
        size = output_size(height, width, pre["min_size"], pre["max_size"])
        scale = np.array([size[1] / width, size[0] / height] * 2)
        classes = np.array([metadata["objects"].index(x) for x in labels], np.int64)
        inputs = (
            _prepare(image, size, pre["channel_order"]),
            (boxes * scale).astype(np.float32),
            classes,
        )
        with torch.no_grad():
            found = program(*map(torch.from_numpy, inputs))
        names = [entry["name"] for entry in metadata["outputs"]]
        return {
            "boxes": boxes.astype(np.float32),
            "classes": classes,
            "scores": np.ones(len(boxes), np.float32),
            **{name: value.numpy() for name, value in zip(names, found, strict=True)},
        }

    return run


ENCODERS = {
    "timm": ("timm/resnet10t", "map2"),
    "detectron2": ("build_resnet_fpn_backbone", "p3"),
}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_other_encoders(encoder: str, images: list[np.ndarray]) -> None:
    """Table 4: backbones of timm and Detectron2, with the padding that each wants."""
    name, feature = ENCODERS[encoder]
    cfg, model, path = exported(
        "relclip_predcls.yaml",
        "relations",
        "onnx",
        *["MODEL.VISUAL.ENCODER", name, "MODEL.VISUAL.FEATURE", feature],
        *["MODEL.VISUAL.WEIGHTS", "", "MODEL.RELATION_HEAD.DIM", "32"],
        # Unlike frozen statistics, these keep features of random weights small, so that no
        # probability is 0 and no two triplets tie.
        *["MODEL.RESNETS.NORM", "LN", "MODEL.FPN.NORM", "LN"],
    )
    predictor = OnnxPredictor(path, threads=1)
    for count, image in zip([0, 1, 2, 30, 5], images, strict=True):
        boxes, classes = random_boxes(*image.shape[:2], count), np.arange(count) % 22
        labels = [SCENES.objects[c] for c in classes]
        answer = predictor.run(image, boxes=boxes, labels=labels)
        assert_same(answer, own_answer(cfg, model, image, boxes, classes))


def test_torchscript_detector_is_detectron2s_own(images: list[np.ndarray]) -> None:
    """Stock tracing, against the exportable form: the same boxes, exactly."""
    _, model, path = exported("relclip_sgdet.yaml", "detector", "torchscript")
    program, module = torch.jit.load(path), exportable(model, "detector")
    for image in images:
        tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
        with torch.no_grad():
            for traced, own in zip(program(tensor), module(tensor), strict=True):
                torch.testing.assert_close(traced, own)


def test_metadata_says_what_a_caller_needs() -> None:
    cfg, model = build("relclip_sgdet.yaml")
    metadata = describe(cfg, exportable(model, "full"), what="full", file_format="onnx")
    assert json.loads(json.dumps(metadata)) == metadata
    assert metadata["objects"] == list(SCENES.objects)
    assert metadata["predicates"] == list(SCENES.predicates)
    pre = metadata["preprocessing"]
    assert (pre["min_size"], pre["max_size"], pre["channel_order"]) == (288, 480, "BGR")
    assert pre["in_model"]["detector"]["mean"] == pytest.approx([103.53, 116.28, 123.675])
    assert pre["in_model"]["detector"]["padded_to"] == 32
    assert pre["in_model"]["encoder"]["padded_to"] == model.visual.stride
    assert metadata["thresholds"]["score"] == 0.05
    relations = describe(cfg, exportable(model, "relations"), what="relations", file_format="onnx")
    assert list(relations["preprocessing"]["in_model"]) == ["encoder"]


def test_model_card(tmp_path: Path) -> None:
    cfg, model = build("relclip_predcls.yaml")
    metadata = describe(cfg, exportable(model, "relations"), what="relations", file_format="onnx")
    path = tmp_path / "scenes_test/relations_predcls_sgb.json"
    path.parent.mkdir()
    results = {
        "protocol": "sgb",
        "task": "predcls",
        "images": {"scored": 494},
        "metrics": {"R": {"20": 0.5, "50": 0.561}},
    }
    path.write_text(json.dumps(results))
    card = model_card(cfg, metadata, file_name="model.onnx", results=[path])
    assert "| scenes_test | sgb | 494 | 50.0 | 56.1 | - |" in card
    assert "scenes_train" in card and "PredCls" in card and "P x P" in card
    path.write_text(json.dumps({**results, "task": "sgdet"}))
    with pytest.raises(ValueError, match="sgdet"):
        model_card(cfg, metadata, file_name="model.onnx", results=[path])
    with pytest.raises(ValueError, match=r"absent\.json"):
        model_card(cfg, metadata, file_name="model.onnx", results=[tmp_path / "absent.json"])


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("unionclip_zero_shot_sgdet.yaml", "UnionCLIP.*tokenizer"),
        ("frequency_predcls.yaml", "FrequencyBaseline.*counts"),
    ],
)
def test_models_that_do_not_export_say_why(config: str, reason: str, tmp_path: Path) -> None:
    counts = tmp_path / "counts.json"
    counts.write_text(json.dumps({"man|riding|horse": 1}))
    _, model = build(config, "MODEL.PREDICATE_PRIOR.COUNTS", str(counts))
    with pytest.raises(ValueError, match=reason):
        exportable(model, "relations")
    if model.detector is not None:
        assert exportable(model, "detector").outputs == ["boxes", "classes", "scores"]


def test_parts_that_do_not_exist(tmp_path: Path) -> None:
    _, model = build("relclip_predcls.yaml")
    with pytest.raises(ValueError, match=r"predcls.*'relations'"):
        exportable(model, "full")
    with pytest.raises(ValueError, match=r"RelCLIP.*'relations'"):
        exportable(model, "detector")
    with pytest.raises(ValueError, match=r"'everything'.*full"):
        exportable(model, "everything")
    with pytest.raises(ValueError, match="Linear"):
        exportable(torch.nn.Linear(2, 2), "relations")
    with pytest.raises(ValueError, match=r"'caffe'.*onnx"):
        write_model(
            exportable(model, "relations"), tmp_path / "x", file_format="caffe", metadata={}
        )


def test_the_tool_writes_a_folder_that_runs(repository: Path, tmp_path: Path) -> None:
    """A detector, from its checkpoint to the folder; the copied module runs it by path."""
    command = [
        sys.executable,
        repository / "tools/export_model.py",
        *("--config-file", repository / "configs/quickstart/faster_rcnn_scenes.yaml"),
        *("--weights", repository / "vrd_d2/assets/scenes_faster_rcnn.pth"),
        *("--what", "detector", "--output", tmp_path / "out"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert run.returncode == 0, run.stderr[-2000:]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"model.onnx", "metadata.json", "MODEL_CARD.md", "onnx_runtime.py"}
    metadata = json.loads((tmp_path / "out/metadata.json").read_text())
    assert metadata["what"] == "detector" and metadata["predicates"] == []
    predictor = OnnxPredictor(tmp_path / "out/model.onnx", threads=1)
    assert predictor.metadata == metadata
    image = tmp_path / "image.png"
    Image.fromarray(drawn(240, 320)).save(image)
    run = subprocess.run(
        [sys.executable, "onnx_runtime.py", "model.onnx", image],
        cwd=tmp_path / "out",
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert json.loads(run.stdout) == predictor(image)


def test_the_tool_tells_what_is_wrong(repository: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        repository / "tools/export_model.py",
        *("--config-file", repository / "configs/quickstart/faster_rcnn_scenes.yaml"),
        *("--weights", tmp_path / "absent.pth", "--output", tmp_path),
    ]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 1 and "absent.pth" in run.stderr


def test_vocabulary_of_the_photographs(samples: Path) -> None:
    """The short ViT-B/32 is what the test above believes it to be."""
    _, model, path = exported("relclip_sgcls.yaml", "relations", "onnx", *vit_b32("sgcls"))
    metadata = OnnxPredictor(path, threads=1).metadata
    assert metadata["objects"] == list(VG150.objects) and model.visual.stride == 32
    assert metadata["image_encoder"]["name"] == "vit_b32_short.json" and str(folder()) not in str(
        metadata
    )
