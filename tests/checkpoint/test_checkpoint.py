"""Checkpoints say what they are; what is of another kind, or holds code, is refused."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.engine import DefaultTrainer
from safetensors.torch import save_file

from vrd_d2.checkpoint.checkpointer import SafeCheckpointer, load_weights
from vrd_d2.checkpoint.stamp import Stamp, check_stamp, of_other_names, stamp_of
from vrd_d2.config import load_inference_config
from vrd_d2.config.fingerprint import earlier_config
from vrd_d2.data.formats.relations_json import load_relations_json, save_relations_json
from vrd_d2.data.vocabulary import Vocabulary, get_vocabulary
from vrd_d2.engine.build import build_trained_model
from vrd_d2.engine.trainer import Trainer
from vrd_d2.version import __version__


class Payload:
    """Pickled, it touches a file when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def save(cfg, folder: Path, name: str = "model") -> Path:
    """A checkpoint as the trainer writes it, of random weights."""
    model = DefaultTrainer.build_model(cfg)
    SafeCheckpointer(model, str(folder), vrd_d2=Stamp(cfg)).save(name)
    return folder / f"{name}.pth"


def test_the_trainer_stamps_its_checkpoints(make_cfg) -> None:
    cfg = make_cfg("relclip_predcls.yaml", "SOLVER.MAX_ITER", 1, "SOLVER.CHECKPOINT_PERIOD", 1)
    Path(cfg.OUTPUT_DIR).mkdir()
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    path = Path(cfg.OUTPUT_DIR) / "model_final.pth"
    stamp = torch.load(path, weights_only=True)["vrd_d2"]
    vocabulary = get_vocabulary(cfg.MODEL.VOCABULARY)
    assert stamp["version"] == __version__
    assert stamp["objects"] == list(vocabulary.objects)
    assert stamp["predicates"] == list(vocabulary.predicates)
    assert (stamp["meta_architecture"], stamp["task"]) == ("RelCLIP", "predcls")
    assert stamp["image_encoder"] == "small_clip"
    assert "ATTENTION_HEADS" in stamp["config"]
    build_trained_model(make_cfg("relclip_predcls.yaml", "MODEL.WEIGHTS", str(path)))
    # It goes on from there, but not as another model.
    more = make_cfg("relclip_predcls.yaml", "SOLVER.MAX_ITER", 2)
    resumed = Trainer(more)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 1


@pytest.fixture
def other_words(tiny_json: Path, tmp_path: Path) -> str:
    """The same data, with one predicate of another name: every shape is the same."""
    vocabulary = get_vocabulary(tiny_json)
    renamed = Vocabulary(vocabulary.objects, ("on", "holding", "behind", "next to"))
    path = tmp_path / "renamed.json"
    records = load_relations_json(tiny_json)
    save_relations_json(records, renamed, path, image_root=tiny_json.parent)
    return str(path)


def test_another_vocabulary_of_the_same_size_is_refused(
    make_cfg, tmp_path: Path, other_words: str
) -> None:
    path = save(make_cfg("relclip_predcls.yaml"), tmp_path)
    cfg = make_cfg("relclip_predcls.yaml", "MODEL.WEIGHTS", str(path))
    build_trained_model(cfg)
    cfg.MODEL.VOCABULARY = other_words
    with pytest.raises(ValueError, match=r"predicates.*MODEL\.VOCABULARY.*2.*wearing.*behind"):
        build_trained_model(cfg)


def started(cfg, caplog):
    """A trainer of new weights, on which MODEL.WEIGHTS are loaded, and the warnings of that."""
    trainer = Trainer(cfg)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    caplog.clear()
    trainer.resume_or_load(resume=False)
    after = trainer.model.state_dict()
    lines = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    return {name for name in after if torch.equal(after[name], before[name])}, lines


def test_a_classifier_of_other_names_is_not_where_training_starts_from(
    make_cfg, tmp_path: Path, tiny_json: Path, other_words: str, caplog
) -> None:
    """It is left out with a warning, as one of another number of names."""
    prior = ("MODEL.PREDICATE_PRIOR.FREQUENCY_BIAS", True)
    torch.manual_seed(0)
    path = save(make_cfg("relclip_sgcls.yaml", *prior), tmp_path)
    cfg = make_cfg("relclip_sgcls.yaml", *prior, "MODEL.WEIGHTS", str(path))
    cfg.OUTPUT_DIR = str(tmp_path / "new")
    same, lines = started(cfg, caplog)
    assert "head.predictor.predicates.weight" not in same and not lines
    cfg.MODEL.VOCABULARY = other_words
    cfg.DATASETS.REGISTER = [["words", other_words, str(tiny_json.parent)]]
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("words",)
    same, lines = started(cfg, caplog)
    assert {"head.predictor.predicates.weight", "head.predictor.predicates.bias"} <= {
        *same,
        "head.predictor.predicates.bias",  # zeros in both
    }
    assert "head.predictor.classes.weight" not in same  # the names of objects are the same
    assert "head.features.relations.fc_visual.weight" not in same
    (line,) = (line for line in lines if "predicates" in line and "other" in line)
    for part in ("2", "'wearing'", "'behind'", "MODEL.VOCABULARY", "head.predictor.predicates"):
        assert part in line


