"""Packed dataset dicts against the dicts they were made of, and everything that reads them."""

import contextlib
import io
import json
import multiprocessing
import os
import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from conftest import TINY_OBJECTS, TINY_PREDICATES, tiny_images
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.structures import BoxMode
from torch.utils.data import ConcatDataset, DataLoader

from vrd_d2.data.boxes import annotation_xyxy
from vrd_d2.data.build import RecordsDataset, training_records
from vrd_d2.data.records.packed import PackedRecords, unseen_triplets
from vrd_d2.data.samplers import predicate_repeat_factors
from vrd_d2.data.vocabulary import Vocabulary
from vrd_d2.engine.trainer import Trainer
from vrd_d2.evaluation import RelationEvaluator
from vrd_d2.modeling.frequency import count_relations
from vrd_d2.modeling.geometry import candidate_pairs

VOCABULARY = Vocabulary(TINY_OBJECTS, TINY_PREDICATES)


@pytest.fixture
def records(tmp_path) -> list[dict]:
    """The tiny images; one with captions, one with string ids, crowds, and one without boxes."""
    made = tiny_images(tmp_path)
    made[1]["captions"] = ["a man walks a dog", "ein Männlein"]
    made[2]["annotations"][0]["iscrowd"] = 1
    made[3]["annotations"][0]["iscrowd"] = 1
    empty = {"annotations": [], "relations": np.zeros((0, 3), np.int64)}
    made.append({**made[0], "image_id": "x", "file_name": "/nowhere/ü.jpg", **empty})
    return made


@pytest.fixture
def register():
    """Register datasets for one test, each under another name."""
    names = []

    def add(dataset) -> str:
        names.append(f"packed_{len(names)}")
        DatasetCatalog.register(names[-1], lambda: dataset)
        MetadataCatalog.get(names[-1]).set(
            thing_classes=list(TINY_OBJECTS), predicate_classes=list(TINY_PREDICATES)
        )
        return names[-1]

    yield add
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def plain(record: dict) -> dict:
    return {**record, "relations": record["relations"].tolist()}


def same(found, expected) -> bool:
    assert all(record["relations"].dtype == np.int64 for record in found)
    return [plain(record) for record in found] == [plain(record) for record in expected]


def test_packed_records_give_the_dicts_back_fresh(records):
    packed = PackedRecords.pack(iter(records))
    assert len(packed) == len(records) == 6
    assert same(packed, records)
    assert same([packed[i] for i in range(-6, 0)], records)
    assert packed[0]["annotations"][0]["bbox_mode"] == BoxMode.XYXY_ABS
    registered = RecordsDataset.of(packed)
    assert same(registered, records) and registered.boxes.base is packed.boxes.base
    assert type(registered[0]["annotations"][0]["bbox_mode"]) is BoxMode
    changed = packed[0]
    changed["annotations"].clear()
    changed["relations"][:] = -1
    assert same(packed, records)
    assert same(pickle.loads(pickle.dumps(packed)), records)
    for index in (6, -7):
        with pytest.raises(IndexError):
            packed[index]
    with pytest.raises(ValueError, match="read-only"):
        packed.boxes[0] = 0


def test_slices_and_selections(records):
    packed = PackedRecords.pack(records)
    assert isinstance(packed[1:3], PackedRecords)
    for part in (slice(1, 3), slice(None, None, -2), slice(4, None), slice(3, 3)):
        assert same(packed[part], records[part])
    assert same(packed.select([5, 0, 0]), [records[5], records[0], records[0]])
    mask = np.array([True, False, False, True, False, True])
    assert same(packed.select(mask), [records[0], records[3], records[5]])
    assert same(packed.select(mask).select([1]), [records[3]])
    assert len(packed.select([])) == len(PackedRecords.pack([])) == 0
    assert list(PackedRecords.pack([])) == []
    with pytest.raises(IndexError):
        packed.select([6])


def test_counts_arrays_and_triplets(records):
    packed = PackedRecords.pack(records)
    assert packed.box_counts.tolist() == [3, 3, 2, 1, 4, 0]
    assert packed.object_counts.tolist() == [3, 3, 1, 0, 4, 0]
    assert packed.relation_counts.tolist() == [4, 3, 0, 0, 3, 0]
    assert packed.file_names == [record["file_name"] for record in records]
    expected = set()
    for record in records:
        classes = [annotation["category_id"] for annotation in record["annotations"]]
        expected |= {(classes[s], classes[o], p) for s, o, p in record["relations"].tolist()}
    assert list(map(tuple, packed.triplets().tolist())) == sorted(expected)
    training = packed.select([1]).triplets()
    unseen = unseen_triplets(packed.triplets(), training)
    assert set(unseen) == expected - set(map(tuple, training.tolist()))
    assert all(type(number) is int for triplet in unseen for number in triplet)


