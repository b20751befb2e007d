"""A folder of predictions that a later run can continue, and that several processes can fill.

    settings.json                        what the predictions were made with
    predictions-00000-of-00001.jsonl     a line for each image of one process; .part until the end
    predictions.json                     all of them as relations_json, which is COCO and relations
    drawings/, pages/, frames/, heat_maps/    what belongs to an image; its line names the files

An image is done when its line is written, which is after everything else of it.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from vrd_d2.data.atomic_files import write_bytes
from vrd_d2.data.source_files import parse_json
from vrd_d2.data.vocabulary import Vocabulary
from vrd_d2.inference.batch_records import (
    Record,
    RecordReader,
    fit_name,
    json_text,
    key_of,
    open_plain,
    own_files,
    source_of,
)

# Of what belongs to an image.
_PARTS = ("drawings", "pages", "frames", "heat_maps")
logger = logging.getLogger(__name__)


class PredictionFolder:
    """Results of one process.

    Nothing is written but in the folder, whatever names and links are found in it.

    Args:
        path: of the folder; it is made.
        settings: what the predictions depend on, as JSON can hold it.
        shard, shards: number of this process and of all.
        vocabulary: names of `objects` and `predicates` that records may have; None allows any.

    Raises:
        ValueError: the folder cannot be written, holds something else, or predictions made with
            other settings, or links in place of its parts, or another run is writing them.
    """

    def __init__(
        self,
        path: str | Path,
        settings: Mapping[str, Any],
        *,
        shard: int = 0,
        shards: int = 1,
        vocabulary: Any = None,
    ):
        if not 0 <= shard < shards:
            raise ValueError(
                f"this is process {shard} of {shards}: count from 0 (RANK and WORLD_SIZE)"
            )
        # Without links, or the way from it to an image would be another than it seems.
        self.path = Path(os.path.realpath(path))
        self.shard, self.shards, self._vocabulary = shard, shards, vocabulary
        self._check_settings(json.loads(json.dumps({**settings, "shards": shards})))
        for part in _PARTS:
            self._own(f"{part}/file")
        self._lock = self._locked()

        # Earlier results of all processes. Images retain the names of their files.
        reader = RecordReader(vocabulary)
        present = [list(self._read(reader, number, number == shard)) for number in range(shards)]
        odd = reader.oddities()
        if odd is not None:
            logger.warning("%s: %s; their images are predicted again", self.path, odd)
        self._names = {source_of(r): r["name"] for records in present for r in records}
        intact = [record for record in present.pop(shard) if self._is_intact(record)]
        self._done = {key_of(record) for record in intact}
        # With new images among them, this process gets some that another has done.
        self._elsewhere = {key_of(record): record for records in present for record in records}

        # The journal begins with the lines of this process that still hold.
        unfinished = self._file(shard, ".part")
        lines = "".join(f"{json_text(record)}\n" for record in intact)
        self.write(unfinished.name, lines.encode())
        self._file(shard).unlink(missing_ok=True)
        self._journal = open_plain(unfinished, os.O_WRONLY | os.O_APPEND)

    def _check_settings(self, settings: dict[str, Any]) -> None:
        file = self.path / "settings.json"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            known = os.path.lexists(file)
            other = any(not path.name.startswith(".") for path in self.path.iterdir())
            if not known and not other:
                # Of several processes that begin at once, each writes the same.
                self.write(file.name, json.dumps(settings, indent=1).encode())
            known = os.path.lexists(file)  # it may also have come between the two looks
            text = b""
            if known:
                with open_plain(file) as handle:
                    text = handle.read()
        except OSError as error:
            raise ValueError(
                f"the output folder {self.path} cannot be used ({error.strerror}): choose another"
            ) from error
        if not known:
            raise ValueError(
                f"{self.path} holds other things than predictions: choose a new folder"
            )
        try:
            present = parse_json(text)
            if type(present) is not dict:
                raise ValueError("it is no object")
        except ValueError as error:
            raise ValueError(
                f"{file} is broken ({error}): choose another output folder, or delete this one"
            ) from error
        differing = [
            key for key in {**present, **settings} if present.get(key) != settings.get(key)
        ]
        if differing:
            key = differing[0]
            raise ValueError(
                f"{self.path} holds predictions made with other settings ({', '.join(differing)}; "
                f"{key} was {_some(present.get(key))}, is {_some(settings.get(key))}): choose "
                "another output folder, or delete this one"
            )

    def _locked(self) -> IO[bytes]:
        """Lock this shard, a byte of the file, against a second run as long as it is open."""
        handle = open_plain(self.path / ".lock", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            import fcntl

            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self.shard)
        except BlockingIOError as error:
            raise ValueError(
                f"another run is writing to {self.path}: wait for it, or choose another folder"
            ) from error
        except (ImportError, OSError):  # not on Windows, nor on every network's file system
            pass
        return handle

    def _file(self, shard: int, suffix: str = "") -> Path:
        return self.path / f"predictions-{shard:05d}-of-{self.shards:05d}.jsonl{suffix}"

    def _read(self, reader: RecordReader, shard: int, tell: bool) -> Iterator[Record]:
        """Read the records of a shard, the later of two about the same image."""
        records: dict[tuple, Record] = {}
        for file in (self._file(shard), self._file(shard, ".part")):
            records |= {key_of(record): record for record in reader.read(file, tell=tell)}
        yield from records.values()

    def _is_intact(self, record: Mapping[str, Any]) -> bool:
        """Return whether an image did not change and its files exist, so that it is done."""
        if "error" in record:
            return False
        # An image that was moved away cannot be predicted again: its results remain.
        if self.stamp(self.path / source_of(record)) not in (None, record["stamp"]):
            return False
        return all(self.holds(file) for file in own_files(record))

    def holds(self, name: str) -> bool:
        """Return whether the folder has this file, not empty, and not behind a link."""
        try:
            file = self._own(name)
            return not file.is_symlink() and file.is_file() and file.stat().st_size > 0
        except (OSError, ValueError):
            return False

    def _own(self, name: str) -> Path:
        """Return the path of a file of the folder.

        Raises:
            ValueError: it lies elsewhere, be it by its name or by a link of a folder.
        """
        file = self.path / name
        inside = file.is_relative_to(self.path) and ".." not in file.parts and "\0" not in name
        if not inside or file.relative_to(self.path).as_posix() != name:
            raise ValueError(f"{name!r} is no name of a file in {self.path}")
        if os.path.realpath(file.parent) != str(file.parent):
            raise ValueError(
                f"{file.parent} leads out of its place by a link: remove the link, or choose "
                "another output folder"
            )
        return file

    @staticmethod
    def stamp(path: Path) -> list[int] | None:
        """Return size and time of a file, which change with its content. None for no file."""
        try:
            status = path.stat()
        except OSError:
            return None
        return [status.st_size, status.st_mtime_ns]

    def relative(self, path: str | Path) -> str:
        """Return the path as seen from the folder: so the records name their images."""
        try:
            return Path(os.path.relpath(path, self.path)).as_posix()
        except ValueError:  # another drive
            return Path(path).resolve().as_posix()

    def is_done(self, source: str, frame: int | None = None) -> bool:
        """Return whether the image, or this frame of the video, needs nothing more."""
        key = (source, frame)
        return key in self._done or (
            key in self._elsewhere and self._is_intact(self._elsewhere[key])
        )

    def names(self, sources: Sequence[str]) -> dict[str, str]:
        """Name the files of each source as the source, no two alike, the same in later runs.

        Args:
            sources: as :meth:`relative` gives them, in an order that every process shares.
        """
        names = {source: self._names[source] for source in sources if source in self._names}
        taken = {name.casefold() for name in self._names.values()}
        last: dict[str, int] = {}  # number of each stem
        for source in sources:
            if source in names:
                continue
            stem = fit_name(Path(source).stem)
            number = last.get(stem.casefold(), 1)
            name = stem if number == 1 else f"{stem}-{number}"
            while name.casefold() in taken:
                number += 1
                name = f"{stem}-{number}"
            last[stem.casefold()] = number
            taken.add(name.casefold())
            names[source] = name
        return names

    def write(self, name: str, content: bytes, *, sync: bool = True) -> None:
        """Write a file of the folder; it appears when it is complete.

        Args:
            name: its path below the folder.
            content: of the file.
            sync: wait until the disk has it. What a power cut leaves empty is made again.

        Raises:
            ValueError: it would be written elsewhere.
        """
        file = self._own(name)
        if file.is_symlink():  # one to a pipe or a device would be followed
            file.unlink()
        write_bytes(file, content, sync=sync)

    def add(self, record: Mapping[str, Any]) -> None:
        """Write the line of an image, the last thing to be written of it."""
        line = memoryview(f"{json_text(record)}\n".encode())
        while line:  # a full disk takes a part, and raises at the next
            line = line[self._journal.write(line) :]

    def close(self) -> None:
        """Declare the shard complete."""
        self._journal.close()
        self._file(self.shard, ".part").replace(self._file(self.shard))
        self._lock.close()

    def records(self) -> list[Record] | None:
        """Return all shards' records by image and frame; None while one is not complete."""
        if not all(self._file(shard).is_file() for shard in range(self.shards)):
            return None
        reader = RecordReader(self._vocabulary)
        records: dict[tuple, Record] = {}
        for shard in range(self.shards):
            for record in self._read(reader, shard, True):
                if "error" not in record or key_of(record) not in records:
                    records[key_of(record)] = record
        odd = reader.oddities()
        if odd is not None:
            logger.warning("%s: %s; the same command predicts their images again", self.path, odd)
        # The record of a video that cannot be opened has no frame and comes first.
        order = sorted(records, key=lambda key: (key[0], -1 if key[1] is None else key[1]))
        return [records[key] for key in order]


