"""Lines of predictions-*.jsonl, checked like whatever comes from outside.

A results folder may have been cut short by a kill, edited, copied from another model or handed over
by somebody else. A line that cannot be is passed over and told, so that its image is predicted
again. No name in it leads out of the folder.
"""

import errno
import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from vrd_d2.data.images.saving import DRAWING_FORMATS
from vrd_d2.data.record_values import checked_box, checked_index, checked_size, member
from vrd_d2.data.source_files import parse_json

# What a file system refuses, and what reverses the direction of writing.
_UNFIT = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]')
# Devices of Windows, with any suffix.
_DEVICE = re.compile(r"(?:con|prn|aux|nul|(?:com|lpt)[0-9¹²³])(?:\..*)?", re.IGNORECASE)
# What some readers take for the end of a line; and bytes of a name that are no text.
_ESCAPED = re.compile("[\x85\u2028\u2029\ud800-\udfff]")
# What moves a terminal's cursor.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_LONGEST_NAME = 50  # characters, of four bytes at most
_LONGEST_NUMBER = 12  # of one of several images of a name, with its hyphen
# What the system says of a link, a folder or a pipe.
_NO_FILE = (errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO)
_LINES_NAMED = 5  # of each kind, in a message

# The drawing for people, and the values as grey for programs.
HEAT_FILES = {"drawing": "", "map": " (values)"}

Record = dict[str, Any]
_Known = Mapping[str, frozenset[str]] | None  # labels and predicates that there are


def fit_name(text: str, longest: int = _LONGEST_NAME) -> str:
    """Turn a text into the name of a file on any system: short, without separators."""
    name = _UNFIT.sub("_", text)[:longest].strip(". ") or "image"
    return f"_{name}"[:longest].rstrip(". ") if _DEVICE.fullmatch(name) else name


def printable(text: str) -> str:
    """Put a text on one line, with escapes for invisible characters."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def json_text(content: Any) -> str:
    """Write JSON on one line, any string of Python in it; Unicode stays readable."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def source_of(record: Mapping[str, Any]) -> str:
    """Return the file that the record is about: the video, not the frame taken from it."""
    return record.get("video", record["file_name"])


def key_of(record: Mapping[str, Any]) -> tuple[str, int | None]:
    """Return what tells the record from those of other images and frames."""
    return source_of(record), record.get("frame")


def stem_of(record: Mapping[str, Any]) -> str:
    """Return the path of the record's files below their folders, without the suffix."""
    return record["name"] + (f"/{record['frame']:06d}" if "frame" in record else "")


def own_files(record: Mapping[str, Any]) -> list[str]:
    """Return the files of the folder that belong to a record."""
    files = [record[key] for key in ("drawing", "page") if key in record]
    files += [heat[key] for heat in record.get("heat_maps", []) for key in HEAT_FILES]
    return files + ([record["file_name"]] if "video" in record and "error" not in record else [])


def open_plain(path: Path, flags: int = os.O_RDONLY) -> IO[bytes]:
    """Open a regular file, and nothing through a link; neither waits at a pipe.

    Args:
        path: the file.
        flags: of `os.open`; with O_APPEND the file is opened for writing, without a buffer.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is a link, a folder, a pipe or a device.
        OSError: it cannot be opened.
    """
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # each on some systems only
        flags |= getattr(os, name, 0)
    try:
        handle = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise
        handle = -1
    if handle >= 0 and not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        handle = -1
    if handle < 0:
        raise ValueError(
            f"{path} is a link, a folder, a pipe or a device, and no file of a results folder: "
            "remove it, or choose another output folder"
        )
    if flags & os.O_APPEND:
        return open(handle, "ab", buffering=0)
    return open(handle, "rb")


class RecordReader:
    """Reads the lines of predictions, and notes those that cannot be used.

    Args:
        vocabulary: with the names of `objects` and `predicates`; None does not check names.
    """

    def __init__(self, vocabulary: Any = None) -> None:
        self._known = None
        if vocabulary is not None:
            self._known = {
                "label": frozenset(vocabulary.objects),
                "predicate": frozenset(vocabulary.predicates),
            }
        self._names: dict[str, str] = {}  # of each source
        self._owners: dict[str, str] = {}  # source of each name
        self._odd: dict[str, dict[str, list[int]]] = {}  # kind, file, numbers of lines

    def read(self, file: Path, *, tell: bool = True) -> Iterator[Record]:
        """Yield the records of a file; none if there is no file.

        Args:
            file: JSON Lines.
            tell: whether its odd lines count. Those of another process are its own matter, and the
                last may just be written.

        Raises:
            ValueError: it is no regular file.
        """
        try:
            handle = open_plain(file)
        except FileNotFoundError:
            return
        with handle:
            for number, line in enumerate(handle, 1):
                if not line.strip():
                    continue
                kind, record = self._checked(line)
                if record is not None:
                    yield record
                elif tell:
                    self._odd.setdefault(kind, {}).setdefault(file.name, []).append(number)

    def _checked(self, line: bytes) -> tuple[str, Record | None]:
        """Return the record of a line, or what is wrong with it."""
        kind = "cut short" if not line.endswith(b"\n") else "no JSON"
        try:
            record = parse_json(line.decode("utf-8-sig"))
            json_text(record)  # numbers that are none, anywhere in it
            for reason, check in _CHECKS.items():
                kind = reason
                check(record, self._known)
            kind = "with the name of another image"
            source, name = source_of(record), record["name"]
            if self._owners.setdefault(name.casefold(), source) != source:
                raise ValueError(name)
            if self._names.setdefault(source, name) != name:
                raise ValueError(name)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return kind, None
        return "", record

    def oddities(self) -> str | None:
        """Return in words which lines could not be used, counted by kind; None if there was none.

        They are forgotten then.
        """
        if not self._odd:
            return None
        total, kinds = 0, []
        for kind, files in self._odd.items():
            count = sum(map(len, files.values()))
            where = "; ".join(f"{file}, {_lines(numbers)}" for file, numbers in files.items())
            kinds.append(f"{count} {kind} ({where})")
            total += count
        self._odd = {}
        return f"{total} line{'s' * (total != 1)} cannot be used: {', '.join(kinds)}"


