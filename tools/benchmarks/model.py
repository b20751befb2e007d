#!/usr/bin/env python
"""Cost of RelCLIP at full size: each stage as time, share and ratio to the frozen ViT forward.

A ViT-B/32 with random weights, one 800x600 image, 80 boxes, all 6,320 ordered pairs. All stages
run side by side in one process; read the ratios, not the seconds.

    python tools/benchmarks/model.py [--precision fp32 bf16] [--attention full subject axial] \\
        [--device cuda]
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from vrd_d2.commands.arguments import Parser
from vrd_d2.commands.run_tool import run_tool


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--attention", nargs="+", default=["full", "subject", "axial"])
    parser.add_argument("--boxes", type=int, default=80)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_arguments(None)  # --help and wrong commands end before the imports that take seconds

import torch
from detectron2.structures import Boxes, Instances
from torchvision.ops import roi_align

from vrd_d2.config.loading import load_config
from vrd_d2.modeling import RelCLIP
from vrd_d2.modeling.encoders.pooling import roi_mean
from vrd_d2.modeling.geometry import candidate_pairs, pair_geometry, union_boxes
from vrd_d2.modeling.structures import PairBatch

ROOT = Path(__file__).resolve().parents[2]


def reset_peak(device: str = "cpu") -> None:
    """Forget the peak of resident memory so far (Linux), or of a GPU's."""
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")
    else:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


def peak_mib(device: str = "cpu") -> float:
    """Return the peak of memory since the last reset, in MiB."""
    if device != "cpu":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(stages: dict, repeats: int, device: str = "cpu") -> dict[str, tuple[float, float]]:
    """Return median seconds and peak MiB above the start of each stage.

    Stages are interleaved, so that a noisy minute hits all of them alike.
    """
    times = {name: [] for name in stages}
    peaks = dict.fromkeys(stages, 0.0)
    for repeat in range(repeats + 1):
        for name, stage in stages.items():
            reset_peak(device)
            before = peak_mib(device)
            start = time.perf_counter()
            stage()
            peak = peak_mib(device)  # waits for a GPU
            elapsed = time.perf_counter() - start
            if repeat:  # the first round warms up
                times[name].append(elapsed)
            peaks[name] = max(peaks[name], peak - before)
    return {name: (statistics.median(times[name]), peaks[name]) for name in stages}


