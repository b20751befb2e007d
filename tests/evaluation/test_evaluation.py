"""The metric core: public figures, hand-worked images, and what each protocol changes."""

import dataclasses
import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from vrd_d2.evaluation import (
    PROTOCOLS,
    GroundTruth,
    Prediction,
    RowStore,
    Summary,
    evaluate_image,
    get_protocol,
    summarize,
)
from vrd_d2.evaluation.matching import box_iou
from vrd_d2.evaluation.ranking import best_first
from vrd_d2.evaluation.recall import frequency_thirds
from vrd_d2.tasks import Task

PUBLIC_NAME = {"sgb": "sgb", "visualds": "sgb_unique"}


def run(
    images: list[tuple[GroundTruth, Prediction]],
    *,
    num_predicates: int,
    protocol: str = "sgb",
    task: str = "predcls",
    zero_shot: frozenset | None = None,
    **options: object,
) -> Summary:
    store = RowStore()
    for key, (truth, prediction) in enumerate(images):
        truth.check(num_predicates)
        prediction.check(num_predicates)
        found = evaluate_image(
            truth,
            prediction,
            protocol=get_protocol(protocol),
            task=Task(task),
            zero_shot=zero_shot or frozenset(),
        )
        store.add(key, *found)
    return summarize(
        *RowStore.merge([store.state()]),
        num_predicates=num_predicates,
        protocol=get_protocol(protocol),
        task=Task(task),
        with_zero_shot=zero_shot is not None,
        **options,
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("protocol", sorted(PUBLIC_NAME))
@pytest.mark.parametrize("task", ["predcls", "sgcls", "sgdet"])
@pytest.mark.parametrize("vocabulary", ["vg20", "vg50"])
def test_equals_the_public_evaluator(
    samples: Path, vocabulary: str, task: str, protocol: str, dtype: type
) -> None:
    folder = samples / "evaluator"
    expected = json.loads((folder / f"expected_{vocabulary}.json").read_text())
    expected = expected[PUBLIC_NAME[protocol]][task]
    zero_shot = json.loads((folder / f"zeroshot_{vocabulary}.json").read_text())
    images = []
    with gzip.open(folder / f"cases_{vocabulary}_{task}.jsonl.gz", "rt") as file:
        for record in map(json.loads, file):
            images.append(
                (
                    GroundTruth(*(record[f"gt_{n}"] for n in ("boxes", "classes", "relations"))),
                    Prediction(
                        record["boxes"],
                        record["classes"],
                        np.array(record["scores"], dtype),
                        pairs=record["pairs"],
                        predicate_scores=np.array(record["predicate_scores"], dtype),
                    ),
                )
            )
    summary = run(
        images,
        num_predicates=expected["num_predicates"],
        protocol=protocol,
        task=task,
        zero_shot=frozenset(map(tuple, zero_shot)),
    )
    public = dict(expected[task])
    assert summary.images == public.pop("images")
    public.pop("seconds_in_peer_code")
    assert {"R", "ngR", "mR", "ngmR", "zR", "ngzR"} <= set(public)
    assert ("A" in public) == ("A" in summary.metrics) == (task != "sgdet")
    for name, values in public.items():
        for k, value in values.items():
            assert summary.metrics[name][int(k)] == pytest.approx(value, abs=1e-6), f"{name}@{k}"


# Two persons (class 0) and a horse (class 1), far from each other.
BOXES = [[0, 0, 9, 9], [50, 0, 59, 9], [100, 0, 109, 9]]
CLASSES = [0, 0, 1]


def truth(relations: list, boxes: list = BOXES, classes: list = CLASSES) -> GroundTruth:
    return GroundTruth(boxes, classes, relations)


def predicted(pairs: list, scores: list, boxes: list = BOXES, classes: list = CLASSES, **kwargs):
    return Prediction(boxes, classes, kwargs.get("entity", [1.0] * len(boxes)), pairs, scores)


def test_hand_worked_image() -> None:
    # Row 0 hit by the first pair; row 1 shares its pair, so only ng finds it; row 2 is named
    # wrongly under the constraint; row 3's pair is not predicted.
    image = (
        truth([[0, 2, 0], [0, 2, 1], [1, 2, 0], [2, 0, 2]]),
        predicted([[0, 2], [1, 2]], [[0.9, 0.5, 0.0], [0.3, 0.4, 0.1]]),
    )
    summary = run([image], num_predicates=3, zero_shot=frozenset({(0, 1, 1)}))
    at_20 = {name: values[min(values)] for name, values in summary.metrics.items()}
    assert at_20 == pytest.approx(
        {
            "R": 1 / 4,
            "ngR": 3 / 4,
            "mR": (1 / 2 + 0 + 0) / 3,
            "ngmR": (1 + 1 + 0) / 3,
            "F": 2 * (1 / 4) * (1 / 6) / (1 / 4 + 1 / 6),
            "ngF": 2 * (3 / 4) * (2 / 3) / (3 / 4 + 2 / 3),
            "PR": 2 / 3,  # of the pairs (0, 2), (1, 2), (2, 0)
            "A": 1 / 4,
            "ngA": 3 / 4,
            "zA": 0,
            "ngzA": 1,
            "top1": 1 / 4,
            "zR": 0,
            "ngzR": 1,
            "mR_head": 1 / 2,
            "mR_body": 0,
            "mR_tail": 0,
        }
    )
    # Rows: ground truth. (0, 2): named 0, also for the row that says 1. (1, 2): named 1.
    assert summary.confusion.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]


