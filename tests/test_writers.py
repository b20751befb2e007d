"""Every file is written at once: by data/source_files, or by what says here why not."""

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
FILES = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for folder in ("vrd_d2", "tools", "datasets")
    for path in (REPOSITORY / folder).rglob("*.py")
    if "benchmarks" not in path.parts
)
METHODS = {"write_text", "write_bytes", "savefig", "to_csv"}
FUNCTIONS = {"torch.save", "torch.jit.save", "torch.export.save", "np.save", "np.savez"}
FUNCTIONS |= {"np.savez_compressed", "json.dump", "cv2.imwrite", "save_file"}
FUNCTIONS |= {f"shutil.{name}" for name in ("copy", "copy2", "copyfile", "copytree", "move")}
# A file of atomic_write, opened or not, and one in memory.
GOOD = {"unfinished", "file", "content", "buffer", "sink"}
ALLOWED = {
    "vrd_d2/data/atomic_files.py": "the writer itself, with its locks",
    "vrd_d2/inference/batch_records.py": "the journal of a results folder, a line at a time",
    "vrd_d2/engine/hooks.py": "cuts off the torn end of a log",
    "vrd_d2/inference/batch_folder.py": "the journal of a results folder, and its lock",
    "vrd_d2/modeling/union_clip/text_bank.py": "blocks of one file that processes share",
    "vrd_d2/evaluation/prediction_file.py": "parts of processes, joined at once at the end",
    "vrd_d2/demo/answers.py": "files of one answer, in a temporary folder",
    "vrd_d2/commands/demo.py": "examples, in a temporary folder",
    "vrd_d2/commands/dataset.py": "copies of images",
    "tools/run_ablations.py": "the output of a training, as it comes",
}


def found(code):
    """Return the calls that write to a file itself."""
    writes = []
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Call):
            continue
        function = ast.unparse(node.func)
        receiver, _, method = function.rpartition(".")
        arguments = [ast.unparse(argument) for argument in node.args]
        texts = [
            argument.value
            for argument in [*node.args, *(k.value for k in node.keywords)]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
        ]
        opens = method == "open" and any(
            set(text) <= set("rwaxbt+") and set(text) & set("wax+") for text in texts
        )
        method_writes = bool(receiver) and method in METHODS
        if (method_writes or function in FUNCTIONS or opens) and not GOOD & {
            receiver,
            *arguments,
        }:
            writes.append(ast.unparse(node))
    return writes


@pytest.mark.parametrize("name", FILES)
def test_files_are_written_at_once(name):
    writes = found((REPOSITORY / name).read_text())
    assert not writes or name in ALLOWED


@pytest.mark.parametrize(
    "code",
    [
        "path.write_text('a')",
        "(folder / name).write_bytes(b)",
        "figure.savefig(path, dpi=3)",
        "open(path, 'w')",
        "path.open('a', encoding='utf-8')",
        "open(path, mode='r+b')",
        "torch.save(state, path)",
        "np.savez(path, a=b)",
        "shutil.copy(a, b)",
    ],
)
def test_the_search_finds_what_it_must(code):
    assert found(code) == [code]


@pytest.mark.parametrize("code", ["open(path)", "path.open('rb')", "unfinished.write_text(a)"])
def test_the_search_leaves_the_others(code):
    assert not found(code)
