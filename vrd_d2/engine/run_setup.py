"""The start of a training or an evaluation: log files, the config as it is used, seeds."""

import argparse
import logging
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from vrd_d2.checkpoint.folder import check_output_folder
from vrd_d2.data.atomic_files import write_text

logger = logging.getLogger(__name__)


def set_up_run(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Prepare this process as Detectron2's ``default_setup`` does.

    Other than there, config.yaml is complete or as it was, whatever is killed or full, and the log
    is plain text.

    Args:
        cfg: with OUTPUT_DIR, which is made, and SEED.
        args: of ``vrd-train``: config_file and eval_only.

    Raises:
        ValueError: OUTPUT_DIR is none, or something lies in it that a training cannot replace.
        OSError: it cannot be written to.
    """
    rank = comm.get_rank()
    main = comm.is_main_process()
    check_output_folder(cfg.OUTPUT_DIR)
    for name in ("fvcore", "detectron2", "vrd_d2"):
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name=name)
    logger.info("process %d of %d", rank, comm.get_world_size())
    logger.info("environment:\n%s", collect_env_info())
    logger.info("arguments: %s", args)
    if args.config_file:
        text = Path(args.config_file).read_text(encoding="utf-8-sig")
        logger.info("%s:\n%s", args.config_file, text)
    if main:
        path = Path(cfg.OUTPUT_DIR, "config.yaml")
        logger.info("the whole config, written to %s:\n%s", path, cfg.dump())
        write_text(path, cfg.dump())
    # Each process has another seed, the same in every run.
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not args.eval_only:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
