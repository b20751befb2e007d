#!/usr/bin/env python
"""Let the disk be full at many moments of training, prediction, a feature cache and ablations.

    python tools/benchmarks/disk_full.py
    python tools/benchmarks/disk_full.py --moments 3 --jobs train predict

What a run may write is limited to a share of what an undisturbed run writes. It must then end with
exit code 1 and one line that names a file (a training whose cache alone is full goes on, and warns
once), leave nothing torn behind, and go on to the same results when there is room. The disk is a
tmpfs where one can be mounted; elsewhere the size of each file is limited, which shows less. At
the end two processes share a cache, and two predict into one folder. Exit code 1: something failed.
"""

import argparse
import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vrd_d2.commands.arguments import Parser
from vrd_d2.commands.run_tool import run_tool

REPOSITORY = Path(__file__).resolve().parents[2]
JOBS = ("train", "predict", "cache", "ablations")
ROOM = 512 << 20  # bytes
PAGE = 4096


@dataclass
class Case:
    """A command and what becomes of it.

    Attributes:
        main: takes the arguments of the command, returns its exit code.
        arguments: folder on the small disk -> arguments.
        result: folder -> what an undisturbed run and one that was continued have in common.
        goes_on: the run does not need the room.
    """

    main: Callable[[list[str]], int]
    arguments: Callable[[Path], list[str]]
    result: Callable[[Path], object]
    goes_on: bool = False


@dataclass
class Ended:
    """How a process ended."""

    code: int
    lines: list[str] = field(default_factory=list)


class Disk:
    """A folder on a disk of a given size, or one in which files cannot grow beyond a size."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.limit: int | None = None
        self.mounted = self._mount("remount," if os.path.ismount(folder) else "", ROOM)

    def _mount(self, options: str, size: int) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", f"{options}size={size}", "tmpfs", self.folder]
        return subprocess.run(command, capture_output=True).returncode == 0

    def resize(self, size: int) -> None:
        """Change how much may be written."""
        if self.mounted:
            self._mount("remount,", max(size, PAGE))
        self.limit = None if size == ROOM else size

    def used(self) -> int:
        """Return bytes on the disk, or of its largest file where files are limited."""
        if self.mounted:
            status = os.statvfs(self.folder)
            return (status.f_blocks - status.f_bfree) * status.f_frsize
        return max((p.stat().st_size for p in self.folder.rglob("*") if p.is_file()), default=0)

    def clear(self) -> None:
        """Remove everything, and give all the room."""
        self.resize(ROOM)
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def close(self) -> None:
        """Give the disk back."""
        if self.mounted:
            subprocess.run(["umount", "-l", self.folder], check=True)

    def start(self, main: Callable[[list[str]], int], arguments: list[str], log: Path) -> int:
        """Run a command in a process of its own, whose output goes to a file; return its id."""
        process = os.fork()
        if process:
            return process
        code = 99
        try:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1), os.dup2(handle, 2)
            if self.limit is not None and not self.mounted:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, self.limit))
            code = main(arguments)
            sys.stdout.flush()
        finally:
            os._exit(code)

    def run(self, case: Case, log: Path) -> Ended:
        """Run a case to its end."""
        return ended(self.start(case.main, case.arguments(self.folder), log), log)


def ended(process: int, log: Path) -> Ended:
    """Wait for a process, and return how it ended."""
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return Ended(code, log.read_text(errors="replace").splitlines())


def make_data(folder: Path) -> list[str]:
    """Write a few images and a small model; return the overrides of a config that trains it."""
    import numpy as np
    from PIL import Image

    from vrd_d2.data.boxes import XYXY_ABS
    from vrd_d2.data.formats.relations_json import save_relations_json
    from vrd_d2.data.vocabulary import Vocabulary

    rng = np.random.default_rng(0)
    records = []
    for i in range(6):
        size = 90 + 4 * i
        path = folder / "images" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)
        boxes = [[5.0, 5, 50, 60], [30, 20, 80, 85], [10, 40, 60, 80]]
        records.append(
            {
                "file_name": str(path),
                "image_id": i + 1,
                "height": size,
                "width": size,
                "annotations": [
                    {"id": 3 * i + j + 1, "bbox": b, "bbox_mode": XYXY_ABS, "category_id": j}
                    for j, b in enumerate(boxes)
                ],
                "relations": np.array([[0, 1, i % 2], [1, 2, 1], [2, 0, 2]]),
            }
        )
    data, clip = folder / "data.json", folder / "clip.json"
    save_relations_json(records, Vocabulary(("man", "dog", "hat"), ("on", "in", "by")), data)
    vision = {"image_size": 64, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    text = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    clip.write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    return [
        *("MODEL.DEVICE", "cpu", "MODEL.VOCABULARY", str(data)),
        *("MODEL.CLIP.NAME", str(clip), "MODEL.CLIP.PRETRAINED", ""),
        *("MODEL.DETECTOR.WEIGHTS", "", "MODEL.ROI_HEADS.NUM_CLASSES", "3"),
        *("MODEL.RELATION_HEAD.DIM", "32", "MODEL.RELATION_HEAD.POSITION_DIM", "8"),
        *("DATASETS.REGISTER", f"[['small', '{data}', '{folder}']]"),
        *("DATASETS.TRAIN", "('small',)", "DATASETS.TEST", "('small',)"),
        *("DATALOADER.NUM_WORKERS", "0", "INPUT.MIN_SIZE_TRAIN", "(96,)"),
        *("INPUT.MIN_SIZE_TEST", "96", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "6"),
        *("SOLVER.STEPS", "()", "SOLVER.WARMUP_ITERS", "0", "SOLVER.CHECKPOINT_PERIOD", "2"),
        *("TEST.EVAL_PERIOD", "3", "SEED", "1"),
    ]


def weights_of(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all weights of a finished training."""
    import torch

    stored = torch.load(folder / "model_final.pth", map_location="cpu", weights_only=True)
    return {name: value.numpy().tobytes() for name, value in stored["model"].items()}


