"""What one tool writes, every other one reads; and each takes a file as well as a name."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image
from scripts import load_script

from vrd_d2.commands import dataset as dataset_command
from vrd_d2.commands import evaluate as evaluate_command
from vrd_d2.data.datasets.setup import (
    register_builtin_datasets,
    register_source,
    register_user_datasets,
)
from vrd_d2.data.detections import load_own_boxes
from vrd_d2.data.formats.relations_json import load_relations_json, save_relations_json
from vrd_d2.data.vocabulary import SCENES, get_vocabulary
from vrd_d2.engine.trainer import Trainer
from vrd_d2.evaluation import RelationEvaluator, evaluate_files
from vrd_d2.evaluation.detection import DetectionEvaluator
from vrd_d2.inference.batch_run import FileOptions, PredictionRun
from vrd_d2.inference.coco_boxes import load_given_boxes
from vrd_d2.scene_graph import SceneGraph

BOXES = [[5.0, 5, 45, 55], [30, 20, 90, 75]]
IMAGES = 3
SIZE = (100, 80)


def records(folder):
    """Three images of two boxes, which are related."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(IMAGES):
        path = folder / f"{number}.png"
        pixels = np.full((SIZE[1], SIZE[0], 3), 60 * number, np.uint8)
        Image.fromarray(pixels).save(path)
        annotations = [
            {"id": 2 * number + i + 1, "bbox": box, "bbox_mode": 0, "category_id": number + i}
            for i, box in enumerate(BOXES)
        ]
        found.append(
            {
                "file_name": str(path),
                "image_id": f"image {number}" if number else 0,
                "width": SIZE[0],
                "height": SIZE[1],
                "annotations": annotations,
                "relations": np.array([[0, 1, number]]),
            }
        )
    return found


class Knowing:
    """A model that finds what is annotated: the grey of an image is its number."""

    vocabulary = SCENES
    needs_boxes = takes_boxes = needs_labels = explains = False

    def __call__(self, image, **_):
        graphs = []
        for pixels in image:
            number = int(pixels[0, 0, 0]) // 60
            graphs.append(
                SceneGraph(
                    np.array(BOXES),
                    [SCENES.objects[number], SCENES.objects[number + 1]],
                    [(0, 1, SCENES.predicates[number]), (1, 0, SCENES.predicates[5])],
                    [0.5, 0.25],
                    [0.9, 0.8],
                    size=SIZE,
                )
            )
        return graphs


def model_output(record):
    instances = Instances(SIZE[::-1], pred_boxes=Boxes(torch.tensor(BOXES)))
    instances.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]])
    instances.scores = torch.tensor([0.9, 0.8])
    relations = Instances(SIZE[::-1], pairs=torch.tensor([[1, 0], [0, 1]]))
    relations.predicate_scores = torch.full((2, len(SCENES.predicates)), 0.1)
    relations.predicate_scores[1, record["relations"][0, 2]] = 0.9
    return {"instances": instances, "relations": relations}


def tool(main, *arguments):
    code = main([str(argument) for argument in arguments])
    assert code == 0, arguments


