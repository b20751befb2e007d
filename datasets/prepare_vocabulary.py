#!/usr/bin/env python
"""Write vocabulary.json of a dataset with open names, gqa or oiv6, from its training file.

    python datasets/prepare_vocabulary.py gqa --objects 200 --predicates 100
    python datasets/prepare_vocabulary.py oiv6 --sizes

The names are the most frequent ones, all without --objects and --predicates. gqa_* and oiv6_* are
read with them, and MODEL.VOCABULARY of a config is the path of the file. --sizes also stores the
sizes of the images, which Open Images does not state, so that they are read only once.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from vrd_d2.commands.arguments import Parser
from vrd_d2.commands.run_tool import run_tool


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("name", choices=["gqa", "oiv6"])
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    parser.add_argument("--root", type=Path, default=root, help="folder of all datasets")
    parser.add_argument("--objects", type=int, help="object classes to write")
    parser.add_argument("--predicates", type=int, help="predicates to write")
    parser.add_argument("--sizes", action="store_true", help="oiv6: also write sizes.json")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Count the names and write them."""
    from vrd_d2.data.datasets import open_images
    from vrd_d2.data.datasets.gqa import gqa_vocabulary
    from vrd_d2.data.images.folders import ImageFolders
    from vrd_d2.data.images.sizes import write_sizes
    from vrd_d2.data.vocabulary import write_vocabulary

    folder = args.root / args.name
    limits = {"num_objects": args.objects, "num_predicates": args.predicates}
    if args.name == "gqa":
        vocabulary = gqa_vocabulary(folder / "train_sceneGraphs.json", **limits)
    else:
        files = open_images.open_images_files(folder, "train")
        vocabulary = open_images.open_images_vocabulary(
            files["relations_csv"], files["class_descriptions"], **limits
        )
    path = folder / "vocabulary.json"
    write_vocabulary(vocabulary, path)
    print(
        f"{path}: {len(vocabulary.objects)} object classes, {len(vocabulary.predicates)} predicates"
    )
    if args.sizes:
        images = ImageFolders(folder, open_images.IMAGE_FOLDERS).found
        write_sizes(images, folder / "sizes.json")
        print(f"{folder / 'sizes.json'}: {len(images)} images")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
