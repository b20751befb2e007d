"""The drawn scenes: rules of the labels in scenes built by hand, files, splits, determinism."""

import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from scripts import load_script

from vrd_d2.data.formats.relations_json import load_relations_json
from vrd_d2.data.vocabulary import SCENES

SCRIPT = Path(__file__).parents[2] / "datasets" / "prepare_scenes.py"
GENERATOR = SCRIPT.parent / "scene_generator"
SIZES = {"train": 120, "val": 5, "test": 80}


@pytest.fixture(scope="module")
def scenes():
    return load_script(SCRIPT)


@pytest.fixture(scope="module")
def folder(scenes, tmp_path_factory):
    path = tmp_path_factory.mktemp("scenes")
    assert scenes.prepare(path, sizes=SIZES, workers=1)
    return path


def situations(scenes, *placements, height=240, width=320):
    """Situations by names of a scene of (class, x, foot line) or (group, x, foot line)."""
    layout, rng = scenes.layout, np.random.default_rng(0)
    figures, contacts = [], []
    for what, x, base in placements:
        group = layout.Group()
        if isinstance(what, str):
            group.add(draw_figure(what, rng))
        else:
            group = what
        offset = len(figures)
        figures += layout.place(group, x, base, 100.0, False)
        contacts += [(s + offset, how, o + offset) for s, how, o in group.contacts]
    masks = [layout.mask(f, height, width) for f in figures]
    found = layout.relations(figures, contacts, masks)
    return {(figures[s].name, how, figures[o].name) for s, how, o in found}, figures, masks


def draw_figure(name, rng):
    from scene_generator import drawing, things

    return (drawing.person if name in drawing.PEOPLE else things.thing)(name, rng)


