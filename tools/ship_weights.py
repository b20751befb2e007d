#!/usr/bin/env python
"""Reduce a checkpoint to the model's weights in half precision, for shipping.

    python tools/ship_weights.py output/quickstart/faster_rcnn/model_final.pth \\
        vrd_d2/assets/scenes_faster_rcnn.pth
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from vrd_d2.commands.arguments import Parser
from vrd_d2.commands.run_tool import run_tool
from vrd_d2.data.atomic_files import write_bytes


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Write the weights of a checkpoint in half precision."""
    import torch

    if not args.checkpoint.is_file():
        raise ValueError(f"there is no checkpoint {args.checkpoint}")
    weights = torch.load(args.checkpoint, map_location="cpu", weights_only=True)["model"]
    half = {
        name: value.half() if value.is_floating_point() else value
        for name, value in weights.items()
    }
    content = io.BytesIO()
    torch.save({"model": half}, content)
    write_bytes(args.output, content.getvalue())
    print(f"{args.output}: {args.output.stat().st_size / 2**20:.1f} MiB")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