def test_a_at_k_cuts_after_leaving_out_the_other_pairs() -> None:
    """30 better predictions on pairs that nobody annotated do not count for A@20."""
    boxes = [[100 * i, 0, 100 * i + 9, 9] for i in range(8)]
    pairs = [[i, j] for i in range(1, 7) for j in range(1, 7) if i != j] + [[0, 7]]
    scores = [[0.9, 0.1]] * 30 + [[0.2, 0.1]]
    classes = list(range(8))
    image = truth([[0, 7, 0]], boxes, classes), predicted(pairs, scores, boxes, classes)
    metrics = run([image], num_predicates=2).metrics
    assert (metrics["R"][20], metrics["R"][50], metrics["A"][20]) == (0, 1, 1)
    assert metrics["top1"] == {1: 1.0}


def test_top1_asks_only_for_the_predicate_of_the_pair() -> None:
    """In SGCls a wrong class spoils R and A, not the predicate's own accuracy."""
    wrong = predicted([[0, 2]], [[0.9, 0.1]], classes=[0, 0, 0])
    metrics = run([(truth([[0, 2, 0]]), wrong)], num_predicates=2, task="sgcls").metrics
    assert (metrics["R"][20], metrics["A"][20], metrics["top1"][1]) == (0, 0, 1)


def test_equal_scores_keep_the_order_of_the_input() -> None:
    """The 20 best of 30 equal pairs are the first 20, with and without graph constraint."""
    boxes = [[100 * i, 0, 100 * i + 9, 9] for i in range(31)]
    pairs = [[0, i] for i in range(1, 31)]
    for first, hits in ((pairs[19], 1), (pairs[20], 0)):
        image = (
            truth([[*first, 0]], boxes, list(range(31))),
            predicted(pairs, [[0.5, 0.25]] * 30, boxes, list(range(31))),
        )
        metrics = run([image], num_predicates=2).metrics
        assert (metrics["R"][20], metrics["ngR"][20]) == (hits, hits)


def test_best_first_is_a_stable_sort() -> None:
    generator = np.random.default_rng(1)
    for size in (1, 5, 99, 100, 101, 5000):
        for values in (generator.integers(0, 4, size) / 4, generator.random(size)):
            stable = np.argsort(-values, kind="stable")[:100]
            np.testing.assert_array_equal(best_first(values, 100), stable)


def test_box_iou_equals_torchvision_with_and_without_the_added_pixel() -> None:
    torchvision = pytest.importorskip("torchvision")
    generator = np.random.default_rng(2)
    boxes = generator.random((40, 4)).astype(np.float32) * 50
    boxes[:, 2:] += boxes[:, :2]
    others = boxes[::-1] + 3
    plain = torchvision.ops.box_iou(torch.tensor(boxes), torch.tensor(others.copy())).numpy()
    np.testing.assert_allclose(box_iou(boxes, others, inclusive=False), plain, atol=1e-6)
    grown = [b + np.float32([0, 0, 1, 1]) for b in (boxes, others)]
    plus = torchvision.ops.box_iou(*(torch.tensor(b) for b in grown)).numpy()
    np.testing.assert_allclose(box_iou(boxes, others), plus, atol=1e-6)


def test_box_iou_of_boxes_without_area() -> None:
    point = np.array([[3, 3, 3, 3]])
    assert box_iou(point, point) == 1  # one pixel
    assert box_iou(point, point, inclusive=False) == 0


