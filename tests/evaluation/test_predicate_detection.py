"""Predicate detection on VRD's published test annotation, by plain loops over the JSON itself.

Half of the images is counted, the rest evaluated, as `tools/evaluate_frequency.py` does it. The
loops follow Lu et al. 2016 and share nothing with the package but the annotation.
"""

import functools
import hashlib
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from scripts import load_script

from vrd_d2.data.datasets.setup import register_builtin_datasets
from vrd_d2.data.vocabulary import VRD

PREDICATES = 70


def read(path: Path) -> list[tuple[list, list]]:
    """Objects (class, box as [x1, y1, x2, y2]) and rows (subject, object, predicate), by image."""
    images = []
    for name, annotation in json.loads(path.read_text()).items():
        objects, rows = [], []
        for relation in annotation:
            ends = []
            for end in ("subject", "object"):
                y1, y2, x1, x2 = relation[end]["bbox"]
                one = (relation[end]["category"], (x1, y1, x2, y2))
                if one not in objects:
                    objects.append(one)
                ends.append(objects.index(one))
            rows.append((*ends, relation["predicate"]))
        images.append((hashlib.sha256(f"0:{name}".encode()).digest(), objects, rows))
    return [image[1:] for image in sorted(images, key=lambda image: image[0])]


class Prior:
    """P(predicate | classes); a pair without a relation backs off to subject, object and all."""

    def __init__(self, images: list) -> None:
        self.pairs, self.subjects, self.objects, self.all = {}, {}, {}, {}
        self.triplets = set()
        for objects, rows in images:
            for s, o, predicate in rows:
                self.triplets.add((objects[s][0], objects[o][0], predicate))
            related = {(s, o) for s, o, _ in rows}
            seen = [(s, o, p) for s, o, p in rows if s != o]
            for s in range(len(objects)):
                for o in range(len(objects)):
                    if s != o and (s, o) not in related:
                        seen.append((s, o, None))
            for s, o, predicate in seen:
                subject, obj = objects[s][0], objects[o][0]
                for table, key in (
                    (self.pairs, (subject, obj)),
                    (self.subjects, subject),
                    (self.objects, obj),
                    (self.all, ()),
                ):
                    cells = table.setdefault(key, {})
                    cells[predicate] = cells.get(predicate, 0) + 1

    @functools.cache  # noqa: B019
    def scores(self, subject: int, obj: int) -> list:
        cells, extra = self.pairs.get((subject, obj), {}), {}
        if not set(cells) - {None}:
            for table, key in ((self.subjects, subject), (self.objects, obj), (self.all, ())):
                extra = table.get(key, {})
                if set(extra) - {None}:
                    break
        total = sum(cells.values()) + (1 if extra else 0)
        found = []
        for predicate in range(PREDICATES):
            count = Fraction(cells.get(predicate, 0))
            if extra:
                count += Fraction(extra.get(predicate, 0), sum(extra.values()))
            found.append(np.float32(float(count / total)))
        return found


def overlap(first: tuple, second: tuple) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0]) + 1
    height = min(first[3], second[3]) - max(first[1], second[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (first, second)]
    return width * height / (sum(areas) - width * height)


def recall(prior: Prior, images: list, *, predicates: int, k: int) -> tuple[float, float]:
    """Recall@k and zero-shot recall@k with 1 or all predicates a pair, pooled, in percent."""
    hits, unseen_hits, total, unseen_total = 0, 0, 0, 0
    for objects, rows in images:
        predicted = []  # (-score, position, pair, predicate): equal scores stay as they are listed
        pairs = [(s, o) for s, o, _ in rows]  # one prediction for each annotated row
        if predicates > 1:
            pairs = list(dict.fromkeys(pairs))  # all predicates of each annotated pair
        for position, (s, o) in enumerate(pairs):
            scores = prior.scores(objects[s][0], objects[o][0])
            chosen = range(PREDICATES) if predicates > 1 else [scores.index(max(scores))]
            predicted += [(-scores[p], position, (s, o), p) for p in chosen]
        taken = set()
        for _, _, (s, o), predicate in sorted(predicted)[:k]:
            most, best = 0.0, None
            for number, (gt_s, gt_o, gt_predicate) in enumerate(rows):
                if number in taken or predicate != gt_predicate:
                    continue
                if objects[s][0] != objects[gt_s][0] or objects[o][0] != objects[gt_o][0]:
                    continue
                least = min(
                    overlap(objects[s][1], objects[gt_s][1]),
                    overlap(objects[o][1], objects[gt_o][1]),
                )
                if least >= 0.5 and least > most:
                    most, best = least, number
            if best is not None:
                taken.add(best)
        for number, (s, o, predicate) in enumerate(rows):
            unseen = (objects[s][0], objects[o][0], predicate) not in prior.triplets
            total, hits = total + 1, hits + (number in taken)
            unseen_total += unseen
            unseen_hits += unseen and number in taken
    return 100 * hits / total, 100 * unseen_hits / unseen_total


# (predicates a pair, K) -> recall and zero-shot recall, measured once. An image has 41 rows at
# most, so that R@50 is R@100 with one prediction a row.
FIGURES = {
    (1, 50): (47.948, 9.230),
    (1, 100): (47.948, 9.230),
    (PREDICATES, 50): (74.787, 31.461),
    (PREDICATES, 100): (79.424, 42.616),
}


def test_frequency_prior_equals_the_loops(samples: Path, tmp_path: Path, repository: Path) -> None:
    images = read(samples / "vrd/annotations_test.json")
    prior, rest = Prior(images[:500]), images[500:]
    script = load_script(repository / "tools/evaluate_frequency.py")
    (tmp_path / "vrd").symlink_to(samples / "vrd")
    register_builtin_datasets(tmp_path, missing_images="keep")
    try:
        training, test = script.halves(DatasetCatalog.get("vrd_test"), seed=0)
        name = f"half_{tmp_path.name}"
        script.register_half(name, test, "vrd_test")
        found = script.evaluate(training, name, VRD, protocol="vrd")
    finally:
        register_builtin_datasets()
    for (predicates, k), figures in FIGURES.items():
        expected = recall(prior, rest, predicates=predicates, k=k)
        assert expected == pytest.approx(figures, abs=5e-4)
        for whole, zero in (("R", "zR"), ("A", "zA")):
            names = [f"{'' if predicates == 1 else 'ng-'}{metric}@{k}" for metric in (whole, zero)]
            assert [found[n] for n in names] == pytest.approx(expected, abs=1e-9), names
