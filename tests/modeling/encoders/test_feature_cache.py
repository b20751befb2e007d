"""Cached visual maps: the same results, no second encoding, and never those of another encoder."""

import errno
import io
import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model

from vrd_d2.config import load_config
from vrd_d2.data import atomic_files
from vrd_d2.data.dataset_mapper import RelationMapper
from vrd_d2.modeling import RelCLIP
from vrd_d2.modeling.encoders import feature_cache
from vrd_d2.modeling.encoders.feature_cache import FeatureCache, fingerprint


def images(count):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(256, (3, 8 + i, 10), generator=generator, dtype=torch.uint8)
        for i in range(count)
    ]


class Encoder:
    def __init__(self, images):
        self.images, self.calls = images, []

    def __call__(self, indices):
        self.calls.append(indices)
        return [self.images[i].float()[:, ::2, ::2] / 7 for i in indices]


def test_each_image_is_encoded_once(tmp_path):
    inputs = images(3)
    encoder = Encoder(inputs)
    cache = FeatureCache(tmp_path / "maps", "a")
    first = cache.get(inputs[:2], encoder)
    again = cache.get(inputs, encoder)
    assert encoder.calls == [[0, 1], [2]]
    for a, b, image in zip(first, again, inputs, strict=False):
        assert torch.equal(a, b) and a.dtype == torch.float32
        torch.testing.assert_close(a, image.float()[:, ::2, ::2] / 7, atol=0.02, rtol=1e-3)
    assert FeatureCache(tmp_path / "maps", "a").get(inputs, encoder)[0].equal(first[0])
    assert len(encoder.calls) == 2


def test_other_pixels_are_another_entry(tmp_path):
    image = images(1)[0]
    cache = FeatureCache(tmp_path, "a")
    for variant in (image, image.flip(2), image + 1, image.reshape(3, 10, 8)):
        encoder = Encoder([variant])
        cache.get([variant], encoder)
        assert encoder.calls == [[0]]


def test_cache_of_another_encoder_is_refused(tmp_path):
    FeatureCache(tmp_path, "a")
    with pytest.raises(ValueError, match=r"MODEL\.VISUAL\.FEATURE_CACHE"):
        FeatureCache(tmp_path, "b")


@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        ("relclip_predcls", "bebc20754f26a033"),
        ("relclip_predcls_detector_encoder", "2e0942cea1dcee7c"),
        ("unionclip_mlp", "f685c8a8b10c96e5"),
    ],
)
def test_folders_of_version_0_1_are_accepted(name, encoder, repository, tmp_path):
    """What stood in their encoder.json, with the weights that ship."""
    folder = tmp_path / "maps"
    folder.mkdir()
    (folder / "encoder.json").write_text(json.dumps({"encoder": encoder}))
    overrides = ["MODEL.DEVICE", "cpu", "MODEL.VISUAL.FEATURE_CACHE", str(folder)]
    model = build_model(load_config(repository / f"configs/quickstart/{name}.yaml", overrides))
    model.eval()
    image = torch.zeros(3, 96, 96, dtype=torch.uint8)
    if name.startswith("unionclip"):
        model.crops.states(image[None])
    else:
        model.visual_maps([{"image": image}])
    assert len(list(folder.glob("*/*.npy"))) == 1


def test_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"MODEL\.VISUAL\.FEATURE_CACHE.*encoder\.json"):
        FeatureCache(tmp_path, "a")


