"""Look at a dataset of relations, check it, convert it and split it.

    python tools/dataset.py check mine/train.json --bad-list bad.txt
    python tools/dataset.py stats vg_sgg_test --output output/statistics
    python tools/dataset.py convert vrd_test vrd/test.json --copy-images
    python tools/dataset.py split mine/all.json --output mine --val 0.1 --test 500
    python tools/dataset.py zero-shot mine/train.json mine/test.json

A dataset is a relations_json file, a COCO instances file (boxes only), or the name of a
registered dataset, whose files are below --root. datasets/README.md describes formats and names.
"""

import argparse
import json
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrd_d2.commands.arguments import Parser, keep_inputs
from vrd_d2.commands.run_tool import run_tool
from vrd_d2.data.image_existence import POLICIES

if TYPE_CHECKING:
    from vrd_d2.data.datasets.opening import Source

_PARTS = ("train", "val", "test")


def read(data: str, args: argparse.Namespace, *, missing_images: str = "keep") -> "Source":
    """Load a file or a registered dataset."""
    from vrd_d2.data.datasets.opening import open_dataset

    return open_dataset(data, images=args.images, root=args.root, missing_images=missing_images)


def document_of(source: "Source", vocabulary: str | None) -> dict[str, Any]:
    """Return the content of a dataset as relations_json, with the ids of its file if it has some.

    Args:
        source: the dataset.
        vocabulary: the --vocabulary whose ids replace them.
    """
    from vrd_d2.data.formats.document_parts import with_names
    from vrd_d2.data.formats.relations_document import to_document
    from vrd_d2.data.formats.relations_json import read_document
    from vrd_d2.data.vocabulary import named_records

    if vocabulary is None or source.json_file is None:
        names = source.vocabulary()
    if source.json_file is not None:
        document = read_document(source.json_file)
    else:
        document = to_document(source.records, names, source.image_root or os.curdir)
    if vocabulary is None:
        return document
    return with_names(document, *named_records(vocabulary), source.name)


def part_text(document: dict[str, Any], records: Sequence[dict], path: Path) -> str:
    """Return the text of a file of some records' images, all else as it is."""
    from vrd_d2.data.formats.document_parts import part_of_document
    from vrd_d2.data.formats.relations_json import document_text

    names = {record["image_id"]: record["file_name"] for record in records}
    part = part_of_document(document, names, path.parent)
    return document_text(part, f"records for {path}")


def report(path: Path, records: Sequence[dict]) -> None:
    """Say what has been written."""
    relations = sum(len(record["relations"]) for record in records)
    print(f"{path}: {len(records)} images, {relations} relations")


def run_check(args: argparse.Namespace) -> int:
    """Check records and images; return 1 if there is an error."""
    from vrd_d2.data.atomic_files import write_text
    from vrd_d2.data.images.check import check_images

    if args.bad_list is not None:
        keep_inputs(args.bad_list, args.data)
    errors, warnings, source = check_records(args)
    bad = []
    if source is not None:
        listed = any("there is no image" in text for text in errors)
        found = check_images(source.records, workers=args.workers, progress=True)
        for problem in found.problems:
            bad.append(problem.file_name)
            if problem.kind != "missing" or not listed:
                errors.append(f"{source.name}: {problem.message}")
        try:
            source.zero_shot()
        except ValueError as error:
            errors.append(str(error))
        for note, files in found.notes.items():
            warnings.append(
                f"{source.name}: {len(files)} images are not read as they are stored: {note} "
                f"(such as {files[0]})"
            )
    show(errors, "error", args.show)
    show(warnings, "warning", args.show)
    if source is None:
        print(
            "Repair these records and check again: what records refer to, and the images, are "
            "looked at after that" + (", and a bad list is written then." if args.bad_list else ".")
        )
    elif args.bad_list is not None:
        names = [below(file_name, source.image_root) for file_name in bad]
        write_text(args.bad_list, "".join(f"{name}\n" for name in names))
        print(f"{args.bad_list}: {len(names)} images, for DATASETS.EXCLUDE")
    size = "" if source is None else f"{len(source.records)} images, "
    print(f"{args.data}: {size}{len(errors)} errors, {len(warnings)} warnings")
    return int(bool(errors))


