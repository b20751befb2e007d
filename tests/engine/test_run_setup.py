"""The start of a run: its config and log, and what a full disk leaves of them."""

import argparse
import errno
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg

from vrd_d2.commands import train as command
from vrd_d2.data import atomic_files
from vrd_d2.engine.run_setup import set_up_run


@pytest.fixture
def cfg(tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.SEED = str(tmp_path / "new/output"), 7
    return cfg


@pytest.fixture
def args(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbfSEED: 7\n")
    return argparse.Namespace(config_file=str(tmp_path / "c.yaml"), eval_only=False)


def test_the_config_is_written_and_the_generators_are_seeded(cfg, args):
    drawn = []
    for _ in range(2):
        set_up_run(cfg, args)
        drawn.append((torch.rand(1).item(), np.random.rand()))
    assert drawn[0] == drawn[1]
    folder = Path(cfg.OUTPUT_DIR)
    assert (folder / "config.yaml").read_text() == cfg.dump()
    log = (folder / "log.txt").read_text()
    assert "c.yaml" in log and "SEED: 7" in log and "\x1b" not in log


def test_a_full_disk_leaves_the_config_of_before(cfg, args, monkeypatch):
    set_up_run(cfg, args)
    before = Path(cfg.OUTPUT_DIR, "config.yaml").read_text()

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic_files, "_sync", full)
    cfg.SEED = 8
    with pytest.raises(OSError, match=r"config\.yaml"):
        set_up_run(cfg, args)
    assert Path(cfg.OUTPUT_DIR, "config.yaml").read_text() == before


@pytest.mark.parametrize(
    "options",
    [
        *(("--machine-rank", "5"), ("--machine-rank", "-1"), ("--num-machines", "0")),
        ("--num-gpus", "2", "--dist-url", "foo"),
    ],
)
def test_processes_that_would_never_meet_are_refused(options, capsys):
    assert command.main(["--config-file", "configs/relclip_predcls.yaml", *options]) == 1
    assert options[-2] in capsys.readouterr().err
