"""Drawn scenes with exact relation labels, for tests, quick starts and experiments.

    python datasets/prepare_scenes.py [--output datasets/scenes] [--train 2000 --val 200 --test 500]
        [--seed 0] [--annotation-rate 0.7] [--first 0] [--workers N] [--report]

writes {train,val,test}.json (relations_json), images/, zero_shot.json (a list of [subject,
predicate, object], never true in a training image) and manifest.json. A finished folder with the
same arguments is left as it is. Image i depends on (seed, split, i) alone.

Boxes are tight to the *whole* drawn shape, hidden parts included. Each object is visible for at
least 35 % of its shape (20 % for what is worn, held or rests on something).

What is true in a scene are *situations*; `NAMES` gives the predicates that say each:

 - by pose and contact, drawn so: ride (astride a horse, on the pedals, crouched with arms out on a
   board), sit, stand, rest (a thing lying on a surface), wear, carry (hanging from a low hand,
   under an arm, in both arms), hold (in a hand that is raised, stretched out or touches
   what stands on the ground), above (in the air over something, no contact), under (below
   furniture; also the reverse of an umbrella above), look (a person's head in profile, turned to
   the target);
 - by geometry, for pairs without contact, among objects that are not worn, held or rested:
   front / behind when the whole shapes overlap by 12 % of the smaller one, by who is drawn over
   whom (foot lines decide, and may be nearly the same); under, when the middle of a box lies
   below a tree or an open umbrella at the same level (foot lines within 7 % of the image's
   height); beside, when at the same level with a gap of at most 6 % of the image's width; near,
   up to 9 % and 9 % level difference; an animal looks at the first thing on the line of its head,
   within 25 % of the image's width, at the same level;
 - things resting on one surface are beside each other, with the same gap.

Of relations that geometry gives both ways (front / behind, beside, near), people are the subject
before animals, and animals before things; between equals it is the left one. Overlaps below 12 %
count as a gap of 0. "person" is a man or a woman; bike/bicycle and surfboard/board are drawn alike.

Annotation: a true situation is annotated with probability `rate`, by one of its names drawn by
`NAMES`, and by each further name with probability rate**8: rate 1 gives complete labels.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache, partial
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))
from scene_generator import layout  # noqa: E402

from vrd_d2.data.atomic_files import write_bytes, write_text  # noqa: E402

VERSION = 2  # of the drawing and its rules: another one replaces what is there
ANNOTATION_RATE = 0.7
ZERO_SHOT_SHARE = 0.06
SPLITS = ("train", "val", "test")
NAMES: dict[str, dict[str, float]] = {
    "ride": {"riding": 0.82, "on": 0.18},
    "sit": {"sitting on": 0.7, "on": 0.3},
    "stand": {"standing on": 0.55, "on": 0.45},
    "rest": {"on": 1.0},
    "wear": {"wearing": 0.93, "has": 0.07},
    "carry": {"carrying": 0.78, "holding": 0.14, "has": 0.08},
    "hold": {"holding": 0.9, "has": 0.1},
    "under": {"under": 1.0},
    "above": {"above": 1.0},
    "front": {"in front of": 1.0},
    "behind": {"behind": 1.0},
    "look": {"looking at": 1.0},
    "beside": {"next to": 0.84, "near": 0.08, "beside": 0.08},
    "near": {"near": 1.0},
}
Triple = tuple[str, str, str]


def classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return names of objects and predicates, from the package's file but without the package."""
    path = ROOT.parent / "vrd_d2" / "data" / "vocabularies.json"
    names = json.loads(path.read_text(encoding="utf-8"))["scenes"]
    return tuple(names["objects"]), tuple(names["predicates"])


def draft(rng: np.random.Generator) -> tuple[list, list[tuple[int, str, int]], int, int]:
    """Return a scene not yet painted: placed figures, situations, height, width."""
    height = int(rng.integers(192, 241))
    width = round(height * 4 / 3)
    figures, contacts, masks = layout.arrange(rng, height, width)
    return figures, layout.relations(figures, contacts, masks), height, width


def make_scene(
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[dict[str, Any]], list[tuple[int, str, int]]]:
    """Draw a scene: image RGB uint8 (H, W, 3), objects, situations (subject, situation, object).

    Objects are dicts of `name` and `bbox` (XYXY, whole shape, inside the image).
    """
    figures, situations, height, width = draft(rng)
    return layout.render(rng, figures, height, width), boxed(figures), situations


def boxed(figures: list) -> list[dict[str, Any]]:
    """Return names and boxes of figures."""
    return [{"name": f.name, "bbox": [round(v, 2) for v in f.box]} for f in figures]


def true_triples(names: list[str], situations: list[tuple[int, str, int]]) -> set[Triple]:
    """Return every (subject, predicate, object) of names that is true of the situations."""
    return {(names[s], name, names[o]) for s, how, o in situations for name in NAMES[how]}


