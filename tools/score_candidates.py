#!/usr/bin/env python
"""Score the predicates that a knowledge base has for each pair of boxes, in each image of a set.

KB+EXT: a CLIP model that was trained on nothing of this looks at the union crops.

    python tools/score_candidates.py --config-file configs/unionclip_zero_shot.yaml \\
        --knowledge-base knowledge.npz --output output/candidates_clip

The weights are the model's probabilities of the candidates, scaled to sum 1: with CLIP's own
temperature (0.01 of the public models) what RelCLIP calls KB+EXT. EM refinement is this script with
the model that was trained on the last weights, then training on the new ones:

    python tools/score_candidates.py --config-file configs/relclip_distant_kb_ext.yaml \\
        --knowledge-base knowledge.npz --output output/candidates_em1 \\
        MODEL.WEIGHTS output/relclip_distant_kb_ext/model_final.pth
    python tools/train_net.py --config-file configs/relclip_distant_kb_ext.yaml \\
        MODEL.DISTANT.WEIGHTS output/candidates_em1 OUTPUT_DIR output/relclip_distant_em1

Killed, the same command goes on, and makes damaged files again; several machines take --part 1/4,
2/4, ... of one output folder. Relations of the images are not read. Boxes and classes are those
annotated.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vrd_d2.commands.arguments import Parser
from vrd_d2.commands.run_tool import run_tool

if TYPE_CHECKING:
    from vrd_d2.modeling.distant import DistantLabels


def score(model, labels: "DistantLabels", example: dict) -> tuple:
    """Return image id, pairs (P, 2) with a candidate and weights (P, K) of their candidates."""
    import torch

    output = model([example])[0]
    classes, relations = output["instances"].pred_classes, output["relations"]
    allowed = labels.candidates(classes, relations.pairs)
    rows = allowed.any(1)
    weights = relations.predicate_probs[rows, :-1] * allowed[rows]
    # Where the model gives all of them nothing, they are equally likely.
    nothing = weights.sum(1, keepdim=True) <= 1e-9
    weights = torch.where(nothing, allowed[rows].float(), weights)
    weights = weights / weights.sum(1, keepdim=True)
    return example["image_id"], relations.pairs[rows].cpu().numpy(), weights.cpu().numpy()


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--config-file", required=True, help="of the model that scores")
    parser.add_argument("--knowledge-base", required=True)
    parser.add_argument("--output", required=True, help="folder of the weights")
    parser.add_argument(
        "--datasets",
        nargs="+",
        help="JSON files, or names of registered datasets; default: DATASETS.TRAIN of the config",
    )
    parser.add_argument("--shard", type=int, default=200, help="images in a file")
    parser.add_argument("--part", default="1/1", help="which part of the shards, such as 2/4")
    parser.add_overrides()
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Score what has no file of scores yet."""
    import torch
    from detectron2.data import build_detection_test_loader
    from detectron2.utils.env import seed_all_rng
    from torch.utils.data import Subset
    from tqdm import tqdm

    from vrd_d2.config.loading import load_config
    from vrd_d2.data.build import training_records
    from vrd_d2.data.dataset_mapper import RelationMapper
    from vrd_d2.data.datasets.setup import register_source, setup_datasets
    from vrd_d2.data.knowledge.candidate_weights import CandidateWeights
    from vrd_d2.engine.build import build_trained_model
    from vrd_d2.engine.checks import check_vocabulary
    from vrd_d2.modeling.encoders.feature_cache import fingerprint

    changes = ["MODEL.RELATION.TASK", "predcls", "MODEL.DISTANT.KNOWLEDGE_BASE"]
    changes += [args.knowledge_base, "MODEL.DISTANT.WEIGHTS", "", "MODEL.DISTANT.RESTRICT", "False"]
    changes += ["DATASETS.DISTANT", "()"]
    cfg = load_config(args.config_file, [*args.opts, *changes])
    try:
        part, parts = map(int, args.part.split("/"))
        if not 1 <= part <= parts:
            raise ValueError
    except ValueError:
        raise ValueError(f"--part {args.part}: give it as 1/4, 2/4, ...") from None
    setup_datasets(cfg)
    names = [
        register_source(data, missing_images=cfg.DATASETS.MISSING_IMAGES)
        for data in args.datasets or ()
    ] or cfg.DATASETS.TRAIN
    records = training_records(names, filter_empty=True)
    check_vocabulary(cfg, names)
    seed_all_rng(cfg.SEED if cfg.SEED >= 0 else None)  # CLIP without weights is random
    model = build_trained_model(cfg)
    labels = model.distant
    base = labels.base
    settings = {
        "datasets": list(names),
        "shard": args.shard,
        "pictures": len(records),
        "triplets": len(base),
        "counts": int(base.triplet_counts.sum()),
        "min_count": labels.min_count,
        "overlap": model.require_overlap,
        "model": fingerprint(model, cfg.MODEL.META_ARCHITECTURE),
    }
    store = CandidateWeights.create(args.output, len(base.vocabulary.predicates), settings)
    mapper = RelationMapper(cfg, is_train=False)
    shards = range(part - 1, -(-len(records) // args.shard), parts)
    todo = {
        number: range(number * args.shard, min((number + 1) * args.shard, len(records)))
        for number in shards
        if not store.has(number)
    }
    with tqdm(total=sum(map(len, todo.values())), unit="image") as progress:
        for number, images in todo.items():
            loader = build_detection_test_loader(
                dataset=Subset(records, images),
                mapper=mapper,
                num_workers=cfg.DATALOADER.NUM_WORKERS,
            )
            rows = []
            with torch.no_grad():
                for (example,) in loader:
                    rows.append(score(model, labels, example))
                    progress.update()
            store.add(number, rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
