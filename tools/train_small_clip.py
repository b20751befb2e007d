#!/usr/bin/env python
"""Train the small CLIP model that ships with the package, on drawn scenes and their words.

Half of every batch are crops (single objects, unions of related objects, random windows, whole
pictures) against their captions, the contrast that CLIP is trained with; the other half are whole
pictures at their own size, whose patch tokens, averaged over the box of an object, are contrasted
with the object's name, so that the dense map is aligned with words place by place. Relations are
learnt from crops alone, as a CLIP learns them: not from ROI features, which is the relation head's
work.

    python datasets/prepare_scenes.py --output datasets/scenes_clip --first 1000000 \\
        --annotation-rate 1.0 --train 4000 --val 300 --test 0
    python tools/train_small_clip.py --data datasets/scenes_clip

Interrupted, the same command goes on from the last checkpoint. The shipped weights are
half-precision.
"""

import argparse
import gzip
import itertools
import json
import math
import random
import sys
from pathlib import Path

import cv2
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tqdm import tqdm

from vrd_d2.data.vocabulary import SCENES, VG150
from vrd_d2.modeling.clip import ASSETS, CLIPViT, load_clip
from vrd_d2.modeling.pooling import roi_mean
from vrd_d2.modeling.word_vectors import vocabulary_words

CONFIG = {
    "embed_dim": 192,
    "vision_cfg": {"image_size": 96, "layers": 4, "width": 192, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 32, "vocab_size": 0, "width": 128, "heads": 4, "layers": 2},
}
PATCH = CONFIG["vision_cfg"]["patch_size"]
ENLARGE = 1.5
OBJECT_TEXTS = ["a photo of a {}.", "a {}", "{}"]
RELATION_TEXTS = ["a photo of a {} {} a {}.", "a {} {} a {}", "{} {} {}"]
EXTRA_WORDS = ["a", "an", "the", "photo", "of", "and", "in", "with", "null", "relation"]


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
            pairs = list(itertools.pairwise(parts))
            best = min(pairs, key=lambda pair: tokenizer.bpe_ranks.get(pair, math.inf))
            if best not in tokenizer.bpe_ranks:
                break
            used.add(best)
            at = pairs.index(best)
            parts[at : at + 2] = ["".join(best)]
    merges = sorted(used, key=tokenizer.bpe_ranks.get)
    text = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)])
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
    return 2 * 256 + len(merges) + 2


