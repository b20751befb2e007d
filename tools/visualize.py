#!/usr/bin/env python
"""Draw predicted scene graphs of a dataset beside what is annotated.

Green: predicted and annotated. Orange: annotated, but not predicted. Blue: predicted, not
annotated.

    python tools/visualize.py --config-file configs/quickstart/relclip_sgdet.yaml \\
        --output output/images MODEL.WEIGHTS output/quickstart/sgdet/model_final.pth
    python tools/visualize.py --predictions output/graphs --dataset mine/test.json \\
        --output output/images

The first predicts, the second draws what tools/predict.py or train_net.py wrote.
"""

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vrd_d2.commands.arguments import Parser
from vrd_d2.commands.run_tool import run_tool
from vrd_d2.data.source_files import located
from vrd_d2.tasks import Task

if TYPE_CHECKING:
    import numpy as np


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--config-file", help="of a model that predicts")
    model.add_argument("--predictions", type=Path, help="file or folder, instead of a model")
    parser.add_argument("--output", required=True, type=Path, help="folder of the drawings")
    parser.add_argument("--format", choices=("png", "jpg"), default="png")
    parser.add_argument(
        "--dataset",
        help="JSON file, or name of a registered dataset; default: the first of DATASETS.TEST",
    )
    parser.add_argument("--images", help="folder of the images of a JSON file; default: its own")
    parser.add_argument("--root", help="folder of all registered datasets")
    parser.add_argument(
        "--task",
        default="sgdet",
        choices=[task.value for task in Task],
        help="that --predictions are of",
    )
    parser.add_argument("--num", type=int, default=8, help="images with relations to draw")
    parser.add_argument("--top-k", type=int, default=10, help="relations to draw of an image")
    parser.add_overrides()
    return parser.parse_args(argv)


def predicted(args: argparse.Namespace) -> Iterator[tuple[dict, str, "np.ndarray"]]:
    """Yield the record, the task and the drawing of images that a model predicts."""
    import torch
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from vrd_d2.config.loading import load_config
    from vrd_d2.data.datasets.setup import (
        register_builtin_datasets,
        register_source,
        setup_datasets,
    )
    from vrd_d2.engine.build import build_mapper, build_trained_model
    from vrd_d2.inference.comparison import draw_predictions

    cfg = load_config(args.config_file, args.opts)
    if args.root is not None:
        register_builtin_datasets(args.root)
    setup_datasets(cfg)
    name = cfg.DATASETS.TEST[0]
    if args.dataset:
        name = register_source(
            args.dataset, args.images, missing_images=cfg.DATASETS.MISSING_IMAGES
        )
    records = [record for record in DatasetCatalog.get(name) if len(record["relations"])]
    metadata = MetadataCatalog.get(name)
    model = build_trained_model(cfg)
    mapper = build_mapper(cfg, [name], is_train=False)
    for record in records[: args.num]:
        with torch.no_grad():
            output = model([mapper(record)])[0]
        image = draw_predictions(record, output, metadata, ground_truth=record, top_k=args.top_k)
        yield record, cfg.MODEL.RELATION.TASK, image


def written(args: argparse.Namespace) -> Iterator[tuple[dict, str, "np.ndarray"]]:
    """Yield the record, the task and the drawing of images that were predicted before."""
    from vrd_d2.data.datasets.opening import open_dataset
    from vrd_d2.evaluation.ground_truth_files import ground_truths
    from vrd_d2.evaluation.json_lines import prediction_from_json
    from vrd_d2.evaluation.predictions import read_predictions
    from vrd_d2.inference.comparison import (
        compare_relations,
        ground_truth_graph,
        prediction_graph,
        read_image,
    )
    from vrd_d2.visualization.scene_graph_image import draw_view

    source = open_dataset(args.dataset, images=args.images, root=args.root)
    truths, vocabulary, task = ground_truths(source), source.vocabulary(), Task(args.task)
    wanted = [record for record in source.records if len(record["relations"])][: args.num]
    wanted = {record["image_id"]: record for record in wanted}
    for number, value in read_predictions(args.predictions, truths, task):
        record = wanted.pop(value["image_id"], None)
        if record is None:
            continue
        with located(f"{args.predictions}, line {number}"):
            prediction = prediction_from_json(value, truths.images[record["image_id"]], task)
            prediction.check(len(vocabulary.predicates), len(vocabulary.objects))
        graph = prediction_graph(prediction, vocabulary, task=task, top_k=args.top_k)
        graph = compare_relations(graph, ground_truth_graph(record, vocabulary))
        yield record, task.value, draw_view(read_image(record), graph.view())


def run(args: argparse.Namespace) -> None:
    """Draw the first images with relations."""
    from tqdm import tqdm

    from vrd_d2.data.images.saving import save_image

    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    if args.predictions is not None and not args.dataset:
        raise ValueError("--predictions are drawn on the images of a dataset: name it, --dataset")
    drawn = predicted(args) if args.predictions is None else written(args)
    count = 0
    for record, task, image in tqdm(drawn, desc="drawing", total=args.num):
        save_image(args.output / f"{Path(record['file_name']).stem}_{task}.{args.format}", image)
        count += 1
    if not count:
        raise ValueError(
            f"none of the first {args.num} images with relations is among the predictions"
            if args.predictions
            else "the dataset has no image with relations"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
