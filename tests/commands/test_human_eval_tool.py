"""Human evaluation: the images and relations of a study, its manifest, and the tool."""

import gzip
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from scripts import load_script

from vrd_d2.evaluation.human.ratings import read_manifest
from vrd_d2.evaluation.human.study import RATINGS_FORMAT, make_study
from vrd_d2.evaluation.json_lines import LineError

CLASSES, PREDICATES = ["man", "horse"], ["on", "holding", "near"]


# --- Studies ---


def record(number: int, boxes: int = 3) -> dict:
    return {
        "image_id": number,
        "file_name": f"{number}.jpg",
        "width": 100,
        "height": 80,
        "annotations": [
            {"bbox": [10 * i, 5, 10 * i + 8, 40], "bbox_mode": 0, "category_id": i % 2}
            for i in range(boxes)
        ],
        "relations": np.zeros((0, 3), np.int64),
    }


def line(number: int, rng: np.random.Generator, boxes: int = 3, **changes: object) -> dict:
    pairs = [[s, o] for s in range(boxes) for o in range(boxes) if s != o]
    return {
        "image_id": number,
        "boxes": [[10 * i, 5, 10 * i + 8, 40] for i in range(boxes)],
        "classes": [i % 2 for i in range(boxes)],
        "scores": rng.random(boxes).round(3).tolist(),
        "pairs": pairs,
        "predicate_scores": rng.random((len(pairs), len(PREDICATES))).round(3).tolist(),
        **changes,
    }


def write(path: Path, lines: list[dict]) -> Path:
    text = "".join(json.dumps(value) + "\n" for value in lines)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def study_of(predictions: dict, numbers: int = 6, **changes: object):
    arguments = {"task": "sgdet", "images": 4, "top": 3, "seed": 0, **changes}
    return make_study(
        [record(number) for number in range(numbers)],
        classes=CLASSES,
        predicates=PREDICATES,
        predictions=predictions,
        **arguments,
    )


@pytest.fixture
def two_models(tmp_path: Path) -> dict[str, Path]:
    """Random scores of the same boxes, which the second model lists the other way round."""
    rng = np.random.default_rng(3)
    a = [line(number, rng) for number in range(6)]
    b = [line(number, rng) for number in range(6)]
    for value in b:
        value.update({key: value[key][::-1] for key in ("boxes", "classes", "scores")})
        value["pairs"] = [[2 - s, 2 - o] for s, o in value["pairs"]]
    return {"a": write(tmp_path / "a.jsonl", a), "b": write(tmp_path / "b.jsonl.gz", b)}


def slow_best(value: dict, top: int, with_entities: bool) -> list[tuple]:
    """Graph constraint by the book: one predicate a pair, sorted by the product of the scores."""
    found = []
    for (s, o), scores in zip(value["pairs"], value["predicate_scores"], strict=True):
        factor = value["scores"][s] * value["scores"][o] if with_entities else 1
        found.append((factor * max(scores), s, PREDICATES[int(np.argmax(scores))], o))
    found.sort(key=lambda row: -row[0])
    left = [box[0] / 10 for box in value["boxes"]]
    return [(left[s], predicate, left[o]) for _, s, predicate, o in found[:top]]


@pytest.mark.parametrize("task", ["predcls", "sgcls", "sgdet"])
def test_every_model_has_its_best_relations_in_its_order(
    two_models: dict[str, Path], task: str
) -> None:
    study = study_of(two_models, task=task, top=5)
    values = {
        "a": [json.loads(text) for text in two_models["a"].read_text().splitlines()],
        "b": [json.loads(t) for t in gzip.decompress(two_models["b"].read_bytes()).splitlines()],
    }
    assert len(study.images) == 4 and study.eligible == 6
    assert len({image.image_id for image in study.images}) == 4
    shared = 0
    for image in study.images:
        items = {item.id: item for item in image.items}
        boxes = [entity.box for entity in image.entities]
        for model in ("a", "b"):
            found = [
                (boxes[i.subject][0] / 10, i.predicate, boxes[i.object][0] / 10)
                for i in (items[id_] for id_ in image.ranked[model])
            ]
            assert found == slow_best(values[model][image.image_id], 5, task != "predcls")
        union = set(image.ranked["a"]) | set(image.ranked["b"])
        assert union == set(items) and len(image.items) == len(union)
        shared += len(image.ranked["a"]) + len(image.ranked["b"]) - len(union)
        for entity in image.entities:
            assert entity.label == CLASSES[round(entity.box[0] / 10) % 2]
    assert shared  # or nothing was pooled
    ids = [item.id for image in study.images for item in image.items]
    assert ids == [f"r{number}" for number in range(1, len(ids) + 1)]


