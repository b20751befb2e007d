#!/usr/bin/env python
"""Print one Markdown table of the relation results of several runs, in percent.

python tools/results_table.py output/quickstart/*/
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vrd_d2.commands.arguments import Parser
from vrd_d2.commands.run_tool import run_tool
from vrd_d2.data.source_files import read_json

COLUMNS = [("R", 20), ("R", 50), ("R", 100), ("ngR", 50), ("mR", 50), ("mR", 100), ("zR", 50)]


def rows_of(folder: Path) -> list[list[str]]:
    """Return one row for each results file below the run's folder."""
    rows = []
    for path in sorted(folder.glob("inference/*/relations_*.json")):
        results = read_json(path)
        cells = [folder.name, path.parent.name, results["task"], results["protocol"]]
        for metric, k in COLUMNS:
            value = results["metrics"].get(metric, {}).get(str(k))
            cells.append("-" if value is None else f"{100 * value:.1f}")
        rows.append(cells)
    return rows


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="OUTPUT_DIR of finished runs")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Print the table."""
    rows = [row for folder in args.folders for row in rows_of(folder)]
    if not rows:
        raise ValueError(
            f"no inference/*/relations_*.json below {', '.join(map(str, args.folders))}: "
            "evaluate first with tools/train_net.py --eval-only"
        )
    header = ["run", "data", "task", "protocol", *(f"{metric}@{k}" for metric, k in COLUMNS)]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        print("| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
