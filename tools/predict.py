#!/usr/bin/env python
"""Scene graphs of pictures, folders, patterns and videos: as JSON, drawn, and as HTML.

    python tools/predict.py photos street.jpg "more/**/*.png" clip.mp4 --output output/graphs \\
        --config-file configs/quickstart/relclip_sgdet.yaml \\
        --weights output/quickstart/sgdet/model_final.pth

The same command again goes on where it was stopped. Under torchrun each process takes its share:

    torchrun --nproc-per-node 2 tools/predict.py photos --output output/graphs ...

Exit code: 0, all is well; 2, some pictures could not be used, which are named; 1, none could, or
the command is wrong. (torchrun turns 2 into 1.)
"""

import argparse
import hashlib
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from vrd_d2.given_boxes import GivenBoxes, load_given_boxes
from vrd_d2.html_page import GraphPage, graph_page
from vrd_d2.media import MAX_PIXELS, BrokenFrame, find_media, is_video, read_frames, read_picture
from vrd_d2.prediction_folder import PredictionFolder, predictions_document
from vrd_d2.predictor import Predictor
from vrd_d2.scene_graph import SceneGraph

# What decides over the graphs, and what over their files.
GRAPH_OPTIONS = ("top_k", "min_score", "min_entity_score", "predicates", "max_overlap")
FILE_OPTIONS = ("every", "max_pixels", "html", "drawings")


