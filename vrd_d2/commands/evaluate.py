"""Compute scene-graph metrics of a file of predictions, whatever model they are from.

    python tools/evaluate.py --ground-truth test.json --predictions predictions.jsonl.gz \\
        --task sgdet --protocol sgb --output results.json --plots figures
    python tools/evaluate.py --ground-truth vrd_test --predictions output/graphs

Formats, protocols and the definition of each number: vrd_d2/evaluation/README.md.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from vrd_d2.commands.arguments import Parser, add_annotated_pairs, keep_inputs
from vrd_d2.commands.run_tool import run_tool
from vrd_d2.evaluation.protocols import PROTOCOLS, get_protocol
from vrd_d2.tasks import Task


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--ground-truth",
        required=True,
        help="relations_json, name of a registered dataset, or JSON Lines (.gz)",
    )
    parser.add_argument(
        "--predictions",
        required=True,
        type=Path,
        help="JSON Lines (.gz); or file or folder of tools/predict.py or train_net.py",
    )
    parser.add_argument("--images", help="folder of the images of a file; default: its own")
    parser.add_argument("--root", help="folder of all registered datasets")
    parser.add_argument("--task", default="sgdet", choices=[task.value for task in Task])
    parser.add_argument("--protocol", default="sgb", choices=list(PROTOCOLS))
    add_annotated_pairs(parser)
    parser.add_argument(
        "--zero-shot",
        type=Path,
        help="JSON list of [subject, predicate, object] names or [subject class, object class, "
        "predicate] ids; default: the dataset's, such as zero_shot.json beside a file",
    )
    parser.add_argument("--num-predicates", type=int, help="where the files do not state it")
    parser.add_argument(
        "--vocabulary", help="names, where the ground truth has none: vg150, vg20, vrd, or a JSON"
    )
    parser.add_argument(
        "--training-counts", type=Path, help="JSON list: frequency of each predicate in training"
    )
    parser.add_argument("--k", type=int, nargs="+", default=[20, 50, 100], help="of Recall@K")
    parser.add_argument(
        "--bootstrap", type=int, default=1000, help="resamples for 95 %% intervals, 0 for none"
    )
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--plots", type=Path, help="folder for PNG and CSV files")
    return parser.parse_args(argv)


def read_counts(path: Path | None) -> list[int] | None:
    """Read a JSON list of whole numbers."""
    if path is None:
        return None
    from vrd_d2.data.source_files import read_json

    values = read_json(path)
    if type(values) is not list or not all(type(n) is int and n >= 0 for n in values):
        raise ValueError(f"--training-counts {path}: must be a JSON list of whole numbers >= 0")
    return values


def run(arguments: argparse.Namespace) -> None:
    """Evaluate, print the table and write the files."""
    from vrd_d2.evaluation.files import evaluate_files
    from vrd_d2.evaluation.report import results_json, results_table, write_json

    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    if arguments.output is not None:
        keep_inputs(arguments.output, arguments.ground_truth, arguments.predictions)
    vocabulary = None
    if arguments.vocabulary is not None:
        from vrd_d2.data.vocabulary import get_vocabulary

        vocabulary = get_vocabulary(arguments.vocabulary)
    task = Task(arguments.task)
    protocol = get_protocol(
        arguments.protocol, annotated_pairs=arguments.annotated_pairs, task=task
    )
    results = evaluate_files(
        arguments.ground_truth,
        arguments.predictions,
        task=task,
        protocol=protocol,
        zero_shot=arguments.zero_shot,
        vocabulary=vocabulary,
        root=arguments.root,
        images=arguments.images,
        num_predicates=arguments.num_predicates,
        ks=arguments.k,
        training_counts=read_counts(arguments.training_counts),
        bootstrap=arguments.bootstrap,
        progress=True,
    )
    names = results.predicate_names
    if vocabulary is not None:
        names = list(vocabulary.predicates)
    summary = results.summary
    if names is not None and len(names) != len(summary.predicate_counts):
        raise ValueError(
            f"the vocabulary has {len(names)} predicates, the predictions have "
            f"{len(summary.predicate_counts)}"
        )
    title = f"{arguments.predictions.name} on {Path(arguments.ground_truth).name}"
    print(results_table(summary, protocol=protocol, task=task, title=title))
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        document = results_json(summary, protocol=protocol, task=task, predicate_names=names)
        write_json(document, arguments.output)
    if arguments.plots is not None:
        from vrd_d2.evaluation.plots import write_plots

        title = f"{task.value}, protocol {protocol.name}"
        write_plots(summary, arguments.plots, predicate_names=names, title=title)


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(run, arguments)
