"""What may import what: the contracts of .importlinter hold, and each of them is seen to break."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LINT = "import importlinter.cli; importlinter.cli.lint_imports_command()"
CONTRACTS = ("layers", "circles")
# The contract it breaks, the file, and what is added to it.
VIOLATIONS = {
    "a lower layer imports a higher one": (
        "layers",
        "vrd_d2/evaluation/matching.py",
        "import vrd_d2.scene_graph",
    ),
    "so it does in a function": (
        "layers",
        "vrd_d2/evaluation/matching.py",
        "def graph():\n    from vrd_d2.scene_graph import SceneGraph\n    return SceneGraph",
    ),
    "or for its annotations": (
        "layers",
        "vrd_d2/evaluation/matching.py",
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from vrd_d2.scene_graph import SceneGraph",
    ),
    "a part imports its neighbour": (
        "layers",
        "vrd_d2/evaluation/matching.py",
        "from vrd_d2.checkpoint import array_pickle",
    ),
    "a part has no layer": ("layers", "vrd_d2/new_part.py", ""),
    "two modules import each other": (
        "circles",
        "vrd_d2/visualization/canvas.py",
        "from vrd_d2.visualization import panels",
    ),
    "a folder and a module import each other": (
        "circles",
        "vrd_d2/data/vocabulary.py",
        "import vrd_d2.data.formats.relations_json",
    ),
}


def lint(folder: Path, *contracts: str) -> subprocess.CompletedProcess[str]:
    """Check a folder that holds the package and .importlinter."""
    options = [part for contract in contracts for part in ("--contract", contract)]
    return subprocess.run(
        [sys.executable, "-P", "-c", LINT, "--no-cache", "--no-logo", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    """The modules of the package by themselves, to be changed."""
    pytest.importorskip("importlinter", reason="import-linter, of the extra test")
    shutil.copy(repository / ".importlinter", tmp_path)
    for file in (repository / "vrd_d2").rglob("*.py"):
        new = tmp_path / file.relative_to(repository)
        new.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, new)
    return tmp_path


def test_the_package_breaks_no_contract(copy: Path) -> None:
    result = lint(copy)
    assert result.returncode == 0, result.stdout
    assert f"{len(CONTRACTS)} kept, 0 broken" in result.stdout


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_is_found(copy: Path, name: str) -> None:
    contract, file, line = VIOLATIONS[name]
    with (copy / file).open("a") as module:
        module.write(f"\n{line}\n")
    result = lint(copy, contract)
    assert result.returncode == 1 and "BROKEN" in result.stdout, result.stdout + result.stderr


def test_the_script_of_the_tests_checks_the_layers(repository: Path) -> None:
    assert "lint-imports" in (repository / "tools/test.sh").read_text()
