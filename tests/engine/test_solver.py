"""SOLVER's values are checked before a training, and said in words."""

import logging
import math

import pytest
import torch

from vrd_d2.engine.solver import check_solver, learning_rate_in_words, steps_before_the_end
from vrd_d2.engine.trainer import Trainer

ODD = [
    ("SOLVER.MAX_ITER", 0),
    ("SOLVER.MAX_ITER", -5),
    ("SOLVER.BASE_LR", 0.0),
    ("SOLVER.BASE_LR", -0.1),
    ("SOLVER.BASE_LR", math.nan),
    ("SOLVER.BASE_LR", math.inf),
    ("SOLVER.IMS_PER_BATCH", 0),
    ("SOLVER.IMS_PER_BATCH", -2),
    ("SOLVER.REFERENCE_WORLD_SIZE", -1),
    ("SOLVER.REFERENCE_WORLD_SIZE", 3),
    ("SOLVER.CHECKPOINT_PERIOD", 0),
    ("SOLVER.CHECKPOINT_PERIOD", -1),
    ("TEST.EVAL_PERIOD", -1),
    ("DATALOADER.NUM_WORKERS", -1),
    ("SOLVER.WARMUP_ITERS", -1),
    ("SOLVER.WARMUP_FACTOR", 1.5),
    ("SOLVER.WARMUP_METHOD", "cubic"),
    ("SOLVER.LR_SCHEDULER_NAME", "Cosine"),
    ("SOLVER.STEPS", (3, 2)),
    ("SOLVER.STEPS", (2, 2)),
    ("SOLVER.STEPS", (0, 2)),
    ("SOLVER.STEPS", (-1,)),
    ("SOLVER.STEPS", (1.5,)),
    ("SOLVER.GAMMA", -0.1),
    ("SOLVER.GAMMA", math.nan),
    ("SOLVER.MOMENTUM", -0.9),
    ("SOLVER.MOMENTUM", 9.0),
    ("SOLVER.WEIGHT_DECAY", -1e-4),
    ("SOLVER.BASE_LR_END", 1.0),
]


@pytest.mark.parametrize(("key", "value"), ODD)
def test_odd_values_are_refused_by_name(make_cfg, key, value):
    cfg = make_cfg("relclip_predcls.yaml")
    check_solver(cfg, 1)
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=rf"^{key} is .*: (it must be|iterations must increase)"):
        Trainer(cfg)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "size"), "SOLVER.CLIP_GRADIENTS.CLIP_TYPE"),
        (("SOLVER.NESTEROV", True, "SOLVER.MOMENTUM", 0.0), "SOLVER.MOMENTUM"),
    ],
)
def test_values_that_do_not_go_together(make_cfg, changes, key):
    cfg = make_cfg("relclip_predcls.yaml", "SOLVER.CLIP_GRADIENTS.ENABLED", True, *changes)
    with pytest.raises(ValueError, match=f"^{key} is "):
        check_solver(cfg, 1)


def test_a_batch_that_the_processes_cannot_share(make_cfg):
    cfg = make_cfg("relclip_predcls.yaml", "SOLVER.IMS_PER_BATCH", 6)
    check_solver(cfg, 3)
    with pytest.raises(ValueError, match=r"SOLVER\.IMS_PER_BATCH is 6.*4"):
        check_solver(cfg, 4)
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 3  # two images each
    check_solver(cfg, 4)


@pytest.mark.parametrize("step", [4, 9])
def test_steps_from_the_last_iteration_on_are_left_out(make_cfg, caplog, step):
    cfg = make_cfg("relclip_predcls.yaml", "SOLVER.MAX_ITER", 4, "SOLVER.STEPS", (2, step))
    assert steps_before_the_end(cfg).SOLVER.STEPS == (2,)
    assert f"[2, {step}]" in caplog.text and (2, step) == cfg.SOLVER.STEPS
    trainer = Trainer(cfg)
    rates = []
    for _ in range(4):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        trainer.optimizer.step()
        trainer.scheduler.step()
    assert rates == pytest.approx([0.001, 0.001, 0.0001, 0.0001])


def test_the_log_says_how_the_rate_goes_with_the_batch(make_cfg, caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="vrd_d2.engine.trainer")
    cfg = make_cfg("relclip_predcls.yaml", "SOLVER.IMS_PER_BATCH", 4)
    Trainer(cfg)
    (line,) = [r.getMessage() for r in caplog.records if "SOLVER.BASE_LR" in r.getMessage()]
    assert "0.001" in line and "4 images" in line and "not scaled" in line
    assert "SOLVER.REFERENCE_WORLD_SIZE" in line
    caplog.clear()
    # Meant for two processes, on one: half the batch and the rate, twice the iterations.
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 2
    trainer = Trainer(cfg)
    (line,) = [
        r.getMessage() for r in caplog.records if "scaled from SOLVER.BASE_LR" in r.getMessage()
    ]
    assert "0.0005" in line and "2 images" in line and "8 iterations" in line
    assert trainer.optimizer.param_groups[0]["lr"] == 0.0005 and trainer.max_iter == 8
    # Meant for a tenth of the processes, a checkpoint every fifth iteration is one in each half.
    cfg.SOLVER.REFERENCE_WORLD_SIZE, cfg.SOLVER.CHECKPOINT_PERIOD = 1, 5
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 12)
    with pytest.raises(ValueError, match=r"REFERENCE_WORLD_SIZE.*SOLVER\.(CHECKPOINT|MAX).* is 0"):
        Trainer(cfg)
    assert learning_rate_in_words(cfg, cfg, 1).count("not scaled") == 1


@pytest.mark.parametrize("warmup", [0, 1000])
def test_decays_at_equal_distances(make_cfg, warmup):
    """Detectron2's own schedule of this name fails in the last iteration."""
    cfg = make_cfg("relclip_predcls.yaml", "SOLVER.LR_SCHEDULER_NAME", "WarmupStepWithFixedGammaLR",
                   "SOLVER.MAX_ITER", 10, "SOLVER.NUM_DECAYS", 3, "SOLVER.GAMMA", 0.5,
                   "SOLVER.WARMUP_ITERS", warmup, "SOLVER.BASE_LR", 1.0)  # fmt: skip
    check_solver(cfg, 1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = Trainer.build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    if not warmup:
        assert rates == [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125]
    cfg.SOLVER.NUM_DECAYS = 10
    with pytest.raises(ValueError, match=r"SOLVER\.NUM_DECAYS is 10.*SOLVER\.MAX_ITER 10"):
        check_solver(cfg, 1)
