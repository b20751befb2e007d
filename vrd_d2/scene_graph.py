"""Scene graphs by name, written to JSON and networkx. Needs neither torch nor Detectron2."""

import fnmatch
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vrd_d2.data.boxes import box_array

if TYPE_CHECKING:
    import networkx

    from vrd_d2.visualization.view import GraphView


@dataclass(frozen=True)
class SceneGraph:
    """Entities and relations of one image, by name.

    Attributes:
        boxes: float (M, 4), absolute XYXY pixels of the original image, turned upright as its EXIF
            data asks.
        labels: M class names.
        relations: rows (subject, object, predicate name) or (subject, object, predicate name,
            status), where subject and object index the boxes.
        scores: a number or None for each relation; or None.
        entity_scores: a number for each entity; or None.
        size: (width, height) of the image; or None.
        file_name: path of the image; or None.
        image: uint8 (H, W, 3) RGB, of a graph that was predicted of an array; or None.
    """

    boxes: np.ndarray
    labels: Sequence[str]
    relations: Sequence[tuple]
    scores: Sequence[float | None] | None = None
    entity_scores: Sequence[float] | None = None
    size: tuple[int, int] | None = None
    file_name: str | None = None
    image: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def triplets(self) -> list[tuple[str, str, str]]:
        """Return (subject, predicate, object) of every relation, by name."""
        return [(self.labels[row[0]], row[2], self.labels[row[1]]) for row in self.relations]

    def find(self, patterns: str | Sequence[str]) -> list[int]:
        """Return the positions of the relations that match one of the patterns.

        Args:
            patterns: "subject predicate object", where * stands for anything: "man riding *",
                "* riding *"; or a list of these. Case does not matter.

        Raises:
            ValueError: see :func:`check_patterns`.
        """
        patterns = [patterns] if isinstance(patterns, str) else patterns
        check_patterns(patterns)
        texts = [" ".join(triplet).casefold() for triplet in self.triplets]
        return [
            i
            for i, text in enumerate(texts)
            if any(fnmatch.fnmatchcase(text, pattern.casefold()) for pattern in patterns)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the graph as JSON can hold it; :meth:`from_dict` reads it again.

        Boxes are XYWH as in COCO, to a hundredth of a pixel; scores have six digits.

        Returns:
            "file_name", "width", "height" where they are known; "entities": a list of {"id": its
            position, "label", "bbox", "score" where known}; "relations": a list of {"subject",
            "predicate", "object", "score" and "status" where known}.
        """
        graph: dict[str, Any] = {}
        if self.file_name is not None:
            graph["file_name"] = self.file_name
        if self.size is not None:
            graph["width"], graph["height"] = map(int, self.size)
        graph["entities"] = []
        for i, (label, box) in enumerate(zip(self.labels, np.asarray(self.boxes), strict=True)):
            x1, y1, x2, y2 = (float(value) for value in box)
            entity = {
                "id": i,
                "label": str(label),
                "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
            }
            if self.entity_scores is not None:
                entity["score"] = _six_digits(self.entity_scores[i])
            graph["entities"].append(entity)
        graph["relations"] = []
        for i, (subject, obj, predicate, *status) in enumerate(self.relations):
            relation = {"subject": int(subject), "predicate": predicate, "object": int(obj)}
            if self.scores is not None and self.scores[i] is not None:
                relation["score"] = _six_digits(self.scores[i])
            if status and status[0] is not None:
                relation["status"] = status[0]
            graph["relations"].append(relation)
        return graph

    @classmethod
    def from_dict(cls, graph: Mapping[str, Any]) -> "SceneGraph":
        """Return the graph of which :meth:`to_dict` made this."""
        entities, relations = graph["entities"], graph["relations"]
        boxes = box_array([entity["bbox"] for entity in entities]).copy()
        boxes[:, 2:] += boxes[:, :2]
        rows = [
            tuple(row[key] for key in ("subject", "object", "predicate", "status") if key in row)
            for row in relations
        ]
        scored = all("score" in entity for entity in entities)
        return cls(
            boxes,
            [entity["label"] for entity in entities],
            rows,
            [relation.get("score") for relation in relations],
            [entity["score"] for entity in entities] if scored else None,
            (graph["width"], graph["height"]) if "width" in graph else None,
            graph.get("file_name"),
        )

    def to_json(self, *, indent: int | None = None) -> str:
        """Return :meth:`to_dict` as JSON, on one line unless there is an indent."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False, indent=indent)

    def to_networkx(self) -> "networkx.MultiDiGraph":
        """Return entities as nodes, relations as edges from subject to object.

        Node attributes are label, x1, y1, x2, y2 and score; edge attributes predicate, score and
        status; those of the graph file_name, width and height; each where it is known. All are text
        and numbers, as GraphML, GEXF and JSON want them.
        """
        import networkx  # a second of import time that most uses do not need

        content = self.to_dict()
        graph = networkx.MultiDiGraph()
        graph.graph.update({k: v for k, v in content.items() if not isinstance(v, list)})
        for entity, box in zip(content["entities"], self.boxes, strict=True):
            corners = dict(zip(("x1", "y1", "x2", "y2"), map(float, box), strict=True))
            known = {key: entity[key] for key in ("label", "score") if key in entity}
            graph.add_node(entity["id"], **known, **corners)
        for relation in content["relations"]:
            graph.add_edge(relation.pop("subject"), relation.pop("object"), **relation)
        return graph

    def view(self) -> "GraphView":
        """Return what drawings and pages show of the graph.

        Raises:
            ValueError: boxes, labels, relations and scores do not fit together.
        """
        # Drawing loads Pillow and networkx, which a graph by itself does not need.
        from vrd_d2.visualization.view import GraphView

        return GraphView.of(
            self.boxes,
            self.labels,
            self.relations,
            scores=self.scores,
            entity_scores=self.entity_scores,
        )

    def draw(
        self, image: np.ndarray | None = None, *, graph: bool = True, top_k: int | None = 12
    ) -> np.ndarray:
        """Draw the image with boxes and arrows, beside it the graph and the list of relations.

        Args:
            image: uint8 (H, W, 3) RGB; None takes that of the graph, or reads `file_name`.
            graph: whether to draw the graph beside the image.
            top_k: the first relations, which are drawn, as an image with all of them is hard to
                read; None for all.

        Returns:
            uint8 (H', W', 3) RGB; :func:`~vrd_d2.data.images.saving.save_image`
            writes it.

        Raises:
            ValueError: there is no image to draw on, it cannot be read, or the graph is not
                consistent (:meth:`view`).
        """
        from vrd_d2.visualization.scene_graph_image import draw_view

        return draw_view(self._image(image), self.view(), graph=graph, top_k=top_k)

    def to_html(
        self,
        image: np.ndarray | None = None,
        *,
        title: str | None = None,
        heat_maps: Mapping[int, np.ndarray] | None = None,
    ) -> str:
        """Make a page to point at, in one file that loads nothing.

        Args:
            image: uint8 (H, W, 3) RGB; None takes that of the graph, or reads `file_name`.
            title: default the name of the file.
            heat_maps: of :meth:`~vrd_d2.inference.predictor.Predictor.explain`, to lay over the
                image.

        Raises:
            ValueError: there is no image, it cannot be read, or the graph is not consistent
                (:meth:`view`).
        """
        from vrd_d2.visualization.html_page import GraphPage, graph_page

        if title is None:
            title = "scene graph" if self.file_name is None else Path(self.file_name).name
        page = GraphPage(self.view(), self._image(image), title, heat_maps=heat_maps or {})
        return graph_page([page])

    def _repr_html_(self) -> str | None:
        """Return the page in a frame for a notebook; None, which shows the text, without image."""
        from vrd_d2.visualization.html_page import in_frame

        try:
            return in_frame(self.to_html())
        except ValueError:
            return None

    def _image(self, image: np.ndarray | None) -> np.ndarray:
        from vrd_d2.media.images import read_image

        image = self.image if image is None else image
        if image is None:
            if self.file_name is None:
                raise ValueError("the graph knows no file of its image: give the image to draw on")
            image = read_image(self.file_name)[0]
        size = (image.shape[1], image.shape[0])
        if self.size is not None and size != tuple(map(int, self.size)):
            raise ValueError(
                f"the image has {size[0]} x {size[1]} pixels, that of the graph had "
                f"{self.size[0]} x {self.size[1]}: give the same one"
            )
        return image


def draw_heat_map(
    image: np.ndarray, graph: SceneGraph, relation: int, heat: np.ndarray
) -> np.ndarray:
    """Draw the image under the heat map of one relation, with its subject and its object.

    Args:
        image: uint8 (H, W, 3) RGB.
        graph: of the image.
        relation: position in the graph's relations.
        heat: (h, w) in 0..1.

    Returns:
        uint8 (H', W', 3) RGB.
    """
    from vrd_d2.visualization.heat_map import blend_heat
    from vrd_d2.visualization.scene_graph_image import draw_view

    score = None if graph.scores is None else [graph.scores[relation]]
    alone = replace(graph, relations=[graph.relations[relation]], scores=score)
    return draw_view(blend_heat(image, heat), alone.view())


def check_patterns(patterns: Sequence[str]) -> None:
    """Raise ValueError if a pattern is no text, or can match no triplet as it lacks a part."""
    if not isinstance(patterns, Sequence):
        raise ValueError(f"{patterns!r} are no patterns: give a number of relations, or a list")
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise ValueError(f"{pattern!r} is no triplet: write it as a text")
        if "*" not in pattern and len(pattern.split()) < 3:
            raise ValueError(
                f"{pattern!r} is no triplet: write subject, predicate and object, * for any, "
                f'such as "* {pattern} *"'
            )


def _six_digits(value: float) -> float:
    return float(f"{float(value):.6g}")
