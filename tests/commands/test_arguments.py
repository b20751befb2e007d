"""Arguments alike in all tools: overrides at the end, and Detectron2's own options in training."""

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_argument_parser

from vrd_d2 import add_vrd_config
from vrd_d2.commands import demo, export, predict, train
from vrd_d2.commands.arguments import SECTIONS, TOP_KEYS, Parser, is_key


def predict_arguments(*rest):
    return predict.parse_arguments(["a.jpg", "--output", "out", "--weights", "m.pth", *rest])


def test_sections_are_those_of_the_config():
    cfg = get_cfg()
    add_vrd_config(cfg)
    assert set(SECTIONS) == {key for key, value in cfg.items() if isinstance(value, CfgNode)}
    assert set(TOP_KEYS) == set(cfg) - set(SECTIONS)

    def keys(node, section=""):
        for key, value in node.items():
            yield section + key
            if isinstance(value, CfgNode):
                yield from keys(value, f"{section}{key}.")

    assert all(is_key(key) for key in keys(cfg) if key not in SECTIONS)


@pytest.mark.parametrize("text", ["IMG_0001.JPG", "photo.jpg", "MODEL", "DSC.NEF", "a/MODEL.X", ""])
def test_names_of_files_are_no_keys(text):
    assert not is_key(text)


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["--config-file", "a.yaml", "--resume"],
        ["--eval-only", "--num-gpus", "2", "--num-machines", "3", "--machine-rank", "1"],
        ["--dist-url", "auto", "--config-file", "a.yaml", "MODEL.WEIGHTS", "m.pth", "SEED", "3"],
        ["SOLVER.BASE_LR", "-0.1", "OUTPUT_DIR", "--resume"],
    ],
)
def test_training_takes_what_detectron2_takes(command):
    assert vars(train.parse_arguments(command)) == vars(
        default_argument_parser().parse_args(command)
    )


@pytest.mark.parametrize(
    "options", [["--resume"], ["--num-gpus", "2"], ["--resume", "--num-gpus", "2", "--eval-only"]]
)
def test_options_may_stand_behind_overrides(options):
    command = ["--config-file", "a.yaml", "SOLVER.MAX_ITER", "20", "SOLVER.BASE_LR", "0.01"]
    behind = train.parse_arguments([*command, *options])
    assert vars(behind) == vars(train.parse_arguments([*options, *command]))
    assert behind.opts == command[2:]


def test_overrides_stand_behind_an_option_with_several_values():
    command = ["--weights", "m.pth", "--output", "o", "--results", "a.json", "b.json"]
    args = export.parse_arguments([*command, "MODEL.DEVICE", "cpu", "SEED", "1"])
    assert args.opts == ["MODEL.DEVICE", "cpu", "SEED", "1"]
    assert [path.name for path in args.results] == ["a.json", "b.json"]


def test_overrides_of_predictions_follow_the_inputs():
    args = predict_arguments("--predicates", "on", "MODEL.RCL.ETA", "-0.5", "INPUT.FORMAT", "BGR")
    assert args.opts == ["MODEL.RCL.ETA", "-0.5", "INPUT.FORMAT", "BGR"]
    assert (args.inputs, args.predicates) == (["a.jpg"], ["on"])
    assert predict_arguments().opts == []
    inputs = ["IMG_1.JPG", "IMG_2.JPG", "IMG_3.JPG", "--output", "o", "--weights", "m.pth"]
    assert predict.parse_arguments(inputs).inputs == inputs[:3]


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (["MODEL.DEVICE"], ["MODEL.DEVICE", "no value"]),
        (["MODEL.DEVICE", "cpu", "SEED"], ["SEED", "no value"]),
        (["TEST.JPG", "cpu"], ["TEST.JPG", "./TEST.JPG"]),
    ],
)
def test_ambiguous_overrides_are_errors(tmp_path, monkeypatch, capsys, command, names):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "TEST.JPG").touch()
    with pytest.raises(SystemExit) as stopped:
        predict_arguments(*command)
    error = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 1 and all(name in error for name in names)


def test_overrides_among_the_inputs_are_errors(capsys):
    with pytest.raises(SystemExit):
        predict.parse_arguments(["MODEL.DEVICE", "cpu", "a.jpg", "--output", "o", "--weights", "m"])
    assert "MODEL.DEVICE" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("module", [predict, export, demo])
def test_the_former_option_still_works(module, capsys):
    commands = {
        predict: ["a.jpg", "--output", "out", "--weights", "m.pth"],
        export: ["--weights", "m.pth", "--output", "out"],
        demo: ["--port", "80"],
    }
    new, old = (
        module.parse_arguments([*commands[module], *option, "MODEL.DEVICE", "cpu"])
        for option in ([], ["--opts"])
    )
    assert old == new and new.opts == ["MODEL.DEVICE", "cpu"]
    assert "--opts" in capsys.readouterr().err


def test_a_parser_without_overrides_takes_none(capsys):
    parser = Parser(prog="tool")
    parser.add_argument("file")
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(["a", "MODEL.DEVICE", "cpu"])
    assert stopped.value.code == 1 and "MODEL.DEVICE" in capsys.readouterr().err
