"""An internet address in place of a file is refused by its name, at every entrance."""

from pathlib import Path

import pytest
from scripts import load_script

from vrd_d2.addresses import is_address, refuse_address
from vrd_d2.commands import dataset, demo, evaluate, export, predict, train
from vrd_d2.config.loading import load_config, load_inference_config
from vrd_d2.data.captions.files import open_captions
from vrd_d2.data.knowledge.knowledge_base import KnowledgeBase
from vrd_d2.data.source_files import read_json
from vrd_d2.data.vocabulary import get_vocabulary
from vrd_d2.evaluation.json_lines import read_json_lines
from vrd_d2.media.images import read_image
from vrd_d2.media.search import find_media

ADDRESS = "https://example.org/a/file.json"


@pytest.mark.parametrize("text", [ADDRESS, Path(ADDRESS), "HTTP://x", "s3://b/k", "file:///etc/x"])
def test_addresses(text):
    assert is_address(text)
    with pytest.raises(ValueError, match="://"):
        refuse_address(text)


@pytest.mark.parametrize(
    "text", ["a.json", "/a/b", "C:/x", "C:\\x", "http", "http:", "", 3, None, b"x"]
)
def test_paths(text):
    assert not is_address(text)
    refuse_address(text)


def test_a_file_of_that_name_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("http:/x").mkdir(parents=True)
    assert not is_address("http://x") and is_address("http://y")


@pytest.mark.parametrize(
    "reader",
    [
        *(read_json, get_vocabulary, KnowledgeBase.load, load_config, load_inference_config),
        *(read_image, lambda path: find_media([path]), lambda path: open_captions([path])),
        lambda path: next(read_json_lines(path)),
        lambda path: load_config("configs/relclip_sgdet.yaml", ["OUTPUT_DIR", path]),
        lambda path: load_config(
            "configs/relclip_sgdet.yaml", ["MODEL.VISUAL.FEATURE_CACHE", path]
        ),
        lambda path: load_config("configs/relclip_sgdet.yaml", ["DATASETS.TEST", f"('{path}',)"]),
        lambda path: load_config("configs/relclip_sgdet.yaml", ["MODEL.CLIP.PRETRAINED", path]),
    ],
)
def test_readers_name_the_address(reader):
    with pytest.raises(ValueError, match=ADDRESS) as error:
        reader(ADDRESS)
    assert "address" in str(error.value)


def test_weights_may_be_an_address():
    for key in ("MODEL.WEIGHTS", "MODEL.DETECTOR.WEIGHTS", "MODEL.VISUAL.WEIGHTS"):
        load_config("configs/relclip_sgdet.yaml", [key, ADDRESS])


COMMANDS = [
    (train, ["--config-file", ADDRESS]),
    (predict, [ADDRESS, "--output", "out", "--weights", "m.pth"]),
    (predict, ["a.jpg", "--output", ADDRESS, "--weights", "m.pth"]),
    (predict, ["a.jpg", "--output", "out", "--model", ADDRESS]),
    (predict, ["a.jpg", "--output", "out", "--weights", "m.pth", "--boxes", ADDRESS]),
    (evaluate, ["--ground-truth", ADDRESS, "--predictions", "p"]),
    (evaluate, ["--ground-truth", "g", "--predictions", ADDRESS]),
    (dataset, ["check", ADDRESS]),
    (dataset, ["check", "a.json", "--images", ADDRESS]),
    (dataset, ["convert", "a.json", ADDRESS]),
    (export, ["--weights", "m.pth", "--output", ADDRESS]),
    (demo, ["--model", ADDRESS, "m.pth"]),
    (
        "human_eval",
        ["make", "--annotations", "a", "--output", "o", "--predictions", f"a={ADDRESS}"],
    ),
    ("results_table", [ADDRESS]),
    ("run_ablations", ["a.yaml", "--base", ADDRESS]),
    ("score_candidates", ["--config-file", "c", "--knowledge-base", ADDRESS, "--output", "o"]),
    ("visualize", ["--config-file", ADDRESS, "--output", "o"]),
]


@pytest.mark.parametrize(("command", "arguments"), COMMANDS)
def test_commands_name_the_address(command, arguments, repository, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if isinstance(command, str):
        command = load_script(repository / f"tools/{command}.py")
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and ADDRESS in line and "https:/e" not in line
    assert not list(tmp_path.iterdir())
