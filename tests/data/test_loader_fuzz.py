"""Files spoiled at random: a loader loads them, or raises a ValueError that names the file."""

import copy
import json
import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published_documents import (
    GQA_FILE,
    OI_BOXES,
    OI_CLASSES,
    OI_HEADER,
    OI_ROWS,
    PSG_FILE,
    VRD_FILE,
    existing,
    write,
)
from relations_document import DOCUMENT
from spoiled import damaged, spoil

from vrd_d2.data.datasets.gqa import load_gqa
from vrd_d2.data.datasets.open_images import load_open_images
from vrd_d2.data.datasets.panoptic_scene_graph import load_panoptic_scene_graph
from vrd_d2.data.datasets.stanford_vrd import load_stanford_vrd
from vrd_d2.data.formats.relations_json import load_relations_json
from vrd_d2.data.vocabulary import Vocabulary

NAMES = Vocabulary(["man", "cup"], ["holding", "wearing"])
POLICIES = st.sampled_from(["keep", "skip"])
JSON_LOADERS = {
    "relations_json": (DOCUMENT, load_relations_json),
    "stanford_vrd": (
        VRD_FILE,
        lambda path, missing_images: load_stanford_vrd(path, select=existing(missing_images)),
    ),
    "panoptic_scene_graph": (
        PSG_FILE,
        lambda path, missing_images: load_panoptic_scene_graph(
            path, split="val", select=existing(missing_images)
        ),
    ),
    "gqa": (
        GQA_FILE,
        lambda path, missing_images: existing(missing_images)(load_gqa(path, vocabulary=NAMES)),
    ),
}
QUICK = settings(
    max_examples=100,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(autouse=True, scope="module")
def quiet():
    """Hundreds of warnings of missing images take longer than the loading."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def loads_or_names_the_file(load, path, *others):
    try:
        list(load())
    except ValueError as error:
        assert any(str(name) in str(error) for name in (path, *others)), error


@pytest.mark.parametrize("name", JSON_LOADERS)
@QUICK
@given(data=st.data(), missing_images=POLICIES)
def test_changed_documents(tmp_path, name, data, missing_images):
    document, load = JSON_LOADERS[name]
    document = copy.deepcopy(document)
    spoil(document, data)
    path = write(tmp_path / "data.json", json.dumps(document))
    loads_or_names_the_file(lambda: load(path, missing_images=missing_images), path)


@pytest.mark.parametrize("name", JSON_LOADERS)
@QUICK
@given(data=st.data())
def test_damaged_text(tmp_path, name, data):
    document, load = JSON_LOADERS[name]
    content = damaged(json.dumps(document).encode(), data)
    path = tmp_path / "data.json"
    path.write_bytes(content)
    loads_or_names_the_file(lambda: load(path, missing_images="keep"), path)


@QUICK
@given(data=st.data(), missing_images=POLICIES)
def test_damaged_tables(tmp_path, data, missing_images):
    files = {
        "relations.csv": "\n".join([OI_HEADER, *OI_ROWS]),
        "classes.csv": OI_CLASSES,
        "boxes.csv": OI_BOXES,
        "sizes.json": json.dumps({"im1.jpg": [200, 100], "im2.jpg": [10, 20]}),
    }
    chosen = data.draw(st.sampled_from(list(files)))
    paths = {name: tmp_path / name for name in files}
    for name, text in files.items():
        content = text.encode()
        if name == chosen and name.endswith("csv") and data.draw(st.booleans()):
            content = with_another_cell(text, data).encode("utf-8", "surrogatepass")
        elif name == chosen:
            content = damaged(content, data)
        paths[name].write_bytes(content)
    loads_or_names_the_file(
        lambda: load_open_images(
            paths["relations.csv"],
            class_descriptions=paths["classes.csv"],
            boxes_csv=paths["boxes.csv"],
            sizes=paths["sizes.json"],
            vocabulary=Vocabulary(["Man", "Table"], ["at", "on"]),
            select=existing(missing_images),
        ),
        *paths.values(),
    )


def with_another_cell(text: str, data) -> str:
    rows = [row.split(",") for row in text.split("\n")]
    row = data.draw(st.sampled_from(rows))
    column = data.draw(st.integers(0, len(row) - 1))
    odd = ["", "nan", "inf", "-1", "1e400", "x", "is", '"', "\0", "\ud800", "a/b", "y" * 300, "1,2"]
    row[column] = data.draw(st.sampled_from(odd))
    return "\n".join(",".join(row) for row in rows)
