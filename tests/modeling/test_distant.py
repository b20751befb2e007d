"""Distant supervision: labels of a knowledge base, weights of candidates, what is not read."""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.utils.env import seed_all_rng

from vrd_d2.data.build import training_records
from vrd_d2.data.dataset_mapper import RelationMapper
from vrd_d2.data.knowledge.candidate_weights import CandidateWeights
from vrd_d2.data.knowledge.knowledge_base import KnowledgeBase
from vrd_d2.data.vocabulary import Vocabulary, get_vocabulary
from vrd_d2.engine.build import build_trained_model
from vrd_d2.engine.trainer import Trainer
from vrd_d2.modeling import RelCLIP
from vrd_d2.modeling.distant import DistantLabels
from vrd_d2.modeling.frequency import knowledge_counts
from vrd_d2.modeling.ranking import NO_CANDIDATE

NAMES = Vocabulary(("man", "horse", "hat"), ("riding", "wearing", "near", "on"))
# (subject, predicate, object): count
COUNTS = {(0, 0, 1): 6, (0, 3, 1): 2, (0, 1, 2): 5, (1, 2, 0): 1, (0, 2, 0): 3}


@pytest.fixture
def base():
    return KnowledgeBase.from_counts(NAMES, COUNTS)


def test_targets_are_the_candidates_of_the_classes(base):
    """Five entities: a detection of nothing, two of the same object, and one of each other."""
    gt_classes = torch.tensor([0, 1, 2])
    gt_index = torch.tensor([0, 1, 2, -1, 0])
    pairs = torch.tensor([[0, 1], [1, 0], [0, 2], [2, 0], [3, 1], [0, 4], [4, 1]])
    got = DistantLabels(base).targets(1, pairs, gt_index, gt_classes)
    both = [0.5, 0, 0, 0.5]
    expected = [both, [0, 0, 1, 0], [0, 1, 0, 0], [0] * 4, [0] * 4, [0] * 4, both]
    assert got.tolist() == expected
    assert DistantLabels(base, min_count=3).targets(
        1, pairs[:2], gt_index, gt_classes
    ).tolist() == [
        [1, 0, 0, 0],
        [0] * 4,
    ]