def saved(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def zipped(path):
    np.savez(path.with_suffix(""), a=np.zeros(3, np.float16))
    path.with_suffix(".npz").replace(path)


def outside(path):
    target = path.parents[2] / "outside.npy"
    path.replace(target)
    path.symlink_to(target)


def folder(path):
    path.unlink()
    path.mkdir()


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def linked_folder(path):
    elsewhere = path.parents[2] / "elsewhere"
    path.parent.replace(elsewhere)
    path.parent.symlink_to(elsewhere)


WHOLE = np.ones((3, 4, 5), np.float16)  # of the first of images()
ODD = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "cut_in_header": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(248)),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"00"),
    "text": lambda path: path.write_text("no map"),
    "zip": zipped,
    "pickle": lambda path: path.write_bytes(saved(np.array([{}], object), allow_pickle=True)),
    "torch": lambda path: torch.save(torch.zeros(3), path),
    "other_shape": lambda path: path.write_bytes(saved(WHOLE[:, :2])),
    "flat": lambda path: path.write_bytes(saved(WHOLE.ravel())),
    "number": lambda path: path.write_bytes(saved(np.float16(1))),
    "double": lambda path: path.write_bytes(saved(WHOLE.astype(float))),
    "whole_numbers": lambda path: path.write_bytes(saved(WHOLE.astype(np.int16))),
    "fields": lambda path: path.write_bytes(saved(np.zeros(3, [("a", np.float16)]))),
    "columns_first": lambda path: path.write_bytes(saved(np.asfortranarray(WHOLE))),
    "nan": lambda path: path.write_bytes(saved(np.where(WHOLE == 1, np.nan, WHOLE))),
    "one_infinity": lambda path: path.write_bytes(
        saved((WHOLE / (1 - np.eye(60)[7].reshape(3, 4, 5))).astype(np.float16))
    ),
    "link_outside": outside,
    "folder": folder,
    "pipe": pipe,
    "folder_link_outside": linked_folder,
}


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("kind", ODD)
def test_an_odd_file_is_named_and_made_again(kind, tmp_path, caplog):
    image = images(1)[0]
    cache = FeatureCache(tmp_path / "maps", "a", shape_of=lambda image: (3, 4, 5))
    (expected,) = cache.get([image], Encoder([image]))
    (path,) = (tmp_path / "maps").rglob("*.npy")
    whole = path.read_bytes()
    ODD[kind](path)
    other = None
    if "outside" in kind:
        (other,) = [p for p in tmp_path.rglob("*.npy") if "maps" not in p.parts]
        other.write_bytes(saved(WHOLE))
    for _ in range(2):
        encoder = Encoder([image])
        (found,) = FeatureCache(tmp_path / "maps", "a", shape_of=lambda image: (3, 4, 5)).get(
            [image], encoder
        )
        assert found.equal(expected) and found.dtype == torch.float32
    # A folder is not removed, and nothing is written through a link to one: neither is stored.
    stays = kind in ("folder", "folder_link_outside")
    assert encoder.calls == ([[0]] if stays else [])
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == (4 if stays else 1)  # of two caches
    assert str(path) in told[0] and "\n" not in "".join(told)
    if not stays:
        assert path.read_bytes() == whole and not path.is_symlink()
    if other is not None:
        assert other.read_bytes() == saved(WHOLE)


def test_many_odd_files_are_not_a_flood_of_lines(tmp_path, caplog):
    inputs = [image[:, :, i:] for image in images(3) for i in range(5)]
    cache = FeatureCache(tmp_path, "a")
    cache.get(inputs, Encoder(inputs))
    for path in tmp_path.rglob("*.npy"):
        path.write_bytes(b"")
    cache.get(inputs, Encoder(inputs))
    assert len(caplog.records) == 10


def test_an_encoder_of_another_shape_than_expected_is_stored_nevertheless(tmp_path):
    inputs = images(3)
    cache = FeatureCache(tmp_path, "a", shape_of=lambda image: (1, 1, 1))
    cache.get(inputs, Encoder(inputs))
    encoder = Encoder(inputs)
    cache.get(inputs, encoder)
    assert encoder.calls == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 70000.0])
def test_maps_that_half_precision_does_not_hold_are_refused(value, tmp_path):
    cache = FeatureCache(tmp_path, "a")
    with pytest.raises(ValueError, match=r"MODEL\.VISUAL\.FEATURE_CACHE.*half precision"):
        cache.get(images(1), lambda indices: [torch.full((3, 2, 2), value)])
    assert not list(tmp_path.rglob("*.npy"))


MANIFESTS = ["", "{", "[]", "null", '{"encoder": 3}', '{"encoder": ""}', "\x00" * 30, "[" * 3000]


@pytest.mark.parametrize("content", MANIFESTS)
def test_maps_of_a_damaged_manifest_are_made_again(content, tmp_path, caplog):
    inputs = images(2)
    FeatureCache(tmp_path, "a").get(inputs, Encoder(inputs))
    (tmp_path / "encoder.json").write_text(content)
    (tmp_path / "ab").mkdir(exist_ok=True)
    (tmp_path / "ab/notes.txt").write_text("mine")
    for expected in ([[0, 1]], []):
        encoder = Encoder(inputs)
        FeatureCache(tmp_path, "b").get(inputs, encoder)
        assert encoder.calls == expected
    (line,) = caplog.records
    assert "encoder.json" in line.getMessage()
    assert (tmp_path / "ab/notes.txt").read_text() == "mine"
    with pytest.raises(ValueError, match=r"MODEL\.VISUAL\.FEATURE_CACHE"):
        FeatureCache(tmp_path, "a")


