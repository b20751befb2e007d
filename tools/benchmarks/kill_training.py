"""Kill a small training at random moments, resume it, and compare it with one that was not killed.

    python tools/benchmarks/kill_training.py kills --number 30

It aims at steps, at the writing of checkpoints and at evaluations, a third each. After each
kill -9 the run must go on from the newest whole checkpoint, with the losses, to the last bit, and
in the end with the weights of the run that was not killed. It runs the command vrd-train, in
processes that are forked from this one, so that a start does not take seconds of imports. CPU only.
"""

import argparse
import collections
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vrd_d2.commands.arguments import Parser
from vrd_d2.commands.run_tool import run_tool
from vrd_d2.data.formats.relations_json import save_relations_json
from vrd_d2.data.vocabulary import Vocabulary

CONFIG = Path(__file__).resolve().parents[2] / "configs/relclip_predcls.yaml"
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 64, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
NAMES = Vocabulary(("man", "dog", "hat"), ("on", "holding", "wearing", "next to"))
STEP, WRITE, EVALUATE = MOMENTS = ("step", "checkpoint", "evaluation")


def make_config(folder: Path, iterations: int) -> list[str]:
    """Write a small dataset and model; return the arguments of vrd-train."""
    rng = np.random.default_rng(0)
    records = []
    for number in range(24):
        width, height = (int(side) for side in rng.integers(70, 130, 2))
        file = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(file)
        corners = np.sort(rng.integers(0, 70, (5, 2, 2)), axis=1).reshape(5, 4).astype(float)
        records.append(
            {
                "file_name": str(file),
                "image_id": number,
                "height": height,
                "width": width,
                "annotations": [
                    {"id": 5 * number + i, "bbox": box, "bbox_mode": 0, "category_id": i % 3}
                    for i, box in enumerate(corners.tolist())
                ],
                "relations": np.column_stack([rng.permuted(np.tile(np.arange(5), (4, 1)), axis=1)
                                              [:, :2], rng.integers(0, 4, 4)]),
            }
        )  # fmt: skip
    data, clip = folder / "data.json", folder / "kill_clip.json"
    save_relations_json(records, NAMES, data, image_root=folder)
    clip.write_text(json.dumps({**CLIP, "quick_gelu": False}), encoding="utf-8")
    settings = {
        "MODEL.DEVICE": "cpu",
        "MODEL.VOCABULARY": data,
        "MODEL.CLIP.NAME": clip,
        "MODEL.CLIP.PRETRAINED": "",
        "MODEL.VISUAL.FEATURE_CACHE": "",
        "MODEL.RELATION_HEAD.DIM": 32,
        "MODEL.RELATION_HEAD.POSITION_DIM": 8,
        "MODEL.RELATION.REQUIRE_OVERLAP": False,
        "MODEL.RELATION.BATCH_SIZE_PER_IMAGE": 6,
        "MODEL.RCL.MEMORY_BANK": 8,
        "DATASETS.REGISTER": [["kill", str(data), str(folder)]],
        "DATASETS.TRAIN": ("kill",),
        "DATASETS.TEST": ("kill",),
        "DATALOADER.NUM_WORKERS": 0,
        "INPUT.MIN_SIZE_TRAIN": (80, 96),
        "INPUT.MIN_SIZE_TEST": 96,
        "INPUT.RANDOM_FLIP": "horizontal",
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.STEPS": (iterations // 2,),
        "SOLVER.WARMUP_ITERS": 5,
        "SOLVER.BASE_LR": 0.01,
        "SOLVER.CHECKPOINT_PERIOD": 4,
        "TEST.EVAL_PERIOD": 10,
        "TEST.BEST_METRIC": "relations/R@50",
        "SEED": 1,
    }
    overrides = [str(part) for pair in settings.items() for part in pair]
    return ["--config-file", str(CONFIG), "--resume", *overrides]