def test_inclusive_pixels_decide_a_border_case() -> None:
    """10 x 1 against 5 x 1 pixels: exactly 0.5 with both end pixels, 4/9 without."""
    boxes, near = [[0, 0, 9, 0], [50, 0, 59, 9]], [[0, 0, 4, 0], [50, 0, 59, 9]]
    image = (
        truth([[0, 1, 0]], boxes, [0, 1]),
        predicted([[0, 1]], [[0.9]], near, [0, 1]),
    )
    assert run([image], num_predicates=1, task="sgdet").metrics["R"][20] == 1
    strict = dataclasses.replace(PROTOCOLS["sgb"], inclusive_pixels=False)
    rows, _ = evaluate_image(*image, protocol=strict, task=Task.SGDET)
    assert rows["R"][0] > 100


def test_predcls_takes_the_ground_truth_and_no_entity_scores() -> None:
    guess = predicted([[0, 2], [1, 2]], [[0.4], [0.9]], classes=[1, 1, 0], entity=[0.9, 0.1, 0.3])
    metrics = run([(truth([[0, 2, 0]]), guess)], num_predicates=1).metrics
    assert metrics["R"][20] == 1
    assert run([(truth([[0, 2, 0]]), guess)], num_predicates=1, task="sgcls").metrics["R"][20] == 0


def one_image_each() -> list[tuple[GroundTruth, Prediction]]:
    """A hit among two rows that are the same, nothing predicted, nothing annotated."""
    nothing = Prediction(BOXES, CLASSES, [1, 1, 1], [], [])
    return [
        (truth([[0, 2, 0], [0, 2, 0], [1, 2, 1]]), predicted([[0, 2]], [[0.9, 0.1]])),
        (truth([[0, 2, 0]]), nothing),
        (truth([]), predicted([[0, 2]], [[0.9, 0.1]])),
    ]


@pytest.mark.parametrize(
    ("protocol", "recall", "scored"),
    [
        ("sgb", 2 / 3, 1),
        ("visualds", 1 / 2, 1),
        ("sgbench", (1 / 2 + 0) / 2, 2),
        ("microsoft", (0 + 0) / 2, 2),  # the boxes do not overlap
        ("motifs", (2 / 3 + 0) / 2, 2),  # boxes are given: no overlap asked for
        ("vrd", (2 + 0) / (3 + 1), 2),  # pooled, one prediction an annotated row
    ],
)
def test_repeated_rows_and_empty_images(protocol: str, recall: float, scored: int) -> None:
    summary = run(one_image_each(), num_predicates=2, protocol=protocol)
    assert summary.metrics["R"][20] == pytest.approx(recall)
    assert summary.images["scored"] == scored
    assert summary.images["skipped_no_gt_relations"] == 1
    assert summary.images["skipped_no_predicted_pairs"] == 2 - scored
    assert set(PROTOCOLS) == {"sgb", "visualds", "microsoft", "motifs", "vrd", "sgbench"}


def test_motifs_compares_at_1024_pixels() -> None:
    """One added pixel weighs less on larger boxes: 4 x 1 against 2 x 1 in an image of 64."""
    boxes, near = [[0, 0, 3, 0], [0, 0, 9, 9]], [[0, 0, 1, 0], [0, 0, 9, 9]]
    truth_64 = GroundTruth(boxes, [0, 1], [[0, 1, 0]], longer_side=64)
    found = predicted([[0, 1]], [[0.9]], near, [0, 1])
    assert run([(truth_64, found)], num_predicates=1, task="sgdet").metrics["R"][20] == 1
    scaled = run([(truth_64, found)], num_predicates=1, task="sgdet", protocol="motifs")
    assert scaled.metrics["R"][20] == 0  # 17 of 49 pixels
    unknown = GroundTruth(boxes, [0, 1], [[0, 1, 0]])
    as_it_is = run([(unknown, found)], num_predicates=1, task="sgdet", protocol="motifs")
    assert as_it_is.metrics["R"][20] == 1


