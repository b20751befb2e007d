"""Values of a config that libraries refuse: one error with the key's value."""

import pytest

from vrd_d2.config.loading import load_config
from vrd_d2.engine.build import build_trained_model, library_checks
from vrd_d2.engine.trainer import Trainer

CONFIG = "configs/quickstart/relclip_predcls.yaml"


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("MODEL.META_ARCHITECTURE", "Nothing", "Nothing"),
        ("MODEL.TEXT.ENTITY_PROMPTS", "[]", r"MODEL\.TEXT"),
    ],
)
def test_a_value_that_no_model_can_be_built_from(key: str, value: str, part: str) -> None:
    cfg = load_config(CONFIG, [key, value])
    with pytest.raises(ValueError, match=part):
        build_trained_model(cfg)


def test_the_trainer_names_it_too(tmp_path) -> None:
    cfg = load_config(CONFIG, ["MODEL.META_ARCHITECTURE", "Nothing", "OUTPUT_DIR", str(tmp_path)])
    cfg.DATASETS.REGISTER, cfg.DATASETS.TEST = [], ()
    with pytest.raises(ValueError, match="Nothing"):
        Trainer(cfg)


def test_errors_of_this_package_and_of_the_machine_pass() -> None:
    cfg = load_config(CONFIG)
    with pytest.raises(TypeError), library_checks(cfg):
        load_config(5)
    for error in (RuntimeError("can't allocate memory"), OSError("full"), MemoryError()):
        with pytest.raises(type(error)) as raised, library_checks(cfg):
            raise error
        assert raised.value is error