class Run:
    """A process that trains and says where it is."""

    def __init__(self, arguments: Sequence[str], folder: Path):
        context = multiprocessing.get_context("fork")
        # Iteration, number of the moment, and how often a moment of this kind has begun.
        self.place = context.RawArray("i", 2)
        self.place[0] = -1
        self.losses = folder / "losses.jsonl"
        self.process = context.Process(
            target=_train, args=([*arguments, "OUTPUT_DIR", str(folder)], self.place, folder)
        )
        self.process.start()

    def wait_for(self, moment: str, iteration: int) -> bool:
        """Wait until a moment from an iteration on; False if the process ended before it."""
        number = MOMENTS.index(moment)
        while self.process.is_alive():
            if self.place[0] >= iteration and self.place[1] == number:
                return True
            time.sleep(0.0002)
        return False

    def kill(self) -> None:
        """End the process as kill -9 does."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()

    def read_losses(self) -> dict[int, dict[str, float]]:
        """Return the losses of each iteration of this process."""
        found = {}
        for line in self.losses.read_text(encoding="utf-8").splitlines():
            process, iteration, losses = json.loads(line)
            if process == self.process.pid:
                found[iteration] = losses
        return found


def _train(arguments: Sequence[str], place: Sequence[int], folder: Path) -> None:
    """Run vrd-train in this process, whose losses and moments are told."""
    import torch
    from detectron2.engine import SimpleTrainer

    from vrd_d2.checkpoint.checkpointer import StrictCheckpointer
    from vrd_d2.commands import train
    from vrd_d2.engine.trainer import Trainer

    # Forked processes would have all generators in one state, which those of a shell do not.
    np.random.seed()
    random.seed()
    torch.seed()
    output = os.open(folder / "stdout.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    losses = os.open(folder / "losses.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)

    def told(moment, function):
        def call(*args, **kwargs):
            before, place[1] = place[1], MOMENTS.index(moment)
            try:
                return function(*args, **kwargs)
            finally:
                place[1] = before

        return call

    write_metrics = SimpleTrainer.write_metrics

    def write(loss_dict, data_time, cur_iter, prefix=""):
        place[0] = cur_iter
        found = {name: loss.item() for name, loss in loss_dict.items()}
        os.write(losses, (json.dumps([os.getpid(), cur_iter, found]) + "\n").encode())
        write_metrics(loss_dict, data_time, cur_iter, prefix)

    SimpleTrainer.write_metrics = staticmethod(write)
    StrictCheckpointer.save = told(WRITE, StrictCheckpointer.save)
    Trainer.test = classmethod(told(EVALUATE, Trainer.test.__func__))
    code = train.main(arguments)
    sys.stdout.flush()
    os._exit(code)


def newest_whole(folder: Path) -> int:
    """Return the iteration of the newest checkpoint that torch can read, -1 for none."""
    import torch

    newest = -1
    for file in folder.glob("*.pth"):
        try:
            trainer = torch.load(file, weights_only=True)["trainer"]
        except Exception:  # torn
            print(f"  {file.name} is torn")
            continue
        newest = max(newest, trainer["iteration"])
    return newest


def require(true: bool, what: str) -> None:
    """Raise ValueError unless it is true."""
    if not true:
        raise ValueError(f"not as in the run that was not killed: {what}")


def resumed(arguments: Sequence[str], folder: Path) -> tuple[Run, int]:
    """Start a run; return it with the iteration that it must begin with."""
    return Run(arguments, folder), newest_whole(folder) + 1


def check(run: Run, first: int, expected: dict[int, dict[str, float]]) -> int:
    """Compare a process with the whole run; return the number of iterations that it did."""
    found = run.read_losses()
    require(not found or min(found) == first, f"it began with {sorted(found)[:1]}, not {first}")
    for iteration, losses in found.items():
        require(losses == expected[iteration], f"iteration {iteration}: {losses}")
    return len(found)


def kills(args: argparse.Namespace) -> None:
    """Kill trainings, resume them, and print what was compared."""
    from vrd_d2.commands import train  # noqa: F401 - imported once, for all that are forked
    from vrd_d2.engine import trainer  # noqa: F401

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        arguments = make_config(work, args.iterations)
        whole = _folder(work, "whole")
        reference = Run(arguments, whole)
        reference.process.join()
        require(reference.process.exitcode == 0, (whole / "stdout.txt").read_text()[-2000:])
        expected = reference.read_losses()
        require(len(expected) == args.iterations, "the run itself")
        print(f"not killed: {len(expected)} iterations, {time.monotonic() - began:.0f} s")
        rng = random.Random(args.seed)
        counts: collections.Counter[str] = collections.Counter()
        compared = runs = leftovers = 0
        moments = _moments(rng, args.number)
        while sum(counts.values()) < args.number:
            runs += 1
            broken = _folder(work, f"broken{runs}")
            done = False
            while not done:
                run, first = resumed(arguments, broken)
                killed = False
                if sum(counts.values()) < args.number:
                    moment = next(moments)
                    if run.wait_for(moment, first + rng.randrange(8)):
                        # Somewhere within it: a moment takes some milliseconds.
                        time.sleep(rng.random() * {STEP: 0.03, WRITE: 0.02, EVALUATE: 0.3}[moment])
                        killed = run.process.is_alive()
                if killed:
                    where = MOMENTS[run.place[1]]
                    run.kill()
                    counts[where] += 1
                    iterations = check(run, first, expected)
                    left = len(list(broken.glob(".*.unfinished")))
                    leftovers += left
                    print(
                        f"{sum(counts.values()):3} killed in {where:10} of iteration "
                        f"{run.place[0]:3}, after {iterations:2} iterations from {first:2} on"
                        + (f", {left} unfinished file" if left else "")
                    )
                    compared += iterations
                    continue
                run.process.join()
                text = (broken / "stdout.txt").read_text(encoding="utf-8")
                require(run.process.exitcode == 0, text[-2000:])
                compared += check(run, first, expected)
                done = True
            compare_ends(whole, broken)
            shutil.rmtree(broken)
        print(
            f"{sum(counts.values())} kills ({dict(counts)}) of {runs} trainings, {leftovers} "
            f"unfinished files removed, {compared} iterations and the last weights equal to the "
            f"last bit, {time.monotonic() - began:.0f} s"
        )


def _folder(work: Path, name: str) -> Path:
    folder = work / name
    folder.mkdir()
    (folder / "losses.jsonl").touch()
    return folder


def _moments(rng: random.Random, number: int) -> Iterator[str]:
    """Yield kinds of moments, as many of each, in random order; more where the run was over."""
    chosen = [MOMENTS[i % len(MOMENTS)] for i in range(number)]
    rng.shuffle(chosen)
    yield from chosen
    while True:
        yield rng.choice(MOMENTS)


def compare_ends(whole: Path, broken: Path) -> None:
    """Compare what is left of two runs: last weights and states, metrics, leftovers."""
    import torch

    ends = [torch.load(f / "model_final.pth", weights_only=True) for f in (whole, broken)]
    for name, weight in ends[0]["model"].items():
        require(torch.equal(weight, ends[1]["model"][name]), f"model_final.pth, {name}")
    states = [end["trainer"]["_trainer"]["optimizer"] for end in ends]
    for index, state in states[0]["state"].items():
        for name, value in state.items():
            other = states[1]["state"][index][name]
            require(torch.equal(torch.as_tensor(value), torch.as_tensor(other)), f"its {name}")
    require(states[0]["param_groups"] == states[1]["param_groups"], "param_groups")
    (results,) = whole.glob("inference/*/relations_*.json")
    other = broken / results.relative_to(whole)
    require(json.loads(results.read_text()) == json.loads(other.read_text()), results.name)
    for line in (broken / "metrics.json").read_text(encoding="utf-8").splitlines():
        json.loads(line)
    require(not list(broken.rglob(".*.unfinished")), "an unfinished file is left")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("kills", help="kill -9 at random moments of training")
    command.add_argument("--number", type=int, default=30, help="of kills")
    command.add_argument("--iterations", type=int, default=40, help="of a training")
    command.add_argument("--seed", type=int, default=0, help="of the moments")
    command.set_defaults(run=kills)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(arguments.run, arguments)


if __name__ == "__main__":
    sys.exit(main())
