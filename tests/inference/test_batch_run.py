"""Runs over what people really have, with a model that is none: nothing ends a run but the disk."""

import json
import os
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vrd_d2.data.formats.relations_json import load_relations_json
from vrd_d2.data.vocabulary import Vocabulary
from vrd_d2.inference.batch_folder import PredictionFolder
from vrd_d2.inference.batch_run import FileOptions, PredictionRun
from vrd_d2.media.search import find_media
from vrd_d2.scene_graph import SceneGraph


class Wearer:
    """Sees a man who wears a hat in every image, unless `fails` says otherwise."""

    vocabulary = Vocabulary(("man", "hat"), ("on", "wearing"))
    needs_boxes = takes_boxes = needs_labels = explains = False

    def __init__(self, fails=lambda image: None):
        self.fails = fails

    def __call__(self, image, **_):
        graphs = []
        for pixels in image:
            self.fails(pixels)
            height, width = pixels.shape[:2]
            boxes = np.array([[0, 0, width, height], [0, 0, width / 2, height / 4]])
            graphs.append(
                SceneGraph(
                    boxes,
                    ["man", "hat"],
                    [(0, 1, "wearing")],
                    [0.5],
                    [0.9, 0.8],
                    size=(width, height),
                )
            )
        return graphs


def image(path: Path, width: int = 32, height: int = 24) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 120, np.uint8)).save(path)
    return path


def start(
    inputs, output, model=None, boxes_file=None, rank=0, shards=1, **changes
) -> PredictionRun:
    files = {"drawings": 0, "html": "none", "every": 2, "max_pixels": 10_000, **changes}
    return PredictionRun(
        model or Wearer(),
        [str(path) for path in inputs],
        output,
        settings={"model": "wearer"},
        graph_options={"top_k": 3},
        files=FileOptions(**files),
        boxes_file=boxes_file,
        rank=rank,
        shards=shards,
    )


def predicted(*arguments, **changes) -> PredictionRun:
    run = start(*arguments, **changes)
    run.work()
    return run


@pytest.mark.skipif(sys.platform != "linux", reason="names there are bytes only on Linux")
def test_names_that_are_no_text(tmp_path):
    """As old archives have them. The rest goes on, and a second run knows what is done."""
    folder = tmp_path / "photos"
    for name in ("aaa.png", os.fsdecode(b"caf\xe9.png"), "zzz\x1b[1m\n.png"):
        image(folder / name)
    for done in (3, 0):
        run = predicted([folder], tmp_path / "out", drawings=1, html="one")
        assert (run.done, run.skipped, run.broken) == (done, 3 - done, [])
    assert "3 images in" in run.merge()
    dicts = load_relations_json(tmp_path / "out/predictions.json")
    assert sorted(os.fsencode(Path(d["file_name"]).name) for d in dicts) == [
        b"aaa.png",
        b"caf\xe9.png",
        b"zzz\x1b[1m\n.png",
    ]
    page = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert '"title":"caf\\\\udce9.png"' in page and "zzz\\\\x1b[1m\\\\n.png" in page


def test_what_cannot_be_written_of_an_image_is_named(tmp_path, monkeypatch):
    """It is that image's fault, unless the disk is full: then no other would fare better."""
    photos = [image(tmp_path / f"{name}.png", width) for name, width in (("a", 30), ("b", 31))]
    draw = SceneGraph.draw

    def fails(graph, image, **options):
        if image.shape[1] == 30:
            raise ValueError("box 1 is not finite")
        return draw(graph, image, **options)

    monkeypatch.setattr(SceneGraph, "draw", fails)
    run = predicted(photos, tmp_path / "out", drawings=1)
    assert run.done == 1 and run.broken == [f"{photos[0]}: box 1 is not finite"]
    assert run.merge().startswith("1 image in")

    def is_full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SceneGraph, "draw", is_full)
    with pytest.raises(OSError, match="No space left"):
        predicted(photos, tmp_path / "other", drawings=1)


def test_a_page_of_all_leaves_out_what_was_moved_away(tmp_path):
    a, b = (image(tmp_path / f"in/{name}.png") for name in "ab")
    predicted([a, b], tmp_path / "out", html="one")
    a.unlink()
    run = predicted([b], tmp_path / "out", html="one")
    assert "2 images in" in run.merge()
    assert len(run.off_page) == 1 and "a.png cannot be read" in run.off_page[0]
    page = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert "<title>b.png</title>" in page
    (tmp_path / "out/index.html").unlink()
    b.unlink()
    run = predicted([image(tmp_path / "c.jpg")], tmp_path / "new", html="one")
    (tmp_path / "c.jpg").unlink()
    run.merge()
    assert len(run.off_page) == 1 and not (tmp_path / "new/index.html").exists()


