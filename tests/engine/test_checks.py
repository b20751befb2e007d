"""What of a dataset does not suit a model is reported before the training."""

import numpy as np
import pytest
from conftest import TINY_OBJECTS, TINY_PREDICATES
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode
from PIL import Image

from vrd_d2.data.formats.relations_json import save_relations_json
from vrd_d2.data.vocabulary import Vocabulary
from vrd_d2.engine.checks import check_training_data


@pytest.mark.parametrize(
    ("apart", "message"), [(3, "nothing is left to learn from"), (2, "False"), (1, None)]
)
def test_relations_that_overlap_leaves_out_are_reported(
    make_cfg, tmp_path, caplog, monkeypatch, apart, message
):
    """Of three relations so many are between boxes that do not overlap."""
    Image.fromarray(np.zeros((80, 80, 3), np.uint8)).save(tmp_path / "a.png")
    record = {"file_name": str(tmp_path / "a.png"), "image_id": 1, "height": 80, "width": 80}
    boxes = [[0, 0, 20, 20], [10, 10, 30, 30], [20, 0, 40, 10]]  # the third only touches the first
    record["annotations"] = [
        {"id": i, "bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": i}
        for i, box in enumerate(boxes)
    ]
    rows = [(0, 2, p) if p < apart else (0, 1, p) for p in range(3)]
    record["relations"] = np.array(rows)
    file, name = tmp_path / "mine.json", f"apart_{apart}"
    save_relations_json([record], Vocabulary(TINY_OBJECTS, TINY_PREDICATES), file)
    changes = ["DATASETS.REGISTER", [[name, str(file), ""]], "DATASETS.TRAIN", (name,)]
    cfg = make_cfg("relclip_predcls.yaml", "MODEL.VOCABULARY", str(file), *changes)
    DatasetCatalog.get(name)
    if apart == 3:
        monkeypatch.setattr("vrd_d2.engine.checks._LOOKED_AT", 0)  # the rest may overlap
        check_training_data(cfg)
        monkeypatch.undo()
        with pytest.raises(ValueError, match=f"3 of 3 relations .*REQUIRE_OVERLAP.*{message}"):
            check_training_data(cfg)
        cfg.MODEL.RELATION.REQUIRE_OVERLAP = False
    check_training_data(cfg)
    logged = [r.getMessage() for r in caplog.records if "REQUIRE_OVERLAP" in r.getMessage()]
    assert (message in logged[0]) if apart == 2 else not logged
