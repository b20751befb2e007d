"""tools/dataset.py: every command on files and registered names, as a user would call it."""

import json
import subprocess
import sys
from itertools import chain

import numpy as np
import pytest
from conftest import TINY_OBJECTS, TINY_PREDICATES, tiny_images
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from vrd_d2.data.datasets.registrar import exclude_images
from vrd_d2.data.datasets.setup import register_user_datasets
from vrd_d2.data.formats.relations_json import load_relations_json, save_relations_json
from vrd_d2.data.vocabulary import SCENES, Vocabulary, get_vocabulary

TINY = Vocabulary(TINY_OBJECTS, TINY_PREDICATES)


@pytest.fixture
def run(run_dataset_tool):
    return run_dataset_tool


@pytest.fixture
def tiny(tmp_path):
    """data.json with its five images in images/."""
    (tmp_path / "images").mkdir()
    path = tmp_path / "data.json"
    save_relations_json(tiny_images(tmp_path / "images"), TINY, path)
    return path


def content(path):
    """What must survive a conversion."""
    return [
        (
            record["image_id"],
            (record["height"], record["width"]),
            [(a["bbox"], a["category_id"]) for a in record["annotations"]],
            record["relations"].tolist(),
            np.asarray(Image.open(record["file_name"])).sum(),
        )
        for record in load_relations_json(path)
    ]


def test_check_of_a_dataset_in_order(run, tiny):
    code, out, _ = run("check", tiny)
    assert code == 0
    assert "has no area; it is kept" in out and "is related to itself" in out
    assert f"{tiny}: 5 images, 0 errors, 3 warnings" in out


def test_check_finds_bad_images_and_lists_them(run, tiny, tmp_path):
    images = tmp_path / "images"
    (images / "0.png").unlink()
    content = (images / "1.png").read_bytes()
    (images / "1.png").write_bytes(content[:-400])
    Image.new("RGB", (7, 7)).save(images / "2.png")
    image = Image.open(images / "4.png")
    image.load()
    exif = Image.Exif()
    exif[0x0112] = 3
    image.save(images / "4.png", exif=exif)
    bad = tmp_path / "lists" / "bad.txt"
    code, out, _ = run("check", tiny, "--bad-list", bad, "--workers", 0)
    assert code == 1
    assert "images[0] (id 1): there is no image" in out and out.count("0.png") == 1
    assert "1.png" in out and f"{len(content) - 400} bytes" in out
    assert "7 x 7" in out
    assert f"warning: {tiny}: 1 images" in out and "EXIF" in out and "4.png" in out
    assert bad.read_text() == "images/0.png\nimages/1.png\nimages/2.png\n"
    assert "3 errors, 4 warnings" in out
    # and the list is what DATASETS.EXCLUDE takes
    name = f"excluded_{tmp_path.name}"
    register_user_datasets([[name, str(tiny), ""]])
    exclude_images(bad, [name])
    assert [record["image_id"] for record in DatasetCatalog.get(name)] == [4, 5]
    exclude_images("", [name])


def test_check_tells_of_records_first(run, tiny, tmp_path):
    document = json.loads(tiny.read_text())
    document["relations"][0]["object_id"] = 99
    tiny.write_text(json.dumps(document))
    bad = tmp_path / "bad.txt"
    code, out, _ = run("check", tiny, "--bad-list", bad)
    assert code == 1 and not bad.exists()
    assert f"error: {tiny}: relations[0] (id 1): object_id 99 is not an id of annotations" in out
    assert "Repair these records and check again" in out


def test_check_shows_a_few_messages_or_all(run, tiny):
    document = json.loads(tiny.read_text())
    for row in document["relations"]:
        row["predicate_id"] = 77
    tiny.write_text(json.dumps(document))
    assert "... and 7 more errors" in run("check", tiny, "--show", 3)[1]
    assert run("check", tiny, "--show", 0)[1].count("predicate_id 77") == 10


