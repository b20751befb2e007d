"""tools/predict.py: folders of anything into results, again and again, alone and in company."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scripts import load_script

from vrd_d2 import Predictor
from vrd_d2.checkpoint.checkpointer import SafeCheckpointer
from vrd_d2.checkpoint.stamp import Stamp
from vrd_d2.config.loading import load_config
from vrd_d2.data.formats.relations_json import load_relations_json, validate_relations_json
from vrd_d2.data.vocabulary import SCENES
from vrd_d2.engine.build import load_detector
from vrd_d2.engine.trainer import Trainer
from vrd_d2.inference.batch_run import PredictionRun

TOOL = Path(__file__).resolve().parents[2] / "tools" / "predict.py"


@pytest.fixture(scope="module")
def predict():
    from vrd_d2.commands import predict

    return predict


@pytest.fixture(scope="module")
def model(tmp_path_factory, repository):
    """Config and weights: shipped CLIP and detector, and a relation head that learnt nothing."""
    config = repository / "configs/quickstart/relclip_sgdet.yaml"
    cfg = load_config(config, ["MODEL.DEVICE", "cpu"])
    torch.manual_seed(0)
    trained = Trainer.build_model(cfg)
    load_detector(cfg, trained)
    weights = tmp_path_factory.mktemp("model") / "model.pth"
    torch.save({"model": trained.state_dict()}, weights)
    return ["--config-file", str(config), "--weights", str(weights)]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory, repository):
    """Three drawn images in which the shipped detector finds something."""
    module = load_script(repository / "datasets/prepare_scenes.py")
    folder = tmp_path_factory.mktemp("scenes")
    module.prepare(folder, sizes={"train": 1, "val": 1, "test": 3}, workers=1)
    return sorted((folder / "images").glob("test*"))


@pytest.fixture
def photos(scenes, tmp_path):
    """A folder with good images, one of them twice under one name, and bad ones."""
    folder = tmp_path / "photos of ä"
    (folder / "below").mkdir(parents=True)
    content = [path.read_bytes() for path in scenes]
    (folder / "one.jpg").write_bytes(content[0])
    (folder / "below/one.jpg").write_bytes(content[1])
    (folder / "zwei & <b>.png").write_bytes(content[2])  # a JPEG in truth
    return folder


@pytest.fixture
def run(predict, model, monkeypatch, capsys):
    def call(*arguments) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, arguments), *model])
        try:
            code = predict.main()
        except SystemExit as stop:
            code = stop.code
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return call


def lines(folder: Path) -> list[dict]:
    files = sorted(folder.glob("predictions-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_folder_of_images_becomes_results(run, photos, tmp_path):
    out = tmp_path / "out"
    (photos / "notes.txt").write_text("not an image")
    code, printed = run(photos, "--output", out, "--top-k", 6, "--batch-size", 2)
    assert code == 0, printed
    assert "3 predicted, 0 already there, 0 not used, 1 other files passed over" in printed
    assert "2 predicted, 0 not used" in printed  # the bar, after the first batch
    records = lines(out)
    assert sorted(r["name"] for r in records) == ["one", "one-2", "zwei & _b_"]
    for record in records:
        size = Image.open(out / record["file_name"]).size
        assert (record["width"], record["height"]) == size
        assert record["entities"] and len(record["relations"]) == 6
        assert np.asarray(Image.open(out / record["drawing"])).std() > 10
        assert "<!DOCTYPE html>" in (out / record["page"]).read_text(encoding="utf-8")
        scores = [r["score"] for r in record["relations"]]
        assert scores == sorted(scores, reverse=True)
    document = out / "predictions.json"
    assert not [m for m in validate_relations_json(document) if m.startswith("error")]
    dicts = load_relations_json(document)
    assert sum(len(d["relations"]) for d in dicts) == 18
    assert [p["name"] for p in json.loads(document.read_text())["predicates"]] == list(
        SCENES.predicates
    )


def test_broken_images_are_named_and_tried_again(run, photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    (photos / "zero.jpg").write_bytes(b"")
    (photos / "text.jpg").write_text("hello")
    arguments = (photos, "--output", out, "--html", "none", "--no-drawings")
    code, printed = run(*arguments)
    assert code == 2 and "3 predicted, 0 already there, 2 not used" in printed
    assert "zero.jpg is empty (0 bytes)" in printed
    assert "text.jpg" in printed and "is no image" in printed
    assert sum("error" in record for record in lines(out)) == 2
    # What is complete is not predicted again, and what was broken is once more.
    (photos / "zero.jpg").write_bytes((photos / "one.jpg").read_bytes())
    seen = []
    original = PredictionRun._predict
    monkeypatch.setattr(
        PredictionRun,
        "_predict",
        lambda self, batch: (seen.append(len(batch)), original(self, batch)),
    )
    code, printed = run(*arguments)
    assert code == 2 and "1 predicted, 3 already there, 1 not used" in printed and sum(seen) == 1
    assert len(lines(out)) == 5 and not (out / "drawings").exists()
    (photos / "text.jpg").unlink()
    assert run(*arguments)[0] == 0
    # Another threshold is another result: not in the same folder.
    code, printed = run(*arguments, "--min-score", "0.2")
    assert code == 1 and "other settings (min_score; min_score was 0.0, is 0.2)" in printed


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["missing.jpg", "--output", "out"], "there is no file"),
        (["empty", "--output", "out"], "no image and no video in"),
        (["zero.jpg", "--output", "out"], "0 predicted, 0 already there, 1 not used"),
        (["zero.jpg"], "the following arguments are required: --output"),
        (["zero.jpg", "--output", "zero.jpg"], "zero.jpg cannot be used"),
        (["zero.jpg", "--output", "out", "--top-k", "0"], "--top-k is 0: 1 at least"),
        (["zero.jpg", "--output", "out", "--predicates", "rides"], "unknown predicate 'rides'"),
        (["zero.jpg", "--output", "out", "--boxes", "none.json"], "none.json"),
    ],
)
def test_exit_code_1_for_nothing_and_for_a_wrong_command(
    run, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zero.jpg").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    code, printed = run(*arguments)
    assert code == 1 and message in printed


def test_a_crash_on_one_image_of_a_batch_spares_the_others(run, scenes, tmp_path, monkeypatch):
    original = Predictor.__call__

    def fails_on_the_last(self, images, **options):
        if any(image.shape == last for image in images):
            raise RuntimeError("no kernel for this")
        return original(self, images, **options)

    odd = tmp_path / "odd.png"
    last = (41, 57, 3)
    Image.new("RGB", (57, 41)).save(odd)
    monkeypatch.setattr(Predictor, "__call__", fails_on_the_last)
    arguments = (*scenes, odd, "--output", tmp_path / "out", "--html", "none", "--no-drawings")
    code, printed = run(*arguments, "--batch-size", 4)
    assert code == 2 and "3 predicted, 0 already there, 1 not used" in printed
    assert "odd.png: RuntimeError: no kernel for this" in printed


def test_thresholds_and_predicates_reach_the_results(run, scenes, tmp_path):
    code, printed = run(
        *scenes, "--output", tmp_path / "out", "--predicates", "holding", "next to", "--min-score",
        "0.001", "--min-entity-score", "0.3", "--html", "one", "--no-drawings",
    )  # fmt: skip
    assert code == 0, printed
    relations = [r for record in lines(tmp_path / "out") for r in record["relations"]]
    assert relations and {r["predicate"] for r in relations} <= {"holding", "next to"}
    assert min(r["score"] for r in relations) >= 0.001
    scores = [e["score"] for record in lines(tmp_path / "out") for e in record["entities"]]
    assert min(scores) >= 0.3
    page = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert all(path.name in page for path in scenes)
    assert not (tmp_path / "out/pages").exists()


def test_another_checkpoint_is_another_model_however_it_is_named(
    predict, model, scenes, tmp_path, monkeypatch, capsys
):
    """Alone, in place of the config, or beside it."""
    cfg = load_config(model[1], ["MODEL.DEVICE", "cpu"])
    files = []
    for name, seed in (("one", 1), ("two", 2)):
        torch.manual_seed(seed)
        trained = Trainer.build_model(cfg)
        load_detector(cfg, trained)
        SafeCheckpointer(trained, str(tmp_path), vrd_d2=Stamp(cfg)).save(name)
        files.append(str(tmp_path / f"{name}.pth"))
    shared = [str(scenes[0]), "--no-drawings", "--html", "none", "--output", str(tmp_path / "out")]

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["predict.py", *shared, *arguments])
        code = predict.main()
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    assert "1 predicted" in call("--config-file", files[0])[1]
    assert "1 already there" in call("--weights", files[0])[1]
    for arguments in (["--config-file", files[1]], ["--weights", files[1]]):
        code, printed = call(*arguments)
        assert code == 1 and "made with other settings (weights" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--min-score", "nan"], "nan is no number to compare with"),
        (["--max-pixels", "inf"], "inf is no number to compare with"),
        (["--max-overlap", "-1"], "-1 is less than 0"),
        (["--drawn", "-1"], "--drawn is -1"),
        (["--predicates", "on", "a.jpg"], None),
    ],
)
def test_options_that_are_none(run, tmp_path, arguments, message):
    inputs = ["a.jpg"] if message else []
    code, printed = run(*inputs, "--output", tmp_path / "out", *arguments)
    assert code == 1 and (message or "INPUT; write it first, before the options") in printed


def test_the_least_score_may_be_negative(predict, monkeypatch):
    """Models that rank by logits have such scores."""
    command = ["predict.py", "a.jpg", "--output", "out", "--weights", "m.pth", "--min-score", "-1"]
    monkeypatch.setattr(sys, "argv", command)
    assert predict.parse_arguments().min_score == -1


def test_boxes_of_ones_own(run, scenes, tmp_path):
    """The boxes of one run, given to the next, are its entities."""
    code, printed = run(*scenes, "--output", tmp_path / "first", "--html", "none", "--no-drawings")
    assert code == 0, printed
    boxes = tmp_path / "first/predictions.json"
    code, printed = run(
        *scenes, "--output", tmp_path / "second", "--boxes", boxes, "--html", "none"
    )
    assert code == 0, printed
    first, second = (
        {r["file_name"]: r["entities"] for r in lines(tmp_path / name)}
        for name in ("first", "second")
    )
    for name, entities in first.items():
        given = np.array([entity["bbox"] for entity in entities])
        found = np.array([entity["bbox"] for entity in second[name]])
        np.testing.assert_allclose(found, given, atol=0.02)
    # An image that the file does not have.
    other = tmp_path / "other.jpg"
    other.write_bytes(scenes[0].read_bytes())
    code, printed = run(scenes[0], other, "--output", tmp_path / "third", "--boxes", boxes)
    assert code == 2 and "has no image 'other.jpg'" in printed


def test_frames_of_a_video(run, scenes, tmp_path):
    cv2 = pytest.importorskip("cv2")
    video = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 5, (160, 120))
    for number in range(7):
        writer.write(cv2.resize(cv2.imread(str(scenes[number % 3])), (160, 120)))
    writer.release()
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    arguments = (video, broken, "--output", tmp_path / "out", "--every", 3, "--no-drawings")
    code, printed = run(*arguments)
    assert code == 2 and "3 predicted" in printed and "is no video" in printed
    records = [record for record in lines(tmp_path / "out") if "error" not in record]
    assert [(r["frame"], r["seconds"]) for r in records] == [(0, 0.0), (3, 0.6), (6, 1.2)]
    assert all(Image.open(tmp_path / "out" / r["file_name"]).size == (160, 120) for r in records)
    assert len(load_relations_json(tmp_path / "out/predictions.json")) == 3
    assert "0 predicted, 3 already there, 1 not used" in run(*arguments)[1]


SLOW_MERGE = """
import runpy, sys, time
from vrd_d2.inference.batch_run import PredictionRun