def test_memory_is_that_of_the_numbers():
    count, boxes = 500, 10
    rng = np.random.default_rng(0)
    packed = PackedRecords(
        file_names=(f"/data/{i}.jpg" for i in range(count)),
        image_ids=np.arange(count),
        sizes=np.full((count, 2), 500),
        boxes=rng.random((count * boxes, 4), np.float32),
        categories=rng.integers(0, 150, count * boxes),
        box_counts=np.full(count, boxes),
        relations=rng.integers(0, boxes, (count * 6, 3)),
        relation_counts=np.full(count, 6),
        annotation_ids=np.arange(count * boxes),
    )
    assert packed.nbytes < 450 * count  # as Python objects: some 6000
    assert packed[7]["annotations"][3]["id"] == 73


def test_other_box_modes_and_ids(records):
    for annotation in records[0]["annotations"]:
        x1, y1, x2, y2 = annotation["bbox"]
        annotation.update(bbox=[x1, y1, x2 - x1, y2 - y1], bbox_mode=BoxMode.XYWH_ABS)
    records[1]["annotations"][0]["id"] = "first"
    records[2]["annotations"][0]["id"] = 2**70
    found = PackedRecords.pack(records)
    expected = [annotation_xyxy(a) for r in records for a in r["annotations"]]
    assert [a["bbox"] for r in found for a in r["annotations"]] == expected
    assert [a["id"] for r in found for a in r["annotations"]] == [
        a["id"] for r in records for a in r["annotations"]
    ]
    del records[4]["annotations"][1]["id"]
    assert all("id" not in a for r in PackedRecords.pack(records) for a in r["annotations"])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda r: r.pop("relations"), r"dataset dict 1 \(.*1\.png\): the key 'relations' is"),
        (lambda r: r.update(extra=1), r"dataset dict 1 .*'extra'"),
        (lambda r: r["annotations"][0].update(segmentation=[]), r"dataset dict 1 .*'segmentation'"),
        (
            lambda r: r.update(relations=[[0, 3, 0]]),
            r"image 2: a relation joins boxes 0 and 3, but",
        ),
        (lambda r: r.update(relations=[[-1, 0, 0]]), r"joins boxes -1 and 0"),
    ],
)
def test_what_cannot_be_packed_is_named(records, change, message):
    change(records[1])
    with pytest.raises(ValueError, match=message):
        PackedRecords.pack(records)


def test_other_keys_may_be_dropped(records):
    expected = list(map(plain, records))
    records[0]["extra"] = 1
    records[0]["annotations"][0]["segmentation"] = []
    found = PackedRecords.pack(records, drop_other_keys=True)
    assert json.dumps(list(map(plain, found)))
    assert "extra" not in found[0] and "segmentation" not in found[0]["annotations"][0]
    assert [plain(record) for record in found][1:] == expected[1:]


def test_arrays_of_other_lengths_are_refused():
    arrays = {
        "file_names": ["a.jpg"],
        "image_ids": [1],
        "sizes": np.ones((1, 2)),
        "boxes": np.ones((2, 4), np.float32),
        "categories": np.zeros(2),
        "box_counts": [2],
        "relations": np.zeros((0, 3)),
        "relation_counts": [0],
    }
    assert len(PackedRecords(**arrays)) == 1
    for change, message in (
        ({"box_counts": [1]}, "box_counts add up to 1, but there are 2 rows"),
        ({"categories": np.zeros(3)}, "categories has 3 entries where 2 are needed"),
        ({"image_ids": [1, 2]}, "image_ids has 2 entries where 1 are needed"),
        ({"relation_counts": [1]}, "relation_counts add up to 1, but there are 0"),
    ):
        with pytest.raises(ValueError, match=message):
            PackedRecords(**{**arrays, **change})


@pytest.mark.parametrize("require_overlap", [True, False])
def test_frequencies_of_packed_data_are_those_counted_one_by_one(records, require_overlap):
    rng = np.random.default_rng(3)
    for index in range(30):  # crowded images
        corners = rng.integers(0, 60, (index % 9, 2))
        boxes = np.hstack([corners, corners + rng.integers(0, 40, corners.shape)]).astype(float)
        annotations = [
            {
                "bbox": box,
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": int(rng.integers(3)),
                "id": 1,
            }
            for box in boxes.tolist()
        ]
        rows = rng.integers(0, len(boxes), (7, 2)) if len(boxes) else np.zeros((0, 2), int)
        rows = np.column_stack([rows, rng.integers(0, 4, len(rows))])
        records.append({**records[0], "annotations": annotations, "relations": rows})
    expected = np.zeros((3, 3, 5))
    for record in records:
        classes = [annotation["category_id"] for annotation in record["annotations"]]
        related = set()
        for s, o, p in record["relations"].tolist():
            if s != o:
                expected[classes[s], classes[o], p] += 1
                related.add((s, o))
        boxes = torch.tensor([a["bbox"] for a in record["annotations"]]).reshape(-1, 4)
        for s, o in candidate_pairs(boxes, require_overlap=require_overlap).tolist():
            expected[classes[s], classes[o], 4] += (s, o) not in related
    for dataset in (records, PackedRecords.pack(records)):
        found = count_relations(dataset, VOCABULARY, require_overlap=require_overlap)
        assert found.dtype == torch.float32 and (found.numpy() == expected).all()


