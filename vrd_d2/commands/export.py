"""Export a trained detector or RelCLIP as ONNX, torch.export program or TorchScript.

    python tools/export_model.py --weights output/quickstart/sgdet/model_final.pth --what full \\
        --output output/exported

The folder gets the model, metadata.json, MODEL_CARD.md and, for ONNX, onnx_runtime.py, which runs
the model without torch and Detectron2:

    python output/exported/onnx_runtime.py output/exported/model.onnx image.jpg
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from vrd_d2.commands.arguments import Parser
from vrd_d2.commands.run_tool import run_tool
from vrd_d2.export.names import FILES, PARTS


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--config-file", default="", help="YAML; a .pth of a relation model has its config in it"
    )
    parser.add_argument("--weights", required=True, help="checkpoint")
    parser.add_argument("--format", choices=FILES, default="onnx")
    parser.add_argument(
        "--what",
        choices=PARTS,
        default="full",
        help="detector: image -> boxes; relations: image and boxes -> relations; full: image "
        "-> boxes and relations",
    )
    parser.add_argument("--output", required=True, type=Path, help="folder")
    parser.add_argument(
        "--results",
        nargs="+",
        type=Path,
        default=[],
        help="relations_<task>_<protocol>.json of the evaluator, for the model card",
    )
    parser.add_overrides(old_option="--opts")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Write the model and what goes with it."""
    from vrd_d2 import onnx_runtime
    from vrd_d2.config.loading import load_inference_config
    from vrd_d2.data.atomic_files import write_bytes, write_text
    from vrd_d2.engine.build import build_trained_model
    from vrd_d2.export import describe, exportable, model_card, write_model

    cfg = load_inference_config(args.config_file, args.weights, args.opts)
    cfg.MODEL.DEVICE, cfg.MODEL.VISUAL.FEATURE_CACHE = "cpu", ""
    module = exportable(build_trained_model(cfg), args.what)
    metadata = describe(cfg, module, what=args.what, file_format=args.format)
    name = FILES[args.format]
    card = model_card(cfg, metadata, file_name=name, results=args.results)
    write_model(module, args.output / name, file_format=args.format, metadata=metadata)
    write_text(args.output / "metadata.json", json.dumps(metadata, indent=1) + "\n")
    write_text(args.output / "MODEL_CARD.md", card)
    if args.format == "onnx":
        source = Path(onnx_runtime.__file__).read_bytes()
        write_bytes(args.output / "onnx_runtime.py", source)
    size = (args.output / name).stat().st_size / 2**20
    print(f"{args.output / name}: {size:.1f} MiB, {args.what}, task {metadata['task']}")


def main(argv: Sequence[str] | None = None) -> int:
    """Export; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(run, arguments)