@pytest.fixture(scope="module")
def made(tmp_path_factory, repository):
    """Everything that the tools write, by the tool and the kind."""
    root = tmp_path_factory.mktemp("made")
    scenes = root / "scenes"
    save_relations_json(records(scenes / "images"), SCENES, scenes / "test.json")
    train = root / "scenes/train.json"
    document = json.loads((scenes / "test.json").read_text())
    document["relations"] = document["relations"][:1]
    train.write_text(json.dumps(document))
    register_builtin_datasets(root, missing_images="keep")
    # Datasets.
    data = {"a file": scenes / "test.json", "a name": "scenes_test"}
    data["dataset.py convert"] = root / "converted/test.json"
    data["dataset.py convert of a name"] = root / "of_name/test.json"
    data["dataset.py split"] = root / "split/train.json"
    for source, target in (
        (data["a file"], data["dataset.py convert"]),
        ("scenes_test", data["dataset.py convert of a name"]),
    ):
        tool(dataset_command.main, "convert", source, target, "--root", root)
    tool(dataset_command.main, "split", data["a file"], "--val", 0, "--test", 0, "--output",
         root / "split")  # fmt: skip
    for kind, path in data.items():
        if kind != "a name":
            beside = Path(path).with_name("zero_shot.json")
            tool(dataset_command.main, "zero-shot", train, data["a file"], "--output", beside)
    # Predictions.
    run = PredictionRun(
        Knowing(),
        [str(scenes / "images")],
        root / "graphs",
        settings={},
        graph_options={},
        files=FileOptions(drawings=0, html="none", every=1, max_pixels=10**6),
    )
    run.work()
    run.merge()
    evaluators = [
        RelationEvaluator(
            "scenes_test", task="sgdet", output_dir=str(root / "run"), write_predictions=True
        ),
        DetectionEvaluator("scenes_test", output_dir=str(root / "run")),
    ]
    for evaluator in evaluators:
        evaluator.reset()
        for record in DatasetCatalog.get("scenes_test"):
            evaluator.process([record], [model_output(record)])
        evaluator.evaluate()
    predictions = {
        "train_net.py": root / "run/predictions.jsonl.gz",
        "train_net.py, its folder": root / "run",
        "predict.py": root / "graphs/predictions.json",
        "predict.py, its folder": root / "graphs",
        "predict.py, a process": root / "graphs/predictions-00000-of-00001.jsonl",
    }
    yield {"root": root, "data": data, "predictions": predictions, "train": train}
    register_builtin_datasets()


@pytest.fixture(autouse=True)
def at_root(made):
    """Names are looked up there, wherever the test before put them."""
    register_builtin_datasets(made["root"], missing_images="keep")


DATA = (
    "a file",
    "a name",
    "dataset.py convert",
    "dataset.py convert of a name",
    "dataset.py split",
)
PREDICTIONS = (
    "train_net.py",
    "train_net.py, its folder",
    "predict.py",
    "predict.py, its folder",
    "predict.py, a process",
)


@pytest.mark.parametrize("predictions", PREDICTIONS)
@pytest.mark.parametrize("data", DATA)
def test_evaluate(made, tmp_path, data, predictions):
    found = {}
    for task in ("sgdet", "sgcls", "predcls"):
        output = tmp_path / f"{task}.json"
        tool(
            evaluate_command.main,
            *("--ground-truth", made["data"][data], "--root", made["root"], "--task", task),
            *("--predictions", made["predictions"][predictions], "--output", output),
            *("--bootstrap", 0),
        )
        found[task] = json.loads(output.read_text())
    for results in found.values():
        # One of the three triplets is in training; the list of the others lies beside the data.
        assert results["metrics"]["R"]["20"] == results["metrics"]["zR"]["20"] == 1
        assert results["images"]["scored"] == IMAGES
        assert [results["per_predicate"][str(p)]["count"] for p in range(4)] == [1, 1, 1, 0]
        assert results["per_predicate"]["0"]["name"] == SCENES.predicates[0]


@pytest.mark.parametrize("data", DATA)
def test_dataset_tools(made, tmp_path, data, capsys):
    data, root = made["data"][data], ("--root", made["root"])
    tool(dataset_command.main, "check", data, *root, "--workers", 0)
    tool(dataset_command.main, "stats", data, *root)
    assert "relations" in capsys.readouterr().out
    tool(dataset_command.main, "convert", data, tmp_path / "new.json", *root)
    tool(dataset_command.main, "split", data, *root, "--output", tmp_path / "parts")
    tool(dataset_command.main, "zero-shot", made["train"], data, *root, "--output",
         tmp_path / "list.json")  # fmt: skip
    assert len(load_relations_json(tmp_path / "new.json")) == IMAGES
    assert len(json.loads((tmp_path / "list.json").read_text())) == 2


@pytest.mark.parametrize("data", DATA)
def test_frequency_baseline(made, repository, tmp_path, data):
    script = load_script(repository / "tools/evaluate_frequency.py")
    data = made["data"][data]
    common = ("--root", made["root"], "--output-dir", tmp_path)
    tool(script.main, "--test", data, "--train", data, *common)
    results = json.loads((tmp_path / "relations_predcls_sgb.json").read_text())
    assert results["metrics"]["R"]["20"] == results["metrics"]["zR"]["20"] == 1
    tool(script.main, "--test", data, *common)
    results = json.loads((tmp_path / "relations_predcls_sgb.json").read_text())
    assert results["images"]["total"] == 2  # of three, one is counted


