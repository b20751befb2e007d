"""Open Images V6: made-up CSV files, and every way of being wrong."""

import logging
import re

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from published_documents import (
    OI_BOXES,
    OI_CLASSES,
    OI_HEADER,
    OI_ROWS,
    draw,
    existing,
    run_script,
    write,
)

from vrd_d2.data.datasets.open_images import load_open_images, open_images_vocabulary
from vrd_d2.data.datasets.setup import register_builtin_datasets
from vrd_d2.data.vocabulary import Vocabulary, get_vocabulary

NAMES = Vocabulary(["Table", "Man", "Ball", "Girl"], ["at", "on", "interacts with"])
SIZES = {"im1.jpg": [200, 100], "im2.jpg": [10, 20]}


def table(*rows, header=OI_HEADER):
    return "\n".join([header, *rows]) + "\n"


def load(tmp_path, text=None, *, classes=OI_CLASSES, boxes=None, vocabulary=NAMES, **options):
    relations = write(tmp_path / "relations.csv", table(*OI_ROWS) if text is None else text)
    options = {
        "class_descriptions": write(tmp_path / "classes.csv", classes),
        "boxes_csv": None if boxes is None else write(tmp_path / "boxes.csv", boxes),
        "sizes": write(tmp_path / "sizes.json", SIZES),
        **options,
    }
    return load_open_images(relations, vocabulary=vocabulary, **options)