def test_phrase_detection_compares_the_union_boxes() -> None:
    """Subject and object boxes are both off, the box around them is not."""
    gt_boxes, boxes = [[0, 0, 19, 9], [80, 0, 99, 9]], [[0, 0, 5, 9], [94, 0, 99, 9]]
    image = (
        truth([[0, 1, 0]], gt_boxes, [0, 1]),
        predicted([[0, 1]], [[0.9]], boxes, [0, 1]),
    )
    metrics = run([image], num_predicates=1, task="sgdet", protocol="vrd").metrics
    assert (metrics["R"][50], metrics["phrase_R"][50], metrics["phrase_ngR"][50]) == (0, 1, 1)


def test_vrd_gives_every_prediction_one_row() -> None:
    """Two persons in one place: sgb lets one prediction hit both rows, vrd the better one."""
    boxes, classes = [[0, 0, 9, 9], [0, 0, 9, 8], [50, 0, 59, 9]], [0, 0, 1]
    rows = [[0, 2, 0], [1, 2, 0]]
    image = truth(rows, boxes, classes), predicted([[1, 2]], [[0.9]], boxes, classes)
    assert run([image], num_predicates=1).metrics["R"][20] == 1
    assert run([image], num_predicates=1, protocol="vrd").metrics["R"][20] == 1 / 2
    found, _ = evaluate_image(*image, protocol=PROTOCOLS["vrd"], task=Task.PREDCLS)
    assert (found["R"] == 0).tolist() == [False, True]


def test_sgbench_binds_a_box_to_its_best_ground_truth() -> None:
    boxes, classes = [[0, 0, 10, 10], [0, 0, 10, 9], [50, 0, 60, 10]], [0, 0, 1]
    rows = [[0, 2, 0], [1, 2, 0]]
    image = truth(rows, boxes, classes), predicted([[1, 2]], [[0.9]], boxes, classes)
    found, _ = evaluate_image(*image, protocol=PROTOCOLS["sgbench"], task=Task.PREDCLS)
    assert (found["R"] == 0).tolist() == [False, True]


def test_thirds_of_predicates() -> None:
    counts = np.array([5, 9, 9, 0, 1, 7, 3])
    thirds = {name: ids.tolist() for name, ids in frequency_thirds(counts).items()}
    assert thirds == {"head": [1, 2, 5], "body": [0, 6], "tail": [4, 3]}
    assert [len(ids) for ids in frequency_thirds(np.arange(50)).values()] == [17, 17, 16]
    guess = predicted([[0, 2]], [[0.9, 0.1, 0.0]])
    image = truth([[0, 2, 0], [0, 2, 0], [1, 2, 1]]), guess
    training = run([image], num_predicates=3, training_counts=[0, 1, 2])
    assert training.metrics["mR_tail"][20] == 1  # predicate 0, the most frequent one here
    assert training.metrics["mR_head"][20] == 0


def scattered(count: int) -> list[tuple[GroundTruth, Prediction]]:
    generator = np.random.default_rng(5)
    images = []
    for _ in range(count):
        relations = np.column_stack([generator.integers(0, 3, (4, 2)), generator.integers(0, 3, 4)])
        pairs = [[0, 1], [1, 2], [2, 0], [0, 2]]
        images.append((truth(relations.tolist()), predicted(pairs, generator.random((4, 3)))))
    return images


def test_bootstrap_intervals() -> None:
    images = scattered(60)
    summary = run(images, num_predicates=3, zero_shot=frozenset({(0, 0, 1)}), bootstrap=400)
    again = run(images, num_predicates=3, zero_shot=frozenset({(0, 0, 1)}), bootstrap=400)
    assert summary.intervals == again.intervals
    assert set(summary.intervals) == set(summary.metrics)
    for name, values in summary.metrics.items():
        for k, value in values.items():
            low, high = summary.intervals[name][k]
            assert 0 <= low <= value <= high <= 1, name
    # The interval of a mean of independent values is its standard error times 1.96 on each side.
    recalls = [run([p], num_predicates=3).metrics["R"][20] for p in images]
    low, high = summary.intervals["R"][20]
    wanted = 2 * 1.96 * np.std(recalls) / math.sqrt(len(recalls))
    assert high - low == pytest.approx(wanted, rel=0.15)
    assert run(images, num_predicates=3).intervals == {}


