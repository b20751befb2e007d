#!/usr/bin/env python
"""Train and evaluate variants of one config over several seeds, and tabulate what they change.

    python tools/run_ablations.py --base configs/quickstart/relclip_predcls.yaml --seeds 1 2 3 \\
        --output output/ablations configs/ablations/{dual,no_rcl,unary,triple}.yaml \\
        SOLVER.MAX_ITER 1000

Every variant is the base config with what the variant's own file states (its _BASE_ is not read),
so that the same few lines serve any dataset. A finished run, which finished.json in its folder
marks, is not repeated; an unfinished one is taken up at its last checkpoint, and one that was
trained but not evaluated to the end is evaluated again. The first variant is what the others are
compared with, seed by seed. Overrides hold for every run.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from vrd_d2.commands.arguments import Parser
from vrd_d2.commands.run_tool import run_tool
from vrd_d2.data.atomic_files import file_lock, write_text
from vrd_d2.data.images.saving import save_figure
from vrd_d2.data.record_values import member
from vrd_d2.data.source_files import read_json

TRAIN = Path(__file__).resolve().parent / "train_net.py"
FINISHED = "finished.json"  # of a run's folder: the iteration that was evaluated, and its results
RESULTS = "inference/*/relations_*.json"


def write_config(base: Path, variant: Path, folder: Path, seed: int, overrides: list[str]) -> Path:
    """Write the child config of one run, and a record of everything that it depends on."""
    import yaml

    from vrd_d2.config.loading import load_config

    changes = yaml.safe_load(variant.read_text(encoding="utf-8")) or {}
    # _BASE_ is resolved against the file it stands in.
    changes["_BASE_"] = os.path.relpath(base, folder)
    changes["OUTPUT_DIR"], changes["SEED"] = str(folder), seed
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "variant.yaml"
    write_text(path, yaml.safe_dump(changes))
    settings = load_config(path, overrides).dump()
    record = folder / "settings.yaml"
    if record.is_file() and not same_settings(record, settings):
        raise ValueError(
            f"{folder} holds a run with other settings (see {record}): delete the folder or "
            "give another --output"
        )
    write_text(record, settings)
    return path


def same_settings(record: Path, settings: str) -> bool:
    """Return whether a record, which may have the keys of an earlier version, is of a dump."""
    import yaml

    from vrd_d2.config.loading import read_dump

    try:
        earlier = read_dump(record.read_text(encoding="utf-8"), str(record))
    except ValueError as error:
        text = f"{error}: delete {record.parent} or give another --output"
        raise ValueError(text) from error
    return yaml.safe_load(earlier.dump()) == yaml.safe_load(settings)


def finished(folder: Path) -> Path | None:
    """Return the results file of a run that is marked as finished, if it still holds those."""
    if not (folder / FINISHED).is_file():
        return None
    with contextlib.suppress(ValueError):  # damaged or of another version: evaluated again
        mark = read_json(folder / FINISHED)
        iteration, name = member(mark, "iteration", int), member(mark, "results", str)
        if name in found_results(folder) and last_iteration(folder / name) == iteration:
            return folder / name
    return None


def found_results(folder: Path) -> list[str]:
    """Return the results files of a run, relative to its folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob(RESULTS))


def last_iteration(results: Path) -> int | None:
    """Return the iteration that results are of; None where it is not the last of the training."""
    from vrd_d2.evaluation.results_file import evaluated_iteration, read_results, why_not_final

    content = read_results(results)
    iterations = evaluated_iteration(content)
    return None if iterations is None or why_not_final(content) else iterations[0]


def mark_finished(folder: Path) -> bool:
    """Mark a run whose process has ended well; return whether its final evaluation is there."""
    names = found_results(folder)
    iteration = last_iteration(folder / names[0]) if names else None
    if iteration is None:
        return False
    mark = {"iteration": iteration, "results": names[0]}
    write_text(folder / FINISHED, json.dumps(mark, indent=1) + "\n")
    return True


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[list[int]]:
    """Raise ValueError where another process trains in the folder.

    Yields the file that is locked, for the process that trains: should this one be killed, the
    lock holds until that one ends.
    """
    text = f"another process trains in {folder}: wait for it, or give another --output"
    with file_lock(folder / ".lock", busy=text) as handle:
        yield [handle] if os.name == "posix" else []


def train(config: Path, folder: Path, overrides: list[str]) -> None:
    """Train and evaluate one config in another process, whose output goes to a file."""
    command = [sys.executable, str(TRAIN), "--config-file", str(config), "--resume", *overrides]
    with alone(folder) as lock:
        if finished(folder) is not None:  # by another process, since the runs were listed
            return
        reason = b""
        with (
            (folder / "stdout.txt").open("ab", buffering=0) as log,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=lock
            ) as process,
        ):
            for line in process.stdout:
                reason = line if line.startswith(b"error: ") else reason
                with contextlib.suppress(OSError):  # a full disk: the run itself says so
                    log.write(line)
        if process.returncode or not mark_finished(folder):
            text = reason.decode(errors="replace").removeprefix("error: ").strip()
            text = text or f"it ended with exit code {process.returncode}"
            raise ValueError(f"{config} failed, see {folder / 'stdout.txt'}: {text}")


