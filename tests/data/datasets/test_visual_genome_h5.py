"""The public .h5 form of Visual Genome: boxes by hand, splits by brute force, and what is wrong."""

import json
import logging
from pathlib import Path

import h5py
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from published_documents import existing

from vrd_d2.data.datasets.setup import register_builtin_datasets
from vrd_d2.data.datasets.visual_genome_h5 import VisualGenomeH5, load_visual_genome_h5
from vrd_d2.data.datasets.visual_genome_h5_files import CORRUPT_IMAGES
from vrd_d2.data.vocabulary import VG20, VG150, Vocabulary, get_vocabulary
from vrd_d2.evaluation import RelationEvaluator

MAN, HORSE, HAT = (VG150.object_id(name) for name in ("man", "horse", "hat"))
ON, RIDING, WEARING, USING = (
    VG150.predicate_id(name) for name in ("on", "riding", "wearing", "using")
)


def image(split: int, boxes: list, relations: list, *, width: int = 512, height: int = 256):
    """Boxes are (class, centre x, centre y, width, height), relations (subject, object, id)."""
    return {
        "split": split, "boxes": boxes, "relations": relations, "width": width, "height": height,
    }  # fmt: skip


def write(folder: Path, images: list[dict], *, vocabulary: Vocabulary = VG150, **changes) -> Path:
    """VG-SGG.h5, its dicts, image_data.json and empty image files; `changes` replace arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {key: [] for key in ("labels", "boxes_1024", "relationships", "predicates", "split")}
    ends = {f"img_to_{end}_{kind}": [] for end in ("first", "last") for kind in ("box", "rel")}
    for entry in images:
        first_box = len(arrays["labels"])
        for kind, key in (("box", "boxes"), ("rel", "relations")):
            start, count = len(arrays["labels" if kind == "box" else "predicates"]), len(entry[key])
            ends[f"img_to_first_{kind}"].append(start if count else -1)
            ends[f"img_to_last_{kind}"].append(start + count - 1 if count else -1)
        arrays["labels"] += [[box[0] + 1] for box in entry["boxes"]]
        arrays["boxes_1024"] += [box[1:] for box in entry["boxes"]]
        arrays["relationships"] += [
            [first_box + s, first_box + o] for s, o, _ in entry["relations"]
        ]
        arrays["predicates"] += [[p + 1] for _, _, p in entry["relations"]]
        arrays["split"].append(entry["split"])
    shapes = {"boxes_1024": (-1, 4), "relationships": (-1, 2)}
    arrays["active_object_mask"] = [[True]] * len(arrays["labels"])
    with h5py.File(folder / "VG-SGG.h5", "w") as file:
        for key, values in {**arrays, **ends, **changes}.items():
            if values is not None:
                values = np.asarray(values)
                values = values if values.size else values.reshape(shapes.get(key, (0, 1)))
                file[key] = values if values.dtype != np.int64 else values.astype(np.int32)
    numbers = [
        {name: i for i, name in enumerate(names, 1)}
        for names in (vocabulary.objects, vocabulary.predicates)
    ]
    dicts = {"label_to_idx": numbers[0], "predicate_to_idx": numbers[1]}
    dicts |= {"idx_to_label": {str(i): name for name, i in numbers[0].items()}}
    (folder / "VG-SGG-dicts.json").write_text(json.dumps(dicts))
    entries = [
        {"image_id": 100 + i, "width": entry["width"], "height": entry["height"], "url": "http"}
        for i, entry in enumerate(images)
    ]
    (folder / "image_data.json").write_text(json.dumps(entries))
    for i in range(len(images)):
        place = folder / ("VG_100K", "VG_100K_2")[i % 2]
        place.mkdir(exist_ok=True)
        (place / f"{100 + i}.jpg").touch()
    return folder


def files(folder: Path) -> list[Path]:
    return [folder / name for name in ("VG-SGG.h5", "VG-SGG-dicts.json", "image_data.json")]


def load(folder: Path, split: str = "train", **options):
    return load_visual_genome_h5(
        *files(folder), folder, split=split, **{"val_images": 0, **options}
    )


PERSON = (MAN, 100, 100, 80, 160)
ANIMAL = (HORSE, 300, 200, 200, 200)


def test_boxes_by_hand(tmp_path):
    boxes = [
        (MAN, 100, 101, 80, 160),  # corner (60, 21), other corner (140, 181)
        (HORSE, 20, 30, 15, 7),  # 20 - 7.5 = 12.5 and 30 - 3.5 = 26.5 are rounded to 12 and 26
        (HAT, 3, 2, 7, 5),  # -0.5 is rounded towards 0: (0, 0) to (7, 5)
        (HAT, 1000, 500, 100, 60),  # (950, 470) to (1050, 530): clipped to 1024 x 512
        (HAT, 500, 300, 0, 10),  # no area, and kept
    ]
    relations = [(0, 1, RIDING), (4, 0, ON), (0, 4, WEARING), (0, 1, RIDING), (2, 2, ON)]
    folder = write(tmp_path, [image(0, [PERSON] * 3, []), image(0, boxes, relations)])
    (record,) = load(folder)
    assert record["file_name"] == str(tmp_path / "VG_100K_2/101.jpg")
    assert (record["image_id"], record["width"], record["height"]) == (101, 512, 256)
    assert [(a["id"], a["category_id"], a["bbox"]) for a in record["annotations"]] == [
        (4, MAN, [30.0, 10.5, 70.0, 90.5]),
        (5, HORSE, [6.0, 13.0, 13.5, 16.5]),
        (6, HAT, [0.0, 0.0, 3.5, 2.5]),
        (7, HAT, [475.0, 235.0, 512.0, 256.0]),
        (8, HAT, [250.0, 147.5, 250.0, 152.5]),
    ]
    assert record["relations"].tolist() == [list(row) for row in relations]


def test_portrait_images_other_scales_and_real_numbers(tmp_path):
    entry = image(0, [PERSON], [(0, 0, ON)], width=333, height=500)
    write(tmp_path / "a", [entry], boxes_1024=None, boxes_512=[[100, 100, 80, 160]])
    (record,) = load(tmp_path / "a")
    scale = 500 / 512
    expected = [60 * scale, 20 * scale, 140 * scale, 180 * scale]
    assert record["annotations"][0]["bbox"] == pytest.approx(expected)
    write(tmp_path / "b", [entry], boxes_1024=np.float32([[20, 30, 15, 7]]))
    (record,) = load(tmp_path / "b")
    expected = np.array([12.5, 26.5, 27.5, 33.5]) * 500 / 1024
    assert record["annotations"][0]["bbox"] == pytest.approx(expected.tolist())


def many_images(count: int = 200) -> list[dict]:
    rng = np.random.default_rng(5)
    images = []
    for _ in range(count):
        boxes = [
            (int(rng.integers(4)), int(rng.integers(80, 300)), int(rng.integers(80, 300)), 90, 51)
            for _ in range(rng.integers(0, 5))
        ]
        relations = [
            (
                *rng.integers(0, len(boxes), 2).tolist(),
                int(rng.choice([ON, WEARING, RIDING, USING])),
            )
            for _ in range(rng.integers(0, 4) if boxes else 0)
        ]
        images.append(image(int(rng.choice([0, 0, 1, 2])), boxes, relations))
    return images


@pytest.mark.parametrize("val_images", [5, 0, None])
@pytest.mark.parametrize("vocabulary", [VG150, VG20])
@pytest.mark.parametrize("require_relations", [True, False])
def test_splits_by_brute_force(tmp_path, val_images, vocabulary, require_relations):
    images = many_images()
    folder = write(tmp_path, images)
    expected = {"train": [], "val": [], "test": []}
    for i, entry in enumerate(images):
        names = [VG150.predicates[p] for _, _, p in entry["relations"]]
        related = any(name in vocabulary.predicates for name in names)
        usable = related if require_relations else bool(entry["boxes"])
        if entry["split"] == 2 and usable:
            expected["test"].append(i)
        elif val_images is None and entry["split"] == 1 and related:
            expected["val"].append(i)
        elif entry["split"] == 0 and usable:
            is_val = val_images and related and len(expected["val"]) < val_images
            expected["val" if is_val else "train"].append(i)
    options = {"val_images": val_images, "require_relations": require_relations}
    for split, numbers in expected.items():
        if not numbers:
            with pytest.raises(ValueError, match="has no image of split 'val' with val_images=0"):
                load(folder, split, vocabulary=vocabulary, **options)
            continue
        records = load(folder, split, vocabulary=vocabulary, **options)
        assert [record["image_id"] for record in records] == [100 + i for i in numbers]
        for i, record in zip(numbers, records, strict=True):
            classes = [annotation["category_id"] for annotation in record["annotations"]]
            assert classes == [box[0] for box in images[i]["boxes"]]
            rows = [
                [s, o, vocabulary.predicates.index(name)]
                for s, o, p in images[i]["relations"]
                if (name := VG150.predicates[p]) in vocabulary.predicates
            ]
            assert record["relations"].tolist() == rows


def test_names_come_from_the_dicts(tmp_path):
    images = many_images(20)
    shuffled = Vocabulary(VG150.objects[::-1], VG150.predicates)
    folder = write(tmp_path, images, vocabulary=shuffled)
    with pytest.raises(ValueError, match=r"150 objects, VG150 150; they differ at id 0 .*'zebra'"):
        load(folder)
    plain = load(folder, vocabulary=get_vocabulary(folder / "VG-SGG-dicts.json"))
    named = load(folder, vocabulary=VG150)  # ids are translated
    for a, b in zip(plain, named, strict=True):
        assert [149 - x["category_id"] for x in a["annotations"]] == [
            x["category_id"] for x in b["annotations"]
        ]
    with pytest.raises(ValueError, match=r"the objects \['airplane'"):
        load(folder, vocabulary=Vocabulary(["man"], VG150.predicates))
    with pytest.raises(ValueError, match=r"the predicates \['beneath'\] .1 in all. of the v"):
        load(folder, vocabulary=Vocabulary(VG150.objects, ["on", "beneath"]))
    write(tmp_path / "short", images, vocabulary=Vocabulary(VG150.objects, VG20.predicates))
    with pytest.raises(ValueError, match="20 predicates, VG150 50; they differ at id 0"):
        load(tmp_path / "short")


def test_public_dicts_are_taken_as_they_are(samples, tmp_path):
    folder = write(tmp_path, many_images(20))
    h5_file, _, image_data = files(folder)
    dicts = samples / "vg150/VG-SGG-dicts-with-attri.json"
    found = load_visual_genome_h5(h5_file, dicts, image_data, folder, split="test")
    expected = load(folder, "test")
    assert [record["annotations"] for record in found] == [r["annotations"] for r in expected]


def test_image_data_with_and_without_the_corrupt_images(tmp_path):
    folder = write(tmp_path, many_images(30))
    expected = [record["image_id"] for record in load(folder)]
    path = folder / "image_data.json"
    entries = json.loads(path.read_text())
    for position, image_id in zip((3, 8, 20, 21), CORRUPT_IMAGES, strict=True):
        entries.insert(position, {"image_id": image_id, "width": 9, "height": 9})
    path.write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=r"30 images, .* 34 entries.*exclude_image_ids=CORRUPT_IM"):
        load(folder)
    records = load(folder, exclude_image_ids=CORRUPT_IMAGES)
    assert [record["image_id"] for record in records] == expected
    # Where the numbers agree anyway, the .h5 has those images.
    (tmp_path / "all").mkdir()
    whole = write(tmp_path / "all", many_images(30))
    entries_of_all = [{"image_id": 1590 + i, "width": 512, "height": 256} for i in range(30)]
    (whole / "image_data.json").write_text(json.dumps(entries_of_all))
    options = {"exclude_image_ids": CORRUPT_IMAGES}
    assert len(load(whole, **options)) == len(expected)
    path.write_text(json.dumps(entries[:-1]))
    with pytest.raises(
        ValueError, match=r"30 images, .* 33 entries.*image_data\.json that belongs"
    ):
        load(folder)


def test_another_order_of_the_images_is_suspected(tmp_path, caplog):
    wide = [image(0, [(MAN, 900, 100, 9, 9)], [(0, 0, ON)]) for _ in range(20)]
    tall = [
        image(0, [(MAN, 100, 900, 9, 9)], [(0, 0, ON)], width=256, height=512) for _ in range(20)
    ]
    folder = write(tmp_path, wide + tall)
    with caplog.at_level(logging.WARNING):
        load(folder)
        assert not caplog.text
        path = folder / "image_data.json"
        path.write_text(json.dumps(json.loads(path.read_text())[::-1]))
        load(folder)
    assert "100 % of the boxes have their centre outside the image" in caplog.text


def test_missing_images_do_not_shift_the_split(tmp_path, caplog):
    folder = write(tmp_path, many_images(60))
    train, val = (load(folder, split, val_images=5).file_names for split in ("train", "val"))
    Path(val[1]).unlink()
    with pytest.raises(ValueError, match=rf"1 of 5 images are missing: .*{Path(val[1]).name}"):
        existing("error")(load(folder, "val", val_images=5))
    found = existing("skip")(load(folder, "val", val_images=5))
    assert found.file_names == val[:1] + val[2:] and Path(val[1]).name in caplog.text
    assert load(folder, "train", val_images=5).file_names == train
    annotated = existing("keep")(load(folder, "val", val_images=5))
    assert [Path(name).name for name in annotated.file_names] == [Path(name).name for name in val]


GOOD = [
    image(0, [PERSON, ANIMAL], [(0, 1, RIDING)]),
    image(2, [PERSON, ANIMAL], [(0, 1, ON), (1, 0, ON)]),
]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"labels": None}, r"VG-SGG\.h5: .*labels \(it has active_object_mask, boxes_1024"),
        ({"boxes_1024": None}, "boxes_1024"),
        ({"split": [0]}, "split has 1 rows, img_to_first_box 2; they must be equal"),
        ({"predicates": [[1]]}, "predicates has 1 rows, relationships 3"),
        ({"labels": [[1], [2]]}, "labels has 2 rows, boxes_1024 4"),
        ({"labels": [[1, 1]] * 4}, r"labels is \(4, 2\), not \(n, 1\)"),
        ({"boxes_1024": [[1, 1, 1]] * 4}, r"boxes_1024 is \(4, 3\), not \(n, 4\)"),
        ({"boxes_1024": [[9, 9, 9, -1]] * 4}, r"boxes_1024\[0\] is \[9, 9, 9, -1\]: it must be"),
        ({"boxes_1024": [[9, 9, np.nan, 1]] * 4}, r"boxes_1024\[0\] .* finite"),
        ({"labels": [[1], [151], [1], [1]]}, r"labels\[1\] is 151, but the dicts have the ids 1 t"),
        ({"labels": [[0]] * 4}, r"labels\[0\] is 0, but"),
        ({"predicates": [[1], [1], [51]]}, r"predicates\[2\] is 51, but the dicts have .* 1 to 50"),
        (
            {"relationships": [[0, 1], [2, 1], [3, 2]]},
            r"relationships\[1\] joins boxes \[2, 1\], but its image 1 \(image_id 101\) has the "
            r"boxes 2 to 3 of 4",
        ),
        ({"relationships": [[0, 1], [2, 4], [3, 2]]}, r"relationships\[1\] joins boxes \[2, 4\]"),
        ({"img_to_last_box": [1, 4]}, "image 1 has img_to_first_box 2 and img_to_last_box 4"),
        ({"img_to_first_rel": [0, -1]}, "image 1 has img_to_first_rel -1 and img_to_last_rel 2"),
        ({"img_to_first_rel": [1, 1]}, "image 0 has img_to_first_rel 1 and img_to_last_rel 0"),
    ],
)
def test_damaged_files_are_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path, GOOD, **changes))


def test_files_that_are_no_files(tmp_path):
    folder = write(tmp_path, GOOD)
    h5_file, dicts, image_data = files(folder)
    assert len(load(folder)) == 1
    for path, message in ((h5_file, r"no file .*\.h5"), (dicts, r"no file .*dicts\.json"),
                          (image_data, r"no file .*image_data")):  # fmt: skip
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(ValueError, match=message):
            load(folder)
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=r"is no complete (HDF5|JSON) file"):
            load(folder)
        path.write_bytes(content)
    for text, message in (
        ("[1, 2]", "is no list of entries with image_id"),
        ('{"a": 1}', "is no list of entries"),
        ('[{"image_id": 1, "width": 5}]', "is no list of entries"),
        ('[{"image_id": 1, "width": 5, "height": 0}]', r"entry 0 has .*\(1, 0, 5\)"),
        ('[{"image_id": "1", "width": 5, "height": 1}]', r"entry 0 has image_id"),
    ):
        image_data.write_text(text)
        with pytest.raises(ValueError, match=message):
            load(folder)
    image_data.write_text(json.dumps([{"image_id": 1, "width": 5, "height": 5}] * 2))
    with pytest.raises(ValueError, match="has image_id 1 twice"):
        load(folder)


def test_wrong_choices(tmp_path):
    folder = write(tmp_path, GOOD)
    with pytest.raises(ValueError, match="split is 'valid': choose one of train, val, test"):
        load(folder, "valid")
    with pytest.raises(ValueError, match=r"no image of split 'val' .*\[\[0, 1\], \[2, 1\]\]"):
        load(folder, "val", val_images=None)
    with pytest.raises(ValueError, match="val_images is -1"):
        load(folder, val_images=-1)


@pytest.fixture
def root(tmp_path):
    """Built-in datasets below a folder of the test's own, with its images."""
    write(tmp_path / "visual_genome", many_images())
    register_builtin_datasets(tmp_path)
    yield tmp_path
    register_builtin_datasets()


