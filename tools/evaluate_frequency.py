#!/usr/bin/env python
"""Evaluate the frequency baseline in PredCls, from annotation alone: no image is opened.

    python tools/evaluate_frequency.py --train vrd_train --test vrd_test
    python tools/evaluate_frequency.py --test mine/test.json --protocols sgb vrd

A dataset is a relations_json file, or the name of a registered one, whose files are below --root.
Without --train the test set's own images are halved: they are ordered by the SHA-256 of
"SEED:IMAGE_ID", the first half (rounded down) is counted and the rest evaluated. Zero-shot recall
is of the triplets that were not counted, unless the test set has a list of its own.
"""

import argparse
import hashlib
import logging
import sys
from collections.abc import Sequence

from vrd_d2.commands.arguments import Parser, add_annotated_pairs
from vrd_d2.commands.run_tool import run_tool
from vrd_d2.data.vocabulary import Vocabulary
from vrd_d2.evaluation.protocols import PROTOCOLS


def halves(dataset_dicts: Sequence[dict], seed: int) -> tuple[list[dict], list[dict]]:
    """Return two halves, by a rule that depends on nothing but the seed and each image's id."""

    def key(record: dict) -> bytes:
        return hashlib.sha256(f"{seed}:{record['image_id']}".encode()).digest()

    ordered = sorted(dataset_dicts, key=key)
    cut = len(ordered) // 2
    return ordered[:cut], ordered[cut:]


def example(record: dict) -> dict:
    """Return a mapped example with boxes in pixels of the image, which itself is left black."""
    import torch
    from detectron2.structures import Boxes, Instances

    annotations = record["annotations"]
    boxes = torch.tensor([a["bbox"] for a in annotations]).reshape(-1, 4)
    classes = torch.tensor([a["category_id"] for a in annotations], dtype=torch.int64)
    return {
        "image": torch.zeros(3, 1, 1, dtype=torch.uint8),
        "image_id": record["image_id"],
        "instances": Instances((1, 1), gt_boxes=Boxes(boxes), gt_classes=classes),
        "relations": torch.from_numpy(record["relations"]),
    }


def annotated_pairs_of(record: dict):
    """Return the annotated pairs (P, 2) of an image in the order of its rows, as Lu et al. have it.

    Candidates of a model are other pairs, too, but never of a box with itself.
    """
    import torch

    pairs = dict.fromkeys(map(tuple, record["relations"][:, :2].tolist()))
    return torch.tensor(list(pairs), dtype=torch.int64).reshape(-1, 2)


def evaluate(
    training: Sequence[dict],
    test_name: str,
    vocabulary: Vocabulary,
    *,
    protocol: str,
    annotated_pairs: bool | None = None,
    output_dir: str | None = None,
) -> dict[str, float]:
    """Return metrics, in percent, of the relation frequencies of dicts on a registered dataset.

    Args:
        training: dataset dicts that are counted.
        test_name: a registered dataset.
        vocabulary: of both.
        protocol: name of the protocol.
        annotated_pairs: rank the annotated pairs alone; None as the protocol does.
        output_dir: folder for the JSON file of the results.
    """
    import torch
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from vrd_d2.data.records.packed import PackedRecords, unseen_triplets
    from vrd_d2.evaluation import RelationEvaluator
    from vrd_d2.modeling.frequency import FrequencyBaseline, count_relations
    from vrd_d2.tasks import Task

    model = FrequencyBaseline(
        counts=count_relations(training, vocabulary, require_overlap=False),
        task=Task.PREDCLS,
        vocabulary=vocabulary,
        detector=None,
        image_format="BGR",
        require_overlap=False,
        batch_size_per_image=1,
        positive_fraction=1.0,
        iou_threshold=0.5,
        add_gt_boxes=False,
    ).eval()
    test = DatasetCatalog.get(test_name)
    zero_shot = MetadataCatalog.get(test_name).get("zero_shot_triplets")
    if zero_shot is None:
        found, seen = (
            PackedRecords.pack(dicts, drop_other_keys=True).triplets() for dicts in (test, training)
        )
        zero_shot = unseen_triplets(found, seen)
    evaluator = RelationEvaluator(
        test_name,
        task=Task.PREDCLS,
        protocol=protocol,
        annotated_pairs=annotated_pairs,
        output_dir=output_dir,
        zero_shot=zero_shot,
    )
    with torch.no_grad():
        for record in test:
            inputs = example(record)
            entities = model.entities(inputs)
            pairs = model.pairs(entities)
            if evaluator.protocol.annotated_pairs:
                pairs = annotated_pairs_of(record)
            (found,) = model.predict([inputs], [entities], [pairs])
            evaluator.process([inputs], [model.output(inputs, entities, pairs, found)])
    return next(iter(evaluator.evaluate().values()), {})  # none, which is logged


