"""What is imported when: nothing heavy before it is needed, and everything once it is."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "detectron2", "open_clip", "transformers", "matplotlib")
REPOSITORY = Path(__file__).resolve().parents[1]
TOOLS = sorted(
    str(path.relative_to(REPOSITORY))
    for pattern in ("tools/*.py", "tools/benchmarks/*.py", "datasets/prepare_*.py")
    for path in REPOSITORY.glob(pattern)
)
REPORT = f"import sys; print(*[m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
# The peak of a child counts the memory of the process that starts it, so that must be a small one.
PEAK = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:])
kilo = 1024 if sys.platform == "darwin" else 1
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024 / kilo, file=sys.stderr)
sys.exit(done.returncode)
"""


def python(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=120)


def heavy_modules(code: str) -> list[str]:
    """The heavy packages that are loaded after the code has run."""
    done = python("-c", f"{code}\n{REPORT}")
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()[-1].split()


def running(tool: str | Path, *arguments: object) -> str:
    """Code that runs a tool as the command line does, and goes on behind it."""
    argv = [str(tool), *map(str, arguments)]
    return (
        f"import runpy, sys\nsys.argv = {argv!r}\n"
        f"try:\n    runpy.run_path({str(tool)!r}, run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code, end.code"
    )


def test_the_report_sees_what_is_loaded():
    assert heavy_modules("import torch, matplotlib") == ["torch", "matplotlib"]


@pytest.mark.parametrize(
    "module",
    [
        "vrd_d2",
        "vrd_d2.config",
        "vrd_d2.data",
        "vrd_d2.data.datasets",
        "vrd_d2.data.formats.relations_json",
        "vrd_d2.data.knowledge",
        "vrd_d2.data.vocabulary",
        "vrd_d2.engine",
        "vrd_d2.evaluation",
        "vrd_d2.evaluation.files",
        "vrd_d2.evaluation.human.page",
        "vrd_d2.evaluation.human.report",
        "vrd_d2.evaluation.human.study",
        "vrd_d2.evaluation.report",
        "vrd_d2.export",
        "vrd_d2.media.images",
        "vrd_d2.onnx_runtime",
        "vrd_d2.scene_graph",
        "vrd_d2.visualization",
        "vrd_d2.visualization.html_page",
        "vrd_d2.visualization.scene_graph_image",
    ],
)
def test_modules_load_without_heavy_packages(module):
    assert heavy_modules(f"import {module}") == []


@pytest.mark.parametrize("name", ["SceneGraph", "get_vocabulary", "__version__"])
def test_light_names_stay_light(name):
    assert heavy_modules(f"from vrd_d2 import {name}") == []


@pytest.mark.parametrize("tool", TOOLS)
def test_help_loads_nothing_heavy(tool):
    assert heavy_modules(running(REPOSITORY / tool, "--help")) == []


def test_names_that_functions_import_exist():
    """Imports inside functions, which nothing else notices before they run."""
    files = [REPOSITORY / tool for tool in TOOLS] + sorted(REPOSITORY.glob("vrd_d2/**/*.py"))
    absent = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("vrd_d2"):
                continue
            try:
                module = importlib.import_module(node.module)
            except ModuleNotFoundError as error:
                absent |= {(file.name, node.module)} if error.name == node.module else set()
                continue
            for name in (alias.name for alias in node.names):
                if not hasattr(module, name):
                    try:
                        importlib.import_module(f"{node.module}.{name}")
                    except ModuleNotFoundError:
                        absent.add((file.name, f"{node.module}.{name}"))
    assert not absent


def peak_megabytes(*arguments: object) -> float:
    done = python("-c", PEAK, sys.executable, *arguments)
    assert done.returncode == 0, done.stderr
    return float(done.stderr.splitlines()[-1])


@pytest.fixture
def evaluate_arguments(tiny_json, tmp_path) -> list:
    """Of tools/evaluate.py, on a few images."""
    predictions = tmp_path / "predictions.jsonl"
    line = {"image_id": 1, "pairs": [[0, 1]], "predicate_scores": [[0.1, 0.9, 0.0, 0.0]]}
    predictions.write_text(json.dumps(line) + "\n")
    files = ["--ground-truth", tiny_json, "--predictions", predictions]
    return [*files, "--task", "predcls", "--bootstrap", 10]


def test_evaluating_files_needs_little(evaluate_arguments):
    tool = REPOSITORY / "tools/evaluate.py"
    assert heavy_modules(running(tool, *evaluate_arguments)) == []
    assert peak_megabytes(tool, *evaluate_arguments) < 150


def test_checking_a_file_needs_little(tiny_json):
    tool = REPOSITORY / "tools/dataset.py"
    assert heavy_modules(running(tool, "check", tiny_json, "--workers", 0)) == []
    assert peak_megabytes(tool, "check", tiny_json, "--workers", 0) < 150


def test_every_public_name_is_there():
    code = """
import vrd_d2
assert set(vrd_d2.__all__) <= set(dir(vrd_d2))
found = {name: getattr(vrd_d2, name) for name in vrd_d2.__all__}
assert found["Predictor"].__module__ == "vrd_d2.inference.predictor"
from vrd_d2 import *
assert Predictor is found["Predictor"] and load_config is found["load_config"]
import vrd_d2.evaluation as evaluation
assert all(getattr(evaluation, name) is not None for name in evaluation.__all__)
assert vrd_d2.data.vocabulary.get_vocabulary is get_vocabulary
assert not hasattr(vrd_d2, "nothing_of_this_name")
"""
    assert "torch" in heavy_modules(code)


@pytest.mark.parametrize("way", ["import vrd_d2; add = vrd_d2.add_vrd_config",
                                 "from vrd_d2.config import add_vrd_config as add"])  # fmt: skip
def test_the_first_use_registers_datasets_and_architectures(way, repository):
    code = f"""
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.modeling import META_ARCH_REGISTRY, build_model
{way}
cfg = get_cfg()
add(cfg)
assert "vg_sgg_train" in DatasetCatalog and "UnionCLIP" in META_ARCH_REGISTRY
cfg.merge_from_file({str(repository / "configs/quickstart/relclip_predcls.yaml")!r})
cfg.MODEL.DEVICE = "cpu"
print(type(build_model(cfg)).__name__)
"""
    done = python("-W", "error::DeprecationWarning:vrd_d2", "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "RelCLIP"


def test_building_no_model_imports_no_open_clip():
    code = "import vrd_d2; vrd_d2.Predictor, vrd_d2.load_config, vrd_d2.add_vrd_config"
    assert not {"open_clip", "transformers"} & set(heavy_modules(code))
