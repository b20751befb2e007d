#!/usr/bin/env python
"""Train the small CLIP model that ships with the package, on drawn scenes and their words.

Every batch has two halves. Crops (objects, unions of related objects, whole images) are compared
with all texts that are true of them and with wrong ones, other predicates of the same two objects
included. Whole images, whose patch tokens are averaged over the box of an object, are compared with
the object's name, so that the dense map is aligned with words patch by patch. Relations are learnt
from crops alone, as a CLIP learns them: not from ROI features, which is the relation head's work.

    python datasets/prepare_scenes.py --output datasets/scenes_clip --first 1000000 \\
        --annotation-rate 1.0 --train 4000 --val 300 --test 0
    python tools/train_small_clip.py --data datasets/scenes_clip

The images are others than those of `datasets/scenes`, of the same world: its zero-shot triplets
are neither drawn nor named. Interrupted, the same command goes on from the last checkpoint.
"""

import argparse
import gzip
import io
import json
import math
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from vrd_d2 import assets
from vrd_d2.commands.arguments import Parser
from vrd_d2.commands.run_tool import run_tool


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("datasets/scenes_clip"))
    parser.add_argument("--output", type=Path, default=assets.path(""), help="model's files")
    parser.add_argument("--checkpoint", type=Path, default=Path("output/small_clip.pt"))
    parser.add_argument("--iterations", type=int, default=1500)
    parser.add_argument("--crops", type=int, default=96, help="crops in a batch")
    parser.add_argument("--images", type=int, default=8, help="whole images in a batch")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop", type=int, help="stop here; the same command goes on later")
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_arguments(None)  # --help and wrong commands end before the imports that take seconds

import cv2
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save
from tqdm import tqdm

from vrd_d2.data.atomic_files import write_bytes, write_text
from vrd_d2.data.source_files import read_json
from vrd_d2.data.vocabulary import SCENES, VG150
from vrd_d2.media.images import read_image
from vrd_d2.modeling.encoders.clip import CLIPViT, load_clip
from vrd_d2.modeling.encoders.pooling import roi_mean
from vrd_d2.modeling.text.word_vectors import vocabulary_words

CONFIG = {
    "embed_dim": 192,
    "vision_cfg": {"image_size": 96, "layers": 4, "width": 192, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 0, "width": 128, "heads": 4, "layers": 2},
}
PATCH = CONFIG["vision_cfg"]["patch_size"]
HEIGHTS = (240, 288, 336)  # of whole images; the quick start runs at 288
WRONG = 5  # other predicates of the same pair of objects, for each relation crop
OBJECT_TEXTS = ["a photo of a {}.", "a {}", "{}"]
RELATION_TEXTS = ["a photo of a {} {} a {}.", "a {} {} a {}", "{} {} {}"]
# The shipped tokenizer has them: another list gives it other tokens.
EXTRA_WORDS = ("a", "an", "the", "photo", "of", "and", "in", "with", "picture", "null", "relation")
SAME = [{"bike", "bicycle"}, {"board", "surfboard"}, {"man", "person"}, {"woman", "person"}]

Triplet = tuple[str, str, str]


def write_tokenizer(path: Path) -> int:
    """Keep those merges of CLIP's byte-pair encoding that the words of our vocabularies need.

    Any other word still splits into bytes. Returns the number of tokens.
    """
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    used = set()
    for word in [*vocabulary_words(SCENES), *vocabulary_words(VG150), *EXTRA_WORDS]:
        letters = [tokenizer.byte_encoder[byte] for byte in word.encode()]
        parts = [*letters[:-1], letters[-1] + "</w>"]
        while len(parts) > 1:
            pairs = list(pairwise(parts))
            best = min(pairs, key=lambda pair: tokenizer.bpe_ranks.get(pair, math.inf))
            if best not in tokenizer.bpe_ranks:
                break
            used.add(best)
            at = pairs.index(best)
            parts[at : at + 2] = ["".join(best)]
    merges = sorted(used, key=tokenizer.bpe_ranks.get)
    text = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)])
    write_bytes(path, gzip.compress(text.encode(), mtime=0))
    return 2 * 256 + len(merges) + 2


