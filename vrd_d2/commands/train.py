"""Train and evaluate: RelCLIP and UnionCLIP, baselines, and the detector behind SGDet.

    python tools/train_net.py --config-file configs/relclip_sgdet.yaml
    python tools/train_net.py --config-file configs/relclip_sgdet.yaml --resume
    python tools/train_net.py --config-file configs/relclip_sgdet.yaml --eval-only \\
        MODEL.WEIGHTS output/model_final.pth
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vrd_d2.commands.arguments import Parser
from vrd_d2.commands.run_tool import run_tool

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse what Detectron2's `default_argument_parser` takes, without importing Detectron2."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="YAML")
    add("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR")
    add("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS")
    add("--num-gpus", type=int, default=1, help="GPUs of each machine")
    add("--num-machines", type=int, default=1)
    add("--machine-rank", type=int, default=0, help="number of this machine, from 0 on")
    # A port that depends on the user alone shows orphans of an earlier run: it is taken then.
    user = os.getuid() if sys.platform != "win32" else 1
    port = 2**15 + 2**14 + hash(user) % 2**14
    add("--dist-url", default=f"tcp://127.0.0.1:{port}", help="where processes meet")
    parser.add_overrides()
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int | None:
    """Train, or evaluate with --eval-only, in as many processes as GPUs are asked for."""
    import torch
    from detectron2.engine import launch
    from torch import multiprocessing

    if not 0 <= args.machine_rank < args.num_machines:
        # The others would wait for it.
        text = f"--machine-rank {args.machine_rank}: a number from 0 to below --num-machines"
        raise ValueError(f"{text} {args.num_machines}")
    if args.dist_url != "auto" and "://" not in args.dist_url:
        raise ValueError(f"--dist-url {args.dist_url}: an address such as tcp://127.0.0.1:29500")
    if torch.cuda.is_available() and args.num_gpus > torch.cuda.device_count():
        raise ValueError(f"--num-gpus {args.num_gpus}: there are {torch.cuda.device_count()}")
    if args.num_gpus * args.num_machines <= 1:
        return train(args)
    spoken = multiprocessing.get_context("spawn").Value("b", False)  # by one of the processes
    return launch(
        process,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args, spoken),
    )


def process(args: argparse.Namespace, spoken: "Synchronized[bool]") -> None:
    """Do the work of one of several processes, which ends with an exit code."""

    def first() -> bool:
        with spoken.get_lock():
            spoken.value, before = True, spoken.value
            return not before

    code = run_tool(train, args, speaks=first)
    if code:
        sys.exit(code)


def train(args: argparse.Namespace) -> int | None:
    """Train, or evaluate with --eval-only; return 2 if the last evaluation is not complete."""
    import collections

    from detectron2.evaluation import verify_results
    from detectron2.utils import comm

    from vrd_d2 import assets
    from vrd_d2.config.loading import load_config
    from vrd_d2.data.datasets.setup import setup_datasets
    from vrd_d2.engine.build import build_trained_model
    from vrd_d2.engine.run_setup import set_up_run
    from vrd_d2.engine.trainer import Trainer

    # It is copied into the log: it must be the one that is read.
    args.config_file = str(assets.config_path(args.config_file))
    cfg = load_config(args.config_file, args.opts)
    setup_datasets(cfg)
    cfg.freeze()
    set_up_run(cfg, args)
    if args.eval_only:
        results = Trainer.test(cfg, build_trained_model(cfg))
        if comm.is_main_process():
            verify_results(cfg, collections.defaultdict(dict, results))
        return None
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()
    return 2 if trainer.failed_evaluators else None


def main(argv: Sequence[str] | None = None) -> int:
    """Train or evaluate; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(run, arguments)
