#!/usr/bin/env python
"""Draw predicted scene graphs of a dataset beside what is annotated.

Green: predicted and annotated. Orange: annotated, but not predicted. Blue: predicted, not
annotated.

    python tools/visualize.py --config-file configs/quickstart/relclip_sgdet.yaml \\
        --output output/images MODEL.WEIGHTS output/quickstart/sgdet/model_final.pth
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vrd_d2.commands.arguments import Parser
from vrd_d2.commands.run_tool import run_tool


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--output", required=True, type=Path, help="folder of the drawings")
    parser.add_argument("--format", choices=("png", "jpg"), default="png")
    parser.add_argument("--dataset", help="default: the first of DATASETS.TEST")
    parser.add_argument("--num", type=int, default=8, help="images with relations to draw")
    parser.add_argument("--top-k", type=int, default=10, help="relations to draw of an image")
    parser.add_overrides()
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Draw the first images with relations."""
    import torch
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from tqdm import tqdm

    from vrd_d2.config.loading import load_config
    from vrd_d2.data.datasets.setup import setup_datasets
    from vrd_d2.data.images.saving import save_image
    from vrd_d2.engine.build import build_mapper, build_trained_model
    from vrd_d2.inference.comparison import draw_predictions

    cfg = load_config(args.config_file, args.opts)
    setup_datasets(cfg)
    name = args.dataset or cfg.DATASETS.TEST[0]
    records = [record for record in DatasetCatalog.get(name) if len(record["relations"])]
    metadata = MetadataCatalog.get(name)
    model = build_trained_model(cfg)
    mapper = build_mapper(cfg, [name], is_train=False)
    for record in tqdm(records[: args.num], desc="drawing"):
        with torch.no_grad():
            output = model([mapper(record)])[0]
        image = draw_predictions(record, output, metadata, ground_truth=record, top_k=args.top_k)
        stem = f"{Path(record['file_name']).stem}_{cfg.MODEL.RELATION.TASK}.{args.format}"
        save_image(args.output / stem, image)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