def test_registered_names_share_one_reading(root, monkeypatch):
    images = many_images()
    related = [i for i, p in enumerate(images) if p["relations"] and p["split"] == 0]
    sizes = {split: len(DatasetCatalog.get(f"vg_sgg_{split}")) for split in ("val", "test")}
    assert sizes["val"] == len(related)
    assert sizes["test"] == sum(p["split"] == 2 and bool(p["relations"]) for p in images)
    # All of split 0 is validation here, so nothing can be told to be unseen in training.
    assert MetadataCatalog.get("vg_sgg_test").get("zero_shot_triplets") is None
    with pytest.raises(ValueError, match="has no image of split 'train' with val_images=5000"):
        DatasetCatalog.get("vg_sgg_train")
    monkeypatch.setattr("vrd_d2.data.datasets.visual_genome_h5.read_h5", None)
    assert len(DatasetCatalog.get("vg_sgg_test")) == sizes["test"]
    metadata = MetadataCatalog.get("vg_sgg_test")
    assert metadata.thing_classes == list(VG150.objects)
    assert metadata.predicate_classes == list(VG150.predicates)
    assert metadata.image_root == str(root / "visual_genome")


def test_vg20_takes_split_1_and_knows_unseen_triplets(root):
    """many_images has images of split 1, as the file of Chen et al."""
    images = many_images()
    triplets = {}
    for split, number in (("train", 0), ("val", 1), ("test", 2)):
        records = DatasetCatalog.get(f"vg20_sgg_{split}")
        chosen = [
            p for p in images
            if p["split"] == number and any(r[2] in (RIDING, USING) for r in p["relations"])
        ]  # fmt: skip
        assert len(records) == len(chosen)
        assert {row[2] for r in records for row in r["relations"].tolist()} == {
            VG20.predicate_id("riding"), VG20.predicate_id("using"),
        }  # fmt: skip
        triplets[split] = set(map(tuple, records.triplets().tolist()))
    assert MetadataCatalog.get("vg20_sgg_train").get("zero_shot_triplets") is None
    for split in ("val", "test"):
        unseen = MetadataCatalog.get(f"vg20_sgg_{split}").zero_shot_triplets
        assert set(unseen) == triplets[split] - triplets["train"]


def test_zero_shot_triplets_reach_the_evaluator(root):
    genome = root / "visual_genome"
    write(
        genome,
        [
            image(0, [PERSON, ANIMAL], [(0, 1, RIDING)]),
            image(1, [PERSON, ANIMAL], [(0, 1, RIDING)]),
            image(2, [PERSON, ANIMAL], [(0, 1, RIDING), (1, 0, USING)]),
        ],
    )
    evaluator = RelationEvaluator("vg20_sgg_test", task="predcls", distributed=False)
    expected = [(HORSE, MAN, VG20.predicate_id("using"))]
    assert MetadataCatalog.get("vg20_sgg_test").zero_shot_triplets == expected
    assert "zR@50" in evaluator.evaluate()["relations"]


def test_triplets_without_loading_images(tmp_path):
    folder = write(tmp_path, many_images(60))
    genome = VisualGenomeH5(*files(folder), val_images=5)
    for split in ("train", "val", "test"):
        records = genome.records(split, folder)
        assert np.array_equal(genome.triplets(split), records.triplets())
    assert genome.has_validation_split