def register_half(name: str, dicts: list[dict], like: str) -> None:
    """Register dicts under another name, with the names of the dataset that they are from."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    metadata = MetadataCatalog.get(like)
    if name in DatasetCatalog:  # of an earlier call
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, lambda: dicts)
    MetadataCatalog.get(name).set(
        thing_classes=metadata.thing_classes, predicate_classes=metadata.predicate_classes
    )


def vocabulary_of(name: str) -> Vocabulary:
    """Return the names of a registered dataset that was read."""
    from detectron2.data import MetadataCatalog

    metadata = MetadataCatalog.get(name)
    if not metadata.get("predicate_classes"):
        raise ValueError(f"{name} has boxes only, and no relations to count or to evaluate")
    return Vocabulary(metadata.thing_classes, metadata.predicate_classes)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--test", required=True, help="JSON file, or name of a registered dataset")
    parser.add_argument("--train", help="as --test; without it --test is halved")
    parser.add_argument("--root", help="folder of all registered datasets")
    parser.add_argument("--vocabulary", help="vg150, vrd, psg, or a JSON; default: that of --test")
    parser.add_argument("--protocols", nargs="+", default=["sgb"], choices=list(PROTOCOLS))
    add_annotated_pairs(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the halves")
    parser.add_argument("--output-dir", help="folder for JSON files of all results")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Evaluate by each protocol."""
    from detectron2.data import DatasetCatalog

    from vrd_d2.data.datasets.setup import register_builtin_datasets, register_source
    from vrd_d2.data.vocabulary import get_vocabulary

    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
    register_builtin_datasets(args.root, missing_images="keep")
    for data in filter(None, (args.train, args.test)):
        register_source(data, missing_images="keep")
    records, vocabulary = DatasetCatalog.get(args.test), vocabulary_of(args.test)
    if args.vocabulary and get_vocabulary(args.vocabulary) != vocabulary:
        raise ValueError(
            f"--vocabulary {args.vocabulary} has other classes or predicates than {args.test}: "
            "leave it out, or convert the dataset with it (tools/dataset.py convert)"
        )
    test_name = args.test
    if args.train is None:
        training, rest = halves(records, args.seed)
        test_name = f"{args.test}_half"
        register_half(test_name, rest, args.test)
    else:
        training = DatasetCatalog.get(args.train)
        if vocabulary_of(args.train) != vocabulary:
            raise ValueError(
                f"{args.train} and {args.test} have different classes or predicates: convert one "
                "of them with the --vocabulary of the other (tools/dataset.py convert)"
            )
    if not any(len(record["relations"]) for record in training):
        counted = args.train or f"one half of {args.test}"
        raise ValueError(f"{counted} has no relations to count: name other data with --train")
    for protocol in args.protocols:
        evaluate(
            training,
            test_name,
            vocabulary,
            protocol=protocol,
            annotated_pairs=args.annotated_pairs,
            output_dir=args.output_dir,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
