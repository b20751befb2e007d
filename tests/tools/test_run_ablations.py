"""The ablation runner: variants of a base config, a table, and no finished run twice."""

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
    weights = output / "dual/seed1/model_final.pth"
    before = weights.stat().st_mtime_ns
    again = run(repository, *variants, *arguments)
    assert again.returncode == 0 and weights.stat().st_mtime_ns == before
    assert again.stdout == first.stdout


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
