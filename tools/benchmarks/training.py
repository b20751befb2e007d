#!/usr/bin/env python
"""What of a training iteration of RelCLIP is spent in the image encoder and in RCL.

A ViT-B/32 with random weights, 12 images of 800x600, 512 sampled pairs each, PredCls. Iterations
with and without the encoder (MODEL.VISUAL.FEATURE_CACHE) and RCL alternate in one process; read the
ratios, not the seconds.

    python tools/benchmarks/training.py [--images 12] [--relations 20 128] [--device cuda]
"""

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vrd_d2.commands.arguments import Parser
from vrd_d2.commands.run_tool import run_tool


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--relations", type=int, nargs="+", default=[20, 128], help="an image")
    parser.add_argument("--boxes", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_arguments(None)  # --help and wrong commands end before the imports that take seconds

import torch
from torch import Tensor

from vrd_d2.modeling.relational_contrast import Triplets

HERE = Path(__file__).resolve().parent


def load_script(name: str):
    """Load a script beside this one; another package may own the name `tools`."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rcl_stage(model, levels: list, queries: int, classes: int, predicates: int):
    """Return RCL alone, forward and backward, on embeddings of a number of queries."""
    generator = torch.Generator().manual_seed(0)
    dim = model.contrast.visual["sp"].in_features

    def rows() -> Tensor:
        return torch.randn((queries, dim), generator=generator).to(model.device).requires_grad_()

    visual = Triplets(rows(), rows(), rows())
    subject, obj = (torch.randint(classes, (queries,), generator=generator) for _ in "so")
    weights = torch.eye(predicates)[torch.randint(predicates, (queries,), generator=generator)]
    subject, obj, weights = (x.to(model.device) for x in (subject, obj, weights))

    def stage() -> None:
        model.contrast.levels = levels
        text = Triplets(
            model.text.relations(subject, weights, obj),
            model.text.entities(subject),
            model.text.entities(obj),
        )
        phrases = {level.key: model.phrases(level.parts, subject, weights, obj) for level in levels}
        sum(model.contrast(visual, text, phrases).values()).backward()

    return stage


def run(args: argparse.Namespace) -> None:
    """Measure each number of relations."""
    bench = load_script("model")
    where = f"{torch.get_num_threads()} threads" if args.device == "cpu" else args.device
    print(f"{where}, {args.images} images x 512 pairs")
    model = bench.build("full", args.device).train()
    levels = model.contrast.levels
    for relations in args.relations:
        examples = [
            bench.make_example(args.boxes, relations, seed=seed) for seed in range(args.images)
        ]

        def iteration(cache: str, active: list, batch: list[dict] = examples) -> None:
            model.feature_cache_folder = cache
            model.contrast.levels = active
            torch.manual_seed(0)
            sum(model(batch).values()).backward()
            model.zero_grad()

        counts = []
        hook = model.contrast.register_forward_pre_hook(
            lambda _, inputs, counts=counts: counts.append(len(inputs[0].relation))
        )
        with tempfile.TemporaryDirectory() as folder:
            model._feature_cache = None
            iteration(folder, levels)
            hook.remove()
            stages = {
                "encoder, RCL": lambda: iteration("", levels),
                "encoder": lambda: iteration("", []),
                "cache, RCL": lambda folder=folder: iteration(folder, levels),
                "cache": lambda folder=folder: iteration(folder, []),
            }
            stages["RCL alone"] = rcl_stage(model, levels, counts[0], 150, 50)
            rows = bench.measure(stages, args.repeats, args.device)
        whole = {name: seconds for name, (seconds, _) in rows.items()}
        print(f"\n{relations} relations an image, {counts[0]} positive pairs in the batch")
        for name, seconds in whole.items():
            print(f"{name:16}{seconds:9.3f} s")
        speed = whole["encoder, RCL"] / whole["cache, RCL"]
        print(f"an iteration with the cache: {speed:.2f} times as fast")
        for name in ("encoder", "cache"):
            share = whole["RCL alone"] / whole[f"{name}, RCL"]
            difference = 1 - whole[name] / whole[f"{name}, RCL"]
            print(f"share of RCL, {name}: {share:.1%} (by difference {difference:.1%})")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
