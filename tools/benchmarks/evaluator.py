#!/usr/bin/env python
"""Speed and memory of the evaluator beside an obvious numpy implementation of the same metrics.

    python tools/benchmarks/evaluator.py            about two minutes
    python tools/benchmarks/evaluator.py --quick    some seconds

Images of 80 detected boxes, 4,096 pairs, 50 predicates and 20 ground-truth relations; SGDet,
protocol sgb: R, ng-R, mR, ng-mR, zR and ng-zR at 20, 50, 100 (ours adds F, PR and the confusion
matrix). Arrays are in memory, in single precision; checks of the input are part of the time.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np

from vrd_d2.commands.arguments import Parser
from vrd_d2.commands.run_tool import run_tool
from vrd_d2.evaluation import (
    GroundTruth,
    Prediction,
    RowStore,
    evaluate_image,
    get_protocol,
    summarize,
)
from vrd_d2.tasks import Task

BOXES, PAIRS, CLASSES, PREDICATES, GT_BOXES, RELATIONS = 80, 4096, 150, 50, 25, 20
KS = (20, 50, 100)
POOL = 40  # distinct images, used again and again

ImageData = dict[str, np.ndarray]


def make_image(generator: np.random.Generator) -> ImageData:
    """Make detections scattered around the ground truth, most of them with its class."""
    corner = 400 * generator.random((GT_BOXES, 2))
    gt_boxes = np.hstack([corner, corner + 50 + 200 * generator.random((GT_BOXES, 2))])
    gt_classes = generator.integers(0, CLASSES, GT_BOXES)
    source = generator.integers(0, GT_BOXES, BOXES)
    right = generator.random(BOXES) < 0.8
    pairs = np.argwhere(~np.eye(BOXES, dtype=bool))
    pairs = pairs[generator.permutation(len(pairs))[:PAIRS]]
    logits = np.exp(2 * generator.standard_normal((PAIRS, PREDICATES + 1)))
    relations = np.column_stack(
        [
            generator.integers(0, GT_BOXES, (RELATIONS, 2)),
            generator.integers(0, PREDICATES, RELATIONS),
        ]
    )
    # Annotated pairs are predicted right more often than chance.
    for subject, obj, predicate in relations:
        of_row = (source[pairs[:, 0]] == subject) & (source[pairs[:, 1]] == obj)
        logits[of_row, predicate] *= 20
    probabilities = logits / logits.sum(1, keepdims=True)
    return {
        "gt_boxes": gt_boxes.astype(np.float32),
        "gt_classes": gt_classes,
        "gt_relations": relations,
        "boxes": (gt_boxes[source] + generator.normal(0, 8, (BOXES, 4))).astype(np.float32),
        "classes": np.where(right, gt_classes[source], generator.integers(0, CLASSES, BOXES)),
        "scores": generator.random(BOXES).astype(np.float32),
        "pairs": pairs,
        "predicate_scores": np.ascontiguousarray(probabilities[:, :PREDICATES], np.float32),
    }


def zero_shot_of(images: list[ImageData]) -> frozenset[tuple[int, int, int]]:
    """Return every third relation of the images, as unseen."""
    triplets = set()
    for image in images:
        for subject, obj, predicate in image["gt_relations"][::3].tolist():
            classes = image["gt_classes"]
            triplets.add((int(classes[subject]), int(classes[obj]), predicate))
    return frozenset(triplets)


def ours(images: list[ImageData], count: int, zero_shot: frozenset) -> dict[str, dict[int, float]]:
    """Compute all metrics of ``count`` images."""
    protocol, task, store = get_protocol("sgb"), Task.SGDET, RowStore()
    for key in range(count):
        p = images[key % len(images)]
        truth = GroundTruth(p["gt_boxes"], p["gt_classes"], p["gt_relations"])
        truth.check(PREDICATES, CLASSES)
        prediction = Prediction(
            p["boxes"], p["classes"], p["scores"], p["pairs"], p["predicate_scores"]
        )
        prediction.check(PREDICATES, CLASSES)
        found = evaluate_image(truth, prediction, protocol=protocol, task=task, zero_shot=zero_shot)
        store.add(key, *found)
    return summarize(
        *store.state(),
        num_predicates=PREDICATES,
        protocol=protocol,
        task=task,
        ks=KS,
        with_zero_shot=True,
    ).metrics


def reference(
    images: list[ImageData], count: int, zero_shot: frozenset
) -> dict[str, dict[int, float]]:
    """Compute the same metrics, sorting and comparing everything."""
    recalls = {(name, k): [] for name in ("R", "ngR", "zR", "ngzR") for k in KS}
    of_predicate = {
        (name, k): [[] for _ in range(PREDICATES)] for name in ("mR", "ngmR") for k in KS
    }
    for key in range(count):
        p = images[key % len(images)]
        classes, gt_classes, gt = p["classes"], p["gt_classes"], p["gt_relations"]
        gt_triplets = np.column_stack([gt_classes[gt[:, :2]], gt[:, 2]])
        unseen = np.array([tuple(t) in zero_shot for t in gt_triplets.tolist()])
        scores = p["scores"][p["pairs"]].prod(1)[:, None] * p["predicate_scores"]
        best = np.argsort(-scores.max(1), kind="stable")
        constrained = np.column_stack([p["pairs"], p["predicate_scores"].argmax(1)])[best]
        flat = np.argsort(-scores.ravel(), kind="stable")[: KS[-1]]
        free = np.column_stack([p["pairs"][flat // PREDICATES], flat % PREDICATES])
        for prefix, ranked in (("", constrained), ("ng", free)):
            triplets = np.column_stack([classes[ranked[:, :2]], ranked[:, 2]])
            hits = (triplets[:, None] == gt_triplets[None]).all(2)
            for side in (0, 1):
                boxes = p["boxes"][ranked[:, side]]
                hits &= overlaps(boxes, p["gt_boxes"][gt[:, side]]) >= 0.5
            for k in KS:
                hit = hits[:k].any(0)
                recalls[prefix + "R", k].append(hit.mean())
                if unseen.any():
                    recalls[prefix + "zR", k].append(hit[unseen].mean())
                for predicate in np.unique(gt[:, 2]):
                    found = hit[gt[:, 2] == predicate].mean()
                    of_predicate[prefix + "mR", k][predicate].append(found)
    metrics: dict[str, dict[int, float]] = {}
    for (name, k), values in recalls.items():
        metrics.setdefault(name, {})[k] = float(np.mean(values))
    for (name, k), lists in of_predicate.items():
        means = [np.mean(values) if values else 0.0 for values in lists]
        metrics.setdefault(name, {})[k] = float(np.mean(means))
    return metrics


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return IoU with inclusive pixels: (N, 4), (R, 4) -> (N, R)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.clip(high - low + 1, 0, None).prod(2)
    areas = [(b[:, 2:] - b[:, :2] + 1).prod(1) for b in (boxes, others)]
    return shared / (areas[0][:, None] + areas[1][None] - shared)


def peak_memory(count: int) -> float:
    """Return the peak resident MiB of a process that evaluates ``count`` images."""
    command = [sys.executable, __file__, "--memory-of", str(count)]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    return float(subprocess.run(command, check=True, stdout=-1, env=environment).stdout)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer images")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace) -> None:
    """Compare speeds and metrics, then measure memory."""
    generator = np.random.default_rng(0)
    images = [make_image(generator) for _ in range(POOL)]
    zero_shot = zero_shot_of(images)
    if arguments.memory_of is not None:
        ours(images, arguments.memory_of, zero_shot)
        kilo = 1024 if sys.platform == "darwin" else 1
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 / kilo)
        return

    count, slow = (400, POOL) if arguments.quick else (4000, 5 * POOL)
    ours(images, POOL, zero_shot)  # warm caches
    timed = {}
    for name, function, number in (("ours", ours, count), ("obvious numpy", reference, slow)):
        start = time.perf_counter()
        metrics = function(images, number, zero_shot)
        timed[name] = number / (time.perf_counter() - start), metrics
    print(f"{'':16}{'images/s':>12}{'R@50':>10}{'ng-R@50':>10}{'mR@50':>10}")
    for name, (speed, metrics) in timed.items():
        shown = "".join(f"{100 * metrics[m][50]:10.3f}" for m in ("R", "ngR", "mR"))
        print(f"{name:16}{speed:12.0f}{shown}")
    speeds = [speed for speed, _ in timed.values()]
    # Both see each of the same images equally often.
    difference = max(
        abs(value - timed["ours"][1][name][k])
        for name, values in timed["obvious numpy"][1].items()
        for k, value in values.items()
    )
    print(f"ratio {speeds[0] / speeds[1]:.0f}, largest difference of any metric {difference:.1e}")
    sizes = (200, 2000) if arguments.quick else (2000, 20000)
    memory = [peak_memory(size) for size in sizes]
    print(
        "peak memory "
        + ", ".join(
            f"{m:.1f} MiB for {size:,} images" for size, m in zip(sizes, memory, strict=True)
        )
        + f" ({memory[1] - memory[0]:+.1f} MiB)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
