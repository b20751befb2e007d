"""What is ranked of the annotated pairs, against plain loops that follow Lu et al. 2016.

The loops know nothing of the evaluator: they list predictions, sort them, cut at K and match anew
for every K.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from vrd_d2.commands.evaluate import main
from vrd_d2.evaluation import (
    PROTOCOLS,
    GroundTruth,
    Prediction,
    RowStore,
    evaluate_files,
    evaluate_image,
    get_protocol,
    summarize,
)
from vrd_d2.tasks import Task

CLASSES, PREDICATES = 4, 6
KS = (2, 50, 100)


@dataclass
class Image:
    boxes: list
    classes: list
    relations: list
    pairs: list
    predicate_scores: list
    found_classes: list
    found_scores: list


def overlap(first: list, second: list) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0]) + 1
    height = min(first[3], second[3]) - max(first[1], second[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (first, second)]
    return width * height / (sum(areas) - width * height)


def listed(image: Image, task: str, *, rule: str, one_predicate: bool) -> list:
    """Predictions of the annotated pairs, best first: (subject, object, predicate).

    ``rule``: "rows", one list of predictions for every annotated row; "pairs", for every
    predicted pair that is annotated.
    """
    annotated = [(s, o) for s, o, _ in image.relations]

    def product(position: int, predicate: int) -> float:
        subject, obj = image.pairs[position]
        factor = 1
        if task == "sgcls":
            factor = image.found_scores[subject] * image.found_scores[obj]
        return factor * image.predicate_scores[position][predicate]

    found = []
    for position, pair in enumerate(image.pairs):
        times = annotated.count(pair)
        if not times:
            continue
        if one_predicate:
            scores = image.predicate_scores[position]
            best = scores.index(max(scores))  # the first of equal ones
            entry = (-product(position, best), position, best)
            found += [entry] * (times if rule == "rows" else 1)
        else:
            for predicate in range(PREDICATES):
                found.append((-product(position, predicate), position, predicate))
    found.sort()
    return [(*image.pairs[position], predicate) for _, position, predicate in found]


def hit_rows(image: Image, predictions: list, classes: list, *, once: bool) -> set:
    """Rows that the predictions hit: the best overlap among the free ones, or every one."""
    hit = set()
    for subject, obj, predicate in predictions:
        chosen, most = None, 0.0
        for row, (s, o, p) in enumerate(image.relations):
            labels = (classes[subject], classes[obj], predicate)
            if labels != (image.classes[s], image.classes[o], p) or (once and row in hit):
                continue
            least = min(
                overlap(image.boxes[subject], image.boxes[s]),
                overlap(image.boxes[obj], image.boxes[o]),
            )
            if least < 0.5:
                continue
            if not once:
                hit.add(row)
            elif least > most:
                chosen, most = row, least
        if chosen is not None:
            hit.add(chosen)
    return hit


def by_loops(images: list, task: str, *, lu: bool, zero_shot: set) -> dict:
    """{(one predicate a pair?, zero-shot?, K): hits / rows of all images}."""
    counts = {}
    for image in images:
        if not image.relations or (not image.pairs and not lu):
            continue
        classes = image.classes if task == "predcls" else image.found_classes
        unseen = [
            row
            for row, (s, o, p) in enumerate(image.relations)
            if (image.classes[s], image.classes[o], p) in zero_shot
        ]
        for one_predicate in (True, False):
            rule = "rows" if lu and one_predicate else "pairs"
            ranked = listed(image, task, rule=rule, one_predicate=one_predicate)
            for k in KS:
                hit = hit_rows(image, ranked[:k], classes, once=lu)
                for only_unseen in (False, True):
                    rows = unseen if only_unseen else range(len(image.relations))
                    total = counts.setdefault((one_predicate, only_unseen, k), [0, 0])
                    total[0] += len(hit.intersection(rows))
                    total[1] += len(rows)
    return {key: hits / rows if rows else math.nan for key, (hits, rows) in counts.items()}


def drawn(generator: np.random.Generator) -> Image:
    """Few levels of scores (ties), repeated rows, several predicates on a pair, equal boxes."""
    kind = generator.integers(0, 8)
    if kind == 0:
        return Image([], [], [], [], [], [], [])
    count = int(generator.integers(2, 6)) if kind < 5 else 12
    corner = generator.integers(0, 12, (count, 2))
    boxes = np.concatenate([corner, corner + generator.integers(3, 9, (count, 2))], 1)
    classes = generator.integers(0, CLASSES, count)
    some = generator.integers(0, count, (8 if kind < 5 else 60, 2))
    rows = np.column_stack([some, generator.integers(0, PREDICATES, len(some))])
    rows = np.concatenate([rows, rows[generator.integers(0, len(rows), len(rows) // 3)]])
    pairs = np.array([(s, o) for s in range(count) for o in range(count)])
    pairs = pairs[generator.permutation(len(pairs))[: len(pairs) * 9 // 10]]
    if kind == 1:
        pairs = pairs[:0]
    if kind == 2:
        rows = rows[:0]
    changed = np.where(generator.random(count) < 0.2, 0, classes)
    return Image(
        boxes.tolist(),
        classes.tolist(),
        [tuple(row) for row in rows.tolist()],
        [tuple(pair) for pair in pairs.tolist()],
        (generator.integers(0, 5, (len(pairs), PREDICATES)) / 4).tolist(),
        changed.tolist(),
        (generator.integers(1, 5, count) / 4).tolist(),
    )


def evaluated(images: list, task: str, protocol, *, zero_shot: set) -> dict:
    store = RowStore()
    task = Task(task)
    for key, image in enumerate(images):
        truth = GroundTruth(image.boxes, image.classes, image.relations)
        prediction = Prediction(
            image.boxes,
            image.found_classes,
            image.found_scores,
            pairs=image.pairs,
            predicate_scores=image.predicate_scores,
        )
        truth.check(PREDICATES, CLASSES)
        prediction.check(PREDICATES, CLASSES)
        found = evaluate_image(
            truth, prediction, protocol=protocol, task=task, zero_shot=frozenset(zero_shot)
        )
        store.add(key, *found)
    return summarize(
        *store.state(),
        num_predicates=PREDICATES,
        protocol=protocol,
        task=task,
        ks=KS,
        with_zero_shot=True,
    ).metrics


UNSEEN = {(s, o, p) for s in range(CLASSES) for o in range(2) for p in (0, 3)}


@pytest.mark.parametrize("task", ["predcls", "sgcls"])
@pytest.mark.parametrize("seed", range(4))
def test_predicate_detection_equals_loops(seed: int, task: str) -> None:
    generator = np.random.default_rng(seed)
    images = [drawn(generator) for _ in range(12)]
    expected = by_loops(images, task, lu=True, zero_shot=UNSEEN)
    metrics = evaluated(images, task, PROTOCOLS["vrd"], zero_shot=UNSEEN)
    for names in (("R", "ngR", "zR", "ngzR"), ("A", "ngA", "zA", "ngzA")):
        for k in KS:
            found = [metrics[name][k] for name in names]
            wanted = [
                expected[one_predicate, unseen, k]
                for unseen in (False, True)
                for one_predicate in (True, False)
            ]
            assert found == pytest.approx(wanted, abs=1e-12), (names, k)
    assert 0 < metrics["R"][2] < metrics["R"][50] < metrics["ngR"][100] < 1


@pytest.mark.parametrize("task", ["predcls", "sgcls"])
@pytest.mark.parametrize("seed", range(4))
def test_annotated_pairs_of_sgb_equal_loops(seed: int, task: str) -> None:
    generator = np.random.default_rng(100 + seed)
    images = [drawn(generator) for _ in range(12)]
    expected = by_loops(images, task, lu=False, zero_shot=UNSEEN)
    metrics = evaluated(images, task, PROTOCOLS["sgb"], zero_shot=UNSEEN)
    for name, key in (
        ("A", (True, False)),
        ("ngA", (False, False)),
        ("zA", (True, True)),
        ("ngzA", (False, True)),
    ):
        wanted = [expected[(*key, k)] for k in KS]
        assert [metrics[name][k] for k in KS] == pytest.approx(wanted, abs=1e-12), name
    assert 0 < metrics["A"][50] < metrics["ngA"][100] < 1


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_the_switch_leaves_the_other_pairs_out(name: str) -> None:
    """As if nothing else had been predicted; without it as if all pairs were alike."""
    generator = np.random.default_rng(5)
    images = [drawn(generator) for _ in range(12)]
    on, off = (get_protocol(name, annotated_pairs=choice) for choice in (True, False))
    assert (on.name == name, off.name == name) == (name == "vrd", name != "vrd")
    switched = evaluated(images, "predcls", on, zero_shot=UNSEEN)
    everything = evaluated(images, "predcls", off, zero_shot=UNSEEN)
    assert switched["R"][50] > everything["R"][50] and switched["ngR"][2] > everything["ngR"][2]
    for metric in ("A", "ngA", "zA", "ngzA", "top1"):
        assert switched[metric] == everything[metric]
    for image in images:
        annotated = {(s, o) for s, o, _ in image.relations}
        keep = [i for i, pair in enumerate(image.pairs) if pair in annotated]
        # An image counts as long as something was predicted.
        keep = keep or list(range(len(image.pairs)))[:1]
        image.pairs = [image.pairs[i] for i in keep]
        image.predicate_scores = [image.predicate_scores[i] for i in keep]
    assert evaluated(images, "predcls", on, zero_shot=UNSEEN) == switched


def test_detected_boxes_are_ranked_as_ever() -> None:
    """Relationship and phrase detection of Lu et al.: no box is given, so no pair is annotated."""
    generator = np.random.default_rng(6)
    images = [drawn(generator) for _ in range(6)]
    pairs = [
        evaluated(images, "sgdet", get_protocol("vrd", annotated_pairs=choice), zero_shot=UNSEEN)
        for choice in (None, False)
    ]
    assert pairs[0] == pairs[1] and not {"A", "zA"} & set(pairs[0])
    zero, whole = pairs[0]["phrase_ngzR"], pairs[0]["phrase_ngR"]
    assert set(zero) == set(whole) and zero[100] != whole[100]


def test_zero_shot_phrases_are_counted_of_the_unseen_rows() -> None:
    boxes = [[0, 0, 9, 9], [20, 0, 29, 9]]
    relations, scores = [(0, 1, 0), (1, 0, 1)], [[1, 0, 0, 0, 0, 0]]
    image = Image(boxes, [0, 1], relations, [(0, 1)], scores, [0, 1], [1, 1])
    for unseen, value in (((0, 1, 0), 1.0), ((1, 0, 1), 0.0)):
        metrics = evaluated([image], "sgdet", PROTOCOLS["vrd"], zero_shot={unseen})
        assert metrics["phrase_R"][50] == 0.5
        assert metrics["phrase_zR"][50] == metrics["phrase_ngzR"][50] == value


# ---- Files and commands --------------------------------------------------------------------


def crowd() -> tuple[dict, dict]:
    """12 boxes and one annotated pair, whose predicate is known; all other pairs score more."""
    pairs = [[s, o] for s in range(12) for o in range(12) if s != o]
    truth = {
        "image_id": 1,
        "gt_boxes": [[10 * i, 10 * i, 10 * i + 40, 10 * i + 40] for i in range(12)],
        "gt_classes": list(range(12)),
        "gt_relations": [[0, 1, 1]],
    }
    scores = [[0.0, 0.5] if pair == [0, 1] else [0.9, 0.0] for pair in pairs]
    return truth, {"image_id": 1, "pairs": pairs, "predicate_scores": scores}


def write(folder: Path, truth: dict, prediction: dict) -> tuple[Path, Path]:
    paths = folder / "gt.jsonl", folder / "pred.jsonl"
    for path, line in zip(paths, (truth, prediction), strict=True):
        path.write_text(json.dumps(line) + "\n")
    return paths


def test_a_crowd_of_pairs_that_nobody_annotated(tmp_path: Path, capsys) -> None:
    truth, prediction = write(tmp_path, *crowd())

    def tool(*options: str) -> dict:
        output = tmp_path / "out.json"
        files = ["--ground-truth", str(truth), "--predictions", str(prediction)]
        arguments = [*files, "--output", str(output), "--bootstrap", "0", *options]
        assert main(arguments) == 0
        return json.loads(output.read_text())

    for protocol in PROTOCOLS:
        options = ("--task", "predcls", "--protocol", protocol)
        for switch, value in (("--annotated-pairs", 1), ("--no-annotated-pairs", 0)):
            found = tool(*options, switch)
            metrics = found["metrics"]
            assert [metrics[name]["50"] for name in ("R", "ngR")] == [value, value]
            assert [metrics[name]["50"] for name in ("A", "ngA")] == [1, 1]
            assert found["annotated_pairs"] is bool(value)
            assert ("annotated pairs" in capsys.readouterr().out) is bool(value)
        found = tool(*options)
        assert found["protocol"] == protocol
        assert found["metrics"]["R"]["50"] == int(protocol == "vrd")


def test_the_switch_needs_given_boxes(tmp_path: Path, capsys) -> None:
    truth, prediction = write(tmp_path, *crowd())
    files = ["--ground-truth", str(truth), "--predictions", str(prediction)]
    assert main([*files, "--task", "sgdet", "--annotated-pairs"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "annotated pairs" in line and "sgdet" in line and "predcls" in line
    with pytest.raises(ValueError, match=r"annotated_pairs.*'yes'"):
        get_protocol("sgb", annotated_pairs="yes")


@pytest.mark.parametrize(
    "prediction",
    [
        {"triplets": [[0, 1, 0, 0.9], [0, 1, 0, 0.9]]},
        {"triplets": [[0, 1, 0, 0.9]]},
        {"pairs": [[0, 1]], "predicate_scores": [[0.9, 0.1]]},
        {"pairs": [[0, 1], [0, 1]], "predicate_scores": [[0.9, 0.1], [0.1, 0.2]]},
    ],
)
def test_a_repeated_row_is_hit_twice(tmp_path: Path, prediction: dict) -> None:
    """Lu et al.'s script predicts once for each annotated row."""
    truth = {
        "image_id": 1,
        "gt_boxes": [[0, 0, 50, 50], [20, 20, 90, 90]],
        "gt_classes": [0, 1],
        "gt_relations": [[0, 1, 0], [0, 1, 0]],
    }
    files = write(tmp_path, truth, {"image_id": 1, **prediction})
    options = {"task": "predcls", "num_predicates": 2, "ks": (50,)}
    metrics = evaluate_files(*files, protocol="vrd", **options).summary.metrics
    assert metrics["R"][50] == metrics["A"][50] == metrics["top1"][1] == 1
    # Each of the two predictions takes a place: within one, one row is hit.
    one = evaluate_files(*files, protocol="vrd", **{**options, "ks": (1,)}).summary.metrics
    assert one["R"][1] == 0.5
    # Without the switch, as DR-Net ranks, a pair has one prediction.
    found = evaluate_files(*files, protocol="vrd", annotated_pairs=False, **options)
    assert found.summary.metrics["R"][50] == 0.5