def results_of(folder: Path) -> list[str]:
    """Return the results files below a folder."""
    return [path.read_text() for path in sorted(folder.rglob("relations_*.json"))]


def torn(folder: Path) -> list[str]:
    """Return what is left of files that were not written to their end."""
    import numpy as np
    import torch

    found = [str(path) for path in folder.rglob("*.unfinished")]
    readers: dict[str, Callable[[Path], object]] = {
        ".pth": lambda path: torch.load(path, map_location="cpu", weights_only=True),
        ".json": lambda path: json.loads(path.read_text()),
        ".npy": np.load,
        ".yaml": lambda path: path.stat().st_size or 1 / 0,
    }
    for path in folder.rglob("*"):
        if path.suffix in readers and path.is_file() and path.name != "metrics.json":
            try:
                readers[path.suffix](path)
            except Exception as error:
                found.append(f"{path}: {type(error).__name__}")
    for last in folder.rglob("last_checkpoint"):
        if not (last.parent / last.read_text()).is_file():
            found.append(f"{last} names {last.read_text()!r}")
    return found


def make_cases(work: Path, disk: Disk) -> dict[str, Case]:
    """Return the commands, on small data that are made here."""
    import importlib.util

    # Here, so that each process need not import them again.
    import torch

    import vrd_d2.engine.trainer
    import vrd_d2.inference.batch_run
    import vrd_d2.inference.predictor  # noqa: F401
    from vrd_d2.commands import predict, train

    overrides = make_data(work)
    config = str(REPOSITORY / "configs/relclip_predcls.yaml")
    base = ["--config-file", config]
    log = work / "log.txt"
    arguments = [*base, *overrides, "OUTPUT_DIR", str(work / "trained")]
    first = ended(disk.start(train.main, arguments, log), log)
    if first.code:
        raise ValueError(f"the small model cannot be trained: {first.lines[-1]}")
    stamped = str(work / "trained/model_final.pth")
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location(
        "ablations", REPOSITORY / "tools/run_ablations.py"
    )
    ablations = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ablations)
    variant = str(REPOSITORY / "configs/ablations/no_rcl.yaml")
    elsewhere = work / "elsewhere"

    def trained_elsewhere(disk: Path) -> list[str]:
        shutil.rmtree(elsewhere, ignore_errors=True)
        cache = ["MODEL.VISUAL.FEATURE_CACHE", str(disk / "cache")]
        return [*base, *overrides, "OUTPUT_DIR", str(elsewhere), *cache]

    return {
        "train": Case(
            train.main,
            lambda disk: [*base, "--resume", *overrides, "OUTPUT_DIR", str(disk / "run")],
            lambda disk: (weights_of(disk / "run"), results_of(disk)),
        ),
        "predict": Case(
            predict.main,
            lambda disk: [
                *(str(work / "images"), "--output", str(disk / "out"), "--weights", stamped),
                *("--boxes", str(work / "data.json"), "--html", "one"),
            ],
            lambda disk: (disk / "out/predictions.json").read_text(),
        ),
        "cache": Case(
            train.main, trained_elsewhere, lambda disk: weights_of(elsewhere), goes_on=True
        ),
        "ablations": Case(
            ablations.main,
            lambda disk: [
                *(variant, "--base", config, "--seeds", "1", "--metrics", "R@50", "mR@50"),
                *("--output", str(disk / "ablations"), *overrides),
            ],
            lambda disk: (disk / "ablations/table.md").read_text(),
        ),
    }


