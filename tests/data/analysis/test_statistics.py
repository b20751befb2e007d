"""Statistics of datasets: a case worked by hand, a slow and obvious reference, files and plots."""

import json
from collections import Counter

import numpy as np
import pytest
from conftest import TINY_OBJECTS, TINY_PREDICATES, tiny_images
from detectron2.structures import BoxMode
from PIL import Image

from vrd_d2.data.analysis.plots import write_statistics_plots
from vrd_d2.data.analysis.statistics import (
    ClassPair,
    dataset_statistics,
    statistics_json,
    statistics_table,
)
from vrd_d2.data.records.packed import PackedRecords


@pytest.fixture
def tiny(tmp_path):
    return tiny_images(tmp_path)


def count(records, classes=3, predicates=4):
    return dataset_statistics(records, num_classes=classes, num_predicates=predicates)


def test_a_case_worked_by_hand(tiny):
    s = count(tiny)
    assert (s.images, s.images_without_objects, s.images_without_relations) == (5, 0, 2)
    assert s.objects_per_image.tolist() == [3, 3, 2, 1, 4]
    assert s.relations_per_image.tolist() == [4, 3, 0, 0, 3]
    assert s.class_counts.tolist() == [5, 4, 4]  # man, dog, hat
    assert s.predicate_counts.tolist() == [3, 2, 2, 3]
    assert s.boxes_without_area == 1 and s.boxes_outside == 0
    assert s.self_relations == 1  # dog on itself, second image
    assert s.repeated_relations == 1  # man holding dog, twice
    # (0,1) (0,2) | (1,0) (2,1) | (0,2) (3,1) (1,3)
    assert s.related_pairs == 7 and s.pairs_of_several_predicates == 1
    assert s.pairs_without_overlap == 1  # the hat of width 0 shares no area
    assert s.triplets == 7 and s.triplets_once == 4
    assert s.class_pairs[0] == ClassPair(0, 1, 4, 1, 0.5)  # man-dog: holding 2, next to 1, on 1
    assert {(p.subject, p.object): p.relations for p in s.class_pairs} == {
        (0, 1): 4, (0, 2): 2, (1, 0): 2, (2, 1): 1, (1, 1): 1,
    }  # fmt: skip
    assert s.dominant_share == pytest.approx((2 + 2 + 2 + 1 + 1) / 10)


def random_records(rng, images=40, classes=5, predicates=3):
    records = []
    for number in range(images):
        boxes = int(rng.integers(0, 6))
        corner = rng.integers(-5, 60, (boxes, 2))
        xyxy = np.concatenate([corner, corner + rng.integers(0, 40, (boxes, 2))], 1)
        rows = rng.integers(0, boxes, (int(rng.integers(0, 9)), 2)) if boxes else np.zeros((0, 2))
        predicate = rng.integers(0, predicates, (len(rows), 1))
        records.append(
            {
                "file_name": f"{number}.jpg",
                "image_id": number,
                "height": 70,
                "width": 80,
                "annotations": [
                    {
                        "bbox": box,
                        "bbox_mode": BoxMode.XYXY_ABS,
                        "category_id": int(rng.integers(classes)),
                    }
                    for box in xyxy.tolist()
                ],
                "relations": np.concatenate([rows, predicate], 1).astype(np.int64),
            }
        )
    return records


def test_against_counting_one_by_one():
    records = random_records(np.random.default_rng(3))
    s = count(records, 5, 3)
    outside = flat = several = apart = repeated = selves = 0
    triplets, of_pair = Counter(), {}
    for record in records:
        boxes = [a["bbox"] for a in record["annotations"]]
        classes = [a["category_id"] for a in record["annotations"]]
        outside += sum(x1 < 0 or y1 < 0 or x2 > 80 or y2 > 70 for x1, y1, x2, y2 in boxes)
        flat += sum(x2 == x1 or y2 == y1 for x1, y1, x2, y2 in boxes)
        rows = [tuple(row) for row in record["relations"].tolist()]
        repeated += len(rows) - len(set(rows))
        selves += sum(a == b for a, b, _ in rows)
        pairs = {(a, b) for a, b, _ in rows if a != b}
        several += sum(len({p for a, b, p in rows if (a, b) == pair}) > 1 for pair in pairs)
        for a, b in pairs:
            (ax, ay, aX, aY), (bx, by, bX, bY) = boxes[a], boxes[b]
            apart += min(aX, bX) <= max(ax, bx) or min(aY, bY) <= max(ay, by)
        for a, b, p in rows:
            triplets[classes[a], classes[b], p] += 1
            of_pair.setdefault((classes[a], classes[b]), Counter())[p] += 1
    assert min(outside, flat, several, apart, repeated, selves) > 1
    assert (s.boxes_outside, s.boxes_without_area) == (outside, flat)
    assert (s.pairs_of_several_predicates, s.pairs_without_overlap) == (several, apart)
    assert (s.repeated_relations, s.self_relations) == (repeated, selves)
    assert s.triplets == len(triplets)
    assert s.triplets_once == sum(times == 1 for times in triplets.values())
    assert len(s.class_pairs) == len(of_pair)
    for pair in s.class_pairs:
        counter = of_pair[pair.subject, pair.object]
        top = max(counter.values())
        assert pair.relations == counter.total() and pair.share == top / pair.relations
        assert pair.predicate == min(p for p, times in counter.items() if times == top)
    totals = [pair.relations for pair in s.class_pairs]
    assert totals == sorted(totals, reverse=True)


