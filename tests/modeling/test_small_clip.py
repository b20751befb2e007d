"""The small CLIP model that ships with the package, and the script that trains it."""

import json
import os
import subprocess
import sys

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from scripts import load_script

from vrd_d2 import assets
from vrd_d2.data.vocabulary import SCENES, VG150
from vrd_d2.modeling.encoders.clip import CLIPViT, load_clip
from vrd_d2.modeling.encoders.pooling import roi_mean

FLOOR_CROP, FLOOR_DENSE = 0.55, 0.5  # chance is about 0.1
SYNONYMS = [{"bike", "bicycle"}, {"board", "surfboard"}, {"man", "person"}, {"woman", "person"}]


@pytest.fixture(scope="module")
def clip():
    return load_clip("scenes_clip", "scenes")


@pytest.fixture(scope="module")
def scenes(pytestconfig):
    script = pytestconfig.rootpath / "datasets" / "prepare_scenes.py"
    return load_script(script)


@pytest.fixture(scope="module")
def drawn(scenes):
    """Forty images that no split of a dataset holds: (RGB image, boxes, names)."""
    rows = []
    for seed in range(40):
        image, objects, _ = scenes.make_scene(np.random.default_rng([77, seed]))
        boxes = torch.tensor([o["bbox"] for o in objects])
        rows.append((image, boxes, [o["name"] for o in objects]))
    return rows