def test_states_merge_in_any_order_and_count_a_image_once() -> None:
    images = scattered(7)
    whole, parts = RowStore(), [RowStore() for _ in range(3)]
    of_part = [[6, 2, 0], [0, 1, 3, 4, 5, 6], []]
    rows = [evaluate_image(*p, protocol=PROTOCOLS["sgb"], task=Task.PREDCLS) for p in images]
    for key, found in enumerate(rows):
        whole.add(key, *found)
        whole.add(key, *found)
    for part, keys in zip(parts, of_part, strict=True):
        for key in keys:
            part.add(key, *rows[key])
    assert len(whole) == 7 and 3 in whole and 7 not in whole
    merged = RowStore.merge([part.state() for part in parts])
    for left, right in zip(merged, whole.state(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_nothing_to_score() -> None:
    for images in ([], [one_image_each()[2]]):
        summary = run(images, num_predicates=2, zero_shot=frozenset(), bootstrap=5)
        assert math.isnan(summary.metrics["R"][20]) and math.isnan(summary.metrics["A"][20])
        assert summary.images["scored"] == 0


def test_unknown_protocol_names_the_choices() -> None:
    with pytest.raises(ValueError, match=r"'sgg'.*sgb, visualds"):
        get_protocol("sgg")
    assert get_protocol(PROTOCOLS["vrd"]) is PROTOCOLS["vrd"]


GOOD = {
    "boxes": BOXES,
    "classes": CLASSES,
    "scores": [1.0, 0.5, 0.5],
    "pairs": [[0, 1]],
    "predicate_scores": [[0.5, 0.5]],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": [[0, 3]]}, "pairs.* 3 .* 3 "),
        ({"pairs": [[0, -1]]}, "pairs.* -1 "),
        ({"pairs": [[0, 0.5]]}, "pairs"),
        ({"classes": [0, 0, 9]}, "class 9 .* 9 "),
        ({"classes": [0, 1]}, "3 boxes, 2 classes"),
        ({"scores": [1, math.nan, 1]}, "scores"),
        ({"scores": [1, -1, 1]}, "scores"),
        ({"boxes": [[0, 0, 1, math.inf]] * 3}, "boxes"),
        ({"boxes": [[0, 0, 1]] * 3}, "boxes.*4"),
        ({"predicate_scores": [[0.5, 0.4, 0.1]]}, r"\[1, 3\].*\[1, 2\]"),
        ({"predicate_scores": [[0.5, 0.5]] * 2}, r"\[2, 2\].*\[1, 2\]"),
        ({"predicate_scores": [[0.5, math.nan]]}, "predicate_scores.*NaN"),
        ({"predicate_scores": [[0.5, math.inf]]}, "predicate_scores.*finite"),
        ({"predicate_scores": [["a", "b"]]}, "predicate_scores"),
        ({"predicate_scores": [[0.5], [0.5, 0.5]]}, "predicate_scores"),
    ],
)
def test_unusable_predictions_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Prediction(**{**GOOD, **change}).check(2, 9)
    Prediction(**GOOD).check(2, 9)


@pytest.mark.parametrize(
    ("triplets", "scores", "message"),
    [
        ([[0, 3, 0]], [1.0], "triplets.* 3 .* 3 "),
        ([[0, 1, 2]], [1.0], "triplets.*predicate 2 .* 2 "),
        ([[0, 1, 1]], [1.0, 2.0], "1 triplets.* 2 "),
        ([[0, 1, 1]], [math.nan], "triplets"),
    ],
)
def test_unusable_triplets_are_refused(triplets: list, scores: list, message: str) -> None:
    entities = (BOXES, CLASSES, [1.0] * 3)
    with pytest.raises(ValueError, match=message):
        Prediction(*entities, triplets=triplets, triplet_scores=scores).check(2)


@pytest.mark.parametrize(
    ("relations", "message"),
    [
        ([[0, 3, 0]], "gt_relations.* 3 .* 3 "),
        ([[0, 1, 2]], "gt_relations.*predicate 2"),
        ([[0, 1]], "gt_relations.*3"),
    ],
)
def test_unusable_ground_truth_is_refused(relations: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        truth(relations).check(2)


def test_a_box_dropped_on_one_side_is_refused() -> None:
    fewer = predicted([[0, 1]], [[0.5]], BOXES[:2], CLASSES[:2])
    with pytest.raises(ValueError, match=r"2 boxes.* 3 "):
        run([(truth([[0, 2, 0]]), fewer)], num_predicates=1)


def test_infinite_predicate_scores_times_zero_are_refused() -> None:
    bad = predicted([[0, 2]], [[0.5, -math.inf]], entity=[0, 1, 1])
    with pytest.raises(ValueError, match="predicate_scores"):
        run([(truth([[0, 2, 0]]), bad)], num_predicates=2, task="sgcls")
