"""A training that is stopped and resumed is the training that was not stopped, to the last bit."""

import contextlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.engine import DefaultTrainer
from detectron2.solver.lr_scheduler import LRMultiplier

from vrd_d2.engine.trainer import Trainer


class Killed(BaseException):
    """What no `except Exception` sees, as a kill."""


def start(cfg, *, resume=False):
    """A trainer as a new process has it: generators stand anywhere, weights are SEED's."""
    np.random.seed(None)
    random.seed()
    torch.manual_seed(0)  # as default_setup does: the random CLIP is the same in every run
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    np.random.seed(None)
    torch.seed()
    return trainer


def run(cfg, *, resume=False, kill=None):
    """Train; return the trainer, losses and learning rates of each iteration.

    With `kill`, (iteration, moment): it ends in a step, or while a checkpoint is written.
    """
    trainer = start(cfg, resume=resume)
    losses, rates = {}, {}
    original, save = trainer._trainer._write_metrics, trainer.checkpointer.save

    def record(loss_dict, *args, **kwargs):
        losses[trainer.iter] = {name: loss.item() for name, loss in loss_dict.items()}
        rates[trainer.iter] = trainer.optimizer.param_groups[0]["lr"]
        original(loss_dict, *args, **kwargs)
        if kill == (trainer.iter, "step"):
            raise Killed

    def torn(name, **kwargs):
        if kill == (trainer.iter, "write"):
            Path(cfg.OUTPUT_DIR, f".{name}.pth.unfinished").write_bytes(b"PK")
            raise Killed
        save(name, **kwargs)

    trainer._trainer._write_metrics, trainer.checkpointer.save = record, torn
    with contextlib.suppress(Killed):
        trainer.train()
    return trainer, losses, rates


def folder(cfg, name):
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR, name))
    Path(cfg.OUTPUT_DIR).mkdir(parents=True)
    return cfg


# Few pairs and random flips and sizes, so that every iteration draws.
DRAWS = ("MODEL.RELATION.BATCH_SIZE_PER_IMAGE", 4, "INPUT.RANDOM_FLIP", "horizontal",
         "INPUT.MIN_SIZE_TRAIN", (80, 96, 112), "TEST.EVAL_PERIOD", 0)  # fmt: skip


def test_sixty_iterations_with_many_kills(make_cfg):
    cfg = make_cfg("relclip_predcls.yaml", *DRAWS, "SOLVER.MAX_ITER", 60,
                   "SOLVER.CHECKPOINT_PERIOD", 4, "SOLVER.BASE_LR", 0.01, "SOLVER.STEPS", (30,),
                   "SOLVER.WARMUP_ITERS", 10)  # fmt: skip
    reference, expected, expected_rates = run(folder(cfg, "whole"))
    broken = folder(cfg, "broken")
    kills = [
        *((2, "step"), (6, "step"), (7, "write"), (11, "write"), (31, "step"), (58, "step")),
        None,
    ]
    first = 0
    for kill in kills:
        trainer, losses, rates = run(broken, resume=True, kill=kill)
        assert min(losses) == first, kill
        assert losses == {i: expected[i] for i in losses}, kill
        assert rates == {i: expected_rates[i] for i in rates}, kill
        first = kill[0] // 4 * 4 if kill else 0
    assert len({tuple(loss.values()) for loss in expected.values()}) > 50
    for a, b in zip(reference.model.state_dict().items(), trainer.model.state_dict().items(),
                    strict=True):  # fmt: skip
        assert a[0] == b[0] and torch.equal(a[1], b[1])


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ("relclip_sgcls.yaml", ("MODEL.RCL.MEMORY_BANK", 12, "MODEL.VISUAL.FEATURE_CACHE", "CACHE",
                                "SOLVER.OPTIMIZER", "AdamW")),
        ("unionclip_attention.yaml", ("MODEL.VISUAL.FEATURE_CACHE", "CACHE",
                                      "INPUT.MIN_SIZE_TRAIN", (96,))),
    ],
)  # fmt: skip
def test_every_kind_of_state_goes_on(make_cfg, tmp_path, config, options):
    cfg = make_cfg(config, *DRAWS, "SOLVER.MAX_ITER", 8, "SOLVER.CHECKPOINT_PERIOD", 1, *options)
    whole, broken = folder(cfg, "whole"), folder(cfg, "broken")
    for one in (whole, broken):
        if one.MODEL.VISUAL.FEATURE_CACHE:
            one.MODEL.VISUAL.FEATURE_CACHE = str(Path(one.OUTPUT_DIR, "cache"))
    _, expected, _ = run(whole)
    for kill in ((1, "step"), (3, "write"), (4, "step"), None):
        _, losses, _ = run(broken, resume=True, kill=kill)
        # A map that was stored when the run was killed is found by itself.
        for stored in list(Path(broken.OUTPUT_DIR).glob("cache/??/*.npy"))[::2]:
            stored.unlink()
        assert losses == {i: expected[i] for i in losses}, (kill, losses)
    assert len(expected) == 8


