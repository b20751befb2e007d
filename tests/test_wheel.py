"""A wheel of the checkout, installed with pip into a new environment, works from any folder."""

import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def environment(repository, tmp_path_factory) -> Path:
    """A new environment with the wheel, and the other packages of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy, as an earlier build in the checkout may hold modules that are no more.
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("vrd_d2", "configs"):
        shutil.copytree(repository / name, source / name, ignore=ignored)
    for name in ("setup.py", "README.md"):
        shutil.copy(repository / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-qq"]
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]
    made = folder / "wheels"
    subprocess.run([*pip, "wheel", *offline, "-w", made, source], check=True)
    shutil.rmtree(source)
    (wheel,) = made.glob("vrd_d2-*.whl")

    venv.create(folder / "env", with_pip=False)
    python = folder / "env/bin/python"
    subprocess.run([*pip, "--python", python, "install", *offline, wheel], check=True)
    (packages,) = (folder / "env/lib").glob("python*/site-packages")
    # Behind its own, so that the wheel is found before an editable install.
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return folder / "env"


@pytest.fixture
def run(environment, tmp_path):
    """(command, arguments...) -> the finished process, in an empty folder."""
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    folder = tmp_path / "empty"
    folder.mkdir()

    def call(command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(environment / "bin" / command), *map(str, arguments)],
            cwd=folder,
            env=variables,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return call


@pytest.mark.parametrize("name", ["train", "predict", "evaluate", "dataset", "export", "demo"])
def test_console_commands(run, name):
    done = run(f"vrd-{name}", "--help")
    assert done.returncode == 0 and done.stdout.startswith(f"usage: vrd-{name}"), done.stderr


def test_training_finds_the_configs(run):
    """No dataset is there: the run ends with its remedy, after the config has been read."""
    done = run("vrd-train", "--config-file", "configs/quickstart/relclip_predcls.yaml")
    assert done.returncode == 1 and "prepare_scenes.py" in done.stderr, done.stderr


def test_a_command_on_a_file(run, tiny_json):
    done = run("vrd-dataset", "check", tiny_json, "--workers", 0)
    assert done.returncode == 0 and "5 images, 0 errors" in done.stdout, done.stderr


def test_modules_assets_and_configs_are_those_of_the_wheel(run, environment, tmp_path):
    """The config is found by its name in the checkout, as a file and as the base of another."""
    mine = tmp_path / "empty/mine.yaml"
    mine.write_text("_BASE_: configs/quickstart/relclip_predcls.yaml\nSEED: 7\n")
    code = f"""
from pathlib import Path
import vrd_d2
from vrd_d2 import assets
from vrd_d2.config.loading import load_config
root = Path({str(environment)!r}).resolve()
package = Path(vrd_d2.__file__).resolve().parent
assert package.is_relative_to(root), package
assert (package / "py.typed").is_file() and assets.checkout() is None
for name in ("graph_page.html", "scenes_clip.safetensors", "scenes_faster_rcnn.pth"):
    assert assets.path(name).stat().st_size
assert assets.config_path("configs/relclip_sgdet.yaml").resolve().is_relative_to(root)
assert vrd_d2.get_vocabulary("vg150").objects
cfg = load_config("configs/quickstart/relclip_predcls.yaml")
assert cfg.MODEL.META_ARCHITECTURE == "RelCLIP"
mine = load_config("mine.yaml")
assert mine.SEED == 7 and mine.MODEL.CLIP.NAME == cfg.MODEL.CLIP.NAME == "scenes_clip"
"""
    done = run("python", "-W", "ignore", "-c", code)
    assert done.returncode == 0, done.stderr
