#!/usr/bin/env python
"""Time of an exported relation model against the model itself, in one run, and whether they agree.

    python tools/benchmark_export.py --config-file configs/quickstart/relclip_sgdet.yaml \\
        --weights output/quickstart/sgdet/model_final.pth --model output/exported/model.onnx \\
        datasets/scenes/images/test_000003.jpg

Both go from the same RGB array to a scene graph, resizing included. The calls take turns, so that
what else runs on the machine slows both alike; the medians and their ratio are printed.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from vrd_d2.onnx_runtime import OnnxPredictor, read_picture
from vrd_d2.predictor import Predictor


def seconds(predict: Callable[..., object], image: np.ndarray, given: dict[str, list]) -> float:
    start = time.perf_counter()
    predict(image, **given)
    return time.perf_counter() - start


def given_boxes(predictor: OnnxPredictor, image: np.ndarray, count: int) -> dict[str, list]:
    """Random boxes, and classes, where the model takes them."""
    rng = np.random.default_rng(0)
    height, width = image.shape[:2]
    corners = np.sort(rng.random((count, 2, 2)), axis=1) * [width, height]
    objects = predictor.metadata["objects"]
    given = {"boxes": corners.reshape(count, 4).tolist()}
    given["labels"] = [objects[i] for i in rng.integers(0, len(objects), count)]
    names = {"boxes": "boxes", "labels": "classes"}
    return {key: value for key, value in given.items() if names[key] in predictor.input_names}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--model", required=True, type=Path, help="model.onnx of these weights")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1, help="of each of the two")
    parser.add_argument("--boxes", type=int, default=20, help="where the model takes boxes")
    parser.add_argument("--opts", nargs="+", default=[], help="KEY VALUE overrides of the config")
    parser.add_argument("pictures", nargs="+")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        exported = OnnxPredictor(args.model, threads=args.threads)
        model = Predictor(args.config_file, args.weights, [*args.opts, "MODEL.DEVICE", "cpu"])
        ratios = []
        for path in args.pictures:
            image = read_picture(path)
            given = given_boxes(exported, image, args.boxes)
            own, found = model(image, **given), exported(image, **given)  # also the warm-up
            same = own.to_dict()["relations"], found["relations"]
            named = [[(r["subject"], r["predicate"], r["object"]) for r in rows] for rows in same]
            agree = len(set(named[0]) & set(named[1]))
            times = [
                [seconds(predict, image, given) for predict in (model, exported)]
                for _ in range(args.repeats)
            ]
            eager, onnx = (statistics.median(column) for column in zip(*times, strict=True))
            ratios.append(eager / onnx)
            print(
                f"{path}: {len(found['entities'])} entities, {agree} of {len(named[0])} best "
                f"relations the same; model {1000 * eager:.0f} ms, ONNX {1000 * onnx:.0f} ms, "
                f"{ratios[-1]:.2f} times as fast"
            )
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"median over {len(ratios)} pictures: {statistics.median(ratios):.2f} times as fast")


if __name__ == "__main__":
    main()
