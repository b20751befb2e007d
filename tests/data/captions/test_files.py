"""Streams of captions: every format, memory, broken records, going on after a stop."""

import gzip
import io
import json
import multiprocessing
import random
import signal
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

from vrd_d2.data.captions import counts as caption_counts
from vrd_d2.data.captions import files as caption_files
from vrd_d2.data.captions.build import make_parser
from vrd_d2.data.captions.counts import count_captions
from vrd_d2.data.captions.files import CaptionFile, open_captions
from vrd_d2.data.vocabulary import SCENES

SAID = ["a man riding a horse", "a dog on a café chair", "ein Hund", "a cup on a table"]
FILES = {
    "plain.txt": "\n".join([*SAID[:2], "", *SAID[2:]]) + "\n",
    "lines.jsonl": "".join(
        json.dumps(record) + "\n"
        for record in ({"text": SAID[0]}, {"caption": SAID[1], "id": 4}, SAID[2], {"text": SAID[3]})
    ),
    "cc.tsv": "".join(f"{caption}\thttp://x.org/{i}.jpg\n" for i, caption in enumerate(SAID)),
    "cc12m.tsv": "url\tcaption\n" + "".join(f"https://x.org/a\t{caption}\r\n" for caption in SAID),
    "region_descriptions.json": json.dumps(
        [
            {"id": 1, "regions": [{"region_id": 7, "phrase": SAID[0]}, {"phrase": SAID[1]}]},
            {"id": 2, "regions": []},
            {"id": 3, "regions": [{"phrase": SAID[2]}, {"phrase": SAID[3]}]},
        ]
    ),
    "captions_train2017.json": json.dumps(
        {
            "info": {"year": 2017, "note": "a [ and a }"},
            "images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}],
            "licenses": [],
            "annotations": [{"image_id": 1, "id": i, "caption": c} for i, c in enumerate(SAID)],
        },
        ensure_ascii=False,
        indent=1,
    ),
    "train.json": json.dumps(
        {
            "images": [{"id": 1, "captions": SAID[:3]}, {"id": 2}, {"id": 3, "captions": SAID[3:]}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}],
            "categories": [{"id": 1, "name": "man"}],
            "predicates": [{"id": 1, "name": "on"}],
            "relations": [],
        }
    ),
    "karpathy.json": json.dumps(
        {"images": [{"sentences": [{"raw": c, "tokens": c.split()} for c in SAID]}]}
    ),
    "list.json": json.dumps(SAID),
}


def write(folder: Path, name: str, text: str | None = None) -> Path:
    path = folder / name
    content = (FILES[name.removesuffix(".gz")] if text is None else text).encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def captions(path: Path, **options) -> list[str]:
    return [caption for record in CaptionFile(path).records(**options) for caption in record]


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("name", FILES)
def test_formats(tmp_path, monkeypatch, name, packed, block):
    monkeypatch.setattr(caption_files, "_BLOCK", block)
    path = write(tmp_path, name + packed)
    file = CaptionFile(path)
    records = list(file.records())
    assert [caption for record in records for caption in record] == SAID
    assert file.broken == 0 and file.read == file.size == path.stat().st_size
    for skip in range(len(records) + 1):
        assert list(CaptionFile(path).records(skip=skip)) == records[skip:]


def test_real_files(samples, repository):
    path = samples / "visual_genome/region_descriptions.json"
    regions_file = json.loads(path.read_text())
    expected = [region["phrase"] for image in regions_file for region in image["regions"]]
    assert len(expected) == 1278
    assert captions(path) == [phrase for phrase in expected if phrase.strip()]
    scenes = repository / "datasets/scenes/train.json"
    if scenes.is_file():
        images = json.loads(scenes.read_text())["images"]
        assert captions(scenes) == [text for image in images for text in image["captions"]]