merge = PredictionRun.merge
PredictionRun.merge = lambda run: (time.sleep(3), merge(run))[1]
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_two_processes_share_the_work(model, photos, tmp_path):
    """By torchrun, as a program: shards, one document, and a broken image that ends neither,
    nor the merge, which takes long with many images."""
    (photos / "zero.jpg").write_bytes(b"")
    out = tmp_path / "out"
    slow = tmp_path / "slow_merge.py"
    slow.write_text(SLOW_MERGE)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        str(slow), str(TOOL), str(photos), "--output", str(out), "--no-drawings", "--html", "none",
        *model,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    assert "3 predicted, 0 already there, 1 not used; 3 images in" in done.stdout, done.stderr
    assert "zero.jpg" in done.stderr and done.returncode == 1
    assert sorted(path.name for path in out.glob("*.jsonl*")) == [
        "predictions-00000-of-00002.jsonl",
        "predictions-00001-of-00002.jsonl",
    ]
    shares = [len(path.read_text().splitlines()) for path in out.glob("*.jsonl")]
    assert shares == [2, 2] and len({record["file_name"] for record in lines(out)}) == 4
    assert len(load_relations_json(out / "predictions.json")) == 3


@pytest.mark.parametrize(("rank", "shards"), [("x", "2"), ("0", ""), ("2", "2"), ("-1", "2")])
def test_numbers_of_processes_that_cannot_be(run, scenes, tmp_path, monkeypatch, rank, shards):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", shards)
    code, printed = run(scenes[0], "--output", tmp_path / "out", "--no-drawings", "--html", "none")
    assert code == 1 and ("RANK" in printed or "WORLD_SIZE" in printed)
    assert "Traceback" not in printed