def test_git_tracks_the_generator(repository):
    """Other folders of datasets/, such as the drawn dataset itself, are ignored."""
    if not (repository / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a checkout with git: nothing is tracked here")

    def git(*arguments):
        command = ["git", "-C", repository, *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    tracked = git("ls-files", "-z", "datasets/scene_generator").stdout.split("\0")
    files = {str(p.relative_to(repository)) for p in GENERATOR.glob("*.py")}
    assert len(files) > 4 and files <= set(tracked)
    assert git("check-ignore", "--no-index", "datasets/scene_generator/new.py").returncode == 1
    assert git("check-ignore", "datasets/scenes/train.json").returncode == 0


def test_gap_and_level_decide_between_next_to_near_and_nothing(scenes):
    def found(box_x, box_base):
        return situations(scenes, ("man", 60, 200), ("box", box_x, box_base))[0]

    assert found(105, 200) == {("man", "beside", "box")}
    assert found(120, 200) == {("man", "near", "box")}  # the gap is too wide for "next to"
    assert found(105, 220) == {("man", "near", "box")}  # the foot lines differ by 8 %
    assert found(105, 226) == set()
    assert found(200, 200) == set()


def test_people_then_animals_then_the_left_one_are_the_subject_of_next_to(scenes):
    assert situations(scenes, ("box", 105, 200), ("man", 60, 200))[0] == {("man", "beside", "box")}
    assert situations(scenes, ("cup", 80, 200), ("box", 50, 200))[0] == {("box", "beside", "cup")}


def test_occlusion_alone_decides_in_front_of_and_behind(scenes):
    front, figures, masks = situations(scenes, ("man", 100, 201), ("box", 105, 200))
    behind, others, _ = situations(scenes, ("man", 100, 200), ("box", 105, 201))
    assert front == {("man", "front", "box")}
    assert behind == {("man", "behind", "box")}
    for a, b in zip(figures, others, strict=True):  # the boxes do not show it
        assert np.abs(np.subtract(a.box, b.box)).max() < 2
    # Independent of the rule: painted over one another, the shared pixels show the one in front.
    shares = scenes.layout.visible(figures, masks)
    assert shares[0] == pytest.approx(1.0)
    assert shares[1] < 0.88


def test_a_roof_covers_what_stands_below_it(scenes):
    found, _, _ = situations(scenes, ("tree", 150, 210), ("dog", 180, 211))
    assert ("dog", "under", "tree") in found
    assert not any(how in ("beside", "near") for _, how, _ in found)
    assert ("dog", "under", "tree") not in situations(
        scenes, ("tree", 150, 210), ("dog", 240, 211)
    )[0]


def test_an_animal_looks_at_the_first_thing_before_it(scenes):
    found, _, _ = situations(scenes, ("dog", 60, 200), ("chair", 110, 200), ("man", 140, 200))
    assert {o for s, how, o in found if how == "look"} == {"chair"}
    behind_it = situations(scenes, ("dog", 120, 200), ("man", 60, 200))[0]
    assert not any(how == "look" for _, how, _ in behind_it)


def test_contact_replaces_what_geometry_would_say(scenes):
    from scene_generator import groups

    for build, hows in ((groups.ride, {"ride"}), (groups.supported, {"sit", "stand"})):
        group = build(np.random.default_rng(3))
        found, _, _ = situations(scenes, (group, 160, 220))
        rider, how, mount = group.contacts[0]
        names = group.figures[rider].name, group.figures[mount].name
        assert how in hows
        assert {h for s, h, o in found if {s, o} == set(names)} <= hows | {"wear"}


def test_annotation_is_complete_at_rate_one_and_sparse_below(scenes):
    rng = np.random.default_rng(0)
    truth = [(0, "ride", 1), (2, "beside", 0)]
    complete = set(scenes.annotate(rng, truth, 1.0))
    assert complete == {(s, name, o) for s, how, o in truth for name in scenes.NAMES[how]}
    counts = Counter(
        name for _ in range(2000) for _, name, _ in scenes.annotate(rng, truth[:1], 0.5)
    )
    further = 0.5**8
    expected = 2000 * 0.5 * (0.82 + 0.18 * further)
    assert counts["riding"] == pytest.approx(expected, rel=0.07)


def test_boxes_are_tight_and_inside(scenes):
    for seed in range(25):
        rng = np.random.default_rng(seed)
        height, width = 210, 280
        figures, _, masks = scenes.layout.arrange(rng, height, width)
        for figure, mask in zip(figures, masks, strict=True):
            ys, xs = np.nonzero(mask)
            drawn = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            assert np.abs(np.subtract(figure.box, drawn)).max() < 2.5, figure.name
            x1, y1, x2, y2 = figure.box
            assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height


def test_every_object_stays_visible_and_images_vary(scenes):
    counts, sizes = [], set()
    for seed in range(40):
        image, objects, found = scenes.make_scene(np.random.default_rng(seed))
        assert image.dtype == np.uint8 and image.shape[2] == 3
        assert all({s, o} <= set(range(len(objects))) and s != o for s, _, o in found)
        assert {how for _, how, _ in found} <= set(scenes.NAMES)
        assert {o["name"] for o in objects} <= set(SCENES.objects)
        counts.append(len(objects))
        sizes.add(image.shape)
        assert image.std() > 10
    assert max(counts) <= 12 and np.mean(counts) > 4 and len(sizes) > 10


def test_names_of_situations_are_the_predicates_of_the_vocabulary(scenes):
    assert {n for names in scenes.NAMES.values() for n in names} == set(SCENES.predicates)
    assert all(sum(names.values()) == pytest.approx(1) for names in scenes.NAMES.values())
    assert scenes.classes() == (SCENES.objects, SCENES.predicates)


def test_an_image_depends_on_seed_split_and_index_alone(scenes, folder):
    first = scenes.make_record(0, 0.7, "test", 3)
    again = scenes.make_record(0, 0.7, "test", 3)
    assert np.array_equal(first.pop("image"), again.pop("image"))
    assert first == again
    data = json.loads((folder / "test.json").read_text())
    written = [a["bbox"][:2] for a in data["annotations"] if a["image_id"] == 4]
    assert written == [o["bbox"][:2] for o in first["objects"]]
    boxes = [str(scenes.make_record(0, 0.7, split, 3)["objects"]) for split in scenes.SPLITS]
    assert len(set(boxes)) == 3
    assert scenes.make_record(1, 0.7, "test", 3)["objects"] != first["objects"]


def test_zero_shot_triples_are_never_true_in_training_and_occur_in_test(scenes, folder):
    withheld = {tuple(t) for t in json.loads((folder / "zero_shot.json").read_text())}
    assert withheld
    train = {t for _, t in scenes.triples_of(folder / "train.json")}
    test = [t for _, t in scenes.triples_of(folder / "test.json")]
    assert not train & withheld
    assert 0.01 < np.mean([t in withheld for t in test]) < 0.15
    for i in range(30):  # also among what is not annotated
        record = scenes.make_record(0, 1.0, "train", i)
        names = [o["name"] for o in record["objects"]]
        assert not {(names[s], p, names[o]) for s, p, o in record["relations"]} & withheld


def test_names_of_classes_alone_do_not_solve_it(scenes, folder):
    report = scenes.report(folder)
    assert report["prior"] < 0.55
    assert report["one predicate a pair at best"] > 0.8
    counts = report["predicates"]
    assert set(counts) == set(SCENES.predicates)
    assert max(counts.values()) > 5 * min(counts.values())  # a long tail


def test_files_load_with_pycocotools_and_the_package(folder, capsys):
    coco = COCO(str(folder / "train.json"))
    assert len(coco.getImgIds()) == SIZES["train"]
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(SCENES.objects)
    dicts = load_relations_json(folder / "train.json")
    assert len(dicts) == SIZES["train"]
    assert all(Path(d["file_name"]).is_file() for d in dicts)
    total = len(json.loads((folder / "train.json").read_text())["relations"])
    assert sum(len(d["relations"]) for d in dicts) == total
    captions = [caption for d in dicts for caption in d.get("captions", [])]
    assert any(" riding a" in caption for caption in captions)


def test_a_finished_folder_is_left_as_it_is(scenes, tmp_path):
    sizes = {"train": 0, "val": 2, "test": 0}
    assert scenes.prepare(tmp_path, sizes=sizes, workers=1)
    before = (tmp_path / "val.json").stat().st_mtime_ns
    assert not scenes.prepare(tmp_path, sizes=sizes, workers=1)
    assert (tmp_path / "val.json").stat().st_mtime_ns == before
    assert scenes.prepare(tmp_path, sizes=sizes, workers=1, annotation_rate=1.0)
    assert scenes.prepare(tmp_path, sizes=sizes, workers=1, first=1)
    boxes = [a["bbox"][:2] for a in json.loads((tmp_path / "val.json").read_text())["annotations"]]
    expected = scenes.make_record(0, 0.7, "val", 1)["objects"]
    assert boxes[: len(expected)] == [o["bbox"][:2] for o in expected]
    with pytest.raises(ValueError, match="annotation rate"):
        scenes.prepare(tmp_path, sizes=sizes, annotation_rate=1.5)
