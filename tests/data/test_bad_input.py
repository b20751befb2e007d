"""What users get wrong: each error names the file or key, the record and the remedy.

On the command line it is one line that begins with "error:", the exit code is 1, and there is no
traceback, since an exception would leave ``main``.
"""

import json
import re

import pytest
from conftest import TINY_OBJECTS, TINY_PREDICATES, tiny_images
from PIL import Image

from vrd_d2.data.formats.relations_json import save_relations_json
from vrd_d2.data.vocabulary import SCENES, Vocabulary
from vrd_d2.engine.build import build_mapper, build_trained_model
from vrd_d2.engine.trainer import Trainer

TINY = Vocabulary(TINY_OBJECTS, TINY_PREDICATES)


@pytest.fixture(scope="module")
def main(dataset_tool):
    return dataset_tool.main


@pytest.fixture
def data(tmp_path):
    """data.json beside its images 0.png to 4.png."""
    path = tmp_path / "data.json"
    save_relations_json(tiny_images(tmp_path), TINY, path)
    return path


def set_value(section, index, key, value):
    """Spoil one value of the document."""

    def spoil(path):
        document = json.loads(path.read_text())
        document[section][index][key] = value
        path.write_text(json.dumps(document))

    return spoil


def set_section(section, value):
    """Spoil or, with None, remove a list of the document."""

    def spoil(path):
        document = json.loads(path.read_text())
        document[section] = value
        if value is None:
            del document[section]
        path.write_text(json.dumps(document))

    return spoil


def cut(name, share):
    """Let a file end early."""

    def spoil(path):
        file = path.with_name(name)
        content = file.read_bytes()
        file.write_bytes(content[: int(share * len(content))])

    return spoil


def put(name, content):
    """Write a file beside the document."""

    def spoil(path):
        content_bytes = content if isinstance(content, bytes) else content.encode()
        path.with_name(name).write_bytes(content_bytes)

    return spoil


def boxes_only(path):
    document = json.loads(path.read_text())
    del document["predicates"], document["relations"]
    path.write_text(json.dumps(document))


