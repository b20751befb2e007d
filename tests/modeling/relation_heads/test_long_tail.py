"""Priors and losses against the long tail, by hand."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from detectron2.data import DatasetCatalog

from vrd_d2.data.samplers import predicate_repeat_factors
from vrd_d2.engine.trainer import Trainer
from vrd_d2.modeling.frequency import training_counts
from vrd_d2.modeling.relation_heads.long_tail import PredicatePrior, predicate_loss

COUNTS = torch.zeros(2, 2, 4)
COUNTS[0, 1] = torch.tensor([6.0, 1, 0, 3])
COUNTS[1, 0] = torch.tensor([0.0, 0, 2, 0])


def make_prior(**changes):
    prior = PredicatePrior(num_classes=2, num_predicates=3, **changes)
    prior.set_counts(COUNTS)
    return prior


def test_frequency_bias_is_the_log_share_with_one_pseudo_count():
    prior = make_prior(frequency_bias=True)
    got = prior(torch.zeros(2, 4), torch.tensor([0, 1]), torch.tensor([1, 1]))
    expected = torch.tensor([[7 / 14, 2 / 14, 1 / 14, 4 / 14], [0.25] * 4]).log()
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("adjustment, training, sign", [("train", True, 1), ("test", False, -1)])
def test_logit_adjustment(adjustment, training, sign):
    prior = make_prior(adjustment=adjustment, tau=0.5)
    share = torch.tensor([7 / 12, 2 / 12, 3 / 12])
    expected = sign * F.pad(0.5 * share.log(), (0, 1))[None]
    torch.testing.assert_close(prior.train(training)(torch.zeros(1, 4), None, None), expected)
    assert not prior.train(not training)(torch.zeros(1, 4), None, None).any()


def test_losses_by_hand():
    logits = torch.tensor([[2.0, 0, -1, 1]])
    p = logits.softmax(1)[0]
    targets = torch.tensor([[0.5, 0, 0, 0.5]])
    options = {"counts": torch.tensor([8.0, 1, 1]), "gamma": 2.0, "beta": 0.9}
    plain = -(0.5 * p[0].log() + 0.5 * p[3].log())
    torch.testing.assert_close(
        predicate_loss(logits, targets, kind="cross_entropy", **options), plain
    )
    focal = -0.5 * ((1 - p[0]) ** 2 * p[0].log() + (1 - p[3]) ** 2 * p[3].log())
    torch.testing.assert_close(predicate_loss(logits, targets, kind="focal", **options), focal)
    weights = torch.tensor([(1 - 0.9) / (1 - 0.9**n) for n in (8, 1, 1)])
    balanced = -(0.5 * weights[0] / weights.mean() * p[0].log() + 0.5 * p[3].log())
    torch.testing.assert_close(
        predicate_loss(logits, targets, kind="class_balanced", **options), balanced
    )


def test_plain_loss_is_torchs_cross_entropy():
    logits, index = torch.randn(9, 5), torch.randint(5, (9,))
    got = predicate_loss(
        logits, F.one_hot(index, 5).float(), kind="cross_entropy", counts=None, gamma=0, beta=0
    )
    torch.testing.assert_close(got, F.cross_entropy(logits, index, reduction="sum"))


def test_repeat_factors():
    first, second = [0, 1, 0], [1, 0, 1]
    records = [{"relations": rows} for rows in ([first], [first, second], [], [first])]
    got = predicate_repeat_factors(records, 3, 0.64)
    assert got.tolist() == pytest.approx([1.0, (0.64 / 0.25) ** 0.5, 1.0, 1.0])


@pytest.mark.parametrize(
    "key, value",
    [
        ("MODEL.RELATION_LOSS.PREDICATE", "hinge"),
        ("MODEL.PREDICATE_PRIOR.LOGIT_ADJUSTMENT", "always"),
        ("DATALOADER.SAMPLER_TRAIN", "WeightedTrainingSampler"),
    ],
)
def test_unknown_choices(make_cfg, key, value):
    with pytest.raises(ValueError, match=key.replace(".", r"\.")):
        Trainer(make_cfg("relclip_predcls.yaml", key, value))


def test_trainer_fills_the_prior_and_the_checkpoint_keeps_it(make_cfg):
    cfg = make_cfg(
        "relclip_sgcls.yaml",
        *(
            "MODEL.PREDICATE_PRIOR.FREQUENCY_BIAS",
            True,
            "MODEL.PREDICATE_PRIOR.LOGIT_ADJUSTMENT",
            "train",
        ),
        *("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "SOLVER.MAX_ITER", 2),
    )
    Path(cfg.OUTPUT_DIR).mkdir()
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
    expected = training_counts(cfg)[..., :-1].sum((0, 1))
    assert expected.sum() > 0
    saved = torch.load(Path(cfg.OUTPUT_DIR) / "model_final.pth")["model"]
    torch.testing.assert_close(saved["head.predictor.prior.counts"], expected)
    assert saved["head.predictor.prior.log_joint"].any()
