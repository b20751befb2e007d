"""Import paths of version 0.1: each still works, and its warning names the new one."""

import importlib
import warnings

import pytest

from vrd_d2 import moved

OLD_MODULES = {
    "vrd_d2.config_files": ["load_config", "load_inference_config"],
    "vrd_d2.data.builtin": ["register_builtin_datasets", "register_user_datasets"],
    "vrd_d2.data.knowledge_base": ["KnowledgeBase", "merge"],
    "vrd_d2.data.mapper": ["RelationMapper"],
    "vrd_d2.data.relations_json": [
        "load_relations_json",
        "register_relations_json",
        "save_relations_json",
        "validate_relations_json",
    ],
    "vrd_d2.data.visual_genome": ["load_visual_genome_raw"],
    "vrd_d2.data.visual_genome_h5": ["load_visual_genome_h5"],
    "vrd_d2.heat_map": ["draw_heat_map"],
    "vrd_d2.predictor": ["Predictor"],
}
# Names of modules that are packages now.
OLD_NAMES = {
    "vrd_d2.checkpoint": ["load_weights", "read_stamp", "SafeCheckpointer"],
    "vrd_d2.engine": ["load_detector"],
    "vrd_d2.evaluation": ["evaluate_picture"],
    "vrd_d2.media": ["read_picture", "read_frames", "Frame", "MAX_PIXELS"],
    "vrd_d2.visualization": [
        "draw_ground_truth",
        "draw_predictions",
        "draw_scene_graph",
        "save_image",
    ],
}
# Paths that stay.
SAME = {
    "vrd_d2": ["Predictor", "SceneGraph", "add_vrd_config", "get_vocabulary", "load_config"],
    "vrd_d2.config": ["add_vrd_config"],
    "vrd_d2.data.vocabulary": ["Vocabulary", "get_vocabulary"],
    "vrd_d2.engine": ["Trainer", "build_mapper", "build_trained_model"],
    "vrd_d2.evaluation": ["RelationEvaluator", "evaluate_files"],
    "vrd_d2.export": ["describe", "exportable", "model_card", "write_model", "FILES", "PARTS"],
    "vrd_d2.modeling": ["RelCLIP", "UnionCLIP", "FrequencyBaseline", "RelationModel", "CLIPViT"],
    "vrd_d2.onnx_runtime": ["OnnxPredictor"],
}


def rows(table: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(module, name) for module, names in table.items() for name in names]


def test_every_entry_of_the_table_is_tested_here():
    assert set(moved.MODULES) == set(OLD_MODULES)
    assert set(moved.NAMES) == set(OLD_NAMES)


@pytest.mark.parametrize(("module", "name"), rows(OLD_MODULES))
def test_old_modules_have_their_names(module, name, monkeypatch):
    monkeypatch.delitem(importlib.sys.modules, module, raising=False)
    with pytest.warns(DeprecationWarning) as caught:
        exec(f"from {module} import {name} as found", scope := {})
    (warning,) = (w for w in caught if module in str(w.message))
    new = moved.MODULES[module]
    assert new[0] in str(warning.message) and warning.filename == "<string>"
    assert scope["found"].__name__ == name
    assert any(getattr(importlib.import_module(home), name, None) is scope["found"] for home in new)


@pytest.mark.parametrize(("package", "name"), rows(OLD_NAMES))
def test_old_names_of_packages(package, name):
    with pytest.warns(DeprecationWarning) as caught:
        exec(f"from {package} import {name} as found", scope := {})
    messages = [w for w in caught if f"{package}.{name}" in str(w.message)]
    new = moved.NAMES[package][name]
    assert messages and new in str(messages[0].message)
    home, _, new_name = new.rpartition(".")
    assert scope["found"] is getattr(importlib.import_module(home), new_name)


@pytest.mark.parametrize("package", moved.NAMES)
def test_every_new_place_exists(package):
    for new in moved.NAMES[package].values():
        home, _, name = new.rpartition(".")
        assert hasattr(importlib.import_module(home), name), new


@pytest.mark.parametrize(("module", "name"), rows(SAME))
def test_paths_that_stay_give_no_warning(module, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        assert getattr(importlib.import_module(module), name) is not None


def test_names_that_never_were_are_errors():
    with pytest.raises(ImportError, match="nothing_of_this_name"):
        exec("from vrd_d2.media import nothing_of_this_name")
    with pytest.raises(ModuleNotFoundError, match=r"vrd_d2\.nothing_of_this_name"):
        importlib.import_module("vrd_d2.nothing_of_this_name")
    with pytest.warns(DeprecationWarning):
        old = importlib.reload(importlib.import_module("vrd_d2.predictor"))
    assert not hasattr(old, "nothing_of_this_name")
