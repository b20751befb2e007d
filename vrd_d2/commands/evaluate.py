"""Compute scene-graph metrics of a file of predictions, whatever model they are from.

    python tools/evaluate.py --ground-truth test.json --predictions predictions.jsonl.gz \\
        --task sgdet --protocol sgb --output results.json --plots figures

Formats, protocols and the definition of each number: vrd_d2/evaluation/README.md.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from vrd_d2.commands.arguments import Parser, add_annotated_pairs
from vrd_d2.commands.run_tool import run_tool
from vrd_d2.evaluation.protocols import PROTOCOLS, get_protocol
from vrd_d2.tasks import Task


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--ground-truth", required=True, type=Path, help="relations_json, or JSON Lines (.gz)"
    )
    parser.add_argument("--predictions", required=True, type=Path, help="JSON Lines (.gz)")
    parser.add_argument("--task", default="sgdet", choices=[task.value for task in Task])
    parser.add_argument("--protocol", default="sgb", choices=list(PROTOCOLS))
    add_annotated_pairs(parser)
    parser.add_argument(
        "--zero-shot", type=Path, help="JSON list of [subject class, object class, predicate]"
    )
    parser.add_argument("--num-predicates", type=int, help="where the files do not state it")
    parser.add_argument("--vocabulary", help="names of the predicates: vg150, vg20, vrd, or a JSON")
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


def read_list(path: Path | None, name: str, row_length: int | None) -> list | None:
    """Read a JSON list of whole numbers, or of rows of them."""
    if path is None:
        return None
    from vrd_d2.data.source_files import read_json

    values = read_json(path)
    rows = values if row_length else [values]
    if not isinstance(values, list) or not all(
        isinstance(row, list)
        and (row_length is None or len(row) == row_length)
        and all(type(number) is int and number >= 0 for number in row)
        for row in rows
    ):
        wanted = f"rows of {row_length} " if row_length else ""
        raise ValueError(f"--{name} {path}: must be a JSON list of {wanted}whole numbers >= 0")
    return values


def run(arguments: argparse.Namespace) -> None:
    """Evaluate, print the table and write the files."""
    from vrd_d2.evaluation.files import evaluate_files
    from vrd_d2.evaluation.report import results_json, results_table, write_json

    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    task = Task(arguments.task)
    protocol = get_protocol(
        arguments.protocol, annotated_pairs=arguments.annotated_pairs, task=task
    )
    results = evaluate_files(
        arguments.ground_truth,
        arguments.predictions,
        task=task,
        protocol=protocol,
        zero_shot=read_list(arguments.zero_shot, "zero-shot", 3),
        num_predicates=arguments.num_predicates,
        ks=arguments.k,
        training_counts=read_list(arguments.training_counts, "training-counts", None),
        bootstrap=arguments.bootstrap,
        progress=True,
    )
    names = results.predicate_names
    if arguments.vocabulary is not None:
        from vrd_d2.data.vocabulary import get_vocabulary

        names = list(get_vocabulary(arguments.vocabulary).predicates)
    summary = results.summary
    if names is not None and len(names) != len(summary.predicate_counts):
        raise ValueError(
            f"the vocabulary has {len(names)} predicates, the predictions have "
            f"{len(summary.predicate_counts)}"
        )
    title = f"{arguments.predictions.name} on {arguments.ground_truth.name}"
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