def test_a_page_of_all_holds_few_images_at_a_time(tmp_path, monkeypatch):
    import vrd_d2.inference.batch_run as module

    photos = [image(tmp_path / f"{i}.png") for i in range(8)]
    run = predicted(photos, tmp_path / "out", html="one")
    alive, most = [], []
    original = module.GraphPage

    def counted(*arguments):
        page = original(*arguments)
        alive.append(weakref.ref(page))
        most.append(sum(reference() is not None for reference in alive))
        return page

    monkeypatch.setattr(module, "GraphPage", counted)
    run.merge()
    assert len(most) == 8 and max(most) <= 3


def test_a_video_of_large_frames_is_refused(tmp_path):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    video = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 5, (160, 120))
    for _ in range(3):
        writer.write(np.zeros((120, 160, 3), np.uint8))
    writer.release()
    run = predicted([video], tmp_path / "out")
    assert run.done == 0 and "160 x 120 pixels, 0 million: the limit is 0.01" in run.broken[0]
    assert predicted([video], tmp_path / "larger", max_pixels=20_000).done == 2


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    pytest.importorskip("fcntl", reason="files are locked on Unix only")
    photo = image(tmp_path / "a.png")
    run = start([photo], tmp_path / "out")
    other = os.fork()
    if not other:  # a lock belongs to a process
        try:
            start([photo], tmp_path / "out")
        except ValueError as error:
            os._exit(7 if "another run is writing to" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) == 7
    run.work()
    assert predicted([photo], tmp_path / "out").skipped == 1


def test_a_line_cut_off_within_a_letter_is_done_again(tmp_path):
    photos = [image(tmp_path / f"{name}.png") for name in ("ä", "b")]
    predicted(photos, tmp_path / "out")
    (journal,) = (tmp_path / "out").glob("*.jsonl")
    content = journal.read_bytes()
    first = content.index("ä".encode()) + 1
    journal.with_name(f"{journal.name}.part").write_bytes(content[:first])
    journal.unlink()
    assert predicted(photos, tmp_path / "out").done == 2


def test_many_images_of_one_name(tmp_path):
    """In so many steps as there are images, not in its square."""
    folder = PredictionFolder(tmp_path / "out", {})
    sources = [f"../{i}/image.png" for i in range(20_000)]
    names = folder.names(sources)
    assert len(set(names.values())) == 20_000
    assert names["../0/image.png"] == "image" and names[sources[-1]] == "image-20000"


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    photo = image(tmp_path / "photos/a.png")
    with pytest.raises(ValueError, match="photos"):
        start([photo], tmp_path / "photos")
    assert [path.name for path in photo.parent.iterdir()] == ["a.png"]


def test_processes_that_begin_together_share_a_new_folder(tmp_path, monkeypatch):
    """One writes the settings and its first line between two looks of the other."""
    photo, out = image(tmp_path / "a.png"), tmp_path / "out"
    exists, first = Path.exists, []

    def slow(path):
        answer = exists(path)
        if path.name == "settings.json" and not first:
            first.append(True)
            first.append(start([photo], out, shards=2))
        return answer

    monkeypatch.setattr(Path, "exists", slow)
    second = start([photo], out, rank=1, shards=2)
    monkeypatch.undo()
    for run in (first[1], second):
        run.work()
    assert second.merge().startswith("1 image in")


def test_new_images_among_the_old_are_not_predicted_twice(tmp_path):
    """With them, old ones fall to another process than before."""
    for name in "bdf":
        image(tmp_path / f"in/{name}.png")
    for done in (3, 1):
        runs = []
        for rank in (0, 1):
            runs.append(predicted([tmp_path / "in"], tmp_path / "out", rank=rank, shards=2))
        assert sum(run.done for run in runs) == done
        image(tmp_path / "in/a.png")
    assert runs[1].merge().startswith("4 images in")
    dicts = load_relations_json(tmp_path / "out/predictions.json")
    assert sorted(Path(d["file_name"]).name for d in dicts) == ["a.png", "b.png", "d.png", "f.png"]


