"""Evaluation in the course of a training: evaluators that fail are told, and end nothing."""

import logging
from pathlib import Path

import pytest
import torch
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.utils import comm

from vrd_d2.commands import train as command
from vrd_d2.engine.evaluation import guarded
from vrd_d2.engine.trainer import Trainer
from vrd_d2.evaluation import RelationEvaluator


class Fixed(DatasetEvaluator):
    """Gives a number, or fails where it is told to."""

    def __init__(self, folder, name="fixed", fails=()):
        self.name, self.fails = name, fails
        self.results_files = [Path(folder) / f"{name}.json"]

    def reset(self):
        self._check("reset")

    def process(self, inputs, outputs):
        self._check("process")

    def finish(self):
        self._check("finish")

    def evaluate(self):
        self._check("evaluate")
        self.results_files[0].write_text("1")
        return {self.name: {"score": "no number" if "value" in self.fails else 1.0}}

    def _check(self, where):
        if where in self.fails:
            raise KeyError("iscrowd\nand more")


@pytest.mark.parametrize("where", ["reset", "process", "finish", "evaluate", "value"])
def test_a_failure_leaves_out_the_results_of_one_evaluator(tmp_path, where):
    evaluators = [Fixed(tmp_path), Fixed(tmp_path, "broken", (where,))]
    (tmp_path / "broken.json").write_text("of an earlier evaluation")
    guards = guarded(lambda: DatasetEvaluators(evaluators))
    both = DatasetEvaluators(guards)
    both.reset()
    both.process([{}], [{}])
    assert both.evaluate() == {"fixed": {"score": 1.0}}
    assert guards[0].failure is None and "\n" not in guards[1].failure
    assert ("could not convert" if where == "value" else "KeyError: 'iscrowd") in guards[1].failure
    assert [path.name for path in tmp_path.iterdir()] == ["fixed.json"]
    evaluators[1].fails = ()
    both.reset()
    assert set(both.evaluate()) == {"fixed", "broken"} and guards[1].failure is None


def test_evaluators_that_cannot_be_built():
    def build():
        raise ValueError("dataset 'x' holds image_id 1 twice")

    (guard,) = guarded(build)
    guard.reset()
    guard.process([{}], [{}])
    assert guard.evaluate() == {} and "image_id 1 twice" in guard.failure


def test_a_process_does_not_wait_for_figures_of_one_that_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(comm, "all_gather", lambda found: [found, "Fixed failed (in another)"])
    evaluator = Fixed(tmp_path)
    (guard,) = guarded(lambda: evaluator)
    guard.reset()
    guard.process([{}], [{}])
    assert guard.evaluate() == {} and "in another" in guard.failure
    assert not evaluator.results_files[0].exists()  # it was not asked


@pytest.fixture
def failing(monkeypatch):
    """Make the relation evaluator fail at some of its evaluations, counted from 0."""

    def start(*numbers):
        original = RelationEvaluator.evaluate
        calls = iter(range(100))

        def evaluate(self):
            if next(calls) in numbers:
                raise KeyError("iscrowd")
            return original(self)

        monkeypatch.setattr(RelationEvaluator, "evaluate", evaluate)

    return start


def test_a_training_goes_on_and_takes_no_earlier_figure(make_cfg, failing, caplog):
    cfg = make_cfg("relclip_predcls.yaml", "SOLVER.MAX_ITER", 4, "TEST.EVAL_PERIOD", 1,
                   "TEST.BEST_METRIC", "relations/R@20")  # fmt: skip
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir()
    failing(1, 3)
    trainer = Trainer(cfg)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert (folder / "model_final.pth").is_file()
    history = trainer.storage.history("relations/R@20").values()
    assert [round(iteration) for _, iteration in history] == [0, 2]
    told = [r.getMessage() for r in caplog.records if "RelationEvaluator failed" in r.getMessage()]
    assert len(told) == 2 and all(text.count("\n") == 0 for text in told)
    assert "iteration 2" in told[0] and cfg.DATASETS.TEST[0] in told[0] and "iscrowd" in told[0]
    stale = [r.getMessage() for r in caplog.records if "BEST_METRIC" in r.getMessage()]
    assert ["at iteration 1:" in stale[0], "at iteration 4:" in stale[1]] == [True, True]
    best = torch.load(folder / "model_best.pth", weights_only=True)["iteration"]
    assert best in (0, 2)
    assert len(trainer.failed_evaluators) == 1
    assert not list(folder.glob("inference/*/relations_*.json"))


@pytest.mark.parametrize(("fails", "code"), [((0,), None), ((1,), 2)])
def test_the_exit_code_is_that_of_the_last_evaluation(
    make_cfg, failing, tmp_path, monkeypatch, fails, code
):
    cfg = make_cfg("relclip_predcls.yaml", "SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 1)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    monkeypatch.setattr("vrd_d2.engine.run_setup.set_up_run", lambda cfg, args: None)
    Path(cfg.OUTPUT_DIR).mkdir()
    failing(*fails)
    arguments = ["--config-file", str(tmp_path / "config.yaml")]
    assert command.train(command.parse_arguments(arguments)) == code


def test_eval_only_ends_with_the_error(make_cfg, failing, tmp_path, monkeypatch):
    cfg = make_cfg("relclip_predcls.yaml")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    monkeypatch.setattr("vrd_d2.engine.run_setup.set_up_run", lambda cfg, args: None)
    monkeypatch.setattr("vrd_d2.engine.build.build_trained_model", Trainer.build_model)
    failing(0)
    arguments = ["--config-file", str(tmp_path / "config.yaml"), "--eval-only"]
    with pytest.raises(KeyError, match="iscrowd"):
        command.train(command.parse_arguments(arguments))


def test_expected_results_that_are_missing_are_not_as_expected(make_cfg, failing):
    expected = [["relations", "R@20", 50.0, 100.0]]
    cfg = make_cfg("relclip_predcls.yaml", "SOLVER.MAX_ITER", 1, "TEST.EXPECTED_RESULTS", expected)
    Path(cfg.OUTPUT_DIR).mkdir()
    failing(0)
    with pytest.raises(SystemExit):
        Trainer(cfg).train()


def test_a_test_set_that_is_named_twice_ends_no_training(make_cfg):
    cfg = make_cfg("relclip_predcls.yaml", "SOLVER.MAX_ITER", 1)
    cfg.DATASETS.TEST = cfg.DATASETS.TEST * 2
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert trainer._last_eval_results and not trainer.failed_evaluators
