"""What is not finite is neither written, named, resumed from, predicted with nor evaluated."""

import errno
import re
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_images
from detectron2.engine import DefaultTrainer

from vrd_d2.checkpoint.checkpointer import SafeCheckpointer, load_weights
from vrd_d2.checkpoint.stamp import Stamp
from vrd_d2.checkpoint.weights_files import NotFiniteError, check_finite
from vrd_d2.commands.run_tool import foreseen
from vrd_d2.commands.train import main
from vrd_d2.engine.build import build_trained_model
from vrd_d2.engine.trainer import Trainer
from vrd_d2.inference.predictor import Predictor
from vrd_d2.onnx_runtime import select


def started(cfg, *, resume=False):
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer


@pytest.fixture
def cfg(make_cfg):
    cfg = make_cfg("relclip_predcls.yaml", "SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 1)
    Path(cfg.OUTPUT_DIR).mkdir()
    return cfg


def spoil_at(trainer, iteration, value=float("nan")):
    """Weights become NaN in the step of an iteration, as a large gradient makes them."""
    step = trainer.optimizer.step

    def spoiled(*args, **kwargs):
        step(*args, **kwargs)
        if trainer.iter == iteration:
            with torch.no_grad():
                trainer.model.head.predictor.predicates.bias[0] = value

    trainer.optimizer.step = spoiled


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_diverged_training_writes_no_checkpoint_and_says_what_to_do(cfg, caplog, value):
    trainer = started(cfg)
    spoil_at(trainer, 3, value)
    with pytest.raises(FloatingPointError) as raised:
        trainer.train()
    folder = Path(cfg.OUTPUT_DIR)
    text = foreseen(raised.value)
    for part in ("SOLVER.BASE_LR", "SOLVER.CLIP_GRADIENTS", "model_0000002.pth", "--resume"):
        assert part in text
    assert "\n" not in text and "predicates.bias" in text
    assert (folder / "last_checkpoint").read_text() == "model_0000002.pth"
    names = {f"model_000000{number}.pth" for number in range(3)}
    assert {file.name for file in folder.glob("model_*")} == names
    logged = "".join(record.exc_text or "" for record in caplog.records)
    assert "Traceback" not in logged and "training ended early" in caplog.text
    # It goes on from there, with another rate.
    cfg.SOLVER.BASE_LR = 1e-4
    resumed = started(cfg, resume=True)
    assert resumed.start_iter == 3
    resumed.train()


def test_a_loss_that_is_not_finite_ends_it_in_the_same_way(cfg):
    cfg.SOLVER.CHECKPOINT_PERIOD = 100
    trainer = started(cfg)
    spoil_at(trainer, 1)
    with pytest.raises(NotFiniteError, match=r"iteration=2.*no checkpoint.*BASE_LR") as raised:
        trainer.train()
    assert foreseen(raised.value) and not list(Path(cfg.OUTPUT_DIR).glob("model_*"))


def test_a_last_step_that_diverges_is_not_evaluated(cfg):
    """The final checkpoint and the evaluation come after it."""
    trainer = started(cfg)
    spoil_at(trainer, 5)
    with pytest.raises(NotFiniteError, match=r"diverged.*model_0000004\.pth"):
        trainer.train()
    assert not (Path(cfg.OUTPUT_DIR) / "model_final.pth").exists()
    assert not hasattr(trainer, "_last_eval_results")


def spoiled_checkpoint(cfg, path, *, value=float("nan"), scale=None):
    """A checkpoint that an earlier version wrote of weights that are not finite, or are huge."""
    model = DefaultTrainer.build_model(cfg)
    weights = model.state_dict()
    if scale is None:
        weights["head.predictor.predicates.weight"][1, 2] = value
    else:
        weights["head.predictor.predicates.weight"].fill_(scale)
    trainer = {"iteration": 3, "_trainer": {"optimizer": {}}}
    torch.save({"model": weights, "vrd_d2": Stamp(cfg).content, "trainer": trainer}, path)
    return str(path)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_at_every_entrance(cfg, tmp_path, value):
    path = spoiled_checkpoint(cfg, tmp_path / "nan.pth", value=value)
    message = rf"{re.escape(path)}: .*predicates\.weight is not finite.*earlier"
    cfg.MODEL.WEIGHTS = path
    for load in (
        lambda: build_trained_model(cfg),  # --eval-only, Predictor, demo, export
        lambda: started(cfg),
        lambda: Predictor(path, overrides=["MODEL.DEVICE", "cpu"]),
        lambda: load_weights(DefaultTrainer.build_model(cfg), path),
    ):
        with pytest.raises(ValueError, match=message):
            load()


def test_finite_weights_that_give_infinite_scores_are_refused(cfg, tmp_path):
    path = spoiled_checkpoint(cfg, tmp_path / "huge.pth", scale=3e38)
    cfg.MODEL.WEIGHTS = path
    (record, *_) = tiny_images(tmp_path)
    boxes = [[5, 5, 60, 80], [40, 30, 90, 85]]
    predictor = Predictor(path, overrides=["MODEL.DEVICE", "cpu"])
    with pytest.raises(ValueError, match=rf"{re.escape(path)}.*not finite"):
        predictor(record["file_name"], boxes=boxes, labels=["man", "dog"])
    with pytest.raises(ValueError, match=rf"{re.escape(path)}.*not finite"):
        Trainer.test(cfg, build_trained_model(cfg))


def test_a_detector_of_nan_is_not_evaluated(make_cfg):
    """Detectron2 takes NaN for nothing found."""
    model = torch.nn.Linear(2, 2)
    check_finite(model)
    with torch.no_grad():
        model.weight[0, 0] = float("nan")
    with pytest.raises(NotFiniteError, match="weight"):
        Trainer.test(make_cfg("faster_rcnn_vg.yaml"), model)


def test_buffers_may_be_infinite_but_not_nan():
    model = torch.nn.BatchNorm1d(2)
    model.running_mean[0] = float("-inf")
    check_finite(model)
    model.running_mean[0] = float("nan")
    with pytest.raises(NotFiniteError, match="running_mean"):
        check_finite(model)


@pytest.mark.parametrize("name", ["scores", "predicate_scores"])
def test_a_selection_refuses_scores_that_are_not_finite(name):
    found = {
        "boxes": np.array([[0, 0, 5, 5], [1, 1, 6, 6]], np.float32),
        "scores": np.ones(2, np.float32),
        "pairs": np.array([[0, 1]]),
        "predicate_scores": np.array([[0.2, 0.7]], np.float32),
    }
    assert select(found, ["on", "under"]).predicates.tolist() == [1]
    found[name] = np.full_like(found[name], np.nan)
    with pytest.raises(ValueError, match=f"{name} are not finite"):
        select(found, ["on", "under"])


@pytest.fixture
def small_disk():
    """Files of more than so many bytes cannot be written, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 10_000, 60_000])
def test_a_full_disk_leaves_the_checkpoint_of_before(tmp_path, small_disk, room):
    model = torch.nn.Linear(200, 100)
    checkpointer = SafeCheckpointer(model, str(tmp_path))
    checkpointer.save("model_0000001")
    small_disk(room)
    with pytest.raises(OSError, match=r"model_0000003\.pth") as raised:
        checkpointer.save("model_0000003")
    small_disk(resource.RLIM_INFINITY)
    assert raised.value.errno == errno.EFBIG and "\n" not in foreseen(raised.value)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "last_checkpoint",
        "model_0000001.pth",
    ]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    stored = torch.load(tmp_path / "model_0000001.pth", weights_only=True)["model"]
    assert torch.equal(stored["weight"], model.weight)
    checkpointer.save("model_0000003")  # when there is room again
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"


def test_a_full_disk_ends_a_training_with_one_line(cfg, caplog, monkeypatch):
    trainer = started(cfg)
    save = trainer.checkpointer.save

    def full(name, **kwargs):
        if name == "model_0000002":
            raise OSError(errno.ENOSPC, "No space left on device", f"{cfg.OUTPUT_DIR}/{name}.pth")
        save(name, **kwargs)

    monkeypatch.setattr(trainer.checkpointer, "save", full)
    with pytest.raises(OSError, match=r"No space left.*model_0000002\.pth"):
        trainer.train()
    assert not any(record.exc_info for record in caplog.records)
    resumed = started(cfg, resume=True)
    assert resumed.start_iter == 2


def test_the_command_ends_with_one_line_and_exit_code_1(cfg, tmp_path, capfd):
    """As in the field: a rate far too large, a checkpoint after each iteration."""
    file = tmp_path / "config.yaml"
    file.write_text(cfg.dump())
    resume = ["--config-file", str(file), "--resume", "SOLVER.MAX_ITER"]
    assert main([*resume, "2"]) == 0
    capfd.readouterr()
    assert main([*resume, "6", "SOLVER.BASE_LR", "1e12"]) == 1
    output, errors = capfd.readouterr()
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "diverged" in line and "SOLVER.BASE_LR" in line and "np.float" not in line
    assert "Traceback" not in output + errors
    folder = Path(cfg.OUTPUT_DIR)
    log = (folder / "log.txt").read_text()
    assert "training ended early" in log and "Traceback" not in log
    # A step of such a rate leaves weights that are finite, but of no use.
    named = folder / (folder / "last_checkpoint").read_text()
    assert str(named) in line and named.name == "model_0000002.pth"
    weights = torch.load(named, weights_only=True)["model"].values()
    assert all(torch.isfinite(weight).all() for weight in weights)
    named.unlink()
    assert main([*resume, "6"]) == 0
    output, errors = capfd.readouterr()
    assert "last_checkpoint names model_0000002.pth, which is not there" in output
    assert "Starting training from iteration 2" in output
