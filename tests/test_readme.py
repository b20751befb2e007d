"""The READMEs: length, links, images, config keys, commands; and their Python, which is run.

A snippet runs in an empty folder that has small stand-ins for the files it names: a drawn image for
photographs, and models with a random head for trained ones.
"""

import ast
import contextlib
import copy
import functools
import importlib
import io
import json
import re
import shlex
import sys
from pathlib import Path
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch
import yaml
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from exported_models import build, own_answer
from PIL import Image
from relations_document import DOCUMENT
from scripts import load_script
from torch import nn

from vrd_d2 import onnx_runtime
from vrd_d2.data.formats.relations_json import (
    save_relations_json,
    validate_relations_json,
)
from vrd_d2.data.knowledge.knowledge_base import KnowledgeBase
from vrd_d2.data.vocabulary import SCENES
from vrd_d2.onnx_runtime import OnnxPredictor
from vrd_d2.scene_graph import SceneGraph
from vrd_d2.version import __version__

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "configs/README.md",
    "datasets/README.md",
    "tools/README.md",
    "vrd_d2/README.md",
    "vrd_d2/evaluation/README.md",
]
# Written by the commands of the pages, or the names of a user's own files.
WRITTEN = re.compile(
    r"output/|mine|graphs|study/|names\.json|bad\.txt|boxes\.json|datasets/(scenes|knowledge)/"
)
# Folders that tables of files name once.
MODELING = [ROOT / "vrd_d2/modeling", ROOT / "vrd_d2/modeling/union_clip"]
# Modules of the console commands, and the files of a checkout that run them.
COMMANDS = {
    "vrd-train": "train",
    "vrd-predict": "predict",
    "vrd-evaluate": "evaluate",
    "vrd-dataset": "dataset",
    "vrd-export": "export",
    "vrd-demo": "demo",
}


def blocks(page: str) -> list[tuple[str, str]]:
    """Return (language, text) of the fenced blocks of a page, those in lists without the indent."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"^( *)```(\w+)\n(.*?)^ *```$", text, flags=re.MULTILINE | re.DOTALL)
    return [
        (language, "\n".join(line.removeprefix(indent) for line in body.split("\n")))
        for indent, language, body in found
    ]


def prose(page: str) -> str:
    """Return a page without its fenced blocks."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings
    }


def test_the_readme_is_short_and_has_images():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 900
    assert len(re.findall(r"!\[[^\]]+\]\([^)]+\)", text)) >= 3
    assert sum(path.stat().st_size for path in (ROOT / ".github/images").iterdir()) < 1.5e6


@pytest.mark.parametrize("page", PAGES)
def test_links_images_and_anchors_resolve(page):
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    for link in links:
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if target.suffix in (".png", ".jpg"):
            with Image.open(target) as image:
                image.verify()
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page):
    folders = (ROOT, (ROOT / page).parent, ROOT / "vrd_d2", *MODELING)
    for name in re.findall(r"`([\w./]+/[\w./{},]*|[\w/]+\.(?:py|sh|yaml))`", prose(page)):
        # Files of other projects, of datasets, that a reader writes, or that must not be.
        if (
            name in ("utils.py", "ends.py", "rides.py")
            or WRITTEN.match(name)
            or not re.match(r"(vrd_d2|configs|tools|tests|datasets)/|.*\.py$", name)
        ):
            continue
        if page == "CHANGELOG.md" and name.startswith("tools/benchmark_"):
            continue
        assert any((folder / name).exists() for folder in folders), name


@pytest.mark.parametrize("page", PAGES)
def test_config_keys_exist(page):
    from vrd_d2 import add_vrd_config

    cfg = get_cfg()
    add_vrd_config(cfg)
    text = (ROOT / page).read_text(encoding="utf-8")
    if page == "CHANGELOG.md":  # tables of old names and new ones
        text = "\n".join(line.rpartition(" | ")[2] or line for line in text.split("\n"))
    for key in set(re.findall(r"\b((?:MODEL|DATASETS|TEST|SOLVER|INPUT)(?:\.[A-Z_]+)+)", text)):
        node = cfg
        for part in key.split("."):
            assert part in node, key
            node = node[part]


