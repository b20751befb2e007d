"""Raw Visual Genome: real images counted by hand, and a made-up one for what they lack."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from published_documents import existing

from vrd_d2.data.datasets.visual_genome_raw import load_visual_genome_raw
from vrd_d2.data.formats.relations_json import (
    load_relations_json,
    save_relations_json,
    validate_relations_json,
)
from vrd_d2.data.names import NameTable, normalise_name, read_aliases
from vrd_d2.data.vocabulary import VG20, VG150, Vocabulary

SMALL = Vocabulary(["man", "hat", "t-shirt"], ["wearing", "on"])


def load(*arguments, chosen, **options):
    """The raw files without images that are missing."""
    return chosen(load_visual_genome_raw(*arguments, **options))


@pytest.fixture
def aliases(samples) -> dict[str, Path]:
    return {
        "object_aliases": samples / "vg150/object_alias.txt",
        "predicate_aliases": samples / "vg150/predicate_alias.txt",
    }


def names(record: dict, vocabulary: Vocabulary) -> list[tuple[str, str, str]]:
    classes = [vocabulary.objects[a["category_id"]] for a in record["annotations"]]
    return [(classes[s], vocabulary.predicates[p], classes[o]) for s, o, p in record["relations"]]


def test_image_1_by_hand_with_exact_names(samples):
    """19 of 40 objects are no names of VG150: shade, sneakers, headlight, tree trunk, back,
    glasses, parking meter, shoes, pants (2), work truck, chin, van, wall, bikes, road, lamp post,
    trees, windows."""
    (record,) = load_visual_genome_raw(samples / "visual_genome", VG150, image_ids=[1])
    assert (record["image_id"], record["width"], record["height"]) == (1, 800, 600)
    assert record["file_name"] == str(samples / "visual_genome/images/1.jpg")
    assert len(record["annotations"]) == 21
    assert names(record, VG150) == [
        ("sign", "on", "building"),
        ("man", "has", "shirt"),
        ("man", "has", "shirt"),
        ("man", "has", "jacket"),
        ("bike", "parked on", "sidewalk"),
        ("bike", "parked on", "sidewalk"),
        ("car", "parked on", "street"),
        ("bike", "on", "sidewalk"),
        ("man", "wearing", "shirt"),
        ("shirt", "on", "man"),
        ("man", "in", "shirt"),
        ("man", "wearing", "jacket"),
    ]


def test_image_1_by_hand_with_aliases(samples, aliases):
    """Plurals join, so 11 objects are left out. Of 41 relations 12 have an end that is: shade,
    headlight, tree trunk, back, work truck, road (1 each), parking meter, chin (3 each)."""
    folder = samples / "visual_genome"
    (record,) = load_visual_genome_raw(folder, VG150, image_ids=[1], **aliases)
    assert len(record["annotations"]) == 29
    assert len(record["relations"]) == 29
    found = names(record, VG150)
    # "wears" is a predicate of its own in VG150, and "sneakers" an alias of "sneaker".
    assert found.count(("man", "wears", "sneaker")) == 2
    assert ("sidewalk", "near", "street") in found  # next to
    assert ("tree", "near", "sidewalk") in found  # trees by
    assert ("building", "with", "window") in found
    clock = record["annotations"][0]
    assert clock["id"] == 1058498 and VG150.objects[clock["category_id"]] == "clock"
    assert clock["bbox"] == [421, 91, 500, 430]


def test_counts_of_the_four_images(samples, aliases):
    dicts = load(samples / "visual_genome", VG150, chosen=existing("skip"), **aliases)
    counts = {r["image_id"]: (len(r["annotations"]), len(r["relations"])) for r in dicts}
    assert counts == {1: (29, 29), 2: (20, 7), 4: (11, 3), 5: (16, 4)}
    (second,) = (record for record in dicts if record["image_id"] == 2)
    # road, crosswalk, backpack and lights are no classes of VG150.
    assert names(second, VG150) == [
        *[("building", "has", "window")] * 5,
        ("man", "wears", "sneaker"),
        ("bike", "near", "car"),
    ]


@pytest.mark.parametrize("with_aliases", [False, True])
def test_vg20_by_hand(samples, aliases, with_aliases):
    """8 of 108 relations have one of the 20 predicates; of these, the work truck that is parked in
    image 1, the road that three cars are parked on in image 2 and the walk sign that says
    "walk" there are no classes. Aliases add none."""
    dicts = load(
        samples / "visual_genome",
        VG20,
        chosen=existing("skip"),
        **(aliases if with_aliases else {}),
    )
    assert {record["image_id"]: len(record["relations"]) for record in dicts} == {
        1: 3,
        2: 0,
        4: 0,
        5: 0,
    }
    assert names(dicts[0], VG20) == [
        ("bike", "parked on", "sidewalk"),
        ("bike", "parked on", "sidewalk"),
        ("car", "parked on", "street"),
    ]
    in_vg150 = load(
        samples / "visual_genome",
        VG150,
        chosen=existing("skip"),
        **(aliases if with_aliases else {}),
    )
    for record, other in zip(dicts, in_vg150, strict=True):
        assert record["annotations"] == other["annotations"]


def test_every_image_of_the_data_is_an_annotation_that_fits(samples, aliases, tmp_path):
    dicts = load(samples / "visual_genome", VG150, chosen=existing("skip"), **aliases)
    for record in dicts:
        with Image.open(record["file_name"]) as image:
            assert image.size == (record["width"], record["height"])
        for annotation in record["annotations"]:
            x1, y1, x2, y2 = annotation["bbox"]
            assert 0 <= x1 < x2 <= record["width"] and 0 <= y1 < y2 <= record["height"]
    path = tmp_path / "vg.json"
    save_relations_json(dicts, VG150, path)
    assert not [text for text in validate_relations_json(path) if text.startswith("error")]
    for found, expected in zip(load_relations_json(path), dicts, strict=True):
        assert (found.pop("relations") == expected["relations"]).all()
        assert found == {key: value for key, value in expected.items() if key != "relations"}


def test_a_missing_image_is_named_or_skipped(samples, caplog):
    with pytest.raises(ValueError, match=r"1 of 5 images are missing: .*images/3\.jpg"):
        load(samples / "visual_genome", VG150, chosen=existing("error"))
    with caplog.at_level(logging.INFO):
        dicts = load(samples / "visual_genome", VG150, chosen=existing("skip"))
    assert [record["image_id"] for record in dicts] == [1, 2, 4, 5]
    assert "images/3.jpg" in caplog.text
    assert "70 of 177 objects" in caplog.text and "25 of 158 relations" in caplog.text


def box(object_id: int, x: int, y: int, w: int, h: int, **name) -> dict:
    return {"object_id": object_id, "x": x, "y": y, "w": w, "h": h, **name}


def write(folder: Path, objects: list, relationships: list, *, key: str = "image_id") -> Path:
    content = {
        "image_data": [{key: 5, "width": 100, "height": 80}, {key: 6, "width": 50, "height": 50}],
        "objects": [{key: 5, "objects": objects}],
        "relationships": [{key: 5, "relationships": relationships}],
    }
    for name, records in content.items():
        (folder / f"{name}.json").write_text(json.dumps(records))
    for archive, image_id in (("VG_100K", 5), ("VG_100K_2", 6)):
        (folder / archive).mkdir(exist_ok=True)
        (folder / archive / f"{image_id}.jpg").touch()
    return folder


@pytest.mark.parametrize("key", ["image_id", "id"])
def test_what_the_real_images_lack(tmp_path, key):
    man = box(1, -5, 10, 200, 100, names=["Man "])
    flat = box(2, 100, 10, 30, 10, names=["vest", "  T  Shirt"])
    merged = box(3, 1, 2, 3, 4, names=["hat"], merged_object_ids=[31, 32])
    late = box(4, 7, 8, 9, 10, name="HAT.")
    stranger = box(5, 7, 8, 9, 10, name="cloud")
    objects = [man, {**man, "x": 50}, box(6, 0, 0, 5, 5, names=["sky"]), flat, merged]
    relationships = [
        {"predicate": "WEARING", "subject": man, "object": late},
        {"predicate": " on", "subject": {**merged, "object_id": 32}, "object": man},
        {"predicate": "on", "subject": stranger, "object": man},
        {"predicate": "beneath", "subject": flat, "object": man},
        {"predicate": "on", "subject": flat, "object": man},
        {"predicate": "on", "subject": flat, "object": man},
    ]
    write(tmp_path, objects, relationships, key=key)
    first, second = load_visual_genome_raw(
        tmp_path, Vocabulary(["man", "hat", "t shirt"], ["wearing", "on"])
    )
    assert [(a["id"], a["category_id"], a["bbox"]) for a in first["annotations"]] == [
        (1, 0, [0, 10, 100, 80]),  # clipped on three sides; a repeated id counts once
        (2, 2, [100, 10, 100, 20]),  # outside: clipped to no area, and kept; its second name
        (3, 1, [1, 2, 4, 6]),
        (4, 1, [7, 8, 16, 18]),  # occurs only in relationships
    ]
    assert first["relations"].tolist() == [[0, 3, 0], [2, 0, 1], [1, 0, 1], [1, 0, 1]]
    assert second["annotations"] == [] and second["relations"].shape == (0, 3)
    assert second["relations"].dtype == np.int64
    assert Path(first["file_name"]) == tmp_path / "VG_100K/5.jpg"
    assert Path(second["file_name"]) == tmp_path / "VG_100K_2/6.jpg"


def test_names_are_compared_without_case_spaces_and_punctuation():
    assert normalise_name("  In\tfront  OF. ") == "in front of"
    assert normalise_name('"walk"') == "walk"
    table = NameTable(SMALL.objects, {})
    assert table.find("T-Shirt") == 2
    assert table.find("coat") is None


def test_aliases_follow_earlier_lines_and_never_hide_a_class(tmp_path):
    path = tmp_path / "alias.txt"
    path.write_text(
        "on,on top of\nwearing,wears,dressed in\non top of,lies on top of\nhas on,on\n\n"
    )
    table = NameTable(SMALL.predicates, read_aliases(path))
    assert [table.find(name) for name in ("wears", "dressed in", "on top of")] == [0, 0, 1]
    assert table.find("lies on top of") == 1
    assert table.find("on") == 1
    assert table.find("has on") is None


def test_bad_input_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*image_data\.json"):
        load_visual_genome_raw(tmp_path, SMALL)
    write(tmp_path, [{"object_id": 1, "names": ["man"], "x": 1, "y": 1, "w": 1}], [])
    with pytest.raises(ValueError, match=r"image 5 .*'h'"):
        load_visual_genome_raw(tmp_path, SMALL)
    with pytest.raises(ValueError, match=r"image_ids \[7, 8\] \(2 in all\) are not in"):
        load_visual_genome_raw(tmp_path, SMALL, image_ids=[5, 8, 7])
    with pytest.raises(ValueError, match=r"no file .*none\.txt"):
        load_visual_genome_raw(tmp_path, SMALL, object_aliases=tmp_path / "none.txt")
    (tmp_path / "objects.json").write_text('[{"image_id": 5')
    with pytest.raises(ValueError, match=r"objects\.json is no complete JSON file"):
        load_visual_genome_raw(tmp_path, SMALL)
    (tmp_path / "objects.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"objects\.json is no list with one record for each"):
        load_visual_genome_raw(tmp_path, SMALL)
