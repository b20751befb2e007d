"""tools/dataset.py split and convert: records stay as they are, whatever their ids and keys."""

import json

import numpy as np
import pytest
from PIL import Image

from vrd_d2.data.formats.coco import load_detections
from vrd_d2.data.formats.relations_document import contiguous_ids


@pytest.fixture
def run(run_dataset_tool):
    return run_dataset_tool


@pytest.fixture
def whole(tmp_path):
    """The content of all.json: category ids from 0, text ids, and keys that no loader reads."""
    (tmp_path / "images").mkdir()
    for i in range(4):
        Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(tmp_path / f"images/{i}.png")
    document = {
        "info": {"year": 2024, "contributor": "someone"},
        "licenses": [{"id": 1, "name": "CC"}],
        "images": [
            {"id": f"i{i}", "file_name": f"images/{i}.png", "width": 80, "height": 60, "license": i}
            for i in range(4)
        ],
        "categories": [
            {"id": 7, "name": "disk", "supercategory": "shape"},
            {"id": 0, "name": "box", "keypoints": ["a"]},
        ],
        "predicates": [{"id": 5, "name": "on", "kind": "spatial"}, {"id": 2, "name": "under"}],
        "annotations": [
            {
                "id": f"a{i}{j}", "image_id": f"i{i}", "category_id": 7 * j, "bbox": [5, 6, 20, 30],
                "area": 40.25, "iscrowd": 0, "segmentation": [[0, 0, 9, 0, 9, 9]], "occluded": True,
            }
            for j in range(2) for i in range(4)
        ],
        "relations": [
            {
                "id": 100 + i, "image_id": f"i{i}", "subject_id": f"a{i}0", "object_id": f"a{i}1",
                "predicate_id": 5, "annotator": "x",
            }
            for i in range(4)
        ],
    }  # fmt: skip
    (tmp_path / "all.json").write_text(json.dumps(document))
    return document


def of_images(document, ids):
    """The document with some images, made in the plainest way."""
    part = dict(document)
    part["images"] = [image for image in document["images"] if image["id"] in ids]
    for name in ("annotations", "relations"):
        part[name] = [record for record in document[name] if record["image_id"] in ids]
    return part


def test_split_keeps_ids_and_keys(run, whole, tmp_path):
    code, _, _ = run(
        "split", tmp_path / "all.json", "--output", tmp_path, "--val", 1, "--test", 0.5
    )
    assert code == 0
    found = set()
    for name in ("train", "val", "test"):
        part = json.loads((tmp_path / f"{name}.json").read_text())
        ids = {image["id"] for image in part["images"]}
        assert part == of_images(whole, ids)
        found |= ids
    assert len(found) == 4


def test_detections_mean_the_same_classes_after_a_split(run, whole, tmp_path):
    rows = [{"image_id": "i0", "category_id": c, "bbox": [5, 6, 20, 30]} for c in (0, 7)]
    (tmp_path / "det.json").write_text(json.dumps(rows))
    run("split", tmp_path / "all.json", "--output", tmp_path / "out", "--val", 0, "--test", 0.5)
    for path in (tmp_path / "all.json", tmp_path / "out/test.json", tmp_path / "out/train.json"):
        ids = contiguous_ids(json.loads(path.read_text())["categories"])
        assert load_detections(tmp_path / "det.json", ids)["i0"].classes.tolist() == [0, 1]


def test_convert_keeps_all_but_the_folder_of_the_images(run, whole, tmp_path):
    output = tmp_path / "elsewhere/new.json"
    code, _, _ = run("convert", tmp_path / "all.json", output)
    assert code == 0
    new = json.loads(output.read_text())
    for image in new["images"]:
        image["file_name"] = image["file_name"].removeprefix("../")
    assert new == whole
    run("convert", tmp_path / "all.json", tmp_path / "copied/new.json", "--copy-images")
    assert json.loads((tmp_path / "copied/new.json").read_text()) == whole


def test_convert_without_missing_images_keeps_the_others(run, whole, tmp_path):
    (tmp_path / "images/2.png").unlink()
    arguments = ("convert", tmp_path / "all.json", tmp_path / "new.json")
    assert run(*arguments)[0] == 1
    assert run(*arguments, "--missing-images", "skip")[0] == 0
    assert json.loads((tmp_path / "new.json").read_text()) == of_images(whole, {"i0", "i1", "i3"})


def test_ids_of_another_file(run, whole, tmp_path):
    """--vocabulary takes over the ids of a file that has some."""
    other = {
        "categories": [{"id": 3, "name": "box"}, {"id": 4, "name": "disk", "supercategory": "s"}],
        "predicates": [{"id": 0, "name": "under"}, {"id": 9, "name": "on"}],
    }
    (tmp_path / "names.json").write_text(json.dumps(other))
    arguments = ("convert", tmp_path / "all.json", tmp_path / "new.json", "--vocabulary")
    assert run(*arguments, tmp_path / "names.json")[0] == 0
    expected = {
        **whole,
        **other,
        "annotations": [
            {**a, "category_id": {0: 3, 7: 4}[a["category_id"]]} for a in whole["annotations"]
        ],
        "relations": [
            {**r, "predicate_id": {2: 0, 5: 9}[r["predicate_id"]]} for r in whole["relations"]
        ],
    }
    assert json.loads((tmp_path / "new.json").read_text()) == expected