def test_frequency_baseline_of_nothing_is_refused(made, repository, tmp_path, capsys):
    """Training data without relations, and one image, half of which is none."""
    main = load_script(repository / "tools/evaluate_frequency.py").main
    document = json.loads(Path(made["train"]).read_text())
    empty, single = tmp_path / "empty.json", tmp_path / "single.json"
    empty.write_text(json.dumps({**document, "relations": []}))
    image = document["images"][0]["id"]
    parts = {
        key: [record for record in document[key] if record["image_id"] == image]
        for key in ("annotations", "relations")
    }
    single.write_text(json.dumps({**document, "images": document["images"][:1], **parts}))
    for arguments, name in ((("--test", made["train"], "--train", empty), empty),
                            (("--test", single), single)):  # fmt: skip
        assert main(list(map(str, arguments))) == 1
        error = capsys.readouterr().err
        assert str(name) in error and "no relations" in error and "Traceback" not in error


@pytest.mark.parametrize("data", DATA)
def test_training_and_evaluation(made, make_cfg, data):
    data = str(made["data"][data])
    names = ["MODEL.VOCABULARY", "scenes", "DATASETS.TRAIN", (data,), "DATASETS.TEST", (data,)]
    register_builtin_datasets(made["root"])
    cfg = make_cfg("relclip_predcls.yaml", *names, "DATASETS.REGISTER", [])
    assert len(next(iter(Trainer.build_train_loader(cfg)))) == 2
    assert len(list(Trainer.build_test_loader(cfg, data))) == IMAGES
    evaluator = Trainer.build_evaluator(cfg, data)
    evaluator.reset()
    for record in DatasetCatalog.get(data):
        evaluator.process([record], [model_output(record)])
    assert evaluator.evaluate()["relations"]["zR@20"] == 100
    (written,) = Path(cfg.OUTPUT_DIR).glob("inference/*/relations_predcls_sgb.json")
    assert json.loads(written.read_text())["metrics"]["R"]["20"] == 1


@pytest.mark.parametrize("predictions", PREDICTIONS)
@pytest.mark.parametrize("data", DATA)
def test_human_evaluation(made, repository, tmp_path, data, predictions):
    script = load_script(repository / "tools/human_eval.py")
    tool(
        script.main,
        *("make", "--annotations", made["data"][data], "--root", made["root"]),
        *("--predictions", f"ours={made['predictions'][predictions]}"),
        *("--output", tmp_path / "page.html"),
    )
    shown = json.loads((tmp_path / "page.json").read_text())["pictures"]
    assert len(shown) == IMAGES
    assert all(len(image["ranked"]["ours"]) == len(image["items"]) == 2 for image in shown)


@pytest.mark.parametrize("predictions", PREDICTIONS)
@pytest.mark.parametrize("data", DATA[:2])
def test_drawing(made, repository, tmp_path, data, predictions):
    script = load_script(repository / "tools/visualize.py")
    tool(
        script.main,
        *("--dataset", made["data"][data], "--root", made["root"], "--num", 2),
        *("--predictions", made["predictions"][predictions], "--output", tmp_path),
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0_sgdet.png", "1_sgdet.png"]


def test_what_is_drawn_is_what_is_predicted(made, repository, tmp_path, monkeypatch):
    script = load_script(repository / "tools/visualize.py")
    drawn = []
    monkeypatch.setattr(
        "vrd_d2.inference.comparison.compare_relations",
        lambda graph, truth: drawn.append((graph.triplets, truth.triplets)) or graph,
    )
    for predictions in ("train_net.py", "predict.py"):
        tool(
            script.main,
            *("--dataset", made["data"]["a file"], "--num", 1, "--top-k", 1),
            *("--predictions", made["predictions"][predictions], "--output", tmp_path),
        )
    expected = [(SCENES.objects[0], SCENES.predicates[0], SCENES.objects[1])]
    assert drawn == [(expected, expected)] * 2


def test_boxes_of_a_detector_and_of_predictions(made, tmp_path):
    found = load_own_boxes(
        [["scenes_test", str(made["root"] / "run/coco_instances_results.json")]], ["scenes_test"]
    )
    for record in DatasetCatalog.get("scenes_test"):
        np.testing.assert_allclose(found[record["file_name"]].boxes, BOXES, atol=1e-4)


@pytest.mark.parametrize("data", [*DATA, "predict.py"])
def test_boxes_for_prediction(made, monkeypatch, data):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(made["root"]))
    given = load_given_boxes({**made["data"], **made["predictions"]}[data])
    boxes, labels = given.of("1.png", SIZE)
    assert boxes == BOXES and labels == list(SCENES.objects[1:3])
    assert len(given.digest) == 64
    with pytest.raises(ValueError, match="101 x 80"):
        given.of("1.png", (101, 80))


