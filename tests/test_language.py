"""Prompts, text embeddings by ids, and word vectors."""

import gzip

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vrd_d2.data.vocabulary import Vocabulary
from vrd_d2.modeling.language import (
    PhraseVectors,
    RelationText,
    clip_word_vectors,
    format_prompts,
    load_word_vectors,
    vocabulary_words,
)

NAMES = Vocabulary(("man", "tennis racket"), ("on", "in front of", "holding"))


class Encoder:
    """A text encoder that says which texts it was given: one random vector a text."""

    def __init__(self):
        self.seen = []

    def __call__(self, texts, *, device="cpu"):
        self.seen.extend(texts)
        rows = [
            torch.randn(6, generator=torch.Generator().manual_seed(sum(text.encode()) % 9973))
            for text in texts
        ]
        return F.normalize(torch.stack(rows), dim=-1)


def make_text(encoder, **prompts):
    defaults = {
        "entity_prompts": ["a photo of a {object}."],
        "relation_prompts": ["a photo of a {subject} {predicate} a {object}."],
    }
    return RelationText(encoder, NAMES, **{**defaults, **prompts})


def test_prompts_of_the_paper():
    encoder = Encoder()
    text = make_text(encoder)
    assert encoder.seen == ["a photo of a man.", "a photo of a tennis racket."]
    text.relations(torch.tensor([0]), torch.tensor([[0.0, 0, 1]]), torch.tensor([1]))
    assert encoder.seen[-1] == "a photo of a man holding a tennis racket."


def test_each_relation_is_encoded_once():
    encoder = Encoder()
    text = make_text(encoder)
    subjects, objects = torch.tensor([0, 1, 0]), torch.tensor([1, 0, 1])
    weights = torch.tensor([[1.0, 0, 0], [0, 0.5, 0.5], [1, 0, 0]])
    first = text.relations(subjects, weights, objects)
    count = len(encoder.seen)
    assert count == len(set(encoder.seen)) == 2 + 3
    assert torch.equal(first, text.relations(subjects, weights, objects))
    assert len(encoder.seen) == count
    assert torch.equal(first[0], first[2])


def test_weighted_labels_are_weighted_sums():
    encoder = Encoder()
    text = make_text(encoder)
    got = text.relations(torch.tensor([0]), torch.tensor([[1.0, 0, 3.0]]), torch.tensor([0]))
    on = encoder(["a photo of a man on a man."])
    holding = encoder(["a photo of a man holding a man."])
    torch.testing.assert_close(got, 0.25 * on + 0.75 * holding)


def test_several_templates_are_averaged():
    encoder = Encoder()
    text = make_text(encoder, entity_prompts=["a {object}", "the {object}"])
    expected = F.normalize(encoder(["a man", "the man"]).mean(0), dim=-1)
    torch.testing.assert_close(text.entities(torch.tensor([0]))[0], expected)


def test_no_relations():
    empty = torch.zeros(0, dtype=torch.int64)
    assert make_text(Encoder()).relations(empty, torch.zeros(0, 3), empty).shape == (0, 6)


def test_unknown_field():
    with pytest.raises(ValueError, match=r"\{subject\}, \{predicate\}"):
        format_prompts(["{verb}"], subject="a", predicate="b")


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
        ("the 1 2\n", "a vector for none of the"),
        ("man 1 x\n", "line 1: not a word and its numbers"),
        ("man 1 2\nracket 1 2 3\n", "line 2: 3 numbers, the lines before have 2"),
    ],
)
def test_bad_word_vector_files(tmp_path, text, message):
    path = tmp_path / "glove.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_word_vectors(path, NAMES)
