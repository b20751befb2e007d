"""Exit codes alike in all tools: 0 for --help, 1 for wrong commands and missing files."""

import subprocess
import sys
from pathlib import Path

import pytest
from scripts import load_script

REPOSITORY = Path(__file__).resolve().parents[2]
TOOLS = sorted(
    str(path.relative_to(REPOSITORY))
    for pattern in ("tools/*.py", "tools/benchmarks/*.py", "datasets/prepare_*.py")
    for path in REPOSITORY.glob(pattern)
)
COMMANDS = ("train", "predict", "evaluate", "dataset", "export", "demo")
# Those that do something without arguments.
COMPLETE = {
    *("datasets/prepare_scenes.py", "datasets/prepare_vg.py"),
    *("tools/train_net.py", "tools/train_small_clip.py", "tools/web_demo.py"),
    *(f"tools/benchmarks/{name}.py" for name in ("data", "disk_full", "evaluator", "imports")),
    "tools/benchmarks/model.py",
    *(f"tools/benchmarks/{name}.py" for name in ("training", "union_clip")),
    "tools/draw_readme_images.py",
}
# One call each with a file that is missing.
MISSING = {
    "datasets/prepare_knowledge_base.py": ["stats", "no.file"],
    "datasets/prepare_vg.py": ["--root", "no.file"],
    "datasets/prepare_vocabulary.py": ["gqa", "--root", "no.file"],
    "tools/benchmarks/export.py": [
        *("--config-file", "no.file", "--weights", "no.pth", "--output", "out", "a.jpg"),
    ],
    "tools/dataset.py": ["check", "no.file.json"],
    "tools/evaluate.py": ["--ground-truth", "no.file", "--predictions", "no.file"],
    "tools/evaluate_frequency.py": ["--test", "no.file", "--vocabulary", "vrd"],
    "tools/export_model.py": ["--weights", "no.file", "--output", "out"],
    "tools/human_eval.py": ["report", "no.file", "--manifest", "no.file"],
    "tools/predict.py": ["no.file", "--output", "out", "--weights", "no.file"],
    "tools/results_table.py": ["no.file"],
    "tools/run_ablations.py": ["no.file", "--base", "no.file"],
    "tools/score_candidates.py": [
        *("--config-file", "no.file", "--knowledge-base", "no.file", "--output", "out"),
    ],
    "tools/ship_weights.py": ["no.file", "out.pth"],
    "tools/train_net.py": ["--config-file", "no.file"],
    "tools/train_small_clip.py": ["--data", "no.file", "--output", "out"],
    "tools/visualize.py": ["--config-file", "no.file", "--output", "out"],
}


def call(folder: Path, tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / tool), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120)


@pytest.mark.parametrize("tool", TOOLS)
def test_help_is_0_and_a_wrong_option_is_1(tool, tmp_path):
    found = call(tmp_path, tool, "--help")
    assert found.returncode == 0 and Path(tool).name in found.stdout and not found.stderr
    wrong = [["--no-such-option"]]
    if tool not in COMPLETE:
        wrong.append([])
    for arguments in wrong:
        found = call(tmp_path, tool, *arguments)
        assert found.returncode == 1 and "Traceback" not in found.stderr
        assert found.stderr.startswith("usage: ")
        assert found.stderr.splitlines()[-1].startswith("error: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tool", MISSING)
def test_a_missing_file_is_one_line(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    module = load_script(REPOSITORY / tool)
    code = module.main(MISSING[tool])
    out, err = capsys.readouterr()
    # tools/dataset.py check prints the errors that it finds.
    errors = [line for line in (out + err).splitlines() if line.startswith("error: ")]
    assert code == 1 and "Traceback" not in out + err
    assert len(errors) == 1 and ("no.file" in errors[0] or "no.pth" in errors[0])


@pytest.mark.parametrize("name", COMMANDS)
def test_console_commands_are_installed_by_setup(name):
    assert f'"{name}"' in (REPOSITORY / "setup.py").read_text()
    code = f"import sys; from vrd_d2.commands.{name} import main; sys.exit(main(['--help']))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=REPOSITORY)
    assert found.returncode == 0 and found.stdout.startswith(b"usage: ")
