"""RelationEvaluator inside Detectron2: results, errors, hooks, several processes."""

import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import SimpleTrainer
from detectron2.engine.hooks import BestCheckpointer, EvalHook
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from vrd_d2.evaluation import PROTOCOLS, RelationEvaluator, evaluate_files

NAME = "evaluation_test"
NUM_PREDICATES = 4
IMAGES = 9


def make_dicts() -> list[dict]:
    generator = np.random.default_rng(0)
    dicts = []
    for image_id in range(IMAGES):
        boxes = generator.integers(0, 50, (4, 4))
        relations = np.column_stack(
            [generator.integers(0, 4, (5, 2)), generator.integers(0, NUM_PREDICATES, 5)]
        )
        annotations = [
            {"bbox": [x, y, w, h], "bbox_mode": BoxMode.XYWH_ABS, "category_id": i % 3, "id": i}
            for i, (x, y, w, h) in enumerate(boxes.tolist())
        ]
        dicts.append(
            {
                "file_name": f"{image_id}.jpg",
                "image_id": f"image-{image_id}",
                "height": 100,
                "width": 120,
                "annotations": annotations,
                "relations": relations[: 5 * (image_id != 4)],  # one has none
            }
        )
    return dicts


def register() -> None:
    DatasetCatalog.register(NAME, make_dicts)
    MetadataCatalog.get(NAME).set(
        predicate_classes=[f"predicate {i}" for i in range(NUM_PREDICATES)],
        thing_classes=["person", "horse", "hat"],
    )


@pytest.fixture
def dataset() -> Iterator[list[dict]]:
    register()
    yield make_dicts()
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def model_output(record: dict, pairs: int = 12) -> dict:
    """The same random predictions on the ground-truth boxes in every process."""
    number = int(record["image_id"].split("-")[1])
    generator = torch.Generator().manual_seed(number)
    boxes = torch.tensor([a["bbox"] for a in record["annotations"]], dtype=torch.float32)
    boxes[:, 2:] += boxes[:, :2]
    instances = Instances((100, 120))
    instances.pred_boxes = Boxes(boxes)
    instances.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]])
    instances.scores = torch.rand(len(boxes), generator=generator)
    relations = Instances((100, 120))
    relations.pairs = torch.randint(0, 4, (pairs, 2), generator=generator)
    logits = torch.randn(pairs, NUM_PREDICATES + 1, generator=generator)
    relations.predicate_probs = logits.softmax(1)
    relations.predicate_scores = relations.predicate_probs[:, :-1]
    return {"instances": instances, "relations": relations}


def feed(evaluator: RelationEvaluator, records: list[dict]) -> None:
    for record in records:
        evaluator.process([{"image_id": record["image_id"]}], [model_output(record)])


def results_of(records: list[dict], **options: object) -> dict:
    options = {"task": "sgcls", "bootstrap": 0, **options}
    evaluator = RelationEvaluator(NAME, **options)
    feed(evaluator, records)
    return evaluator.evaluate()


def test_results_are_percent_by_name(dataset: list[dict], caplog) -> None:
    with caplog.at_level(logging.INFO):
        results = results_of(dataset, zero_shot=[(0, 1, 2)])
        print_csv_format(results)
    assert list(results) == ["relations"]
    numbers = results["relations"]
    assert {"R@20", "R@50", "R@100", "ng-R@50", "mR@50", "ng-mR@100", "F@50"} <= set(numbers)
    assert {"A@20", "top1", "PR@20", "zR@50", "ng-zR@50", "mR-tail@100"} <= set(numbers)
    assert all(isinstance(value, float) and 0 <= value <= 100 for value in numbers.values())
    assert numbers["R@100"] > 1  # not a fraction
    table = next(r.message for r in caplog.records if "protocol sgb" in r.message)
    assert NAME in table and "sgcls" in table and "8 of 9" in table
    assert any("copypaste: R@20,R@50,R@100,mR@20" in r.message for r in caplog.records)


def test_zero_shot_comes_from_the_metadata(dataset: list[dict]) -> None:
    assert "zR@50" not in results_of(dataset)["relations"]
    MetadataCatalog.get(NAME).zero_shot_triplets = [[0, 1, 2]]
    given = results_of(dataset, zero_shot=[(0, 1, 2)])
    assert results_of(dataset)["relations"] == pytest.approx(given["relations"])


def test_other_protocols_have_another_key(dataset: list[dict]) -> None:
    for protocol in set(PROTOCOLS) - {"sgb"}:
        assert list(results_of(dataset, protocol=protocol)) == [f"relations_{protocol}"]


