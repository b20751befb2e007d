#!/usr/bin/env python
"""Every export of a checkpoint against the model itself, in one run: do they agree, and how fast.

    python tools/benchmarks/export.py --config-file configs/quickstart/relclip_sgdet.yaml \\
        --weights output/quickstart/sgdet/model_final.pth --output output/exports \\
        datasets/scenes/images/test_0000*.jpg

Model and export get the same tensors. The calls take turns, so that what else runs on the machine
slows both alike; the ratio of an image is that of the medians. Random boxes, and classes, where the
part takes them: 0, 1, 2, 20 and 100 in turn, and 20 (--boxes) where time is taken.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from vrd_d2.commands.arguments import Parser
from vrd_d2.commands.run_tool import run_tool
from vrd_d2.export import FILES, PARTS


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--output", required=True, type=Path, help="folder of the exports")
    parser.add_argument("--formats", nargs="+", choices=FILES, default=list(FILES))
    parser.add_argument("--repeats", type=int, default=5, help="of an image; 0 takes no time")
    parser.add_argument("--threads", type=int, default=1, help="of each of the two")
    parser.add_argument("--boxes", type=int, default=20, help="where time is taken")
    parser.add_argument("--json", type=Path, help="file for the table")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_overrides(after="images", old_option="--opts")
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_arguments(None)  # --help and wrong commands end before the imports that take seconds

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor, nn
from tqdm import tqdm

from vrd_d2.config.loading import load_config
from vrd_d2.data.dataset_mapper import RelationMapper, relation_example
from vrd_d2.engine.build import build_trained_model
from vrd_d2.export.build import exportable
from vrd_d2.export.formats import write_model
from vrd_d2.export.metadata import describe
from vrd_d2.export.parity import Difference, Runner, compare, export_runner, model_runner
from vrd_d2.media.images import read_image

COUNTS = (0, 1, 2, 20, 100)


def read_inputs(mapper: RelationMapper, path: str) -> Tensor:
    """Read an image as the model gets it, uint8 (3, H, W)."""
    pixels, _ = read_image(path)
    if mapper.image_format == "BGR":
        pixels = np.ascontiguousarray(pixels[..., ::-1])
    return relation_example(pixels, (), None, augmentations=mapper.augmentations)["image"]


def inputs_of(names: list[str], image: Tensor, count: int, classes: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(count)
    height, width = image.shape[-2:]
    corners = torch.rand((count, 2, 2), generator=generator).sort(dim=1).values
    values = {
        "image": image,
        "boxes": (corners * torch.tensor([float(width), float(height)])).reshape(count, 4),
        "classes": torch.randint(classes, (count,), generator=generator),
    }
    return {name: values[name] for name in names}


def seconds(run: Runner, inputs: Mapping[str, Tensor]) -> float:
    start = time.perf_counter()
    run(inputs)
    return time.perf_counter() - start


def speed_ratio(own: Runner, export: Runner, inputs: Mapping[str, Tensor], repeats: int) -> float:
    """Return how many times as fast the export is."""
    for _ in range(2):  # TorchScript compiles at the second call of a size
        export(inputs)
    times = [[seconds(run, inputs) for run in (own, export)] for _ in range(repeats)]
    model, exported = (statistics.median(column) for column in zip(*times, strict=True))
    return model / exported


def measure(
    own: Runner, export: Runner, names: list[str], images: list[Tensor], args: argparse.Namespace
) -> tuple[list[Difference], list[float]]:
    differences, ratios = [], []
    for image in tqdm(images, leave=False):
        for count in COUNTS if "boxes" in names else (0,):
            inputs = inputs_of(names, image, count, args.classes)
            differences.append(compare(export(inputs), own(inputs)))
        if args.repeats:
            inputs = inputs_of(names, image, args.boxes, args.classes)
            ratios.append(speed_ratio(own, export, inputs, args.repeats))
    return differences, ratios


def row_of(
    part: str, file_format: str, differences: list[Difference], ratios: list[float]
) -> dict[str, str]:
    columns = [asdict(difference) for difference in differences]
    same = sum(column.pop("same_best") for column in columns)
    # NaN where the entities differ: shown, not passed over.
    worst = {name: float(np.max([column[name] for column in columns])) for name in columns[0]}
    return {
        "part": part,
        "format": file_format,
        "inputs": str(len(differences)),
        **{name: f"{value:.1e}" for name, value in worst.items()},
        "same best 100": f"{same} of {len(differences)}" if part != "detector" else "-",
        "times as fast": (
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            if ratios
            else "-"
        ),
    }


def parts_of(model: nn.Module) -> list[str]:
    found = []
    for part in PARTS:
        try:
            exportable(model, part)
        except ValueError as error:
            print(f"{part}: {error}")
        else:
            found.append(part)
    return found


def run(args: argparse.Namespace) -> None:
    """Export, compare and print the table."""
    torch.set_num_threads(args.threads)
    fixed = ["MODEL.WEIGHTS", args.weights, "MODEL.DEVICE", "cpu", "MODEL.VISUAL.FEATURE_CACHE", ""]
    rows = []
    cfg = load_config(args.config_file, [*args.opts, *fixed])
    mapper = RelationMapper(cfg, is_train=False)
    images = [read_inputs(mapper, path) for path in args.images]
    model = build_trained_model(cfg)
    for part in parts_of(model):
        module = exportable(model, part)
        for file_format in args.formats:
            metadata = describe(cfg, module, what=part, file_format=file_format)
            args.classes = len(metadata["objects"])
            file = args.output / part / FILES[file_format]
            file.parent.mkdir(parents=True, exist_ok=True)
            write_model(module, file, file_format=file_format, metadata=metadata)
            export = export_runner(file, file_format, module.outputs, threads=args.threads)
            found = measure(model_runner(model, part), export, module.inputs, images, args)
            rows.append(row_of(part, file_format, *found))
            print(tabulate(rows[-1:], headers="keys", tablefmt="plain"), flush=True)
    print(f"\n{len(images)} images, {args.threads} thread(s), {args.repeats} repeats an image")
    print(tabulate(rows, headers="keys", tablefmt="github"))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