def test_a_detector_starts_without_the_classifier_of_other_names(make_cfg, caplog) -> None:
    expected = stamp_of(make_cfg("faster_rcnn_vg.yaml"))
    weights = {
        "roi_heads.box_predictor.cls_score.weight": torch.ones(4, 8),
        "backbone.conv.weight": torch.ones(3, 8),
    }
    left_out, why = of_other_names(
        weights, {**expected, "objects": ["man", "cat", "hat"]}, expected
    )
    assert left_out == ["roi_heads.box_predictor.cls_score.weight"] and "'cat'" in why
    assert of_other_names(weights, expected, expected) == ([], "")


def test_a_head_of_one_s_own_has_rows_of_names_in_its_predictor(make_cfg) -> None:
    expected = stamp_of(make_cfg("relclip_predcls.yaml"))
    weights = {
        "head.predictor.mine": torch.ones(5, 7),  # four predicates and background
        "head.predictor.scale": torch.ones(7),
        "head.context.weight": torch.ones(5, 5),
    }
    stored = {**expected, "predicates": ["on", "holding", "behind", "next to"]}
    assert of_other_names(weights, stored, expected)[0] == ["head.predictor.mine"]


def test_weights_that_do_not_say_their_names_are_taken_with_a_warning(
    make_cfg, tmp_path: Path, caplog
) -> None:
    cfg = make_cfg("relclip_predcls.yaml", "MODEL.WEIGHTS", str(tmp_path / "bare.pth"))
    torch.save({"model": DefaultTrainer.build_model(cfg).state_dict()}, tmp_path / "bare.pth")
    same, lines = started(cfg, caplog)
    assert "head.predictor.predicates.weight" not in same
    (line,) = lines
    assert "MODEL.VOCABULARY" in line and "head.predictor.predicates.weight" in line


@pytest.mark.parametrize("start", [False, True])
def test_one_sentence_for_a_file_that_is_not_there(make_cfg, tmp_path: Path, start: bool) -> None:
    cfg = make_cfg("relclip_predcls.yaml", "MODEL.WEIGHTS", "/nowhere/x.pth")
    with pytest.raises(ValueError, match=r"^there is no weights file /nowhere/x\.pth$"):
        Trainer(cfg).resume_or_load(resume=False) if start else build_trained_model(cfg)
    for name in ("model.onnx", "torn.pth"):
        (tmp_path / name).write_bytes(b"torn")
        cfg.MODEL.WEIGHTS = str(tmp_path / name)
        with pytest.raises(ValueError, match=name):
            Trainer(cfg).resume_or_load(resume=False) if start else build_trained_model(cfg)


def test_resuming_with_other_names_is_refused(make_cfg, tiny_json: Path, other_words: str) -> None:
    cfg = make_cfg("relclip_predcls.yaml", "SOLVER.MAX_ITER", 1)
    Path(cfg.OUTPUT_DIR).mkdir()
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    cfg.MODEL.VOCABULARY = other_words
    cfg.DATASETS.REGISTER = [["others", other_words, str(tiny_json.parent)]]
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("others",)
    with pytest.raises(ValueError, match=r"model_final\.pth: .*predicates.*'wearing' and 'behind'"):
        Trainer(cfg).resume_or_load(resume=True)
    cfg = make_cfg("relclip_predcls.yaml", "MODEL.RELATION_HEAD.DIM", 16)
    with pytest.raises(ValueError, match=r"model_final\.pth: .*does not fit"):
        Trainer(cfg).resume_or_load(resume=True)


def test_another_detector_vocabulary_is_refused(make_cfg, tmp_path: Path) -> None:
    stamp = stamp_of(make_cfg("faster_rcnn_vg.yaml"))
    assert "predicates" not in stamp and "task" not in stamp
    expected = stamp_of(make_cfg("relclip_sgdet.yaml"), part="detector")
    check_stamp(stamp, expected)
    with pytest.raises(ValueError, match=r"objects.*MODEL\.VOCABULARY.*1"):
        check_stamp({**stamp, "objects": ["man", "cat", "hat"]}, expected)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("meta_architecture", "UnionCLIP", r"UnionCLIP.*MODEL\.META_ARCHITECTURE"),
        ("image_encoder", "ViT-B-32", r"ViT-B-32.*MODEL\.CLIP\.NAME"),
        ("objects", ["man"], r"MODEL\.VOCABULARY.*1.*3.*dog"),
    ],
)
def test_the_first_difference_is_named(make_cfg, key: str, value: object, message: str) -> None:
    stamp = stamp_of(make_cfg("relclip_predcls.yaml"))
    check_stamp(stamp, stamp)
    with pytest.raises(ValueError, match=message):
        check_stamp({**stamp, key: value}, stamp)