class Parser(argparse.ArgumentParser):
    """2 is for pictures that could not be used; a wrong command exits with 1."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(1, f"error: {message}\n")


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="picture, video, folder or quoted pattern")
    add("--output", required=True, type=Path, help="folder of the results")
    add("--config-file", required=True)
    add("--weights", default="", help="checkpoint; none for a model without anything to train")
    add("--top-k", type=int, default=20, help="relations of a picture at most")
    add("--min-score", type=float, default=0.0, help="least score of a relation")
    add("--min-entity-score", type=float, default=0.0, help="least score of an object")
    add("--predicates", nargs="+", help='only these, such as riding "on top of"')
    add(
        "--max-overlap",
        type=float,
        default=0.7,
        help="of found objects that overlap by a larger IoU, only the best stays; 1 keeps all",
    )
    add("--boxes", help="COCO JSON with images, annotations and categories: boxes of your own")
    add("--every", type=int, default=30, help="of a video, take every n-th frame")
    add("--batch-size", type=int, default=1, help="pictures that go through the model at once")
    add(
        "--max-pixels",
        type=float,
        default=MAX_PIXELS / 1e6,
        help="refuse pictures with more million pixels",
    )
    add("--no-drawings", dest="drawings", action="store_false", help="write no PNG")
    add(
        "--html",
        choices=("pages", "one", "none"),
        default="pages",
        help="a page for each picture, one page with a picker for all, or none",
    )
    add("--opts", nargs="+", default=[], metavar="KEY VALUE", help="overrides of the config")
    args = parser.parse_args()
    for name in ("every", "batch_size", "top_k"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(args, name)}: 1 at least")
    return args


@dataclass
class Loaded:
    """A picture that was read: its record so far, and its pixels."""

    record: dict[str, Any]
    image: np.ndarray


class Run:
    """The share of one process."""

    def __init__(self, args: argparse.Namespace, rank: int, shards: int) -> None:
        self.args, self.rank, self.shards = args, rank, shards
        found = find_media(args.inputs, exclude=args.output)
        self.boxes: GivenBoxes | None = load_given_boxes(args.boxes) if args.boxes else None
        self.predictor = Predictor(args.config_file, args.weights, [*args.opts, *_device()])
        vocabulary = self.predictor.model.vocabulary
        if self.predictor.model.task.boxes_given and self.boxes is None:
            raise ValueError(
                f"the model's task is {self.predictor.model.task.value}, which needs --boxes"
            )
        for predicate in args.predicates or ():
            vocabulary.predicate_id(predicate)
        self.folder = PredictionFolder(args.output, self._settings(), shard=rank, shards=shards)
        self.passed_over = len(found.passed_over)
        self.sources = {self.folder.relative(path): path for path in found.files}
        self.names = self.folder.names(list(self.sources))
        self.done = self.skipped = 0
        self.broken: list[str] = []

    def _settings(self) -> dict[str, Any]:
        cfg = self.predictor.cfg.clone()
        cfg.defrost()
        # Neither changes a prediction: where the model is, and the path of what is hashed below.
        cfg.MODEL.DEVICE = cfg.MODEL.WEIGHTS = ""
        vocabulary = self.predictor.model.vocabulary
        return {
            "config": hashlib.sha256(cfg.dump().encode()).hexdigest(),
            "weights": (
                _sha256(self.args.weights)
                if os.path.isfile(self.args.weights)
                else (self.args.weights)
            ),
            "boxes": _sha256(self.args.boxes) if self.args.boxes else None,
            "objects": vocabulary.objects,
            "predicate_names": vocabulary.predicates,
            **{name: getattr(self.args, name) for name in GRAPH_OPTIONS + FILE_OPTIONS},
        }

    def work(self) -> None:
        batch: list[Loaded] = []
        bar = tqdm(total=len(self.sources), desc="pictures", disable=self.rank > 0, unit="file")
        for index, (source, path) in enumerate(self.sources.items()):
            mine = index % self.shards == self.rank
            for loaded in self._load(source, path, mine):
                batch.append(loaded)
                if len(batch) >= self.args.batch_size:
                    self._predict(batch)
                    batch = []
            bar.update()
        self._predict(batch)
        bar.close()
        self.folder.close()

    def _load(self, source: str, path: Path, mine: bool) -> Iterator[Loaded]:
        """What is to be predicted of a file; a file that cannot be read is noted."""
        record = {"name": self.names[source], "stamp": self.folder.stamp(path)}
        try:
            if is_video(path):
                yield from self._frames(source, path, record)
            elif mine and self.folder.is_done(source):
                self.skipped += 1
            elif mine:
                image, notes = read_picture(path, max_pixels=round(self.args.max_pixels * 1e6))
                yield Loaded({"file_name": source, **record, "notes": notes}, image)
        except ValueError as error:
            # That a video cannot be opened is met by every process.
            if mine or isinstance(error, BrokenFrame):
                self._note_broken({"file_name": source, **record}, error)

    def _frames(self, source: str, path: Path, record: dict[str, Any]) -> Iterator[Loaded]:
        frames = read_frames(path, every=self.args.every, shard=self.rank, shards=self.shards)
        for frame in frames:
            if self.folder.is_done(source, frame.number):
                self.skipped += 1
                continue
            file_name = f"frames/{record['name']}/{frame.number:06d}.png"
            self.folder.write(file_name, _png(frame.image))
            facts = {"video": source, "frame": frame.number, "seconds": round(frame.seconds, 3)}
            notes = [f"frame {frame.number} of {path.name}"]
            yield Loaded({"file_name": file_name, **record, **facts, "notes": notes}, frame.image)

    def _predict(self, batch: Sequence[Loaded]) -> None:
        for loaded, graph in zip(batch, self._graphs(batch), strict=True):
            if isinstance(graph, Exception):
                self._note_broken(loaded.record, graph)
            else:
                self._write(loaded, graph)
                self.done += 1

    def _graphs(self, batch: Sequence[Loaded]) -> list[SceneGraph | Exception]:
        """A graph each; what one picture breaks does not touch the others."""
        try:
            given = [self._given(loaded) for loaded in batch]
            return self.predictor(
                [loaded.image for loaded in batch],
                boxes=None if self.boxes is None else [boxes for boxes, _ in given],
                labels=(
                    [labels for _, labels in given]
                    if self.boxes is not None and self.predictor.model.needs_classes
                    else None
                ),
                batch_size=len(batch),
                **{name: getattr(self.args, name) for name in GRAPH_OPTIONS},
            )
        # Also what is out of memory, or a size that no layer can take.
        except Exception as error:
            if len(batch) == 1:
                return [error]
            return [graph for loaded in batch for graph in self._graphs([loaded])]

    def _given(self, loaded: Loaded) -> tuple[list, list]:
        return ([], []) if self.boxes is None else self.boxes.of(loaded.record["file_name"])

    def _write(self, loaded: Loaded, graph: SceneGraph) -> None:
        record, image = loaded.record, loaded.image
        stem = record["name"] + (f"/{record['frame']:06d}" if "frame" in record else "")
        if self.args.drawings:
            record["drawing"] = f"drawings/{stem}.png"
            self.folder.write(record["drawing"], _png(graph.draw(image)))
        if self.args.html == "pages":
            record["page"] = f"pages/{stem}.html"
            page = GraphPage(graph, image, _title(record), record["notes"])
            self.folder.write(record["page"], graph_page([page]).encode())
        self.folder.add(record | graph.to_dict())

    def _note_broken(self, record: dict[str, Any], error: Exception) -> None:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        path = str(self.sources[record.get("video", record["file_name"])])
        self.broken.append(reason if path in reason else f"{path}: {reason}")
        self.folder.add({**record, "error": reason})

    def merge(self) -> str | None:
        """Write what needs all shards; None while one is not complete."""
        records = self.folder.records()
        if records is None:
            return None
        document = predictions_document(records, self.predictor.model.vocabulary)
        text = json.dumps(document, ensure_ascii=False, allow_nan=False)
        self.folder.write("predictions.json", text.encode())
        if self.args.html == "one":
            pages = [self._page(record) for record in records if "error" not in record]
            if pages:
                name = f"{len(pages)} pictures" if len(pages) > 1 else pages[0].title
                self.folder.write("index.html", graph_page(pages, title=name).encode())
        return f"{len(document['images'])} pictures in {self.folder.path / 'predictions.json'}"

    def _page(self, record: dict[str, Any]) -> GraphPage:
        path = self.folder.path / record["file_name"]
        image, _ = read_picture(path, max_pixels=round(self.args.max_pixels * 1e6))
        return GraphPage(SceneGraph.from_dict(record), image, _title(record), record["notes"])


def _title(record: dict[str, Any]) -> str:
    name = Path(record.get("video", record["file_name"])).name
    return f"{name}, frame {record['frame']}" if "frame" in record else name


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _device() -> list[str]:
    """The GPU of this process, where torchrun started several and there are some."""
    if "LOCAL_RANK" not in os.environ or not torch.cuda.is_available():
        return []
    return ["MODEL.DEVICE", f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"]


def _sum_over_processes(values: list[int]) -> list[int]:
    """Totals, once all are done: torchrun ends the others as soon as one exits with an error."""
    torch.distributed.init_process_group("gloo", timeout=timedelta(days=7))
    total = torch.tensor(values)
    torch.distributed.all_reduce(total)
    torch.distributed.destroy_process_group()
    return total.tolist()


def predict(args: argparse.Namespace) -> int:
    """Predict, report and merge; the exit code."""
    rank, shards = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    run = Run(args, rank, shards)
    run.work()
    for reason in run.broken:
        print(f"not used: {reason}", file=sys.stderr)
    counts = [run.done, run.skipped, len(run.broken)]
    together = shards > 1 and "MASTER_ADDR" in os.environ
    if together:
        counts = _sum_over_processes(counts)
    if rank == 0 or not together:
        merged = run.merge()
        passed_over = f", {run.passed_over} other files passed over" if run.passed_over else ""
        print(
            f"{counts[0]} predicted, {counts[1]} already there, {counts[2]} not used{passed_over}; "
            + (merged or "predictions.json follows with the last shard")
        )
    if not counts[2]:
        return 0
    return 2 if counts[0] + counts[1] else 1


def main() -> int:
    """The exit code."""
    args = parse_arguments()
    try:
        return predict(args)
    except (ValueError, OSError) as error:  # OSError: the results cannot be written
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