def test_predictions_are_a_dataset(made, tmp_path):
    """What predict.py wrote can be checked, counted, and trained on."""
    predictions = made["predictions"]["predict.py"]
    tool(dataset_command.main, "check", predictions, "--workers", 0)
    tool(dataset_command.main, "stats", predictions)
    assert get_vocabulary(predictions) == SCENES
    assert len(DatasetCatalog.get(register_source(predictions))) == IMAGES
    results = evaluate_files(predictions, predictions, task="sgdet")
    assert results.summary.metrics["R"][20] == 1


# --- Images found by their files ---


def moved(made, folder, change):
    """A copy of predictions.json with other images."""
    document = json.loads(made["predictions"]["predict.py"].read_text())
    change(document)
    (folder / "predictions.json").write_text(json.dumps(document))
    return folder


def evaluated(made, predictions, **changes):
    options = {"task": "sgdet", "root": made["root"], **changes}
    return evaluate_files("scenes_test", predictions, **options).summary


def test_images_that_were_moved_are_found_by_their_names(made, tmp_path, caplog):
    def elsewhere(document):
        for image in document["images"]:
            image["file_name"] = f"/nowhere/{Path(image['file_name']).name}"

    assert evaluated(made, moved(made, tmp_path, elsewhere)).metrics["R"][20] == 1
    assert "3 images are found by their names" in caplog.text and "/nowhere/0.png" in caplog.text


def test_other_images_are_left_out_and_said(made, tmp_path, caplog):
    def rename(document):
        document["images"][2]["file_name"] = "other.png"

    assert evaluated(made, moved(made, tmp_path, rename)).metrics["R"][20] == 1
    assert "1 images are not in scenes_test" in caplog.text and "other.png" in caplog.text
    assert "1 images have no prediction" in caplog.text


def all_others(document):
    for image in document["images"]:
        image["file_name"] = f"x{Path(image['file_name']).name}"


def another_size(document):
    document["images"][1].update(width=SIZE[0] + 1)


def the_same_twice(document):
    document["images"][1]["file_name"] = "/a/0.png"


def another_class(document):
    document["categories"][0]["name"] = "boyy"


def another_predicate(document):
    document["predicates"][0]["name"] = "onn"


def no_score(document):
    del document["relations"][3]["score"]


BAD = [
    (all_others, ["none of its images", "x0.png", "scenes_test"]),
    (another_size, ["image 2", "101 x 80", "100 x 80"]),
    (the_same_twice, ["/a/0.png", "one folder at a time"]),
    (another_class, ["image 1", "entities[0]", "'boyy'"]),
    (another_predicate, ["image 1", "relations[0]", "'onn'"]),
    (no_score, ["image 2", "relations[1]", "no score"]),
    (lambda document: document.pop("predicates"), ["predicates", "is missing"]),
]


@pytest.mark.parametrize(("change", "parts"), BAD, ids=[str(parts[0]) for _, parts in BAD])
def test_predictions_that_do_not_fit_are_named(made, tmp_path, change, parts):
    predictions = moved(made, tmp_path, change)
    with pytest.raises(ValueError, match=r"predictions\.json") as info:
        evaluated(made, predictions)
    assert all(part in str(info.value) for part in parts), str(info.value)


