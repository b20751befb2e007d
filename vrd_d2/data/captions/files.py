"""Captions out of files of any size, one after the other, in constant memory.

Formats: plain text (a caption a line), JSON Lines, tab separated (Conceptual Captions, either
order of columns), and JSON: Visual Genome's region_descriptions.json, COCO captions,
relations_json and similar. Each also compressed, with ``.gz`` behind its name.
"""

import codecs
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from vrd_d2.addresses import refuse_address
from vrd_d2.data.messages import kind_of
from vrd_d2.data.source_files import parse_json, require_regular

FORMATS = {".txt": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".tsv": "tsv", ".json": "json"}
KEYS = ("caption", "text", "phrase", "captions", "regions", "sentences", "raw")
_BLOCK = 1 << 20
_KINDS = 5  # of broken records that are quoted
_ESCAPE = len(r"\ud83d\ude00")  # the longest thing that is an error as long as it is incomplete
_BLANK = re.compile(r"[\s,]*")
_ADDRESS = ("http://", "https://")


@dataclass
class CaptionFile:
    """One file on its way through :meth:`records`.

    Attributes:
        path: the file.
        format: "text", "jsonl", "tsv" or "json"; None goes by the file's name.
        size: bytes on the disk.
        read: bytes of them that have been read.
        broken: records without a readable caption.
        first_broken: number of the first of each kind (from 1) and what is wrong with it.

    Raises:
        ValueError: there is no such file, or the format is not clear from its name.
    """

    path: Path
    format: str | None = None
    size: int = 0
    read: int = 0
    broken: int = 0
    first_broken: str = ""
    _kinds: set[str] = field(default_factory=set, repr=False)
    _raw: BinaryIO | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        refuse_address(self.path)
        self.path = Path(self.path)
        require_regular(self.path)
        if not self.path.is_file():
            raise ValueError(f"there is no caption file {self.path}: check the path")
        self.size = self.path.stat().st_size
        ending = Path(self.path.name.removesuffix(".gz")).suffix
        self.format = self.format or FORMATS.get(ending)
        if self.format not in FORMATS.values():
            raise ValueError(
                f"{self.path}: the format is not clear from its name: choose one of "
                f"{', '.join(sorted(set(FORMATS.values())))} (--format)"
            )

    def records(self, skip: int = 0) -> Iterator[list[str]]:
        """Yield the captions of each record: a line, or an element of a JSON list.

        Args:
            skip: records to pass over without looking into them.

        Raises:
            ValueError: the file is cut off or no such file at all; names the record.
        """
        with self.path.open("rb") as self._raw:
            packed = self.path.name.endswith(".gz")
            stream = gzip.GzipFile(fileobj=self._raw) if packed else self._raw
            reader = _json_elements(stream, self.path) if self.format == "json" else iter(stream)
            number = 0
            try:
                for number, record in enumerate(reader, 1):
                    if number <= skip:
                        continue
                    if number == 1 and isinstance(record, bytes):
                        record = record.removeprefix(codecs.BOM_UTF8)
                    self.read = self._raw.tell()
                    yield self._captions(record, number)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise ValueError(
                    f"{self.path}: cannot be read behind record {number} ({error}): get it again"
                ) from error
        self.read = self.size

    def _captions(self, record: Any, number: int) -> list[str]:
        try:
            return _READERS[self.format](record)
        except (ValueError, KeyError) as error:
            self.broken += 1
            if (kind := kind_of(str(error))) not in self._kinds and len(self._kinds) < _KINDS:
                self._kinds.add(kind)
                self.first_broken += f"{'; ' * bool(self.first_broken)}record {number}: {error}"
            return []


def _text(line: bytes) -> list[str]:
    caption = line.decode("utf-8").strip()
    return [caption] if caption else []


def _json_line(line: bytes) -> list[str]:
    text = line.decode("utf-8")
    return _of_element(parse_json(text, repeated_keys=True)) if text.strip() else []


def _tab_line(line: bytes) -> list[str]:
    columns = [column.strip() for column in line.decode("utf-8").rstrip("\r\n").split("\t")]
    if columns == [""] or {"url", "caption"} <= set(columns):
        return []  # an empty line, or the heading
    if len(columns) < 2:
        raise ValueError("no tab in it")
    captions = [column for column in columns if column and not column.startswith(_ADDRESS)]
    if not captions:
        raise ValueError("no column that is not an address")
    return captions[:1]