def test_workers_draw_as_the_main_process_does(make_cfg):
    cfg = make_cfg("relclip_predcls.yaml", *DRAWS, "SOLVER.IMS_PER_BATCH", 2)
    batches = {}
    for workers in (0, 2):
        cfg.DATALOADER.NUM_WORKERS = workers
        np.random.seed(None)
        loader = iter(Trainer.build_train_loader(cfg, start_iter=3))
        batches[workers] = [next(loader) for _ in range(6)]
    for one, other in zip(batches[0], batches[2], strict=True):
        for a, b in zip(one, other, strict=True):
            assert a["file_name"] == b["file_name"] and torch.equal(a["image"], b["image"])
    sizes = {tuple(example["image"].shape) for batch in batches[0] for example in batch}
    assert len(sizes) > 4


def test_a_detector_s_batches_go_on_in_their_groups(make_cfg):
    """High images wait for others of their kind, also across a resume."""
    cfg = make_cfg("faster_rcnn_vg.yaml", *DRAWS, "DATALOADER.ASPECT_RATIO_GROUPING", True)

    def batches(first, count):
        loader = iter(Trainer.build_train_loader(cfg, start_iter=first))
        return [next(loader) for _ in range(count)]

    whole = batches(0, 9)
    for first in (1, 4, 7):
        for one, other in zip(whole[first:], batches(first, 9 - first), strict=True):
            for a, b in zip(one, other, strict=True):
                assert a["file_name"] == b["file_name"] and torch.equal(a["image"], b["image"])
    wide = [[example["width"] > example["height"] for example in batch] for batch in whole]
    assert all(len(set(batch)) == 1 for batch in wide) and len({batch[0] for batch in wide}) == 2


def test_grouped_batches_are_those_of_detectron2(make_cfg):
    """Of a run from the start, image by image."""
    from detectron2.data.common import AspectRatioGroupedDataset

    from vrd_d2.data.samplers import GroupingSampler

    rng = np.random.default_rng(0)
    wide = rng.random(50) < 0.3
    stream = rng.integers(0, 50, 400).tolist()
    examples = [{"index": i, "width": 2 if wide[i] else 1, "height": 1} for i in stream]
    theirs = [[d["index"] for d in batch] for batch in AspectRatioGroupedDataset(examples, 3)]
    ours = list(GroupingSampler(stream, wide, 3))
    assert [ours[i : i + 3] for i in range(0, len(ours), 3)] == theirs and len(theirs) > 100


