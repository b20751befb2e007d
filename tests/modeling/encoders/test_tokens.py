"""Texts that are longer than a text encoder reads are told, and only those."""

import copy

import open_clip
import pytest
import torch
from conftest import SMALL_CLIP

from vrd_d2.modeling.encoders.clip import ClipParts, TextEncoder
from vrd_d2.modeling.encoders.tokens import tokenize


@pytest.fixture(scope="module")
def tokenizer():
    return open_clip.tokenizer.SimpleTokenizer(context_length=8)


def words(count):
    return " ".join(["dog"] * count)  # a token each


def test_the_first_text_that_is_cut_is_named(tokenizer, caplog):
    texts = [words(3), words(6), words(7), words(9) + " cat"]  # of 8 tokens, two are the ends
    tokens = tokenize(tokenizer, texts)
    assert torch.equal(tokens, tokenizer(texts))
    assert torch.equal(tokens[2], tokens[3])  # this is why
    (message,) = caplog.messages
    assert "2 of 4 texts" in message and "8 tokens" in message and repr(words(7)) in message


def test_texts_that_fit_are_silent(tokenizer, caplog):
    tokenize(tokenizer, [words(6), "a", ""])  # one that just fits
    assert not caplog.messages


def test_a_text_tower_tells(caplog):
    model = open_clip.CLIP(**copy.deepcopy(SMALL_CLIP)).eval()
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=24)
    rows = TextEncoder(ClipParts(model, tokenizer, (0.0,) * 3, (1.0,) * 3))(
        [words(22), words(30), words(40)]
    )
    assert torch.equal(rows[1], rows[2]) and "2 of 3 texts" in caplog.text