@pytest.fixture(scope="module")
def drawing():
    """Load the script that draws the figures."""
    return load_script(ROOT / "tools/draw_readme_images.py")


def test_the_figures_can_be_drawn_again(drawing):
    image, large = drawing.paint_scene(drawing.SCENE)
    folder = ROOT / ".github/images"
    with Image.open(folder / "scene.png") as stored:
        np.testing.assert_array_equal(np.asarray(stored), image)
    boxes, labels = drawing.given_objects(drawing.SCENE)
    rows = [(labels.index("man"), labels.index("horse"), "riding")]
    graph = drawing.related_part(SceneGraph(boxes, labels, rows))
    assert graph.triplets == [("man", "riding", "horse")] and len(graph.boxes) == 2
    for name, canvas in (
        ("scene_graph", drawing.draw_hero(large, graph)),
        ("tasks", drawing.draw_tasks(large, graph)),
        ("relclip", drawing.draw_diagram(large)),
    ):
        with Image.open(folder / f"{name}.png") as stored:
            assert stored.size == (canvas.width, canvas.height)


def test_the_diagram_names_files_that_exist(drawing):
    for *_, files in drawing.DIAGRAM.values():
        for name in files:
            assert (ROOT / "vrd_d2/modeling" / name).is_file(), name


# ---- Commands --------------------------------------------------------------------------------


def commands() -> list[tuple[str, list[str]]]:
    """Return (page, words) of every command in a block of shell or in backticks."""
    found = []
    for page in PAGES:
        lines = [text for language, text in blocks(page) if language == "bash"]
        lines += re.findall(r"`((?:python|bash|vrd-\w+|PYTHONPATH=\. python) [^`]+)`", prose(page))
        for text in lines:
            for line in text.replace("\\\n", " ").split("\n"):
                for command in line.split(" && "):
                    words = shlex.split(command, comments=True)
                    if words and "=" in words[0]:
                        words = words[1:]
                    if words and "..." not in words:
                        found.append((page, words))
    return found


@functools.cache
def help_of(command: str, subcommand: str | None) -> str:
    """Return what `--help` of a script or a console command prints, in this process."""
    if command in COMMANDS:
        main = importlib.import_module(f"vrd_d2.commands.{COMMANDS[command]}").main
    else:
        main = load_script(ROOT / command).main
    shown, arguments = io.StringIO(), sys.argv
    sys.argv = [command, *([subcommand] if subcommand else []), "--help"]
    try:
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            main()
    finally:
        sys.argv = arguments
    assert "usage:" in shown.getvalue(), command
    return shown.getvalue()


def test_commands_have_their_files_options_and_configs():
    found = commands()
    assert len(found) > 40
    for page, words in found:
        head, *rest = words
        where = f"{page}: {shlex.join(words)}"
        for word in rest:
            if re.match(r"(configs|tools|tests)/.*\w$", word) and "{" not in word:
                assert (ROOT / word).exists(), where
        if head in ("python", "bash"):
            head = next(word for word in rest if not word.startswith("-"))
            assert (ROOT / head).exists() or WRITTEN.match(head) or head in "pip spacy", where
            rest = rest[rest.index(head) + 1 :]
        if head in COMMANDS or (head.endswith(".py") and not WRITTEN.match(head)):
            subcommand = rest[0] if rest and re.fullmatch(r"[a-z][a-z-]+", rest[0]) else None
            known = help_of(head, None)
            if subcommand and re.search(rf"[{{,]{subcommand}[,}}]", known):
                known = help_of(head, subcommand)
            for option in (word for word in rest if word.startswith("--") and word != "--help"):
                assert re.search(rf"(?<![\w-]){option}(?![\w-])", known), f"{where}: {option}"


