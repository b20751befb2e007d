"""Relation head and attention: segments, exactness of the split layers, losses, gradients."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import roi_align

from vrd_d2.modeling.geometry import candidate_pairs, pair_geometry, union_boxes
from vrd_d2.modeling.relation_heads.attention import SegmentAttention, segments_by
from vrd_d2.modeling.relation_heads.features import RelationFeatures
from vrd_d2.modeling.relation_heads.predictor import RelationPredictor
from vrd_d2.modeling.relation_heads.relclip import RelCLIPHead
from vrd_d2.modeling.structures import PairBatch

STRIDE = 14  # of ViT-L/14: no power of two, which a ROIPooler refuses


def make_head(*, entities=True, classify_entities=True, class_table=None, **attention):
    torch.manual_seed(0)
    features = RelationFeatures(
        visual_dim=12,
        stride=STRIDE,
        num_classes=5,
        entities=entities,
        class_table=class_table,
        dim=16,
        position_dim=8,
    )
    predictor = RelationPredictor(
        dim=16,
        num_classes=5,
        num_predicates=4,
        classify_entities=classify_entities,
        background_class=True,
    )
    return RelCLIPHead(features=features, predictor=predictor, heads=2, **attention)


def make_batch(counts=(4, 1, 0, 6)):
    torch.manual_seed(1)
    sizes = [(70, 98), (56, 56), (42, 84), (99, 71)]
    maps, boxes, pairs = [], [], []
    for count, (height, width) in zip(counts, sizes, strict=True):
        maps.append(torch.randn(12, -(-height // STRIDE), -(-width // STRIDE)))
        corner = torch.rand(count, 2) * torch.tensor([width, height]) * 0.6
        boxes.append(torch.cat([corner, corner + 5 + torch.rand(count, 2) * 30], 1))
        pairs.append(candidate_pairs(boxes[-1], require_overlap=False))
    return PairBatch(maps, boxes, None, pairs, sizes)


def image_of(batch, i, **changes):
    """Return a batch of one image of a batch."""
    rows = (batch.maps, batch.boxes, batch.pairs, batch.image_sizes)
    maps, boxes, pairs, sizes = ([values[i]] for values in rows)
    return replace(PairBatch(maps, boxes, None, pairs, sizes), **changes)


def slow_attention(layer, tokens, sizes):
    """One token at a time, with torch's own multi-head attention."""
    reference = torch.nn.MultiheadAttention(tokens.shape[1], layer.heads, batch_first=True)
    reference.in_proj_weight.data.copy_(layer.qkv.weight)
    reference.in_proj_bias.data.copy_(layer.qkv.bias)
    reference.out_proj.load_state_dict(layer.out.state_dict())
    rows = []
    for part in tokens.split(sizes):
        normed = layer.norm(part)[None]
        for i in range(len(part)):
            rows.append(part[i] + reference(normed[:, i : i + 1], normed, normed)[0][0, 0])
    return torch.stack(rows)


@pytest.mark.parametrize("sizes", [[5], [3, 3, 3], [1, 4, 2], [0, 3, 0, 1], list(range(1, 20))])
def test_attention_stays_inside_segments(sizes):
    torch.manual_seed(0)
    layer = SegmentAttention(8, 2)
    tokens = torch.randn(sum(sizes), 8)
    expected = slow_attention(layer, tokens, [size for size in sizes if size])
    torch.testing.assert_close(layer(tokens, sizes), expected, atol=1e-5, rtol=1e-5)


def test_segments_by_group():
    order, sizes = segments_by(torch.tensor([2, 0, 2, 1, 0]))
    assert order.tolist() == [1, 4, 3, 0, 2] and sizes == [2, 1, 2]
    assert segments_by(torch.tensor([0, 0, 3])) == (None, [2, 1])