def test_objects_and_relations_by_hand(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    first, second = load(tmp_path)
    assert first["file_name"] == str(tmp_path / "images/im1.jpg")
    assert (first["image_id"], first["width"], first["height"]) == ("im1", 200, 100)
    boxes = [a["bbox"] for a in first["annotations"]]
    np.testing.assert_allclose(boxes, [[20, 20, 100, 60], [100, 25, 200, 75], [0, 25, 50, 75]])
    assert [a["category_id"] for a in first["annotations"]] == [1, 0, 0]
    assert first["relations"].tolist() == [[0, 1, 0], [0, 1, 1], [0, 2, 0]]
    assert [a["bbox"] for a in second["annotations"]] == [[0, 0, 5, 20], [5, 10, 5, 15]]
    assert second["relations"].tolist() == [[0, 1, 2]]
    assert [a["id"] for record in (first, second) for a in record["annotations"]] == [1, 2, 3, 4, 5]
    assert "relations.csv: 1 attributes are left out" in caplog.text
    assert "covers 5 of 5 objects (left out most: none) and 4 of 4 relations" in caplog.text


def test_boxes_of_the_other_file_come_first(tmp_path):
    first, second = load(tmp_path, boxes=OI_BOXES)
    assert [a["category_id"] for a in first["annotations"]] == [2, 0, 1, 0]  # one ball, one table
    assert first["relations"].tolist() == [[2, 1, 0], [2, 1, 1], [2, 3, 0]]
    assert len(second["annotations"]) == 2


def test_what_the_vocabulary_lacks_is_left_out_and_indices_follow(tmp_path):
    first, second = load(tmp_path, boxes=OI_BOXES, vocabulary=Vocabulary(["Man", "Table"], ["on"]))
    assert [a["category_id"] for a in first["annotations"]] == [1, 0, 1]
    assert first["relations"].tolist() == [[1, 0, 0]]
    assert second["annotations"] == []


def test_names_by_frequency_without_attributes(tmp_path):
    relations = write(tmp_path / "relations.csv", table(*OI_ROWS))
    # Without a header, and two labels of one name.
    text = "/m/man,Man\n/m/table,Table\n/m/girl,Man\n/m/ball,Ball\n"
    names = open_images_vocabulary(relations, write(tmp_path / "classes.csv", text))
    assert names.objects == ("Man", "Table", "Ball")
    assert names.predicates == ("at", "interacts with", "on")
    with pytest.raises(ValueError, match="4 predicates are asked for: choose 1 to 3"):
        open_images_vocabulary(relations, tmp_path / "classes.csv", num_predicates=4)


def test_sizes_come_from_images_too(tmp_path):
    draw(tmp_path / "train/im1.jpg", (40, 20))
    with pytest.raises(ValueError, match=r"1 of 2 images are missing: .*images/im2\.jpg"):
        load(tmp_path, select=existing("error"), sizes=None)
    (record,) = load(tmp_path, select=existing("skip"), sizes=None)
    np.testing.assert_allclose(record["annotations"][0]["bbox"], [4, 4, 20, 12])
    with pytest.raises(ValueError, match=r"relations\.csv: image 'im2': its size is unknown"):
        load(tmp_path, sizes=None)
    (tmp_path / "train/im1.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"relations\.csv.*im1\.jpg"):
        load(tmp_path, sizes=None)


def test_registered_with_the_files_that_the_script_writes(
    tmp_path, repository, monkeypatch, capsys
):
    folder = tmp_path / "oiv6"
    register_builtin_datasets(tmp_path)
    try:
        with pytest.raises(ValueError, match=r"needs .*oidv6-train-annotations-vrd\.csv"):
            DatasetCatalog.get("oiv6_train")
        write(folder / "oidv6-train-annotations-vrd.csv", table(*OI_ROWS))
        write(folder / "validation-annotations-vrd.csv", table(OI_ROWS[0]))
        write(folder / "validation-annotations-bbox.csv", OI_BOXES)
        write(folder / "class-descriptions-boxable.csv", OI_CLASSES)
        for name in ("im1", "im2"):
            draw(folder / f"images/{name}.jpg", (200, 100))
        script = repository / "datasets/prepare_vocabulary.py"
        run_script(script, "oiv6", "--root", str(tmp_path), "--sizes", monkeypatch=monkeypatch)
        printed = capsys.readouterr().out
        assert "4 object classes, 3 predicates" in printed
        assert "sizes.json: 2 images" in printed
        assert get_vocabulary(folder / "vocabulary.json").objects[0] == "Table"
        assert [len(r["relations"]) for r in DatasetCatalog.get("oiv6_train")] == [3, 1]
        (record,) = DatasetCatalog.get("oiv6_val")
        assert len(record["annotations"]) == 3 and record["width"] == 200
    finally:
        register_builtin_datasets()


ROW = OI_ROWS[0]
BAD = [
    ({"text": ""}, "relations.csv: line 1: no column ImageID among"),
    ({"text": table(ROW, header=OI_HEADER.replace("XMin2", "X"))}, "no column XMin2 among ImageID"),
    (
        {"text": table(ROW, header=OI_HEADER.replace("RelationshipLabel", "Label"))},
        "no column RelationshipLabel or RelationLabel",
    ),
    ({"text": table()}, "relations.csv: no relations, 0 attributes"),
    ({"text": table(OI_ROWS[1])}, "relations.csv: no relations, 1 attributes"),
    ({"text": table(OI_ROWS[2], ROW[:-3])}, "relations.csv: line 3: 11 values, but the header has"),
    ({"text": table(ROW + ",3")}, "line 2: 13 values"),
    ({"text": table(ROW.replace("/m/man", "/m/men"))}, "line 2: label '/m/men' is not in"),
    ({"text": table(ROW.replace("0.2,", "nan,"))}, "'nan', '0.5', '0.6'] must be XMin, YMin, XMax"),
    ({"text": table(ROW.replace("0.2,", "inf,"))}, "'inf', '0.5', '0.6'] must be XMin, YMin, XMax"),
    ({"text": table(ROW.replace("0.2,", "half,"))}, "'half', '0.5', '0.6'] must be XMin, YMin"),
    ({"text": table(ROW.replace("0.2,", "0.7,"))}, "not ending before it begins"),
    ({"text": table(ROW.replace("1.0,", "100,"))}, "in fractions of the image"),
    ({"text": table(ROW.replace("im1", ""))}, "ImageID and RelationshipLabel must not be empty"),
    ({"text": table(ROW[:-2])}, "ImageID and RelationshipLabel must not be empty"),
    ({"text": table('"' + ROW)}, "relations.csv is no CSV file in UTF-8"),
    ({"classes": "LabelName,DisplayName\n/m/man\n"}, "classes.csv: line 2: ['/m/man'] must be two"),
    ({"classes": OI_CLASSES + "/m/man,Boy\n"}, "classes.csv: line 6: '/m/man' is 'Boy' here and"),
    ({"classes": "/m/man, \n"}, "classes.csv: line 1: ['/m/man', ' '] must be two values"),
    ({"boxes": OI_BOXES.replace("YMax", "Y")}, "boxes.csv: line 1: no column YMax among"),
    ({"boxes": OI_BOXES.replace("/m/ball", "/m/bull")}, "boxes.csv: line 2: label '/m/bull' is"),
    ({"boxes": OI_BOXES.replace("0.25,0.5,0.5,1", "0.25,0.5,0.5,x")}, "boxes.csv: line 2: box ["),
    ({"sizes": "nowhere.json"}, "there is no file nowhere.json"),
    ({"class_descriptions": "nowhere.csv"}, "there is no file nowhere.csv"),
    ({"boxes_csv": "."}, "cannot be read, as it is a folder"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), BAD, ids=[m[:40] for _, m in BAD])
def test_what_is_wrong_is_named_with_file_and_line(tmp_path, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load(tmp_path, **options)


def test_a_file_in_another_encoding(tmp_path):
    path = tmp_path / "latin.csv"
    path.write_bytes("/m/man,Mañ\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.csv is no CSV file in UTF-8"):
        load(tmp_path, class_descriptions=path)