def check_records(args: argparse.Namespace) -> tuple[list[str], list[str], "Source | None"]:
    """Return errors, warnings, and the dataset if it can be read."""
    from vrd_d2.data.datasets.opening import is_file
    from vrd_d2.data.formats.relations_json import validate_relations_json

    if is_file(args.data):
        messages = validate_relations_json(args.data, args.images)
        source = None
    else:
        source = read(args.data, args)
        if source.json_file is None:
            return check_converted(source)
        messages = validate_relations_json(source.json_file, source.image_root)
    errors = [text.removeprefix("error: ") for text in messages if text.startswith("error: ")]
    warnings = [text.removeprefix("warning: ") for text in messages if text.startswith("warning: ")]
    readable = all("there is no image" in text for text in errors)
    if not readable:
        return errors, warnings, None
    return errors, warnings, source or read(args.data, args)


def check_converted(source: "Source") -> tuple[list[str], list[str], "Source"]:
    """Check the records of another format as the relations_json that they would become."""
    from vrd_d2.data.formats.relations_check import check_document
    from vrd_d2.data.formats.relations_document import to_document

    document = to_document(source.records, source.vocabulary(), source.image_root or os.curdir)
    findings = check_document(document, source.name)
    return findings.errors, findings.warnings, source


def show(messages: list[str], kind: str, count: int) -> None:
    """Print the first messages of a kind, of those that are alike at least one; all for 0."""
    from vrd_d2.data.messages import by_kind

    groups = by_kind(messages)
    spare = max(count - len(groups), 0)
    for group in groups:
        shown = group[: 1 + spare] if count else group
        spare -= len(shown) - 1
        for text in shown:
            print(f"{kind}: {text}")
        if len(group) > len(shown):
            more = len(group) - len(shown)
            print(f"... and {more} more {kind}s like this (--show 0 prints all)")


def below(file_name: str, folder: str | None) -> str:
    """Return the path relative to a folder if it is below it, else as it is."""
    path, root = os.path.abspath(file_name), os.path.abspath(folder or os.curdir)
    return os.path.relpath(path, root) if Path(path).is_relative_to(root) else path


def run_stats(args: argparse.Namespace) -> int:
    """Print statistics, and write them with --output."""
    from vrd_d2.data.analysis.statistics import (
        dataset_statistics,
        statistics_json,
        statistics_table,
    )
    from vrd_d2.data.boxes import check_layout

    source = read(args.data, args)
    check_layout(source.records, source.name)
    statistics = dataset_statistics(
        source.records,
        num_classes=len(source.objects),
        num_predicates=len(source.predicates),
    )
    print(statistics_table(statistics, source.objects, source.predicates, title=source.name))
    if args.output is not None:
        from vrd_d2.data.analysis.plots import write_statistics_plots
        from vrd_d2.data.atomic_files import write_text

        content = statistics_json(statistics, source.objects, source.predicates)
        path = args.output / "statistics.json"
        write_text(path, json.dumps(content, indent=1) + "\n")
        names = {"objects": source.objects, "predicates": source.predicates}
        title = Path(source.name).name
        plots = write_statistics_plots(statistics, args.output, title=title, **names)
        print(f"\nwritten: {', '.join(map(str, [path, *plots]))}")
    return 0


def run_convert(args: argparse.Namespace) -> int:
    """Write a dataset as relations_json."""
    from vrd_d2.data.atomic_files import write_text

    source = read(args.data, args, missing_images=args.missing_images)
    document, records = document_of(source, args.vocabulary), list(source.records)
    if args.copy_images:
        records = copy_images(records, source.image_root, args.output.parent / "images")
    write_text(args.output, part_text(document, records, args.output))
    report(args.output, records)
    return 0


def copy_images(records: list[dict], root: str | None, folder: Path) -> list[dict]:
    """Copy the images, by their names below the root, and refer to the copies."""
    from tqdm import tqdm

    from vrd_d2.media.images import check_file

    origin: dict[Path, str] = {}
    copies = []
    names = [Path(below(record["file_name"], root)) for record in records]
    if all(len(name.parts) > 1 and name.parts[0] == folder.name for name in names):
        names = [name.relative_to(folder.name) for name in names]  # no images/images
    for record, name in zip(records, names, strict=True):
        target = folder / (name.name if name.is_absolute() else name)
        if origin.setdefault(target, record["file_name"]) != record["file_name"]:
            raise ValueError(
                f"{origin[target]} and {record['file_name']} would both become {target}: convert "
                "without --copy-images, or rename one of them"
            )
        copies.append({**record, "file_name": str(target)})
    for file_name in origin.values():
        check_file(file_name)  # a pipe would be waited for, and a device has no end
    for target, file_name in tqdm(origin.items(), desc="copying", unit=""):
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or not os.path.samefile(file_name, target):
            shutil.copyfile(file_name, target)
    return copies


