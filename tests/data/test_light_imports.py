"""The data modules load without torch, Detectron2, open_clip, transformers and matplotlib."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from relations_document import DOCUMENT, write

HEAVY = ("torch", "torchvision", "detectron2", "open_clip", "transformers", "matplotlib", "h5py")
# What hands data to torch or to Detectron2's catalogs.
WITH_TORCH = {"build", "dataset_mapper", "samplers", "datasets.registrar", "datasets.setup"}
# Without the package's __init__, whose imports are tested elsewhere.
LIGHT = """
import sys, types
package = types.ModuleType("vrd_d2")
package.__path__ = [{folder!r}]
sys.modules["vrd_d2"] = package
{code}
heavy = [name for name in {heavy} if name in sys.modules]
assert not heavy, heavy
"""


def run_light(repository: Path, code: str) -> str:
    """Run code in a process of its own; it fails if the code imports something heavy."""
    script = LIGHT.format(folder=str(repository / "vrd_d2"), code=code, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def module_names(repository: Path) -> list[str]:
    root = repository / "vrd_d2" / "data"
    paths = (path.relative_to(root).with_suffix("") for path in root.rglob("*.py"))
    return sorted(".".join(path.parts) for path in paths if path.name != "__init__")


def test_data_modules_load_without_heavy_packages(repository):
    names = module_names(repository)
    assert set(names) >= WITH_TORCH and len(names) > 40
    modules = [f"vrd_d2.data.{name}" for name in names if name not in WITH_TORCH]
    run_light(repository, f"import importlib\nfor m in {modules}: importlib.import_module(m)")


def test_the_test_sees_what_is_heavy(repository):
    with pytest.raises(AssertionError, match="torch"):
        run_light(repository, "import vrd_d2.data.samplers")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_file_is_read_checked_counted_and_written_without_them(repository, tmp_path):
    path = write(tmp_path, DOCUMENT)
    code = f"""
from vrd_d2.data.analysis.splits import split_indices, zero_shot_names
from vrd_d2.data.analysis.statistics import dataset_statistics
from vrd_d2.data.datasets.builtin import builtin_names
from vrd_d2.data.formats.relations_json import (
    load_relations_json, read_packed, save_relations_json, validate_relations_json)
from vrd_d2.data.vocabulary import get_vocabulary
path = {str(path)!r}
assert not [text for text in validate_relations_json(path) if text.startswith("error")]
names = get_vocabulary(path)
dicts = load_relations_json(path)
packed, metadata = read_packed(path, {str(tmp_path)!r})
counted = dataset_statistics(
    packed, num_classes=len(names.objects), num_predicates=len(names.predicates))
save_relations_json(dicts, names, path + ".copy")
assert split_indices(len(dicts), {{"test": 1}}, rest="train")["test"].size == 1
assert not zero_shot_names(dicts, dicts, names)
assert "vg_sgg_train" in builtin_names()
lines = open("/proc/self/status").read().splitlines()
peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
print(counted.images, peak // 1024)
"""
    images, megabytes = map(int, run_light(repository, code).split())
    assert images == len(DOCUMENT["images"])
    assert megabytes < 150
    assert json.loads((tmp_path / f"{path.name}.copy").read_text())["images"]


def test_a_built_in_dataset_loads_without_the_catalog(repository, tmp_path):
    (tmp_path / "vrd").mkdir()
    row = {"category": 0, "bbox": [1, 5, 1, 5]}
    relation = {"subject": row, "predicate": 1, "object": {**row, "category": 6}}
    (tmp_path / "vrd/annotations_test.json").write_text(json.dumps({"a.jpg": [relation]}))
    code = f"""
from vrd_d2.data.datasets.opening import open_dataset
(record,) = open_dataset("vrd_test", root={str(tmp_path)!r}).records
print(record["relations"].tolist())
"""
    assert run_light(repository, code).strip() == "[[0, 1, 1]]"