def value(folder: Path, metric: str) -> float:
    """Return a metric such as "R@50" of a finished run, in percent."""
    from vrd_d2.evaluation.results_file import read_results

    name, _, k = metric.partition("@")
    path = finished(folder)
    if path is None:
        raise ValueError(f"{folder} has changed since it was trained: give the command again")
    values = read_results(path)["metrics"]
    if name not in values or k not in values[name]:
        raise ValueError(
            f"--metrics {metric}: choose NAME@K with NAME out of {sorted(values)} (top1@1)"
        )
    if values[name][k] is None:
        raise ValueError(f"--metrics {metric}: nothing is annotated for it, see {path}")
    return 100 * values[name][k]


def table(results: dict[str, dict[str, list[float]]], metrics: list[str]) -> list[str]:
    """Return Markdown rows: mean, deviation over seeds, and the paired difference to the first."""
    reference = next(iter(results.values()))
    header = ["variant", *(f"{metric} | difference" for metric in metrics)]
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * (1 + 2 * len(metrics))}"]
    for name, values in results.items():
        cells = [name]
        for metric in metrics:
            differences = [a - b for a, b in zip(values[metric], reference[metric], strict=True)]
            cells += [spread(values[metric]), spread(differences, sign="+")]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def spread(values: list[float], sign: str = "") -> str:
    """Return the mean and, over several seeds, their standard deviation."""
    mean = f"{statistics.mean(values):{sign}.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def plot(results: dict[str, dict[str, list[float]]], metrics: list[str], path: Path) -> None:
    """Draw a dot for each seed and a bar at the mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(metrics), 1 + 0.3 * len(results)))
    axes = figure.subplots(1, len(metrics), sharey=True)
    names = list(results)
    for axis, metric in zip(axes if len(metrics) > 1 else [axes], metrics, strict=True):
        for row, name in enumerate(names):
            values = results[name][metric]
            axis.plot(values, [row] * len(values), "o", color="#1e5fd7", alpha=0.6)
            axis.plot([statistics.mean(values)], [row], "|", color="black", markersize=14)
        axis.set_yticks(range(len(names)), names)
        axis.set_xlabel(f"{metric}, percent")
        axis.grid(axis="x", alpha=0.3)
    axes[0].invert_yaxis() if len(metrics) > 1 else axes.invert_yaxis()
    figure.tight_layout()
    save_figure(figure, path, dpi=150)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument(
        "variants", nargs="+", type=Path, metavar="VARIANT", help="YAML; the first is compared with"
    )
    parser.add_argument("--base", required=True, type=Path, help="config that they vary")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--metrics", nargs="+", default=["R@50", "mR@50", "zR@50"])
    parser.add_argument("--output", type=Path, default=Path("output/ablations"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_overrides(after="variants", old_option="--set")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Train what is not finished, and write the table and the plot."""
    from tqdm import tqdm

    for path in [args.base, *args.variants]:
        if not path.is_file():
            raise ValueError(f"there is no config file {path}")
    if len({path.stem for path in args.variants}) < len(args.variants):
        raise ValueError("two variants have the same file name, which is the name of their results")
    # Write the configs, and find out which runs are not finished.
    runs = [(variant, seed) for seed in args.seeds for variant in args.variants]
    folders = {}
    jobs = []
    for variant, seed in runs:
        folder = args.output / variant.stem / f"seed{seed}"
        folders.setdefault(variant.stem, []).append(folder)
        config = write_config(args.base, variant, folder, seed, args.opts)
        if finished(folder) is None:
            jobs.append((config, folder))
    # Train; the first failure ends the rest.
    done = len(runs) - len(jobs)
    with (
        ThreadPoolExecutor(args.jobs) as pool,
        tqdm(desc="runs", total=len(runs), initial=done) as progress,
    ):
        pending = [pool.submit(train, config, folder, args.opts) for config, folder in jobs]
        for future in as_completed(pending):
            if future.exception() is not None:
                pool.shutdown(cancel_futures=True)
                raise future.exception()
            progress.update()
    results = {
        name: {metric: [value(folder, metric) for folder in rows] for metric in args.metrics}
        for name, rows in folders.items()
    }
    lines = table(results, args.metrics)
    write_text(args.output / "table.md", "\n".join(lines) + "\n")
    plot(results, args.metrics, args.output / "table.png")
    print("\n".join(lines))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