def _of_element(element: Any) -> list[str]:
    """Return the captions of a text, of a record with one of KEYS, or of a list of such."""
    if isinstance(element, str):
        return [element] if element.strip() else []
    if isinstance(element, list):
        return [caption for part in element for caption in _of_element(part)]
    if isinstance(element, dict):
        for key in KEYS:
            if key in element:
                return _of_element(element[key])
        raise ValueError(f"none of the keys {', '.join(KEYS)}, but {', '.join(element) or 'none'}")
    raise ValueError(f"{type(element).__name__} instead of a caption")


_READERS = {"text": _text, "jsonl": _json_line, "tsv": _tab_line, "json": _of_element}
# Lists of a JSON object that hold captions, and those beside them that need not.
_LISTS = ("annotations", "images", "captions", "data")


def _json_elements(stream: BinaryIO, path: Path) -> Iterator[Any]:
    """Yield the elements of a JSON list, or of the lists with captions of a JSON object."""
    document = _Window(stream, path)
    opening = document.peek()
    if opening == "[":
        yield from document.elements()
    elif opening == "{":
        yield from _members(document)
    else:
        raise ValueError(f"{path} holds neither a JSON list nor a JSON object: give --format")


def _members(document: "_Window") -> Iterator[Any]:
    document.take("{")
    found = []
    while document.peek() != "}":
        key = document.value()
        document.take(":")
        found.append(key)
        if document.peek() != "[":
            document.value()
            continue
        for element in document.elements():
            # COCO's images and the boxes of relations_json stand beside the captions.
            if key in _LISTS and (not isinstance(element, dict) or element.keys() & set(KEYS)):
                yield element
    if not set(found) & set(_LISTS):
        raise ValueError(
            f"{document.path}: none of the lists {', '.join(_LISTS)} is in it, but {found[:8]}"
        )


class _Window:
    """The part of a JSON text that is being parsed."""

    def __init__(self, stream: BinaryIO, path: Path):
        self.path = path
        self._stream = stream
        self._decoder = json.JSONDecoder()
        self._letters = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self._ended = False
        self._number = 0

    def _more(self) -> None:
        # Ever larger blocks, or a long value would be tried again from its start too often.
        block = self._stream.read(max(_BLOCK, len(self._text) - self._at))
        self._ended = not block
        try:
            text = self._letters.decode(block, final=self._ended)
        except UnicodeDecodeError as error:
            raise self._broken(f"not UTF-8: {error.reason}") from error
        self._text = self._text[self._at :] + text
        self._at = 0

    def _broken(self, reason: str) -> ValueError:
        return ValueError(
            f"{self.path}: no complete JSON behind record {self._number} ({reason}): get it again"
        )

    def peek(self) -> str:
        """Return the next character that is no space or comma."""
        while True:
            self._at = _BLANK.match(self._text, self._at).end()
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                raise self._broken("it ends there")
            self._more()

    def take(self, character: str) -> None:
        if self.peek() != character:
            raise self._broken(f"{self.peek()!r} instead of {character!r}")
        self._at += 1

    def value(self) -> Any:
        """Return the next value as a whole."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except RecursionError as error:
                raise self._broken("it is nested too deeply") from error
            except json.JSONDecodeError as error:
                unfinished = error.pos > len(self._text) - _ESCAPE or "Unterminated" in error.msg
                if self._ended or not unfinished:
                    raise self._broken(error.msg) from error
            else:
                # A number may go on in the next block.
                if end < len(self._text) or self._ended:
                    self._at = end
                    return value
            self._more()

    def elements(self) -> Iterator[Any]:
        """Yield the elements of the list that begins here."""
        self.take("[")
        while self.peek() != "]":
            self._number += 1
            yield self.value()
        self._at += 1


def open_captions(
    paths: list[str | os.PathLike], file_format: str | None = None
) -> list[CaptionFile]:
    """Caption files, all of which are there.

    Raises:
        ValueError: names what is missing, or given twice.
    """
    files = [CaptionFile(Path(path), file_format) for path in paths]
    seen: set[Path] = set()
    for file in files:
        if file.path.resolve() in seen:
            raise ValueError(f"{file.path} is given twice: its captions would count twice")
        seen.add(file.path.resolve())
    return files
