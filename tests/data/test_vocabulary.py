"""Built-in name lists against the public files, and reading of one's own."""

import json

import pytest

from vrd_d2.data.vocabulary import SCENES, VG20, VG150, VRD, Vocabulary, get_vocabulary


def test_vg150_has_the_ids_of_the_public_dicts(samples):
    dicts = json.loads((samples / "vg150/VG-SGG-dicts-with-attri.json").read_text())
    assert {name: i + 1 for i, name in enumerate(VG150.objects)} == dicts["label_to_idx"]
    assert {name: i + 1 for i, name in enumerate(VG150.predicates)} == dicts["predicate_to_idx"]
    assert (len(VG150.objects), len(VG150.predicates)) == (150, 50)


def test_vg20_is_the_public_list_in_its_order(samples):
    lines = (samples / "vg150/vg20_predicates.txt").read_text().split("\n")
    assert list(VG20.predicates) == [line for line in lines if line]
    assert len(VG20.predicates) == 20
    assert VG20.objects == VG150.objects
    assert set(VG20.predicates) < set(VG150.predicates)


def test_vrd_is_the_original_lists(samples):
    assert list(VRD.objects) == json.loads((samples / "vrd/objects.json").read_text())
    assert list(VRD.predicates) == json.loads((samples / "vrd/predicates.json").read_text())
    assert (len(VRD.objects), len(VRD.predicates)) == (100, 70)


def test_vg_sgg_dicts_are_read_as_a_vocabulary(samples):
    assert get_vocabulary(samples / "vg150/VG-SGG-dicts-with-attri.json") == VG150


def test_built_ins_by_name():
    assert get_vocabulary("vg150") is VG150
    assert get_vocabulary("vg20") is VG20
    assert get_vocabulary("vrd") is VRD
    assert get_vocabulary("scenes") is SCENES
    assert SCENES.objects[0] == "man" and SCENES.predicates[-1] == "beside"


def test_ids_are_positions():
    assert VG150.object_id("airplane") == 0
    assert VG150.object_id("zebra") == 149
    assert VG150.predicate_id("with") == 49


def test_unknown_names_are_answered_with_the_nearest_known():
    with pytest.raises(ValueError, match=r"unknown object class 'womn'.*'woman'"):
        VG150.object_id("womn")
    with pytest.raises(ValueError, match=r"unknown predicate 'qqqq'.*known: 'above'.*42 more"):
        VG150.predicate_id("qqqq")


@pytest.mark.parametrize(
    ("objects", "predicates", "message"),
    [
        ([], ["on"], "objects of a vocabulary are empty"),
        (["a"], [], "predicates of a vocabulary are empty"),
        (["a", "b", "a"], ["on"], r"objects\[2\] repeats the name 'a' of objects\[0\]"),
        (["a"], ["on", " "], r"predicates\[1\] is ' '"),
        (["a", 3], ["on"], r"objects\[1\] is 3"),
        ("man", ["on"], "list of names"),
    ],
)
def test_bad_lists_are_refused(objects, predicates, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(objects, predicates)


def test_lists_become_tuples_so_that_equal_means_equal():
    assert Vocabulary(["a"], ["on"]) == Vocabulary(("a",), ("on",))
    assert hash(Vocabulary(["a"], ["on"])) == hash(Vocabulary(("a",), ("on",)))


@pytest.mark.parametrize(
    "content",
    [
        {"objects": ["a", "b"], "predicates": ["on"]},
        {
            "categories": [{"id": 7, "name": "b"}, {"id": 3, "name": "a"}],
            "predicates": [{"id": 1, "name": "on"}],
        },
        {"label_to_idx": {"b": 2, "a": 1}, "predicate_to_idx": {"__background__": 0, "on": 1}},
    ],
)
def test_vocabulary_from_a_file(tmp_path, content):
    path = tmp_path / "names.json"
    path.write_text(json.dumps(content))
    assert get_vocabulary(path) == get_vocabulary(str(path)) == Vocabulary(["a", "b"], ["on"])


def test_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "names.json"
    path.write_text('{"objects": ["a"], "predicates": ["on"]}')
    assert get_vocabulary(path).objects == ("a",)
    path.write_text('{"objects": ["a", "b"], "predicates": ["on"]}')
    assert get_vocabulary(path).objects == ("a", "b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"objects": ["a"', "no complete JSON"),
        ("[]", "expected the keys"),
        ('{"objects": ["a"]}', "expected the keys"),
        ('{"categories": ["a"], "predicates": ["on"]}', "categories must be a list of"),
        ('{"label_to_idx": {"a": 2}, "predicate_to_idx": {"on": 1}}', "without gaps"),
        ('{"label_to_idx": {"a": "x"}, "predicate_to_idx": {"on": 1}}', "numbers from 1"),
        ('{"objects": ["a", "a"], "predicates": ["on"]}', "repeats the name"),
    ],
)
def test_bad_files_are_named_with_a_remedy(tmp_path, text, message):
    path = tmp_path / "names.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as info:
        get_vocabulary(path)
    assert str(path) in str(info.value)


def test_a_name_that_is_neither_built_in_nor_a_file():
    with pytest.raises(ValueError, match="'vg151' is neither one of vg150, vg20, vrd, psg, scenes"):
        get_vocabulary("vg151")


ODD_NAMES = [
    "\ud800",
    "a\udc80b",
    "a\nb",
    "\x00",
    "tab\tbed",
    "\x1b[31mred",
    "",
    "  ",
    "\u3000",
    "\x85",
]


@pytest.mark.parametrize("name", ODD_NAMES, ids=[ascii(name) for name in ODD_NAMES])
@pytest.mark.parametrize("kind", ["objects", "predicates"])
def test_what_is_no_name_is_refused_everywhere(tmp_path, name, kind):
    names = {"objects": ["man", "dog"], "predicates": ["on", "under"], kind: ["man", name]}
    with pytest.raises(ValueError, match=rf"{kind}\[1\]") as error:
        Vocabulary(**names)
    assert str(error.value).isprintable()
    for content in (
        names,
        {"label_to_idx": {n: i for i, n in enumerate(names["objects"], 1)},
         "predicate_to_idx": {n: i for i, n in enumerate(names["predicates"], 1)}},
    ):  # fmt: skip
        path = tmp_path / "names.json"
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=rf"names\.json: {kind}\[1\]"):
            get_vocabulary(path)


def test_names_that_differ_only_by_blanks_are_refused():
    for twin in ("man ", " man", "tall  man"):
        first = " ".join(twin.split())
        with pytest.raises(ValueError, match=r"objects\[2\].*objects\[0\].*blanks"):
            Vocabulary([first, "dog", twin], ["on"])
    assert Vocabulary(["man ", "dog"], ["on"]).objects[0] == "man "  # alone, it is a name


def test_names_that_differ_only_by_case_are_told(tmp_path, caplog):
    path = tmp_path / "names.json"
    names = {"objects": ["Man", "dog", "man", "DOG", "hat"], "predicates": ["on", "On"]}
    path.write_text(json.dumps(names))
    assert len(get_vocabulary(path).objects) == 5
    objects, predicates = caplog.messages
    assert str(path) in objects and "2 objects" in objects and "'Man'" in objects
    assert "'man'" in objects and "'On'" in predicates and "1 predicates" in predicates
    get_vocabulary(path)
    assert len(caplog.messages) == 2  # once for a file