class Scenes:
    """Pictures in memory, with the boxes and words of their objects and relations."""

    def __init__(self, json_file: Path, excluded: set[tuple[str, str, str]]):
        document = json.loads(json_file.read_text(encoding="utf-8"))
        names = {c["id"]: c["name"] for c in document["categories"]}
        predicates = {p["id"]: p["name"] for p in document["predicates"]}
        images = {image["id"]: image for image in document["images"]}
        boxes, self.objects, self.relations = {}, {i: [] for i in images}, {i: [] for i in images}
        for a in document["annotations"]:
            x, y, w, h = a["bbox"]
            boxes[a["id"]] = (x, y, x + w, y + h), names[a["category_id"]]
            self.objects[a["image_id"]].append(boxes[a["id"]])
        for r in document["relations"]:
            (a, subject), (b, object) = boxes[r["subject_id"]], boxes[r["object_id"]]
            words = subject, predicates[r["predicate_id"]], object
            if words not in excluded:
                union = (min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
                self.relations[r["image_id"]].append((union, words))
        self.captions = {i: image.get("captions", []) for i, image in images.items()}
        self.ids = sorted(images)
        self.pictures = {}
        # prepare_scenes.py lists file names relative to the JSON or to its folder of images.
        for i in tqdm(self.ids, desc=f"reading {json_file.name}"):
            name = images[i]["file_name"]
            paths = [json_file.parent / name, json_file.parent / "images" / name]
            path = next((p for p in paths if p.is_file()), None)
            if path is None:
                raise ValueError(f"{json_file}, image {i}: there is no file {paths[0]}")
            self.pictures[i] = cv2.imread(str(path))[:, :, ::-1].copy()
        self.by_patches = {}
        for i in self.ids:
            if self.objects[i]:
                shape = self.pictures[i].shape[:2]
                key = tuple(math.ceil(side * ENLARGE / PATCH) for side in shape)
                self.by_patches.setdefault(key, []).append(i)
        # Once for each picture, so that a size is drawn as often as it occurs.
        self.patch_keys = [key for key, members in self.by_patches.items() for _ in members]


def crop(picture: np.ndarray, box, size: int, rng: random.Random, jitter: float) -> np.ndarray:
    """A box, moved and grown by chance, resized to a square of the model's size."""
    height, width = picture.shape[:2]
    x1, y1, x2, y2 = box
    grow = 1 + rng.uniform(0, jitter)
    w, h = max(x2 - x1, 8) * grow, max(y2 - y1, 8) * grow
    cx = (x1 + x2) / 2 + rng.uniform(-0.3, 0.3) * jitter * w
    cy = (y1 + y2) / 2 + rng.uniform(-0.3, 0.3) * jitter * h
    left, top = int(max(0, cx - w / 2)), int(max(0, cy - h / 2))
    right, bottom = int(min(width, cx + w / 2)) + 1, int(min(height, cy + h / 2)) + 1
    return cv2.resize(picture[top:bottom, left:right], (size, size), interpolation=cv2.INTER_AREA)


def crop_batch(scenes: Scenes, count: int, size: int, rng: random.Random):
    """Crops and one caption each: objects, relations, windows that hold objects, whole pictures."""
    crops, texts = [], []
    while len(crops) < count:
        i = rng.choice(scenes.ids)
        picture, kind = scenes.pictures[i], rng.random()
        if kind < 0.35 and scenes.objects[i]:
            box, name = rng.choice(scenes.objects[i])
            crops.append(crop(picture, box, size, rng, 0.35))
            texts.append(rng.choice(OBJECT_TEXTS).format(name))
        elif kind < 0.85 and scenes.relations[i]:
            box, words = rng.choice(scenes.relations[i])
            crops.append(crop(picture, box, size, rng, 0.25))
            texts.append(rng.choice(RELATION_TEXTS).format(*words))
        elif kind < 0.93 and len(scenes.objects[i]) > 1:
            (a, first), (b, second) = rng.sample(scenes.objects[i], 2)
            box = (min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
            crops.append(crop(picture, box, size, rng, 0.2))
            texts.append(f"a photo of a {first} and a {second}.")
        elif scenes.captions[i]:
            height, width = picture.shape[:2]
            crops.append(crop(picture, (0, 0, width, height), size, rng, 0.0))
            texts.append(rng.choice(scenes.captions[i]))
    return crops, texts


def dense_batch(scenes: Scenes, count: int, rng: random.Random):
    """Whole pictures that fill the same number of patches, with the boxes and names of objects."""
    members = scenes.by_patches[rng.choice(scenes.patch_keys)]
    chosen = [rng.choice(members) for _ in range(count)]
    return [enlarge(scenes.pictures[i]) for i in chosen], [
        [(tuple(x * ENLARGE for x in box), name) for box, name in scenes.objects[i]] for i in chosen
    ]


def enlarge(picture: np.ndarray) -> np.ndarray:
    """To the scale at which relation models see the pictures (INPUT.MIN_SIZE_* of quickstart)."""
    return cv2.resize(picture, None, fx=ENLARGE, fy=ENLARGE, interpolation=cv2.INTER_LINEAR)


def contrast(images: torch.Tensor, texts: list[str], model, tokenizer) -> torch.Tensor:
    """CLIP's loss, in which equal captions are positives of each other."""
    distinct = list(dict.fromkeys(texts))
    index = torch.tensor([distinct.index(text) for text in texts])
    words = F.normalize(model.encode_text(tokenizer(distinct)).float(), dim=-1)
    logits = F.normalize(images.float(), dim=-1) @ words.T * model.logit_scale.exp().clamp(max=50)
    positive = F.one_hot(index, len(distinct)).float().T  # distinct texts x images
    to_images = -(positive * logits.T.log_softmax(1)).sum(1) / positive.sum(1)
    return (F.cross_entropy(logits, index) + to_images.mean()) / 2


class Pixels:
    """uint8 RGB pictures -> normalised (N, 3, H, W), padded to whole patches of the largest."""

    def __init__(self, mean, std):
        self.mean = torch.tensor(mean).view(3, 1, 1)
        self.std = torch.tensor(std).view(3, 1, 1)

    def __call__(self, pictures: list[np.ndarray]) -> torch.Tensor:
        rows = [
            (torch.from_numpy(picture).permute(2, 0, 1).float() / 255 - self.mean) / self.std
            for picture in pictures
        ]
        height = -(-max(row.shape[1] for row in rows) // PATCH) * PATCH
        width = -(-max(row.shape[2] for row in rows) // PATCH) * PATCH
        return torch.stack(
            [F.pad(row, (0, width - row.shape[2], 0, height - row.shape[1])) for row in rows]
        )


@torch.no_grad()
def evaluate(model, backbone, tokenizer, pixels, scenes: Scenes, size: int) -> dict:
    """Zero-shot accuracies on scenes never trained on."""
    rng = random.Random(0)

    def table(texts):
        return F.normalize(model.encode_text(tokenizer(texts)).float(), dim=-1)

    names = list(SCENES.objects)
    words = table([OBJECT_TEXTS[0].format(name) for name in names])
    groups = [{"bike", "bicycle"}, {"board", "surfboard"}, {"hat", "cap"}]
    groups += [{"man", "person"}, {"woman", "person"}]
    same = {(a, b) for group in groups for a in group for b in group}
    hits = {"crop": [], "crop_synonyms": [], "dense": [], "dense_synonyms": [], "predicate": []}

    def score(key, features, labels):
        found = (F.normalize(features.float(), dim=-1) @ words.T).argmax(1).tolist()
        for row, label in zip(found, labels, strict=True):
            hits[key].append(names[row] == label)
            hits[f"{key}_synonyms"].append(names[row] == label or (names[row], label) in same)

    for i in tqdm(scenes.ids, desc="evaluating"):
        picture = scenes.pictures[i]
        if scenes.objects[i]:
            boxes, labels = zip(*scenes.objects[i], strict=True)
            crops = [crop(picture, box, size, rng, 0.0) for box in boxes]
            score("crop", model.encode_image(pixels(crops)), labels)
            feature_map = backbone(pixels([enlarge(picture)]))["clip"][0]
            pooled = roi_mean(feature_map, torch.tensor(boxes) * ENLARGE, scale=1 / PATCH)
            score("dense", pooled, labels)
        for box, (subject, predicate, object) in scenes.relations[i][:4]:
            image = model.encode_image(pixels([crop(picture, box, size, rng, 0.0)]))
            texts = [RELATION_TEXTS[0].format(subject, p, object) for p in SCENES.predicates]
            best = int((F.normalize(image, dim=-1) @ table(texts).T).argmax())
            hits["predicate"].append(SCENES.predicates[best] == predicate)
    report = {f"accuracy_{key}": round(float(np.mean(rows)), 4) for key, rows in hits.items()}
    return {**report, "objects": len(hits["crop"]), "relations": len(hits["predicate"])}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("datasets/scenes_clip"))
    parser.add_argument("--exclude", type=Path, help="zero_shot.json of triplets never to name")
    parser.add_argument("--output", type=Path, default=ASSETS, help="folder of the model's files")
    parser.add_argument("--checkpoint", type=Path, default=Path("output/small_clip.pt"))
    parser.add_argument("--iterations", type=int, default=1200)
    parser.add_argument("--crops", type=int, default=96, help="crops in a batch")
    parser.add_argument("--pictures", type=int, default=8, help="whole pictures in a batch")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    args.output.mkdir(parents=True, exist_ok=True)
    merges = args.output / "scenes_clip_merges.txt.gz"
    config_file = args.output / "scenes_clip.json"
    config = json.loads(json.dumps(CONFIG))
    config["text_cfg"]["vocab_size"] = write_tokenizer(merges)
    config["text_cfg"]["tokenizer_kwargs"] = {"bpe_path": merges.name}
    config_file.write_text(json.dumps(config, indent=2) + "\n")
    excluded = set()
    if args.exclude:
        excluded = {tuple(row) for row in json.loads(args.exclude.read_text())}
    train = Scenes(args.data / "train.json", excluded)
    validation = Scenes(args.data / "val.json", set())

    torch.manual_seed(args.seed)
    parts = load_clip(str(config_file))
    model, tokenizer, pixels = parts.model, parts.tokenizer, Pixels(parts.mean, parts.std)
    backbone = CLIPViT(model.visual)
    model.requires_grad_(True)
    size = config["vision_cfg"]["image_size"]
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        lr=args.lr,
    )
    warmup = 50
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda i: min(1, (i + 1) / warmup) * math.cos(math.pi / 2 * i / args.iterations) ** 2,
    )
    start = 0
    if args.checkpoint.is_file():
        state = torch.load(args.checkpoint, weights_only=True)
        if state["arguments"] != [args.iterations, args.crops, args.pictures, args.seed]:
            sys.exit(f"error: {args.checkpoint} is of another run: remove it or give --checkpoint")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        start = state["iteration"]
    progress = tqdm(range(start, args.iterations), initial=start, total=args.iterations)
    for iteration in progress:
        rng = random.Random(args.seed * 1_000_003 + iteration)
        crops, texts = crop_batch(train, args.crops, size, rng)
        pictures, objects = dense_batch(train, args.pictures, rng)
        with torch.autocast("cpu", torch.bfloat16):
            loss_crop = contrast(model.encode_image(pixels(crops)), texts, model, tokenizer)
            maps = backbone.encode(pixels(pictures))
            pooled = torch.cat(
                [
                    roi_mean(m, torch.tensor([box for box, _ in rows]), scale=1 / PATCH)
                    for m, rows in zip(maps, objects, strict=True)
                    if rows
                ]
            )
            labels = [OBJECT_TEXTS[0].format(name) for rows in objects for _, name in rows]
            loss_dense = contrast(pooled, labels, model, tokenizer)
        optimizer.zero_grad()
        (loss_crop + loss_dense).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        progress.set_postfix(crop=f"{loss_crop:.3f}", dense=f"{loss_dense:.3f}")
        if (iteration + 1) % 100 == 0 or iteration + 1 == args.iterations:
            args.checkpoint.parent.mkdir(parents=True, exist_ok=True)
            torch.save(
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "scheduler": scheduler.state_dict(),
                    "iteration": iteration + 1,
                    "arguments": [args.iterations, args.crops, args.pictures, args.seed],
                },
                args.checkpoint,
            )
    model.eval()
    half = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(half, args.output / "scenes_clip.safetensors")
    report = evaluate(model, backbone, tokenizer, pixels, validation, size)
    report["parameters"] = sum(p.numel() for p in model.parameters())
    report["iterations"], report["seed"] = args.iterations, args.seed
    (args.output / "scenes_clip_report.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