def test_another_task_is_named_as_the_reason(make_cfg, tmp_path: Path) -> None:
    path = save(make_cfg("relclip_sgcls.yaml"), tmp_path)
    cfg = make_cfg("relclip_predcls.yaml", "MODEL.WEIGHTS", str(path))
    with pytest.raises(ValueError, match=r"sgcls.*MODEL\.RELATION\.TASK.*predcls"):
        build_trained_model(cfg)


def test_checkpoints_without_a_stamp_and_safetensors_load(make_cfg, tmp_path: Path) -> None:
    cfg = make_cfg("relclip_predcls.yaml")
    model = DefaultTrainer.build_model(cfg)
    weights = {name: value.clone().contiguous() for name, value in model.state_dict().items()}
    torch.save({"model": weights}, tmp_path / "old.pth")
    save_file(weights, tmp_path / "new.safetensors")
    for name in ("old.pth", "new.safetensors"):
        other = DefaultTrainer.build_model(cfg)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.fill_(7)
        load_weights(other, str(tmp_path / name), expected=stamp_of(cfg))
        for key, value in other.state_dict().items():
            torch.testing.assert_close(value, weights[key])


@pytest.mark.parametrize("name", ["model.pth", "model.pkl", "plain.pth", "model.pyth"])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "it_ran"
    content = {"model": {}, "model_state": {}, "__author__": "me", "extra": Payload(victim)}
    path = tmp_path / name
    if name.startswith("model.pt") or name.endswith(".pyth"):
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    for load in (
        lambda: load_weights(torch.nn.Linear(2, 2), str(path)),
        lambda: SafeCheckpointer(torch.nn.Linear(2, 2)).load(str(path)),
    ):
        with pytest.raises(ValueError, match="code"):
            load()
    assert not victim.exists()
    pickle.loads(pickle.dumps(content))
    assert victim.exists(), "the payload is none, and the test shows nothing"


def test_a_pickle_of_arrays_is_still_read(tmp_path: Path) -> None:
    """The form of Detectron2's model zoo."""
    weights = {"weight": np.full((2, 2), 3, np.float32), "bias": np.ones(2, np.float32)}
    path = tmp_path / "zoo.pkl"
    path.write_bytes(pickle.dumps({"model": weights, "__author__": "zoo"}, protocol=2))
    model = torch.nn.Linear(2, 2)
    load_weights(model, str(path))
    assert (model.weight == 3).all()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("cut.pth", b"PK\x03\x04 cut short", ""),
        ("empty.pth", b"", ""),
        ("text.pth", b"hello world\n", ""),
        ("image.pth", b"GIF89a", ""),
        ("numbers.pkl", pickle.dumps({1: 5}), "names"),
        ("numbers.pth", {"model": {1: torch.zeros(1)}}, "names"),
        ("empty.safetensors", b"", ""),
        ("cut.safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00{", ""),
        ("list.pkl", pickle.dumps([1, 2]), "list"),
        ("number.pkl", pickle.dumps({"blobs": 5}), "int"),
        ("list.pth", [1, 2], "list"),
        ("bare.pth", torch.zeros(2), "Tensor"),
        ("number.pth", {"model": 5}, "int"),
        ("stamp.pth", {"model": {}, "vrd_d2": 5}, "'vrd_d2'.*5"),
    ],
)
def test_a_file_that_holds_no_weights_is_named(
    tmp_path: Path, name: str, content: object, reason: str
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=f"{name}: .*{reason}"):
        load_weights(torch.nn.Linear(2, 2), str(path))


def test_a_checkpoint_of_an_earlier_version_brings_its_config(make_cfg, tmp_path: Path) -> None:
    """Its stamp has the keys of then."""
    cfg = make_cfg("relclip_predcls.yaml", "MODEL.RELATION_HEAD.DIM", 24)
    model = DefaultTrainer.build_model(cfg)
    stamp = Stamp(cfg)
    stamp.content["config"] = earlier_config(cfg).dump()
    assert "RELATION_HEAD" not in stamp.content["config"]
    SafeCheckpointer(model, str(tmp_path), vrd_d2=stamp).save("model")
    found = load_inference_config(tmp_path / "model.pth", "", ["MODEL.DEVICE", "cpu"])
    assert found.MODEL.RELATION_HEAD.DIM == 24
    loaded = build_trained_model(found)
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)
    stamp.content["config"] = "MODEL: {NOSUCH: 1}"
    SafeCheckpointer(model, str(tmp_path), vrd_d2=stamp).save("other")
    with pytest.raises(ValueError, match=r"other\.pth.*NOSUCH.*YAML"):
        load_inference_config(tmp_path / "other.pth")


@pytest.mark.parametrize("size", [0, 10, 700, 1500, 5000])
def test_a_cut_file_is_named(tmp_path, size):
    """Torch reads on in front of a short one, which is an OSError without a name."""
    model = torch.nn.Linear(100, 20)
    torch.save({"model": model.state_dict()}, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:size])
    with pytest.raises(ValueError, match=r"cut\.pth: .*broken or no checkpoint"):
        load_weights(model, str(tmp_path / "cut.pth"))