def normalised(clip, image: np.ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    return (tensor - torch.tensor(clip.mean).view(3, 1, 1)) / torch.tensor(clip.std).view(3, 1, 1)


def accuracy(clip, features: torch.Tensor, labels: list[str]) -> float:
    texts = clip.tokenizer([f"a photo of a {name}." for name in SCENES.objects])
    words = F.normalize(clip.model.encode_text(texts), dim=-1)
    found = [SCENES.objects[i] for i in (features @ words.T).argmax(1)]
    same = [
        a == b or any({a, b} <= group for group in SYNONYMS)
        for a, b in zip(found, labels, strict=True)
    ]
    return float(np.mean(same))


def test_the_files_are_small_and_fit_together():
    files = sorted(assets.path("").glob("scenes_clip*"))
    assert sum(file.stat().st_size for file in files) < 6 * 2**20
    config = json.loads(assets.path("scenes_clip.json").read_text())
    weights = load_file(assets.path("scenes_clip.safetensors"))
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert all(torch.isfinite(value).all() for value in weights.values())
    width = config["vision_cfg"]["width"]
    assert weights["visual.proj"].shape == (width, config["embed_dim"])
    text = config["text_cfg"]
    assert weights["token_embedding.weight"].shape == (text["vocab_size"], text["width"])
    assert weights["positional_embedding"].shape == (text["context_length"], text["width"])


def test_the_weights_are_what_the_model_computes_with(clip):
    weights = load_file(assets.path("scenes_clip.safetensors"))
    state = clip.model.state_dict()
    assert state.keys() == weights.keys()
    for name, value in weights.items():
        assert torch.equal(state[name].float(), value.float()), name


def test_the_small_vocabulary_splits_words_as_the_stock_tokenizer(clip):
    small, stock = clip.tokenizer, open_clip.tokenizer.SimpleTokenizer()
    assert small.vocab_size == clip.model.vocab_size == small.eot_token_id + 1
    words = [*SCENES.objects, *SCENES.predicates, *VG150.objects, *VG150.predicates]
    for word in words:
        ours = [small.decoder[i] for i in small.encode(word)]
        theirs = [stock.decoder[i] for i in stock.encode(word)]
        assert ours == theirs, word


@pytest.mark.parametrize("text", ["a photo of a man.", "zyzzyva quokka 42 é", "null relation"])
def test_any_text_survives_a_round_trip(clip, text):
    ids = clip.tokenizer.encode(text)
    assert max(ids) < clip.tokenizer.sot_token_id
    assert clip.tokenizer.decode(ids).replace(" ", "") == text.replace(" ", "")


def test_the_end_of_a_text_is_its_highest_id(clip):
    """open_clip pools at the highest id of a row."""
    tokens = clip.tokenizer(["man riding horse", "a photo of a woman next to a surfboard."])
    assert tokens.max() == clip.tokenizer.eot_token_id
    assert (tokens == clip.tokenizer.eot_token_id).sum(1).tolist() == [1, 1]


def test_it_names_objects_in_crops(clip, drawn):
    size = clip.model.visual.image_size
    crops, labels = [], []
    for image, boxes, names in drawn:
        tensor = normalised(clip, image)
        for (x1, y1, x2, y2), name in zip(boxes.int().tolist(), names, strict=True):
            part = tensor[None, :, y1 : y2 + 1, x1 : x2 + 1]
            crops.append(F.interpolate(part, size, mode="bilinear", antialias=True)[0])
            labels.append(name)
    assert len(labels) > 180
    assert accuracy(clip, clip.model.encode_image(torch.stack(crops)), labels) > FLOOR_CROP


def test_its_dense_map_names_objects_where_they_are(clip, drawn):
    backbone = CLIPViT(clip.model.visual)
    features, labels = [], []
    for image, boxes, names in drawn:
        tensor = normalised(clip, image)
        scale = 288 / tensor.shape[1]
        tensor = F.interpolate(tensor[None], scale_factor=scale, mode="bilinear")
        features.append(roi_mean(backbone(tensor)["clip"][0], boxes * scale, scale=1 / 16))
        labels += names
    pooled = torch.cat(features)
    assert accuracy(clip, pooled, labels) > FLOOR_DENSE
    # Pooled elsewhere in the image, the same names are no longer found.
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    assert accuracy(clip, pooled[order], labels) < 0.5 * FLOOR_DENSE


def test_it_tells_riding_from_carrying(clip, scenes):
    """Union crops of one class pair: the predicate must come from the image."""
    from scene_generator import groups, layout

    texts = ["a photo of a man riding a surfboard.", "a photo of a man carrying a surfboard."]
    words = F.normalize(clip.model.encode_text(clip.tokenizer(texts)), dim=-1)
    size, right, seen = clip.model.visual.image_size, [], set()
    for seed in range(400):
        rng = np.random.default_rng([5, seed])
        group = groups.ride(rng) if seed % 2 else groups.hold(rng)
        subject, how, obj = group.contacts[0]
        if group.figures[obj].name not in groups.BOARDS or how not in ("ride", "carry"):
            continue
        figures = layout.place(group, 160, 200, 110.0, bool(rng.integers(2)))
        image = normalised(clip, layout.render(rng, figures, 240, 320))
        boxes = np.array([figures[subject].box, figures[obj].box])
        (x1, y1), (x2, y2) = boxes[:, :2].min(0).astype(int), boxes[:, 2:].max(0).astype(int)
        part = image[None, :, max(y1, 0) : y2, max(x1, 0) : x2]
        crop = F.interpolate(part, size, mode="bilinear", antialias=True)
        answer = int((clip.model.encode_image(crop) @ words.T).argmax())
        right.append(answer == ("ride", "carry").index(how))
        seen.add(how)
    assert seen == {"ride", "carry"} and len(right) > 40
    assert np.mean(right) > 0.8


@pytest.fixture(scope="module")
def few_scenes(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes_clip")
    sizes = {"train": 8, "val": 2, "test": 0}
    scenes.prepare(folder, sizes=sizes, annotation_rate=1.0, first=1_000_000, workers=1)
    return folder


def train(repository, data, output, iterations, *options):
    command = [sys.executable, str(repository / "tools" / "train_small_clip.py")]
    command += ["--data", str(data), "--output", str(output), "--iterations", str(iterations)]
    command += [
        "--crops",
        "6",
        "--images",
        "2",
        "--checkpoint",
        str(output / "last.pt"),
        *options,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=repository)


def test_training_writes_a_model_and_goes_on_from_its_checkpoint(repository, few_scenes, tmp_path):
    done = train(repository, few_scenes, tmp_path, 3)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "scenes_clip_report.json").read_text())["objects"] > 0
    weights = tmp_path / "scenes_clip.safetensors"
    first = load_file(weights)
    clip = load_clip(str(tmp_path / "scenes_clip.json"), str(weights))
    text = clip.model.encode_text(clip.tokenizer(["a dog"]))
    assert text.shape == (1, json.loads((tmp_path / "scenes_clip.json").read_text())["embed_dim"])
    start = torch.load(tmp_path / "last.pt", weights_only=True)["model"]
    assert all(torch.equal(first[name], value.half()) for name, value in start.items())
    # Nothing is left to train: the weights come from the checkpoint, marked here.
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    state["model"]["logit_scale"] += 1
    torch.save(state, tmp_path / "last.pt")
    again = train(repository, few_scenes, tmp_path, 3)
    assert again.returncode == 0, again.stderr
    second = load_file(weights)
    assert second["logit_scale"] == pytest.approx(float(first["logit_scale"]) + 1, abs=0.01)


def test_a_checkpoint_of_another_run_is_refused(repository, few_scenes, tmp_path):
    assert train(repository, few_scenes, tmp_path, 1).returncode == 0
    refused = train(repository, few_scenes, tmp_path, 2)
    assert refused.returncode != 0
    assert "another run" in refused.stderr
