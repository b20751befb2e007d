#!/usr/bin/env python
"""Print one Markdown table of the relation results of several runs, in percent.

python tools/results_table.py output/quickstart/*/

A row is of the last iteration, or of the weights file that --eval-only was given. A run that is
not evaluated to the end is left out and named, and the exit code is 2.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vrd_d2.commands.arguments import Parser
from vrd_d2.commands.run_tool import run_tool

COLUMNS = [("R", 20), ("R", 50), ("R", 100), ("ngR", 50), ("mR", 50), ("mR", 100), ("zR", 50)]


def rows_of(folder: Path) -> tuple[list[list[str]], list[str]]:
    """Return one row for each results file below the run's folder, and which are left out."""
    from vrd_d2.evaluation.results_file import evaluated_iteration, read_results, why_not_final

    rows, left_out = [], []
    for path in sorted(folder.glob("inference/*/relations_*.json")):
        try:
            results = read_results(path)
        except ValueError as error:
            left_out.append(str(error))
            continue
        reason = why_not_final(results)
        if reason is not None:
            left_out.append(f"{path}: {reason}")
            continue
        done = evaluated_iteration(results)
        of = str(done[0]) if done else Path(results["evaluated"]["weights"]).name or "-"
        cells = [folder.name, of, path.parent.name, results["task"], results["protocol"]]
        for metric, k in COLUMNS:
            value = results["metrics"].get(metric, {}).get(str(k))
            cells.append("-" if value is None else f"{100 * value:.1f}")
        rows.append(cells)
    return rows, left_out


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="OUTPUT_DIR of finished runs")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Print the table; return the exit code."""
    rows, left_out = [], []
    for folder in args.folders:
        of_folder, not_final = rows_of(folder)
        rows += of_folder
        left_out += not_final
    for reason in left_out:
        print(f"left out: {reason}", file=sys.stderr)
    if left_out and not rows:
        raise ValueError(f"none of the {len(left_out)} results is of a finished training")
    if not rows:
        raise ValueError(
            f"no inference/*/relations_*.json below {', '.join(map(str, args.folders))}: "
            "evaluate first with tools/train_net.py --eval-only"
        )
    header = [
        "run",
        "iteration",
        "data",
        "task",
        "protocol",
        *(f"{metric}@{k}" for metric, k in COLUMNS),
    ]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        print("| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |")
    return 2 if left_out else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