ODD_LINES = [
    ("[]", "must be a JSON object"),
    ("{}", "the key 'file_name' is missing"),
    ('{"file_name": 3}', "file_name is 3"),
    ('{"file_name": "0.png"}', "the key 'entities' is missing"),
    ('{"file_name": "0.png", "entities": {}, "relations": []}', "entities is {}"),
    ('{"file_name": "0.png", "entities": [3], "relations": []}', r"entities\[0\]: 3"),
    ('{"file_name": "0.png", "entities": [], "relations": [3]}', r"relations\[0\]: 3"),
    (
        '{"file_name": "0.png", "entities": [{"label": ["man"], "bbox": [0, 0, 1, 1]}], '
        '"relations": []}',
        r"entities\[0\]: label is \['man'\]",
    ),
    (
        '{"file_name": "0.png", "entities": [{"label": "man", "bbox": [0, 0, -1, NaN]}], '
        '"relations": []}',
        r"entities\[0\]: box",
    ),
    (
        '{"file_name": "0.png", "entities": [], "relations": '
        '[{"subject": 0, "object": 0, "predicate": "on", "score": 1}]}',
        r"relations\[0\]: subject is 0",
    ),
    ("{", "no JSON"),
]


@pytest.mark.parametrize(("line", "message"), ODD_LINES, ids=[line for line, _ in ODD_LINES])
def test_odd_lines_of_predictions_are_named(made, tmp_path, line, message):
    whole = made["predictions"]["predict.py, a process"].read_text().splitlines()
    (tmp_path / "odd.jsonl").write_text("\n".join([whole[1], line, whole[2]]))
    with pytest.raises(ValueError, match=rf"odd\.jsonl, (line|image) 2: {message}") as info:
        evaluated(made, tmp_path / "odd.jsonl")
    assert "\n" not in str(info.value)


def test_of_two_lines_about_an_image_the_later_one_counts(made, tmp_path):
    first, *others = made["predictions"]["predict.py, a process"].read_text().splitlines()
    empty = {**json.loads(first), "relations": []}
    failed = {"file_name": empty["file_name"], "error": "out of memory"}
    path = tmp_path / "twice.jsonl"
    for lines, recall in (
        ([json.dumps(empty), first, json.dumps(failed)], 1),
        ([json.dumps(failed), first, json.dumps(empty)], None),
    ):
        path.write_text("\n".join([*lines, *others]))
        summary = evaluated(made, path)
        assert summary.images["scored"] == (IMAGES if recall else IMAGES - 1)


def test_boxes_that_are_not_the_annotated_ones(made, tmp_path):
    def shift(document):
        document["annotations"][2]["bbox"][0] += 3

    predictions = moved(made, tmp_path, shift)
    assert evaluated(made, predictions).metrics["R"][20] == 1
    for task in ("sgcls", "predcls"):
        with pytest.raises(ValueError, match=rf"image 2: box \[8.0, .*{task}.*sgdet"):
            evaluated(made, predictions, task=task)


def test_boxes_given_in_another_order(made, tmp_path):
    def turn(document):
        first, second = document["annotations"][:2]
        document["annotations"][:2] = [second, first]

    predictions = moved(made, tmp_path, turn)
    for task in ("sgdet", "sgcls", "predcls"):
        assert evaluated(made, predictions, task=task).metrics["R"][20] == 1


def test_what_is_no_prediction_of_relations(made, tmp_path):
    results = made["root"] / "run/coco_instances_results.json"
    with pytest.raises(ValueError, match=r"coco_instances_results.*DATASETS\.DETECTIONS"):
        evaluated(made, results)
    with pytest.raises(ValueError, match=r"has none of predictions\.json"):
        evaluated(made, tmp_path)
    with pytest.raises(ValueError, match=r"test\.json, image 1: relations\[0\].*no score"):
        evaluated(made, made["data"]["a file"])


def test_names_need_a_ground_truth_with_names(made, tmp_path):
    lines = tmp_path / "truth.jsonl"
    lines.write_text('{"image_id": 0, "gt_boxes": [], "gt_classes": [], "gt_relations": []}\n')
    with pytest.raises(ValueError, match=r"predictions\.json.*--vocabulary"):
        evaluate_files(lines, made["predictions"]["predict.py"], task="sgdet", num_predicates=3)
    with pytest.raises(ValueError, match=r"tells images by their files"):
        evaluate_files(lines, made["predictions"]["predict.py"], task="sgdet", vocabulary=SCENES)


# --- Zero-shot lists ---