def rotated(path):
    """An image stored on its side, as cameras do, with the size of the file as it lies there."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path.with_name("1.png")).save(path.with_name("1.png"), exif=exif)


def two_of_a_name(path):
    """Images of one name outside the image folder, in different folders."""
    document = json.loads(path.read_text())
    for index, folder in enumerate(("a", "b")):
        (path.parent.parent / folder).mkdir(exist_ok=True)
        target = path.parent.parent / folder / "same.png"
        target.write_bytes(path.with_name(f"{index}.png").read_bytes())
        document["images"][index]["file_name"] = str(target)
    path.write_text(json.dumps(document))


def scenes_with(zero_shot):
    """A root with scenes_test, whose list of zero-shot triplets is spoilt."""

    def spoil(path):
        folder = path.parent / "scenes"
        folder.mkdir()
        save_relations_json([], SCENES, folder / "test.json")
        (folder / "zero_shot.json").write_text(zero_shot)

    return spoil


def nothing(path):
    pass


CHECK, CONVERT = ["check", "{data}"], ["convert", "{data}", "{folder}/new.json"]
SPLIT = ["split", "{data}", "--output", "{folder}/parts"]
DEEP = "[" * 100_000
# (name, what is wrong with data.json or beside it, the call, what the message must have).
CALLS = [
    ("no such file", nothing, ["stats", "{folder}/none.json"],
     ["there is no file {folder}/none.json: check the path"]),
    ("no such dataset", nothing, ["stats", "scenes_tst"],
     ["neither a file nor a registered dataset 'scenes_tst'; did you mean scenes_test"]),
    ("files of a dataset that are not there", nothing, ["stats", "vrd_test", "--root", "{folder}"],
     ["{folder}/vrd", "does not exist", "README"]),
    ("JSON that ends early", cut("data.json", 0.7), CHECK,
     ["{data} is no complete JSON file", "write or copy it again"]),
    ("empty file", put("data.json", ""), ["convert", "{data}", "{folder}/new.json"],
     ["{data} is no complete JSON file"]),
    ("no text", put("data.json", b"\xff\xfe\x00\x01"), CHECK, ["{data} is no complete JSON file"]),
    ("endless brackets", put("data.json", DEEP), CHECK, ["{data} is no complete JSON file"]),
    ("a list on top", put("data.json", "[]"), CHECK, ["{data}: top level: must be an object"]),
    ("a list that is missing", set_section("relations", None), CHECK,
     ["{data}: relations: is missing: add a list"]),
    ("a section that is no list", set_section("images", {}), CHECK, ["{data}: images: is no list"]),
    ("no predicates", set_section("predicates", []), CHECK, ["{data}:", "predicate"]),
    ("a repeated id", set_value("annotations", 1, "id", 1), CHECK,
     ["{data}: annotations[1] (id 1): has the same id as annotations[0]"]),
    ("an unknown class", set_value("annotations", 1, "category_id", 9), CHECK,
     ["{data}: annotations[1] (id 2): category_id 9 is not an id of categories: correct it or"]),
    ("an unknown image", set_value("annotations", 1, "image_id", 9), CHECK,
     ["{data}: annotations[1] (id 2): image_id 9 is not an id of images: correct it or add"]),
    ("an unknown box", set_value("relations", 0, "subject_id", 99), CHECK,
     ["{data}: relations[0] (id 1): subject_id 99 is not an id of annotations: correct it or"]),
    ("an unknown predicate", set_value("relations", 0, "predicate_id", 0), CHECK,
     ["{data}: relations[0] (id 1): predicate_id 0 is not an id of predicates: correct it or"]),
    ("a relation across images", set_value("relations", 0, "object_id", 5), CHECK,
     ["{data}: relations[0] (id 1): object_id 5 is in image 2", "image 1"]),
    ("a box of three numbers", set_value("annotations", 0, "bbox", [1, 2, 3]), CHECK,
     ["{data}: annotations[0] (id 1): bbox is [1, 2, 3]: it must be [x, y, width, height]"]),
    ("a box of texts", set_value("annotations", 0, "bbox", ["1", 2, 3, 4]), CHECK,
     ["{data}: annotations[0] (id 1): bbox is", "four finite numbers"]),
    ("a box that is not finite", set_value("annotations", 0, "bbox", [1, 2, float("nan"), 4]),
     CHECK, ["{data}: annotations[0] (id 1): bbox is", "four finite numbers"]),
    ("a box as two corners", set_value("annotations", 0, "bbox", [60, 80, -5, -5]), CHECK,
     ["{data}: annotations[0] (id 1): bbox is", "width and height not negative"]),
    ("a repeated class name", set_value("categories", 1, "name", "man"), CHECK,
     ["{data}: categories[1] (id 2): repeats the name 'man': names must be unique"]),
    ("an empty predicate", set_value("predicates", 2, "name", " "), CHECK,
     ["{data}: predicates[2] (id 3): its name ' ' is empty: give it one"]),
    ("a size of text", set_value("images", 0, "width", "100"), CHECK,
     ["{data}: images[0] (id 1): width is '100': it must be of type int"]),
    ("a size of 0", set_value("images", 0, "width", 0), CHECK,
     ["{data}: images[0] (id 1): size 0 x 100: both must be positive"]),
    ("a missing image", set_value("images", 0, "file_name", "9.png"), CHECK,
     ["{data}: images[0] (id 1): there is no image {folder}/9.png: put it there or correct"]),
    ("the wrong folder", nothing, [*CHECK, "--images", "{folder}/elsewhere"],
     ["images[0] (id 1): there is no image {folder}/elsewhere/0.png"]),
    ("an image that ends early", cut("0.png", 0.5), CHECK,
     ["{folder}/0.png", "bytes", "get it again"]),
    ("an empty image", put("0.png", ""), CHECK, ["{folder}/0.png", "0 bytes"]),
    ("a page instead of an image", put("0.png", "<html>Not found</html>"), CHECK,
     ["{folder}/0.png, 22 bytes"]),
    ("another size", set_value("images", 0, "width", 101), CHECK,
     ["{folder}/0.png has 100 x 100 pixels", "states 101 x 100: correct the dataset"]),
    ("a size before rotation", rotated, CHECK,
     ["{folder}/1.png has 95 x 106 pixels, turned upright", "states 106 x 95"]),
    ("processes below none", nothing, [*CHECK, "--workers", "-1"], ["workers is -1"]),
    ("a missing image to convert", set_value("images", 0, "file_name", "9.png"), CONVERT,
     ["{data}: 1 of 5 images are missing: {folder}/9.png. Put them there"]),
    ("boxes without predicates", boxes_only, CONVERT,
     ["{data} has boxes only: name the predicates that go with it, --vocabulary"]),
    ("no such vocabulary", nothing, [*CONVERT, "--vocabulary", "vg105"],
     ["vocabulary 'vg105' is neither one of", "nor an existing JSON file"]),
    ("a vocabulary without names", put("names.json", '{"objects": ["man"]}'),
     [*CONVERT, "--vocabulary", "{folder}/names.json"], ["{folder}/names.json", "predicates"]),
    ("names that a vocabulary lacks",
     put("names.json", '{"objects": ["man", "dog"], "predicates": ["on"]}'),
     [*CONVERT, "--vocabulary", "{folder}/names.json"],
     ["{data}", "hat, holding, next to, wearing", "--vocabulary"]),
    ("copies of one name", two_of_a_name, [*CONVERT, "--copy-images"],
     ["/a/same.png and", "would both become {folder}/images/same.png", "rename one of them"]),
    ("a file in the place of a folder", put("parts", ""), SPLIT, ["{folder}/parts"]),
    ("more images than there are", nothing, [*SPLIT, "--val", "9"],
     ["test 1, val 9 are more than the 5 images: take fewer"]),
    ("a share beyond 1", nothing, [*SPLIT, "--test", "1.5"],
     ["test is 1.5: a share must be in 0..1"]),
    ("a number below 0", nothing, [*SPLIT, "--test", "-2"], ["test is -2: a number of images"]),
    ("two vocabularies", put("other.json", json.dumps(
        {"images": [], "annotations": [], "relations": [],
         "categories": [{"id": 1, "name": "man"}], "predicates": [{"id": 1, "name": "on"}]})),
     ["zero-shot", "{data}", "{folder}/other.json"],
     ["{data} and {folder}/other.json have different classes or predicates: convert one"]),
    ("an unknown name among zero-shot triplets", scenes_with('[["man", "onn", "hat"]]'),
     ["check", "scenes_test", "--root", "{folder}"],
     ["{folder}/scenes/zero_shot.json: row 0", "unknown predicate 'onn'; did you mean 'on'"]),
    ("zero-shot triplets of two names", scenes_with('[["man", "hat"]]'),
     ["check", "scenes_test", "--root", "{folder}"],
     ["{folder}/scenes/zero_shot.json: row 0", "it must be a JSON list of [subject name"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "call", "parts"), [row[1:] for row in CALLS], ids=[row[0] for row in CALLS]
)
def test_calls_of_the_tool(main, data, capsys, spoil, call, parts):
    places = {"data": str(data), "folder": str(data.parent)}
    spoil(data)
    assert main([argument.format(**places) for argument in call]) == 1
    captured = capsys.readouterr()
    # `check` reports what it found; other commands fail.
    lines = (captured.out if call[0] == "check" else "").splitlines() + captured.err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    wanted = [
        part.replace("{data}", str(data)).replace("{folder}", str(data.parent)) for part in parts
    ]
    assert any(all(part in line for part in wanted) for line in errors), lines


def train(cfg):
    """What a training reads before its first iteration."""
    next(iter(Trainer.build_train_loader(cfg)))


def load_all(cfg):
    list(Trainer.build_test_loader(cfg, cfg.DATASETS.TEST[0]))


def build_evaluator(cfg):
    Trainer.build_evaluator(cfg, cfg.DATASETS.TEST[0])


PREDCLS = "relclip_predcls.yaml"
# (name, config, overrides with places, what reads it, what the message must have).
CONFIGS = [
    ("a row of two", PREDCLS, ["DATASETS.REGISTER", [["mine", "{data}"]]], None,
     ["DATASETS.REGISTER[0] is", "it must be [name, relations_json file, image folder]"]),
    ("a name that is taken", PREDCLS, ["DATASETS.REGISTER", [["scenes_test", "{data}", ""]]], None,
     ["'scenes_test' is taken by", "choose another name for {data}"]),
    ("a policy that is none", PREDCLS, ["DATASETS.MISSING_IMAGES", "drop"], None,
     ["missing_images is 'drop': choose one of error, skip"]),
    ("a test set that is none", PREDCLS, ["DATASETS.TEST", ("scene_test",)], load_all,
     ["nor a registered dataset 'scene_test'; did you mean scenes_test", "DATASETS.REGISTER"]),
    ("a training set that is none", PREDCLS, ["DATASETS.TRAIN", ("nowhere",)], train,
     ["nor a registered dataset 'nowhere'", "correct DATASETS.TRAIN and TEST"]),
    ("a list that is not there", PREDCLS, ["DATASETS.EXCLUDE", "{folder}/bad.txt"], None,
     ["{folder}/bad.txt", "an image's file name a line"]),
    ("another vocabulary", PREDCLS, ["MODEL.VOCABULARY", "vrd"], train,
     ["3 thing_classes, MODEL.VOCABULARY 'vrd' has 100", "set MODEL.VOCABULARY to"]),
    ("crops", PREDCLS, ["INPUT.CROP.ENABLED", True], train,
     ["INPUT.CROP.ENABLED is True: a crop loses boxes", "set it to False"]),
    ("a row of three", PREDCLS, ["DATASETS.DETECTIONS", [["a", "b", "c"]]], load_all,
     ["DATASETS.DETECTIONS[0] is ['a', 'b', 'c']: it must be [dataset name, COCO results"]),
    ("results that are not there", PREDCLS, ["DATASETS.DETECTIONS", [["{set}", "{folder}/r.json"]]],
     load_all, ["there is no file {folder}/r.json", "correct DATASETS.DETECTIONS"]),
    ("counts that are not there", "quickstart/frequency_predcls.yaml",
     ["MODEL.PREDICATE_PRIOR.COUNTS", "{folder}/counts.json"], build_trained_model,
     ["MODEL.PREDICATE_PRIOR.COUNTS: ", "{folder}/counts.json"]),
    ("a frequency baseline that should classify", "quickstart/frequency_predcls.yaml",
     ["MODEL.RELATION.TASK", "sgcls"], build_trained_model,
     ["FrequencyBaseline sees nothing", "set MODEL.RELATION.TASK to predcls or sgdet"]),
    ("a task that is none", PREDCLS, ["MODEL.RELATION.TASK", "predcl"], build_trained_model,
     ["unknown task 'predcl': choose one of predcls, sgcls, sgdet"]),
    ("a protocol that is none", PREDCLS, ["TEST.RELATION.PROTOCOL", "lu"], train,
     ["TEST.RELATION, {set}: unknown protocol 'lu'", "sgb", "vrd"]),
    ("a switch that is none", PREDCLS, ["TEST.RELATION.ANNOTATED_PAIRS", "only"], train,
     ["TEST.RELATION, {set}: annotated_pairs is 'only'", "True, False, or None"]),
    ("a switch that is none, in evaluation", PREDCLS, ["TEST.RELATION.ANNOTATED_PAIRS", "only"],
     build_evaluator, ["TEST.RELATION, {set}: annotated_pairs is 'only'"]),
    ("annotated pairs of detected boxes", PREDCLS, ["TEST.RELATION.ANNOTATED_PAIRS", True,
     "MODEL.RELATION.TASK", "sgdet"], train,
     ["TEST.RELATION, {set}: sgdet has no annotated pairs", "predcls"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "overrides", "read", "parts"),
    [row[1:] for row in CONFIGS],
    ids=[r[0] for r in CONFIGS],
)
def test_configs(make_cfg, tiny_json, tmp_path, name, overrides, read, parts):
    places = {"{data}": str(tiny_json), "{folder}": str(tmp_path)}
    places["{set}"] = make_cfg(name).DATASETS.TEST[0]

    def filled(value):
        if isinstance(value, list):
            return [filled(item) for item in value]
        for place, text in places.items():
            value = value.replace(place, text) if isinstance(value, str) else value
        return value

    with pytest.raises(ValueError, match=re.escape(filled(parts[0]))) as info:
        cfg = make_cfg(name, *filled(overrides))
        read(cfg)
    assert all(filled(part) in str(info.value) for part in parts)


# (name, what is wrong with a dataset dict, what the message must have).
DICTS = [
    ("a relation to no box", {"relations": [[0, 7, 1]]}, ["relations[0] is [0, 7, 1]"]),
    ("a relation counted from the end", {"relations": [[0, -1, 1]]}, ["indices of the 3 boxes"]),
    ("a relation of two numbers", {"relations": [[0, 1]]}, ["they must be (R, 3)"]),
    ("another width", {"width": 77}, ["has 100 x 100 pixels", "states 77 x 100: correct the"]),
    ("no image", {"file_name": "none/0.png"}, ["none/0.png", "is missing: put it there"]),
]


@pytest.mark.parametrize(("changes", "parts"), [r[1:] for r in DICTS], ids=[r[0] for r in DICTS])
def test_dicts_of_the_users_own_code(make_cfg, tmp_path, changes, parts):
    cfg = make_cfg(PREDCLS)
    record = {**tiny_images(tmp_path)[0], **changes}
    with pytest.raises(ValueError, match=r"^image .*0\.png \(image 1\)") as info:
        build_mapper(cfg, [], is_train=False)(record)
    assert all(part in str(info.value) for part in parts)


def test_there_are_many_kinds():
    names = [row[0] for row in (*CALLS, *CONFIGS, *DICTS)]
    assert len(set(names)) == len(names) >= 60