def problems_of(case: Case, disk: Disk, full: Ended) -> list[str]:
    """Return what is wrong with a run on a full disk."""
    lines = [line for line in full.lines if str(disk.folder) in line]
    if case.goes_on:
        told = [line for line in lines if "FEATURE_CACHE" in line and "No space" in line]
        wrong = [] if full.code == 0 else [f"exit code {full.code}"]
        return wrong + ([] if disk.limit is None or len(told) <= 1 else [f"{len(told)} warnings"])
    errors = [line for line in full.lines if line.startswith("error: ")]
    wrong = [] if full.code == 1 else [f"exit code {full.code}"]
    if len(errors) != 1:
        wrong.append(f"{len(errors)} error lines")
    elif str(disk.folder) not in errors[0]:
        wrong.append(f"no file is named: {errors[0]}")
    if any(line.startswith("This is a fault") for line in full.lines):
        wrong.append("a traceback")
    return wrong


def fill_disk(name: str, case: Case, disk: Disk, moments: int, work: Path) -> int:
    """Let the disk be full at so many moments of a case; return how many went wrong."""
    log = work / "log.txt"
    disk.clear()
    whole = disk.run(case, log)
    if whole.code:
        raise ValueError(f"{name} fails with room, too: {' '.join(whole.lines[-3:])}")
    wanted, size = case.result(disk.folder), disk.used()
    failed = 0
    for moment in range(moments):
        disk.clear()
        limit = int(size * (moment + 0.5) / moments)
        disk.resize(limit)
        full = disk.run(case, log)
        wrong = problems_of(case, disk, full)
        wrong += [f"torn: {text}" for text in torn(disk.folder)]
        disk.resize(ROOM)
        again = disk.run(case, log)
        if again.code:
            wrong.append(f"does not go on: {' '.join(again.lines[-1:])}")
        else:
            try:
                if case.result(disk.folder) != wanted:
                    wrong.append("other results than undisturbed")
            except Exception as error:  # whatever a torn file leads to
                wrong.append(f"no results: {error}")
        said = next((t for t in full.lines if t.startswith("error: ") or "takes no more" in t), "-")
        print(f"{name}, {limit / 1024:.0f} of {size / 1024:.0f} KiB: {said[:160]}")
        for text in wrong:
            print(f"  WRONG: {text[:300]}")
        failed += bool(wrong)
    print(f"{name}: {moments - failed} of {moments} moments in order", flush=True)
    return failed


def two_processes(cases: dict[str, Case], disk: Disk, work: Path) -> int:
    """Let two processes fill one cache, and two predict into one folder."""
    failed = 0
    logs = [work / f"log{i}.txt" for i in range(2)]
    if "cache" in cases:
        disk.clear()
        arguments = cases["cache"].arguments(disk.folder)
        folders = [work / f"pair{i}" for i in range(2)]
        both = [
            [str(folder) if text == str(work / "elsewhere") else text for text in arguments]
            for folder in folders
        ]
        started = [
            disk.start(cases["cache"].main, argv, log) for argv, log in zip(both, logs, strict=True)
        ]
        codes = [ended(*pair).code for pair in zip(started, logs, strict=True)]
        same = codes == [0, 0] and weights_of(folders[0]) == weights_of(folders[1])
        good = same and not torn(disk.folder)
        print(f"two trainings, one cache: exit codes {codes}, {'the same' if good else 'WRONG'}")
        failed += not good
    if "predict" in cases:
        case = cases["predict"]
        disk.clear()
        disk.run(case, logs[0])
        wanted = case.result(disk.folder)
        disk.clear()
        arguments = case.arguments(disk.folder)
        started = [disk.start(case.main, arguments, log) for log in logs]
        both = [ended(*pair) for pair in zip(started, logs, strict=True)]
        # The second waits for nothing: it is refused, unless the first is done already.
        refused = [end for end in both if end.code]
        good = len(refused) < 2 and all("another run" in end.lines[-1] for end in refused)
        good = good and case.result(disk.folder) == wanted and not torn(disk.folder)
        codes = sorted(end.code for end in both)
        print(f"two predictions, one folder: exit codes {codes}, {'good' if good else 'WRONG'}")
        failed += not good
    return failed


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--moments", type=int, default=10, help="of each job (%(default)s)")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    return parser.parse_args(argv)


@contextlib.contextmanager
def small_disk(work: Path) -> Iterator[Disk]:
    """Give a disk whose size can be changed, and take it away at the end."""
    folder = work / "disk"
    folder.mkdir()
    disk = Disk(folder)
    try:
        yield disk
    finally:
        disk.close()


def run(args: argparse.Namespace) -> int:
    """Run all jobs; return 1 if something went wrong."""
    with tempfile.TemporaryDirectory() as name, small_disk(Path(name)) as disk:
        work = Path(name)
        print(f"a tmpfs at {disk.folder}" if disk.mounted else "files of limited size, no tmpfs")
        cases = {name: case for name, case in make_cases(work, disk).items() if name in args.jobs}
        failed = sum(
            fill_disk(name, case, disk, args.moments, work) for name, case in cases.items()
        )
        failed += two_processes(cases, disk, work)
    return int(failed > 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