def test_packed_records_count_the_same():
    records = random_records(np.random.default_rng(4))
    first, second = count(records, 5, 3), count(PackedRecords.pack(records), 5, 3)
    assert statistics_json(first, "abcde", "xyz") == statistics_json(second, "abcde", "xyz")


def test_json_and_table_go_by_name(tiny):
    s = count(tiny)
    content = json.loads(json.dumps(statistics_json(s, TINY_OBJECTS, TINY_PREDICATES)))
    assert content["class_counts"] == {"man": 5, "dog": 4, "hat": 4}
    assert content["relations_per_image"] == {"0": 2, "3": 2, "4": 1}
    assert content["class_pairs"][0]["predicate"] == "holding"
    table = statistics_table(s, TINY_OBJECTS, TINY_PREDICATES, title="tiny")
    assert table.startswith("tiny\n") and "man - dog" in table and "50.00% holding" in table
    shares = [line for line in table.splitlines() if line.rstrip().endswith("%")]
    assert len({len(line) for line in shares}) == 1  # one column


def test_a_dataset_without_relations_or_images(tmp_path):
    boxes_only = random_records(np.random.default_rng(5), predicates=1)
    for record in boxes_only:
        record["relations"] = np.zeros((0, 3), np.int64)
    for records in (boxes_only, []):
        s = count(records, 5, 0)
        assert s.class_pairs == () and np.isnan(s.dominant_share)
        assert statistics_json(s, "abcde", "")["dominant_share"] is None
        assert "repeated" not in statistics_table(s, "abcde", "", title="boxes")
        paths = write_statistics_plots(s, tmp_path, objects="abcde", predicates="", title="boxes")
        assert [path.name for path in paths] == ["classes.png", "images.png"]


def test_images_of_unknown_size(tiny):
    expected = count(tiny)
    for record in tiny:
        record["annotations"][0]["bbox"][2] = 1000
    assert count(tiny).boxes_outside == 5
    del tiny[1]["height"], tiny[1]["width"]
    s = count(tiny)
    assert (s.boxes_outside, s.images_without_size) == (4, 1)
    assert expected.images_without_size == 0
    table = statistics_table(s, TINY_OBJECTS, TINY_PREDICATES, title="tiny")
    assert "1 images, whose size is not known" in table


def test_ids_beyond_the_vocabulary_are_refused(tiny):
    with pytest.raises(ValueError, match="ids of classes reach from 0 to 2, but there are 2"):
        count(tiny, classes=2)
    with pytest.raises(ValueError, match="ids of predicates reach from 0 to 3, but there are 3"):
        count(tiny, predicates=3)


def test_plots_are_images_with_something_on_them(tiny, tmp_path):
    names = {"objects": TINY_OBJECTS, "predicates": TINY_PREDICATES}
    paths = write_statistics_plots(count(tiny), tmp_path / "new", title="tiny", **names)
    assert [path.stem for path in paths] == ["classes", "images", "predicates", "class_pairs"]
    for path in paths:
        colours = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
        assert (colours == (0x44, 0x77, 0xAA)).all(1).sum() > 500  # bars


def test_many_classes_stay_one_readable_figure(tmp_path):
    records = random_records(np.random.default_rng(6), images=200, classes=400)
    s = count(records, 400, 3)
    names = {"objects": [f"class {i}" for i in range(400)], "predicates": "xyz"}
    path, *_ = write_statistics_plots(s, tmp_path, title="many", **names)
    assert Image.open(path).width < 3000