@pytest.mark.parametrize(
    ("name", "text", "broken", "first"),
    [
        ("a.jsonl", '{"text": "x"}\n{"text": \n["y"]\n{"id": 3}\n{"text": null}\n', 3,
         "record 2: Expecting value"),
        ("a.tsv", "x\thttp://a\nnothing\ny\thttp://b\nhttp://c\thttp://d\n", 2,
         "record 2: no tab in it"),
        ("a.json", '["x", 3, {"boxes": []}, "y"]', 2, "record 2: int instead of a caption"),
    ],
)  # fmt: skip
def test_broken_records_are_counted_and_left_out(tmp_path, name, text, broken, first):
    file = CaptionFile(write(tmp_path, name, text))
    assert [c for record in file.records() for c in record] == ["x", "y"]
    assert file.broken == broken and file.first_broken.startswith(first)


def test_a_line_that_is_no_utf8(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"x\n\xff\xfe\ny\n")
    file = CaptionFile(path)
    assert list(file.records()) == [["x"], [], ["y"]]
    assert file.broken == 1 and file.first_broken.startswith("record 2: 'utf-8'")


# Made the same in every process that runs tests.
NOISE = random.Random(0).randbytes(9999).hex().encode()
CUT_OFF = gzip.compress(NOISE, mtime=0)[:-99]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'["x", "y", {"text": "z', r"a\.json: no complete JSON behind record 3"),
        ("a.json", b'["x", }]' + b" " * 99, r"a\.json: no complete JSON behind record \d"),
        ("a.json", b'["x", \xff]', "not UTF-8"),
        ("a.json", b"no JSON", "neither a JSON list nor a JSON object"),
        ("a.json", b"", "it ends there"),
        ("a.json", b'{"categories": []}', r"none of the lists annotations, .*'categories'"),
        pytest.param("a.txt.gz", CUT_OFF, "get it again", id="cut off"),
        ("a.txt.gz", b"plain text", "get it again"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        captions(tmp_path / name)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"no caption file .*a\.txt: check the path"):
        open_captions([tmp_path / "a.txt"])
    path = write(tmp_path, "a.csv", "x")
    with pytest.raises(ValueError, match=r"a\.csv: .*json, jsonl"):
        open_captions([path])
    assert list(open_captions([path], "text")[0].records()) == [["x"]]
    with pytest.raises(ValueError, match="given twice"):
        open_captions([path, tmp_path / "." / "a.csv"], "text")