def test_an_output_folder_behind_a_link(tmp_path):
    photo = image(tmp_path / "in/a.png")
    (tmp_path / "disk/deep").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk/deep")
    run = predicted([photo], tmp_path / "out", html="one")
    assert run.merge().startswith("1 image in") and not run.off_page
    assert (tmp_path / "out/index.html").is_file()
    (record,) = load_relations_json(tmp_path / "disk/deep/predictions.json")
    assert os.path.samefile(record["file_name"], photo)
    image(photo, 40)  # another image in its place
    assert predicted([photo], tmp_path / "out", html="one").done == 1


def test_folders_that_cannot_be_read_are_among_what_is_not_used(tmp_path, monkeypatch):
    photo = image(tmp_path / "in/a.png")
    found = find_media([photo])
    found.unreadable.append("the folder in/locked cannot be read: Permission denied")
    monkeypatch.setattr("vrd_d2.inference.batch_run.find_media", lambda *_, **__: found)
    runs = [predicted([photo], tmp_path / "out", rank=rank, shards=2) for rank in (0, 1)]
    assert [run.broken for run in runs] == [found.unreadable, []]


def test_so_many_relations_are_drawn(tmp_path, monkeypatch):
    asked = []
    draw = SceneGraph.draw
    monkeypatch.setattr(
        SceneGraph, "draw", lambda graph, *a, **kw: (asked.append(kw), draw(graph, *a, **kw))[1]
    )
    predicted([image(tmp_path / "a.png")], tmp_path / "out", drawings=7)
    assert asked == [{"top_k": 7}]


def test_one_entry_of_boxes_does_not_serve_two_images(tmp_path):
    photos = [image(tmp_path / f"{folder}/x.png") for folder in "ab"]
    boxes = tmp_path / "boxes.json"
    content = {"images": [{"id": 1, "file_name": "x.png"}], "annotations": [], "categories": []}
    boxes.write_text(json.dumps(content))
    model = Wearer()
    model.takes_boxes = True
    with pytest.raises(ValueError, match=r"x\.png.*a/x\.png.*b/x\.png"):
        start(photos, tmp_path / "out", model, boxes_file=boxes)
    assert start(photos[:1], tmp_path / "out", model, boxes_file=boxes)


@pytest.mark.skipif(sys.platform != "linux", reason="names there are bytes only on Linux")
def test_a_video_whose_name_is_no_text_is_named(tmp_path):
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    video = tmp_path / os.fsdecode(b"caf\xe9.avi")
    video.write_bytes(b"RIFF")
    run = predicted([tmp_path], tmp_path / "out")
    assert run.done == 0 and "its name is no text" in run.broken[0]


def test_what_the_model_does_not_take_is_refused_before_the_run(tmp_path):
    photo = image(tmp_path / "a.png")
    boxes = tmp_path / "boxes.json"
    boxes.write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(ValueError, match="boxes"):
        start([photo], tmp_path / "out", boxes_file=boxes)
    with pytest.raises(ValueError, match="heat maps"):
        start([photo], tmp_path / "out", heat_maps=2)
    explaining = Wearer()
    explaining.explains = True
    with pytest.raises(ValueError, match="'riding'"):
        start([photo], tmp_path / "out", explaining, heat_maps=["riding"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["[]", "null", "5", '"x"', b"\xff\xfe{"])
def test_broken_settings_are_named(tmp_path, content):
    (tmp_path / "out").mkdir()
    file = tmp_path / "out/settings.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"settings"):
        start([image(tmp_path / "a.png")], tmp_path / "out")


def test_drawings_may_be_jpegs(tmp_path):
    inputs, output = [image(tmp_path / "a.png")], tmp_path / "out"
    run = predicted(inputs, output, drawings=1, drawing_format="jpg")
    assert run.done == 1
    (drawing,) = (output / "drawings").iterdir()
    assert drawing.name == "a.jpg" and Image.open(drawing).format == "JPEG"
    assert predicted(inputs, output, drawings=1, drawing_format="jpg").skipped == 1
    with pytest.raises(ValueError, match="drawing_format"):
        start(inputs, output, drawings=1)


def test_a_folder_of_a_version_without_formats_of_drawings_is_continued(tmp_path):
    inputs, output = [image(tmp_path / "a.png")], tmp_path / "out"
    predicted(inputs, output, drawings=1)
    assert "drawing_format" not in json.loads((output / "settings.json").read_text())
    assert predicted(inputs, output, drawings=1).skipped == 1
