"""The knowledge base: look-ups against a dictionary, files, and bases that others published."""

import json
import re
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts import load_script

from vrd_d2.data.knowledge.knowledge_base import KnowledgeBase, merge
from vrd_d2.data.knowledge.published_bases import read_ready_base
from vrd_d2.data.vocabulary import VG20, VG150, VRD, Vocabulary

SMALL = Vocabulary(["man", "horse", "hat", "traffic light"], ["on", "riding", "wearing"])
COUNTS = {(0, 1, 1): 5, (0, 0, 1): 2, (0, 2, 2): 9, (2, 0, 0): 1, (3, 0, 3): 4}


@pytest.fixture
def base() -> KnowledgeBase:
    return KnowledgeBase.from_counts(SMALL, COUNTS, sources=["five sentences"])


def test_by_hand(base):
    subjects, objects = np.array([0, 0, 2, 1, 3]), np.array([1, 2, 0, 0, 3])
    assert base.counts(subjects, objects).tolist() == [
        [2, 5, 0], [0, 0, 9], [1, 0, 0], [0, 0, 0], [4, 0, 0],
    ]  # fmt: skip
    assert base.counts(subjects, objects, min_count=3)[0].tolist() == [0, 5, 0]
    assert base.candidates(subjects, objects)[0].tolist() == [True, True, False]
    assert base.weights(subjects, objects)[:4].tolist() == [
        [0.5, 0.5, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0],
    ]  # fmt: skip
    by_count = base.weights(subjects, objects, by_count=True)
    assert by_count[0] == pytest.approx([2 / 7, 5 / 7, 0])
    assert not by_count[3].any()  # a pair that the base does not know is background
    assert (len(base), base.pairs) == (5, 4)


triplets = st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 3))


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(st.tuples(triplets, st.integers(1, 9)), max_size=40),
    pairs=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=20),
    min_count=st.integers(1, 6),
)
def test_look_ups_equal_a_dictionary(rows, pairs, min_count):
    expected: Counter = Counter()
    for triplet, count in rows:
        expected[triplet] += count
    base = KnowledgeBase(SMALL, np.array([t for t, _ in rows]), np.array([c for _, c in rows]))
    assert dict(zip(map(tuple, base.triplets.tolist()), base.triplet_counts, strict=True)) == dict(
        expected
    )
    subjects = torch.tensor([s for s, _ in pairs], dtype=torch.int32)
    objects = torch.tensor([o for _, o in pairs], dtype=torch.int32)
    table = [
        [expected[s, p, o] if expected[s, p, o] >= min_count else 0 for p in range(3)]
        for s, o in pairs
    ]
    found = base.counts(subjects, objects, min_count=min_count)
    assert found.dtype == torch.int64 and found.tolist() == table
    assert found.shape == (len(pairs), 3)
    for by_count in (False, True):
        weights = base.weights(subjects, objects, min_count=min_count, by_count=by_count)
        assert weights.dtype == torch.float32
        for row, told in zip(weights.tolist(), table, strict=True):
            mass = told if by_count else [float(count > 0) for count in told]
            assert row == pytest.approx([count / max(sum(mass), 1) for count in mass])


def test_arrays_and_tensors(base):
    subjects, objects = np.array([0, 2]), np.array([1, 0])
    for name in ("counts", "candidates", "weights"):
        look_up = getattr(base, name)
        array, tensor = look_up(subjects, objects), look_up(*map(torch.tensor, (subjects, objects)))
        assert isinstance(array, np.ndarray) and isinstance(tensor, torch.Tensor)
        assert (array == tensor.numpy()).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu(base):
    ids = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 0])
    found = base.weights(*(part.cuda() for part in ids))
    assert found.is_cuda and torch.equal(found.cpu(), base.weights(*ids))