def test_what_is_shown_tells_neither_models_nor_ranks(two_models: dict[str, Path]) -> None:
    study = study_of(two_models)
    renamed = study_of({"x": two_models["b"], "y": two_models["a"]})
    shown = [(p.image_id, p.entities, p.items) for p in study.images]
    assert shown == [(p.image_id, p.entities, p.items) for p in renamed.images]
    assert study.id == renamed.id
    ranks = [
        image.ranked["a"].index(item.id)
        for image in study_of({"a": two_models["a"]}, images=6).images
        for item in image.items
    ]
    assert ranks != [0, 1, 2] * 6
    # Nor are they in the order of their content, which they are sorted by first.
    assert any(
        [(item.subject, item.object) for item in image.items]
        != sorted((item.subject, item.object) for item in image.items)
        for image in study.images
    )


def test_seed(two_models: dict[str, Path]) -> None:
    assert study_of(two_models, seed=1) == study_of(two_models, seed=1)
    assert study_of(two_models, seed=1).id != study_of(two_models, seed=2).id


def test_boxes_that_differ_by_less_than_a_pixel_are_one(tmp_path: Path) -> None:
    one = {
        "image_id": 0,
        "boxes": [[0, 0, 20, 20], [30, 0, 50, 20]],
        "classes": [0, 1],
        "scores": [1, 1],
        "triplets": [[0, 1, 1, 0.9]],
    }
    cases = {
        "same": {"boxes": [[0.6, 0, 20, 19.4], [30, 0, 50.9, 20]]},
        "moved": {"boxes": [[0, 0, 20, 20], [30, 0, 52, 20]]},
        "class": {"classes": [0, 0]},
        "predicate": {"triplets": [[0, 1, 2, 0.9]]},
        "direction": {"triplets": [[1, 0, 1, 0.9]]},
    }
    for name, change in cases.items():
        files = {
            "a": write(tmp_path / "a.jsonl", [one]),
            "b": write(tmp_path / "b.jsonl", [{**one, **change}]),
        }
        (image,) = study_of(files, 1).images
        assert len(image.items) == (1 if name == "same" else 2), name


def test_images_that_can_be_drawn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    nothing = {"pairs": [], "predicate_scores": []}
    files = {
        "a": write(tmp_path / "a.jsonl", [line(i, rng) for i in range(5)]),
        "b": write(
            tmp_path / "b.jsonl",
            [
                line(0, rng),
                line(1, rng, **nothing),
                line(2, rng, pairs=[[0, 1]], predicate_scores=[[0.1, 0.2, 0.3]]),
                line(3, rng),
                line(3, rng, boxes=0),  # an image that comes twice: the first line counts
            ],
        ),
    }
    for least, expected in ((0, {0, 1, 2, 3}), (1, {0, 2, 3}), (2, {0, 3})):
        study = study_of(files, min_relations=least, images=9)
        assert {image.image_id for image in study.images} == expected
    assert "only 2 images to draw from" in caplog.text
    study = study_of(files, images=9)
    (silent,) = (image for image in study.images if image.image_id == 1)
    assert silent.ranked["b"] == [] and len(silent.ranked["a"]) == 3
    other = write(tmp_path / "c.jsonl", [line(5, rng)])
    with pytest.raises(ValueError, match=r"no image for which every model.*c has 1 images"):
        study_of({"a": files["a"], "c": other})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 0}, "images is 0"),
        ({"top": 0}, "top is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"min_relations": 4}, "only the top 3"),
        ({"predictions": {}}, "at least one model"),
    ],
)
def test_wrong_arguments(two_models: dict[str, Path], changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study_of(**{"predictions": two_models, **changes})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 77}, "line 1: image_id 77 is not in the dataset"),
        ({"classes": [0, 1, 2]}, "line 1: classes: class 2 is out of range"),
        ({"predicate_scores": [[1, 2]] * 6}, "line 1: predicate_scores have shape"),
    ],
)
def test_wrong_line(tmp_path: Path, change: dict, message: str) -> None:
    path = write(tmp_path / "a.jsonl", [line(0, np.random.default_rng(0), **change)])
    with pytest.raises(LineError, match=message):
        study_of({"a": path})