def test_a_damaged_manifest_beside_other_files_is_refused(tmp_path):
    (tmp_path / "encoder.json").write_text("{")
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"MODEL\.VISUAL\.FEATURE_CACHE.*encoder\.json"):
        FeatureCache(tmp_path, "a")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_manifest_that_is_no_file_is_refused(make, tmp_path):
    make(tmp_path / "encoder.json")
    with pytest.raises(ValueError, match=r"MODEL\.VISUAL\.FEATURE_CACHE.*encoder\.json"):
        FeatureCache(tmp_path, "a")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "maps").write_text("")
    for path in (tmp_path / "maps", tmp_path / "maps/below"):
        with pytest.raises(ValueError, match=r"MODEL\.VISUAL\.FEATURE_CACHE.*maps"):
            FeatureCache(path, "a")


def test_leftovers_are_removed(tmp_path):
    image = images(1)[0]
    FeatureCache(tmp_path, "a").get([image], Encoder([image]))
    (path,) = tmp_path.rglob("*.npy")
    old = [path.with_name(f".{path.name}.4711"), tmp_path / ".encoder.json.4711"]
    new = path.with_name(".0123456789abcdef.unfinished")
    young = path.with_name(f".{path.name}.4712")  # of a process that may be writing it now
    for leftover in (*old, new, young):
        leftover.write_bytes(b"")
    for leftover in old:
        os.utime(leftover, (0, 0))
    path.unlink()
    atomic_files._remove_leftovers.cache_clear()  # as in another process
    FeatureCache(tmp_path, "a").get([image], Encoder([image]))
    assert [leftover.exists() for leftover in (*old, new, young)] == [False, False, False, True]


def test_a_full_disk_is_told_once_and_maps_are_stored_when_there_is_room(
    tmp_path, caplog, monkeypatch
):
    inputs = images(3)
    cache = FeatureCache(tmp_path, "a")

    def full(path, content, *, sync):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(feature_cache, "write_bytes", full)
        first = cache.get(inputs, Encoder(inputs))
        cache.get(inputs, Encoder(inputs))
    (line,) = caplog.records
    assert str(tmp_path) in line.getMessage() and os.strerror(errno.ENOSPC) in line.getMessage()
    for expected in ([[0, 1, 2]], []):
        encoder = Encoder(inputs)
        found = cache.get(inputs, encoder)
        assert encoder.calls == expected
        assert all(map(torch.equal, first, found))


def fill(folder, encoder, barrier, queue):
    """In a process of its own: fill the cache several times, and say how often it encoded."""
    inputs = images(40)
    barrier.wait()
    try:
        cache = FeatureCache(folder, encoder)
        maps = cache.get(inputs, Encoder(inputs))
        good = all(
            m.equal((i.float()[:, ::2, ::2] / 7).half().float())
            for m, i in zip(maps, inputs, strict=True)
        )
        queue.put((encoder, good))
    except ValueError as error:
        queue.put((encoder, str(error)))


@pytest.mark.parametrize("encoders", ["aa", "ab"])
def test_two_processes_share_a_cache_of_one_encoder_alone(encoders, tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(2), context.Queue()
    arguments = [(tmp_path / "maps", encoder, barrier, queue) for encoder in encoders]
    processes = [context.Process(target=fill, args=args) for args in arguments]
    for process in processes:
        process.start()
    answers = [queue.get(timeout=30) for _ in processes]
    for process in processes:
        process.join(30)
    good = [encoder for encoder, answer in answers if answer is True]
    assert len(good) == (2 if encoders == "aa" else 1)
    assert all("FEATURE_CACHE" in answer for _, answer in answers if answer is not True)
    assert len(list(tmp_path.rglob("*.npy"))) == 40
    assert not list(tmp_path.rglob("*.unfinished"))


def test_fingerprint_depends_on_weights_and_settings():
    torch.manual_seed(0)
    module = torch.nn.BatchNorm1d(3)
    before = fingerprint(module, (1, 2))
    assert before == fingerprint(module, (1, 2)) != fingerprint(module, (1, 3))
    with torch.no_grad():
        module.bias[1] += np.float32(1e-7)
    assert before != fingerprint(module, (1, 2))


def test_model_with_cache_equals_model_without(make_cfg, tmp_path):
    results = []
    for folder in ("", str(tmp_path / "maps"), str(tmp_path / "maps")):
        cfg = make_cfg("relclip_predcls.yaml", "MODEL.VISUAL.FEATURE_CACHE", folder)
        torch.manual_seed(0)
        model = RelCLIP(cfg).eval()
        if len(results) == 2:
            model.visual.maps = None  # everything is read
        mapper = RelationMapper(cfg, is_train=False)
        examples = [mapper(record) for record in DatasetCatalog.get(cfg.DATASETS.TRAIN[0])]
        with torch.no_grad():
            results.append([output["relations"].predicate_probs for output in model(examples)])
    for plain, cached, read in zip(*results, strict=True):
        torch.testing.assert_close(plain, cached, atol=1e-3, rtol=1e-2)
        assert torch.equal(cached, read)
