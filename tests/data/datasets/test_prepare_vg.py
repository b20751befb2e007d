"""datasets/prepare_vg.py: both vocabularies side by side, read back by their registered names."""

import json
import sys

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from scripts import load_script

from vrd_d2.data.datasets.setup import register_builtin_datasets
from vrd_d2.data.vocabulary import get_vocabulary


@pytest.fixture
def prepare(repository, monkeypatch):
    """Runs the script with arguments."""
    script = load_script(repository / "datasets/prepare_vg.py")

    def run(*arguments) -> None:
        monkeypatch.setattr(sys, "argv", ["prepare_vg.py", *map(str, arguments)])
        script.main()

    return run


@pytest.fixture
def root(tmp_path):
    """Forty raw images; every second one has a relation of VG20, all have one of VG150."""
    folder = tmp_path / "visual_genome"
    (folder / "images").mkdir(parents=True)
    content = {"image_data": [], "objects": [], "relationships": []}
    for i in range(1, 41):
        (folder / f"images/{i}.jpg").touch()
        ends = [
            {"object_id": 10 * i + k, "x": 1, "y": 1, "w": 5, "h": 5, "names": [name]}
            for k, name in enumerate(("man", ("horse", "bike", "hat")[i % 3]))
        ]
        rows = [{"predicate": "on", "subject": ends[0], "object": ends[1]}]
        if i % 2:
            rows.append({"predicate": "riding", "subject": ends[0], "object": ends[1]})
        content["image_data"].append({"image_id": i, "width": 20, "height": 10})
        content["objects"].append({"image_id": i, "objects": ends})
        content["relationships"].append({"image_id": i, "relationships": rows})
    for name, records in content.items():
        (folder / f"{name}.json").write_text(json.dumps(records))
    register_builtin_datasets(tmp_path)
    yield tmp_path
    register_builtin_datasets()


def test_both_vocabularies_side_by_side(prepare, root):
    genome = root / "visual_genome"
    for name in ("vg150", "vg20"):
        prepare("--root", genome, "--vocabulary", name, "--test", 0.3, "--validation", 4)
    for name, images, predicates in (("vg150", 40, {"on", "riding"}), ("vg20", 20, {"riding"})):
        vocabulary, triplets, ids = get_vocabulary(name), {}, []
        for split in ("train", "val", "test"):
            records = DatasetCatalog.get(f"{name}_{split}")
            ids += [record["image_id"] for record in records]
            triplets[split] = set(map(tuple, records.triplets().tolist()))
            found = {vocabulary.predicates[p] for r in records for p in r["relations"][:, 2]}
            assert found == predicates
        assert len(ids) == len(set(ids)) == images
        unseen = MetadataCatalog.get(f"{name}_test").zero_shot_triplets
        assert set(unseen) == triplets["test"] - triplets["train"]
