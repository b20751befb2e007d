"""A page on which people try the models with their own images, boxes and words.

    python tools/web_demo.py
    python tools/web_demo.py --model configs/relclip_sgdet.yaml output/relclip_sgdet/model_final.pth

Without --model: zero-shot UnionCLIP with the weights that ship, and what the quick start trained,
where it did. Needs Gradio: pip install gradio scikit-image
"""

import argparse
import importlib.util
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vrd_d2 import assets
from vrd_d2.commands.arguments import Parser
from vrd_d2.commands.run_tool import run_tool
from vrd_d2.demo.storage import Storage, working_folder
from vrd_d2.tasks import Task

if TYPE_CHECKING:
    from starlette.middleware import Middleware

    from vrd_d2.demo.answers import Example
    from vrd_d2.demo.models import DemoModel

CONFIGS = "configs/quickstart"
TRAINED = "output/quickstart"
SCENES_GENERATOR = "datasets/prepare_scenes.py"
# A name, or all below one; or an address, that of IPv6 with or without brackets.
HOST = re.compile(
    r"(\*\.)?[a-z0-9_.-]+|\[?[0-9a-f]*:[0-9a-f]*:[0-9a-f:.]*\]?", re.ASCII | re.IGNORECASE
)
PHOTOGRAPHS = ("astronaut.png", "coffee.png", "chelsea.png", "motorcycle_left.png")


def host_name(text: str) -> str:
    """Return the name of a host, for argparse."""
    if not HOST.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no name of a host: write it without https://, port and path, such as "
            "demo.example.org or *.example.org"
        )
    return text


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add(
        "--model",
        nargs=2,
        action="append",
        default=[],
        metavar=("CONFIG", "WEIGHTS"),
        help='may be repeated; "-" for a model without weights of its own',
    )
    add("--host", default="127.0.0.1", help="0.0.0.0 shows the page to the whole network")
    add("--port", type=int, default=7860)
    add(
        "--allow-host",
        type=host_name,
        action="append",
        default=[],
        metavar="NAME",
        help="a further name of the page, such as that of a proxy; may be repeated",
    )
    add("--share", action="store_true", help="a public link through Gradio's servers")
    add("--max-mb", type=int, default=20, help="largest upload (%(default)s)")
    add(
        "--max-total-mb",
        type=int,
        default=2000,
        help="all uploads and results of the last hour together (%(default)s)",
    )
    add("--max-pixels", type=float, default=50, help="largest image, million pixels (%(default)s)")
    parser.add_overrides(old_option="--opts")
    args = parser.parse_args(argv)
    for name in ("max_mb", "max_total_mb", "max_pixels"):
        if not 0 < getattr(args, name) < 1e6:
            parser.error(f"--{name.replace('_', '-')} is {getattr(args, name)}: more than 0")
    return args


def shipped_models(opts: Sequence[str]) -> "list[DemoModel]":
    """Return what needs no training, and what the quick start has trained."""
    from vrd_d2.demo.models import DemoModel

    trained = (assets.checkout() or Path()) / TRAINED
    models = [
        DemoModel(f"{CONFIGS}/relclip_{task.value}.yaml", file, opts, name="RelCLIP, quick start")
        for task in Task
        if (file := trained / task.value / "model_final.pth").is_file()
    ]
    zero_shot = f"{CONFIGS}/unionclip_zero_shot_sgdet.yaml"
    return models + [
        DemoModel(
            zero_shot,
            "",
            ["MODEL.RELATION.TASK", task.value, *opts],
            name="UnionCLIP, zero-shot",
        )
        for task in Task
    ]


def examples_in(folder: Path) -> "list[Example]":
    """Return drawn scenes with annotated boxes, and photographs; each only where it is installed.

    The scenes are drawn by a script of the checkout, the photographs are scikit-image's.
    """
    from vrd_d2.demo.answers import Example

    folder.mkdir(parents=True, exist_ok=True)
    root = assets.checkout()
    if root is None:
        print(f"no drawn scenes among the examples: {SCENES_GENERATOR} is in the checkout only")
        examples = []
    else:
        examples = drawn_scenes(root / SCENES_GENERATOR, folder)
    package = importlib.util.find_spec("skimage")
    for name in PHOTOGRAPHS if package else ():
        file = Path(package.origin).parent / "data" / name
        if file.is_file():
            examples.append(Example(Path(shutil.copy(file, folder)), []))
    return examples


def drawn_scenes(generator: Path, folder: Path) -> "list[Example]":
    """Draw scenes into a folder and return them with their boxes."""
    from vrd_d2.data.formats.relations_json import load_relations_json
    from vrd_d2.data.vocabulary import SCENES
    from vrd_d2.demo.answers import Example, table_rows
    from vrd_d2.inference.comparison import ground_truth_graph

    spec = importlib.util.spec_from_file_location("prepare_scenes", generator)
    scenes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scenes)
    scenes.prepare(folder, sizes={"train": 1, "val": 1, "test": 4}, workers=1)
    return [
        Example(Path(record["file_name"]), table_rows(ground_truth_graph(record, SCENES)))
        for record in load_relations_json(folder / "test.json")
    ]


def guard_of(args: argparse.Namespace, storage: Storage) -> "Middleware":
    """Return what refuses requests of other sites and too large ones, as the page takes it."""
    from starlette.middleware import Middleware

    from vrd_d2.demo.guard import Guard, Hosts

    # A public link has a name that Gradio's servers choose.
    hosts = Hosts(args.host, [*args.allow_host, *(["*.gradio.live"] if args.share else [])])
    return Middleware(Guard, hosts=hosts, storage=storage, max_upload=args.max_mb * 2**20)


def serve(args: argparse.Namespace, folder: Path) -> None:
    """Show the page until the process is stopped."""
    # Read when Gradio is imported. Uploads go where they are removed at the end.
    storage = Storage(folder, args.max_total_mb * 10**6)
    os.environ["GRADIO_TEMP_DIR"] = str(storage.uploads)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_RUN_HISTORY"] = "False"  # kept by the browser, or by a server elsewhere
    os.environ["GRADIO_NUM_WORKERS"] = "0"  # processes that would take uploads past the guard
    try:
        import gradio
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ValueError("the demo needs Gradio: pip install gradio") from error
    from vrd_d2.demo.models import DemoModel
    from vrd_d2.demo.page import build_page

    models = [
        DemoModel(config, "" if weights == "-" else weights, args.opts)
        for config, weights in args.model
    ] or shipped_models(args.opts)
    examples = examples_in(folder / "examples")
    page = build_page(models, examples, storage, round(args.max_pixels * 1e6))
    with socket.socket() as port:
        # Connections of a demo that ended a minute ago do not block the port.
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            port.bind((args.host, args.port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(
                f"port {args.port} of {args.host} cannot be had ({reason}): choose another "
                "with --port, or --host"
            ) from error
    shown = "127.0.0.1" if args.host == "0.0.0.0" else args.host
    print(f"http://{shown}:{args.port} as soon as it is loaded; Ctrl+C ends it", flush=True)
    page.launch(
        app_kwargs={"middleware": [guard_of(args, storage)]},
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


def run(args: argparse.Namespace) -> None:
    """Serve the page out of a folder that is removed at the end."""
    # As an exception, so that the folder goes.
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) != signal.SIG_IGN:  # as nohup wants it
            signal.signal(number, lambda *_: sys.exit(0))
    with working_folder() as folder:
        serve(args, folder)


def main(argv: Sequence[str] | None = None) -> int:
    """Show the demo; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(run, arguments)