def annotate(
    rng: np.random.Generator, situations: list[tuple[int, str, int]], rate: float = ANNOTATION_RATE
) -> list[tuple[int, str, int]]:
    """Return annotated relations (subject, predicate, object) of the true situations."""
    annotated = []
    for s, how, o in situations:
        names = list(NAMES[how])
        first = names[rng.choice(len(names), p=list(NAMES[how].values()))]
        chosen = rng.random() < rate
        annotated += [
            (s, name, o)
            for name, further in zip(names, rng.random(len(names)) < rate**8, strict=True)
            if chosen and (name == first or further)
        ]
    return list(dict.fromkeys(annotated))


def phrase(subject: str, predicate: str, object_name: str) -> str:
    """Return a relation in words, such as "a man riding a horse"."""

    def article(noun: str) -> str:
        return ("an " if noun[0] in "aeiou" else "a ") + noun

    return f"{article(subject)} {predicate} {article(object_name)}"


def captions(rng: np.random.Generator, objects: list[dict], relations: list) -> list[str]:
    """Return up to two sentences on one or two of the annotated relations each."""
    if not relations:
        return []
    phrases = [
        phrase(objects[s]["name"], name, objects[o]["name"])
        for s, name, o in (relations[i] for i in rng.permutation(len(relations))[:4])
    ]
    return [" and ".join(part) for part in (phrases[:2], phrases[2:]) if part]


@lru_cache(maxsize=8)
def zero_shot_triples(seed: int) -> frozenset[Triple]:
    """Return triples withheld from training: about 6 % of the true, at most 20 % of a predicate."""
    rng = np.random.default_rng([seed, len(SPLITS)])
    counts: Counter[Triple] = Counter()
    situations: Counter[Triple] = Counter()
    for _ in range(500):
        figures, found, _, _ = draft(rng)
        for s, how, o in found:
            pair = figures[s].name, figures[o].name
            situations[pair[0], how, pair[1]] += 1
            counts.update((pair[0], name, pair[1]) for name in NAMES[how])
    totals: Counter[str] = Counter()
    for (_, name, _), count in counts.items():
        totals[name] += count
    chosen: set[Triple] = set()
    withheld: Counter[str] = Counter()
    candidates = sorted(t for t, count in situations.items() if count >= 3)
    for i in rng.permutation(len(candidates)):
        subject, how, object_name = candidates[i]
        new = {(subject, name, object_name) for name in NAMES[how]} - chosen
        grown = withheld + Counter({t[1]: counts[t] for t in new})
        if sum(grown.values()) > ZERO_SHOT_SHARE * sum(totals.values()):
            continue
        if all(grown[t[1]] <= 0.2 * totals[t[1]] for t in new):
            chosen, withheld = chosen | new, grown
    return frozenset(chosen)


def make_record(seed: int, rate: float, split: str, index: int) -> dict[str, Any]:
    """Draw image `index` of a split: its image, objects, relations and captions."""
    withheld = zero_shot_triples(seed) if split == "train" else frozenset()
    for attempt in range(1000):
        key = [seed, SPLITS.index(split), index, attempt]
        rng = np.random.default_rng(key)
        figures, found, height, width = draft(rng)
        if not true_triples([f.name for f in figures], found) & withheld:
            break
    else:
        raise RuntimeError(f"no {split} image {index} of seed {seed} without zero-shot triples")
    image, objects = layout.render(rng, figures, height, width), boxed(figures)
    relations = annotate(rng, found, rate)
    record = {"image": image, "objects": objects, "relations": relations}
    return record | {"captions": captions(rng, objects, relations)}


def _write(output: Path, seed: int, rate: float, job: tuple[str, int]) -> dict[str, Any]:
    cv2.setNumThreads(0)
    record = make_record(seed, rate, *job)
    image = record.pop("image")
    name = f"images/{job[0]}_{job[1]:06d}.jpg"
    _, content = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    write_bytes(output / name, content.tobytes(), sync=False)
    return {**record, "file_name": name, "height": image.shape[0], "width": image.shape[1]}


def relations_json(records: list[dict[str, Any]]) -> dict[str, list]:
    """Return records of one split in the interchange format; ids start at 1."""
    names, predicates = classes()
    images, annotations, relations = [], [], []
    for image_id, record in enumerate(records, 1):
        images.append(
            {"id": image_id} | {k: record[k] for k in ("file_name", "height", "width", "captions")}
        )
        first = len(annotations) + 1
        for entry in record["objects"]:
            x1, y1, x2, y2 = entry["bbox"]
            box = [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]
            row = {"id": len(annotations) + 1, "image_id": image_id, "bbox": box, "iscrowd": 0}
            row |= {"category_id": names.index(entry["name"]) + 1}
            annotations.append(row | {"area": round(box[2] * box[3], 2)})
        for s, name, o in record["relations"]:
            row = {"id": len(relations) + 1, "image_id": image_id}
            row |= {"subject_id": first + s, "object_id": first + o}
            relations.append(row | {"predicate_id": predicates.index(name) + 1})
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": n} for i, n in enumerate(names, 1)],
        "predicates": [{"id": i, "name": n} for i, n in enumerate(predicates, 1)],
        "relations": relations,
    }


