"""The ablation runner: variants of a base config, a table, and no finished run twice."""

import json
import subprocess
import sys

import pytest
from scripts import load_script

from vrd_d2.config import load_config
from vrd_d2.config.fingerprint import earlier_config


def run(repository, *arguments):
    return subprocess.run(
        [sys.executable, str(repository / "tools/run_ablations.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=repository,
    )


def test_variants_are_tabulated_and_not_repeated(repository, make_cfg, tmp_path):
    base = tmp_path / "base.yaml"
    base.write_text(make_cfg("relclip_predcls.yaml", "SOLVER.MAX_ITER", 2).dump())
    variants = [repository / f"configs/ablations/{name}.yaml" for name in ("dual", "no_rcl")]
    output = tmp_path / "ablations"
    arguments = ["--base", base, "--seeds", 1, "--output", output, "--metrics", "R@50", "mR@100"]
    first = run(repository, *variants, *arguments)
    assert first.returncode == 0, first.stderr[-2000:]
    lines = (output / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines] == ["variant", "---", "dual", "no_rcl"]
    assert lines[2].split("|")[3].strip() == "+0.0"
    assert (output / "table.png").stat().st_size > 1000
    losses = (output / "no_rcl/seed1/stdout.txt").read_text()
    assert "loss_rcl" not in losses
    mark = json.loads((output / "dual/seed1/finished.json").read_text())
    assert mark["iteration"] == 2
    # As a kill between the last checkpoint and the last evaluation leaves a run: what is there is
    # of the evaluation before.
    killed = output / "no_rcl/seed1"
    (results,) = killed.glob("inference/*/relations_*.json")
    whole = results.read_text()
    of_iteration_1 = json.loads(whole)
    assert of_iteration_1["evaluated"] == {"iteration": 2, "max_iter": 2}
    of_iteration_1["evaluated"]["iteration"] = 1
    of_iteration_1["metrics"]["R"]["50"] = 0.987
    results.write_text(json.dumps(of_iteration_1))
    (killed / "finished.json").unlink()
    weights = [output / f"{name}/seed1/model_final.pth" for name in ("dual", "no_rcl")]
    before = [file.stat().st_mtime_ns for file in weights]
    again = run(repository, *variants, *arguments)
    assert again.returncode == 0 and weights[0].stat().st_mtime_ns == before[0]
    assert again.stdout == first.stdout and "98.7" not in again.stdout
    assert results.read_text() == whole


def test_errors_name_the_file_and_the_metric(repository, tmp_path):
    missing = run(repository, "--base", "none.yaml", tmp_path / "variant.yaml")
    assert "error: there is no config file none.yaml" in missing.stderr


def test_a_folder_of_an_earlier_version_is_continued(repository, make_cfg, tmp_path):
    script = load_script(repository / "tools/run_ablations.py")
    base = tmp_path / "base.yaml"
    base.write_text(make_cfg("relclip_predcls.yaml").dump())
    variant, folder = repository / "configs/ablations/focal.yaml", tmp_path / "run"
    config = script.write_config(base, variant, folder, 1, [])
    record = folder / "settings.yaml"
    record.write_text(earlier_config(load_config(config)).dump())
    assert "PREDICATE_LOSS: focal" in record.read_text()
    script.write_config(base, variant, folder, 1, [])
    assert "RELATION_LOSS" in record.read_text()
    with pytest.raises(ValueError, match=r"settings\.yaml"):
        script.write_config(base, variant, folder, 1, ["MODEL.RELATION_LOSS.FOCAL_GAMMA", "3.0"])
    record.write_text("MODEL: {NOSUCH: 1}")
    with pytest.raises(ValueError, match=r"settings\.yaml.*NOSUCH"):
        script.write_config(base, variant, folder, 1, [])


def results_file(folder, evaluated, value=0.5):
    content = {"task": "predcls", "protocol": "sgb", "metrics": {"R": {"50": value}}}
    path = folder / "inference/tiny/relations_predcls_sgb.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content if evaluated is None else content | evaluated))
    return path


STATES = {
    "last": {"evaluated": {"iteration": 1000, "max_iter": 1000}},
    "earlier": {"evaluated": {"iteration": 600, "max_iter": 1000}},
    "version_0_1": None,
    "odd": {"evaluated": "yesterday"},
}


@pytest.mark.parametrize("name", STATES)
def test_only_the_last_evaluation_marks_a_run_as_finished(name, repository, tmp_path):
    script = load_script(repository / "tools/run_ablations.py")
    results = results_file(tmp_path, STATES[name])
    (tmp_path / "model_final.pth").write_bytes(b"")
    assert script.finished(tmp_path) is None
    assert script.mark_finished(tmp_path) == (name == "last")
    assert script.finished(tmp_path) == (results if name == "last" else None)
    if name == "last":
        assert script.value(tmp_path, "R@50") == 50
        # Evaluated again since then, at another iteration.
        results_file(tmp_path, STATES["earlier"])
        assert script.finished(tmp_path) is None
        (tmp_path / "finished.json").write_text("[")
        assert script.finished(tmp_path) is None


def test_a_metric_without_ground_truth_is_named(repository, tmp_path):
    script = load_script(repository / "tools/run_ablations.py")
    results_file(tmp_path, STATES["last"], value=None)
    assert script.mark_finished(tmp_path)
    with pytest.raises(ValueError, match=r"R@50.*relations_predcls_sgb\.json"):
        script.value(tmp_path, "R@50")


def test_a_second_process_does_not_train_in_the_same_folder(repository, tmp_path):
    script = load_script(repository / "tools/run_ablations.py")
    with script.alone(tmp_path), pytest.raises(ValueError, match=str(tmp_path)):
        script.train(tmp_path / "variant.yaml", tmp_path, [])


def test_the_table_of_results_has_no_row_of_an_earlier_iteration(repository, tmp_path, capsys):
    script = load_script(repository / "tools/results_table.py")
    weights = {"evaluated": {"weights": "output/x/model_best.pth"}}
    for name, evaluated in {**STATES, "weights": weights}.items():
        results_file(tmp_path / name, evaluated)
    results_file(tmp_path / "broken", None).write_text("{")
    folders = [str(path) for path in sorted(tmp_path.iterdir())]
    assert script.main(folders) == 2
    out, err = capsys.readouterr()
    rows = [line.split("|")[1:3] for line in out.splitlines()[2:]]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["last", "1000"],
        ["weights", "model_best.pth"],
    ]
    left_out = err.splitlines()
    assert len(left_out) == 4
    for name in ("broken", "earlier", "odd", "version_0_1"):
        assert sum(f"/{name}/" in line for line in left_out) == 1
    assert "600 of 1000" in err
    assert script.main(folders[1:2]) == 1  # earlier
    assert script.main([str(tmp_path / "last")]) == 0
