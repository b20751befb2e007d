#!/usr/bin/env python
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

from vrd_d2.engine import Trainer, load_config, load_weights


def main(args) -> OrderedDict | None:
    cfg = load_config(args.config_file, args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="vrd_d2")
    if args.eval_only:
        model = Trainer.build_model(cfg)
        if cfg.MODEL.WEIGHTS:
            load_weights(model, cfg.MODEL.WEIGHTS)
        results = Trainer.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    arguments = default_argument_parser(epilog=__doc__).parse_args()
    try:
        launch(
            main,
            arguments.num_gpus,
            num_machines=arguments.num_machines,
            machine_rank=arguments.machine_rank,
            dist_url=arguments.dist_url,
            args=(arguments,),
        )
    except ValueError as error:
        # What a user can get wrong is a ValueError with its remedy; a traceback would bury it.
        sys.exit(f"error: {error}")
