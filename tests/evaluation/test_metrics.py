"""The table of metrics: what follows from a row, and that README.md shows the same table."""

import json
from pathlib import Path

import numpy as np
import pytest

from vrd_d2.evaluation import metrics as table
from vrd_d2.evaluation.image import ROW
from vrd_d2.evaluation.metrics import METRICS, ZERO_SHOT, Metric, definitions_table
from vrd_d2.evaluation.protocols import PROTOCOLS
from vrd_d2.evaluation.recall import IMAGE, summarize
from vrd_d2.evaluation.report import flat_results, results_json, results_table, write_json
from vrd_d2.tasks import Task


def test_the_readme_has_this_table(repository: Path) -> None:
    readme = (repository / "vrd_d2/evaluation/README.md").read_text()
    assert definitions_table() in readme, f"put this into the README:\n{definitions_table()}"


def test_names_are_unique_and_parts_exist() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for index, metric in enumerate(METRICS):
        assert metric.needs in table.NEEDS
        assert set(metric.harmonic or ()) <= set(names[:index])
        if not metric.harmonic:
            assert metric.ranks in ROW.names and metric.rows in (*ROW.names, "")
            assert metric.mean in ("images", "rows", "predicates")


def drawn(count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    images = np.zeros(count, IMAGE)
    images["key"], images["rows"], images["pairs"] = range(count), 5, True
    rows = np.zeros(5 * count, ROW)
    for name in ROW.names:
        top = 2 if ROW[name].kind == "b" else 4 if name in ("predicate", "answer") else 120
        rows[name] = generator.integers(0, top, len(rows))
    return images, rows


def test_a_further_row_is_a_further_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean recall of unseen triplets: counted, written and shown, by the row alone."""
    further = Metric(
        "zmR", "z-mR", "mR of zR", ranks="R", rows="zero_shot", mean="predicates", needs=ZERO_SHOT
    )
    for module in ("metrics", "report"):
        monkeypatch.setattr(f"vrd_d2.evaluation.{module}.METRICS", (*METRICS, further))
    images, rows = drawn()
    names = {"protocol": PROTOCOLS["sgb"], "task": Task.SGDET}
    summary = summarize(images, rows, num_predicates=5, with_zero_shot=True, **names)
    expected = []
    for predicate in range(5):
        shares = []
        for image in range(len(images)):
            of_image = rows[5 * image : 5 * image + 5]
            chosen = of_image[of_image["zero_shot"] & (of_image["predicate"] == predicate)]
            if len(chosen):
                shares.append((chosen["R"] < 50).mean())
        expected.append(np.mean(shares) if shares else 0)
    assert summary.metrics["zmR"][50] == pytest.approx(np.mean(expected), abs=1e-12)
    assert expected[4] == 0 < min(expected[:4])
    assert results_json(summary, **names)["metrics"]["zmR"]["50"] == summary.metrics["zmR"][50]
    assert flat_results(summary.metrics)["z-mR@50"] == 100 * summary.metrics["zmR"][50]
    assert "z-mR@K" in results_table(summary, title="", **names)
    assert "| z-mR@K | mR of zR |" in definitions_table()
    assert "zmR" not in summarize(images, rows, num_predicates=5, **names).metrics


def test_results_are_complete_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_json({"a": 1}, path)
    with pytest.raises(ValueError, match="JSON"):
        write_json({"a": float("nan")}, path)
    with pytest.raises(OSError, match=r"results\.json"):
        write_json({"a": 2}, path / "results.json")  # its folder is a file
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_a_write_that_stops_leaves_the_file_of_before(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "results.json"
    write_json({"a": 1}, path)

    def stop(self: Path, *args: object, **kwargs: object) -> None:
        self.write_bytes(b'{"a"')
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", stop)
    with pytest.raises(OSError, match="space"):
        write_json({"a": 2}, path)
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]
