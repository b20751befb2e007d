#!/usr/bin/env python
"""CPU time and peak memory of tools before they do any work, beside those of `import torch`.

    python tools/benchmarks/imports.py
    python tools/benchmarks/imports.py --other ../old --other-python ../old/.venv/bin/python

Measures `--help` of each tool, `import vrd_d2`, its first use beside torch and Detectron2, and
`tools/evaluate.py` and `tools/dataset.py check` on a small file. All take turns in one run; read
the shares of `import torch`, as seconds depend on the machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vrd_d2.commands.arguments import Parser
from vrd_d2.commands.run_tool import run_tool

ROOT = Path(__file__).resolve().parents[2]
TORCH = "import torch"
DETECTRON2 = "import torch, detectron2 (data, engine, evaluation, modeling)"
FIRST_USE = "first use of vrd_d2"
TOOLS = (
    *(f"tools/{name}.py" for name in ("train_net", "predict", "evaluate", "dataset")),
    *(f"tools/{name}.py" for name in ("export_model", "web_demo", "visualize", "human_eval")),
    *(f"tools/{name}.py" for name in ("score_candidates", "run_ablations", "train_small_clip")),
    *(f"tools/{name}.py" for name in ("evaluate_frequency", "results_table", "ship_weights")),
    *(f"datasets/prepare_{name}.py" for name in ("vg", "knowledge_base", "vocabulary")),
)
# A process of its own starts each command: the peak of a child counts the memory of its parent.
START = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
kilo = 1024 if sys.platform == "darwin" else 1
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss / 1024 / kilo]))
sys.exit(done.stderr if done.returncode else 0)
"""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--other", type=Path, help="another checkout, to compare with")
    parser.add_argument("--other-python", default=sys.executable, help="its interpreter")
    parser.add_argument("--repeats", type=int, default=3, help="of which the medians are shown")
    return parser.parse_args(argv)


def commands(folder: Path) -> dict[str, list[str]]:
    """Return what is measured, as arguments of Python, by its name."""
    truth, predictions = small_files(folder)
    parts = ("data", "engine", "evaluation", "modeling")
    evaluation = ["--ground-truth", str(truth), "--predictions", str(predictions)]
    return {
        TORCH: ["-c", "import torch"],
        DETECTRON2: ["-c", "; ".join(f"import detectron2.{part}" for part in parts)],
        "import vrd_d2": ["-c", "import vrd_d2"],
        FIRST_USE: ["-c", "import vrd_d2; vrd_d2.Predictor, vrd_d2.load_config"],
        **{f"{tool} --help": [tool, "--help"] for tool in TOOLS},
        "tools/evaluate.py, small file": ["tools/evaluate.py", *evaluation, "--task", "predcls"],
        "tools/dataset.py check, small file": [
            *("tools/dataset.py", "check", str(truth), "--workers", "0"),
        ],
    }


def small_files(folder: Path) -> tuple[Path, Path]:
    """Write a relations_json of ten images, the images, and predictions for them."""
    from PIL import Image

    images, annotations, relations, lines = [], [], [], []
    for i in range(1, 11):
        Image.new("RGB", (64, 48)).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 64, "height": 48})
        for k in (0, 1):
            box = [5 + 20 * k, 5, 20, 20]
            row = {"id": 2 * i + k, "image_id": i, "category_id": 1, "bbox": box, "iscrowd": 0}
            annotations.append({**row, "area": 400})
        ends = {"subject_id": 2 * i, "object_id": 2 * i + 1, "predicate_id": 1}
        relations.append({"id": i, "image_id": i, **ends})
        lines.append({"image_id": i, "pairs": [[0, 1]], "predicate_scores": [[1.0]]})
    document = {"images": images, "annotations": annotations, "relations": relations}
    document |= {"categories": [{"id": 1, "name": "man"}], "predicates": [{"id": 1, "name": "on"}]}
    truth, predictions = folder / "truth.json", folder / "predictions.jsonl"
    truth.write_text(json.dumps(document))
    predictions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return truth, predictions


def measure(python: str, checkout: Path, arguments: list[str]) -> tuple[float, float]:
    """Return CPU seconds and peak MB of a command; NaN where it does not run."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", START, python, *arguments],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        print(f"{' '.join(arguments)} in {checkout} failed: {''.join(last)}", file=sys.stderr)
        return float("nan"), float("nan")
    seconds, peak = json.loads(done.stdout)
    return seconds, peak


def run(args: argparse.Namespace) -> None:
    """Measure everything in turns, and print a table."""
    places = [(sys.executable, ROOT)]
    if args.other is not None:
        places.append((args.other_python, args.other.resolve()))
    found: dict[str, list[list[tuple[float, float]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        rows = commands(Path(folder))
        for _ in range(args.repeats):
            for name, arguments in rows.items():
                columns = found.setdefault(name, [[] for _ in places])
                for column, (python, checkout) in zip(columns, places, strict=True):
                    column.append(measure(python, checkout, arguments))
    medians = {
        name: [[statistics.median(values) for values in zip(*c, strict=True)] for c in columns]
        for name, columns in found.items()
    }
    torch = [column[0] for column in medians[TORCH]]
    head = "CPU s | of import torch | peak MB"
    labels = ["this", "other"][: len(places)]
    print("| | " + " | ".join(f"{label}: {head}" for label in labels) + " |")
    print("|---|" + "---:|" * 3 * len(places))
    for name, columns in medians.items():
        cells = [
            f"{seconds:.2f} | {seconds / whole:.2f} | {peak:.0f}"
            for (seconds, peak), whole in zip(columns, torch, strict=True)
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    for label, first, stock in zip(labels, medians[FIRST_USE], medians[DETECTRON2], strict=True):
        print(f"{label}: first use / torch and Detectron2 = {first[0] / stock[0]:.2f}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