def test_wrong_ids(base):
    with pytest.raises(ValueError, match=r"objects hold the id 4, but .* 4 object classes"):
        base.counts(np.array([0]), np.array([4]))
    with pytest.raises(ValueError, match="subjects hold the id -1"):
        base.counts(torch.tensor([-1]), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"subjects \(2,\) and objects \(1,\)"):
        base.counts(np.array([0, 1]), np.array([0]))
    for rows, count, message in [
        ([[0, 3, 0]], 1, r"triplets\[0\] is \[0, 3, 0\]"),
        ([[0, 0, 0], [4, 0, 0]], 1, r"triplets\[1\]"),
        ([[0, 0, 0]], 0, "counts at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            KnowledgeBase(SMALL, np.array(rows), np.full(len(rows), count))
    with pytest.raises(ValueError, match="2 triplets and 1 counts"):
        KnowledgeBase(SMALL, np.zeros((2, 3)), np.ones(1))


def test_files(base, tmp_path):
    path = tmp_path / "new" / "kb.npz"
    base.save(path)
    assert [file.name for file in path.parent.iterdir()] == ["kb.npz"]
    read = KnowledgeBase.load(path)
    assert read.vocabulary == SMALL and read.sources == ("five sentences",)
    assert (read.triplets == base.triplets).all()
    assert (read.triplet_counts == base.triplet_counts).all()
    empty = KnowledgeBase(SMALL, np.zeros((0, 3)), np.zeros(0))
    empty.save(path)
    assert not KnowledgeBase.load(path).counts(np.array([0]), np.array([1])).any()


def test_files_that_are_none(base, tmp_path):
    remedy = re.escape("make one with datasets/prepare_knowledge_base.py")
    with pytest.raises(ValueError, match=f"there is no knowledge base .*{remedy}"):
        KnowledgeBase.load(tmp_path / "kb.npz")
    path = tmp_path / "kb.npz"
    for content in (b"", b"text", json.dumps(["x"]).encode()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"kb\.npz is no knowledge base .*{remedy}"):
            KnowledgeBase.load(path)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(ValueError, match="is no knowledge base"):
        KnowledgeBase.load(path)
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(ValueError, match="is no knowledge base"):
        KnowledgeBase.load(tmp_path / "array.npy")
    base.save(path)
    with np.load(path) as content:
        parts = dict(content)
    np.savez(path, **{**parts, "version": np.array(2)})
    with pytest.raises(ValueError, match=r"has version 2 .*this program reads 1"):
        KnowledgeBase.load(path)
    np.savez(path, **{**parts, "triplets": parts["triplets"] + 3})
    with pytest.raises(ValueError, match=r"kb\.npz: triplets\[0\]"):
        KnowledgeBase.load(path)
    base.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is no knowledge base"):
        KnowledgeBase.load(path)


def test_another_vocabulary_is_refused(base):
    base.require(Vocabulary(SMALL.objects, SMALL.predicates))
    with pytest.raises(ValueError, match=r"objects\[1\] is 'horse', of the model 'dog'\)"):
        base.require(Vocabulary(["man", "dog", "hat", "traffic light"], SMALL.predicates))
    with pytest.raises(ValueError, match=r"3 predicates and 4.*is missing, of the model 'near'"):
        base.require(Vocabulary(SMALL.objects, [*SMALL.predicates, "near"]))
    other = KnowledgeBase(VG150, np.zeros((0, 3)), np.zeros(0))
    with pytest.raises(ValueError, match="50 predicates and 20, "):
        other.require(VG20)
    with pytest.raises(ValueError, match="another vocabulary"):
        merge([base, other])


def test_merge(base):
    more = KnowledgeBase.from_counts(SMALL, {(0, 1, 1): 1, (1, 0, 0): 7}, sources=["two"])
    both = merge([base, more])
    assert both.sources == ("five sentences", "two")
    assert both.counts(np.array([0, 1]), np.array([1, 0])).tolist() == [[2, 6, 0], [7, 0, 0]]
    with pytest.raises(ValueError, match="at least one"):
        merge([])


def test_published_pairs(tmp_path):
    """Underscores stand for spaces too: a key is cut where both sides are names."""
    path = tmp_path / "kb.json"
    content = {
        "man_horse": ["riding", "riding", "on", "feeding"],
        "man_traffic_light": ["on"],
        "traffic_light_traffic_light": {"on": 3},
        "men_hats": ["wears"],  # forms of names
        "man_cat": ["on"],
        "cat": ["on"],
    }
    path.write_text(json.dumps(content))
    base, coverage = read_ready_base(path, SMALL)
    found = dict(zip(map(tuple, base.triplets.tolist()), base.triplet_counts.tolist(), strict=True))
    assert found == {(0, 1, 1): 2, (0, 0, 1): 1, (0, 0, 3): 1, (3, 0, 3): 3, (0, 2, 2): 1}
    assert (coverage.counted, coverage.counted_known, coverage.triplets, coverage.known) == (
        11,
        8,
        8,
        5,
    )
    assert coverage.unknown_predicates == {"feeding": 1}
    assert coverage.unknown_objects == {"cat": 2}
    assert "5 of 8 triplets (8 of 11 counts) are in the vocabulary" in str(coverage)

    names = Vocabulary(["fire", "fire truck", "truck man", "man"], ["on"])
    path.write_text(json.dumps({"fire_truck_man": ["on"], "man_fire": ["on"]}))
    base, coverage = read_ready_base(path, names)
    assert coverage.ambiguous == ["fire_truck_man"] and len(base) == 1
    assert "1 ambiguous keys left out: ['fire_truck_man']" in str(coverage)


def test_published_triplet_counts(samples):
    path = samples / "vg150/vg150_triplet_counts_decoded.json"
    content = json.loads(path.read_text())
    base, coverage = read_ready_base(path, VG150)
    assert len(base) == len(content["train"]) == 26033
    assert base.triplet_counts.sum() == sum(content["train"].values())
    assert coverage.counted == coverage.counted_known
    rng = np.random.default_rng(0)
    names = list(content["train"])
    for name in rng.choice(names, 50):
        subject, predicate, object_name = name.split("|")
        ids = [np.array([VG150.object_id(n)]) for n in (subject, object_name)]
        found = base.counts(*ids)[0, VG150.predicate_id(predicate)]
        assert found == content["train"][name]
    # Another vocabulary keeps what it has names for, and says what it lacks.
    _, coverage = read_ready_base(path, VRD)
    assert 0 < coverage.known < coverage.triplets
    assert coverage.unknown_objects.most_common(1)[0][0] == "man"
    with pytest.raises(ValueError, match="no split 'val': choose one of train, test"):
        read_ready_base(path, VG150, split="val")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a_b": ["on"]}', "holds nothing for this vocabulary: 0 of 1 .*'a' 1"),
        ('{"man_horse": "on"}', "'man_horse' holds on: expected a count"),
        ('{"man_horse": [1]}', "'man_horse' holds"),
        ('{"man|horse": 3}', "'man|horse' holds 3"),
        ("[]", "no JSON object of triplets"),
        ("{", "no complete JSON file"),
    ],
)
def test_published_bases_that_cannot_be_read(tmp_path, text, message):
    path = tmp_path / "kb.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_ready_base(path, SMALL)


