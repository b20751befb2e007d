"""Relation head and attention: segments, exactness of the split layers, losses, gradients."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import roi_align

from vrd_d2.modeling.geometry import candidate_pairs, pair_geometry, union_boxes
from vrd_d2.modeling.relation_heads.attention import SegmentAttention, segments_by
from vrd_d2.modeling.relation_heads.relclip_head import RelationHead

STRIDE = 14  # of ViT-L/14: no power of two, which a ROIPooler refuses


def make_head(**changes):
    torch.manual_seed(0)
    arguments = {
        "visual_dim": 12,
        "stride": STRIDE,
        "num_classes": 5,
        "num_predicates": 4,
        "entity_embeddings": True,
        "classify_entities": True,
        "background_class": True,
        "dim": 16,
        "position_dim": 8,
        "attention_heads": 2,
    }
    return RelationHead(**{**arguments, **changes})


def make_inputs(counts=(4, 1, 0, 6)):
    torch.manual_seed(1)
    sizes = [(70, 98), (56, 56), (42, 84), (99, 71)]
    maps, boxes, pairs = [], [], []
    for count, (height, width) in zip(counts, sizes, strict=True):
        maps.append(torch.randn(12, -(-height // STRIDE), -(-width // STRIDE)))
        corner = torch.rand(count, 2) * torch.tensor([width, height]) * 0.6
        boxes.append(torch.cat([corner, corner + 5 + torch.rand(count, 2) * 30], 1))
        pairs.append(candidate_pairs(boxes[-1], require_overlap=False))
    return maps, boxes, None, pairs, sizes


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
    maps, boxes, _, pairs, sizes = make_inputs()
    adaptor = head.relation_adaptor
    subjects, objects = boxes[0][pairs[0][:, 0]], boxes[0][pairs[0][:, 1]]
    unions = union_boxes(subjects, objects)
    roi = roi_align(maps[0][None], [unions], 7, 1 / STRIDE, 2, True).mean((2, 3))
    position = adaptor.position(pair_geometry(subjects, objects, sizes[0]))
    weight = torch.cat([adaptor.fc_visual.weight, adaptor.fc_position.weight], 1)
    tokens = F.relu(F.linear(torch.cat([roi, position], 1), weight, adaptor.fc_position.bias))
    for layer in adaptor.attention:
        tokens = slow_attention(layer, tokens, [len(tokens)])
    got = head([maps[0]], [boxes[0]], None, [pairs[0]], [sizes[0]]).relations
    torch.testing.assert_close(got, tokens, atol=1e-4, rtol=1e-4)


def test_a_image_does_not_see_its_batch_mates():
    head = make_head().eval()
    maps, boxes, _, pairs, sizes = make_inputs()
    together = head(maps, boxes, None, pairs, sizes)
    splits = together.predicate_logits.split([len(p) for p in pairs])
    for i in range(4):
        alone = head([maps[i]], [boxes[i]], None, [pairs[i]], [sizes[i]])
        torch.testing.assert_close(alone.predicate_logits, splits[i], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pattern", ["subject", "axial"])
def test_grouped_attention_sees_its_group_only(pattern):
    head = make_head(attention=pattern, attention_layers=1 if pattern == "subject" else 2)
    maps, boxes, _, pairs, sizes = make_inputs((4, 0, 0, 0))
    before = head(maps, boxes, None, pairs, sizes).relations
    keep = pairs[0][:, 0] == 1  # the pairs of one subject, alone
    only = [pairs[0][keep], *pairs[1:]]
    after = head(maps, boxes, None, only, sizes).relations
    close = torch.allclose(before[keep], after, atol=1e-5)
    # The second layer of "axial" attends along the objects, whose other subjects are gone.
    assert close == (pattern == "subject")


@pytest.mark.parametrize("pattern", ["full", "subject", "axial"])
@pytest.mark.parametrize("counts", [(4, 1, 0, 6), (1, 0, 0, 1), (0, 0, 0, 0)])
def test_every_parameter_gets_a_gradient(pattern, counts):
    head = make_head(attention=pattern, class_table=torch.randn(5, 7))
    maps, boxes, classes, pairs, sizes = make_inputs(counts)
    output = head(maps, boxes, classes, pairs, sizes)
    total = len(output.predicate_logits)
    targets = torch.zeros(total, 4)
    targets[::3, 1] = 1
    losses = head.losses(output, torch.zeros(sum(counts), dtype=torch.int64), targets)
    assert set(losses) == {"loss_object", "loss_predicate"}
    (sum(losses.values()) + output.entities.sum() * 0).backward()
    assert [name for name, p in head.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in head.parameters())


def test_losses_by_hand():
    head = make_head()
    maps, boxes, classes, pairs, sizes = make_inputs((2, 0, 0, 0))
    output = head(maps, boxes, classes, pairs, sizes)
    targets = torch.tensor([[0, 1.0, 0, 1.0], [0, 0, 0, 0]])  # two predicates; background
    got = head.losses(output, torch.tensor([3, 5]), targets)
    log = output.predicate_logits.log_softmax(1)
    expected = -(0.5 * log[0, 1] + 0.5 * log[0, 3] + log[1, 4]) / 2
    torch.testing.assert_close(got["loss_predicate"], expected)
    log = output.class_logits.log_softmax(1)
    torch.testing.assert_close(got["loss_object"], -(log[0, 3] + log[1, 5]) / 2)


def test_parts_without_a_loss_are_not_built():
    head = make_head(entity_embeddings=False, classify_entities=False)
    assert head.entity_adaptor is None and head.class_classifier is None
    output = head(*make_inputs())
    assert output.entities is None and output.class_logits is None


def test_class_embedding_changes_the_pair_input():
    head = make_head(class_table=torch.randn(5, 7), classify_entities=False).eval()
    maps, boxes, _, pairs, sizes = make_inputs((2, 0, 0, 0))
    none = torch.zeros(0, dtype=torch.int64)
    first, second = (
        head(maps, boxes, [torch.tensor(c), none, none, none], pairs, sizes).relations
        for c in ([0, 1], [0, 2])
    )
    assert not torch.allclose(first, second)


def test_unknown_attention_pattern():
    with pytest.raises(ValueError, match=r"MODEL\.RELATION_HEAD\.ATTENTION"):
        make_head(attention="none")
