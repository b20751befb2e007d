"""Stanford VRD: the published test annotation, made-up files, and every way of being wrong."""

import functools
import logging
import re
import shutil

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from published_documents import VRD_FILE, draw, existing, spoiled, write
from scripts import load_script

from vrd_d2.data.datasets.setup import register_builtin_datasets
from vrd_d2.data.datasets.stanford_vrd import load_stanford_vrd, stanford_vrd_vocabulary
from vrd_d2.data.formats.relations_json import load_relations_json, save_relations_json
from vrd_d2.data.images.sizes import read_size, read_sizes, write_sizes
from vrd_d2.data.vocabulary import VRD


def load(tmp_path, document, **options):
    path = write(tmp_path / "annotations_test.json", document)
    return load_stanford_vrd(path, **options)


def test_objects_are_the_distinct_ends_in_the_order_of_their_mention(tmp_path):
    first, second = load(tmp_path, VRD_FILE)
    found = [(a["category_id"], a["bbox"], a["id"]) for a in first["annotations"]]
    assert found == [
        (0, [5, 10, 40, 50], 1),
        (6, [8, 12, 38, 30], 2),
        (0, [8, 12, 38, 30], 3),  # the same box, another class
    ]
    assert first["relations"].tolist() == [[0, 1, 1], [1, 0, 0], [0, 1, 2], [2, 2, 2]]
    assert first["image_id"] == "a.jpg" and "height" not in first
    assert second["annotations"] == [] and second["relations"].shape == (0, 3)


def test_the_published_test_annotation(samples, caplog):
    caplog.set_level(logging.INFO)
    folder = samples / "vrd"
    dicts = load_stanford_vrd(folder / "annotations_test.json")
    assert len(dicts) == 1000 and len(dicts.relations) == 7638
    assert (
        "45 without relations), 6735 objects, 7638 relations (160 repeat another, 26 are of a"
        in (caplog.text)
    )
    # The first relation of the file: class 25 at [271, 355, 788, 873], on, class 59.
    first = dicts[0]
    assert first["image_id"] == "5531467160_2ae2cb76d4_b.jpg"
    subject, obj, predicate = first["relations"][0]
    assert first["annotations"][subject]["bbox"] == [788, 271, 873, 355]
    assert VRD.objects[first["annotations"][subject]["category_id"]] == VRD.objects[25]
    assert VRD.predicates[predicate] == "on" and obj == 1
    assert stanford_vrd_vocabulary(folder) == VRD


def test_sizes_come_from_headers_upright_and_suffixes_may_differ(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    draw(tmp_path / "sg_dataset/sg_test_images/a.jpg", (64, 48), exif=exif)
    draw(tmp_path / "sg_test_images/b.jpg", (50, 20))
    first, second = load(tmp_path, VRD_FILE, select=existing("error"))
    assert (first["width"], first["height"]) == (48, 64)
    assert second["file_name"] == str(tmp_path / "sg_test_images/b.jpg")
    assert (second["width"], second["height"]) == (50, 20)
    images = {"a.jpg": first["file_name"], "b.gif": second["file_name"]}
    sizes = tmp_path / "sizes.json"
    write_sizes(images, sizes)
    assert read_sizes(sizes) == {"a.jpg": (48, 64), "b.gif": (50, 20)}
    shutil.rmtree(tmp_path / "sg_dataset")
    assert load(tmp_path, VRD_FILE, sizes=sizes)[0]["width"] == 48


def test_missing_images(tmp_path):
    draw(tmp_path / "images/b.gif")
    with pytest.raises(ValueError, match=r"1 of 2 images are missing: .*images/a\.jpg"):
        load(tmp_path, VRD_FILE, select=existing("error"))
    (record,) = load(tmp_path, VRD_FILE, select=existing("skip"))
    assert record["image_id"] == "b.gif" and record["width"] == 40
    first, second = load(tmp_path, VRD_FILE)
    assert "width" not in first and second["width"] == 40
    (tmp_path / "images/a.jpg").write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match=r"annotations_test\.json.*a\.jpg"):
        load(tmp_path, VRD_FILE)
    with pytest.raises(ValueError, match="missing_images is 'drop'"):
        load(tmp_path, VRD_FILE, select=existing("drop"))


def test_relations_json_and_back(tmp_path):
    for name in VRD_FILE:
        draw(tmp_path / "images" / name)
    dicts = load(tmp_path, VRD_FILE, select=existing("error"))
    path = tmp_path / "vrd.json"
    save_relations_json(dicts, VRD, path)
    for one, other in zip(dicts, load_relations_json(path), strict=True):
        assert one["annotations"] == other["annotations"] and one["image_id"] == other["image_id"]
        np.testing.assert_array_equal(one["relations"], other["relations"])


