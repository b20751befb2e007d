#!/usr/bin/env python
"""Time and memory of reading Visual Genome at full size, on made-up files of the public layout.

    python tools/benchmarks/data.py                     108,000 images, some minutes
    python tools/benchmarks/data.py --images 5000     some seconds
    python tools/benchmarks/data.py --files ~/visual_genome    your own files instead

Makes VG-SGG.h5, its dicts, image_data.json and empty image files in a temporary folder, and
measures in processes of their own: reading (the check that all images exist is part of it), peak
memory, the counting of relations, and what a loader worker holds for itself after it has read all
of the training set, packed and as a list of dicts.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from vrd_d2.commands.arguments import Parser
from vrd_d2.commands.run_tool import run_tool


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--images", type=int, default=108_000)
    parser.add_argument("--files", type=Path, help="folder of Visual Genome's files")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)  # of a process of its own
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_arguments(None)  # --help and wrong commands end before the imports that take seconds

import h5py
import numpy as np
from detectron2.data import DatasetFromList
from torch.utils.data import DataLoader, IterableDataset

from vrd_d2.data.build import RecordsDataset
from vrd_d2.data.datasets.visual_genome_h5 import VisualGenomeH5
from vrd_d2.data.datasets.visual_genome_h5_files import CORRUPT_IMAGES
from vrd_d2.data.formats.relations_json import (
    load_relations_json,
    read_packed,
    save_relations_json,
)
from vrd_d2.data.samplers import predicate_repeat_factors
from vrd_d2.data.vocabulary import VG150
from vrd_d2.modeling.frequency import count_relations

MEGABYTE = 1e6
NAMES = ("VG-SGG.h5", "VG-SGG-dicts.json", "image_data.json")


def make_files(folder: Path, images: int) -> None:
    """Write files with 10.2 boxes and 5.6 relations an image; every fifth image has no relation."""
    rng = np.random.default_rng(0)
    landscape = rng.random(images) < 0.75
    width = np.where(landscape, rng.choice([500, 640, 800, 1024], images), 375)
    height = np.where(landscape, (width * 0.75).astype(int), 500)
    boxes = 1 + rng.poisson(9.2, images)
    relations = np.where(rng.random(images) < 0.8, 1 + rng.poisson(6, images), 0)
    owner = np.repeat(np.arange(images), boxes)
    extent = np.stack([width, height], 1) * (1024 / np.maximum(width, height))[:, None]
    size = 2 + rng.random((len(owner), 2)) * 0.5 * extent[owner]
    centre = size / 2 + rng.random((len(owner), 2)) * (extent[owner] - size)
    first = np.cumsum(boxes) - boxes
    of_relation = np.repeat(np.arange(images), relations)
    ends = rng.random((len(of_relation), 2)) * boxes[of_relation][:, None]
    popular = (rng.zipf(1.5, len(of_relation)) - 1) % len(VG150.predicates)
    arrays = {
        "labels": rng.integers(1, 151, (len(owner), 1)),
        "boxes_1024": np.hstack([centre, size]),
        "relationships": first[of_relation][:, None] + ends.astype(int),
        "predicates": 1 + popular[:, None],
        "split": np.where(rng.random(images) < 0.7, 0, 2),
    }
    for kind, counts in (("box", boxes), ("rel", relations)):
        start = np.cumsum(counts) - counts
        arrays[f"img_to_first_{kind}"] = np.where(counts, start, -1)
        arrays[f"img_to_last_{kind}"] = np.where(counts, start + counts - 1, -1)
    with h5py.File(folder / NAMES[0], "w") as file:
        for key, array in arrays.items():
            file[key] = array.astype(np.int32)
    dicts = {
        f"{kind}_to_idx": {name: i for i, name in enumerate(names, 1)}
        for kind, names in (("label", VG150.objects), ("predicate", VG150.predicates))
    }
    (folder / NAMES[1]).write_text(json.dumps(dicts))
    ids = 10_000 + np.sort(rng.choice(3 * images, images, replace=False))
    entries = [
        {"image_id": i, "width": w, "height": h, "url": f"https://somewhere/VG_100K_2/{i}.jpg"}
        for i, w, h in zip(ids.tolist(), width.tolist(), height.tolist(), strict=True)
    ]
    (folder / NAMES[2]).write_text(json.dumps(entries))
    (folder / "VG_100K").mkdir()
    for i in ids.tolist():
        (folder / f"VG_100K/{i}.jpg").touch()


def report(text: str, value: float, unit: str) -> None:
    print(f"  {text:<72} {value:8.1f} {unit}", flush=True)


def peak() -> float:
    """Return peak MB of this process. (getrusage would count its parent, too.)"""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if "VmHWM" in line) / MEGABYTE


def files_of(folder: Path) -> list[Path]:
    """Return the three files, by either of their names."""
    choices = [NAMES, ("VG-SGG-with-attri.h5", "VG-SGG-dicts-with-attri.json", NAMES[2])]
    return [next((folder / n for n in pair if (folder / n).is_file()), folder / pair[0])
            for pair in zip(*choices, strict=True)]  # fmt: skip


def read(folder: Path, splits: tuple[str, ...] = ("train", "val", "test")) -> list:
    """Return the splits, packed."""
    genome = VisualGenomeH5(*files_of(folder), exclude_image_ids=CORRUPT_IMAGES)
    return [genome.records(split, folder) for split in splits]


def measure_h5(folder: Path) -> None:
    """Measure reading of all splits, and counting of the training set."""
    imports = peak()
    start = time.process_time()
    parts = read(folder)
    report("reading all three splits", time.process_time() - start, "s")
    print(f"  images {[len(part) for part in parts]}")
    report("peak memory (imports alone: next line)", peak(), "MB")
    report("imports alone", imports, "MB")
    report("arrays of the three splits", sum(part.nbytes for part in parts) / MEGABYTE, "MB")
    training = parts[0]
    for name, run in (
        ("counting relations of the training set", lambda: count_relations(
            training, VG150, require_overlap=True)),
        ("repeat factors of the training set", lambda: predicate_repeat_factors(
            training, 50, 0.05)),
        ("building every dict of the training set", lambda: sum(1 for _ in training)),
    ):  # fmt: skip
        start = time.process_time()
        run()
        report(name, time.process_time() - start, "s")
    report("peak memory after that", peak(), "MB")


def measure_json(folder: Path) -> None:
    """Measure all images as relations_json: registered (packed), and as a list of dicts."""
    path = folder / "all.json"
    for name, load in (
        ("packed", lambda: read_packed(path, folder)[0]),
        ("as a list of dicts", lambda: load_relations_json(path, folder)),
    ):
        # In a fork, so that each has its own peak.
        child = os.fork()
        if child == 0:
            start = time.process_time()
            records = load()
            report(f"relations_json {name}", time.process_time() - start, "s")
            report(f"relations_json {name}, peak memory", peak(), "MB")
            assert len(records)
            os._exit(0)
        os.waitpid(child, 0)


def own_memory() -> np.ndarray:
    """Return MB of this process alone (USS), and with its share of common memory (PSS)."""
    with open("/proc/self/smaps_rollup") as file:
        lines = [line.split() for line in file]
    sizes = {line[0]: int(line[1]) * 1024 / MEGABYTE for line in lines if line[-1] == "kB"}
    return np.array([sizes["Private_Clean:"] + sizes["Private_Dirty:"], sizes["Pss:"]])


class Epoch(IterableDataset):
    """Memory of the worker, (2,) before and (2,) after it has read all records."""

    def __init__(self, records):
        self.records = records

    def __iter__(self):
        before = own_memory()
        for i in range(len(self.records)):
            assert self.records[i]["height"]
        yield np.stack([before, own_memory()])


def measure_workers(folder: Path, kind: str, method: str) -> None:
    """Measure memory of each of two workers before and after an epoch, beside one without data."""
    records = RecordsDataset.of(*read(folder, ("train",)))
    if kind != "packed":
        records = list(records)
    if kind == "serialised":
        records = DatasetFromList(records, copy=False)
    found = {}
    for what in ("nothing", kind):
        loader = DataLoader(
            Epoch(records if what == kind else []),
            batch_size=None,
            num_workers=2,
            multiprocessing_context=method,
        )
        found[what] = np.mean(list(loader), axis=0)
    base, (before, after) = found["nothing"][1], found[kind]
    label = f"{kind}, {method}: own memory of a worker"
    report(f"{label} without data", base[0], "MB")
    report(f"{label} before reading", before[0], "MB")
    report(f"{label} after an epoch", after[0], "MB")
    report(f"{label} after an epoch, and its share of common memory", after[1], "MB")


def write_json(folder: Path) -> None:
    """Write all.json: every image of the .h5 in the interchange format."""
    genome = VisualGenomeH5(*files_of(folder), require_relations=False, val_images=0)
    records = [record for split in ("train", "test") for record in genome.records(split, folder)]
    save_relations_json(records, VG150, folder / "all.json", image_root=folder)


def run(args: argparse.Namespace) -> None:
    """Make the files, and measure each step in another process."""
    if args.step:
        name, *rest = args.step
        globals()[name](args.files, *rest)
        return
    with tempfile.TemporaryDirectory() as made:
        folder = args.files or Path(made)
        if args.files is None:
            start = time.process_time()
            make_files(folder, args.images)
            print(f"{args.images} images made in {time.process_time() - start:.0f} s")
        kinds = ("packed fork", "packed spawn", "serialised fork", "list fork")
        steps = [("measure_h5",)]
        steps += [("measure_workers", *kind.split()) for kind in kinds]
        if args.files is None:  # nothing is written into a user's folder
            steps += [("write_json",), ("measure_json",)]
        for step in steps:
            command = [sys.executable, "-W", "ignore", __file__, "--files", str(folder), "--step"]
            subprocess.run([*command, *step], check=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