def test_a_zero_shot_list_is_read_as_names_or_ids(made, tmp_path):
    truth, predictions = made["data"]["a file"], made["predictions"]["train_net.py"]
    metrics = []
    for rows in (
        [[SCENES.objects[0], SCENES.predicates[0], SCENES.objects[1]]],
        [[0, 1, 0]],
    ):
        path = tmp_path / "list.json"
        path.write_text(json.dumps(rows))
        summary = evaluate_files(truth, predictions, task="sgdet", zero_shot=path).summary
        assert summary.images["zeroshot_scored"] == 1
        metrics.append(summary.metrics["zR"])
    assert metrics[0] == metrics[1]
    path.write_text(json.dumps([[0, 1, 0], [0, 1, len(SCENES.predicates)]]))
    with pytest.raises(ValueError, match=r"list\.json: row 1.*no predicate"):
        evaluate_files(truth, predictions, task="sgdet", zero_shot=path)


def test_a_list_that_matches_nothing_is_said(made, tmp_path, caplog):
    path = tmp_path / "list.json"
    path.write_text("[[5, 5, 5]]")
    predictions = made["predictions"]["train_net.py"]
    evaluate_files(made["data"]["a file"], predictions, task="sgdet", zero_shot=path)
    assert "none of the 1 zero-shot triplets" in caplog.text


def test_names_of_json_lines_are_those_of_the_vocabulary(made, tmp_path):
    line = {
        "image_id": 1, "gt_boxes": BOXES, "gt_classes": [0, 1], "gt_relations": [[0, 1, 0]],
        "pairs": [[0, 1]], "predicate_scores": [[0.5] + [0.1] * (len(SCENES.predicates) - 1)],
    }  # fmt: skip
    lines, listed = tmp_path / "both.jsonl", tmp_path / "list.json"
    lines.write_text(json.dumps(line))
    listed.write_text(json.dumps([[SCENES.objects[0], SCENES.predicates[0], SCENES.objects[1]]]))
    output = tmp_path / "out.json"
    tool(
        evaluate_command.main,
        *("--ground-truth", lines, "--predictions", lines, "--task", "predcls"),
        *("--zero-shot", listed, "--vocabulary", "scenes", "--output", output),
    )
    assert json.loads(output.read_text())["metrics"]["zR"]["20"] == 1
    with pytest.raises(ValueError, match=r"row 0.*--vocabulary"):
        evaluate_files(lines, lines, task="predcls", zero_shot=listed)


# --- Names ---


def test_every_tool_tells_a_mistyped_name_with_those_like_it(made, repository, tmp_path, capsys):
    predictions = ("--predictions", made["predictions"]["train_net.py"])
    scripts = {
        name: load_script(repository / f"tools/{name}.py").main
        for name in ("evaluate_frequency", "human_eval", "visualize")
    }
    for main, arguments in (
        (evaluate_command.main, ("--ground-truth", "scenes_tst", *predictions)),
        (dataset_command.main, ("stats", "scenes_tst")),
        (dataset_command.main, ("zero-shot", made["train"], "scenes_tst")),
        (scripts["evaluate_frequency"], ("--test", "scenes_tst")),
        (scripts["evaluate_frequency"], ("--test", "scenes_test", "--train", "scenes_tst")),
        (scripts["human_eval"], ("make", "--annotations", "scenes_tst", *predictions, "--output",
                                 tmp_path / "x.html")),
        (scripts["visualize"], ("--dataset", "scenes_tst", *predictions, "--output", tmp_path)),
    ):  # fmt: skip
        assert main([str(argument) for argument in arguments]) == 1
        *_, error = capsys.readouterr().err.splitlines()
        assert error.startswith("error: ") and "'scenes_tst'; did you mean scenes_test" in error
        assert "names are registered" in error and len(error) < 250


def test_a_dataset_that_other_code_registered_is_opened_by_its_name(made):
    name = "mine_registered_by_code"
    found = DatasetCatalog.get("scenes_test")
    DatasetCatalog.register(name, lambda: list(found))
    MetadataCatalog.get(name).set(
        thing_classes=list(SCENES.objects), predicate_classes=list(SCENES.predicates)
    )
    register_user_datasets([["mine_by_file", str(made["data"]["a file"]), ""]])
    for registered in (name, "mine_by_file"):
        results = evaluate_files(registered, made["predictions"]["predict.py"], task="sgdet")
        assert results.summary.metrics["R"][20] == 1
