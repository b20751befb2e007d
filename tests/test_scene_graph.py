"""Scene graphs by name: read off outputs and annotations, written, searched and drawn."""

import json
from dataclasses import replace
from pathlib import Path

import networkx
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

from vrd_d2.inference.comparison import ground_truth_graph, read_image
from vrd_d2.inference.selection import predicted_graph
from vrd_d2.scene_graph import SceneGraph


class Names:
    objects = ("man", "horse", "hat")
    predicates = ("on", "riding", "wearing")


class CocoNames:  # Detectron2 metadata
    thing_classes = Names.objects
    predicate_classes = Names.predicates


def instances(boxes: np.ndarray, classes: list[int], scores: list[float]) -> Instances:
    return Instances(
        (300, 400),
        pred_boxes=Boxes(torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        pred_classes=torch.tensor(classes, dtype=torch.long),
        scores=torch.tensor(scores),
    )


def relations(pairs: list, predicate_scores: list) -> Instances:
    return Instances(
        (300, 400),
        pairs=torch.tensor(pairs, dtype=torch.long).reshape(-1, 2),
        predicate_scores=torch.tensor(predicate_scores, dtype=torch.float32).reshape(-1, 3),
    )


def test_predicted_graph_ranks_as_brute_force() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(3).astype(np.float32).tolist()
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    table = rng.random((6, 3)).astype(np.float32)
    output = {
        "instances": instances(np.zeros((3, 4)), [0, 1, 2], scores),
        "relations": relations(pairs, table.tolist()),
    }
    ranked = sorted(
        (
            (-float(row.max()) * scores[i] * scores[j], i, j, Names.predicates[int(row.argmax())])
            for (i, j), row in zip(pairs, table, strict=True)
        )
    )[:4]
    for vocabulary in (Names, CocoNames):
        graph = predicted_graph(output, vocabulary, top_k=4)
        assert graph.relations == [row[1:] for row in ranked]
        np.testing.assert_allclose(graph.scores, [-row[0] for row in ranked], rtol=1e-6)
        assert list(graph.labels) == list(Names.objects)


def test_predicted_graph_keeps_the_order_of_ties_and_takes_no_pair() -> None:
    pairs = [(i, j) for j in range(20) for i in range(20) if i != j]
    output = {
        "instances": instances(np.zeros((20, 4)), [0] * 20, [1.0] * 20),
        "relations": relations(pairs, [[0.5, 0.2, 0.1]] * len(pairs)),
    }
    assert [row[:2] for row in predicted_graph(output, Names).relations] == pairs[:20]
    output["relations"] = relations([], [])
    assert predicted_graph(output, Names).relations == []
    output["instances"] = instances(np.zeros((0, 4)), [], [])
    assert predicted_graph(output, Names).boxes.shape == (0, 4)


def test_ground_truth_of_a_dataset_dict_and_of_its_mapped_example_agree(tmp_path: Path) -> None:
    red = np.zeros((30, 40, 3), np.uint8)
    red[..., 0] = 200
    Image.fromarray(red).save(tmp_path / "red.png")
    record = {
        "file_name": str(tmp_path / "red.png"),
        "image_id": 7,
        "height": 30,
        "width": 40,
        "annotations": [
            {"bbox": [4, 6, 10, 12], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "id": 1},
            {"bbox": [20, 3, 36, 24], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, "id": 2},
        ],
        "relations": np.array([[0, 1, 1]]),
    }
    resized = Instances(
        (60, 120),  # twice the height, three times the width
        gt_boxes=Boxes(torch.tensor([[12.0, 12, 42, 36], [60, 6, 108, 48]])),
        gt_classes=torch.tensor([0, 1]),
    )
    image = torch.zeros(3, 60, 120, dtype=torch.uint8)
    image[2] = 200  # BGR
    mapped = {
        **record,
        "image": image,
        "instances": resized,
        "relations": torch.tensor([[0, 1, 1]]),
    }
    del mapped["annotations"]
    for example in (record, mapped):
        graph = ground_truth_graph(example, Names)
        np.testing.assert_allclose(graph.boxes, [[4, 6, 14, 18], [20, 3, 36, 24]])
        assert list(graph.labels) == ["man", "horse"]
        assert graph.relations == [(0, 1, "riding")]
        np.testing.assert_array_equal(read_image(example), red)
    with pytest.raises(ValueError, match=r"\b7\b"):
        ground_truth_graph({"image_id": 7}, Names)
    with pytest.raises(ValueError, match="thing_classes"):
        ground_truth_graph(record, object())


def a_graph() -> SceneGraph:
    return SceneGraph(
        np.array([[10.25, 20.5, 110.25, 220.5], [0, 0, 50, 60]]),
        ["man", "Straße"],
        [(0, 1, "riding"), (1, 0, "near", "missed")],
        [0.5, None],
        [0.9, 0.8],
        (400, 300),
        "a.jpg",
    )


def test_json_holds_coco_boxes_and_gives_the_graph_back() -> None:
    graph = a_graph()
    content = json.loads(graph.to_json())
    assert (
        content
        == graph.to_dict()
        == {
            "file_name": "a.jpg",
            "width": 400,
            "height": 300,
            "entities": [
                {"id": 0, "label": "man", "bbox": [10.25, 20.5, 100, 200], "score": 0.9},
                {"id": 1, "label": "Straße", "bbox": [0, 0, 50, 60], "score": 0.8},
            ],
            "relations": [
                {"subject": 0, "predicate": "riding", "object": 1, "score": 0.5},
                {"subject": 1, "predicate": "near", "object": 0, "status": "missed"},
            ],
        }
    )
    again = SceneGraph.from_dict(content)
    assert again.to_dict() == content
    np.testing.assert_array_equal(again.boxes, graph.boxes)
    assert again.relations == graph.relations and again.scores == graph.scores
    assert graph.triplets == [("man", "riding", "Straße"), ("Straße", "near", "man")]
    empty = SceneGraph(np.zeros((0, 4)), [], [])
    assert SceneGraph.from_dict(empty.to_dict()).to_dict() == {"entities": [], "relations": []}


def test_networkx_has_an_edge_for_each_relation() -> None:
    graph = a_graph().to_networkx()
    corners = {"x1": 0.0, "y1": 0.0, "x2": 50.0, "y2": 60.0}
    assert graph.nodes[1] == {"label": "Straße", "score": 0.8, **corners}
    assert list(graph.edges(data=True)) == [
        (0, 1, {"predicate": "riding", "score": 0.5}),
        (1, 0, {"predicate": "near", "status": "missed"}),
    ]
    assert graph.graph == {"file_name": "a.jpg", "width": 400, "height": 300}
    # A format that takes text and numbers only.
    again = networkx.parse_graphml("\n".join(networkx.generate_graphml(graph)), node_type=int)
    assert dict(again.nodes) == dict(graph.nodes) and again.graph.items() >= graph.graph.items()


def test_find_takes_a_pattern_or_several() -> None:
    graph = a_graph()
    assert graph.find("* riding *") == graph.find(["* riding *"]) == [0]
    assert graph.find("STRASSE *") == graph.find("straße near man") == [1]
    assert graph.find(["* near *", "man *"]) == [0, 1] and graph.find("dog *") == []
    with pytest.raises(ValueError, match="'riding'"):
        graph.find("riding")


def test_draw_reads_the_file_or_takes_the_image(tmp_path: Path) -> None:
    photo = np.full((300, 400, 3), 90, np.uint8)
    Image.fromarray(photo).save(tmp_path / "a.png")
    graph = replace(a_graph(), file_name=str(tmp_path / "a.png"))
    drawn = graph.draw()
    np.testing.assert_array_equal(drawn, graph.draw(photo))
    assert drawn.shape[1] > graph.draw(graph=False).shape[1] > 960
    with pytest.raises(ValueError, match="image"):
        replace(graph, file_name=None).draw()
    with pytest.raises(ValueError, match=r"40 x 30.*400 x 300"):
        graph.draw(photo[:30, :40])
    # Of an array it remembers the array.
    np.testing.assert_array_equal(replace(graph, file_name=None, image=photo).draw(), drawn)
    assert "image" not in replace(graph, image=photo).to_dict()


def test_thresholds_predicates_and_overlap_by_brute_force() -> None:
    rng = np.random.default_rng(1)
    boxes = np.array([[0, 0, 100, 100], [0, 0, 100, 95], [200, 0, 290, 90], [150, 150, 250, 250]])
    scores = [0.5, 0.9, 0.3, 0.8]
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    table = rng.random((12, 3)).astype(np.float32)
    output = {
        "instances": instances(boxes, [0, 1, 2, 0], scores),
        "relations": relations(pairs, table.tolist()),
    }
    graph = predicted_graph(
        output,
        Names,
        top_k=9,
        min_score=0.1,
        min_entity_score=0.4,
        predicates=["wearing", "on"],
        max_overlap=0.9,
    )
    # Box 0 overlaps box 1 by 0.95 with a lower score, and entity 2 has a score of 0.3.
    assert graph.labels == ["horse", "man"] and graph.entity_scores == pytest.approx([0.9, 0.8])
    new = {1: 0, 3: 1}
    expected = []
    for (i, j), row in zip(pairs, table, strict=True):
        name, value = max(zip(["on", "wearing"], row[[0, 2]], strict=True), key=lambda x: x[1])
        if {i, j} == {1, 3} and value * 0.72 >= 0.1:
            expected.append((float(value) * 0.72, new[i], new[j], name))
    expected.sort(reverse=True)
    assert graph.relations == [row[1:] for row in expected] and expected
    assert graph.scores == pytest.approx([row[0] for row in expected])
    assert graph.size == (400, 300)
    with pytest.raises(ValueError, match=r"'eating'.*on, riding"):
        predicted_graph(output, Names, predicates=["eating"])
    assert predicted_graph(output, Names, predicates=[]).relations == []
    assert len(predicted_graph(output, Names, min_entity_score=2.0).boxes) == 0