def test_another_choice_of_pairs_has_another_key(dataset: list[dict], tmp_path: Path) -> None:
    for protocol, choice, name in (
        ("sgb", True, "sgb_annotated"),
        ("vrd", False, "vrd_all_pairs"),
        ("vrd", True, "vrd"),
    ):
        results = results_of(
            dataset, protocol=protocol, annotated_pairs=choice, output_dir=str(tmp_path)
        )
        assert list(results) == [f"relations_{name}"]
        written = json.loads((tmp_path / f"relations_sgcls_{name}.json").read_text())
        assert (written["protocol"], written["annotated_pairs"]) == (name, choice)
    with pytest.raises(ValueError, match=r"sgdet has no annotated pairs.*predcls"):
        RelationEvaluator(NAME, task="sgdet", annotated_pairs=True)


def test_reset_forgets(dataset: list[dict]) -> None:
    evaluator = RelationEvaluator(NAME, task="sgcls", bootstrap=0)
    feed(evaluator, dataset[:3])
    evaluator.reset()
    feed(evaluator, dataset)
    assert evaluator.evaluate() == results_of(dataset)


def test_images_twice_in_any_order_count_once(dataset: list[dict]) -> None:
    assert results_of(dataset[::-1] + dataset[2:5]) == results_of(dataset)


def test_missing_images_are_logged(dataset: list[dict], caplog) -> None:
    all_given = results_of(dataset, protocol="motifs")["relations_motifs"]["R@100"]
    with caplog.at_level(logging.WARNING):
        some = results_of(dataset[:5], protocol="motifs")["relations_motifs"]["R@100"]
    assert "4 of 9" in caplog.text
    first = [results_of([r], protocol="motifs")["relations_motifs"]["R@100"] for r in dataset]
    assert some == pytest.approx(sum(first[:5]))
    assert all_given == pytest.approx(sum(first))


def test_other_classes_in_predcls_are_logged(dataset: list[dict], caplog) -> None:
    evaluator = RelationEvaluator(NAME, task="predcls", bootstrap=0)
    output = model_output(dataset[0])
    with caplog.at_level(logging.WARNING):
        evaluator.process([dataset[0]], [output])
        assert not caplog.records
        output["instances"].pred_classes += 1
        output["instances"].pred_classes %= 3
        evaluator.process([dataset[1]], [output])
    assert NAME in caplog.text and "PredCls" in caplog.text


def test_half_precision_and_empty_outputs(dataset: list[dict]) -> None:
    evaluator = RelationEvaluator(NAME, task="sgdet", bootstrap=0)
    for number, record in enumerate(dataset):
        output = model_output(record, pairs=0 if number == 2 else 12)
        relations = output["relations"]
        relations.predicate_scores = relations.predicate_scores.bfloat16()
        if number == 3:
            output = {name: instances[:0] for name, instances in output.items()}
        evaluator.process([record], [output])
    evaluator.evaluate()
    assert evaluator.summary.images["skipped_no_predicted_pairs"] == 2


def broken(change: str, record: dict) -> dict:
    output = model_output(record)
    instances, relations = output["instances"], output["relations"]
    if change == "pair":
        relations.pairs[0, 0] = 7
    elif change == "class":
        instances.pred_classes[0] = 3
    elif change == "background":
        relations.predicate_scores = relations.predicate_probs
    elif change == "nan":
        relations.predicate_scores[3, 1] = math.nan
    elif change == "score":
        instances.scores[0] = math.nan
    elif change == "field":
        relations.remove("predicate_scores")
    return output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("pair", "pairs.* 7 .* 4 "),
        ("class", "class 3 .* 3 "),
        ("background", r"predicate_scores.*\[12, 5\].*\[12, 4\].*background"),
        ("nan", "predicate_scores.*NaN"),
        ("score", "scores"),
        ("field", "predicate_scores"),
    ],
)
def test_unusable_output_names_the_image(dataset: list[dict], change: str, message: str) -> None:
    evaluator = RelationEvaluator(NAME, task="sgcls")
    with pytest.raises(ValueError, match=f"{NAME}, image 'image-4': .*{message}"):
        evaluator.process([dataset[4]], [broken(change, dataset[4])])


def test_unknown_image_is_refused(dataset: list[dict]) -> None:
    evaluator = RelationEvaluator(NAME, task="sgcls")
    with pytest.raises(ValueError, match=f"17.*'{NAME}'.*image-0"):
        evaluator.process([{"image_id": 17}], [model_output(dataset[0])])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda dicts: dicts[1].pop("relations"), 'image-1.*"relations"'),
        (lambda dicts: dicts[1].update(image_id="image-0"), "'image-0'"),
    ],
)
def test_unusable_datasets_are_refused(dataset: list[dict], change, message: str) -> None:
    change(dataset)
    DatasetCatalog.remove(NAME)
    DatasetCatalog.register(NAME, lambda: dataset)
    with pytest.raises(ValueError, match=message):
        RelationEvaluator(NAME, task="sgcls")