def make_example(boxes: int, num_relations: int, seed: int) -> dict:
    """Make a random 800x600 image with boxes, which overlap by chance."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand((boxes, 2), generator=generator) * torch.tensor([700.0, 500.0])
    size = 20 + torch.rand((boxes, 2), generator=generator) * 300
    xyxy = torch.cat([corner, corner + size], 1)
    xyxy = xyxy.clamp(max=torch.tensor([800.0, 600.0, 800.0, 600.0]))
    instances = Instances((600, 800), gt_boxes=Boxes(xyxy))
    instances.gt_classes = torch.randint(150, (boxes,), generator=generator)
    subject = torch.randint(boxes, (num_relations,), generator=generator)
    obj = (subject + torch.randint(1, boxes, (num_relations,), generator=generator)) % boxes
    predicate = torch.randint(50, (num_relations,), generator=generator)
    image = torch.randint(256, (3, 600, 800), generator=generator, dtype=torch.uint8)
    return {
        "image": image,
        "height": 600,
        "width": 800,
        "instances": instances,
        "relations": torch.stack([subject, obj, predicate], 1),
    }


def build(attention: str, device: str = "cpu") -> RelCLIP:
    """Build the full-size PredCls model with random weights, all ordered pairs as candidates."""
    cfg = load_config(
        ROOT / "configs/relclip_predcls.yaml",
        [
            *("MODEL.CLIP.NAME", "ViT-B-32", "MODEL.CLIP.PRETRAINED", "", "MODEL.DEVICE", device),
            *(
                "MODEL.RELATION.REQUIRE_OVERLAP",
                "False",
                "MODEL.RELATION_HEAD.ATTENTION",
                attention,
            ),
        ],
    )
    torch.manual_seed(0)
    return RelCLIP(cfg).to(device)


def stages_of(model: RelCLIP, example: dict) -> dict:
    """Return closures over prepared inputs, one a stage."""
    model.eval()
    head, size = model.head, (600, 800)
    boxes = example["instances"].gt_boxes.tensor.to(model.device)
    classes = example["instances"].gt_classes.to(model.device)
    pairs = candidate_pairs(boxes, require_overlap=False)
    subjects, objects = boxes[pairs[:, 0]], boxes[pairs[:, 1]]
    unions = union_boxes(subjects, objects)
    layer, scale = head.features.relations, head.features.scale
    feature_map = model.visual_maps([example])[0]
    projected = layer.project(feature_map)
    geometry = pair_geometry(subjects, objects, size)
    pooled = roi_mean(projected, unions, scale=scale)
    batch = PairBatch([feature_map], [boxes], [classes], [pairs], [size])

    def roi_align_mean():
        return roi_align(feature_map[None], [unions], 7, scale, 2, True).mean((2, 3))

    def pair_adaptor():
        return head._among_pairs(layer(pooled, geometry), batch)

    relations = pair_adaptor()
    error = (roi_align_mean() - roi_mean(feature_map, unions, scale=scale)).abs().max()
    print(f"union features: largest difference to roi_align 7x7 + mean {error:.1e}")
    return {
        "ViT forward": lambda: model.visual_maps([example]),
        "pooling, roi_align 7x7 + mean": roi_align_mean,
        "pooling, ours": lambda: roi_mean(projected, unions, scale=scale),
        "geometry": lambda: pair_geometry(subjects, objects, size),
        "pair adaptor": pair_adaptor,
        "classifier": lambda: head.predictor.predicates(relations),
        "relation stage": lambda: head(batch),
        "whole inference": lambda: model([example]),
    }


def training_stages(model: RelCLIP, example: dict) -> dict:
    """Return a whole iteration (512 sampled pairs) with and without RCL, as closures."""
    levels = model.contrast.levels

    def iteration(active: list) -> None:
        model.train()
        model.contrast.levels = active
        losses = model([example])
        sum(losses.values()).backward()
        model.zero_grad()
        model.contrast.levels = levels
        model.eval()

    return {
        "training iteration": lambda: iteration(levels),
        "training iteration without RCL": lambda: iteration([]),
    }


def run(args: argparse.Namespace) -> None:
    """Measure every combination, and print a table each."""
    example = make_example(args.boxes, 20, seed=0)
    pairs = args.boxes * (args.boxes - 1)
    where = f"{torch.get_num_threads()} threads" if args.device == "cpu" else args.device
    print(f"{where}, {args.boxes} boxes, {pairs} pairs")
    for precision in args.precision:
        for attention in args.attention:
            model = build(attention, args.device)
            bf16 = torch.autocast(args.device, torch.bfloat16)
            context = bf16 if precision == "bf16" else nullcontext()
            with context:
                with torch.no_grad():
                    inference = stages_of(model, example)
                    rows = measure(inference, args.repeats, args.device)
                training = training_stages(model, example)
                rows.update(measure(training, args.repeats, args.device))
            vit, whole = rows["ViT forward"][0], rows["whole inference"][0]
            print(f"\n{precision}, attention {attention}")
            print(f"{'stage':34}{'seconds':>9}{'share':>8}{'x ViT':>8}{'peak MiB':>10}")
            for name, (seconds, peak) in rows.items():
                share = seconds / whole
                print(f"{name:34}{seconds:9.4f}{share:8.1%}{seconds / vit:8.2f}{peak:10.0f}")
            slow, fast = rows["pooling, roi_align 7x7 + mean"][0], rows["pooling, ours"][0]
            print(f"pooling: ours {slow / fast:.1f} times as fast as roi_align + mean")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