def predictions_document(
    records: Sequence[Mapping[str, Any]], vocabulary: Vocabulary
) -> dict[str, Any]:
    """Return records as relations_json: COCO instances with relations, each with its score.

    Images that could not be read are left out. Ids count from 1.
    """
    category = {name: number for number, name in enumerate(vocabulary.objects, 1)}
    predicate = {name: number for number, name in enumerate(vocabulary.predicates, 1)}
    images, annotations, relations = [], [], []
    for record in records:
        if "error" in record:
            continue
        image_id = len(images) + 1
        keys = ("file_name", "width", "height", "video", "frame", "seconds")
        images.append({"id": image_id} | {key: record[key] for key in keys if key in record})
        first = len(annotations) + 1
        for entity in record["entities"]:
            x, y, width, height = entity["bbox"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category[entity["label"]],
                    "bbox": [x, y, width, height],
                    "area": round(width * height, 2),
                    "iscrowd": 0,
                    "score": entity["score"],
                }
            )
        for relation in record["relations"]:
            relations.append(
                {
                    "id": len(relations) + 1,
                    "image_id": image_id,
                    "subject_id": first + relation["subject"],
                    "object_id": first + relation["object"],
                    "predicate_id": predicate[relation["predicate"]],
                    "score": relation["score"],
                }
            )
    return {
        "info": {"description": "predictions of vrd_d2 as relations_json"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in category.items()],
        "predicates": [{"id": number, "name": name} for name, number in predicate.items()],
        "relations": relations,
    }


def _some(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
