"""Predict scene graphs of images, folders, patterns and videos: as JSON, drawn, and as HTML.

    python tools/predict.py photos street.jpg "more/**/*.png" clip.mp4 --output output/graphs \\
        --weights output/quickstart/sgdet/model_final.pth MODEL.DEVICE cpu

An exported model needs onnxruntime, and neither torch nor Detectron2:

    python tools/predict.py photos --output output/graphs --model output/exported/model.onnx

The same command again goes on where it was stopped. Under torchrun each process takes its share:

    torchrun --nproc-per-node 2 tools/predict.py photos --output output/graphs ...

Exit code: 0, all is well; 2, some images could not be used, which are named; 1, none could, or
the command is wrong; 130, stopped with Ctrl-C. (torchrun turns 2 into 1.)
"""

import argparse
import contextlib
import hashlib
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrd_d2 import missing_package
from vrd_d2.commands.arguments import Parser
from vrd_d2.commands.run_tool import run_tool
from vrd_d2.media.images import MAX_PIXELS

if TYPE_CHECKING:
    from vrd_d2.inference.batch_model import Model
    from vrd_d2.inference.batch_run import PredictionRun

GRAPH_OPTIONS = ("top_k", "min_score", "min_entity_score", "predicates", "max_overlap")


def finite(text: str) -> float:
    """Return a number, for argparse."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is no number to compare with")
    return value


def number(text: str) -> float:
    """Return a number that is not negative, for argparse."""
    value = finite(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return value


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="image, video, folder or quoted pattern")
    add("--output", required=True, type=Path, help="folder of the results")
    add("--weights", default="", help="checkpoint; none for a model without anything to train")
    model = parser.add_mutually_exclusive_group()
    model.add_argument(
        "--config-file",
        default="",
        help="YAML of the model; a .pth of this project has its own in it",
    )
    model.add_argument(
        "--model", help="an .onnx file of tools/export_model.py, instead of the other two"
    )
    add("--top-k", type=int, default=20, help="relations of an image at most (%(default)s)")
    add(
        "--min-score",
        type=finite,  # models that rank by logits have negative ones
        default=0.0,
        help="least score of a relation (%(default)s)",
    )
    add(
        "--min-entity-score",
        type=number,
        default=0.0,
        help="least score of an object (%(default)s)",
    )
    add("--predicates", nargs="+", help='only these, such as riding "sitting on"')
    add(
        "--max-overlap",
        type=number,
        default=0.7,
        help="of found objects that overlap by a larger IoU, only the best stays; 1: all stay "
        "(%(default)s)",
    )
    add(
        "--boxes",
        help="COCO JSON with images, annotations and categories, or name of a registered dataset: "
        "boxes to use in place of the detector's, for images of the same file name",
    )
    add("--every", type=int, default=30, help="of a video, take every n-th frame (%(default)s)")
    add(
        "--batch-size",
        type=int,
        default=1,
        help="images that go through the model at once (%(default)s)",
    )
    add(
        "--max-pixels",
        type=number,
        default=MAX_PIXELS / 1e6,
        help="refuse images with more million pixels (%(default)g)",
    )
    drawings = parser.add_mutually_exclusive_group()
    drawings.add_argument(
        "--drawn",
        type=int,
        default=12,
        metavar="N",
        help="relations in a drawing, the best (%(default)s)",
    )
    drawings.add_argument(
        "--no-drawings", dest="drawn", action="store_const", const=0, help="write no drawings"
    )
    add(
        "--drawing-format",
        choices=("png", "jpg"),
        default="png",
        help="of drawings; JPEG takes a fraction of the room (%(default)s)",
    )
    add(
        "--html",
        choices=("pages", "one", "none"),
        default="pages",
        help="a page for each image, one page with a picker for all, or none (%(default)s)",
    )
    add(
        "--heat-maps",
        nargs="+",
        default=[],
        metavar="WHAT",
        help="where relations show (Grad-CAM): of the best N of an image, or of all that match "
        '"man riding horse" or "* on *"',
    )
    add(
        "--heat-method",
        choices=("grad_cam", "elementwise"),
        default="grad_cam",
        help="(%(default)s)",
    )
    parser.add_overrides(after="inputs", old_option="--opts")
    args = parser.parse_args(argv)
    for name in ("every", "batch_size", "top_k"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(args, name)}: 1 at least")
    if not (args.config_file or args.weights or args.model):
        parser.error("no model: give --weights, --config-file and --weights, or --model")
    if args.drawn < 0:
        parser.error(f"--drawn is {args.drawn}: 1 at least, or --no-drawings")
    if args.model and (args.weights or args.opts):
        parser.error("--weights and overrides belong to --config-file: --model is complete")
    if len(args.heat_maps) == 1 and args.heat_maps[0].isdecimal():
        args.heat_maps = int(args.heat_maps[0])
    return args


def open_model(args: argparse.Namespace) -> "tuple[Model, dict[str, Any]]":
    """Return the model, and settings that identify it."""
    if args.model:
        from vrd_d2.inference.batch_model import ExportedModel

        model = ExportedModel(args.model)
        return model, {"model": _sha256(args.model)}
    try:
        from vrd_d2 import Predictor  # here, as it needs torch and Detectron2
        from vrd_d2.config.fingerprint import config_fingerprint
    except ImportError as error:
        if missing_package(error) is None:
            raise
        text = f"{error}\nor use an exported model: --model model.onnx"
        raise ImportError(text, name=error.name) from error

    predictor = Predictor(args.config_file, args.weights, [*args.opts, *_device()])
    cfg = predictor.cfg.clone()
    cfg.defrost()
    weights = cfg.MODEL.WEIGHTS
    # Neither changes a prediction: where the model is, and the path of what is hashed below.
    cfg.MODEL.DEVICE = cfg.MODEL.WEIGHTS = ""
    return predictor, {
        "config": config_fingerprint(cfg),
        "weights": _sha256(weights) if os.path.isfile(weights) else weights,
    }


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _device() -> list[str]:
    """Return the override for the GPU of this process, if torchrun started several."""
    import torch

    if "LOCAL_RANK" not in os.environ or not torch.cuda.is_available():
        return []
    return ["MODEL.DEVICE", f"cuda:{_environment('LOCAL_RANK', 0) % torch.cuda.device_count()}"]


def _environment(name: str, default: int) -> int:
    """Return the number that torchrun, or a user in its place, has put into the environment."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise ValueError(f"the variable {name} is {text!r}: it must be a whole number from 0")
    return int(text)


