"""Errors of tools: a line and an exit code, or a traceback with what to report."""

import errno
import io
import json
import multiprocessing
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader

from vrd_d2 import __version__
from vrd_d2.commands.run_tool import run_tool


def raising(error: BaseException):
    def tool():
        raise error

    return tool


class _Broken:
    """Data whose reading fails."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise ValueError("street.png is\nbroken")


@pytest.mark.parametrize("code", [0, 2, None])
def test_the_code_of_a_tool_that_ends(code, capsys):
    assert run_tool(lambda given: given, code) == (code or 0)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (ValueError("MODEL.WEIGHTS: a\n  b"), "MODEL.WEIGHTS: a; b"),
        (ValueError("a\x1b[31mred"), r"a\x1b[31mred"),
        (OSError(errno.ENOSPC, "No space left on device", "out.json"), "out.json"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "0xff"),
        (MemoryError(), "memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), "MODEL.DEVICE"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), "9 bytes"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "NUM_WORKERS"),
        (RuntimeError("unable to write to file </torch_1_2>: No space left"), "NUM_WORKERS"),
        (RuntimeError("Found no NVIDIA driver on your system. Please"), "MODEL.DEVICE"),
        (RuntimeError("The server socket has failed to listen: EADDRINUSE"), "--dist-url"),
        (FloatingPointError("Loss became infinite or NaN at iteration=1!"), "iteration=1"),
        (BrokenPipeError(), "output"),
        (ModuleNotFoundError("No module named 'gradio'", name="gradio.themes"), "gradio"),
    ],
)
def test_what_users_can_mend_is_one_line(error, part, capsys):
    assert run_tool(raising(error)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and part in line


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [
        ("ascii", rb"B\xe4r \u72d7 \ud800"),
        ("latin-1", rb"B" + b"\xe4" + rb"r \u72d7 \ud800"),
        ("utf-8", "Bär 狗 ".encode() + rb"\ud800"),
    ],
)
def test_names_that_the_terminal_cannot_show(encoding, printed, monkeypatch):
    """Names come from anywhere: a letter that a stream does not know is escaped, not an error."""
    streams = {}
    for name in ("stdout", "stderr"):
        streams[name] = io.TextIOWrapper(io.BytesIO(), encoding)
        monkeypatch.setattr(sys, name, streams[name])
    assert run_tool(lambda: print("Bär 狗 \ud800")) == 0
    assert run_tool(raising(ValueError("Bär 狗"))) == 1
    for stream in streams.values():
        stream.flush()
    assert streams["stdout"].buffer.getvalue().strip() == printed
    assert b"error: B" in streams["stderr"].buffer.getvalue()


def test_a_tool_prints_names_to_an_ascii_terminal(tmp_path, monkeypatch):
    from vrd_d2.commands import dataset

    objects = [{"id": i, "image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5]} for i in (1, 2)]
    content = {
        "images": [{"id": 1, "file_name": "狗.jpg", "width": 10, "height": 10}],
        "annotations": objects,
        "categories": [{"id": 1, "name": "Bär"}],
        "predicates": [{"id": 1, "name": "nächst"}],
        "relations": [{"id": 1, "image_id": 1, "subject_id": 1, "object_id": 2, "predicate_id": 1}],
    }
    (tmp_path / "names.json").write_text(json.dumps(content))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    assert dataset.main(["stats", str(tmp_path / "names.json")]) == 0
    sys.stdout.flush()
    assert rb"B\xe4r" in sys.stdout.buffer.getvalue()


@pytest.mark.parametrize("package", ["torch", "detectron2"])
def test_missing_packages_say_how_to_get_them(package, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    assert run_tool(raising(ModuleNotFoundError("no", name=f"{package}.nn"))) == 1
    error = capsys.readouterr().err
    assert package in error and "bash tools/setup_environment.sh" in error


def test_an_error_in_a_worker_of_a_loader(capsys):
    loader = DataLoader(_Broken(), num_workers=1)
    assert run_tool(lambda: list(loader) and None) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "broken" in line and "Traceback" not in line


def test_ctrl_c(capsys):
    assert run_tool(raising(KeyboardInterrupt()), stopped="goes on from here") == 130
    assert capsys.readouterr().err == "goes on from here\n"


@pytest.mark.parametrize(
    "error",
    [
        KeyError("boxes"),
        RuntimeError("x"),
        ModuleNotFoundError("y", name="vrd_d2.nowhere"),
        ModuleNotFoundError("z", name="torch.nowhere"),
    ],
)
def test_a_fault_of_the_program_is_reported_whole(error, capsys):
    assert run_tool(raising(error)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback") and __version__ in lines[-1]
    assert type(error).__name__ in lines[-2]


def test_exits_pass_through():
    with pytest.raises(SystemExit) as stopped:
        run_tool(raising(SystemExit(3)))
    assert stopped.value.code == 3


def test_a_reader_that_ends_early(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom vrd_d2.commands.run_tool import run_tool\n"
        "sys.exit(run_tool(lambda: print('x' * 10**6)))"
    )
    command = f"{sys.executable} {script} | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert [line[:6] for line in done.stderr.splitlines()] == ["error:"]


WORKER = """
import sys, time
from torch.multiprocessing import spawn
from vrd_d2.commands.run_tool import run_tool