def random_rows(generator, images, num_predicates):
    rows = []
    for image_id in range(images):
        count = int(generator.integers(0, 6))
        cells = generator.permutation(64)[:count]
        weights = generator.random((count, num_predicates)) * (
            generator.random((count, num_predicates)) < 0.5
        )
        rows.append((f"p{image_id}", np.stack([cells // 8, cells % 8], 1), weights))
    return rows


def test_stored_weights_come_back(tmp_path):
    generator = np.random.default_rng(0)
    rows = random_rows(generator, 20, 7)
    store = CandidateWeights.create(tmp_path / "w", 7, {"a": 1})
    store.add(1, rows[10:])
    store.add(0, rows[:10])
    again = CandidateWeights(tmp_path / "w")
    for image_id, pairs, weights in rows:
        subjects, objects = np.divmod(np.arange(64), 8)
        expected = np.zeros((64, 7), np.float32)
        for (s, o), row in zip(pairs, weights, strict=True):
            expected[s * 8 + o] = row
        got = again.lookup(image_id, subjects, objects)
        np.testing.assert_allclose(got, expected, atol=1e-3)
        assert (got > 0).sum() == (weights > 0).sum()
    assert again.lookup("p99", subjects, objects) is None


def test_folders_of_other_settings_and_damaged_ones(tmp_path):
    folder = tmp_path / "w"
    with pytest.raises(ValueError, match=re.escape(str(folder))):
        CandidateWeights(folder)
    CandidateWeights.create(folder, 7, {"model": "a", "shard": 2})
    CandidateWeights.create(folder, 7, {"model": "a", "shard": 2})  # goes on
    with pytest.raises(ValueError, match="model"):
        CandidateWeights.create(folder, 7, {"model": "b", "shard": 2})
    store = CandidateWeights(folder)
    store.add(0, [(1, np.zeros((0, 2)), np.zeros((0, 7)))])
    store.add(1, [(1, np.zeros((0, 2)), np.zeros((0, 7)))])
    with pytest.raises(ValueError, match=re.escape(str(folder))):
        CandidateWeights(folder).lookup(1, np.zeros(0), np.zeros(0))
    store.shard(1).write_bytes(store.shard(0).read_bytes()[:100])
    with pytest.raises(ValueError, match=r"000001\.npz"):
        CandidateWeights(folder).lookup(1, np.zeros(0), np.zeros(0))


def changed(**arrays):
    def change(path):
        with np.load(path) as content:
            np.savez(path, **{**content, **arrays})

    return change


def as_folder(path):
    path.unlink()
    path.mkdir()


def as_pipe(path):
    path.unlink()
    os.mkfifo(path)


ODD_SHARDS = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "empty": lambda path: path.write_bytes(b""),
    "npy": lambda path: np.save(path.open("wb"), np.zeros(3)),
    "no_key": lambda path: np.savez(path, pictures=np.array("[]")),
    "pickle": changed(weights=np.array([{}], object)),
    "nan": changed(weights=np.array([0.2, np.nan], np.float16)),
    "negative": changed(weights=np.array([0.2, -0.5], np.float16)),
    "longer": changed(weights=np.array([0.2, 0.3, 0.4], np.float16)),
    "more_pairs": changed(pairs=np.zeros((3, 2), np.int32)),
    "no_predicate": changed(predicates=np.array([0, 4], np.int16)),
    "fractions": changed(pairs=np.zeros((1, 2))),
    "other_images": changed(pictures=np.array('["7", "8"]')),
    "no_json": changed(pictures=np.array('["7"')),
    "folder": as_folder,
    "pipe": as_pipe,
}


@pytest.mark.parametrize("kind", ODD_SHARDS)
def test_an_odd_shard_is_named(kind, tmp_path, caplog):
    store = CandidateWeights.create(tmp_path, 4, {})
    store.add(0, [(7, np.array([[0, 1]]), np.array([[0.2, 0, 0, 0.6]]))])
    assert store.has(0) and not store.has(1) and not caplog.records
    ODD_SHARDS[kind](store.shard(0))
    with pytest.raises(ValueError, match=r"000000\.npz.*score_candidates"):
        CandidateWeights(tmp_path).lookup("7", np.array([0]), np.array([1]))
    assert not store.has(0)
    (line,) = caplog.records
    assert str(store.shard(0)) in line.getMessage()
    if kind in ("folder", "pipe"):
        with pytest.raises(ValueError, match=r"000000\.npz"):
            store.add(0, [])


def test_weights_replace_equal_shares(base, tmp_path):
    store = CandidateWeights.create(tmp_path, 4, {})
    store.add(0, [(7, np.array([[0, 1]]), np.array([[0.2, 0, 0, 0.6]]))])
    labels = DistantLabels(base, CandidateWeights(tmp_path))
    pairs, classes = torch.tensor([[0, 1], [1, 0]]), torch.tensor([0, 1])
    got = labels.targets(7, pairs, torch.tensor([0, 1]), classes)
    torch.testing.assert_close(got, torch.tensor([[0.25, 0, 0, 0.75], [0] * 4]), atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match=r"MODEL\.DISTANT\.WEIGHTS.*\b8\b"):
        labels.targets(8, pairs, torch.tensor([0, 1]), classes)
    other = KnowledgeBase(Vocabulary(("a",), ("b",)), np.zeros((0, 3)), np.zeros(0))
    with pytest.raises(ValueError, match=r"MODEL\.DISTANT\.WEIGHTS.*\b4\b.*\b1\b"):
        DistantLabels(other, CandidateWeights(tmp_path))


@pytest.fixture
def distant_cfg(make_cfg, tmp_path):
    """Return a maker of configs of the tiny data with hidden relations, and of their base."""

    def make(*changes, name="relclip_predcls.yaml"):
        cfg = make_cfg(name)
        dataset = cfg.DATASETS.TRAIN[0]
        triplets = []
        for record in DatasetCatalog.get(dataset):
            classes = [annotation["category_id"] for annotation in record["annotations"]]
            triplets += [(classes[s], p, classes[o]) for s, o, p in record["relations"]]
        path = tmp_path / "base.npz"
        base = KnowledgeBase(get_vocabulary(cfg.MODEL.VOCABULARY), triplets, np.ones(len(triplets)))
        base.save(path)
        return make_cfg(
            name, "DATASETS.DISTANT", (dataset,), "MODEL.DISTANT.KNOWLEDGE_BASE", str(path),
            "MODEL.RELATION.REQUIRE_OVERLAP", False, *changes,
        ), base  # fmt: skip

    return make


def test_annotated_relations_are_not_read(distant_cfg):
    """The loader hands on none; every candidate pair has the base's labels."""
    cfg, base = distant_cfg()
    records = training_records(cfg.DATASETS.TRAIN, filter_empty=True, distant=cfg.DATASETS.DISTANT)
    plain = training_records(cfg.DATASETS.TRAIN, filter_empty=True)
    assert len(records) == len(plain) and any(len(record["relations"]) for record in plain)
    assert all(r["distant"] and not len(r["relations"]) for r in map(records.__getitem__, range(4)))
    model = RelCLIP(cfg).train()
    mapper = RelationMapper(cfg, is_train=True)
    for record in map(records.__getitem__, range(len(records))):
        example = mapper(record)
        sample = model.training_pairs(example, model.entities(example))
        classes = example["instances"].gt_classes
        for (s, o), target in zip(sample.pairs.tolist(), sample.targets, strict=True):
            counted = base.counts(classes[[s]], classes[[o]])[0] > 0
            assert torch.equal(target > 0, counted)
    losses = model([mapper(records[i]) for i in range(len(records))])
    sum(losses.values()).backward()
    assert losses["loss_rcl_sp"] > 0


def test_distant_training_through_the_trainer_beside_labelled_images(distant_cfg, tiny_json):
    cfg, _ = distant_cfg("SOLVER.MAX_ITER", 3)
    cfg.defrost()
    labelled = "labelled"
    from vrd_d2.data.datasets.registrar import register_relations_json

    if labelled not in DatasetCatalog:
        register_relations_json(labelled, tiny_json)
    cfg.DATASETS.TRAIN = (*cfg.DATASETS.TRAIN, labelled)
    Path(cfg.OUTPUT_DIR).mkdir()
    trainer = Trainer(cfg)
    batches = itertools.islice(trainer.data_loader, 6)
    assert {bool(example.get("distant")) for batch in batches for example in batch} == {True, False}
    trainer.train()
    assert "R@50" in Trainer.test(cfg, trainer.model)["relations"]


def test_restricted_inference(distant_cfg):
    cfg, base = distant_cfg("MODEL.DISTANT.RESTRICT", True)
    torch.manual_seed(0)
    model = RelCLIP(cfg).eval()
    free = RelCLIP(cfg).eval()
    free.load_state_dict(model.state_dict())
    free.restrict = False
    example = RelationMapper(cfg, is_train=False)(DatasetCatalog.get(cfg.DATASETS.TRAIN[0])[0])
    with torch.no_grad():
        got, plain = model([example])[0], free([example])[0]
    classes, pairs = got["instances"].pred_classes, got["relations"].pairs
    allowed = base.counts(classes[pairs[:, 0]], classes[pairs[:, 1]]) > 0
    assert allowed.any() and not allowed.all()
    scores = got["relations"].predicate_scores
    assert (scores[~allowed] == NO_CANDIDATE).all()
    assert torch.equal(scores[allowed], plain["relations"].predicate_scores[allowed])
    probs, before = got["relations"].predicate_probs, plain["relations"].predicate_probs
    before = torch.cat([before[:, :-1] * allowed, before[:, -1:]], 1)
    torch.testing.assert_close(probs, before / before.sum(1, keepdim=True))


def test_frequencies_of_a_base(base):
    counts = knowledge_counts(base, NAMES)
    assert counts.sum() == sum(COUNTS.values()) and not counts[..., -1].any()
    for (s, p, o), count in COUNTS.items():
        assert counts[s, o, p] == count


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["MODEL.DISTANT.KNOWLEDGE_BASE", ""], "MODEL.DISTANT.KNOWLEDGE_BASE"),
        (["MODEL.DISTANT.KNOWLEDGE_BASE", "/no.npz"], "/no.npz"),
        (["MODEL.DISTANT.WEIGHTS", "/no"], "tools/score_candidates.py"),
        (["DATASETS.TRAIN", ("other",)], "DATASETS.TRAIN"),
    ],
)
def test_wrong_settings(distant_cfg, changes, message):
    cfg, _ = distant_cfg(*changes)
    with pytest.raises(ValueError) as error:
        RelCLIP(cfg)
    assert message in str(error.value)


