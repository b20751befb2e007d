"""The READMEs: length, links, images, config keys, commands; and their Python, which is run.

A snippet runs in an empty folder that has small stand-ins for the files it names (`stand_ins`): a
drawn image for photographs, and the zero-shot model that ships for trained checkpoints.
"""

import ast
import contextlib
import functools
import importlib
import io
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from detectron2.config import get_cfg
from PIL import Image
from relations_document import DOCUMENT
from scripts import load_script

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
    folders = (ROOT, (ROOT / page).parent, ROOT / "vrd_d2", ROOT / "vrd_d2/modeling/union_clip")
    for name in re.findall(r"`([\w./]+/[\w./{},]*|[\w/]+\.(?:py|sh|yaml))`", prose(page)):
        # What another project has, a dataset's own folder, or a field of a path.
        if WRITTEN.match(name) or not re.match(r"(vrd_d2|configs|tools|tests|datasets)/|.*\.py$", name):
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


def test_the_diagram_names_files_that_exist():
    drawing = load_script(ROOT / "tools/draw_readme_images.py")
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

ZERO_SHOT = str(ROOT / "configs/quickstart/unionclip_zero_shot_sgdet.yaml")
# What a page names -> what stands in for it.
MODELS = {
    "output/quickstart/sgdet/model_final.pth": ZERO_SHOT,
    "configs/unionclip_mlp.yaml": str(ROOT / "configs/quickstart/unionclip_zero_shot.yaml"),
}
# Snippets that show what an argument looks like, or need more than a small stand-in.
NOT_RUN = ("RELATION_HEAD_REGISTRY", "inference_on_dataset", "OnnxPredictor", "explain(")


def snippets() -> list:
    """Return the Python of all pages, as parameters."""
    return [
        pytest.param(page, text, id=f"{page}-{number}")
        for page in PAGES
        for number, (language, text) in enumerate(blocks(page))
        if language == "python"
    ]


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """An empty working folder with small files of the names that the pages use."""
    scene = Image.open(ROOT / ".github/images/scene.png")
    (tmp_path / ".github").symlink_to(ROOT / ".github")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for name in ("street.jpg", "living_room.jpg", "photo.jpg"):
        scene.save(tmp_path / name)
    (tmp_path / "mine/images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page, text", snippets())
def test_python_runs(page, text, stand_ins, capsys):
    ast.parse(text)
    for module in re.findall(r"^from (vrd_d2[\w.]*) import (.+)$", text, flags=re.MULTILINE):
        names = module[1].partition("#")[0]
        for name in re.findall(r"\w+", names):
            getattr(importlib.import_module(module[0]), name)