def prepare(
    output: str | Path,
    *,
    sizes: dict[str, int],
    seed: int = 0,
    annotation_rate: float = ANNOTATION_RATE,
    first: int = 0,
    workers: int = 2,
) -> bool:
    """Write the dataset; return False when it is there already with the same arguments.

    Images are numbered from `first`: another range gives other images of the same world, with
    the same zero-shot triples.
    """
    if not 0 < annotation_rate <= 1:
        raise ValueError(f"annotation rate {annotation_rate}: must be in (0, 1]")
    output = Path(output)
    wanted = {"version": VERSION, "sizes": sizes, "seed": seed, "first": first}
    wanted["annotation_rate"] = annotation_rate
    manifest = output / "manifest.json"
    if manifest.exists() and json.loads(manifest.read_text()) == wanted:
        return False
    (output / "images").mkdir(parents=True, exist_ok=True)
    manifest.unlink(missing_ok=True)
    zero_shot_triples(seed)  # before the fork: once for all workers
    for split, count in sizes.items():
        jobs = [(split, i) for i in range(first, first + count)]
        write = partial(_write, output, seed, annotation_rate)
        if workers > 1:
            with Pool(workers) as pool:
                records = list(tqdm(pool.imap(write, jobs, 16), total=count, desc=split))
        else:
            records = [write(job) for job in tqdm(jobs, desc=split)]
        write_text(output / f"{split}.json", json.dumps(relations_json(records)))
    withheld = sorted(map(list, zero_shot_triples(seed)))
    write_text(output / "zero_shot.json", json.dumps(withheld, indent=1))
    write_text(manifest, json.dumps(wanted))
    return True


def triples_of(path: Path) -> list[tuple[tuple[int, int], Triple]]:
    """Return ((subject id, object id), names) of every annotated relation of a file."""
    data = json.loads(path.read_text())
    category = {c["id"]: c["name"] for c in data["categories"]}
    predicate = {p["id"]: p["name"] for p in data["predicates"]}
    name = {a["id"]: category[a["category_id"]] for a in data["annotations"]}
    return [
        (
            (r["subject_id"], r["object_id"]),
            (name[r["subject_id"]], predicate[r["predicate_id"]], name[r["object_id"]]),
        )
        for r in data["relations"]
    ]


def report(output: str | Path) -> dict[str, Any]:
    """Return how far class names alone go.

    `prior` is the share of annotated test relations that are the training set's most frequent
    predicate of their pair of classes (of all, if unseen).
    """
    output = Path(output)
    counts: dict[tuple[str, str], Counter] = defaultdict(Counter)
    totals: Counter[str] = Counter()
    for _, (s, p, o) in triples_of(output / "train.json"):
        counts[s, o][p] += 1
        totals[p] += 1
    guess = {pair: c.most_common(1)[0][0] for pair, c in counts.items()}
    test = triples_of(output / "test.json")
    default = totals.most_common(1)[0][0]
    right = sum(guess.get((s, o), default) == p for _, (s, p, o) in test)
    withheld = {tuple(t) for t in json.loads((output / "zero_shot.json").read_text())}
    frequent = sorted(counts, key=lambda pair: -counts[pair].total())[:25]
    return {
        "prior": right / max(len(test), 1),
        "test relations": len(test),
        "one predicate a pair at best": len({pair for pair, _ in test}) / max(len(test), 1),
        "zero-shot share of test": sum(t in withheld for _, t in test) / max(len(test), 1),
        "predicates": {p: c for p, c in totals.most_common()},
        "predicates above 5 % of a pair": {
            f"{s} - {o}": sum(n > 0.05 * counts[s, o].total() for n in counts[s, o].values())
            for s, o in frequent
        },
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Draw what is not drawn yet; return the exit code."""
    # Here, as `prepare` alone needs nothing of the package.
    from vrd_d2.commands.arguments import Parser
    from vrd_d2.commands.run_tool import run_tool

    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", default=str(ROOT / "scenes"))
    for split, count in zip(SPLITS, (2000, 200, 500), strict=True):
        parser.add_argument(f"--{split}", type=int, default=count, help="number of images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--annotation-rate", type=float, default=ANNOTATION_RATE)
    parser.add_argument("--first", type=int, default=0, help="number of the first image")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--report", action="store_true", help="print how far class names alone go")
    arguments = parser.parse_args(argv)
    return run_tool(run, arguments)


def run(args: argparse.Namespace) -> None:
    """Draw what is not drawn yet, and print the report with --report."""
    sizes = {split: getattr(args, split) for split in SPLITS}
    made = prepare(
        args.output,
        sizes=sizes,
        seed=args.seed,
        annotation_rate=args.annotation_rate,
        first=args.first,
        workers=args.workers,
    )
    print(f"{args.output}: {'written' if made else 'there already'}")
    if args.report:
        print(json.dumps(report(args.output), indent=1))


if __name__ == "__main__":
    sys.exit(main())
