#!/usr/bin/env python
"""Let people judge what models predict: precision P@K, as in RelCLIP's Table 2.

    python tools/human_eval.py make --predictions ours=a/predictions.jsonl.gz norcl=b.jsonl.gz \\
        --annotations vg20_test --task predcls --output study/page.html
    python tools/human_eval.py report ratings-*.json --manifest study/page.json

`make` writes a page that works from a file, without a server, and beside it a manifest: which model
proposed what at which rank. Raters get the page only. `report` reads what they exported.
vrd_d2/evaluation/README.md says what is shown and counted.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from vrd_d2.commands.arguments import Parser
from vrd_d2.commands.run_tool import run_tool
from vrd_d2.tasks import Task


def named_predictions(texts: Sequence[str]) -> dict[str, Path]:
    """Return files by the names of their models: NAME=FILE, or FILE alone, named after itself."""
    found: dict[str, Path] = {}
    for text in texts:
        name, separator, file = text.partition("=")
        if not separator or Path(text).exists():
            name, file = Path(text).name.split(".")[0], text
        if not Path(file).exists():
            raise ValueError(f"--predictions {text}: there is no file {file}; check the path")
        if not name or name in found:
            raise ValueError(
                f"--predictions {text}: "
                + (f"{name!r} is the name of two models" if name else "the name is empty")
                + "; give each file another name, as in ours=a/predictions.jsonl.gz"
            )
        found[name] = Path(file)
    return found


def run_make(args: argparse.Namespace) -> None:
    """Write the page and its manifest."""
    from vrd_d2.data.datasets.opening import open_dataset
    from vrd_d2.evaluation.human.page import write_page
    from vrd_d2.evaluation.human.study import make_study
    from vrd_d2.evaluation.report import write_json

    if args.output.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--output {args.output}: name a file that ends in .html")
    predictions = named_predictions(args.predictions)
    # Images that are not chosen may be missing.
    source = open_dataset(args.annotations, images=args.images, root=args.root)
    if not source.predicates:
        raise ValueError(f"--annotations {args.annotations}: it has boxes only, no relations")
    names = source.vocabulary()
    study = make_study(
        source.records,
        classes=names.objects,
        predicates=names.predicates,
        predictions=predictions,
        task=args.task,
        images=args.num_images,
        top=args.top,
        seed=args.seed,
        min_relations=args.min_relations,
        progress=True,
    )
    write_page(
        study,
        args.output,
        title=args.title,
        max_side=args.max_side,
        quality=args.quality,
        progress=True,
    )
    manifest = args.output.with_suffix(".json")
    write_json(study.manifest(args.annotations), manifest)
    relations = sum(len(image.items) for image in study.images)
    print(
        f"{args.output}: {len(study.images)} of {study.eligible} images (seed {args.seed}), "
        f"{relations} relations of {len(predictions)} model(s), "
        f"{os.path.getsize(args.output) / 1e6:.1f} MB. Give it to the raters.\n"
        f"{manifest}: the manifest. Keep it: the report needs it, and the raters must not see it."
    )


def run_report(args: argparse.Namespace) -> None:
    """Print the report, and write it with --output."""
    from vrd_d2.evaluation.human.ratings import read_manifest, read_ratings
    from vrd_d2.evaluation.human.report import human_report, report_markdown
    from vrd_d2.evaluation.report import write_json

    if args.bootstrap < 0:
        raise ValueError(f"--bootstrap {args.bootstrap}: 0 for no intervals, or a positive number")
    manifest = read_manifest(args.manifest)
    ratings = read_ratings(args.ratings, manifest)
    report = human_report(manifest, ratings, ks=args.k, bootstrap=args.bootstrap)
    print(report_markdown(report))
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(report, args.output)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    make = commands.add_parser("make", help="a page for the raters, and its manifest")
    make.set_defaults(run=run_make)
    make.add_argument(
        "--predictions",
        nargs="+",
        required=True,
        metavar="[NAME=]FILE",
        help="of one model or several: JSON Lines (.gz), as TEST.RELATION.WRITE_PREDICTIONS "
        "writes, or file or folder of tools/predict.py",
    )
    make.add_argument("--annotations", required=True, help="relations_json, or name of a dataset")
    make.add_argument("--images", help="folder of the images; default: that of the annotations")
    make.add_argument("--root", help="folder of all registered datasets")
    make.add_argument("--output", required=True, type=Path, help="page.html; page.json goes beside")
    make.add_argument("--task", default="sgdet", choices=[task.value for task in Task])
    make.add_argument("--num-images", type=int, default=50, help="how many to choose by chance")
    old = {"dest": "num_images", "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
    make.add_argument("--pictures", type=int, **old)  # its name in version 0.1
    make.add_argument("--top", type=int, default=20, help="relations of each model and image")
    make.add_argument("--seed", type=int, default=0, help="of choice and order")
    make.add_argument(
        "--min-relations",
        type=int,
        default=0,
        help="choose only images for which every model has so many relations",
    )
    make.add_argument("--title", default="Which relations are right?", help="of the page")
    make.add_argument("--max-side", type=int, default=900, help="pixels of the images' long side")
    make.add_argument("--quality", type=int, default=85, help="of the JPEGs, 1 to 95")
    report = commands.add_parser("report", help="precision of the models by the raters")
    report.set_defaults(run=run_report)
    report.add_argument("ratings", nargs="+", type=Path, help="files that the page exported")
    report.add_argument("--manifest", required=True, type=Path, help="page.json")
    report.add_argument("--k", type=int, nargs="+", help="of P@K; default: 10 20")
    report.add_argument(
        "--bootstrap", type=int, default=1000, help="resamples for 95 %% intervals, 0 for none"
    )
    report.add_argument("--output", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace) -> None:
    """Run the command that was given."""
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    arguments.run(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
