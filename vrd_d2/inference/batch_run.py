"""Many images predicted into a folder: what tools/predict.py does, whatever the model.

Needs neither torch nor Detectron2 where the model does not.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vrd_d2.data.images.saving import encode_image
from vrd_d2.inference.batch_folder import PredictionFolder, predictions_document
from vrd_d2.inference.batch_model import Model
from vrd_d2.inference.batch_records import HEAT_FILES, fit_name, json_text, printable, stem_of
from vrd_d2.inference.coco_boxes import GivenBoxes, load_given_boxes
from vrd_d2.media.images import read_image
from vrd_d2.media.search import find_media, is_video
from vrd_d2.media.video import BrokenFrame, read_frames
from vrd_d2.scene_graph import SceneGraph, check_patterns, draw_heat_map
from vrd_d2.visualization.html_page import GraphPage, graph_page


@dataclass(frozen=True)
class FileOptions:
    """Which files a run writes, and of which frames and sizes.

    Attributes:
        drawings: one each, with so many of the best relations; 0 for none.
        html: "pages" for one each, "one" for a single page of all, or "none".
        every: of a video, every n-th frame.
        max_pixels: larger images are refused.
        heat_maps: relations that get a heat map: the number of the best, or patterns as
            :meth:`~vrd_d2.scene_graph.SceneGraph.find` takes them.
        heat_method: see :mod:`vrd_d2.modeling.activation`.
        drawing_format: "png" or "jpg", which is a fraction as large.
    """

    drawings: int
    html: str
    every: int
    max_pixels: int
    heat_maps: int | Sequence[str] = 0
    heat_method: str = "grad_cam"
    drawing_format: str = "png"

    def settings(self) -> dict[str, Any]:
        """Return what a folder of results must have been written with."""
        settings = dict(vars(self))
        if self.drawing_format == "png":
            del settings["drawing_format"]  # as in folders of earlier versions
        return settings


@dataclass
class _Loaded:
    """An image that was read: its record so far, and its pixels."""

    record: dict[str, Any]
    image: np.ndarray


@dataclass
class _Answer:
    """What was predicted of an image."""

    graph: SceneGraph
    heat_maps: Mapping[int, np.ndarray] = field(default_factory=dict)


class PredictionRun:
    """The images that one process predicts.

    Args:
        model: what predicts.
        inputs: see :func:`~vrd_d2.media.search.find_media`.
        output: folder of the results.
        settings: what tells this model from others, as JSON can hold it.
        graph_options: of the model's call.
        files: what is written.
        boxes_file: COCO JSON with the user's boxes, or name of a registered dataset; or None.
        batch_size: images that go through the model at once.
        rank, shards: number of this process and of all.

    Attributes:
        done, skipped: numbers of images predicted, and of those predicted earlier.
        broken: reasons why others, or whole folders, could not be used.
        off_page: reasons why predicted images are not on the page of all.
        passed_over: number of files that are neither images nor videos by their suffix.

    Raises:
        ValueError: an input, the boxes or the folder cannot be used.
    """

    def __init__(
        self,
        model: Model,
        inputs: Sequence[str],
        output: Path,
        *,
        settings: Mapping[str, Any],
        graph_options: Mapping[str, Any],
        files: FileOptions,
        boxes_file: str | None = None,
        batch_size: int = 1,
        rank: int = 0,
        shards: int = 1,
    ) -> None:
        self.model, self.graph_options, self.files = model, graph_options, files
        self.batch_size, self.rank, self.shards = batch_size, rank, shards
        found = find_media(inputs, exclude=output)

        # What is asked for must suit the model.
        self.boxes: GivenBoxes | None = load_given_boxes(boxes_file) if boxes_file else None
        if model.needs_boxes and self.boxes is None:
            raise ValueError("this model finds no boxes: give it some with --boxes")
        if self.boxes is not None and not model.takes_boxes:
            raise ValueError("this model takes no boxes: export 'relations' for one that does")
        if files.heat_maps and not model.explains:
            raise ValueError(
                "this model has no heat maps: they need the visual map of RelCLIP, and torch"
            )
        for predicate in graph_options.get("predicates") or ():
            model.vocabulary.predicate_id(predicate)
        if not isinstance(files.heat_maps, int):
            check_patterns(files.heat_maps)

        # The folder, which holds predictions of the same settings alone.
        settings = {
            **settings,
            "boxes": None if self.boxes is None else self.boxes.digest,
            "objects": model.vocabulary.objects,
            "predicate_names": model.vocabulary.predicates,
            **graph_options,
            **files.settings(),
        }
        self.folder = PredictionFolder(
            output, settings, shard=rank, shards=shards, vocabulary=model.vocabulary
        )
        self.passed_over = len(found.passed_over)
        self.sources = {self.folder.relative(path): path for path in found.files}
        self.names = self.folder.names(list(self.sources))
        if self.boxes is not None:
            self.boxes.check_names(map(str, found.files))
        self.done = self.skipped = 0
        self.broken: list[str] = found.unreadable if rank == 0 else []
        self.off_page: list[str] = []

    def work(self) -> None:
        """Predict the images of this process."""
        total, quiet = len(self.sources), self.rank > 0
        # Closed by an error as well, which is then on a line of its own.
        with tqdm(total=total, desc="images", disable=quiet, unit="file") as bar:
            self._work(bar)
        self.folder.close()

    def _work(self, bar: tqdm) -> None:
        batch: list[_Loaded] = []
        for index, (source, path) in enumerate(self.sources.items()):
            mine = index % self.shards == self.rank
            for loaded in self._load(source, path, mine):
                batch.append(loaded)
                if len(batch) >= self.batch_size:
                    self._predict(batch)
                    batch = []
                    # A video is one file, and may take hours.
                    bar.set_postfix_str(f"{self.done} predicted, {len(self.broken)} not used")
            bar.update()
        self._predict(batch)

    def _load(self, source: str, path: Path, mine: bool) -> Iterator[_Loaded]:
        """Read what is to be predicted of a file; a file that cannot be read is noted."""
        record = {"name": self.names[source], "stamp": self.folder.stamp(path)}
        try:
            if is_video(path):
                yield from self._frames(source, path, record)
            elif mine and self.folder.is_done(source):
                self.skipped += 1
            elif mine:
                image, notes = read_image(path, max_pixels=self.files.max_pixels)
                yield _Loaded({"file_name": source, **record, "notes": notes}, image)
        except ValueError as error:
            # A video that cannot be opened fails in every process.
            if mine or isinstance(error, BrokenFrame):
                self._note_broken({"file_name": source, **record}, error)

    def _frames(self, source: str, path: Path, record: dict[str, Any]) -> Iterator[_Loaded]:
        frames = read_frames(
            path,
            every=self.files.every,
            shard=self.rank,
            shards=self.shards,
            max_pixels=self.files.max_pixels,
        )
        for frame in frames:
            if self.folder.is_done(source, frame.number):
                self.skipped += 1
                continue
            file_name = f"frames/{record['name']}/{frame.number:06d}.png"
            self.folder.write(file_name, encode_image(frame.image, "png"), sync=False)
            facts = {"video": source, "frame": frame.number, "seconds": round(frame.seconds, 3)}
            notes = [f"frame {frame.number} of {printable(path.name)}"]
            yield _Loaded({"file_name": file_name, **record, **facts, "notes": notes}, frame.image)

    def _predict(self, batch: Sequence[_Loaded]) -> None:
        for loaded, answer in zip(batch, self._answers(batch), strict=True):
            try:
                if isinstance(answer, Exception):
                    raise answer
                self._write(loaded, answer)
            except OSError:  # the disk is full, say: the next image would fare no better
                raise
            except Exception as error:
                self._note_broken(loaded.record, error)
            else:
                self.done += 1

    def _answers(self, batch: Sequence[_Loaded]) -> list[_Answer | Exception]:
        """Predict a batch; an error in one image does not affect the others."""
        try:
            boxes = labels = None
            if self.boxes is not None:
                given = [
                    self.boxes.of(loaded.record["file_name"], loaded.image.shape[1::-1])
                    for loaded in batch
                ]
                boxes, labels = (list(column) for column in zip(*given, strict=True))
            given = {"boxes": boxes, "labels": labels if self.model.needs_labels else None}
            images = [loaded.image for loaded in batch]
            if self.files.heat_maps:
                return [self._explained(i, image, given) for i, image in enumerate(images)]
            graphs = self.model(images, batch_size=len(batch), **given, **self.graph_options)
            return [_Answer(graph) for graph in graphs]
        # Also errors of torch: out of memory, or a size that no layer can take.
        except Exception as error:
            if len(batch) == 1:
                return [error]
            return [answer for loaded in batch for answer in self._answers([loaded])]

    def _explained(self, i: int, image: np.ndarray, given: Mapping[str, list | None]) -> _Answer:
        graph, heat_maps = self.model.explain(
            image,
            choose=self.files.heat_maps,
            method=self.files.heat_method,
            **{name: values and values[i] for name, values in given.items()},
            **self.graph_options,
        )
        return _Answer(graph, heat_maps)

    def _write(self, loaded: _Loaded, answer: _Answer) -> None:
        record, image, graph = loaded.record, loaded.image, answer.graph
        stem = stem_of(record)
        if self.files.drawings:
            record["drawing"] = f"drawings/{stem}.{self.files.drawing_format}"
            drawn = encode_image(
                graph.draw(image, top_k=self.files.drawings), self.files.drawing_format
            )
            self.folder.write(record["drawing"], drawn, sync=False)
        if self.files.heat_maps:
            record["heat_maps"] = [
                self._write_heat_map(stem, image, graph, relation, heat)
                for relation, heat in answer.heat_maps.items()
            ]
        if self.files.html == "pages":
            record["page"] = f"pages/{stem}.html"
            view = graph.view()
            page = GraphPage(view, image, _title(record), record["notes"], answer.heat_maps)
            self.folder.write(record["page"], graph_page([page]).encode(), sync=False)
        self.folder.add(record | graph.to_dict())

    def _write_heat_map(
        self, stem: str, image: np.ndarray, graph: SceneGraph, relation: int, heat: np.ndarray
    ) -> dict[str, Any]:
        name = fit_name(f"{relation + 1:02d} {' '.join(graph.triplets[relation])}")
        kinds = {"drawing": self.files.drawing_format, "map": "png"}
        files = {
            key: f"heat_maps/{stem}/{name}{end}.{kinds[key]}" for key, end in HEAT_FILES.items()
        }
        drawn = draw_heat_map(image, graph, relation, heat)
        self.folder.write(files["drawing"], encode_image(drawn, kinds["drawing"]), sync=False)
        values = np.rint(255 * heat).astype(np.uint8)
        self.folder.write(files["map"], encode_image(values, kinds["map"]), sync=False)
        return {"relation": relation, **files}

    def _note_broken(self, record: dict[str, Any], error: Exception) -> None:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        path = str(self.sources[record.get("video", record["file_name"])])
        self.broken.append(reason if path in reason else f"{path}: {reason}")
        self.folder.add({**record, "error": reason})

    def merge(self) -> str | None:
        """Write what needs all shards, and return it in words; None while one is not complete."""
        records = self.folder.records()
        if records is None:
            return None
        document = predictions_document(records, self.model.vocabulary)
        self.folder.write("predictions.json", json_text(document).encode())
        if self.files.html == "one":
            pages = self._pages(records)
            for first in pages:  # none, if no image is left
                page = graph_page(itertools.chain([first], pages))
                self.folder.write("index.html", page.encode())
        drawn = sum(len(record.get("heat_maps", [])) for record in records)
        with_heat = f" and {_count(drawn, 'heat map')}" if self.files.heat_maps else ""
        file = self.folder.path / "predictions.json"
        return f"{_count(len(document['images']), 'image')}{with_heat} in {file}"

    def _pages(self, records: Sequence[dict[str, Any]]) -> Iterator[GraphPage]:
        """Yield one page at a time, as all images at once may be more than the memory holds."""
        for record in records:
            if "error" not in record:
                try:
                    yield self._page(record)
                except ValueError as error:  # it was moved away
                    self.off_page.append(str(error))

    def _page(self, record: dict[str, Any]) -> GraphPage:
        heat_maps = {
            entry["relation"]: self._read(entry["map"])[..., 0] / 255
            for entry in record.get("heat_maps", [])
        }
        if "video" in record:
            image = self._read(record["file_name"])
        else:
            path = self.folder.path / record["file_name"]
            image, _ = read_image(path, max_pixels=self.files.max_pixels)
        view = SceneGraph.from_dict(record).view()
        return GraphPage(view, image, _title(record), record["notes"], heat_maps)

    def _read(self, name: str) -> np.ndarray:
        """Read an image that a run wrote into the folder."""
        if not self.folder.holds(name):
            raise ValueError(f"{self.folder.path / name} is no file of the results folder")
        return read_image(self.folder.path / name, max_pixels=self.files.max_pixels)[0]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _title(record: Mapping[str, Any]) -> str:
    name = printable(Path(record.get("video", record["file_name"])).name)
    return f"{name}, frame {record['frame']}" if "frame" in record else name