def _lines(numbers: list[int]) -> str:
    text = f"line{'s' * (len(numbers) != 1)} " + ", ".join(map(str, numbers[:_LINES_NAMED]))
    more = len(numbers) - _LINES_NAMED
    return f"{text} and {more} more" if more > 0 else text


# ---- What a record must be: each check raises ValueError, TypeError, KeyError or OverflowError ---


def _check_source(record: Any, _: _Known) -> None:
    for key in ("file_name", "video"):
        text = member(record, key, str) if key == "file_name" else record.get(key, "-")
        if type(text) is not str or not text or "\0" in text:
            raise ValueError(key)
    if "frame" in record:
        checked_index(record["frame"], 2**31, "frame")
    if ("frame" in record) != ("video" in record):
        raise ValueError("frame")
    if type(record.get("error", "")) is not str:
        raise ValueError("error")


def _check_name(record: Record, _: _Known) -> None:
    longest = _LONGEST_NAME + _LONGEST_NUMBER
    if fit_name(member(record, "name", str), longest) != record["name"]:
        raise ValueError("name")
    if len(record["name"].encode()) > 4 * _LONGEST_NAME + _LONGEST_NUMBER:
        raise ValueError("name")


def _check_stamp(record: Record, _: _Known) -> None:
    stamp = record["stamp"]
    if stamp is None and "error" in record:  # of an image that is not there
        return
    size, time = member(record, "stamp", list)
    if type(size) is not int or type(time) is not int:
        raise ValueError("stamp")


def _check_files(record: Record, _: _Known) -> None:
    stem = stem_of(record)
    whole = "error" not in record
    drawings = [f"drawings/{stem}.{kind}" for kind in DRAWING_FORMATS]
    expected = {"drawing": drawings, "page": [f"pages/{stem}.html"]}
    if "video" in record and whole:
        expected["file_name"] = [f"frames/{stem}.png"]
    for key, files in expected.items():
        if record.get(key, files[0]) not in files:
            raise ValueError(key)
    for heat in member({"heat_maps": [], **record}, "heat_maps", list):
        for key, end in HEAT_FILES.items():
            folder, _, name = member(heat, key, str).rpartition("/")
            name, _, kind = name.rpartition(".")
            if folder != f"heat_maps/{stem}" or not name.endswith(end):
                raise ValueError(key)
            if kind not in (DRAWING_FORMATS if key == "drawing" else ("png",)):
                raise ValueError(key)
            bare = name.removesuffix(end)
            if fit_name(bare) != bare:
                raise ValueError(key)
        if whole:
            checked_index(member(heat, "relation", int), len(record["relations"]), "relation")


def _check_words(record: Record, known: _Known) -> None:
    if "error" in record:
        return
    for note in member(record, "notes", list):
        if type(note) is not str or printable(note) != note:
            raise ValueError("notes")
    for key, part in (("entities", "label"), ("relations", "predicate")):
        for row in member(record, key, list):
            name = member(row, part, str)
            if known is not None and name not in known[part]:
                raise ValueError(part)


def _check_values(record: Record, _: _Known) -> None:
    if "error" in record:
        return
    checked_size(record)
    if not math.isfinite(record.get("seconds", 0)):
        raise ValueError("seconds")
    for row in record["entities"]:
        checked_box(row["bbox"], "[x, y, width, height]", (0, 1, 2, 3), extent=True)
    for row in record["relations"]:
        for end in ("subject", "object"):
            checked_index(row[end], len(record["entities"]), end)
    for row in [*record["entities"], *record["relations"]]:
        if not math.isfinite(member(row, "score", int, float)):
            raise ValueError("score")


_CHECKS: dict[str, Callable[[Any, _Known], None]] = {
    "no record of an image": _check_source,
    "with a name that no file may have": _check_name,
    "without the stamp of the image": _check_stamp,
    "with unknown names": _check_words,
    "with an impossible size, box, score or relation": _check_values,
    "with files that are not its own": _check_files,
}
