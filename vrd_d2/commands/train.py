"""Train and evaluate: RelCLIP and its kin, baselines, and the detector behind SGDet.

    python tools/train_net.py --config-file configs/relclip_sgdet.yaml
    python tools/train_net.py --config-file configs/relclip_sgdet.yaml --resume
    python tools/train_net.py --config-file configs/relclip_sgdet.yaml --eval-only \\
        MODEL.WEIGHTS output/model_final.pth
"""

import sys
from collections import OrderedDict

from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from vrd_d2.config.loading import load_config
from vrd_d2.data.datasets.setup import setup_datasets
from vrd_d2.engine.build import build_trained_model
from vrd_d2.engine.trainer import Trainer


def process(args) -> OrderedDict | None:
    """One process; what a user can get wrong ends it with a line instead of a traceback."""
    try:
        return run(args)
    except ValueError as error:
        sys.exit(f"error: {error}")


def run(args) -> OrderedDict | None:
    """Train, or evaluate with --eval-only."""
    cfg = load_config(args.config_file, args.opts)
    setup_datasets(cfg)
    cfg.freeze()
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="vrd_d2")
    if args.eval_only:
        results = Trainer.test(cfg, build_trained_model(cfg))
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def main() -> None:
    arguments = default_argument_parser(epilog=__doc__).parse_args()
    launch(
        process,
        arguments.num_gpus,
        num_machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        dist_url=arguments.dist_url,
        args=(arguments,),
    )
