"""A page on which people try the models with their own images, boxes and words.

    python tools/web_demo.py
    python tools/web_demo.py --model configs/relclip_sgdet.yaml output/relclip_sgdet/model_final.pth

Without --model: zero-shot UnionCLIP with the weights that ship, and what the quick start trained,
where it did. Needs Gradio: pip install gradio scikit-image
"""

import argparse
import importlib.util
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vrd_d2.data.formats.relations_json import load_relations_json
from vrd_d2.data.vocabulary import SCENES
from vrd_d2.demo.answers import Example, table_rows
from vrd_d2.demo.models import DemoModel
from vrd_d2.inference.comparison import ground_truth_graph
from vrd_d2.tasks import Task

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs/quickstart"
TRAINED = ROOT / "output/quickstart"
PHOTOGRAPHS = ("astronaut.png", "coffee.png", "chelsea.png", "motorcycle_left.png")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--model",
        nargs=2,
        action="append",
        default=[],
        metavar=("CONFIG", "WEIGHTS"),
        help='may be repeated; "-" for a model without weights of its own',
    )
    add("--opts", nargs="+", default=[], metavar="KEY VALUE", help="overrides of the configs")
    add("--host", default="127.0.0.1", help="0.0.0.0 shows the page to the whole network")
    add("--port", type=int, default=7860)
    add("--share", action="store_true", help="a public link through Gradio's servers")
    add("--max-mb", type=int, default=20, help="largest upload")
    add("--max-pixels", type=float, default=50, help="largest image, million pixels")
    return parser.parse_args()


def shipped_models(opts: Sequence[str]) -> list[DemoModel]:
    """What needs no training, and what the quick start has trained."""
    models = [
        DemoModel(CONFIGS / f"relclip_{task.value}.yaml", file, opts, name="RelCLIP, quick start")
        for task in Task
        if (file := TRAINED / task.value / "model_final.pth").is_file()
    ]
    zero_shot = CONFIGS / "unionclip_zero_shot_sgdet.yaml"
    return models + [
        DemoModel(
            zero_shot,
            "",
            ["MODEL.RELATION.TASK", task.value, *opts],
            name="UnionCLIP, zero-shot",
        )
        for task in Task
    ]


def examples_in(folder: Path) -> list[Example]:
    """Drawn scenes with their annotated boxes, and photographs of scikit-image if it is there."""
    spec = importlib.util.spec_from_file_location(
        "prepare_scenes", ROOT / "datasets/prepare_scenes.py"
    )
    scenes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scenes)
    scenes.prepare(folder, sizes={"train": 1, "val": 1, "test": 4}, workers=1)
    examples = []
    for record in load_relations_json(folder / "test.json"):
        rows = table_rows(ground_truth_graph(record, SCENES))
        examples.append(Example(Path(record["file_name"]), rows))
    package = importlib.util.find_spec("skimage")
    for name in PHOTOGRAPHS if package else ():
        file = Path(package.origin).parent / "data" / name
        if file.is_file():
            examples.append(Example(Path(shutil.copy(file, folder)), []))
    return examples


def serve(args: argparse.Namespace, folder: Path) -> None:
    """Show the page until the process is stopped."""
    # Read when Gradio is imported. Uploads go where they are removed at the end; nobody is told.
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ValueError("the demo needs Gradio: pip install gradio") from error
    from vrd_d2.demo.page import build_page

    models = [
        DemoModel(config, "" if weights == "-" else weights, args.opts)
        for config, weights in args.model
    ] or shipped_models(args.opts)
    examples = examples_in(folder / "examples")
    page = build_page(models, examples, folder, round(args.max_pixels * 1e6))
    with socket.socket() as port:
        # What a demo of a minute ago has left behind does not hold the port.
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            port.bind((args.host, args.port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(
                f"port {args.port} of {args.host} cannot be had ({reason}): choose another "
                "with --port"
            ) from error
    shown = "127.0.0.1" if args.host == "0.0.0.0" else args.host
    print(f"http://{shown}:{args.port} as soon as it is loaded; Ctrl+C ends it", flush=True)
    page.launch(
        server_name=args.host,
        server_port=args.port,
        share=args.share,
        quiet=not args.share,
        max_file_size=f"{args.max_mb}mb",
        footer_links=[],
        ssr_mode=False,
        # Gradio's own themes fetch their fonts.
        theme=gradio.themes.Soft(
            font=["system-ui", "DejaVu Sans", "sans-serif"],
            font_mono=["DejaVu Sans Mono", "monospace"],
        ),
    )


def main() -> int:
    """The exit code."""
    args = parse_arguments()
    # As an exception, so that the folder goes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="vrd_d2_demo_", ignore_cleanup_errors=True) as folder:
        try:
            serve(args, Path(folder))
        except (ValueError, OSError) as error:  # OSError: the port is taken
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0
