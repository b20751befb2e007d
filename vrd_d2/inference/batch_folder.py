"""A folder of predictions that a later run can continue, and that several processes can fill.

    settings.json                        what the predictions were made with
    predictions-00000-of-00001.jsonl     a line for each image of one process; .part until the end
    predictions.json                     all of them as relations_json, which is COCO and relations
    drawings/, pages/, frames/, heat_maps/    what belongs to an image; its line names the files

An image is done when its line is written, which is after everything else of it.
"""

import contextlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from vrd_d2.data.vocabulary import Vocabulary

# What a file system refuses, and what reverses the direction of writing.
_UNFIT = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]')
# What some readers take for the end of a line; and bytes of a name that are no text.
_ESCAPED = re.compile("[\x85\u2028\u2029\ud800-\udfff]")
# What moves a terminal's cursor.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_LONGEST_NAME = 50  # characters, of four bytes at most


def fit_name(text: str) -> str:
    """Turn a text into the name of a file on any system: short, without separators."""
    return _UNFIT.sub("_", text)[:_LONGEST_NAME].strip(". ") or "image"


def printable(text: str) -> str:
    """Put a text on one line, with escapes for invisible characters."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def json_text(content: Any) -> str:
    """Write JSON on one line, any string of Python in it; Unicode stays readable."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class PredictionFolder:
    """Results of one process.

    Args:
        path: of the folder; it is made.
        settings: what the predictions depend on, as JSON can hold it.
        shard, shards: number of this process and of all.

    Raises:
        ValueError: the folder cannot be written, holds something else, or predictions made with
            other settings, or another run is writing them.
    """

    def __init__(
        self, path: str | Path, settings: Mapping[str, Any], *, shard: int = 0, shards: int = 1
    ):
        # Without links, or the way from it to an image would be another than it seems.
        self.path = Path(os.path.realpath(path))
        self.shard, self.shards = shard, shards
        self._check_settings(json.loads(json.dumps({**settings, "shards": shards})))
        self._lock = self._locked()

        # Earlier results of all processes. Images retain the names of their files.
        present = [list(self._read(number)) for number in range(shards)]
        self._names = {
            _source(record): record["name"]
            for records in present
            for record in records
            if "name" in record
        }
        intact = [record for record in present.pop(shard) if self._is_intact(record)]
        self._done = {_key(record) for record in intact}
        # With new images among them, this process gets some that another has done.
        self._elsewhere = {_key(record): record for records in present for record in records}

        # The journal begins with the lines of this process that still hold.
        unfinished = self._file(shard, ".part")
        lines = "".join(f"{json_text(record)}\n" for record in intact)
        self.write(unfinished.name, lines.encode())
        self._file(shard).unlink(missing_ok=True)
        self._journal = unfinished.open("a", encoding="utf-8")

    def _check_settings(self, settings: dict[str, Any]) -> None:
        file = self.path / "settings.json"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            known = file.exists()
            other = any(not path.name.startswith(".") for path in self.path.iterdir())
            if not known and not other:
                # Of several processes that begin at once, each writes the same.
                self.write(file.name, json.dumps(settings, indent=1).encode())
            known = file.exists()  # it may also have come between the two looks
            text = file.read_bytes() if known else b""
        except OSError as error:
            raise ValueError(
                f"the output folder {self.path} cannot be used ({error.strerror}): choose another"
            ) from error
        if not known:
            raise ValueError(
                f"{self.path} holds other things than predictions: choose a new folder"
            )
        try:
            present = dict(json.loads(text))
        except (ValueError, TypeError) as error:
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
        handle = (self.path / ".lock").open("ab")
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

    def _read(self, shard: int) -> Iterator[dict[str, Any]]:
        """Read the records of a shard, the later of two about the same image."""
        records: dict[tuple, dict] = {}
        for file in (self._file(shard), self._file(shard, ".part")):
            with contextlib.suppress(FileNotFoundError):
                # The last line of a stopped process may be cut off, within a letter, too.
                for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                    with contextlib.suppress(json.JSONDecodeError):
                        record = json.loads(line)
                        records[_key(record)] = record
        yield from records.values()

    def _is_intact(self, record: Mapping[str, Any]) -> bool:
        """Return whether an image did not change and its files exist, so that it is done."""
        if "error" in record:
            return False
        # An image that was moved away cannot be predicted again: its results remain.
        if self.stamp(self.path / _source(record)) not in (None, record["stamp"]):
            return False
        files = [record[key] for key in ("drawing", "page") if key in record]
        files += [heat[key] for heat in record.get("heat_maps", []) for key in ("drawing", "map")]
        if "video" in record:
            files.append(record["file_name"])
        return all((self.path / file).is_file() for file in files)

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

    def write(self, name: str, content: bytes) -> None:
        """Write a file of the folder; it appears when it is complete."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        # Processes of other computers and containers may have the same number as this one.
        unfinished = file.with_name(f".{secrets.token_hex(8)}{file.suffix}")
        try:
            unfinished.write_bytes(content)
            unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)

    def add(self, record: Mapping[str, Any]) -> None:
        """Write the line of an image, the last thing to be written of it."""
        self._journal.write(f"{json_text(record)}\n")
        self._journal.flush()

    def close(self) -> None:
        """Declare the shard complete."""
        self._journal.close()
        self._file(self.shard, ".part").replace(self._file(self.shard))
        self._lock.close()

    def records(self) -> list[dict[str, Any]] | None:
        """Return all shards' records by image and frame; None while one is not complete."""
        if not all(self._file(shard).is_file() for shard in range(self.shards)):
            return None
        records: dict[tuple, dict] = {}
        for record in (r for shard in range(self.shards) for r in self._read(shard)):
            if "error" not in record or _key(record) not in records:
                records[_key(record)] = record
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


def _source(record: Mapping[str, Any]) -> str:
    """Return the file that the record is about: the video, not the frame taken from it."""
    return record.get("video", record["file_name"])


def _key(record: Mapping[str, Any]) -> tuple[str, int | None]:
    return _source(record), record.get("frame")


def _some(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