def schedule(cfg):
    """The learning rates by Detectron2 itself, from the first iteration to the last."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=cfg.SOLVER.BASE_LR)
    scheduler: LRMultiplier = DefaultTrainer.build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(cfg.SOLVER.MAX_ITER):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    "changes",
    [
        ("SOLVER.BASE_LR", 0.02, "SOLVER.STEPS", (3, 6), "SOLVER.GAMMA", 0.5),
        ("SOLVER.MAX_ITER", 12, "SOLVER.WARMUP_ITERS", 7, "SOLVER.WARMUP_FACTOR", 0.1),
        ("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"),
    ],
)
def test_a_resumed_run_follows_the_schedule_of_its_config(make_cfg, caplog, changes):
    cfg = make_cfg("relclip_predcls.yaml", "SOLVER.MAX_ITER", 9, "SOLVER.CHECKPOINT_PERIOD", 5,
                   "SOLVER.STEPS", (7,))  # fmt: skip
    Path(cfg.OUTPUT_DIR).mkdir()
    _, _, before = run(cfg, kill=(5, "step"))
    assert list(before.values()) == schedule(cfg)[:6]
    cfg.merge_from_list(list(changes))
    caplog.clear()
    _, _losses, rates = run(cfg, resume=True)
    assert rates == dict(list(enumerate(schedule(cfg)))[5:])
    (line,) = [r.getMessage() for r in caplog.records if "settings have changed" in r.getMessage()]
    assert all(key in line for key in changes[::2]) and "iteration 5" in line


def test_weight_decay_and_momentum_are_the_config_s_and_momenta_stay(make_cfg):
    """Other groups of parameters hold the same momenta."""
    cfg = make_cfg("relclip_predcls.yaml", "SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 3)
    Path(cfg.OUTPUT_DIR).mkdir()
    run(cfg, kill=(3, "step"))
    same = start(cfg, resume=True)
    changed = cfg.clone()
    changed.merge_from_list(["SOLVER.WEIGHT_DECAY", 0.5, "SOLVER.MOMENTUM", 0.3,
                             "SOLVER.WEIGHT_DECAY_BIAS", 0.25, "SOLVER.BIAS_LR_FACTOR", 2.0,
                             "SOLVER.WEIGHT_DECAY_NORM", 0.125])  # fmt: skip
    other = start(changed, resume=True)
    groups = other.optimizer.param_groups
    assert len(groups) > len(same.optimizer.param_groups)
    assert {group["momentum"] for group in groups} == {0.3}
    assert {group["weight_decay"] for group in groups} == {0.5, 0.25, 0.125}
    assert {group["lr"] for group in groups} == {0.001, 0.002}

    def momenta(trainer):
        names = {id(p): name for name, p in trainer.model.named_parameters()}
        state = trainer.optimizer.state
        return {names[id(p)]: state[p]["momentum_buffer"] for p in state}

    ours, theirs = momenta(other), momenta(same)
    assert ours.keys() == theirs.keys() and len(ours) > 10
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_another_optimizer_starts_without_momenta_and_says_so(make_cfg, caplog):
    cfg = make_cfg("relclip_predcls.yaml", "SOLVER.MAX_ITER", 4)
    Path(cfg.OUTPUT_DIR).mkdir()
    run(cfg, kill=(2, "step"))
    cfg.SOLVER.OPTIMIZER = "AdamW"
    _, losses, _ = run(cfg, resume=True)
    assert sorted(losses) == [2, 3] and "SOLVER.OPTIMIZER" in caplog.text


def test_a_run_that_is_complete_is_evaluated_and_a_longer_one_refused(make_cfg, caplog):
    cfg = make_cfg("relclip_predcls.yaml", "SOLVER.MAX_ITER", 4)
    Path(cfg.OUTPUT_DIR).mkdir()
    run(cfg)
    caplog.clear()
    trainer, losses, _ = run(cfg, resume=True)
    assert losses == {} and trainer.iter == 4
    assert "R@50" in trainer._last_eval_results["relations"]
    (line,) = [r.getMessage() for r in caplog.records if "nothing is left" in r.getMessage()]
    assert "model_final.pth" in line and "SOLVER.MAX_ITER 4" in line
    cfg.SOLVER.MAX_ITER = 3
    with pytest.raises(ValueError, match=r"model_final\.pth.* 4 iterations.*SOLVER\.MAX_ITER is 3"):
        start(cfg, resume=True)
    cfg.SOLVER.MAX_ITER = 6
    assert sorted(run(cfg, resume=True)[1]) == [4, 5]


def test_the_best_checkpoint_of_before_is_not_overwritten_by_a_worse_one(make_cfg, monkeypatch):
    values = iter([30.0, 70.0, 70.0, 50.0, 60.0, 60.0, 40.0, 20.0])  # two of them again
    monkeypatch.setattr(Trainer, "test", lambda *_: {"relations": {"R@100": next(values)}})
    cfg = make_cfg("relclip_predcls.yaml", "SOLVER.MAX_ITER", 12, "SOLVER.CHECKPOINT_PERIOD", 1,
                   "TEST.EVAL_PERIOD", 2, "TEST.BEST_METRIC", "relations/R@100")  # fmt: skip
    Path(cfg.OUTPUT_DIR).mkdir()
    best = Path(cfg.OUTPUT_DIR, "model_best.pth")
    run(cfg, kill=(4, "step"))
    assert torch.load(best, weights_only=True)["iteration"] == 3
    run(cfg, resume=True, kill=(8, "step"))
    run(cfg, resume=True)
    assert torch.load(best, weights_only=True)["iteration"] == 3


def test_an_evaluation_that_was_killed_is_made_up_for(make_cfg, monkeypatch):
    """Its checkpoint was written before; without it the best one would be another."""
    values = {1: 30.0, 3: 70.0, 5: 50.0, 6: 60.0}
    evaluated = []

    def test(cls, cfg, model, evaluators):
        evaluated.append(trainer.iter)
        if len(evaluated) == 2:
            raise Killed
        return {"relations": {"R@100": values[trainer.iter]}}

    monkeypatch.setattr(Trainer, "test", classmethod(test))
    cfg = make_cfg("relclip_predcls.yaml", "SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 1,
                   "TEST.EVAL_PERIOD", 2, "TEST.BEST_METRIC", "relations/R@100")  # fmt: skip
    Path(cfg.OUTPUT_DIR).mkdir()
    for resume in (False, True):
        trainer = start(cfg, resume=resume)
        with contextlib.suppress(Killed):
            trainer.train()
    assert evaluated == [1, 3, 3, 6] and trainer.start_iter == 4
    best = torch.load(Path(cfg.OUTPUT_DIR, "model_best.pth"), weights_only=True)
    assert best["iteration"] == 3 and best["trainer"]["iteration"] == 3


def test_the_best_checkpoint_at_the_end_goes_on_with_the_next_iteration(make_cfg):
    cfg = make_cfg("relclip_predcls.yaml", "SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 2,
                   "TEST.BEST_METRIC", "relations/R@100")  # fmt: skip
    Path(cfg.OUTPUT_DIR).mkdir()
    run(cfg)
    assert Path(cfg.OUTPUT_DIR, "last_checkpoint").read_text() == "model_best.pth"
    cfg.SOLVER.MAX_ITER = 4
    assert sorted(run(cfg, resume=True)[1]) == [2, 3]


def test_a_run_that_ended_before_its_last_file_gets_it(make_cfg):
    cfg = make_cfg("relclip_predcls.yaml", "SOLVER.MAX_ITER", 2, "SOLVER.CHECKPOINT_PERIOD", 1)
    Path(cfg.OUTPUT_DIR).mkdir()
    run(cfg)
    final = Path(cfg.OUTPUT_DIR, "model_final.pth")
    whole = torch.load(final, weights_only=True)
    final.unlink()
    Path(cfg.OUTPUT_DIR, "last_checkpoint").write_text("model_0000001.pth")
    assert run(cfg, resume=True)[1] == {}  # nothing is trained
    again = torch.load(final, weights_only=True)
    assert again["iteration"] == again["trainer"]["iteration"] == whole["iteration"] == 1
    for name, value in whole["model"].items():
        assert torch.equal(again["model"][name], value), name
    assert Path(cfg.OUTPUT_DIR, "last_checkpoint").read_text() == "model_final.pth"
    assert run(cfg, resume=True)[1] == {}


@pytest.mark.parametrize("tail", ["", '{"iteration": 3, "total_lo', "\x00" * 70_000])
def test_a_torn_last_line_of_metrics_is_cut_off(make_cfg, tail):
    cfg = make_cfg("relclip_predcls.yaml", "SOLVER.MAX_ITER", 4)
    Path(cfg.OUTPUT_DIR).mkdir()
    file = Path(cfg.OUTPUT_DIR, "metrics.json")
    file.write_text('{"iteration": 1}\n' + tail)
    run(cfg)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert next(line["iteration"] for line in lines) == 1 and len(lines) >= 2


def foreign(states):
    """(what must be named, state of a training in another form) of a state."""
    inner = states["_trainer"]
    momenta = inner["optimizer"]["state"]

    def with_momentum(value):
        changed = {**inner["optimizer"], "state": {**momenta, 0: value}}
        return {**states, "_trainer": {**inner, "optimizer": changed}}

    yield "_trainer", {k: v for k, v in states.items() if k != "_trainer"}
    yield "optimizer", {**states, "_trainer": {}}
    yield "list", {**states, "_trainer": []}
    yield "param_groups", {**states, "_trainer": {"optimizer": {}}}
    yield "list", {**states, "hooks": []}
    yield "str", with_momentum("x")
    yield "(1, 7)", with_momentum({"momentum_buffer": torch.zeros(1, 7)})
    yield (
        "not finite",
        with_momentum(
            {"momentum_buffer": torch.full_like(momenta[0]["momentum_buffer"], float("nan"))}
        ),
    )


def test_a_state_of_another_form_is_refused_by_its_file(make_cfg):
    cfg = make_cfg("relclip_predcls.yaml", "SOLVER.MAX_ITER", 2, "DATASETS.TEST", ())
    trainer, _, _ = run(folder(cfg, "run"))
    file = Path(trainer.cfg.OUTPUT_DIR, "model_final.pth")
    content = torch.load(file, weights_only=True)
    contents = [(named, {**content, "trainer": odd}) for named, odd in foreign(content["trainer"])]
    contents.append(("objects", {**content, "vrd_d2": {**content["vrd_d2"], "objects": 5}}))
    for named, odd in contents:
        torch.save(odd, file)
        trainer.checkpointer._parsed_url_during_load = None  # as in a new process
        with pytest.raises(ValueError) as error:
            trainer.resume_or_load()
        assert str(file) in str(error.value) and named in str(error.value)


def test_the_schedule_goes_by_the_iteration_alone(make_cfg):
    cfg = make_cfg("relclip_predcls.yaml", "SOLVER.MAX_ITER", 3, "SOLVER.STEPS", (2,),
                   "DATASETS.TEST", ())  # fmt: skip
    trainer, _, _ = run(folder(cfg, "run"), kill=(2, "step"))
    file = Path(trainer.cfg.OUTPUT_DIR, "model_0000001.pth")
    content = torch.load(file, weights_only=True)
    content["trainer"]["hooks"]["LRScheduler"] = {}
    torch.save(content, file)
    trainer = start(trainer.cfg, resume=True)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(cfg.SOLVER.BASE_LR / 10)
