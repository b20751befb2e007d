"""Counting the triplets of many captions: in several processes, and again after a kill."""

import hashlib
import json
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from vrd_d2.data.atomic_files import write_text
from vrd_d2.data.captions.base import CaptionParser, Triplet
from vrd_d2.data.captions.files import CaptionFile
from vrd_d2.data.source_files import read_json

_BATCH = 2000  # captions that go to a process at once
_AHEAD = 4  # batches read ahead for each process: bounds the memory


@dataclass
class Progress:
    """What has been counted, and where in the files that was.

    Attributes:
        file, record: index of the file, and records of it that are counted.
        captions: captions read.
        with_triplets: captions that hold a triplet.
        broken: records without a readable caption, of each file.
        first_broken: the first of each file, "" for none.
        counts: (subject class, predicate, object class) -> count.
        resumed: captions that an earlier run had counted.
    """

    file: int = 0
    record: int = 0
    captions: int = 0
    with_triplets: int = 0
    broken: list[int] = field(default_factory=list)
    first_broken: list[str] = field(default_factory=list)
    counts: Counter[Triplet] = field(default_factory=Counter)
    resumed: int = 0


class _Batch(NamedTuple):
    file: int
    record: int
    broken: int
    first_broken: str
    captions: list[str]


def count_captions(
    files: Sequence[CaptionFile],
    parser: CaptionParser,
    *,
    workers: int = 1,
    state: str | os.PathLike | None = None,
    settings: Mapping[str, object] | None = None,
    save_seconds: float = 30.0,
    report: Callable[[Progress], None] | None = None,
) -> Progress:
    """Count the triplets of all captions of some files.

    Args:
        files: what to read, in this order.
        parser: what finds triplets.
        workers: processes that parse; 1 parses in this one.
        state: file for the progress. If it is there, counting goes on where it stopped.
            It is left for the caller to remove.
        settings: all that the counts depend on beside files and parser; a state of other settings
            is refused.
        save_seconds: time between two writings of the state.
        report: called with the progress whenever a batch is counted.

    Raises:
        ValueError: the state belongs to other files or settings; a file is cut off; or no caption
            could be read at all.
    """
    stamp = _stamp(files, parser.name, settings or {})
    progress = _resumed(state, stamp, len(files))
    saved = time.monotonic()
    try:
        for batch, counts, found in _counted(_batches(files, progress), parser, workers):
            progress.file, progress.record = batch.file, batch.record
            progress.broken[batch.file] = batch.broken
            progress.first_broken[batch.file] = batch.first_broken
            progress.captions += len(batch.captions)
            progress.with_triplets += found
            progress.counts.update(counts)
            if report is not None:
                report(progress)
            if state is not None and time.monotonic() - saved >= save_seconds:
                _save(progress, stamp, state)
                saved = time.monotonic()
    except KeyboardInterrupt:
        if state is not None:
            _save(progress, stamp, state)
        raise
    if not progress.captions:
        first = next(
            (
                f"{f.path}: {why}"
                for f, why in zip(files, progress.first_broken, strict=True)
                if why
            ),
            "",
        )
        reason = f"{sum(progress.broken)} broken records; the first: {first}" if first else "empty"
        raise ValueError(
            f"no caption in {', '.join(str(file.path) for file in files)} ({reason}): check the "
            "format of the files (--format)"
        )
    return progress


def _batches(files: Sequence[CaptionFile], progress: Progress) -> Iterator[_Batch]:
    """Yield captions from where the progress stands."""
    for index in range(progress.file, len(files)):
        file = files[index]
        number = progress.record if index == progress.file else 0
        file.broken, file.first_broken = progress.broken[index], progress.first_broken[index]
        captions: list[str] = []
        for found in file.records(skip=number):
            number += 1
            captions += found
            if len(captions) >= _BATCH:
                yield _Batch(index, number, file.broken, file.first_broken, captions)
                captions = []
        yield _Batch(index, number, file.broken, file.first_broken, captions)


def _counted(
    batches: Iterator[_Batch], parser: CaptionParser, workers: int
) -> Iterator[tuple[_Batch, Counter[Triplet], int]]:
    """Yield batches with their counts, in the order of the batches."""
    if workers <= 1:
        for batch in batches:
            yield batch, *_count(parser, batch.captions)
        return
    with ProcessPoolExecutor(workers, initializer=_start, initargs=(parser,)) as pool:
        waiting: deque[tuple[_Batch, Future]] = deque()
        try:
            for batch in batches:
                waiting.append((batch, pool.submit(_count_here, batch.captions)))
                if len(waiting) > _AHEAD * workers:
                    first, future = waiting.popleft()
                    yield first, *future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, *future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _count(parser: CaptionParser, captions: Sequence[str]) -> tuple[Counter[Triplet], int]:
    found = parser.parse(captions)
    return Counter(triplet for triplets in found for triplet in triplets), sum(map(bool, found))


_parser: CaptionParser | None = None  # of a worker process


def _start(parser: CaptionParser) -> None:
    global _parser
    _parser = parser


def _count_here(captions: Sequence[str]) -> tuple[Counter[Triplet], int]:
    assert _parser is not None
    return _count(_parser, captions)


def _stamp(files: Sequence[CaptionFile], parser: str, settings: Mapping[str, object]) -> str:
    """Return what a state must agree with to be continued."""
    described = [
        (str(file.path.resolve()), file.size, file.path.stat().st_mtime_ns, file.format)
        for file in files
    ]
    text = json.dumps([described, parser, sorted(settings.items())], default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _resumed(state: str | os.PathLike | None, stamp: str, files: int) -> Progress:
    if state is None or not Path(state).is_file():
        return Progress(broken=[0] * files, first_broken=[""] * files)
    try:
        content = read_json(state)
        stored = content.pop("stamp")
        rows = content.pop("counts")
        progress = Progress(**content, counts=Counter({(s, p, o): n for s, p, o, n in rows}))
        _check(progress, files)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{state} is no state of counted captions: delete it, or count from the beginning "
            f"with --restart ({error})"
        ) from error
    if stored != stamp:
        raise ValueError(
            f"{state} was begun with other files, names or settings: finish that, or delete it"
        )
    progress.resumed = progress.captions
    return progress


def _check(progress: Progress, files: int) -> None:
    """Raise ValueError for what no state holds."""
    broken, first = progress.broken, progress.first_broken
    numbers = [progress.file, progress.record, progress.captions, progress.with_triplets]
    counted = [*numbers, progress.resumed, *broken, *progress.counts.values()]
    ids = [number for triplet in progress.counts for number in triplet]
    if not all(type(number) is int and number >= 0 for number in counted + ids):
        raise ValueError("a number in it is no whole number from 0 on")
    if not len(broken) == len(first) == files or not all(type(text) is str for text in first):
        raise ValueError(f"it is not of {files} files")
    if progress.file >= files:
        raise ValueError(f"it is at file {progress.file} of {files}")


def _save(progress: Progress, stamp: str, state: str | os.PathLike) -> None:
    content = asdict(progress)
    content["counts"] = [(*triplet, count) for triplet, count in progress.counts.items()]
    write_text(state, json.dumps({"stamp": stamp, **content}))
