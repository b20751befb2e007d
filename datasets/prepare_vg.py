#!/usr/bin/env python
"""Write vg150_{train,val,test}.json from Visual Genome's raw files, in a seeded split.

    python datasets/prepare_vg.py                                (files in datasets/visual_genome)
    python datasets/prepare_vg.py --root /data/visual_genome --missing-images skip

The split is by chance over pictures that have a relation: the public one is part of other files.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np

from vrd_d2.data.relations_json import save_relations_json
from vrd_d2.data.visual_genome import load_visual_genome_raw
from vrd_d2.data.vocabulary import VG150


def split_records(
    records: list[dict], *, test: float, validation: int, seed: int
) -> dict[str, list[dict]]:
    """Pictures with relations, shuffled: a share for test, then a number for validation."""
    related = [record for record in records if len(record["relations"])]
    order = np.random.default_rng(seed).permutation(len(related))
    cut = round(test * len(related))
    parts = {
        "test": order[:cut],
        "val": order[cut : cut + validation],
        "train": order[cut + validation :],
    }
    return {name: [related[i] for i in sorted(part)] for name, part in parts.items()}


def triplets(records: list[dict]) -> set[tuple[int, int, int]]:
    """(subject class, object class, predicate) of all relations."""
    found = set()
    for record in records:
        classes = [annotation["category_id"] for annotation in record["annotations"]]
        found.update((classes[s], classes[o], int(p)) for s, o, p in record["relations"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "visual_genome"
    parser.add_argument("--root", type=Path, default=default, help="folder of the raw JSON files")
    parser.add_argument("--output", type=Path, help="default: the same folder")
    parser.add_argument("--missing-images", choices=["error", "skip"], default="error")
    parser.add_argument("--test", type=float, default=0.3, help="share of pictures for test")
    parser.add_argument("--validation", type=int, default=5000, help="pictures for validation")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    aliases = {}
    for kind in ("object", "predicate"):
        path = args.root / f"{kind}_alias.txt"
        aliases[f"{kind}_aliases"] = path if path.is_file() else None
    records = load_visual_genome_raw(
        args.root, VG150, missing_images=args.missing_images, **aliases
    )
    parts = split_records(records, test=args.test, validation=args.validation, seed=args.seed)
    output = args.output or args.root
    for name, part in parts.items():
        save_relations_json(
            part, VG150, output / f"vg150_{name}.json", image_root=output / "images"
        )
        count = sum(len(record["relations"]) for record in part)
        print(f"{output / f'vg150_{name}.json'}: {len(part)} pictures, {count} relations")
    unseen = sorted(triplets(parts["test"]) - triplets(parts["train"]))
    names = [[VG150.objects[s], VG150.predicates[p], VG150.objects[o]] for s, o, p in unseen]
    (output / "zero_shot.json").write_text(json.dumps(names) + "\n", encoding="utf-8")
    print(f"{output / 'zero_shot.json'}: {len(names)} test triplets unseen in training")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
