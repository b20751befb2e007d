#!/usr/bin/env python
"""Reduce a checkpoint to the model's weights in half precision, for shipping.

    python tools/ship_weights.py output/quickstart/faster_rcnn/model_final.pth \\
        vrd_d2/assets/scenes_faster_rcnn.pth
"""

import argparse
import sys
from pathlib import Path

import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    if not args.checkpoint.is_file():
        sys.exit(f"error: there is no checkpoint {args.checkpoint}")
    weights = torch.load(args.checkpoint, map_location="cpu", weights_only=True)["model"]
    half = {
        name: value.half() if value.is_floating_point() else value
        for name, value in weights.items()
    }
    torch.save({"model": half}, args.output)
    print(f"{args.output}: {args.output.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