BAD = [
    ("", "is no complete JSON file"),
    ('{"a.jpg": [', "is no complete JSON file"),
    ('{"a.jpg": [], "a.jpg": []}', "has the key 'a.jpg' twice"),
    ("[" * 100000, "is no complete JSON file"),
    ("[1" + "0" * 5000 + "]", "is no complete JSON file"),
    ([], "it must be an object {image: [relations]}"),
    ({}, "with at least one image"),
    ({"a.jpg": None}, "image 'a.jpg': it must have a list of relations"),
    ({"a.jpg": [3]}, "image 'a.jpg': relation 0: subject: 3 must be an object"),
    (spoiled(VRD_FILE, ["a.jpg", 2, "object"]), "relation 2: object: the key 'object' is missing"),
    (spoiled(VRD_FILE, ["a.jpg", 2, "predicate"]), "relation 2: the key 'predicate' is missing"),
    (spoiled(VRD_FILE, ["a.jpg", 0, "predicate"], 70), "predicate is 70: it must be an integer fr"),
    (spoiled(VRD_FILE, ["a.jpg", 0, "predicate"], -1), "predicate is -1: it must be an integer"),
    (spoiled(VRD_FILE, ["a.jpg", 0, "predicate"], "on"), "predicate is 'on': it must be of type"),
    (spoiled(VRD_FILE, ["a.jpg", 0, "subject", "category"], 100), "category is 100"),
    (spoiled(VRD_FILE, ["a.jpg", 0, "subject", "category"], True), "category is True"),
    (spoiled(VRD_FILE, ["a.jpg", 0, "subject", "category"], 1.0), "category is 1.0"),
    (spoiled(VRD_FILE, ["a.jpg", 0, "subject", "bbox"], [1, 2, 3]), "box [1, 2, 3]: it must be ["),
    (spoiled(VRD_FILE, ["a.jpg", 0, "subject", "bbox"], "box"), "bbox is 'box'"),
    (spoiled(VRD_FILE, ["a.jpg", 0, "subject", "bbox", 1], float("nan")), "four finite numbers"),
    (spoiled(VRD_FILE, ["a.jpg", 0, "subject", "bbox", 1], float("inf")), "four finite numbers"),
    (spoiled(VRD_FILE, ["a.jpg", 0, "subject", "bbox", 1], 10**400), "four finite numbers"),
    (spoiled(VRD_FILE, ["a.jpg", 0, "subject", "bbox", 1], "50"), "four finite numbers"),
    (spoiled(VRD_FILE, ["a.jpg", 0, "subject", "bbox"], [50, 10, 5, 40]), "not ending before it"),
    (spoiled(VRD_FILE, ["a.jpg", 0, "subject", "bbox"], [10, 50, 40, 5]), "not ending before it"),
]


@pytest.mark.parametrize(("document", "message"), BAD, ids=[m[:40] for _, m in BAD])
def test_what_is_wrong_is_named_with_file_and_record(tmp_path, document, message):
    with pytest.raises(ValueError, match=re.escape(message)) as info:
        load(tmp_path, document)
    assert str(info.value).startswith(str(tmp_path / "annotations_test.json"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "it must be an object {file name: [width, height]}"),
        ({"a.jpg": [3]}, "'a.jpg': size [3]: it must be [width, height]"),
        ({"a.jpg": [3, 0]}, "'a.jpg': size 3 x 0: both must be positive"),
        ({"a.jpg": [3, 4.5]}, "'a.jpg': height is 4.5"),
    ],
)
def test_bad_files_of_sizes(tmp_path, content, message):
    path = write(tmp_path / "sizes.json", content)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
        load(tmp_path, VRD_FILE, sizes=path)


