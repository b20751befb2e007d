"""Every metric under every protocol against plain loops, on random images full of odd cases."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vrd_d2.evaluation import (
    PROTOCOLS,
    GroundTruth,
    Prediction,
    RowStore,
    evaluate_image,
    summarize,
)
from vrd_d2.tasks import Task

CLASSES = 3
# What each protocol does, stated a second time and in other words than protocols.py.
UNIQUE = {"visualds", "sgbench"}
ZERO_WITHOUT_PAIRS = {"microsoft", "motifs", "vrd", "sgbench"}
OVERLAPPING = {("microsoft", "predcls"), ("microsoft", "sgcls"), ("microsoft", "sgdet")}
OVERLAPPING |= {("motifs", "sgdet")}


@dataclass
class Image:
    gt_boxes: list
    gt_classes: list
    relations: list
    boxes: list
    classes: list
    scores: list
    pairs: list
    predicate_scores: list
    size: int | None = None
    as_triplets: bool = False
    triplets: list = field(default_factory=list)


def iou(first, second, protocol):
    one = 0 if protocol == "sgbench" else 1
    width = min(first[2], second[2]) - max(first[0], second[0]) + one
    height = min(first[3], second[3]) - max(first[1], second[1]) + one
    shared = max(width, 0) * max(height, 0)
    area = sum((b[2] - b[0] + one) * (b[3] - b[1] + one) for b in (first, second))
    return shared / (area - shared) if area != shared else 0


def union(first, second):
    low = [min(first[i], second[i]) for i in (0, 1)]
    return low + [max(first[i], second[i]) for i in (2, 3)]


def ranked_lists(image, boxes, protocol, task, num_predicates, annotated=None):
    """(subject, object, predicate) under graph constraint and without, best first.

    With ``annotated`` (rows of pairs) only of those pairs; under vrd, once for each of the rows.
    """
    unit = task == "predcls"
    constrained, free = [], []
    best_of_pair = {}
    for index, (s, o) in enumerate(image.pairs):
        if (protocol, task) in OVERLAPPING and iou(boxes[s], boxes[o], protocol) <= 0:
            continue
        if annotated is not None and (s, o) not in annotated:
            continue
        weight = 1 if unit else image.scores[s] * image.scores[o]
        row = image.predicate_scores[index]
        best = max(range(num_predicates), key=lambda p, row=row: (row[p], -p))
        constrained.append((-weight * row[best], index, (s, o, best)))
        best_of_pair[s, o] = min(best_of_pair.get((s, o), constrained[-1]), constrained[-1])
        for p in range(num_predicates):
            free.append((-weight * row[p], index * num_predicates + p, (s, o, p)))
    if annotated is not None and protocol == "vrd":
        constrained = [best_of_pair[pair] for pair in annotated if pair in best_of_pair]
    return [[triplet for _, _, triplet in sorted(found)] for found in (constrained, free)]


def fits(image, boxes, classes, gt_boxes, i, g, protocol):
    """Whether predicted box i can stand for ground-truth box g."""
    if classes[i] != image.gt_classes[g] or iou(boxes[i], gt_boxes[g], protocol) < 0.5:
        return False
    if protocol != "sgbench":
        return True
    same = [h for h in range(len(gt_boxes)) if image.gt_classes[h] == classes[i]]
    return g == max(same, key=lambda h: (iou(boxes[i], gt_boxes[h], protocol), -h))


def hit_rows(image, ranked, boxes, classes, gt_boxes, relations, protocol, phrase=False):
    """Rank of the triplet that hits each ground-truth row, infinite where none does."""
    ranks = [math.inf] * len(relations)
    for rank, (i, j, p) in enumerate(ranked):
        found = []
        for row, (s, o, gt_p) in enumerate(relations):
            if p != gt_p:
                continue
            if phrase:
                named = (classes[i], classes[j]) == (image.gt_classes[s], image.gt_classes[o])
                overlap = iou(union(boxes[i], boxes[j]), union(gt_boxes[s], gt_boxes[o]), protocol)
                matches = named and overlap >= 0.5
            else:
                matches = fits(image, boxes, classes, gt_boxes, i, s, protocol) and fits(
                    image, boxes, classes, gt_boxes, j, o, protocol
                )
                overlap = min(
                    iou(boxes[i], gt_boxes[s], protocol), iou(boxes[j], gt_boxes[o], protocol)
                )
            if matches:
                found.append((overlap, row))
        if protocol == "vrd":
            found = [(overlap, row) for overlap, row in found if ranks[row] == math.inf]
            if found:
                best = max(overlap for overlap, _ in found)
                ranks[min(row for overlap, row in found if overlap == best)] = rank
        else:
            for _, row in found:
                ranks[row] = min(ranks[row], rank)
    return ranks


def reference(images, protocol, task, ks, num_predicates, zero_shot):
    """All metrics by loops; returns them like Summary.metrics, image counts and confusion."""
    boxes_given = task != "sgdet"
    per_image = {}  # (name, k) -> [(hits, rows)] by image
    cells = {}  # (name, k, predicate) -> [(hits, rows)] by image
    totals = dict.fromkeys(("total", "scored", "no_gt", "no_pairs", "zero_shot"), 0)
    confusion = np.zeros((num_predicates, num_predicates + 1), int)
    rows_seen = [0] * num_predicates
    for image in images:
        totals["total"] += 1
        relations = [tuple(row) for row in image.relations]
        if protocol in UNIQUE:
            relations = sorted(set(relations))
        if not relations:
            totals["no_gt"] += 1
            continue
        boxes, classes = image.boxes, image.classes
        gt_boxes = image.gt_boxes
        if task == "predcls":
            boxes, classes = image.gt_boxes, image.gt_classes
        if protocol == "motifs" and image.size:
            factor = 1024 / image.size
            boxes, gt_boxes = ([[factor * c for c in b] for b in bs] for bs in (boxes, gt_boxes))
        constrained, free = ranked_lists(image, boxes, protocol, task, num_predicates)
        if not constrained and protocol not in ZERO_WITHOUT_PAIRS:
            totals["no_pairs"] += 1
            continue
        totals["scored"] += 1
        annotated = {(s, o) for s, o, _ in relations}
        given_pairs, given_free = ranked_lists(
            image, boxes, protocol, task, num_predicates, [(s, o) for s, o, _ in relations]
        )
        if protocol == "vrd" and boxes_given:
            constrained, free = given_pairs, given_free
        top1 = {}
        for s, o, p in given_pairs:
            top1.setdefault((s, o), p)
        unseen = [
            (image.gt_classes[s], image.gt_classes[o], p) in zero_shot for s, o, p in relations
        ]
        totals["zero_shot"] += any(unseen)
        arguments = (boxes, classes, gt_boxes, relations, protocol)
        longest = max(ks)
        ranks = {
            "R": hit_rows(image, constrained[:longest], *arguments),
            "ngR": hit_rows(image, free[:longest], *arguments),
            "A": hit_rows(image, given_pairs[:longest], *arguments),
            "ngA": hit_rows(image, given_free[:longest], *arguments),
            "phrase_R": hit_rows(image, constrained[:longest], *arguments, phrase=True),
            "phrase_ngR": hit_rows(image, free[:longest], *arguments, phrase=True),
        }
        everything = [True] * len(relations)
        for row, (s, o, p) in enumerate(relations):
            rows_seen[p] += 1
            answer = num_predicates
            for i, j, named in constrained[:longest]:
                if fits(image, boxes, classes, gt_boxes, i, s, protocol) and fits(
                    image, boxes, classes, gt_boxes, j, o, protocol
                ):
                    answer = named
                    break
            confusion[p, p if ranks["R"][row] < math.inf else answer] += 1
        for k in ks:
            for name, of, which in (
                ("R", "R", everything),
                ("ngR", "ngR", everything),
                ("zR", "R", unseen),
                ("ngzR", "ngR", unseen),
                ("A", "A", everything),
                ("ngA", "ngA", everything),
                ("zA", "A", unseen),
                ("ngzA", "ngA", unseen),
                ("phrase_R", "phrase_R", everything),
                ("phrase_ngR", "phrase_ngR", everything),
                ("phrase_zR", "phrase_R", unseen),
                ("phrase_ngzR", "phrase_ngR", unseen),
            ):
                chosen = [rank < k for rank, taken in zip(ranks[of], which, strict=True) if taken]
                if chosen:
                    per_image.setdefault((name, k), []).append((sum(chosen), len(chosen)))
            found = set()
            for i, j, _ in constrained[:k]:
                for s, o in annotated:
                    if fits(image, boxes, classes, gt_boxes, i, s, protocol) and fits(
                        image, boxes, classes, gt_boxes, j, o, protocol
                    ):
                        found.add((s, o))
            per_image.setdefault(("PR", k), []).append((len(found), len(annotated)))
            for name in ("R", "ngR"):
                for predicate in {p for _, _, p in relations}:
                    chosen = [
                        ranks[name][row] < k
                        for row, (_, _, p) in enumerate(relations)
                        if p == predicate
                    ]
                    cell = cells.setdefault((name, k, predicate), [])
                    cell.append((sum(chosen), len(chosen)))
        right = [top1.get((s, o)) == p for s, o, p in relations]
        per_image.setdefault(("top1", 1), []).append((sum(right), len(right)))

    def value(found, pooled):
        if not found:
            return math.nan
        if pooled:
            return sum(h for h, _ in found) / sum(n for _, n in found)
        return sum(h / n for h, n in found) / len(found)

    pooled = protocol == "vrd"
    names = ["R", "ngR", "PR"]
    names += ["zR", "ngzR"] if zero_shot else []
    names += ["A", "ngA"] if boxes_given else []
    names += ["zA", "ngzA"] if boxes_given and zero_shot else []
    names += ["phrase_R", "phrase_ngR"] if pooled else []
    names += ["phrase_zR", "phrase_ngzR"] if pooled and zero_shot else []
    metrics = {
        name: {k: value(per_image.get((name, k), []), pooled or "A" in name) for k in ks}
        for name in names
    }
    if boxes_given:
        metrics["top1"] = {1: value(per_image.get(("top1", 1), []), True)}
    order = sorted(range(num_predicates), key=lambda p: (-rows_seen[p], p))
    sizes = [num_predicates // 3 + (part < num_predicates % 3) for part in range(3)]
    for name, mean in (("R", "mR"), ("ngR", "ngmR")):
        recall = {
            k: [
                value(cells[name, k, p], pooled) if (name, k, p) in cells else 0.0
                for p in range(num_predicates)
            ]
            for k in ks
        }
        metrics[mean] = {k: sum(recall[k]) / num_predicates for k in ks}
        harmonic = {}
        for k in ks:
            r, m = metrics[name][k], metrics[mean][k]
            harmonic[k] = 0.0 if r + m == 0 else 2 * r * m / (r + m)
        metrics[name.replace("R", "F")] = harmonic
        if name == "R":
            start = 0
            for group, size in zip(("head", "body", "tail"), sizes, strict=True):
                members = order[start : start + size]
                start += size
                metrics[f"mR_{group}"] = {
                    k: sum(recall[k][p] for p in members) / size if size else math.nan for k in ks
                }
    return metrics, totals, confusion


def ours(images, protocol, task, ks, num_predicates, zero_shot):
    store = RowStore()
    protocol, task = PROTOCOLS[protocol], Task(task)
    for key, p in enumerate(images):
        truth = GroundTruth(p.gt_boxes, p.gt_classes, p.relations, longer_side=p.size)
        scored = {"pairs": p.pairs, "predicate_scores": p.predicate_scores}
        if p.as_triplets:
            scored = {"triplets": [t[:3] for t in p.triplets]}
            scored["triplet_scores"] = [t[3] for t in p.triplets]
        prediction = Prediction(p.boxes, p.classes, p.scores, **scored)
        truth.check(num_predicates, CLASSES)
        prediction.check(num_predicates, CLASSES)
        found = evaluate_image(
            truth,
            prediction,
            protocol=protocol,
            task=task,
            limit=max(ks),
            zero_shot=frozenset(zero_shot),
        )
        store.add(key, *found)
    return summarize(
        *store.state(),
        num_predicates=num_predicates,
        protocol=protocol,
        task=task,
        ks=ks,
        with_zero_shot=bool(zero_shot),
    )


def compare(images, protocol, task, ks, num_predicates, zero_shot):
    summary = ours(images, protocol, task, ks, num_predicates, zero_shot)
    metrics, totals, confusion = reference(images, protocol, task, ks, num_predicates, zero_shot)
    assert set(summary.metrics) == set(metrics)
    for name, values in metrics.items():
        assert list(summary.metrics[name]) == list(values), name
        for k, expected in values.items():
            assert summary.metrics[name][k] == pytest.approx(expected, abs=1e-12, nan_ok=True), (
                f"{name}@{k}"
            )
    assert summary.images == {
        "total": totals["total"],
        "scored": totals["scored"],
        "skipped_no_gt_relations": totals["no_gt"],
        "skipped_no_predicted_pairs": totals["no_pairs"],
        "zeroshot_scored": totals["zero_shot"],
    }
    np.testing.assert_array_equal(summary.confusion, confusion)


def boxes_around(draw, centres):
    """Boxes a few pixels off the centres, some of zero area, some the same."""
    shifts = st.integers(-3, 3)
    moved = []
    for box in centres:
        x1, y1, x2, y2 = (c + draw(shifts) for c in box)
        moved.append([min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)])
    return moved


@st.composite
def image(draw, task, num_predicates):
    classes = st.integers(0, CLASSES - 1)
    # Multiples of 1/8 make many ties and products without rounding.
    score = st.integers(0, 8).map(lambda eighths: eighths / 8)
    corner = st.integers(0, 12)
    side = st.integers(0, 9)
    count = draw(st.integers(0, 4))
    gt_boxes = []
    for _ in range(count):
        x, y = draw(corner), draw(corner)
        gt_boxes.append([x, y, x + draw(side), y + draw(side)])
    gt_classes = [draw(classes) for _ in range(count)]
    index = st.integers(0, max(count - 1, 0))
    row = st.tuples(index, index, st.integers(0, num_predicates - 1)).map(list)
    relations = draw(st.lists(row, max_size=6)) if count else []
    if task == "sgdet":
        sources = draw(st.lists(index, max_size=5)) if count else []
        boxes = boxes_around(draw, [gt_boxes[i] for i in sources])
        found = [draw(st.sampled_from([gt_classes[i], draw(classes)])) for i in sources]
    else:
        boxes = gt_boxes
        found = gt_classes if task == "predcls" else [draw(classes) for _ in gt_boxes]
    ends = st.integers(0, max(len(boxes) - 1, 0))
    pairs = draw(st.lists(st.tuples(ends, ends).map(list), max_size=8)) if boxes else []
    rows = [[draw(score) for _ in range(num_predicates)] for _ in pairs]
    scores = [draw(score) for _ in boxes]
    size = draw(st.sampled_from([None, 512, 2048]))
    return Image(gt_boxes, gt_classes, relations, boxes, found, scores, pairs, rows, size)


@pytest.mark.parametrize("task", ["predcls", "sgcls", "sgdet"])
@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_equals_loops(protocol: str, task: str, data: st.DataObject) -> None:
    num_predicates = data.draw(st.integers(1, 4))
    images = data.draw(st.lists(image(task, num_predicates), max_size=4))
    classes, predicates = st.integers(0, CLASSES - 1), st.integers(0, num_predicates - 1)
    zero_shot = data.draw(st.sets(st.tuples(classes, classes, predicates), max_size=6))
    compare(images, protocol, task, (1, 2, 4), num_predicates, zero_shot)


def crowded(generator: np.random.Generator, task: str, levels: int | None) -> Image:
    """More pairs than the largest K; ``levels`` scores give ties, None none."""
    gt_boxes = generator.integers(0, 40, (9, 4))
    gt_boxes[:, 2:] += gt_boxes[:, :2]
    gt_classes = generator.integers(0, CLASSES, 9)
    relations = np.column_stack([generator.integers(0, 9, (12, 2)), generator.integers(0, 5, 12)])
    source = np.arange(9) if task != "sgdet" else generator.integers(0, 9, 14)
    boxes = gt_boxes[source] + (generator.integers(-2, 3, (len(source), 4)) * (task == "sgdet"))
    classes = gt_classes[source].copy()
    if task != "predcls":
        classes[::5] = generator.integers(0, CLASSES, len(classes[::5]))
    pairs = generator.integers(0, len(boxes), (170, 2))

    def draw(*shape: int) -> np.ndarray:
        if levels is None:
            return generator.random(shape)
        return generator.integers(0, levels + 1, shape) / levels

    return Image(
        gt_boxes.tolist(),
        gt_classes.tolist(),
        relations.tolist(),
        boxes.tolist(),
        classes.tolist(),
        draw(len(boxes)).tolist(),
        pairs.tolist(),
        draw(170, 5).tolist(),
    )


@pytest.mark.parametrize("levels", [2, 8, None])
@pytest.mark.parametrize("task", ["predcls", "sgcls", "sgdet"])
def test_more_pairs_than_the_largest_k(task: str, levels: int | None) -> None:
    generator = np.random.default_rng(7)
    images = [crowded(generator, task, levels) for _ in range(6)]
    for protocol in PROTOCOLS:
        compare(images, protocol, task, (20, 50, 100), 5, {(0, 1, 2), (2, 2, 0)})


@pytest.mark.parametrize("task", ["predcls", "sgcls", "sgdet"])
def test_listed_triplets_equal_scored_pairs(task: str) -> None:
    """Every pair once, every predicate listed with its product: the same ranking."""
    generator = np.random.default_rng(3)
    images = []
    for _ in range(5):
        p = crowded(generator, task, 8)
        keep = [i for i, pair in enumerate(p.pairs) if pair not in p.pairs[:i]]
        p.pairs = [p.pairs[i] for i in keep]
        p.predicate_scores = [p.predicate_scores[i] for i in keep]
        p.as_triplets = True
        p.scores = [max(score, 1 / 8) for score in p.scores]  # products with 0 would all tie
        for (s, o), row in zip(p.pairs, p.predicate_scores, strict=True):
            weight = 1 if task == "predcls" else p.scores[s] * p.scores[o]
            p.triplets += [[s, o, k, weight * score] for k, score in enumerate(row)]
        images.append(p)
    for protocol in PROTOCOLS:
        compare(images, protocol, task, (20, 50, 100), 5, set())
