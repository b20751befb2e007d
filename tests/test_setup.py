"""The set-up: pins, what is installed, the ranges of setup.py, and messages of the scripts."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import vrd_d2


def run(*command: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in an environment with the given variables set (or removed: None)."""
    environment = {k: v for k, v in {**os.environ, **variables}.items() if v is not None}
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=environment, timeout=60
    )


def pins(path: Path) -> dict[str, str]:
    """Canonical package name -> pinned version."""
    lines = (line.split("#")[0].split("--hash")[0].strip() for line in path.read_text().split("\n"))
    requirements = [Requirement(line) for line in lines if line]
    for requirement in requirements:
        assert re.fullmatch(r"==[^*]+", str(requirement.specifier)), f"not pinned: {requirement}"
    return {canonicalize_name(r.name): str(r.specifier)[2:] for r in requirements}


@pytest.fixture(scope="module")
def setup_arguments(repository: Path) -> dict:
    """What setup.py hands to setuptools."""
    code = (
        "import json, runpy, setuptools; "
        "setuptools.setup = lambda **arguments: print(json.dumps(arguments)); "
        f"runpy.run_path({str(repository / 'setup.py')!r})"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
    )
    return json.loads(result.stdout)


@pytest.fixture
def checkout(repository: Path, tmp_path: Path) -> Path:
    """A copy of just the files that the set-up reads, so that nothing real can be changed."""
    for name in ("setup.py", "vrd_d2/version.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(repository / name, tmp_path / name)
    shutil.copytree(repository / "tools", tmp_path / "tools")
    return tmp_path


def fake_python(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_import_without_detectron2_says_what_to_run(repository: Path) -> None:
    code = "import sys; sys.modules['detectron2'] = None; from vrd_d2 import Predictor"
    result = run(sys.executable, "-c", code, PYTHONPATH=str(repository))
    assert result.returncode != 0
    last_error = result.stderr[result.stderr.rindex("ImportError") :]
    assert "bash tools/setup_environment.sh" in last_error
    ((name, version),) = pins(repository / "tools/requirements-detectron2.txt").items()
    assert f"{name}=={version}" in last_error
    # The command is the one of the set-up script, option by option.
    script = (repository / "tools/setup_environment.sh").read_text()
    for option in ("--no-deps", "--only-binary=:all:", "--python-version 3.10", "--target"):
        assert option in last_error and option in script


def test_a_broken_detectron2_is_not_called_missing(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2/__init__.py").write_text("import a_module_that_is_missing\n")
    code = "from vrd_d2 import Predictor"
    result = run(sys.executable, "-c", code, PYTHONPATH=f"{tmp_path}{os.pathsep}{repository}")
    assert "ModuleNotFoundError: No module named 'a_module_that_is_missing'" in result.stderr
    assert "setup_environment" not in result.stderr


def test_what_exported_models_need_is_pinned_to_the_same_versions(repository: Path) -> None:
    small = pins(repository / "tools/requirements-onnx.txt")
    assert small.items() <= pins(repository / "tools/requirements.txt").items()
    assert "onnxruntime" in small and "torch" not in small


def test_pinned_versions_are_installed(repository: Path) -> None:
    if Path(sys.prefix).resolve() != (repository / ".venv").resolve():
        pytest.skip("not in the checkout's own .venv: another environment keeps its versions")
    pinned = pins(repository / "tools/requirements.txt")
    assert {name: importlib.metadata.version(name) for name in pinned} == pinned


def test_detectron2_is_pinned_by_hash(repository: Path) -> None:
    text = (repository / "tools/requirements-detectron2.txt").read_text()
    assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", text)


def test_setup_ranges_hold_the_pins(repository: Path, setup_arguments: dict) -> None:
    pinned = pins(repository / "tools/requirements.txt")
    extras = setup_arguments["extras_require"]
    required = setup_arguments["install_requires"]
    required = sum((extras[name] for name in ("demo", "opencv", "test")), required)
    for requirement in map(Requirement, required):
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"setup.py requires {name}: pin it in tools/requirements.txt"
        assert pinned[name] in requirement.specifier, f"{requirement} excludes {pinned[name]}"


def test_setup_metadata(repository: Path, setup_arguments: dict) -> None:
    assert setup_arguments["name"] == "vrd_d2"
    assert setup_arguments["version"] == vrd_d2.__version__
    assert setup_arguments["python_requires"] == ">=3.11"
    names = [Requirement(text).name for text in setup_arguments["install_requires"]]
    assert len(set(names)) == len(names)
    # pip must neither look for a Detectron2 package nor lay a second cv2 over the user's.
    assert not [name for name in names if "detectron2" in name or "opencv" in name]
    folders = {path.parent for path in repository.glob("vrd_d2/**/*.py")}
    packages = {str(folder.relative_to(repository)).replace("/", ".") for folder in folders}
    assert set(setup_arguments["packages"]) == packages, "a folder without __init__.py?"


def test_setup_installs_every_config_below_share(repository: Path, setup_arguments: dict) -> None:
    installed = {
        f"{folder}/{Path(file).name}": file
        for folder, files in setup_arguments["data_files"]
        for file in files
    }
    configs = [str(p.relative_to(repository)) for p in repository.glob("configs/**/*.yaml")]
    assert installed == {f"share/vrd_d2/{config}": config for config in configs}


def test_setup_installs_the_console_commands(repository: Path, setup_arguments: dict) -> None:
    found = dict(line.split(" = ") for line in setup_arguments["entry_points"]["console_scripts"])
    modules = {path.stem for path in (repository / "vrd_d2/commands").glob("*.py")}
    modules -= {"__init__", "arguments", "run_tool"}
    assert found == {f"vrd-{name}": f"vrd_d2.commands.{name}:main" for name in modules}


def test_setup_installs_every_file_of_the_package(repository: Path, setup_arguments: dict) -> None:
    patterns = setup_arguments["package_data"]["vrd_d2"]
    installed = {path for pattern in patterns for path in (repository / "vrd_d2").glob(pattern)}
    files = {path for path in repository.glob("vrd_d2/**/*.*") if "__pycache__" not in path.parts}
    left_out = {p for p in files - installed if p.suffix not in (".py", ".md") and p.is_file()}
    assert not left_out and repository / "vrd_d2/py.typed" in installed


def test_the_scene_generator_is_in_git_and_what_it_draws_is_not(repository: Path) -> None:
    if run("git", "-C", repository, "rev-parse").returncode:
        pytest.skip("not a git checkout")
    tracked = run("git", "-C", repository, "ls-files", "datasets/scene_generator").stdout.split()
    modules = (repository / "datasets/scene_generator").glob("*.py")
    assert set(tracked) == {str(path.relative_to(repository)) for path in modules}
    new = "datasets/scene_generator/new.py"
    assert run("git", "-C", repository, "check-ignore", "-q", new).returncode == 1
    assert run("git", "-C", repository, "check-ignore", "-q", "datasets/scenes/a").returncode == 0


@pytest.mark.parametrize("script", ["setup_environment.sh", "test.sh", "../.ci/run"])
def test_shell_scripts_parse(repository: Path, script: str) -> None:
    path = repository / "tools" / script
    assert run("bash", "-n", path).stderr == ""
    assert os.access(path, os.X_OK)


def test_set_up_without_a_fitting_python(checkout: Path) -> None:
    old = 'case "$1" in --version) echo "Python 3.8.1";; *) exit 1;; esac'
    for name in ("python3.11", "python3.12", "python3.13", "python3", "python"):
        fake_python(checkout / "bin" / name, old)
    path = f"{checkout / 'bin'}{os.pathsep}{os.environ['PATH']}"
    script = checkout / "tools/setup_environment.sh"

    result = run("bash", script, PATH=path, VIRTUAL_ENV=None, VRD_D2_PYTHON=None)
    assert result.returncode != 0
    assert "Python 3.8.1" in result.stderr and "VRD_D2_PYTHON" in result.stderr

    chosen = str(checkout / "bin/python3.12")
    result = run("bash", script, PATH=path, VIRTUAL_ENV=None, VRD_D2_PYTHON=chosen)
    assert result.returncode != 0 and f"VRD_D2_PYTHON={chosen}" in result.stderr
    assert not (checkout / ".venv").exists()


def test_set_up_in_an_active_environment_of_an_old_python(checkout: Path) -> None:
    fake_python(checkout / "env/bin/python", "exit 1")
    script = checkout / "tools/setup_environment.sh"
    result = run("bash", script, VIRTUAL_ENV=str(checkout / "env"))
    assert result.returncode != 0
    assert "env/bin/python" in result.stderr and "3.11" in result.stderr


def test_failed_install_says_what_to_do_and_leaves_no_stamp(checkout: Path) -> None:
    environment = checkout / "env"
    fake_python(environment / "bin/python", 'case "$*" in *"pip install"*) exit 1;; esac')
    script = checkout / "tools/setup_environment.sh"
    result = run("bash", script, VIRTUAL_ENV=str(environment))
    assert result.returncode != 0
    assert "setup.py" in result.stderr and "PIP_INDEX_URL" in result.stderr
    assert not (environment / ".vrd_d2_setup").exists()


def test_sourcing_puts_the_environment_first_and_stops_on_failure(checkout: Path) -> None:
    environment = checkout / "env"
    # A python for which everything succeeds: nothing is really installed.
    fake_python(environment / "bin/python", 'echo "$*" >>"$0.log"')
    caller = checkout / "caller.sh"
    caller.write_text(
        "set -euo pipefail\nsource tools/setup_environment.sh\n"
        'echo "$VRD_D2_ROOT"\ncommand -v python\npwd\n'
    )

    def call() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "caller.sh"],
            cwd=checkout,
            capture_output=True,
            text=True,
            env={**os.environ, "VIRTUAL_ENV": str(environment)},
        )

    expected = [str(checkout), str(environment / "bin/python"), str(checkout)]
    assert call().stdout.split() == expected
    log = environment / "bin/python.log"
    calls = log.read_text()
    assert "pip install" in calls
    # A second time nothing is run at all, until a requirement changes.
    assert call().stdout.split() == expected
    assert log.read_text() == calls
    with (checkout / "tools/requirements.txt").open("a") as file:
        file.write("one-more==1.0\n")
    call()
    assert len(log.read_text()) > len(calls)

    (environment / ".vrd_d2_setup").unlink()
    fake_python(environment / "bin/python", "exit 1")
    result = call()
    assert result.returncode != 0 and result.stdout == ""


def test_a_folder_of_the_same_name_does_not_hide_the_package(tmp_path):
    """As the checkout is one, seen from the folder that it lies in."""
    (tmp_path / "vrd_d2/vrd_d2").mkdir(parents=True)
    command = [sys.executable, "-c", "from vrd_d2 import SceneGraph"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