def run_split(args: argparse.Namespace) -> int:
    """Write three files by chance."""
    from vrd_d2.data.analysis.splits import split_indices
    from vrd_d2.data.atomic_files import write_text

    source = read(args.data, args, missing_images=args.missing_images)
    for name in _PARTS:
        keep_inputs(args.output / f"{name}.json", source.json_file or args.data)
    document, records = document_of(source, args.vocabulary), list(source.records)
    asked = {"test": args.test, "val": args.val}
    parts = split_indices(len(records), asked, rest="train", seed=args.seed)
    chosen = {name: [records[i] for i in parts[name]] for name in _PARTS}
    # All of them, before the first is written: what is wrong with one is wrong with the split.
    texts = {
        name: part_text(document, chosen[name], args.output / f"{name}.json") for name in _PARTS
    }
    for name in _PARTS:
        path = args.output / f"{name}.json"
        write_text(path, texts.pop(name))
        report(path, chosen[name])
        if not chosen[name]:
            share = f"--{name} {asked[name]}" if name in asked else "--val and --test leave none"
            print(f"warning: {path} has no image: {share} of {len(records)} images")
        elif not any(len(record["relations"]) for record in chosen[name]):
            print(
                f"warning: {path} has no relation: none of its {len(chosen[name])} images has any"
            )
    return 0


def run_zero_shot(args: argparse.Namespace) -> int:
    """Write the triplets of a test set that are not in the training set."""
    from vrd_d2.data.analysis.splits import write_zero_shot, zero_shot_names

    train, test = read(args.data, args), read(args.test, args)
    keep_inputs(args.output, *(source.json_file or source.name for source in (train, test)))
    vocabulary = train.vocabulary()
    if vocabulary != test.vocabulary():
        raise ValueError(
            f"{train.name} and {test.name} have different classes or predicates: convert one of "
            "them with the --vocabulary of the other"
        )
    rows = zero_shot_names(train.records, test.records, vocabulary)
    write_zero_shot(rows, args.output)
    print(f"{args.output}: {len(rows)} triplets of {test.name} that are not in {train.name}")
    return 0


def amount(text: str) -> float | int:
    """Return a number of images (500), or a share of them (0.1), for argparse."""
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a number of images (500) nor a share of them (0.1)"
        ) from None


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command and its options."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("data", metavar="DATA", help="JSON file, or name of a registered dataset")
    common.add_argument("--images", help="folder of the images of a file; default: its own")
    common.add_argument("--root", help="folder of all registered datasets")
    names = argparse.ArgumentParser(add_help=False)
    names.add_argument("--vocabulary", help="ids to write, by name: vg150, vrd, ..., or a JSON")
    names.add_argument("--missing-images", choices=POLICIES, default="error")
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run, text: str, parents: Sequence = (common,)):
        added = commands.add_parser(name, parents=parents, help=text, description=text)
        added.set_defaults(run=run)
        return added

    check = command("check", run_check, "records and images; exit code 1 if there are errors")
    check.add_argument("--bad-list", type=Path, help="file to write: images to leave out")
    check.add_argument("--workers", type=int, help="processes that decode; 0: none but this one")
    check.add_argument(
        "--show", type=int, default=20, help="messages to print, one of each kind at least; 0: all"
    )
    stats = command("stats", run_stats, "counts, long tails, and oddities of the annotation")
    stats.add_argument("--output", type=Path, help="folder for statistics.json and PNG files")
    both = (common, names)
    convert = command("convert", run_convert, "write a dataset as relations_json", both)
    convert.add_argument("output", type=Path, metavar="OUTPUT", help="JSON file to write")
    convert.add_argument(
        "--copy-images", action="store_true", help="copy the images to images/ beside it"
    )
    split = command("split", run_split, "train.json, val.json and test.json, by chance", both)
    split.add_argument("--output", type=Path, required=True, help="folder")
    split.add_argument("--val", type=amount, default=0.1, help="images, or their share (0.1)")
    split.add_argument("--test", type=amount, default=0.2, help="images, or their share (0.2)")
    split.add_argument("--seed", type=int, default=0)
    zero_shot = command("zero-shot", run_zero_shot, "test triplets that are not in training")
    zero_shot.add_argument("test", metavar="TEST", help="as DATA, which is the training set")
    zero_shot.add_argument("--output", type=Path, default=Path("zero_shot.json"))
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace) -> int:
    """Run the command that was given; return the exit code."""
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    return arguments.run(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(run, arguments)