@contextlib.contextmanager
def _all_processes(together: bool) -> Iterator[Callable[[list[int]], list[int]]]:
    """Yield a sum over processes, and wait at the end until all have come to it.

    torchrun ends the others as soon as one exits with an error, be it in the middle of the merge.
    """
    if not together:
        yield lambda values: values
        return
    import torch

    def total(values: list[int]) -> list[int]:
        values = torch.tensor(values)
        torch.distributed.all_reduce(values)
        return values.tolist()

    torch.distributed.init_process_group("gloo", timeout=timedelta(days=7))
    yield total
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def report(run: "PredictionRun", counts: list[int]) -> None:
    """Put the shards together, if they are complete, and print what was done."""
    from vrd_d2.inference.batch_records import printable

    merged = run.merge()
    for reason in run.off_page:
        print(f"not in index.html: {printable(reason)}", file=sys.stderr)
    passed_over = f", {run.passed_over} other files passed over" if run.passed_over else ""
    print(
        f"{counts[0]} predicted, {counts[1]} already there, {counts[2]} not used{passed_over}; "
        + printable(merged or "predictions.json follows with the last shard")
    )


def predict(args: argparse.Namespace) -> int:
    """Predict, report and merge; return the exit code."""
    from vrd_d2.inference.batch_records import printable
    from vrd_d2.inference.batch_run import FileOptions, PredictionRun

    rank, shards = _environment("RANK", 0), _environment("WORLD_SIZE", 1)
    model, settings = open_model(args)
    run = PredictionRun(
        model,
        args.inputs,
        args.output,
        settings=settings,
        graph_options={name: getattr(args, name) for name in GRAPH_OPTIONS},
        files=FileOptions(
            drawings=args.drawn,
            html=args.html,
            every=args.every,
            max_pixels=round(args.max_pixels * 1e6),
            heat_maps=args.heat_maps,
            heat_method=args.heat_method,
            drawing_format=args.drawing_format,
        ),
        boxes_file=args.boxes,
        batch_size=args.batch_size,
        rank=rank,
        shards=shards,
    )
    run.work()
    for reason in run.broken:
        print(f"not used: {printable(reason)}", file=sys.stderr)
    counts = [run.done, run.skipped, len(run.broken)]
    together = shards > 1 and "MASTER_ADDR" in os.environ
    with _all_processes(together) as total:
        counts = total(counts)
        if rank == 0 or not together:
            report(run, counts)
    if not counts[2]:
        return 0
    return 2 if counts[0] + counts[1] else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Predict; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(predict, arguments, stopped="stopped; the same command goes on from here")