class _Endless(io.RawIOBase):
    """A JSON list of captions that is as long as wanted, without being anywhere."""

    def __init__(self, elements: int):
        self._left = elements
        self._element = b'{"id": 1, "regions": [{"phrase": "%s"}]}, ' % (b"a man on a horse " * 60)
        self._begun = False

    def read(self, size: int = -1) -> bytes:
        if not self._begun:
            self._begun = True
            return b"["
        number = min(self._left, max(1, size // len(self._element)))
        self._left -= number
        return self._element * number if number else b""


def test_memory_does_not_grow_with_the_file():
    """64 MB of JSON in less than 8 MB: never more than a few blocks at once."""
    tracemalloc.start()
    number = 0
    with pytest.raises(ValueError, match="it ends there"):  # the list is never closed
        for element in caption_files._json_elements(_Endless(60_000), Path("endless.json")):
            number += bool(element)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert number == 60_000 and peak < 8e6


PHRASES = ["a man riding a horse", "a dog near a tree and a cup on a table", "blue sky"]


def big_file(folder: Path, records: int) -> tuple[Path, Counter]:
    path = folder / "big.txt"
    path.write_text("".join(PHRASES[i % 3] + "\n" for i in range(records)))
    ids = [
        (SCENES.object_id(s), SCENES.predicate_id(p), SCENES.object_id(o))
        for s, p, o in (("man", "riding", "horse"), ("dog", "near", "tree"), ("cup", "on", "table"))
    ]
    times = [len(range(i, records, 3)) for i in range(3)]
    return path, Counter({ids[0]: times[0], ids[1]: times[1], ids[2]: times[1]})


@pytest.mark.parametrize("workers", [1, 2])
def test_counts_do_not_depend_on_processes(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(caption_counts, "_BATCH", 50)
    path, expected = big_file(tmp_path, 1003)
    more = write(tmp_path, "lines.jsonl", '{"text": "a man riding a horse"}\nbroken\n')
    files = open_captions([path, more])
    done = count_captions(files, make_parser("matcher", SCENES), workers=workers)
    expected[SCENES.object_id("man"), SCENES.predicate_id("riding"), SCENES.object_id("horse")] += 1
    assert done.counts == expected
    assert (done.captions, done.with_triplets, done.broken) == (1004, 670, [0, 1])


@pytest.mark.parametrize("stop_after", [1, 4, 7])
def test_counting_goes_on_where_it_stopped(tmp_path, monkeypatch, stop_after):
    monkeypatch.setattr(caption_counts, "_BATCH", 50)
    path, expected = big_file(tmp_path, 333)
    broken = write(tmp_path, "first.jsonl", '"a dog near a tree"\n?\n?\n"blue sky"\n')
    state = tmp_path / "kb.state"
    parser = make_parser("matcher", SCENES)

    def count(report=None, **settings):
        files = open_captions([broken, path])
        return count_captions(
            files, parser, state=state, save_seconds=0, report=report, settings=settings
        )

    calls = []

    def stop(progress):
        calls.append(progress.captions)
        if len(calls) == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        count(stop)
    with pytest.raises(ValueError, match="begun with other files, names or settings"):
        count(vocabulary="another")
    done = count()
    expected[SCENES.object_id("dog"), SCENES.predicate_id("near"), SCENES.object_id("tree")] += 1
    assert done.counts == expected and done.captions == 335 and done.broken == [2, 0]
    assert done.resumed == calls[-1]


@pytest.mark.parametrize(
    "odd",
    [
        {"file": 1},
        {"file": -1},
        {"record": "1"},
        {"captions": 1.5},
        {"broken": [0, 0]},
        {"broken": 3},
        {"first_broken": [None]},
        {"counts": [[0, 0, 0, -1]]},
        {"counts": [[0, 0, 0]]},
        {"counts": [[[], 0, 0, 1]]},
        {"stranger": 1},
        {},
        None,
    ],
)
def test_an_odd_state_is_named(odd, tmp_path):
    path, _ = big_file(tmp_path, 10)
    state = tmp_path / "kb.state"
    parser = make_parser("matcher", SCENES)

    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        count_captions(open_captions([path]), parser, state=state, report=stop)
    content = json.loads(state.read_text())
    state.write_text(json.dumps({**content, **odd} if odd else odd))
    with pytest.raises(ValueError, match=r"kb\.state.*delete it"):
        count_captions(open_captions([path]), parser, state=state)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("{\n{\n", "2 broken records; .*record 1: Expecting"), ("\n", "empty")],
)
def test_nothing_but_broken_records_is_an_error(tmp_path, text, reason):
    files = open_captions([write(tmp_path, "a.jsonl", text)])
    with pytest.raises(ValueError, match=rf"no caption in .*a\.jsonl \({reason}"):
        count_captions(files, make_parser("matcher", SCENES))


def test_a_killed_process_goes_on(tmp_path, monkeypatch):
    """Killed without warning, counting ends with the counts of an undisturbed run."""
    path, expected = big_file(tmp_path, 20_000)
    state = tmp_path / "kb.state"
    parser = make_parser("matcher", SCENES)
    monkeypatch.setattr(caption_counts, "_BATCH", 100)

    def count(report=None):
        return count_captions(
            open_captions([path]), parser, state=state, save_seconds=0, report=report
        )

    def slowly(_):
        time.sleep(0.05)

    process = multiprocessing.get_context("fork").Process(target=count, args=(slowly,))
    process.start()
    for _ in range(3000):
        if state.is_file() or not process.is_alive():
            break
        time.sleep(0.02)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL and state.is_file()
    begun = json.loads(state.read_text())["captions"]
    assert 0 < begun < 20_000
    done = count()
    assert done.counts == expected and done.captions == 20_000 and done.resumed == begun


def test_every_kind_of_broken_record_is_quoted_once(tmp_path):
    lines = [f'{{"caption": {i}}}' for i in range(50)] + ['{"captio": "a man"}', "no JSON"]
    file = CaptionFile(write(tmp_path, "a.jsonl", "\n".join(lines)))
    assert not any(file.records()) and file.broken == 52
    assert [part.partition(":")[0] for part in file.first_broken.split("; ")] == [
        "record 1", "record 51", "record 52",
    ]  # fmt: skip
