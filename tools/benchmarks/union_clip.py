#!/usr/bin/env python
"""Cost of UnionCLIP: inference against the number of predicates, and a training step.

Random weights (nothing is downloaded) and one random image; all variants of a table run in one
process, interleaved: read the ratios, not the seconds.

    python tools/benchmarks/union_clip.py [--clip ViT-B-32] [--boxes 4] \\
        [--predicates 10 50 200 1000]
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from vrd_d2.commands.arguments import Parser
from vrd_d2.commands.run_tool import run_tool


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--clip", default="ViT-B-32", help="open_clip name or model-config JSON")
    parser.add_argument("--boxes", type=int, default=4)
    parser.add_argument("--predicates", type=int, nargs="+", default=[10, 50, 200, 1000])
    parser.add_argument("--pairs", type=int, default=20, help="class pairs timed for the bank")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_arguments(None)  # --help and wrong commands end before the imports that take seconds

import torch
from detectron2.structures import Boxes, Instances

from vrd_d2.config.loading import load_config
from vrd_d2.modeling import UnionCLIP

ROOT = Path(__file__).resolve().parents[2]
# Vocabulary of the extrapolation: VG150's.
CLASSES, PREDICATES = 150, 50


def measure(stages: dict[str, Callable], repeats: int) -> dict[str, float]:
    """Return median seconds of each stage after one round that warms up."""
    times: dict[str, list[float]] = {name: [] for name in stages}
    for repeat in range(repeats + 1):
        for name, stage in stages.items():
            start = time.perf_counter()
            stage()
            if repeat:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def build(folder: Path, clip: str, predicates: int, *overrides) -> UnionCLIP:
    """Build a model with random weights and as many predicates as asked for."""
    vocabulary = folder / f"{predicates}.json"
    names = {
        "objects": [f"object{index}" for index in range(CLASSES)],
        "predicates": [f"relates{index} to" for index in range(predicates)],
    }
    vocabulary.write_text(json.dumps(names))
    cfg = load_config(
        ROOT / "configs/unionclip_mlp.yaml",
        [
            *("MODEL.CLIP.NAME", clip, "MODEL.CLIP.PRETRAINED", "", "MODEL.DEVICE", "cpu"),
            *("MODEL.VOCABULARY", str(vocabulary), *overrides),
        ],
    )
    torch.manual_seed(0)
    return UnionCLIP(cfg)


def make_example(boxes: int, predicates: int) -> dict:
    """Return an 800x600 image with boxes, one annotated relation each."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand((boxes, 2), generator=generator) * torch.tensor([500.0, 300.0])
    size = 30 + torch.rand((boxes, 2), generator=generator) * 250
    instances = Instances((600, 800), gt_boxes=Boxes(torch.cat([corner, corner + size], 1)))
    instances.gt_classes = torch.randint(CLASSES, (boxes,), generator=generator)
    subject = torch.arange(boxes)
    predicate = torch.randint(predicates, (boxes,), generator=generator)
    return {
        "image": torch.randint(256, (3, 600, 800), generator=generator, dtype=torch.uint8),
        "height": 600,
        "width": 800,
        "instances": instances,
        "relations": torch.stack([subject, (subject + 1) % boxes, predicate], 1),
    }


def inference(folder: Path, args: argparse.Namespace) -> None:
    """Measure the time of an image with a warm bank in memory or on disk, and with an empty one."""
    pairs = args.boxes * (args.boxes - 1)
    print(f"\ninference, {args.clip}, {args.boxes} boxes, {pairs} pairs")
    columns = ["bank", "bank file", "no bank", "no bank / bank", "x first row"]
    print(f"{'predicates':>10}" + "".join(f"{column:>15}" for column in columns))
    first = None
    for predicates in args.predicates:
        example = make_example(args.boxes, predicates)
        models = {
            "bank": build(folder, args.clip, predicates, "MODEL.UNION_CLIP.FINETUNE", "none"),
            "bank file": build(
                folder,
                args.clip,
                predicates,
                *("MODEL.UNION_CLIP.FINETUNE", "none"),
                *("MODEL.UNION_CLIP.TEXT_BANK", str(folder / "bank")),
            ),
        }
        for model in models.values():
            model.eval()
        stages = {name: partial(model, [example]) for name, model in models.items()}
        rows = measure(stages, args.repeats)
        models["bank"].texts._version = ()  # forgets all texts
        start = time.perf_counter()
        stages["bank"]()
        rows["no bank"] = time.perf_counter() - start
        first = first or rows["bank"]
        print(
            f"{predicates:10}"
            + "".join(f"{rows[name]:15.3f}" for name in ("bank", "bank file", "no bank"))
            + f"{rows['no bank'] / rows['bank']:15.1f}{rows['bank'] / first:15.2f}"
        )


def bank(folder: Path, args: argparse.Namespace) -> None:
    """Measure the speed at which texts are encoded, and what the bank of VG150 takes."""
    model = build(folder, args.clip, PREDICATES, "MODEL.UNION_CLIP.FINETUNE", "none").eval()
    model.texts.blocks([1])  # warms up
    codes = list(range(0, CLASSES * args.pairs, CLASSES))
    start = time.perf_counter()
    blocks = model.texts.blocks(codes)
    speed = len(codes) * PREDICATES / (time.perf_counter() - start)
    texts = CLASSES * CLASSES * PREDICATES
    print(
        f"\nbank: {speed:.0f} texts a second; all {texts} texts of {CLASSES} classes and "
        f"{PREDICATES} predicates: {texts * blocks[0].shape[1] * 2 / 1e9:.2f} GB in float16, "
        f"{texts / speed / 60:.0f} minutes"
    )


def training(folder: Path, args: argparse.Namespace) -> None:
    """Measure a training step: nothing cached, texts cached, texts and crops cached."""
    example = make_example(args.boxes, PREDICATES)
    print(f"\ntraining step, {args.boxes} boxes, {args.boxes * PREDICATES + 1} texts")
    for way in ("mlp", "attention"):
        settings = {
            "nothing cached": ("MODEL.UNION_CLIP.TEXT_CACHE_GB", 0.0),
            "texts cached": (),
            "texts and crops cached": ("MODEL.VISUAL.FEATURE_CACHE", str(folder / way)),
        }

        def step(model: UnionCLIP) -> None:
            sum(model([example]).values()).backward()
            model.zero_grad()

        stages = {}
        for name, overrides in settings.items():
            model = build(
                folder, args.clip, PREDICATES, "MODEL.UNION_CLIP.FINETUNE", way, *overrides
            ).train()
            stages[name] = partial(step, model)
        rows = measure(stages, args.repeats)
        for name, seconds in rows.items():
            print(f"{way:10}{name:22}{seconds:9.3f} s{rows['nothing cached'] / seconds:8.2f} x")


def run(args: argparse.Namespace) -> None:
    """Measure inference, the bank and training."""
    print(f"{torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with torch.no_grad():
            inference(folder, args)
            bank(folder, args)
        training(folder, args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