def test_stats_of_a_file(run, tiny, tmp_path):
    folder = tmp_path / "statistics"
    code, out, _ = run("stats", tiny, "--output", folder)
    assert code == 0 and "man - dog" in out
    written = json.loads((folder / "statistics.json").read_text())
    assert written["relations_per_image"] == {"0": 2, "3": 2, "4": 1}
    assert {path.name for path in folder.iterdir()} == {
        "statistics.json", "classes.png", "images.png", "predicates.png", "class_pairs.png",
    }  # fmt: skip


def test_stats_need_no_images(run, tiny, tmp_path):
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    assert run("stats", tiny)[0] == 0


@pytest.mark.parametrize("copy", [False, True])
def test_convert_a_file(run, tiny, tmp_path, copy):
    output = tmp_path / "elsewhere" / "new.json"
    code, out, _ = run("convert", tiny, output, *["--copy-images"] * copy)
    assert code == 0 and f"{output}: 5 images, 10 relations" in out
    assert content(output) == content(tiny)
    names = [image["file_name"] for image in json.loads(output.read_text())["images"]]
    assert names[0] == ("images/0.png" if copy else "../images/0.png")
    tmp_path = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}_moved"))  # all together
    assert len(load_relations_json(tmp_path / "elsewhere/new.json")) == 5


def test_convert_a_registered_dataset(run, tmp_path, repository):
    if not (repository / "datasets/scenes/val.json").is_file():
        pytest.skip("the scenes are not drawn: python datasets/prepare_scenes.py")
    output = tmp_path / "scenes.json"
    root = repository / "datasets"
    assert run("convert", "scenes_val", output, "--root", root)[0] == 0
    assert content(output) == content(root / "scenes/val.json")
    assert get_vocabulary(output) == SCENES


def test_convert_into_other_ids(run, tiny, tmp_path):
    other = tmp_path / "names.json"
    vocabulary = Vocabulary(("hat", "cat", "dog", "man"), (*reversed(TINY_PREDICATES), "eating"))
    other.write_text(
        json.dumps({"objects": vocabulary.objects, "predicates": vocabulary.predicates})
    )
    output = tmp_path / "new.json"
    assert run("convert", tiny, output, "--vocabulary", other)[0] == 0
    assert get_vocabulary(output) == vocabulary

    def by_name(path, names):
        return [
            [
                *(names.objects[a["category_id"]] for a in record["annotations"]),
                *((s, names.predicates[p], o) for s, o, p in record["relations"].tolist()),
            ]
            for record in load_relations_json(path)
        ]

    assert by_name(output, vocabulary) == by_name(tiny, TINY)


def test_boxes_only_get_their_predicates_from_a_vocabulary(run, tiny, tmp_path):
    document = json.loads(tiny.read_text())
    boxes = {k: v for k, v in document.items() if k not in ("predicates", "relations")}
    path, output = tmp_path / "boxes.json", tmp_path / "new.json"
    path.write_text(json.dumps(boxes))
    assert run("check", path)[0] == run("stats", path)[0] == 0
    code, _, err = run("convert", path, output)
    assert code == 1 and err.startswith(f"error: {path} has boxes only: name the predicates")
    assert run("convert", path, output, "--vocabulary", tiny)[0] == 0
    assert get_vocabulary(output) == TINY
    assert [a[:3] for a in content(output)] == [a[:3] for a in content(tiny)]


def test_split_by_image(run, tiny, tmp_path):
    folder = tmp_path / "parts"
    arguments = ("split", tiny, "--output", folder, "--val", 1, "--test", "0.4", "--seed", 5)
    code, out, _ = run(*arguments)
    assert code == 0 and f"{folder / 'test.json'}: 2 images" in out
    parts = {name: content(folder / f"{name}.json") for name in ("train", "val", "test")}
    assert [len(part) for part in parts.values()] == [2, 1, 2]
    assert sorted(chain.from_iterable(parts.values())) == sorted(content(tiny))
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    run(*arguments)
    assert first == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert all(get_vocabulary(folder / name) == TINY for name in first)