# ---- Python ----------------------------------------------------------------------------------

TRAINED = "output/quickstart/sgdet/model_final.pth"


def snippets() -> list:
    """Return the Python of all pages, as parameters."""
    return [
        pytest.param(text, id=f"{page}-{number}")
        for page in PAGES
        for number, (language, text) in enumerate(blocks(page))
        if language == "python"
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Config and checkpoint of a RelCLIP for SGDet with a random head."""
    folder = tmp_path_factory.mktemp("trained")
    cfg, model = build("relclip_sgdet.yaml")
    torch.save({"model": model.state_dict()}, folder / "model_final.pth")
    (folder / "config.yaml").write_text(cfg.dump())
    return str(folder / "config.yaml"), str(folder / "model_final.pth")


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """Make an empty working folder with small files of the names that the pages use."""
    for name in (".github", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    scene = Image.open(ROOT / ".github/images/scene.png").convert("RGB")
    (tmp_path / "mine/images").mkdir(parents=True)
    for name in ("street.jpg", "living_room.jpg", "mine/images/ride.jpg", "mine/images/a.jpg"):
        scene.save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    known = {*DatasetCatalog.list()}
    yield tmp_path
    for name in {*DatasetCatalog.list()} - known:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


class FixedModel(nn.Module):
    """Answer every image with one pair of two boxes."""

    def forward(self, examples):
        size = (60, 80)
        boxes = Boxes(torch.tensor([[10.0, 0, 30, 50], [20.0, 30, 70, 60]]))
        classes, scores = torch.tensor([0, 1]), torch.ones(2)
        instances = Instances(size, pred_boxes=boxes, pred_classes=classes, scores=scores)
        relations = Instances(size, pairs=torch.tensor([[0, 1]]))
        relations.predicate_probs = torch.eye(len(SCENES.predicates) + 1)[:1]
        relations.predicate_scores = relations.predicate_probs[:, :-1]
        return [{"instances": instances, "relations": relations} for _ in examples]


def evaluated_dataset(folder: Path) -> dict:
    """Register a dataset of one image; return a model and a loader."""
    record = {
        "file_name": str(folder / "mine/images/ride.jpg"),
        "image_id": 1,
        "height": 60,
        "width": 80,
        "annotations": [
            {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": i}
            for i, box in enumerate([[10, 0, 30, 50], [20, 30, 70, 60]])
        ],
        "relations": np.array([[0, 1, 0]]),
    }
    from vrd_d2.data.datasets.registrar import register_relations_json

    save_relations_json([record], SCENES, folder / "mine/test.json", image_root=folder / "mine")
    register_relations_json("mine_test", str(folder / "mine/test.json"), str(folder / "mine"))
    return {"model": FixedModel(), "loader": [DatasetCatalog.get("mine_test")[:]]}


def document(folder: Path) -> dict:
    """Write the relations_json file that the snippets check and register."""
    content = copy.deepcopy(DOCUMENT)
    content["images"][1]["file_name"] = "ride.jpg"
    (folder / "mine/train.json").write_text(json.dumps(content))
    return {}


def knowledge_base(folder: Path) -> dict:
    """Write a base of two triplets of the scenes."""
    path = folder / "datasets/knowledge/cc3m_vg150.npz"
    path.parent.mkdir(parents=True)
    base = KnowledgeBase.from_counts(SCENES, {(0, 0, 1): 6, (0, 1, 1): 2})
    base.save(path)
    return {"vocabulary": SCENES, "subjects": np.array([0]), "objects": np.array([1])}


def public_split(folder: Path) -> dict:
    """Write the files of Visual Genome's public split, with one image for training."""
    genome = load_script(ROOT / "tests/data/datasets/test_visual_genome_h5.py")
    boxes = [(genome.MAN, 300, 200, 100, 200), (genome.HORSE, 400, 300, 300, 200)]
    image = genome.image(0, boxes, [(0, 1, genome.RIDING)])
    genome.write(folder, [image] * 5001)  # the first 5,000 are for validation
    (folder / "VG_100K").rename(folder / "images")
    return {}


def names_file(folder: Path) -> dict:
    """Write the names that the page shows above its snippet."""
    (text,) = [t for language, t in blocks("configs/README.md") if language == "json"]
    (folder / "names.json").write_text(text)
    return {}


# What a snippet has in it -> what writes its files and returns its names.
PREPARE = {
    "RelationEvaluator(": evaluated_dataset,
    "validate_relations_json(": document,
    "register_relations_json(": document,
    "KnowledgeBase.load(": knowledge_base,
    "load_visual_genome_h5(": public_split,
    "names.json": names_file,
}


@pytest.mark.parametrize("text", snippets())
def test_python_runs(text, workplace, trained, capsys, monkeypatch):
    names = {}
    # Exporting takes a minute, and other tests do it: here the signatures are checked.
    monkeypatch.setattr(onnx_runtime, "OnnxPredictor", create_autospec(OnnxPredictor))
    for part, prepare in PREPARE.items():
        if part in text:
            names |= prepare(workplace)
    # Stand-ins for a trained checkpoint, and for a CLIP that would be downloaded.
    text = text.replace(f'"{TRAINED}"', f"*{trained!r}")
    text = text.replace(
        '"configs/unionclip_mlp.yaml"', '"configs/quickstart/unionclip_zero_shot.yaml"'
    )
    exec(compile(text, "snippet", "exec"), names)
    # What the comment of a print shows is what is printed.
    shown = re.findall(r"^print\(.*\)  # (\(.*?\))", text, flags=re.MULTILINE)
    printed = capsys.readouterr().out.split("\n")
    for line, comment in zip(printed, shown, strict=False):
        assert ast.literal_eval(line) == ast.literal_eval(comment)
    if "DatasetSpec(" in text:
        (workplace / "rides").mkdir()
        (workplace / "rides/train.txt").write_text("a.jpg 80 60 10 0 30 50 20 30 70 60")
        spec = names["SPEC"]
        (record,) = spec.load(spec.files(workplace, "train"), "train", lambda records: records)
        assert record["relations"].tolist() == [[0, 1, 0]] and len(record["annotations"]) == 2
    if "RELATION_HEAD_REGISTRY" in text:
        cfg, model = build("relclip_predcls.yaml", "MODEL.RELATION_HEAD.NAME", "EndsHead")
        image = np.zeros((60, 80, 3), np.uint8)
        answer = own_answer(cfg, model, image, [[10, 0, 30, 50], [20, 30, 70, 60]], [0, 1])
        assert answer["predicate_scores"].shape == (2, len(SCENES.predicates))
    if "save_relations_json(" in text:
        assert (workplace / "mine/train.json").is_file()


def test_the_documents_of_the_pages_are_valid(workplace):
    for page in ("README.md", "datasets/README.md"):
        (text,) = [t for language, t in blocks(page) if language == "json" and "relations" in t]
        content = json.loads(text)
        (workplace / "document.json").write_text(text)
        for image in content["images"]:
            path = workplace / image["file_name"]
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (image["width"], image["height"])).save(path)
        messages = validate_relations_json(workplace / "document.json", workplace)
        assert not [message for message in messages if message.startswith("error")]


def test_the_configs_of_the_pages_load(workplace):
    from vrd_d2 import load_config

    found = [text for page in PAGES for language, text in blocks(page) if language == "yaml"]
    assert len(found) == 3
    document(workplace)
    for number, text in enumerate(found):
        path = workplace / f"{number}.yaml"
        path.write_text(text)
        load_config(path)


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert len(citation["references"]) == 2