@pytest.fixture
def command(repository, monkeypatch):
    """(arguments...) -> runs datasets/prepare_knowledge_base.py in this process."""
    path = repository / "datasets/prepare_knowledge_base.py"
    module = load_script(path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        return module.main()

    return run


def test_the_command(command, samples, tmp_path, capsys):
    regions = samples / "visual_genome/region_descriptions.json"
    built, table, both = (tmp_path / name for name in ("a.npz", "b.npz", "c.npz"))
    aliases = [
        "--object-aliases", samples / "vg150/object_alias.txt",
        "--predicate-aliases", samples / "vg150/predicate_alias.txt",
    ]  # fmt: skip
    options = ["--vocabulary", "vg150", "--parser", "matcher", "--quiet"]
    command("build", regions, *options, *aliases, "--output", built, "--workers", "2")
    said = capsys.readouterr().out
    assert "by matcher" in said and f"{built}: " in said
    assert KnowledgeBase.load(built).vocabulary == VG150
    counts = samples / "vg150/vg150_triplet_counts_decoded.json"
    command("convert", counts, "--vocabulary", "vg150", "--output", table)
    command("merge", built, table, "--output", both)
    sizes = [len(KnowledgeBase.load(path)) for path in (built, table, both)]
    assert sizes[1] <= sizes[2] <= sizes[0] + sizes[1]
    capsys.readouterr()

    command("stats", table, "--top", "1")
    said = capsys.readouterr().out
    assert "26033 triplets of 9006 pairs of classes, 404688 counts" in said
    assert "14163  window | on | building" in said
    command("show", table, "man", "horse")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["474", "48.9%", "riding"]
    command("show", table, "zebra", "toilet")
    assert "such a pair is background" in capsys.readouterr().out
    assert command("show", table, "man", "hors") == 1
    assert "'hors'" in capsys.readouterr().err

    nothing = tmp_path / "nothing.txt"
    nothing.write_text("blue sky\n")
    assert command("build", nothing, *options, "--output", tmp_path / "d.npz") == 1
    assert "1 captions" in capsys.readouterr().err