class Scenes:
    """Images in memory, with the boxes and words of their objects and related pairs."""

    def __init__(self, json_file: Path):
        document = read_json(json_file)
        names = {c["id"]: c["name"] for c in document["categories"]}
        predicates = {p["id"]: p["name"] for p in document["predicates"]}
        self.ids = [image["id"] for image in document["images"]]
        self.captions = {image["id"]: image["captions"] for image in document["images"]}
        self.objects = {i: [] for i in self.ids}  # (box, name)
        boxes = {}
        for a in document["annotations"]:
            x, y, w, h = a["bbox"]
            boxes[a["id"]] = (x, y, x + w, y + h), names[a["category_id"]]
            self.objects[a["image_id"]].append(boxes[a["id"]])
        true = defaultdict(lambda: defaultdict(set))
        for r in document["relations"]:
            pair = r["subject_id"], r["object_id"]
            true[r["image_id"]][pair].add(predicates[r["predicate_id"]])
        self.pairs = {i: [] for i in self.ids}  # (union box, subject, object, true predicates)
        for i, rows in true.items():
            for (s, o), names_of_pair in rows.items():
                (a, subject), (b, obj) = boxes[s], boxes[o]
                union = (min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
                self.pairs[i].append((union, subject, obj, names_of_pair))
        self.images = {}
        for image in document["images"]:
            self.images[image["id"]], _ = read_image(json_file.parent / image["file_name"])


def crop(image: np.ndarray, box, size: int, rng: random.Random, jitter: float) -> np.ndarray:
    """Cut out a box, moved and grown by chance, resized to a square of the model's size."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = box
    grow = 1 + rng.uniform(0, jitter)
    w, h = max(x2 - x1, 8) * grow, max(y2 - y1, 8) * grow
    cx = (x1 + x2) / 2 + rng.uniform(-0.3, 0.3) * jitter * w
    cy = (y1 + y2) / 2 + rng.uniform(-0.3, 0.3) * jitter * h
    left, top = int(max(0, cx - w / 2)), int(max(0, cy - h / 2))
    right, bottom = int(min(width, cx + w / 2)) + 1, int(min(height, cy + h / 2)) + 1
    patch = cv2.resize(image[top:bottom, left:right], (size, size))
    return patch[:, ::-1] if jitter and rng.random() < 0.5 else patch


def crop_batch(scenes: Scenes, count: int, size: int, excluded: set[Triplet], rng: random.Random):
    """Return crops, the texts that are true of each, and further texts that are true of none."""
    crops, truths, others = [], [], []
    name_text, text = rng.choice(OBJECT_TEXTS), rng.choice(RELATION_TEXTS)
    while len(crops) < count:
        i = rng.choice(scenes.ids)
        image, kind = scenes.images[i], rng.random()
        if kind < 0.35:
            box, name = rng.choice(scenes.objects[i])
            crops.append(crop(image, box, size, rng, 0.35))
            truths.append([name_text.format(name)])
        elif kind < 0.92 and scenes.pairs[i]:
            box, subject, obj, true = rng.choice(scenes.pairs[i])
            crops.append(crop(image, box, size, rng, 0.2))
            truths.append([text.format(subject, p, obj) for p in true])
            wrong = [p for p in SCENES.predicates if p not in true]
            wrong = [p for p in wrong if (subject, p, obj) not in excluded]
            wrong = rng.sample(wrong, min(WRONG, len(wrong)))
            others += [text.format(subject, p, obj) for p in wrong]
        elif scenes.captions[i]:
            height, width = image.shape[:2]
            crops.append(crop(image, (0, 0, width, height), size, rng, 0.0))
            truths.append([rng.choice(scenes.captions[i])])
    return crops, truths, [*others, *(name_text.format(name) for name in SCENES.objects)]


def dense_batch(scenes: Scenes, count: int, rng: random.Random):
    """Return whole images of one size, the boxes of their objects and the text of each object."""
    height, images, boxes, truths = rng.choice(HEIGHTS), [], [], []
    name_text = rng.choice(OBJECT_TEXTS)
    for i in rng.sample(scenes.ids, count):
        image, scale = resize(scenes.images[i], height)
        rows = np.array([box for box, _ in scenes.objects[i]]) * scale
        if rng.random() < 0.5:
            image, rows[:, [0, 2]] = image[:, ::-1], image.shape[1] - rows[:, [2, 0]]
        images.append(image)
        boxes.append(torch.from_numpy(rows).float())
        truths += [[name_text.format(name)] for _, name in scenes.objects[i]]
    return images, boxes, truths, [name_text.format(name) for name in SCENES.objects]


def resize(image: np.ndarray, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a 4:3 image at a height, and the factors of its boxes (x, y, x, y)."""
    resized = cv2.resize(image, (height * 4 // 3, height), interpolation=cv2.INTER_LINEAR)
    return resized, np.tile([resized.shape[k] / image.shape[k] for k in (1, 0)], 2)


def contrast(images: torch.Tensor, truths, others, model, tokenizer) -> torch.Tensor:
    """Return CLIP's loss with several positives, over images and over true texts."""
    texts = list(dict.fromkeys([text for row in truths for text in row] + others))
    column = {text: k for k, text in enumerate(texts)}
    positive = torch.zeros(len(truths), len(texts))
    for row, true in enumerate(truths):
        positive[row, [column[text] for text in true]] = 1
    words = F.normalize(model.encode_text(tokenizer(texts)).float(), dim=-1)
    logits = F.normalize(images.float(), dim=-1) @ words.T * model.logit_scale.exp().clamp(max=50)
    used = positive.sum(0) > 0
    to_texts = F.cross_entropy(logits, positive / positive.sum(1, keepdim=True))
    columns = positive[:, used].T
    to_images = F.cross_entropy(logits[:, used].T, columns / columns.sum(1, keepdim=True))
    return to_texts + 0.3 * to_images


class Pixels:
    """uint8 RGB images of one size -> normalised (N, 3, H, W)."""

    def __init__(self, mean, std):
        self.mean, self.std = (255 * torch.tensor(v).view(3, 1, 1) for v in (mean, std))

    def __call__(self, images: list[np.ndarray]) -> torch.Tensor:
        batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
        return (batch - self.mean) / self.std


@torch.no_grad()
def evaluate(folder: Path, scenes: Scenes, train: Scenes, excluded: set[Triplet]) -> dict:
    """Return zero-shot accuracies of the shipped files on scenes never trained on."""
    parts = load_clip(str(folder / "scenes_clip.json"), str(folder / "scenes_clip.safetensors"))
    model, pixels, backbone = (
        parts.model,
        Pixels(parts.mean, parts.std),
        CLIPViT(parts.model.visual),
    )
    rng, names = random.Random(0), list(SCENES.objects)
    size = model.visual.image_size[0]

    def table(texts):
        return F.normalize(model.encode_text(parts.tokenizer(texts)), dim=-1)

    prior = defaultdict(Counter)
    for rows in train.pairs.values():
        for _, subject, obj, true in rows:
            prior[subject, obj].update(true)
    words = table([OBJECT_TEXTS[0].format(name) for name in names])
    same = {(a, b) for group in [*SAME, *({n} for n in names)] for a in group for b in group}
    hits, cache = defaultdict(list), {}
    for i in tqdm(scenes.ids, desc="evaluating"):
        image = scenes.images[i]
        boxes, labels = zip(*scenes.objects[i], strict=True)
        whole, scale = resize(image, HEIGHTS[1])
        dense = backbone(pixels([whole]))["clip"][0]
        regions = {
            "crop": model.encode_image(pixels([crop(image, b, size, rng, 0.0) for b in boxes])),
            "dense": roi_mean(dense, torch.tensor(boxes * scale), scale=1 / PATCH),
        }
        for key, features in regions.items():
            for row, label in zip((features @ words.T).argmax(1).tolist(), labels, strict=True):
                hits[f"object_{key}"].append(names[row] == label)
                hits[f"object_{key}_synonyms"].append((names[row], label) in same)
        if not scenes.pairs[i]:
            continue
        unions = [crop(image, row[0], size, rng, 0.0) for row in scenes.pairs[i]]
        for feature, (_, subject, obj, true) in zip(
            model.encode_image(pixels(unions)), scenes.pairs[i], strict=True
        ):
            if (subject, obj) not in cache:
                texts = [RELATION_TEXTS[0].format(subject, p, obj) for p in SCENES.predicates]
                cache[subject, obj] = table(texts)
            hit = SCENES.predicates[int((cache[subject, obj] @ feature).argmax())] in true
            hits["predicate_union"].append(hit)
            if any((subject, p, obj) in excluded for p in true):
                hits["predicate_union_zero_shot"].append(hit)
            known = {p for p, _ in prior[subject, obj].most_common(1)}
            hits["predicate_prior"].append(bool(known & true))
    report = {key: round(float(np.mean(rows)), 4) for key, rows in sorted(hits.items())}
    report["parameters"] = sum(p.numel() for p in model.parameters())
    return report | {"objects": len(hits["object_crop"]), "pairs": len(hits["predicate_union"])}


def make_optimizer(model: torch.nn.Module, lr: float, iterations: int):
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1, (i + 1) / 50) * math.cos(math.pi / 2 * i / iterations) ** 2
    )
    return optimizer, scheduler


def run(args: argparse.Namespace) -> None:
    """Train from the last checkpoint on, and write the model with its report."""
    began = time.time()
    # The files of the model but its weights.
    args.output.mkdir(parents=True, exist_ok=True)
    merges = args.output / "scenes_clip_merges.txt.gz"
    config_file = args.output / "scenes_clip.json"
    config = json.loads(json.dumps(CONFIG))
    config["text_cfg"]["vocab_size"] = write_tokenizer(merges)
    config["text_cfg"]["tokenizer_kwargs"] = {"bpe_path": merges.name}
    write_text(config_file, json.dumps(config, indent=2) + "\n")
    excluded = {tuple(row) for row in read_json(args.data / "zero_shot.json")}
    train = Scenes(args.data / "train.json")

    torch.manual_seed(args.seed)
    parts = load_clip(str(config_file))
    model, tokenizer, pixels = parts.model, parts.tokenizer, Pixels(parts.mean, parts.std)
    backbone = CLIPViT(model.visual)
    model.requires_grad_(True)
    size = config["vision_cfg"]["image_size"]
    optimizer, scheduler = make_optimizer(model, args.lr, args.iterations)

    # Go on from the last checkpoint, if there is one.
    settings = [args.iterations, args.crops, args.images, args.lr, args.seed]
    start = 0
    args.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if args.checkpoint.is_file():
        state = torch.load(args.checkpoint, weights_only=True)
        if state["arguments"] != settings:
            raise ValueError(f"{args.checkpoint} is of another run: remove it or give --checkpoint")
        for part, key in ((model, "model"), (optimizer, "optimizer"), (scheduler, "scheduler")):
            part.load_state_dict(state[key])
        start = state["iteration"]

    stop = min(args.stop or args.iterations, args.iterations)
    progress = tqdm(range(start, stop), initial=start, total=args.iterations)
    for iteration in progress:
        rng = random.Random(args.seed * 1_000_003 + iteration)
        crops, truths, others = crop_batch(train, args.crops, size, excluded, rng)
        images, boxes, labels, names = dense_batch(train, args.images, rng)
        with torch.autocast("cpu", torch.bfloat16):
            embedded = model.encode_image(pixels(crops))
            loss_crop = contrast(embedded, truths, others, model, tokenizer)
            maps = backbone.encode(pixels(images))
            pooled = [roi_mean(m, b, scale=1 / PATCH) for m, b in zip(maps, boxes, strict=True)]
            loss_dense = contrast(torch.cat(pooled), labels, names, model, tokenizer)
        optimizer.zero_grad()
        (loss_crop + loss_dense).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        progress.set_postfix(crop=f"{loss_crop:.3f}", dense=f"{loss_dense:.3f}")
        if (iteration + 1) % 50 == 0 or iteration + 1 == stop:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"scheduler": scheduler.state_dict(), "iteration": iteration + 1}
            content = io.BytesIO()
            torch.save(state | {"arguments": settings}, content)
            write_bytes(args.checkpoint, content.getvalue())
    if stop < args.iterations:
        return

    # Write the weights, and how well they do on other scenes.
    half = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    write_bytes(args.output / "scenes_clip.safetensors", save(half))
    report = evaluate(args.output, Scenes(args.data / "val.json"), train, excluded)
    report |= {"command": " ".join(["python", *sys.argv]), "iterations": args.iterations}
    report["minutes"] = round((time.time() - began) / 60, 1)
    write_text(args.output / "scenes_clip_report.json", json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; return the exit code."""
    arguments = parse_arguments(argv)
    return run_tool(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