def test_pair_features_equal_a_plain_fully_connected_layer_on_roi_align():
    """[roi_align mean ; p] through one Linear, as the paper has it, without any shortcut."""
    head = make_head()
    batch = image_of(make_batch(), 0)
    (boxes,), (pairs,), (size,) = batch.boxes, batch.pairs, batch.image_sizes
    layer = head.features.relations
    subjects, objects = boxes[pairs[:, 0]], boxes[pairs[:, 1]]
    unions = union_boxes(subjects, objects)
    roi = roi_align(batch.maps[0][None], [unions], 7, 1 / STRIDE, 2, True).mean((2, 3))
    position = layer.position(pair_geometry(subjects, objects, size))
    weight = torch.cat([layer.fc_visual.weight, layer.fc_position.weight], 1)
    tokens = F.relu(F.linear(torch.cat([roi, position], 1), weight, layer.fc_position.bias))
    for attention in head.relation_attention:
        tokens = slow_attention(attention, tokens, [len(tokens)])
    got = head(batch).relations
    torch.testing.assert_close(got, tokens, atol=1e-4, rtol=1e-4)


def test_an_image_does_not_see_its_batch_mates():
    head = make_head().eval()
    batch = make_batch()
    splits = head(batch).predicate_logits.split(batch.pair_counts)
    for i in range(4):
        alone = head(image_of(batch, i))
        torch.testing.assert_close(alone.predicate_logits, splits[i], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pattern", ["subject", "axial"])
def test_grouped_attention_sees_its_group_only(pattern):
    head = make_head(attention=pattern, layers=1 if pattern == "subject" else 2)
    batch = make_batch((4, 0, 0, 0))
    before = head(batch).relations
    one_subject = batch.pairs[0][:, 0] == 1
    after = head(batch.select_pairs(one_subject.nonzero()[:, 0])).relations
    close = torch.allclose(before[one_subject], after, atol=1e-5)
    # The second layer of "axial" attends along the objects, whose other subjects are gone.
    assert close == (pattern == "subject")


@pytest.mark.parametrize("pattern", ["full", "subject", "axial"])
@pytest.mark.parametrize("counts", [(4, 1, 0, 6), (1, 0, 0, 1), (0, 0, 0, 0)])
def test_every_parameter_gets_a_gradient(pattern, counts):
    head = make_head(attention=pattern, class_table=torch.randn(5, 7))
    batch = make_batch(counts)
    batch.gt_classes = [torch.zeros(count, dtype=torch.int64) for count in counts]
    batch.targets = [torch.zeros(len(pairs), 4) for pairs in batch.pairs]
    for targets in batch.targets:
        targets[::3, 1] = 1
    output = head(batch)
    losses = head.losses(output, batch)
    assert set(losses) == {"loss_object", "loss_predicate"}
    (sum(losses.values()) + output.entities.sum() * 0).backward()
    assert [name for name, p in head.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in head.parameters())


def test_losses_by_hand():
    head = make_head()
    batch = image_of(
        make_batch((2, 0, 0, 0)),
        0,
        targets=[torch.tensor([[0, 1.0, 0, 1.0], [0, 0, 0, 0]])],  # two predicates; background
        gt_classes=[torch.tensor([3, 5])],
    )
    output = head(batch)
    got = head.losses(output, batch)
    log = output.predicate_logits.log_softmax(1)
    expected = -(0.5 * log[0, 1] + 0.5 * log[0, 3] + log[1, 4]) / 2
    torch.testing.assert_close(got["loss_predicate"], expected)
    log = output.class_logits.log_softmax(1)
    torch.testing.assert_close(got["loss_object"], -(log[0, 3] + log[1, 5]) / 2)


def test_parts_without_a_loss_are_not_built():
    head = make_head(entities=False, classify_entities=False)
    assert head.features.entities is head.entity_attention is head.predictor.classes is None
    output = head(make_batch())
    assert output.entities is None and output.class_logits is None


def test_class_embedding_changes_the_pair_input():
    head = make_head(class_table=torch.randn(5, 7), classify_entities=False).eval()
    batch = make_batch((2, 0, 0, 0))
    first, second = (
        head(image_of(batch, 0, classes=[torch.tensor(c)])).relations for c in ([0, 1], [0, 2])
    )
    assert not torch.allclose(first, second)


def test_unknown_attention_pattern():
    with pytest.raises(ValueError, match=r"MODEL\.RELATION_HEAD\.ATTENTION"):
        make_head(attention="none")
