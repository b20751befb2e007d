"""Export a trained detector or RelCLIP as ONNX, torch.export program or TorchScript.

    python tools/export_model.py --weights output/quickstart/sgdet/model_final.pth --what full \\
        --output output/exported

The folder gets the model, metadata.json, MODEL_CARD.md and, for ONNX, onnx_runtime.py, which runs
the model without torch and Detectron2:

    python output/exported/onnx_runtime.py output/exported/model.onnx image.jpg
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from vrd_d2 import onnx_runtime
from vrd_d2.config.loading import load_inference_config
from vrd_d2.engine.build import build_trained_model
from vrd_d2.export import FILES, PARTS, describe, exportable, model_card, write_model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config-file", default="", help="YAML; a relation model's .pth brings its own along"
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
    parser.add_argument("--opts", nargs="+", default=[], help="KEY VALUE overrides of the config")
    args = parser.parse_args()
    fixed = ["MODEL.DEVICE", "cpu", "MODEL.VISUAL.FEATURE_CACHE", ""]
    try:
        cfg = load_inference_config(args.config_file, args.weights, [*args.opts, *fixed])
        module = exportable(build_trained_model(cfg), args.what)
        metadata = describe(cfg, module, what=args.what, file_format=args.format)
        name = FILES[args.format]
        card = model_card(cfg, metadata, file_name=name, results=args.results)
        args.output.mkdir(parents=True, exist_ok=True)
        write_model(module, args.output / name, file_format=args.format, metadata=metadata)
    except ValueError as error:
        sys.exit(f"error: {error}")
    (args.output / "metadata.json").write_text(json.dumps(metadata, indent=1) + "\n")
    (args.output / "MODEL_CARD.md").write_text(card)
    if args.format == "onnx":
        shutil.copy(onnx_runtime.__file__, args.output / "onnx_runtime.py")
    size = (args.output / name).stat().st_size / 2**20
    print(f"{args.output / name}: {size:.1f} MiB, {args.what}, task {metadata['task']}")