def test_missing_and_wrong_files_of_names(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*annotations_test\.json"):
        load_stanford_vrd(tmp_path / "annotations_test.json")
    with pytest.raises(ValueError, match="cannot be read"):
        load_stanford_vrd(tmp_path)
    with pytest.raises(ValueError, match=r"there is no file .*objects\.json"):
        stanford_vrd_vocabulary(tmp_path)
    write(tmp_path / "objects.json", ["man", "man"])
    write(tmp_path / "predicates.json", {"on": 1})
    with pytest.raises(ValueError, match=r"predicates\.json: it must be a list of names"):
        stanford_vrd_vocabulary(tmp_path)
    write(tmp_path / "predicates.json", ["on"])
    with pytest.raises(ValueError, match="repeats the name 'man'"):
        stanford_vrd_vocabulary(tmp_path)
    with pytest.raises(ValueError, match=r"predicates\.json"):
        read_size(tmp_path / "predicates.json")


@pytest.fixture
def root(tmp_path):
    """Built-in datasets below a folder of the test's own, without images."""
    register_builtin_datasets(tmp_path, missing_images="keep")
    yield tmp_path
    register_builtin_datasets()


def test_registered_with_zero_shot_triplets(root):
    with pytest.raises(ValueError, match=r"'vrd_test' needs .*README\.md says where"):
        DatasetCatalog.get("vrd_test")
    write(root / "vrd/annotations_test.json", VRD_FILE)
    assert len(DatasetCatalog.get("vrd_test")) == 2
    metadata = MetadataCatalog.get("vrd_test")
    assert metadata.thing_classes == list(VRD.objects) and metadata.evaluator_type == "relation"
    assert metadata.get("zero_shot_triplets") is None
    training = {"c.jpg": VRD_FILE["a.jpg"][:2]}
    write(root / "vrd/annotations_train.json", training)
    assert len(DatasetCatalog.get("vrd_train")) == 1
    DatasetCatalog.get("vrd_test")
    assert metadata.zero_shot_triplets == [(0, 0, 2), (0, 6, 2)]
    write(root / "vrd/objects.json", ["man"])
    write(root / "vrd/predicates.json", ["on"])
    with pytest.raises(ValueError, match="have not the names of Stanford VRD"):
        DatasetCatalog.get("vrd_test")


@pytest.fixture(scope="session")
def script(repository):
    return load_script(repository / "tools/evaluate_frequency.py")


def brute_force_recall(training, test, k):
    """R@k of all pairs with graph constraint, pooled, where a box hits nothing but itself, once."""
    counts, marginals = {}, {}
    for record in training:
        classes = [a["category_id"] for a in record["annotations"]]
        rows = [row for row in record["relations"].tolist() if row[0] != row[1]]
        related = {(s, o) for s, o, _ in rows}
        pairs = [(s, o) for s in range(len(classes)) for o in range(len(classes)) if s != o]
        for s, o, p in rows + [[s, o, 70] for s, o in pairs if (s, o) not in related]:
            counts.setdefault((classes[s], classes[o]), np.zeros(71))[p] += 1
            for key in (("subject", classes[s]), ("object", classes[o]), "all"):
                marginals.setdefault(key, np.zeros(71))[p] += 1

    @functools.cache
    def best(subject, object_):
        row = counts.get((subject, object_), np.zeros(71))
        if not row[:70].any():
            keys = [("subject", subject), ("object", object_), "all"]
            backed = [marginals[key] for key in keys if key in marginals]
            share = next(table for table in backed if table[:70].any())
            row = row + share / share.sum()
        return -row[:70].max() / row.sum(), int(row[:70].argmax())

    hits = total = 0
    for record in test:
        classes = [a["category_id"] for a in record["annotations"]]
        ranked = []
        for s, subject in enumerate(classes):
            for o, object_ in enumerate(classes):
                if s != o:
                    score, predicate = best(subject, object_)
                    ranked.append((score, s, o, predicate))
        top = {tuple(entry[1:]) for entry in sorted(ranked)[:k]}
        rows = [tuple(row) for row in record["relations"].tolist()]
        hits += len(top.intersection(rows))  # one prediction hits one row: a repetition is missed
        total += len(rows)
    return 100 * hits / total


def test_frequency_baseline_on_half_of_the_published_test_annotation(samples, root, script):
    (root / "vrd").symlink_to(samples / "vrd")
    training, rest = script.halves(DatasetCatalog.get("vrd_test"), seed=0)
    assert len(training) == len(rest) == 500
    assert not {r["image_id"] for r in training} & {r["image_id"] for r in rest}
    name = f"half_{root.name}"
    script.register_half(name, rest, "vrd_test")
    metrics = {
        protocol: script.evaluate(training, name, VRD, protocol=protocol, annotated_pairs=False)
        for protocol in ("sgb", "vrd")
    }
    # Measured once; the frequencies are exact, so only ties at the end of a ranking could move.
    assert metrics["sgb"]["R@50"] == pytest.approx(46.11, abs=0.05)
    assert metrics["sgb"]["R@100"] == pytest.approx(47.54, abs=0.05)
    assert metrics["vrd"]["R@50"] == pytest.approx(43.55, abs=0.05)
    assert metrics["vrd"]["R@100"] == pytest.approx(46.03, abs=0.05)
    # One-to-one matching by IoU finds a little beyond identity: equal classes on equal places.
    for k in (50, 100):
        reference = brute_force_recall(training, rest, k)
        assert reference <= metrics["vrd"][f"R@{k}"] <= reference + 1.5
