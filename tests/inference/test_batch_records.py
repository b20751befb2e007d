"""Results folders as they come from elsewhere: torn, edited, of other models, and set as traps."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vrd_d2.data import atomic_files
from vrd_d2.data.formats.relations_json import load_relations_json
from vrd_d2.data.vocabulary import Vocabulary
from vrd_d2.inference.batch_folder import PredictionFolder
from vrd_d2.inference.batch_records import RecordReader, fit_name
from vrd_d2.inference.batch_run import FileOptions, PredictionRun
from vrd_d2.scene_graph import SceneGraph


class Wearer:
    """Sees a man who wears a hat in every image."""

    vocabulary = Vocabulary(("man", "hat"), ("on", "wearing"))
    needs_boxes = takes_boxes = needs_labels = explains = False

    def __call__(self, image, **_):
        graphs = []
        for pixels in image:
            height, width = pixels.shape[:2]
            boxes = np.array([[0, 0, width, height], [0, 0, width / 2, height / 4]])
            relations = [(0, 1, "wearing")]
            size = (width, height)
            graphs.append(
                SceneGraph(boxes, ["man", "hat"], relations, [0.5], [0.9, 0.8], size=size)
            )
        return graphs


@pytest.fixture
def photos(tmp_path):
    for name in "abc":
        path = tmp_path / f"in/{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((24, 32, 3), 120, np.uint8)).save(path)
    return path.parent


def start(inputs, output, model=None, rank=0, shards=1, **changes) -> PredictionRun:
    files = {"drawings": 0, "html": "none", "every": 2, "max_pixels": 10_000, **changes}
    return PredictionRun(
        model or Wearer(),
        [str(inputs)],
        output,
        settings={"model": "wearer"},
        graph_options={"top_k": 3},
        files=FileOptions(**files),
        rank=rank,
        shards=shards,
    )


def predicted(*arguments, **changes) -> PredictionRun:
    run = start(*arguments, **changes)
    run.work()
    return run


def journal(out: Path) -> Path:
    return out / "predictions-00000-of-00001.jsonl"


@pytest.fixture
def drawn(monkeypatch):
    """Drawings that cost nothing."""
    monkeypatch.setattr(SceneGraph, "draw", lambda graph, image, **_: image)


def tree(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder, and of every link where it leads."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path)] = os.readlink(path).encode()
        elif path.is_file():
            found[str(path)] = path.read_bytes()
    return found


# ---- Lines that cannot be ------------------------------------------------------------------------

NOT_JSON = [
    b"[]",
    b"null",
    b"7",
    b'"a.png"',
    b"{",
    b"{}",
    b"[" * 100_000,
    b'{"file_name": ' * 50_000,
    b'{"file_name": "' + b"9" * 50 + b'", "frame": ' + b"9" * 5000 + b"}",
    b"caf\xe9",
    b'{"file_name": "caf\xe9.png"}',
    b"\x00\x00\x00",
    b"\x1f\x8b\x08\x00",
]


def test_lines_that_are_no_records(photos, tmp_path, caplog):
    """Nothing but them is lost, and only their images are predicted again."""
    out = tmp_path / "out"
    predicted(photos, out)
    file = journal(out)
    first, _, last = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([first, *NOT_JSON, last, b""]))
    run = predicted(photos, out)
    assert (run.done, run.skipped, run.broken) == (1, 2, [])
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert file.name in warning and f"{len(NOT_JSON)} lines" in warning
    assert "3 images in" in run.merge()
    assert len(load_relations_json(out / "predictions.json")) == 3
    caplog.clear()
    assert predicted(photos, out).skipped == 3 and not caplog.records


@pytest.mark.parametrize("line", NOT_JSON, ids=lambda line: repr(line[:24]))
def test_a_line_that_is_no_record(tmp_path, line):
    (tmp_path / "x.jsonl").write_bytes(b"\n" + line + b"\n")
    reader = RecordReader()
    assert list(reader.read(tmp_path / "x.jsonl")) == []
    told = reader.oddities()
    assert "x.jsonl" in told and "line 2" in told and reader.oddities() is None


def without(key):
    return lambda record: {k: v for k, v in record.items() if k != key}


def with_(**changes):
    return lambda record: {**record, **changes}


def entity(**changes):
    def change(record):
        first, *others = record["entities"]
        return {**record, "entities": [{**first, **changes}, *others]}

    return change


def relation(**changes):
    return lambda record: {**record, "relations": [{**record["relations"][0], **changes}]}


INF, NAN = float("inf"), float("nan")
CHANGES = {
    "no file_name": without("file_name"),
    "no stamp": without("stamp"),
    "no name": without("name"),
    "no notes": without("notes"),
    "no entities": without("entities"),
    "no relations": without("relations"),
    "no width": without("width"),
    "file_name a number": with_(file_name=7),
    "file_name a list": with_(file_name=["a"]),
    "file_name empty": with_(file_name=""),
    "file_name NUL": with_(file_name="a\0.png"),
    "stamp a text": with_(stamp="now"),
    "stamp short": with_(stamp=[1]),
    "stamp of texts": with_(stamp=["1", "2"]),
    "notes a text": with_(notes="seen"),
    "notes of numbers": with_(notes=[1]),
    "notes of a surrogate": with_(notes=["\ud800"]),
    "width 0": with_(width=0),
    "width huge": with_(width=10**400),
    "width true": with_(width=True),
    "width NaN": with_(width=NAN),
    "entities an object": with_(entities={"0": 1}),
    "entity a list": with_(entities=[[1, 2]]),
    "label unknown": entity(label="dragon"),
    "label a list": entity(label=["man"]),
    "label missing": entity(label=None),
    "bbox short": entity(bbox=[1, 2, 3]),
    "bbox of texts": entity(bbox=["1", "2", "3", "4"]),
    "bbox a text": entity(bbox="1234"),
    "bbox NaN": entity(bbox=[0, 0, NAN, 5]),
    "bbox infinite": entity(bbox=[0, 0, INF, 5]),
    "bbox huge": entity(bbox=[0, 0, 10**400, 5]),
    "bbox negative": entity(bbox=[0, 0, -5, 5]),
    "score a text": entity(score="0.9"),
    "score missing": entity(score=None),
    "score NaN": entity(score=NAN),
    "score huge": entity(score=10**400),
    "predicate unknown": relation(predicate="eating"),
    "predicate an object": relation(predicate={}),
    "subject beyond": relation(subject=2),
    "subject negative": relation(subject=-1),
    "object a text": relation(object="1"),
    "object true": relation(object=True),
    "relation score infinite": relation(score=-INF),
    "error a number": with_(error=5),
    "frame without video": with_(frame=3),
    "video without frame": with_(video="../in/v.mp4"),
    "frame a text": with_(video="../in/v.mp4", frame="3"),
    "another key NaN": with_(more=[NAN]),
    "heat maps a text": with_(heat_maps="all"),
    "heat maps of nothing": with_(heat_maps=[{}]),
    "drawing a number": with_(drawing=3),
}


RECORD = {
    "file_name": "../in/b.png",
    "name": "b",
    "stamp": [5, 6],
    "notes": ["16 bits scaled to 8"],
    "width": 32,
    "height": 24,
    "entities": [
        {"id": 0, "label": "man", "bbox": [0, 0, 32, 24.5], "score": 0.9},
        {"id": 1, "label": "hat", "bbox": [0, 0, 16, 0], "score": 1},
    ],
    "relations": [{"subject": 0, "predicate": "wearing", "object": 1, "score": -3.5}],
}
FRAME = {"video": "../in/v.mp4", "frame": 3, "seconds": 0.6, "file_name": "frames/b/000003.png"}
HEAT = {
    "relation": 0,
    "drawing": "heat_maps/b/01 man wearing hat.png",
    "map": "heat_maps/b/01 man wearing hat (values).png",
}
SOUND = {
    "as it is": with_(),
    "bytes in its name": with_(file_name="../in/caf\udce9.png"),
    "of a frame": with_(**FRAME),
    "with files": with_(drawing="drawings/b.png", page="pages/b.html", heat_maps=[HEAT]),
    "of a broken image": lambda _: (
        {"file_name": "b.png", "name": "b-2", "stamp": None} | {"error": "it is empty"}
    ),
    "of nothing found": with_(entities=[], relations=[]),
    "named like a directory": with_(name="street.old-12"),
}


def read(tmp_path, record) -> list[dict]:
    (tmp_path / "x.jsonl").write_text(json.dumps(record) + "\n")
    reader = RecordReader(Wearer.vocabulary)
    found = list(reader.read(tmp_path / "x.jsonl"))
    assert bool(found) == (reader.oddities() is None)
    return found


@pytest.mark.parametrize("change", SOUND.values(), ids=SOUND)
def test_records_that_may_be(tmp_path, change):
    assert read(tmp_path, change(RECORD)) == [change(RECORD)]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_records_that_cannot_be(tmp_path, change):
    assert read(tmp_path, change(RECORD)) == []


def test_odd_lines_are_counted_by_kind(photos, tmp_path, caplog):
    out = tmp_path / "out"
    predicted(photos, out)
    file = journal(out)
    good = [json.loads(line) for line in file.read_text().splitlines()]
    lines = [*map(json.dumps, good), "[]", "[", "{]", json.dumps(without("stamp")(good[0]))]
    lines += [json.dumps(relation(predicate="eating")(good[0]))] * 20
    file.write_text("\n".join(lines) + '\n{"file_name": "../in/')
    # A later line of an image counts, and one that cannot be does not.
    run = predicted(photos, out)
    assert (run.done, run.skipped) == (0, 3)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "25 lines" in warning and "20 " in warning and "2 " in warning
    for part in (file.name, "line 4", "lines 5, 6", "line 7", "line 28"):
        assert part in warning
    assert len(warning) < 1000 and "\n" not in warning


def test_a_line_that_a_running_process_writes_is_not_odd(photos, tmp_path, caplog):
    out = tmp_path / "out"
    runs = [start(photos, out, rank=rank, shards=2) for rank in (0, 1)]
    runs[1].work()
    (out / "predictions-00001-of-00002.jsonl").rename(out / "predictions-00001-of-00002.jsonl.part")
    with (out / "predictions-00001-of-00002.jsonl.part").open("a") as part:
        part.write('{"file_name": "../in/c.p')
    runs[0].folder.close()
    start(photos, out, rank=0, shards=2)
    assert not caplog.records


def test_odd_lines_of_another_process_are_named_when_all_are_put_together(photos, tmp_path, caplog):
    out = tmp_path / "out"
    runs = [predicted(photos, out, rank=rank, shards=2) for rank in (0, 1)]
    other = out / "predictions-00001-of-00002.jsonl"
    other.write_bytes(b"[]\n" + other.read_bytes())
    assert "3 images in" in runs[0].merge()
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert other.name in warning and "line 1" in warning


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b"{} {}",
        b'{"a": 1, "a": 2}',
        b"[[1, 2]]",
        b'{"top_k": NaN}',
        b"\xff\xfe\x00",
    ],
)
def test_settings_that_cannot_be_are_named(photos, tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/settings.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"settings"):
        start(photos, tmp_path / "out")


def test_settings_with_a_byte_order_mark_are_read(photos, tmp_path):
    predicted(photos, tmp_path / "out")
    file = tmp_path / "out/settings.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert predicted(photos, tmp_path / "out").skipped == 3


# ---- Folders as traps ----------------------------------------------------------------------------

NAMES = [
    "../../X",
    "..",
    ".",
    "",
    "a/b",
    "/tmp/X",
    "C:X",
    "C:\\X",
    "..\\..\\X",
    "a\0b",
    "a\nb",
    ".hidden",
    "a.",
    "a ",
    "x" * 5000,
    "😀" * 75,
    "\ud800",
    "\u202egnp",
    "NUL",
    "con.txt",
    "COM1",
    7,
    None,
    ["a"],
    {},
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name)[:20])
def test_a_name_that_is_none(tmp_path, name):
    assert read(tmp_path, {**RECORD, "name": name}) == []
    assert read(tmp_path, {**RECORD, "name": name, "error": "broken"}) == []


@pytest.mark.parametrize("name", ["../../X", "/tmp/X", "C:\\X", "x" * 5000, "\ud800", 7])
def test_a_name_leads_nowhere_else(photos, tmp_path, caplog, drawn, name):
    """Nothing is written but in the output folder, and every image is predicted."""
    out = tmp_path / "deep/er/out"
    predicted(photos, out, drawings=1)
    file = journal(out)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    # Both of an image that is done, and of one that is to be done again.
    lines[0] |= {"name": name, "error": "broken"}
    lines[1] |= {"name": name}
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = {path for path in tree(tmp_path) if not path.startswith(str(out))}
    run = predicted(photos, out, drawings=1)
    assert run.done == 2 and run.broken == []
    assert {path for path in tree(tmp_path) if not path.startswith(str(out))} == before
    assert sorted(path.name for path in (out / "drawings").iterdir()) == [
        "a.png",
        "b.png",
        "c.png",
    ]
    assert "lines 1, 2" in caplog.text and file.name in caplog.text


def test_two_images_do_not_share_a_name(photos, tmp_path, caplog):
    out = tmp_path / "out"
    predicted(photos, out)
    file = journal(out)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[1] |= {"name": "A"}
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = predicted(photos, out)
    assert (run.done, run.skipped) == (1, 2) and "line 2" in caplog.text
    names = [json.loads(line)["name"] for line in file.read_text().splitlines()]
    assert sorted(names) == ["a", "b", "c"]


@pytest.mark.parametrize("value", ["/etc/passwd", "../in/a.png", "drawings/../../in/a.png", "x\0"])
def test_files_of_a_record_are_those_of_its_name(tmp_path, value):
    for change in ({"drawing": value}, {"page": value}, {"heat_maps": [{**HEAT, "map": value}]}):
        assert read(tmp_path, {**RECORD, **change}) == []
    assert read(tmp_path, {**RECORD, **FRAME, "file_name": value}) == []
    other = {**HEAT, "drawing": "heat_maps/b/../a/x.png"}
    assert read(tmp_path, {**RECORD, "heat_maps": [other]}) == []


def test_frames_and_heat_maps_are_read_out_of_the_folder_alone(photos, tmp_path, caplog):
    out = tmp_path / "out"
    options = {"html": "one", "drawings": 0}
    predicted(photos, out, **options)
    secret = tmp_path / "secret.png"
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(secret)
    file = journal(out)
    a, b, c = (json.loads(line) for line in file.read_text().splitlines())
    a["heat_maps"] = [{"relation": 0, "drawing": "../secret.png", "map": "../secret.png"}]
    b |= {"video": "../in/b.png", "frame": 0, "seconds": 0.0, "file_name": "../secret.png"}
    file.write_text("".join(json.dumps(line) + "\n" for line in (a, b, c)))
    run = predicted(photos, out, **options)
    assert run.done == 2 and "lines 1, 2" in caplog.text
    assert "3 images in" in run.merge()


@pytest.mark.parametrize("name", ["drawings", "pages", "frames", "heat_maps"])
def test_a_folder_that_leads_elsewhere_is_refused(photos, tmp_path, name):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    predicted(photos, out)
    elsewhere.mkdir()
    (elsewhere / "a.png").write_bytes(b"mine")
    (out / name).symlink_to(elsewhere)
    with pytest.raises(ValueError, match=f"out/{name}"):
        predicted(photos, out)
    assert [path.read_bytes() for path in elsewhere.iterdir()] == [b"mine"]


def test_a_link_made_after_the_start_is_refused(photos, tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder = PredictionFolder(out, {})
    (out / "heat_maps").mkdir()
    (out / "heat_maps/a").symlink_to(elsewhere)
    for name in ("heat_maps/a/x.png", "heat_maps/a/below/x.png"):
        with pytest.raises(ValueError, match=r"heat_maps/a"):
            folder.write(name, b"png")
    for name in ("../x.png", "/tmp/x.png", "drawings/../../x.png", "", "drawings/"):
        with pytest.raises(ValueError, match=r"is no name of a file"):
            folder.write(name, b"png")
    assert not list(elsewhere.iterdir()) and not (tmp_path / "x.png").exists()


def test_links_in_place_of_files_are_replaced(photos, tmp_path, drawn):
    """Also those to what is no regular file, into which it would be written."""
    out, target = tmp_path / "out", tmp_path / "target"
    predicted(photos, out, html="one", drawings=1).merge()
    names = ["drawings/a.png", "predictions.json", "index.html"]
    for to in (target, tmp_path / "pipe", tmp_path, tmp_path / "nothing"):
        target.write_bytes(b"mine")
        if not (tmp_path / "pipe").exists():
            os.mkfifo(tmp_path / "pipe")
        for name in names:
            (out / name).unlink()
            (out / name).symlink_to(to)
        run = predicted(photos, out, html="one", drawings=1)
        assert run.done == 1 and "3 images in" in run.merge()
        assert target.read_bytes() == b"mine" and not (tmp_path / "nothing").exists()
        assert not any((out / name).is_symlink() for name in names)


@pytest.mark.parametrize(
    "name",
    [
        ".lock",
        "settings.json",
        "predictions-00000-of-00001.jsonl",
        "predictions-00000-of-00001.jsonl.part",
    ],
)
@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "folder"])
def test_what_a_run_opens_is_a_file_of_the_folder(photos, tmp_path, name, kind):
    """A pipe would wait for ever; through a link it would write, or create, elsewhere."""
    out, target = tmp_path / "out", tmp_path / "target"
    predicted(photos, out)
    target.write_bytes(b"mine")
    (out / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(out / name)
    elif kind == "folder":
        (out / name).mkdir()
    else:
        (out / name).symlink_to(target if kind == "link" else tmp_path / "nothing")
    with pytest.raises(ValueError, match=name):
        predicted(photos, out)
    assert target.read_bytes() == b"mine" and not (tmp_path / "nothing").exists()


def test_names_of_files_fit_any_system():
    for text in ("CON", "nul", "aux.tar", "Com1", "lpt9", "a/b\\c:d", ".x", "\ud800", "", "ä" * 99):
        name = fit_name(text)
        assert fit_name(name) == name and not set(name) & set('/\\:\0"<>|?*') and name
        assert name.split(".")[0].casefold() not in ("con", "nul", "aux", "com1", "lpt9")
        assert len(name.encode()) <= 200
    assert fit_name("console") == "console" and fit_name("street.old") == "street.old"


def test_an_empty_drawing_is_made_again(photos, tmp_path, drawn):
    """As a power cut may leave it."""
    out = tmp_path / "out"
    predicted(photos, out, drawings=1)
    (out / "drawings/b.png").write_bytes(b"")
    run = predicted(photos, out, drawings=1)
    assert (run.done, run.skipped) == (1, 2) and (out / "drawings/b.png").stat().st_size


def test_what_a_kill_left_goes_at_the_next_start(photos, tmp_path, drawn, monkeypatch):
    out = tmp_path / "out"
    child = os.fork()
    if not child:
        run = start(photos, out, drawings=1)
        write = run.folder.write

        def killed(name, content, **options):
            if name == "drawings/b.png":
                with atomic_files.atomic_write(out / name) as unfinished:
                    unfinished.write_bytes(content[:50])
                    os.kill(os.getpid(), 9)
            write(name, content, **options)

        run.folder.write = killed
        run.work()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
    assert len(list((out / "drawings").glob(".*"))) == 1
    run = predicted(photos, out, drawings=1)
    assert (run.done, run.skipped) == (2, 1)
    assert not list((out / "drawings").glob(".*")) and not list(out.glob("*.part"))


@pytest.mark.parametrize(("shard", "shards"), [(2, 2), (-1, 1), (0, 0)])
def test_a_number_of_a_process_that_cannot_be(tmp_path, shard, shards):
    with pytest.raises(ValueError, match=str(shard)):
        PredictionFolder(tmp_path / "out", {}, shard=shard, shards=shards)
