"""Prompts and text embeddings by ids."""

import pytest
import torch
import torch.nn.functional as F
from text_encoder import NAMES, Encoder

from vrd_d2.modeling.text.language import RelationText, format_prompts


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