def test_other_unusable_arguments(dataset: list[dict]) -> None:
    with pytest.raises(ValueError, match="sggen"):
        RelationEvaluator(NAME, task="sggen")
    with pytest.raises(ValueError, match="output_dir"):
        RelationEvaluator(NAME, task="sgdet", write_predictions=True)
    with pytest.raises(ValueError, match=r"\[0, 20\]"):
        RelationEvaluator(NAME, task="sgdet", ks=(0, 20))
    with pytest.raises(ValueError, match=r"training_counts.* 2 .* 4 "):
        RelationEvaluator(NAME, task="sgdet", training_counts=[1, 2]).evaluate()
    MetadataCatalog.get(NAME).__dict__.pop("predicate_classes")
    with pytest.raises(ValueError, match="predicate_classes"):
        RelationEvaluator(NAME, task="sgdet")


def test_written_predictions_give_the_same_figures(dataset: list[dict], tmp_path: Path) -> None:
    for task in ("predcls", "sgcls", "sgdet"):
        folder = tmp_path / task
        evaluator = RelationEvaluator(
            NAME, task=task, output_dir=str(folder), write_predictions=True, bootstrap=20
        )
        feed(evaluator, dataset)
        evaluator.reset()
        feed(evaluator, dataset)
        evaluator.evaluate()
        assert sorted(path.name for path in folder.iterdir()) == [
            "predictions.jsonl.gz",
            f"relations_{task}_sgb.json",
        ]
        truth = tmp_path / "truth.jsonl"
        with truth.open("w") as file:
            for record in dataset:
                line = {"image_id": record["image_id"], "gt_boxes": [], "gt_classes": []}
                for a in record["annotations"]:
                    x, y, w, h = a["bbox"]
                    line["gt_boxes"].append([x, y, x + w, y + h])
                    line["gt_classes"].append(a["category_id"])
                line["gt_relations"] = record["relations"].tolist()
                file.write(json.dumps(line) + "\n")
        read = evaluate_files(truth, folder / "predictions.jsonl.gz", task=task, bootstrap=20)
        assert read.summary.metrics == evaluator.summary.metrics
        assert read.summary.intervals == evaluator.summary.intervals
        np.testing.assert_array_equal(read.summary.confusion, evaluator.summary.confusion)
        document = json.loads((folder / f"relations_{task}_sgb.json").read_text())
        assert (document["protocol"], document["task"]) == ("sgb", task)
        assert document["metrics"]["R"]["50"] == read.summary.metrics["R"][50]
        assert document["per_predicate"]["2"]["name"] == "predicate 2"


class _Model(torch.nn.Module):
    def __init__(self, records: list[dict]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self._records = {record["image_id"]: record for record in records}

    def forward(self, inputs: list[dict]) -> list[dict]:
        return [model_output(self._records[example["image_id"]]) for example in inputs]


def test_hooks_read_the_results(dataset: list[dict]) -> None:
    """inference_on_dataset, EvalHook and BestCheckpointer take the nested dict as it is."""
    model = _Model(dataset)

    def evaluate() -> dict:
        evaluator = RelationEvaluator(NAME, task="sgcls", bootstrap=0)
        return inference_on_dataset(model, [[record] for record in dataset], evaluator)

    saved = []

    class Checkpointer:
        def save(self, name: str, **kwargs: object) -> None:
            saved.append(name)

    trainer = SimpleTrainer(model, [None], torch.optim.SGD(model.parameters(), 0.1))
    trainer.iter, trainer.max_iter = 0, 2
    best = BestCheckpointer(1, Checkpointer(), "relations/mR@50")
    with EventStorage() as storage:
        trainer.storage = storage
        for hook in (EvalHook(1, evaluate), best):
            hook.trainer = trainer
            hook.after_step()
        assert storage.latest()["relations/R@50"][0] == evaluate()["relations"]["R@50"]
    assert saved == ["model_best"]


def _worker(rank: int, processes: int, folder: str) -> None:
    """Shards of different lengths, one image in several, one shard empty."""
    register()
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=processes
    )
    shards = [[7, 0, 3, 8], [3, 1, 2, 4, 5, 6, 0], []]
    records = make_dicts()
    evaluator = RelationEvaluator(
        NAME, task="sgdet", output_dir=folder, write_predictions=True, bootstrap=30
    )
    feed(evaluator, [records[i] for i in shards[rank]])
    results = evaluator.evaluate()
    assert bool(results) == comm.is_main_process()
    if rank == 0:
        Path(folder, "results.json").write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()


def test_three_processes_equal_one(dataset: list[dict], tmp_path: Path) -> None:
    mp.spawn(_worker, (3, str(tmp_path)), nprocs=3)
    together = json.loads((tmp_path / "results.json").read_text())
    alone = RelationEvaluator(NAME, task="sgdet", output_dir=str(tmp_path / "1"), bootstrap=30)
    feed(alone, dataset)
    assert together == alone.evaluate()
    name = "relations_sgdet_sgb.json"
    assert (tmp_path / name).read_text() == (tmp_path / "1" / name).read_text()
    assert (tmp_path / "predictions.jsonl.gz").exists()
    assert not list(tmp_path.glob("predictions.*.jsonl.gz"))
