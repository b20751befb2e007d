"""Results say which iteration they are of, so that none passes for the last one's."""

from vrd_d2.engine.trainer import Trainer
from vrd_d2.evaluation import relation_evaluator


def test_results_name_the_iteration_that_was_evaluated(make_cfg, monkeypatch):
    found = []
    monkeypatch.setattr(
        relation_evaluator, "write_json", lambda results, path: found.append(results["evaluated"])
    )
    for last, expected in ((3, [1, 2, 3]), (3, [3])):
        found.clear()
        cfg = make_cfg("relclip_predcls.yaml", "SOLVER.MAX_ITER", last, "TEST.EVAL_PERIOD", 1)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=True)
        trainer.train()
        assert found == [{"iteration": n, "max_iter": last} for n in expected]
    found.clear()
    Trainer.test(cfg, trainer.model)
    assert found == [{"weights": cfg.MODEL.WEIGHTS}]