def test_shards_without_torchrun_come_together_at_the_last(run, scenes, tmp_path, monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    arguments = (*scenes, "--output", tmp_path / "out", "--no-drawings", "--html", "none")
    for rank, message in enumerate(("predictions.json follows", "3 images in")):
        monkeypatch.setenv("RANK", str(rank))
        code, printed = run(*arguments)
        assert code == 0 and message in printed


def test_heat_maps_of_chosen_relations(run, scenes, tmp_path):
    out = tmp_path / "out"
    arguments = (*scenes[:2], "--output", out, "--top-k", 5)
    code, printed = run(*arguments, "--heat-maps", "2")
    assert code == 0 and "2 images and 4 heat maps" in printed
    for record in lines(out):
        assert [entry["relation"] for entry in record["heat_maps"]] == [0, 1]
        entities, first = record["entities"], record["relations"][0]
        words = [entities[first["subject"]]["label"], first["predicate"]]
        entry = record["heat_maps"][0]
        assert Path(entry["drawing"]).name.startswith(f"01 {' '.join(words)}")
        drawn = np.asarray(Image.open(out / entry["drawing"]))
        assert drawn.shape[1] > record["width"] and drawn.std() > 10
        values = np.asarray(Image.open(out / entry["map"]))
        assert values.ndim == 2 and values.max() == 255
        page = (out / record["page"]).read_text(encoding="utf-8")
        assert page.count('"heat":"data:image/png') == 2
    # What is lost is made again.
    (out / entry["map"]).unlink()
    code, printed = run(*arguments, "--heat-maps", "2")
    assert code == 0 and "1 predicted, 1 already there" in printed and (out / entry["map"]).exists()
    code, printed = run(*arguments, "--heat-maps", "3")
    assert code == 1 and "other settings (heat_maps;" in printed


def test_heat_maps_by_pattern_are_on_the_common_page(run, scenes, tmp_path):
    out = tmp_path / "out"
    options = ("--html", "one", "--no-drawings", "--heat-method", "elementwise")
    run(scenes[0], "--output", tmp_path / "before", *options)
    predicate = lines(tmp_path / "before")[0]["relations"][0]["predicate"]
    pattern = f"* {predicate.upper()} *"
    code, printed = run(scenes[0], "--output", out, *options, "--heat-maps", pattern, "x y z")
    assert code == 0, printed
    (record,) = lines(out)
    wanted = [i for i, r in enumerate(record["relations"]) if r["predicate"] == predicate]
    assert wanted and [entry["relation"] for entry in record["heat_maps"]] == wanted
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.count('"heat":"data:image/png') == len(wanted)


def test_heat_maps_need_a_visual_map(predict, repository, scenes, tmp_path, monkeypatch, capsys):
    config = repository / "configs/quickstart/unionclip_zero_shot.yaml"
    arguments = [scenes[0], "--output", tmp_path / "o", "--config-file", config, "--heat-maps", 1]
    boxes = tmp_path / "boxes.json"
    boxes.write_text('{"images": [], "annotations": [], "categories": []}')
    monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, arguments), "--boxes", str(boxes)])
    assert predict.main() == 1
    assert "this model has no heat maps" in capsys.readouterr().err