def test_a_registered_file_keeps_its_records(run, whole, tmp_path):
    """A built-in dataset whose files are relations_json."""
    folder = tmp_path / "root/scenes"
    folder.mkdir(parents=True)
    from vrd_d2.data.vocabulary import SCENES

    categories = [{"id": 10 + i, "name": name} for i, name in enumerate(SCENES.objects)]
    predicates = [{"id": 3 * i, "name": name} for i, name in enumerate(SCENES.predicates)]
    document = {
        **whole,
        "categories": categories,
        "predicates": predicates,
        "annotations": [{**a, "category_id": 11} for a in whole["annotations"]],
        "relations": [{**r, "predicate_id": 3} for r in whole["relations"]],
    }
    (folder / "val.json").write_text(json.dumps(document))
    (tmp_path / "images").rename(folder / "images")
    output = folder / "new.json"
    assert run("convert", "scenes_val", output, "--root", tmp_path / "root")[0] == 0
    assert json.loads(output.read_text()) == document


def test_an_empty_part_is_said(run, whole, tmp_path):
    arguments = ("split", tmp_path / "all.json", "--output", tmp_path / "out")
    code, out, _ = run(*arguments, "--val", 0.1, "--test", 0.25)
    assert code == 0
    (line,) = [line for line in out.splitlines() if line.startswith("warning: ")]
    assert "val.json" in line and "4 images" in line and "0.1" in line
    code, out, _ = run(*arguments, "--val", 0, "--test", 4)
    assert {name for name in ("train", "val", "test") if f"{name}.json has no image" in out} == {
        "train",
        "val",
    }


def test_a_part_without_relations_is_said(run, whole, tmp_path):
    whole["relations"] = whole["relations"][:1]
    (tmp_path / "all.json").write_text(json.dumps(whole))
    out = run("split", tmp_path / "all.json", "--output", tmp_path, "--val", 0.5, "--test", 0.5)[1]
    assert out.count("no relation") == 1 and out.count("no image") == 1


def test_no_command_overwrites_what_it_reads(run, whole, tmp_path):
    train = (tmp_path / "all.json").rename(tmp_path / "train.json")
    content = train.read_bytes()
    folder = tmp_path / "link"
    folder.symlink_to(tmp_path)  # the same file by another name
    for command in (
        ("split", train, "--output", folder),
        ("zero-shot", train, train, "--output", folder / "train.json"),
        ("check", train, "--bad-list", folder / "train.json"),
    ):
        code, _, err = run(*command)
        assert code == 1 and str(folder / "train.json") in err
        assert train.read_bytes() == content
        assert not (tmp_path / "val.json").exists()


def test_check_hides_no_kind_of_message(run, whole, tmp_path):
    """A relation of a box to itself stands behind a thousand boxes that reach outside."""
    box = {"image_id": "i0", "category_id": 7, "bbox": [70, 5, 11, 9], "area": 99, "iscrowd": 0}
    whole["annotations"] += [{"id": f"b{i}", **box} for i in range(1000)]
    whole["relations"].append({**whole["relations"][0], "id": 7, "object_id": "a00"})
    (tmp_path / "all.json").write_text(json.dumps(whole))
    code, out, _ = run("check", tmp_path / "all.json", "--workers", 0)
    lines = [line for line in out.splitlines() if "warning" in line]
    assert code == 0 and len(lines) < 30
    assert any("relations[4] (id 7)" in line for line in lines)
    assert any("reaches outside" in line for line in lines)
    assert any(str(1000 - out.count("reaches outside")) in line for line in lines)
    out = run("check", tmp_path / "all.json", "--workers", 0, "--show", 0)[1]
    assert out.count("reaches outside") == 1000


@pytest.mark.parametrize("number", ["NaN", "-Infinity"])
def test_a_number_that_json_has_not_is_named_before_anything_is_written(
    run, whole, tmp_path, number
):
    path = tmp_path / "odd.json"
    text = json.dumps(whole).replace('{"id": "i0"', f'{{"id": "i0", "mine": [{number}]', 1)
    path.write_text(text)
    assert number in text
    for command in (["split", path, "--output", tmp_path / "s", "--val", "0.5", "--test", "0"],
                    ["convert", path, tmp_path / "s/new.json"]):  # fmt: skip
        code, _, errors = run(*command, "--images", tmp_path)
        assert code == 1 and "'i0'" in errors and "mine" in errors and "NaN" in errors
    assert not (tmp_path / "s").exists()
