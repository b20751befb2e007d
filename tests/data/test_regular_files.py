"""Pipes, devices, sockets and folders are refused by name wherever a file is read or copied."""

import json
import os
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vrd_d2.commands.evaluate import read_counts
from vrd_d2.data.captions.files import CaptionFile
from vrd_d2.data.csv_files import read_csv
from vrd_d2.data.datasets.visual_genome_h5_files import read_h5
from vrd_d2.data.image_existence import read_name_list
from vrd_d2.data.images.check import check_images
from vrd_d2.data.knowledge.knowledge_base import KnowledgeBase
from vrd_d2.data.names import read_aliases
from vrd_d2.data.source_files import read_json
from vrd_d2.data.vocabulary import get_vocabulary
from vrd_d2.evaluation.ground_truth_files import read_ground_truth
from vrd_d2.evaluation.json_lines import read_json_lines
from vrd_d2.media.images import read_image
from vrd_d2.onnx_runtime import read_image as read_image_of_exported_models


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(path.parent)  # the path of a socket must be short
        try:
            made.bind(path.name)
        finally:
            os.chdir(here)


KINDS = [pipe, device, folder, a_socket]
READERS = {
    "json": read_json,
    "lines": lambda path: list(read_json_lines(path)),
    "ground truth": read_ground_truth,
    "vocabulary": get_vocabulary,
    "csv": lambda path: list(read_csv(path, [("a",)])),
    "aliases": read_aliases,
    "names": read_name_list,
    "captions": lambda path: list(CaptionFile(path, "text").records()),
    "h5": lambda path: read_h5(str(path)),
    "knowledge base": KnowledgeBase.load,
    "image": read_image,
    "image of exported models": read_image_of_exported_models,
    "counts": read_counts,
}


@pytest.fixture(autouse=True)
def deadline():
    """A reader that waits for a pipe, or reads a device for ever, fails the test."""

    def late(*_):
        raise TimeoutError("still reading")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 5)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", READERS)
def test_every_reader_refuses_it(tmp_path, kind, name):
    path = tmp_path / "odd.file"
    kind(path)
    with pytest.raises(ValueError, match=r"odd\.file") as error:
        READERS[name](path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_convert_copies_none(tmp_path, dataset_tool, capsys, kind):
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(tmp_path / "a.png")
    kind(tmp_path / "odd.png")
    document = {
        "images": [
            {"id": i, "file_name": name, "width": 9, "height": 8}
            for i, name in enumerate(("a.png", "odd.png"))
        ],
        "categories": [{"id": 1, "name": "a"}],
        "predicates": [{"id": 1, "name": "p"}],
        "annotations": [],
        "relations": [],
    }
    (tmp_path / "all.json").write_text(json.dumps(document))
    output = tmp_path / "out/new.json"
    code = dataset_tool.main(["convert", str(tmp_path / "all.json"), str(output), "--copy-images"])
    assert code == 1 and "odd.png" in capsys.readouterr().err
    assert not output.exists()
    assert not list(tmp_path.glob("out/images/*"))  # all are looked at before one is copied
    # and check says so, before training would
    records = [{"file_name": str(tmp_path / "odd.png"), "image_id": 1}]
    (problem,) = check_images(records).problems
    assert problem.kind == "unreadable" and "odd.png" in problem.message