def test_zero_shot_triplets_reach_the_evaluator(run, tiny, tmp_path):
    folder = tmp_path / "parts"
    run("split", tiny, "--output", folder, "--val", 0, "--test", 2, "--seed", 1)
    output = folder / "zero_shot.json"
    code, out, _ = run("zero-shot", folder / "train.json", folder / "test.json", "--output", output)
    rows = json.loads(output.read_text())
    assert code == 0 and f"{output}: {len(rows)} triplets" in out and rows

    def triplets(name):
        return {
            (
                TINY_OBJECTS[record["annotations"][s]["category_id"]],
                TINY_PREDICATES[p],
                TINY_OBJECTS[record["annotations"][o]["category_id"]],
            )
            for record in load_relations_json(folder / f"{name}.json")
            for s, o, p in record["relations"].tolist()
        }

    assert set(map(tuple, rows)) == triplets("test") - triplets("train")
    name = f"zero_{tmp_path.name}"
    register_user_datasets([[name, str(folder / "test.json"), ""]])
    DatasetCatalog.get(name)
    assert {
        (TINY_OBJECTS[s], TINY_PREDICATES[p], TINY_OBJECTS[o])
        for s, o, p in MetadataCatalog.get(name).zero_shot_triplets
    } == set(map(tuple, rows))


def test_zero_shot_of_two_vocabularies(run, tiny, tmp_path, repository):
    other = tmp_path / "other.json"
    save_relations_json(
        load_relations_json(tiny), Vocabulary(TINY_OBJECTS, (*TINY_PREDICATES, "eating")), other
    )
    code, _, err = run("zero-shot", tiny, other)
    assert code == 1 and "have different classes or predicates" in err


def test_public_annotation_without_images(run, samples, tmp_path):
    """Stanford VRD as it is published: its own format, and no image here."""
    (tmp_path / "vrd").mkdir()
    for path in (samples / "vrd").iterdir():
        (tmp_path / "vrd" / path.name).symlink_to(path)
    code, out, _ = run("stats", "vrd_test", "--root", tmp_path)
    assert code == 0 and "7,638" in out and "1,000 images, whose size" in out
    code, out, _ = run("check", "vrd_test", "--root", tmp_path, "--workers", 0, "--show", 1)
    assert code == 1 and "1000 images, 1000 errors, 187 warnings" in out
    arguments = ("convert", "vrd_test", tmp_path / "vrd.json", "--root", tmp_path)
    assert run(*arguments)[0] == 1  # the images are missing, which is an error by default
    code, out, _ = run(*arguments, "--missing-images", "keep")
    assert code == 0 and "1000 images, 7638 relations" in out
    written = load_relations_json(tmp_path / "vrd.json", missing_images="keep")
    assert len(written) == 1000 and not any("width" in record for record in written)
    code, out, _ = run("check", tmp_path / "vrd.json", "--workers", 0, "--show", 1)
    assert code == 1 and "1000 errors" in out and "1000 have no size" in out


def test_raw_visual_genome(run, samples, tmp_path):
    folder = tmp_path / "visual_genome"
    folder.mkdir()
    for path in (samples / "visual_genome").iterdir():
        (folder / path.name).symlink_to(path)
    bad = tmp_path / "bad.txt"
    code, _, _ = run("check", "visual_genome_raw", "--root", tmp_path, "--bad-list", bad)
    assert code == 1 and bad.read_text() == "images/3.jpg\n"  # annotated, but the file is missing
    output = tmp_path / "vg/all.json"
    skip = ("--missing-images", "skip", "--copy-images", "--root", tmp_path)
    assert run("convert", "visual_genome_raw", output, *skip)[0] == 0
    assert sorted(path.name for path in (tmp_path / "vg/images").rglob("*.jpg")) == [
        f"{i}.jpg" for i in (1, 2, 4, 5)
    ]
    assert run("check", output)[0] == 0


def test_a_wrong_call_is_one_line_and_no_traceback(repository, tmp_path):
    done = subprocess.run(
        [sys.executable, str(repository / "tools/dataset.py"), "stats", str(tmp_path / "no.json")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"error: there is no file {tmp_path / 'no.json'}: check the path"
    )
