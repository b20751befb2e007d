"""The contrastive kernel and RCL against slow, obvious references and a case worked by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from vrd_d2.modeling.contrastive import contrastive_loss, negative_weights
from vrd_d2.modeling.relational_contrast import (
    LEVELS,
    MemoryBank,
    RelationalContrast,
    Triplets,
)


def slow_weights(similarity, epsilon, eta, sampling, weighted):
    """Eq. (7) as loops over queries and samples."""
    n = len(similarity)
    result = [[0.0] * n for _ in range(n)]
    for k in range(n):
        members = []
        for q in range(n):
            if q == k:
                continue
            w = float(similarity[k][q])
            if not sampling or eta <= w <= epsilon:
                members.append((q, w))
        mean = sum(max(w, 0) for _, w in members) / len(members) if members else 0
        for q, w in members:
            result[k][q] = max(w, 0) / mean if sampling and weighted and mean > 0 else 1.0
        result[k][k] = 1.0
    return torch.tensor(result)


def slow_rcl(v, t, weights, tau, gamma):
    """Eq. (4), (5) as loops: mean over the queries of both directions."""
    n, total = len(v), 0.0
    for k in range(n):
        to_text, to_visual = 0.0, 0.0
        for q in range(n):
            if weights[k][q] == 0:
                continue
            to_text += weights[k][q] * math.exp(F.cosine_similarity(v[k], t[q], dim=0) / tau)
            to_visual += weights[k][q] * math.exp(F.cosine_similarity(t[k], v[q], dim=0) / tau)
        positive = math.exp(F.cosine_similarity(v[k], t[k], dim=0) / tau)
        total -= gamma * math.log(positive / to_text)
        total -= (1 - gamma) * math.log(positive / to_visual)
    return total / n


def eye_projections(contrast):
    """W as the identity, so that the equations can be written down without it."""
    for projection in [*contrast.visual.values(), *contrast.text.values()]:
        torch.nn.init.eye_(projection.weight)
    return contrast


def similarity(n, seed):
    rows = torch.randn((n, 6), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = F.normalize(rows + 0.4, dim=-1)
    return rows @ rows.T


@pytest.mark.parametrize("sampling", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("epsilon, eta", [(0.7, 0.0), (0.3, 0.1), (1.0, -1.0), (0.2, 0.5)])
def test_negative_weights_equal_loops(sampling, weighted, epsilon, eta):
    table = similarity(12, seed=1)
    got = negative_weights(table, epsilon=epsilon, eta=eta, sampling=sampling, weighted=weighted)
    expected = slow_weights(table, epsilon, eta, sampling, weighted)
    torch.testing.assert_close(got.float(), expected, atol=1e-6, rtol=1e-6)


def test_weighted_and_unweighted_dictionaries_have_the_same_mass():
    table = similarity(20, seed=2)
    weighted = negative_weights(table, weighted=True)
    unweighted = negative_weights(table, weighted=False)
    assert not torch.equal(weighted, unweighted)
    torch.testing.assert_close(weighted.sum(1), unweighted.sum(1))


def test_synonyms_and_uninformative_samples_are_no_negatives():
    table = torch.tensor([[1.0, 0.9, 0.5, -0.2], [0.9, 1, 0.3, 0.1]] + [[0.5, 0.3, 1, 0.7]] * 2)
    weights = negative_weights(table, epsilon=0.7, eta=0.0)
    assert weights[0].tolist() == [1.0, 0.0, 1.0, 0.0]  # 0.9 is a synonym, -0.2 tells nothing
    torch.testing.assert_close(weights[1], torch.tensor([0.0, 1.0, 1.5, 0.5]))


def test_a_case_worked_by_hand():
    # Two queries. Cosines of v against t: [[1, 0], [0.6, 0.8]]; tau 0.5, gamma 0.25; the word
    # similarity 0.4 is within [0, 0.7], alone in its dictionary, hence of weight 0.4 / 0.4 = 1.
    contrast = RelationalContrast(
        levels=["subject-predicate"], visual_dim=2, text_dim=2, temperature=0.5, gamma=0.25
    )
    v = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    t = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    word = torch.tensor([[1.0, 0.0], [0.4, math.sqrt(1 - 0.16)]])
    rows = [math.log(1 + math.exp(0 - 2)), math.log(1 + math.exp(1.2 - 1.6))]
    columns = [math.log(1 + math.exp(1.2 - 2)), math.log(1 + math.exp(0 - 1.6))]
    expected = (0.25 * sum(rows) + 0.75 * sum(columns)) / 2
    got = eye_projections(contrast).level_loss("sp", v, t, word).item()
    assert got == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("n", [1, 2, 17])
def test_level_loss_equals_the_equations(n):
    generator = torch.Generator().manual_seed(n)
    v, t, words = (torch.randn((n, 8), generator=generator) for _ in range(3))
    words = F.normalize(words + 0.5, dim=-1)
    contrast = RelationalContrast(
        levels=["predicate-object"], visual_dim=8, text_dim=8, temperature=0.2, gamma=0.3
    )
    weights = slow_weights((words @ words.T).tolist(), 0.7, 0.0, True, True)
    expected = slow_rcl(v, t, weights, 0.2, 0.3)
    got = eye_projections(contrast).level_loss("po", v, t, words).item()
    assert got == pytest.approx(float(expected), rel=1e-4)


def test_the_subject_predicate_level_subtracts_the_object():
    relation, subject, obj = torch.randn(3, 5, 4).unbind()
    expected = {
        "sp": relation - obj,
        "po": relation - subject,
        "p": relation - subject - obj,
        "spo": relation,
    }
    for level in LEVELS.values():
        got = level.embed(relation, subject, obj)
        torch.testing.assert_close(got, F.normalize(expected[level.key], dim=-1))


def test_contrastive_loss_is_cross_entropy_where_every_weight_is_one():
    logits = torch.randn(6, 9)
    index = torch.randint(9, (6,))
    got = contrastive_loss(logits, F.one_hot(index, 9).float())
    torch.testing.assert_close(got, F.cross_entropy(logits, index, reduction="none"))


def test_gradients():
    torch.manual_seed(0)
    logits = torch.randn((5, 5), dtype=torch.float64, requires_grad=True)
    weights = negative_weights(similarity(5, seed=3))
    targets = torch.eye(5, dtype=torch.float64)

    def loss(x):
        # The kernel computes in float32; on inputs that float32 holds exactly this is no loss.
        return contrastive_loss(x, targets, weights).sum()

    loss(logits).backward()
    step = 1e-3
    for k, q in [(0, 0), (1, 3), (4, 2)]:
        shift = torch.zeros_like(logits)
        shift[k, q] = step
        numeric = (loss(logits + shift) - loss(logits - shift)) / (2 * step)
        assert logits.grad[k, q].item() == pytest.approx(numeric.item(), abs=2e-3)


def test_no_positive_pair_gives_zero_losses_with_gradients():
    contrast = RelationalContrast(
        levels=["subject-predicate", "predicate-object"], visual_dim=6, text_dim=4
    )
    visual = torch.zeros((0, 6), requires_grad=True)
    empty = torch.zeros((0, 4))
    losses = contrast(
        Triplets(visual, visual, visual),
        Triplets(empty, empty, empty),
        {"sp": torch.zeros(0, 3), "po": torch.zeros(0, 3)},
    )
    assert set(losses) == {"loss_rcl_sp", "loss_rcl_po"}
    sum(losses.values()).backward()
    assert all(loss.item() == 0 for loss in losses.values())
    assert all(p.grad is not None and not p.grad.any() for p in contrast.parameters())


@pytest.mark.parametrize("levels", [["subject"], ["predicate", "predicate"]])
def test_unknown_and_repeated_levels_are_refused(levels):
    with pytest.raises(ValueError, match=r"MODEL\.RCL\.LEVELS"):
        RelationalContrast(levels=levels, visual_dim=4, text_dim=4)


def test_memory_bank_adds_negatives_of_earlier_batches():
    torch.manual_seed(0)
    levels = {"levels": ["predicate"], "visual_dim": 6, "text_dim": 6, "temperature": 0.5}
    with_bank = RelationalContrast(**levels, memory_bank=5, phrase_dim=3)
    without = RelationalContrast(**levels)
    without.load_state_dict(with_bank.state_dict(), strict=False)
    batches = [
        (torch.randn(n, 6), torch.randn(n, 6), F.normalize(torch.rand(n, 3), dim=-1))
        for n in (2, 4, 3)
    ]
    first = [c.level_loss("p", *batches[0]) for c in (with_bank, without)]
    assert first[0] == first[1]  # nothing is in the bank yet
    with_bank.level_loss("p", *batches[1])
    assert int(with_bank.banks["p"].added) == 6
    # Five of the six past rows are left, the oldest is overwritten: by hand with all columns.
    v, t, words = batches[2]
    past = [torch.cat([batches[0][i], batches[1][i]])[1:] for i in range(3)]
    similarity = words @ torch.cat([words, past[2]]).T
    weights = negative_weights(similarity)
    targets = torch.eye(3, 8)

    def side(queries, w_queries, keys, past_keys, w_keys):
        queries = F.normalize(w_queries(queries), dim=-1)
        rows = F.normalize(w_keys(torch.cat([keys, past_keys])), dim=-1)
        return contrastive_loss(queries @ rows.T / 0.5, targets, weights)

    wv, wt = with_bank.visual["p"], with_bank.text["p"]
    expected = side(v, wv, t, past[1], wt) + side(t, wt, v, past[0], wv)
    got = with_bank.level_loss("p", v, t, words)
    torch.testing.assert_close(got, expected.mean() / 2)
    assert not torch.allclose(got, without.level_loss("p", v, t, words))


def test_memory_bank_keeps_the_latest_of_a_batch_larger_than_itself():
    bank = MemoryBank(3, (1, 2))
    bank.add(torch.arange(5.0)[:, None], torch.arange(10.0).reshape(5, 2))
    first, second = bank.rows()
    assert sorted(first[:, 0].tolist()) == [2, 3, 4]
    assert all(second[i].tolist() == [2 * first[i], 2 * first[i] + 1] for i in range(3))


def test_equal_phrases_stay_negatives_where_epsilon_is_one():
    """Rounding must not decide: float32 cosines of equal vectors lie on both sides of 1."""
    torch.manual_seed(0)
    word = F.normalize(torch.randn(40, 300), dim=-1)
    words = torch.cat([word, word])
    v, t = torch.randn(80, 6), torch.randn(80, 6)
    options = {"levels": ["predicate"], "visual_dim": 6, "text_dim": 6, "weighted": False}
    contrast = eye_projections(RelationalContrast(**options, epsilon=1.0, eta=-1.0))
    everything = eye_projections(RelationalContrast(**options, sampling=False))
    got = contrast.level_loss("p", v, t, words)
    torch.testing.assert_close(got, everything.level_loss("p", v, t, words))
