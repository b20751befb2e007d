#!/usr/bin/env python
"""One Markdown table of the relation results of several runs, in percent.

python tools/results_table.py output/quickstart/*/
"""

import argparse
import json
import sys
from pathlib import Path

COLUMNS = [("R", 20), ("R", 50), ("R", 100), ("ngR", 50), ("mR", 50), ("mR", 100), ("zR", 50)]


def rows_of(folder: Path) -> list[list[str]]:
    """One row for each results file below the run's folder."""
    rows = []
    for path in sorted(folder.glob("inference/*/relations_*.json")):
        results = json.loads(path.read_text(encoding="utf-8"))
        cells = [folder.name, path.parent.name, results["task"], results["protocol"]]
        for metric, k in COLUMNS:
            value = results["metrics"].get(metric, {}).get(str(k))
            cells.append("-" if value is None else f"{100 * value:.1f}")
        rows.append(cells)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="OUTPUT_DIR of finished runs")
    folders = parser.parse_args().folders
    rows = [row for folder in folders for row in rows_of(folder)]
    if not rows:
        sys.exit(
            f"error: no inference/*/relations_*.json below {', '.join(map(str, folders))}: "
            "evaluate first with tools/train_net.py --eval-only"
        )
    header = ["run", "data", "task", "protocol", *(f"{metric}@{k}" for metric, k in COLUMNS)]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        print("| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |")


if __name__ == "__main__":
    main()
