"""Folders of predictions: what is continued, what is refused, and the document of it all."""

import json

import pytest

from vrd_d2.data.formats.relations_json import load_relations_json, validate_relations_json
from vrd_d2.data.vocabulary import Vocabulary
from vrd_d2.inference.batch_folder import PredictionFolder, predictions_document

SETTINGS = {"weights": "abc", "top_k": 5, "objects": ("man", "hat")}
GRAPH = {
    "width": 40,
    "height": 30,
    "entities": [
        {"id": 0, "label": "man", "bbox": [1.5, 2, 20, 20], "score": 0.9},
        {"id": 1, "label": "hat", "bbox": [5, 2, 9, 4], "score": 0.8},
    ],
    "relations": [{"subject": 0, "predicate": "wearing", "object": 1, "score": 0.7}],
}


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (folder / name).write_bytes(name.encode())
    return folder


def record(folder: PredictionFolder, path, **changes) -> dict:
    return {
        "file_name": folder.relative(path),
        "name": path.stem,
        "stamp": folder.stamp(path),
        "notes": [],
        **GRAPH,
        **changes,
    }


def test_what_is_complete_is_not_done_again(images, tmp_path):
    def start():
        return PredictionFolder(tmp_path / "out", SETTINGS)

    folder = start()
    a, b, c = (images / name for name in ("a.jpg", "b.jpg", "c.jpg"))
    folder.write("drawings/a.png", b"png")
    folder.add(record(folder, a, drawing="drawings/a.png"))
    folder.add({"file_name": folder.relative(b), "name": "b", "stamp": [1, 2], "error": "broken"})
    folder.add(record(folder, c))
    # A process that was killed while it wrote a line.
    (tmp_path / "out/predictions-00000-of-00001.jsonl.part").open("a").write('{"file_name": "..')

    folder = start()
    assert [folder.is_done(folder.relative(path)) for path in (a, b, c)] == [True, False, True]
    assert folder.records() is None
    folder.close()
    assert [r["name"] for r in folder.records()] == ["a", "c"]

    # Finished, and then an image changes, a drawing goes, an image is moved away.
    c.write_bytes(b"another image")
    folder = start()
    assert [folder.is_done(folder.relative(path)) for path in (a, b, c)] == [True, False, False]
    folder.add(record(folder, c, height=31))
    folder.close()
    assert [r["height"] for r in folder.records()] == [30, 31]
    (tmp_path / "out/drawings/a.png").unlink()
    c.unlink()
    folder = start()
    assert [folder.is_done(folder.relative(path)) for path in (a, c)] == [False, True]


def test_frames_are_done_one_by_one(images, tmp_path):
    folder = PredictionFolder(tmp_path / "out", SETTINGS)
    folder.write("frames/a/000030.png", b"png")
    video = record(folder, images / "a.jpg", video=folder.relative(images / "a.jpg"), frame=30)
    folder.add({**video, "file_name": "frames/a/000030.png"})
    folder = PredictionFolder(tmp_path / "out", SETTINGS)
    assert folder.is_done("../in/a.jpg", 30) and not folder.is_done("../in/a.jpg", 60)
    assert not folder.is_done("../in/a.jpg")


def test_shards_are_whole_together(images, tmp_path):
    folders = [PredictionFolder(tmp_path / "out", SETTINGS, shard=i, shards=2) for i in range(2)]
    for folder, name in zip(folders, ("b.jpg", "a.jpg"), strict=True):
        folder.add(record(folder, images / name))
        assert folder.records() is None
    folders[0].close()
    assert folders[0].records() is None
    folders[1].close()
    assert [r["name"] for r in folders[0].records()] == ["a", "b"]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        ".lock",
        "settings.json",
        "predictions-00000-of-00002.jsonl",
        "predictions-00001-of-00002.jsonl",
    }
    with pytest.raises(ValueError, match=r"shards.*2.*1"):
        PredictionFolder(tmp_path / "out", SETTINGS)


def test_other_settings_are_refused(tmp_path):
    PredictionFolder(tmp_path, SETTINGS).close()
    PredictionFolder(tmp_path, SETTINGS).close()
    with pytest.raises(ValueError, match=r"weights.*abc.*xyz"):
        PredictionFolder(tmp_path, {**SETTINGS, "weights": "xyz"})
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(ValueError, match=r"settings\.json"):
        PredictionFolder(tmp_path, SETTINGS)
    with pytest.raises(ValueError, match=r"settings\.json/below"):
        PredictionFolder(tmp_path / "settings.json" / "below", SETTINGS)


def test_names_do_not_meet_and_stay(images, tmp_path):
    sources = ["../x/a.jpg", "../y/a.jpg", "../A.png", "../z/a?:b.jpg", "../.jpg", "../a-2.jpg"]
    folder = PredictionFolder(tmp_path / "out", SETTINGS)
    names = folder.names(sources)
    assert list(names.values()) == ["a", "a-2", "A-3", "a__b", "jpg", "a-2-2"]
    folder.add({"file_name": "../y/a.jpg", "name": "a-2", "stamp": None, "error": "x"})
    # Another image comes before; what has a name keeps it.
    later = PredictionFolder(tmp_path / "out", SETTINGS).names(["../new/a.jpg", *sources])
    assert later["../y/a.jpg"] == "a-2" and len({n.casefold() for n in later.values()}) == 7
    long = folder.names([f"{'ä' * 300}{i}.jpg" for i in range(3)])
    assert len(set(long.values())) == 3
    for name in long.values():
        folder.write(f"drawings/{name}.png", b"")


def test_the_document_is_relations_json(images, tmp_path):
    folder = PredictionFolder(tmp_path / "out", SETTINGS)
    for name in ("b.jpg", "a.jpg"):
        folder.add(record(folder, images / name))
    folder.add({"file_name": "../in/c.jpg", "name": "c", "stamp": None, "error": "broken"})
    folder.close()
    document = predictions_document(folder.records(), Vocabulary(("man", "hat"), ("on", "wearing")))
    path = tmp_path / "out/predictions.json"
    path.write_text(json.dumps(document))
    assert validate_relations_json(path) == []
    first, second = load_relations_json(path)
    assert first["file_name"].endswith("in/a.jpg") and second["image_id"] == 2
    assert [a["bbox"] for a in second["annotations"]] == [[1.5, 2, 21.5, 22], [5, 2, 14, 6]]
    assert second["relations"].tolist() == [[0, 1, 1]]
    assert [row["score"] for row in document["relations"]] == [0.7, 0.7]
    assert [row["score"] for row in document["annotations"]] == [0.9, 0.8] * 2
