"""tools/evaluate.py and the files it reads and writes."""

import contextlib
import csv
import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scripts import load_script

from vrd_d2.commands.evaluate import main
from vrd_d2.data.vocabulary import Vocabulary
from vrd_d2.evaluation import evaluate_files
from vrd_d2.evaluation.json_lines import LineError

PNG = b"\x89PNG\r\n\x1a\n"


def evaluate(repository: Path, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, repository / "tools/evaluate.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=repository)


IMAGE = {
    "image_id": 1,
    "gt_boxes": [[0, 0, 9, 9], [50, 0, 59, 9]],
    "gt_classes": [0, 1],
    "gt_relations": [[0, 1, 2]],
    "boxes": [[0, 0, 9, 9], [50, 0, 59, 9]],
    "classes": [0, 1],
    "scores": [0.5, 0.5],
    "pairs": [[0, 1], [1, 0]],
    "predicate_scores": [[0.1, 0.2, 0.7], [0.6, 0.1, 0.2]],
}
MISSED = {**IMAGE, "image_id": "two", "gt_relations": [[0, 1, 1]]}
GROUND_TRUTH = ("image_id", "gt_boxes", "gt_classes", "gt_relations")


def write_lines(path: Path, *images: dict) -> Path:
    text = "".join(json.dumps(image) + "\n" for image in images)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def without(image: dict, *names: str) -> dict:
    return {name: value for name, value in image.items() if name not in names}


def ground_truth_of(image: dict) -> dict:
    return {name: image[name] for name in GROUND_TRUTH}


def predictions_of(image: dict) -> dict:
    return without(image, *GROUND_TRUTH[1:])


@pytest.mark.parametrize(
    ("vocabulary", "task", "protocol"), [("vg20", "predcls", "visualds"), ("vg50", "sgdet", "sgb")]
)
def test_tool_gives_the_public_figures(
    repository: Path, samples: Path, tmp_path: Path, vocabulary: str, task: str, protocol: str
) -> None:
    folder = samples / "evaluator"
    cases = folder / f"cases_{vocabulary}_{task}.jsonl.gz"
    output, plots = tmp_path / "new/out.json", tmp_path / "plots"
    done = evaluate(
        repository,
        *("--ground-truth", cases, "--predictions", cases, "--task", task),
        *("--protocol", protocol, "--zero-shot", folder / f"zeroshot_{vocabulary}.json"),
        *("--output", output, "--plots", plots, "--bootstrap", 20),
    )
    assert done.returncode == 0, done.stderr
    assert f"{task}, protocol {protocol}" in done.stdout
    assert "100%" in done.stderr  # the progress bar
    expected = json.loads((folder / f"expected_{vocabulary}.json").read_text())
    expected = expected[{"sgb": "sgb", "visualds": "sgb_unique"}[protocol]][task][task]
    found = json.loads(output.read_text())
    assert (found["protocol"], found["task"]) == (protocol, task)
    assert found["images"] == expected["images"]
    for name, values in found["metrics"].items():
        if name in expected:
            assert values == pytest.approx(expected[name], abs=1e-6), name
    assert set(expected) - {"images", "seconds_in_peer_code"} <= set(found["metrics"])
    mean = [p["R"]["50"] for p in found["per_predicate"].values()]
    assert sum(mean) / len(mean) == pytest.approx(expected["mR"]["50"], abs=1e-9)
    assert {p.name for p in plots.iterdir()} == {
        f"predicate_{what}.{kind}" for what in ("recall", "confusion") for kind in ("png", "csv")
    }
    for path in plots.glob("*.png"):
        assert path.read_bytes().startswith(PNG) and path.stat().st_size > 10_000
    with (plots / "predicate_confusion.csv").open() as file:
        rows = list(csv.reader(file))
    size = len(mean)
    assert len(rows) == size + 1 and {len(row) for row in rows} == {size + 2}
    counted = [sum(map(int, row[1:])) for row in rows[1:]]
    assert counted == [p["count"] for p in found["per_predicate"].values()]


def relations_json() -> dict:
    """IMAGE with ids that are neither ordered nor dense, and an image without predictions."""
    image = {"file_name": "none.jpg", "width": 100, "height": 80}
    boxes = {"iscrowd": 0, "area": 100}
    return {
        "images": [{"id": 7, **image}, {"id": 1, **image}],
        "categories": [{"id": 20, "name": "horse"}, {"id": 10, "name": "person"}],
        "predicates": [
            {"id": 3, "name": "on"},
            {"id": 9, "name": "rides"},
            {"id": 5, "name": "near"},
        ],
        "annotations": [
            {"id": 71, "image_id": 7, "category_id": 10, "bbox": [0, 0, 5, 5], **boxes},
            {"id": 12, "image_id": 1, "category_id": 10, "bbox": [0, 0, 9, 9], **boxes},
            {"id": 11, "image_id": 1, "category_id": 20, "bbox": [50, 0, 9, 9], **boxes},
        ],
        "relations": [
            {"id": 1, "image_id": 1, "subject_id": 12, "object_id": 11, "predicate_id": 9},
            {"id": 2, "image_id": 7, "subject_id": 71, "object_id": 71, "predicate_id": 3},
        ],
    }


def test_relations_json_without_its_images(repository: Path, tmp_path: Path) -> None:
    truth = tmp_path / "test.json"
    truth.write_text(json.dumps(relations_json(), indent=1))
    predictions = write_lines(tmp_path / "p.jsonl.gz", predictions_of(IMAGE))
    output = tmp_path / "out.json"
    done = evaluate(
        repository,
        *("--ground-truth", truth, "--predictions", predictions, "--output", output),
    )
    assert done.returncode == 0, done.stderr
    assert "1 images have no prediction" in done.stderr
    found = json.loads(output.read_text())
    assert found["metrics"]["R"]["20"] == 1
    assert "zR" not in found["metrics"]
    assert [p["name"] for p in found["per_predicate"].values()] == ["on", "near", "rides"]
    assert found["images"]["total"] == 2 and found["images"]["skipped_no_predicted_pairs"] == 1
    zero = evaluate_files(truth, predictions, task="sgdet", protocol="microsoft").summary
    assert zero.metrics["R"][20] == 0  # the boxes do not overlap


@pytest.mark.parametrize("task", ["predcls", "sgcls", "sgdet"])
def test_separate_and_common_files_agree(tmp_path: Path, task: str) -> None:
    both = write_lines(tmp_path / "both.jsonl", IMAGE, MISSED)
    truth = write_lines(tmp_path / "t.jsonl.gz", *(ground_truth_of(p) for p in (MISSED, IMAGE)))
    predictions = write_lines(tmp_path / "p.jsonl", *(predictions_of(p) for p in (IMAGE, MISSED)))
    common = evaluate_files(both, both, task=task)
    separate = evaluate_files(truth, predictions, task=task)
    assert common.summary.metrics == separate.summary.metrics
    assert common.summary.metrics["R"][20] == 1 / 2
    copy = tmp_path / "copy.jsonl"
    shutil.copy(both, copy)
    assert evaluate_files(both, copy, task=task).summary.metrics == common.summary.metrics


def test_fields_that_the_task_gives_may_be_left_out(tmp_path: Path) -> None:
    bare = without(IMAGE, "boxes", "classes", "scores")
    path = write_lines(tmp_path / "p.jsonl", bare)
    assert evaluate_files(path, path, task="predcls").summary.metrics["R"][20] == 1
    with pytest.raises(LineError, match="line 1: needs classes, scores"):
        evaluate_files(path, path, task="sgcls")
    with pytest.raises(LineError, match="line 1: needs boxes, classes, scores"):
        evaluate_files(path, path, task="sgdet")


def test_scores_of_triplets_rank_as_they_are(tmp_path: Path) -> None:
    """The 21st triplet by score is no hit at 20, whatever the scores of its boxes."""
    boxes = [[100 * i, 0, 100 * i + 9, 9] for i in range(23)]
    record = {
        "image_id": 1,
        "gt_boxes": boxes,
        "gt_classes": list(range(23)),
        "gt_relations": [[0, 21, 0], [0, 21, 1]],
        "boxes": boxes,
        "classes": list(range(23)),
        "scores": [1.0] * 21 + [0.001] * 2,
        "triplets": [[0, i, 0, 1 - i / 100] for i in range(1, 22)] + [[0, 21, 1, 0.9]],
    }
    path = write_lines(tmp_path / "p.jsonl", record)
    metrics = evaluate_files(path, path, task="sgdet", num_predicates=2).summary.metrics
    # Graph constraint: (0, 21) says 1 (rank 10, behind ten better ones); 0 is second there.
    assert metrics["R"][20] == metrics["R"][50] == 1 / 2
    assert (metrics["ngR"][20], metrics["ngR"][50]) == (1 / 2, 1)
    path = write_lines(tmp_path / "q.jsonl", without(record, "scores"))
    again = evaluate_files(path, path, task="sgdet", num_predicates=2).summary.metrics
    assert (again["R"], again["ngR"], again["mR"]) == tuple(metrics[n] for n in ("R", "ngR", "mR"))
    with pytest.raises(ValueError, match=r"q\.jsonl.*predicate_scores"):
        evaluate_files(path, path, task="sgdet")


def test_a_image_twice_counts_once(tmp_path: Path, caplog) -> None:
    path = write_lines(tmp_path / "p.jsonl", IMAGE, MISSED, IMAGE)
    summary = evaluate_files(path, path, task="sgdet").summary
    assert summary.metrics["R"][20] == 1 / 2 and summary.images["total"] == 2
    assert "1 images come twice" in caplog.text


BAD_LINES = [
    ("{", "no JSON"),
    ("[1, 2]", "must be a JSON object, not list"),
    ("{}", "needs image_id"),
    (json.dumps(without(IMAGE, "gt_boxes")), "needs gt_boxes"),
    (json.dumps(without(IMAGE, "pairs")), "needs pairs"),
    (json.dumps({**IMAGE, "triplets": []}), "not both"),
    (json.dumps({**IMAGE, "pairs": 3}), "pairs must be a list, not int"),
    (json.dumps({**IMAGE, "pairs": [[0, 1], [1]]}), "pairs must have rows of one length"),
    (json.dumps({**IMAGE, "pairs": [[0, 2], [1, 0]]}), "index of a box 2 is out of range"),
    (json.dumps({**IMAGE, "classes": [0]}), "1 classes"),
    (json.dumps({**IMAGE, "predicate_scores": [[0.5, 0.5]] * 2}), "not .* = .2, 3."),
    (json.dumps({**IMAGE, "predicate_scores": [["x"] * 3] * 2}), "predicate_scores must be"),
    (json.dumps({**IMAGE, "predicate_scores": [[float("nan")] * 3] * 2}), "NaN"),
    (json.dumps({**IMAGE, "gt_relations": [[0, 1, 3]]}), "predicate 3 is out of range"),
    (json.dumps({**IMAGE, "gt_relations": [[0, 5, 0]]}), "index of a box 5"),
    (json.dumps({**IMAGE, "height": -1, "width": 3}), "positive"),
    *(
        (json.dumps({**IMAGE, "height": side, "width": 3}), "height")
        for side in (float("nan"), float("inf"), True, 10**400)
    ),
    *(
        (json.dumps({**IMAGE, "predicate_scores": [[0.1, x, 0.2]] * 2}), "predicate_scores")
        for x in (float("inf"), 1e39, 10**400)
    ),
    (json.dumps({**IMAGE, "scores": [0.5, 1e39]}), "scores must be finite"),
    (json.dumps({**IMAGE, "boxes": [[0, 0, 9, 9], [0, 0, 1e39, 9]]}), "boxes hold"),
    (json.dumps({**IMAGE, "classes": [0, 1e30]}), "classes must be whole"),
    (
        json.dumps({**without(IMAGE, "pairs", "predicate_scores"), "triplets": [[0, 1, 2]]}),
        "rows .subject, object, predicate, score.",
    ),
]


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(("line", "reason"), BAD_LINES)
def test_malformed_lines_are_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "p.jsonl"
    good = json.dumps({**IMAGE, "image_id": "good"})
    path.write_text(f"{good}\n\n{line}\n")
    with pytest.raises(LineError, match=f"p.jsonl, line 3: .*{reason}"):
        evaluate_files(path, path, task="sgdet")


def test_tool_refuses_without_traceback(repository: Path, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", IMAGE, {**MISSED, "scores": [0.5]})
    output = tmp_path / "out.json"
    done = evaluate(repository, "--ground-truth", path, "--predictions", path, "--output", output)
    assert done.returncode == 1
    assert f"error: {path}, line 2: 2 boxes, 2 classes and 1 scores" in done.stderr
    assert "Traceback" not in done.stderr and not output.exists()


def test_unusable_files(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", IMAGE)
    with pytest.raises(FileNotFoundError):
        evaluate_files(path, tmp_path / "none.jsonl", task="sgdet")
    broken = tmp_path / "broken.jsonl.gz"
    broken.write_bytes(gzip.compress(json.dumps(IMAGE).encode())[:-20])
    with pytest.raises(LineError, match="broken gzip"):
        evaluate_files(broken, broken, task="sgdet")
    other = write_lines(tmp_path / "t.jsonl", {**ground_truth_of(IMAGE), "image_id": "1"})
    with pytest.raises(LineError, match="line 1: image_id 1 is not in"):
        evaluate_files(other, path, task="sgdet")
    twice = write_lines(tmp_path / "2.jsonl", *[ground_truth_of(IMAGE)] * 2)
    with pytest.raises(LineError, match="line 2: image_id 1 comes twice"):
        evaluate_files(twice, path, task="sgdet")
    truth = tmp_path / "test.json"
    truth.write_text(json.dumps(relations_json()))
    with pytest.raises(ValueError, match=r"num_predicates is 50, but .* has 3"):
        evaluate_files(truth, path, task="sgdet", num_predicates=50)
    document = relations_json()
    document["relations"][0]["predicate_id"] = 4
    truth.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"test.json.*relations\[0\].*4"):
        evaluate_files(truth, path, task="sgdet")


def test_wrong_ground_truth_is_named_and_not_the_predictions(tmp_path: Path) -> None:
    wrong = {**IMAGE, "image_id": "w", "gt_relations": [[0, 1, 7]]}
    truth = write_lines(tmp_path / "t.jsonl", *map(ground_truth_of, (IMAGE, wrong)))
    for images in ((IMAGE,), (IMAGE, wrong)):  # without and with a prediction for it
        path = write_lines(tmp_path / "p.jsonl", *map(predictions_of, images))
        with pytest.raises(ValueError, match="predicate 7") as error:
            evaluate_files(truth, path, task="sgdet")
        assert f"{truth}: image 'w'" in str(error.value)


def test_another_vocabulary_than_that_of_the_ground_truth_is_refused(tmp_path: Path) -> None:
    truth = tmp_path / "test.json"
    truth.write_text(json.dumps(relations_json()))
    path = write_lines(tmp_path / "p.jsonl", predictions_of(IMAGE))
    objects, predicates = ["person", "horse"], ["on", "near", "rides"]
    evaluate_files(truth, path, task="sgdet", vocabulary=Vocabulary(objects, predicates))
    other = Vocabulary(objects, predicates[::-1])
    with pytest.raises(ValueError, match=r"test\.json.*vocabulary"):
        evaluate_files(truth, path, task="sgdet", vocabulary=other)


def test_other_boxes_than_the_annotated_ones_are_said(tmp_path: Path, caplog) -> None:
    for boxes, said in ((IMAGE["boxes"], False), (IMAGE["boxes"][::-1], True)):
        caplog.clear()
        path = write_lines(tmp_path / "p.jsonl", {**IMAGE, "boxes": boxes})
        evaluate_files(path, path, task="predcls")
        assert any("boxes" in text for text in caplog.messages) == said


@pytest.mark.parametrize("wrong", [["--bootstrap", "-5"], ["--num-predicates", "70000"]])
def test_numbers_out_of_range_are_refused(tmp_path: Path, capsys, wrong: list[str]) -> None:
    row = {**without(IMAGE, "pairs", "predicate_scores"), "triplets": [[0, 1, 0, 1]]}
    path = str(write_lines(tmp_path / "p.jsonl", row))
    arguments = ["--ground-truth", path, "--predictions", path, *wrong]
    with contextlib.suppress(SystemExit):
        assert main(arguments) == 1
    printed = capsys.readouterr().err
    assert wrong[1] in printed and "Traceback" not in printed and "memory" not in printed


def test_results_do_not_replace_what_they_are_of(tmp_path: Path, capsys) -> None:
    path = str(write_lines(tmp_path / "p.jsonl", IMAGE))
    before = Path(path).read_bytes()
    assert main(["--ground-truth", path, "--predictions", path, "--output", path]) == 1
    assert path in capsys.readouterr().err and Path(path).read_bytes() == before


def test_benchmark_compares_like_with_like(repository: Path) -> None:
    path = repository / "tools/benchmarks/evaluator.py"
    benchmark = load_script(path)
    generator = np.random.default_rng(0)
    images = [benchmark.make_image(generator) for _ in range(4)]
    zero_shot = benchmark.zero_shot_of(images)
    found = benchmark.ours(images, 6, zero_shot)
    for name, values in benchmark.reference(images, 6, zero_shot).items():
        assert found[name] == pytest.approx(values, abs=1e-12), name
    assert found["R"][50] > 0