def test_manifest_comes_back(two_models: dict[str, Path], tmp_path: Path) -> None:
    study = study_of(two_models)
    path = tmp_path / "page.json"
    document = study.manifest("data")
    path.write_text(json.dumps(document))
    manifest = read_manifest(path)
    assert (manifest.study, manifest.task, manifest.top) == (study.id, "sgdet", 3)
    assert manifest.images == [[item.id for item in p.items] for p in study.images]
    assert manifest.ranked["b"] == [image.ranked["b"] for image in study.images]
    assert document["seed"] == 0 and document["models"]["a"] == str(two_models["a"])
    assert document["pictures"][0] == asdict(study.images[0])
    for change, message in (
        ({"pictures": None}, "missing or malformed"),
        ({"models": ["c"]}, "missing or malformed"),
        ({"format": RATINGS_FORMAT}, "is this the manifest"),
    ):
        path.write_text(json.dumps({**document, **change}))
        with pytest.raises(ValueError, match=message):
            read_manifest(path)
    document["pictures"][0]["ranked"]["a"] = ["r999"]
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="'a' names relations that no image has, such as 'r999'"):
        read_manifest(path)


# --- The tool ---


def ratings_file(path: Path, study: str, given: dict) -> Path:
    document = {"format": RATINGS_FORMAT, "study": study}
    path.write_text(json.dumps({**document, "raters": [{"name": "Ann", "ratings": given}]}))
    return path


@pytest.fixture
def tool(repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Runs the tool in this process: arguments -> exit status, standard output and error."""
    module = load_script(repository / "tools/human_eval.py")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["human_eval.py", *map(str, arguments)])
        status = module.main()
        return status, *capsys.readouterr()

    return run


def test_tool_from_predictions_to_the_table(
    repository: Path, tool, tiny_json: Path, tmp_path: Path
) -> None:
    lines = [
        {
            "image_id": 1,
            "pairs": [[0, 1], [1, 2]],
            "predicate_scores": [[3, 1, 2, 0], [0, 9, 1, 2]],
        },
        {"image_id": 2, "pairs": [[1, 0]], "predicate_scores": [[0, 0, 0, 1]]},
    ]
    (tmp_path / "other").mkdir()
    ours = write(tmp_path / "predictions.jsonl.gz", lines)
    other = write(tmp_path / "other/predictions.jsonl", lines[:1])
    page = tmp_path / "new/page.html"
    arguments = ("make", "--annotations", tiny_json, "--task", "predcls", "--output", page)
    status, _, error = tool(*arguments, "--predictions", ours, other)
    assert status == 1 and "'predictions' is the name of two models" in error
    status, out, error = tool(*arguments, "--predictions", f"ours={ours}", f"other={other}")
    assert status == 0, error
    assert "1 of 1 images (seed 0), 2 relations of 2 model(s)" in out
    for name in ("--num-images", "--pictures"):  # the latter is its name in version 0.1
        status, _, error = tool(*arguments, "--predictions", ours, name, 0)
        assert status == 1 and "is 0" in error
    assert page.is_file()
    manifest = json.loads(page.with_suffix(".json").read_text())
    (image,) = manifest["pictures"]
    assert len(image["ranked"]["ours"]) == 2
    best = image["ranked"]["ours"][0]
    (item,) = (item for item in image["items"] if item["id"] == best)
    labels = [entity["label"] for entity in image["entities"]]
    triplet = (labels[item["subject"]], item["predicate"], labels[item["object"]])
    assert triplet == ("dog", "holding", "hat")

    given = {r: "yes" if r == best else "no" for r in image["ranked"]["ours"]}
    ratings = ratings_file(tmp_path / "ratings.json", manifest["study"], given)
    output = tmp_path / "deep/report.json"
    command = ["report", ratings, "--manifest", page.with_suffix(".json"), "--output", output]
    # As people run it.
    done = subprocess.run(
        [sys.executable, repository / "tools/human_eval.py", *map(str, command), "--k", "1", "2"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "| ours    | 100.0 [100.0, 100.0] | 50.0 [50.0, 50.0] |" in done.stdout
    assert json.loads(output.read_text())["models"]["other"]["P"] == {"1": 1.0, "2": 0.5}


def test_tool_refuses(tool, tiny_json: Path, tmp_path: Path) -> None:
    for changes, message in (
        (("--output", tmp_path / "page.json"), "name a file that ends in .html"),
        (("--predictions", "x=missing.jsonl"), "there is no file missing.jsonl"),
        (("--predictions", f"={tiny_json}"), "the name is empty"),
        (
            ("--predictions", tiny_json, "--annotations", "nowhere_test"),
            "nor a registered dataset",
        ),
    ):
        usual = ("--annotations", tiny_json, "--output", tmp_path / "page.html")
        status, _, error = tool("make", *usual, "--predictions", "none", *changes)
        assert status == 1 and error.startswith("error: ") and message in error
    ratings = ratings_file(tmp_path / "ratings.json", "s1", {"r1": "yes"})
    status, _, error = tool("report", ratings, "--manifest", ratings)
    assert status == 1 and "is this the manifest" in error
    status, _, error = tool("report", ratings, "--manifest", ratings, "--bootstrap", -1)
    assert status == 1 and "--bootstrap -1" in error