def work(rank):
    if rank:
        raise ValueError("SEED is wrong")
    time.sleep(60)  # as if it waited for the other

def process(rank):
    sys.exit(run_tool(work, rank))

if __name__ == "__main__":
    sys.exit(run_tool(lambda: spawn(process, nprocs=2) and None))
"""


def test_of_several_processes_only_the_failing_one_speaks(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    script = tmp_path / "script.py"
    script.write_text(WORKER)
    command = [sys.executable, "-W", "ignore", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if "SEED" in line] == ["error: SEED is wrong"]


ALIKE = """
import sys, time
from torch.multiprocessing import get_context, spawn
from vrd_d2.commands import run_tool, train

def work(arguments):
    raise ValueError("DATASETS.TRAIN is wrong")

def process(rank, started, spoken):
    train.train = work
    started.wait()  # all fail at the same time
    try:
        train.process(None, spoken)
    finally:
        started.wait()

if __name__ == "__main__":
    context = get_context("spawn")
    shared = context.Barrier(2), context.Value("b", False)
    sys.exit(run_tool.run_tool(lambda: spawn(process, shared, nprocs=2) and None))
"""


def test_of_several_processes_with_the_same_error_one_speaks(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (tmp_path / "script.py").write_text(ALIKE)
    command = [sys.executable, "-W", "ignore", tmp_path / "script.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    errors = [line for line in done.stderr.splitlines() if "DATASETS" in line]
    assert (done.returncode, errors) == (1, ["error: DATASETS.TRAIN is wrong"])


def test_in_a_started_process(monkeypatch, capsys):
    """Its faults go to the process that started it, which prints them; Ctrl-C is said once."""
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: "some process")
    with pytest.raises(KeyError):
        run_tool(raising(KeyError("boxes")))
    assert run_tool(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_take_what_is_printed(repository, tmp_path, closed):
    """And a file that is opened then holds nothing of it."""
    program = tmp_path / "tool.py"
    program.write_text(
        "import os, sys\nfrom vrd_d2.commands.run_tool import run_tool\n"
        "def tool(name):\n"
        "    with open(name, 'w') as file:\n"
        "        assert file.fileno() > 2\n"
        "        print('said'), print('warned', file=sys.stderr)\n"
        "    return 2\n"
        f"sys.exit(run_tool(tool, {str(tmp_path / 'result')!r}))\n"
    )
    command = f"exec {sys.executable} {program} {closed}"
    done = subprocess.run(["sh", "-c", command], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert (tmp_path / "result").read_text() == ""