def test_frequencies_name_a_image_beyond_the_vocabulary(records):
    records[4]["relations"][0, 2] = 4
    with pytest.raises(ValueError, match=r"4\.png has a class or predicate id beyond the 3 cla"):
        count_relations(PackedRecords.pack(records), VOCABULARY, require_overlap=False)
    records[1]["annotations"][2]["category_id"] = 3
    with pytest.raises(ValueError, match=r"1\.png has a class or predicate id beyond"):
        count_relations(records, VOCABULARY, require_overlap=False)


def test_repeat_factors_of_packed_data(records):
    expected = predicate_repeat_factors(records, 4, 0.9)
    packed = PackedRecords.pack(records)
    assert len(set(expected.tolist())) > 1
    for dataset in (packed, ConcatDataset([packed[:2], records[2:3], packed[3:]])):
        assert torch.equal(predicate_repeat_factors(dataset, 4, 0.9), expected)


def test_training_records_leave_out_images_without_boxes(records, register):
    lists, packed = register(records), register(PackedRecords.pack(records))
    kept = [record for i, record in enumerate(records) if i not in (3, 5)]  # crowd, no box
    for names in ([lists], [packed]):
        assert same(training_records(names, filter_empty=False), records)
        assert same(training_records(names, filter_empty=True), kept)
    for names in ([packed, packed], [lists, packed], [packed, lists], [lists, lists]):
        both = training_records(names, filter_empty=True)
        assert same([both[i] for i in range(len(both))], kept + kept)
    empty = register(PackedRecords.pack(records[5:]))
    with pytest.raises(ValueError, match=f"'{empty}' has no image to train on .1 before"):
        training_records([empty], filter_empty=True)


def test_detectron2_takes_it_as_it_is(records, register):
    packed = RecordsDataset.pack(records)
    name, other = register(packed), register(records)
    assert get_detection_dataset_dicts([name]) is packed
    assert isinstance(get_detection_dataset_dicts([name, name]), ConcatDataset)
    loader = build_detection_train_loader(
        packed, mapper=dict, total_batch_size=2, num_workers=0, aspect_ratio_grouping=False
    )
    assert len(next(iter(loader))) == 2
    found, expected = convert_to_coco_dict(name), convert_to_coco_dict(other)
    assert found["images"] == expected["images"]
    assert found["annotations"] == expected["annotations"]


def test_loaders_of_the_trainer(records, register, make_cfg):
    for record in records:
        record.pop("captions", None)
    records = records[:5]
    names = tuple(register(part) for part in (PackedRecords.pack(records), records))
    for count in (1, 2):
        cfg = make_cfg(
            "relclip_predcls.yaml",
            *("DATASETS.TRAIN", names[:count], "DATASETS.TEST", names[:1]),
            *(
                "DATALOADER.SAMPLER_TRAIN",
                "RepeatFactorTrainingSampler",
                "DATALOADER.NUM_WORKERS",
                1,
            ),
        )
        batches = iter(Trainer.build_train_loader(cfg))
        seen = {example["image_id"] for _ in range(12) for example in next(batches)}
        assert seen == {1, 2, 3, 5}  # image 4 has a crowd alone
    examples = [batch[0] for batch in Trainer.build_test_loader(cfg, names[0])]
    assert [example["image_id"] for example in examples] == [1, 2, 3, 4, 5]
    assert [len(example["relations"]) for example in examples] == [4, 3, 0, 0, 3]


def test_relation_evaluator_reads_it(records, register):
    results = []
    for dataset in (records, PackedRecords.pack(records)):
        evaluator = RelationEvaluator(register(dataset), task="predcls", distributed=False)
        results.append(evaluator.evaluate())
    assert results[0].keys() == results[1].keys()
    assert repr(results[0]) == repr(results[1])


def private_memory() -> int:
    """Bytes that this process alone has."""
    with open("/proc/self/smaps_rollup") as file:
        lines = [line.split() for line in file if line.startswith("Private_")]
    return 1024 * sum(int(line[1]) for line in lines)


class ReadsAll(torch.utils.data.Dataset):
    """Its only item: growth of the private memory while all records are read."""

    def __init__(self, records: PackedRecords):
        self.records = records

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        before = private_memory()
        for record in self.records:
            assert record["captions"]
        return private_memory() - before


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="needs Linux's /proc")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_share_the_memory(records, method):
    texts = [["x" * 500_000] for _ in range(120)]
    many = [{**records[0], "image_id": i, "captions": text} for i, text in enumerate(texts)]
    packed = RecordsDataset.pack(many)
    assert packed.nbytes > 60_000_000
    context = multiprocessing.get_context(method)
    loader = DataLoader(
        ReadsAll(packed), num_workers=1, multiprocessing_context=context, batch_size=None
    )
    with contextlib.redirect_stderr(io.StringIO()):
        (grown,) = list(loader)
    assert grown < 20_000_000
    # A spawned process gets handles of shared memory, not the bytes; the next one the same.
    assert hasattr(packed, "_shared") == (method == "spawn")
    if method == "spawn":
        before = packed._shared["_captions.data"]
        copy = pickle.loads(ForkingPickler.dumps(packed))
        assert packed._shared["_captions.data"] is before and before.is_shared()
        assert same(copy, many)
