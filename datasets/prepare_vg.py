#!/usr/bin/env python
"""Write vg150_{train,val,test}.json, or vg20_*, from Visual Genome's raw files, in a seeded split.

    python datasets/prepare_vg.py                                (files in datasets/visual_genome)
    python datasets/prepare_vg.py --root /data/visual_genome --missing-images skip
    python datasets/prepare_vg.py --vocabulary vg20

The split is by chance over images that have a relation of the vocabulary. The public split needs
none of this: vg_sgg_* and vg20_sgg_* read its own files.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from vrd_d2.commands.arguments import Parser
from vrd_d2.commands.run_tool import run_tool


def split_records(
    records: list[dict], *, test: float, validation: int, seed: int
) -> dict[str, list[dict]]:
    """Return images with relations, shuffled: a share for test, a number for validation."""
    import numpy as np

    related = [record for record in records if len(record["relations"])]
    order = np.random.default_rng(seed).permutation(len(related))
    cut = round(test * len(related))
    parts = {
        "test": order[:cut],
        "val": order[cut : cut + validation],
        "train": order[cut + validation :],
    }
    return {name: [related[i] for i in sorted(part)] for name, part in parts.items()}


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    default = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "visual_genome"
    parser.add_argument("--root", type=Path, default=default, help="folder of the raw JSON files")
    parser.add_argument("--output", type=Path, help="default: the same folder")
    parser.add_argument("--vocabulary", choices=["vg150", "vg20"], default="vg150")
    parser.add_argument("--missing-images", choices=["error", "skip"], default="error")
    parser.add_argument("--test", type=float, default=0.3, help="share of images for test")
    parser.add_argument("--validation", type=int, default=5000, help="images for validation")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Read, split and write."""
    from vrd_d2.data.atomic_files import write_text
    from vrd_d2.data.datasets.visual_genome_raw import load_visual_genome_raw
    from vrd_d2.data.formats.relations_json import save_relations_json
    from vrd_d2.data.image_existence import drop_missing_images
    from vrd_d2.data.records.packed import PackedRecords, unseen_triplets
    from vrd_d2.data.vocabulary import get_vocabulary

    aliases = {}
    for kind in ("object", "predicate"):
        path = args.root / f"{kind}_alias.txt"
        aliases[f"{kind}_aliases"] = path if path.is_file() else None
    vocabulary = get_vocabulary(args.vocabulary)
    records = drop_missing_images(
        load_visual_genome_raw(args.root, vocabulary, **aliases),
        missing_images=args.missing_images,
        source=str(args.root),
    )
    parts = split_records(records, test=args.test, validation=args.validation, seed=args.seed)
    output = args.output or args.root
    for name, part in parts.items():
        json_file = output / f"{args.vocabulary}_{name}.json"
        save_relations_json(part, vocabulary, json_file, image_root=output / "images")
        count = sum(len(record["relations"]) for record in part)
        print(f"{json_file}: {len(part)} images, {count} relations")
    test, train = (PackedRecords.pack(parts[name]).triplets() for name in ("test", "train"))
    names = [
        [vocabulary.objects[s], vocabulary.predicates[p], vocabulary.objects[o]]
        for s, o, p in unseen_triplets(test, train)
    ]
    zero_shot = output / f"{args.vocabulary}_zero_shot.json"
    write_text(zero_shot, json.dumps(names) + "\n")
    print(f"{zero_shot}: {len(names)} test triplets unseen in training")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