def test_candidates_are_scored_by_a_model_and_the_rest_goes_on(distant_cfg, repository, tmp_path):
    cfg, base = distant_cfg("MODEL.UNION_CLIP.FINETUNE", "none", name="unionclip_mlp.yaml")
    config = tmp_path / "config.yaml"
    config.write_text(cfg.dump())
    folder = tmp_path / "weights"
    command = [
        sys.executable, str(repository / "tools/score_candidates.py"), "--config-file", str(config),
        "--knowledge-base", cfg.MODEL.DISTANT.KNOWLEDGE_BASE, "--output", str(folder),
        "--shard", "2",
    ]  # fmt: skip

    def run(*more):
        return subprocess.run([*command, *more], capture_output=True, text=True, cwd=repository)

    first = run()
    assert first.returncode == 0, first.stderr
    shards = sorted(folder.glob("*.npz"))
    written = shards[0].stat().st_mtime_ns
    shards[1].unlink()
    damaged = shards[2].read_bytes()[:-50]
    shards[2].write_bytes(damaged)
    second = run()
    assert second.returncode == 0, second.stderr
    assert sum(str(shards[2]) in line for line in second.stderr.splitlines()) == 1
    assert shards[2].read_bytes() != damaged
    assert shards[0].stat().st_mtime_ns == written and shards[1].is_file()
    refused = run("MODEL.RELATION.REQUIRE_OVERLAP", "True")
    assert refused.returncode == 1 and refused.stderr.splitlines()[-1].startswith("error: ")
    store = CandidateWeights(folder)
    seed_all_rng(cfg.SEED)
    model = build_trained_model(cfg)
    compared = 0
    for record in DatasetCatalog.get(cfg.DATASETS.TRAIN[0]):
        example = RelationMapper(cfg, is_train=False)(record)
        output = model([example])[0]
        classes, relations = output["instances"].pred_classes, output["relations"]
        pairs = relations.pairs.numpy()
        got = store.lookup(record["image_id"], pairs[:, 0], pairs[:, 1])
        counted = base.counts(classes[pairs[:, 0]], classes[pairs[:, 1]]) > 0
        expected = relations.predicate_probs[:, :-1] * counted
        expected = (expected / expected.sum(1, keepdim=True).clamp(min=1e-9)).numpy()
        compared += int((expected > 0).sum())
        np.testing.assert_allclose(got, expected, atol=1e-3)
    assert compared > 5
