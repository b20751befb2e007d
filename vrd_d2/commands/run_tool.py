"""What all tools do with errors: one line for what a user can mend, and an exit code.

    0    all is well
    1    nothing could be done, or the command is wrong
    2    done in part: what could not be done is named
    130  stopped with Ctrl-C

A traceback is printed for a fault of the program alone, with what to report.
"""

import contextlib
import io
import multiprocessing
import os
import platform
import sys
from collections.abc import Callable
from typing import Any

from vrd_d2 import how_to_install, missing_package
from vrd_d2.version import __version__

STOPPED = 130
# By name, as torch need not be there: of the GPU's memory, and of a process that was started.
_OUT_OF_GPU_MEMORY = "OutOfMemoryError"
_PROCESS_ENDED = "ProcessExitedException"
_IN_WORKER = "Original Traceback"
# RuntimeErrors of torch that machines and settings cause, by a part of their texts, with a remedy.
_OF_THE_MACHINE = {
    "can't allocate memory": "use smaller images or batches",
    "DataLoader worker (pid": "perhaps for want of memory: lower DATALOADER.NUM_WORKERS",
    "unable to open shared memory": "enlarge /dev/shm, or set DATALOADER.NUM_WORKERS to 0",
    "unable to write to file </torch_": "enlarge /dev/shm, or set DATALOADER.NUM_WORKERS to 0",
    "Too many open files": "raise the limit (ulimit -n), or lower DATALOADER.NUM_WORKERS",
    "Found no NVIDIA driver": "set MODEL.DEVICE to cpu",
    "not compiled with CUDA": "set MODEL.DEVICE to cpu",
    "No CUDA GPUs are available": "set MODEL.DEVICE to cpu",
    "invalid device ordinal": "name a GPU that is there in MODEL.DEVICE",
    "EADDRINUSE": "another run has the port: name one (--dist-url, MASTER_PORT)",
    "address already in use": "another run has the port: name one (--dist-url, MASTER_PORT)",
    "Connection closed by peer": "another process of this run has ended: see its error",
    "Connection reset by peer": "another process of this run has ended: see its error",
}
# Where a module of these is missing, it is not the package.
_HAVE_PARTS = ("torch", "detectron2")


def run_tool(
    main: Callable[..., int | None],
    *arguments: Any,
    stopped: str = "stopped",
    speaks: Callable[[], bool] = lambda: True,
) -> int:
    """Run a tool and return its exit code, with every error printed.

    Args:
        main: returns an exit code; None is 0.
        arguments: of `main`.
        stopped: what is printed after Ctrl-C.
        speaks: whether to print an error; of several processes that all meet the same one, only
            the first should.
    """
    _open_closed_streams()
    _print_any_name()
    try:
        code = main(*arguments)
        sys.stdout.flush()
        return code or 0
    except KeyboardInterrupt:
        if multiprocessing.parent_process() is None:  # of several processes, the first alone
            print(stopped, file=sys.stderr)
        return STOPPED
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):  # else Python would try it again at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print("error: what reads the output has ended before it was complete", file=sys.stderr)
        return 1
    except Exception as error:
        if type(error).__name__ == _PROCESS_ENDED and not error.signal_name:
            return error.exit_code  # the process has printed why
        text = foreseen(error)
        if text is not None:
            if speaks():
                print(f"error: {text}", file=sys.stderr)
        elif multiprocessing.parent_process() is not None:
            raise  # to the parent, which prints that of the first process to fail
        else:
            _print_fault()
        return 1


def foreseen(error: Exception) -> str | None:
    """Return the message of an error that users can mend, on one line; None of any other."""
    if isinstance(error, ImportError):
        package = missing_package(error)
        if package and not isinstance(error, ModuleNotFoundError):
            return str(error)  # of vrd_d2 itself, with the commands that install it
        if package:
            return how_to_install("this tool", package)
        package = (error.name or "").partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and package not in ("", "vrd_d2", *_HAVE_PARTS):
            return f"the package {package} is not installed: pip install {package}"
        return None
    if type(error).__name__ == _PROCESS_ENDED:
        return f"a process was ended by {error.signal_name}, perhaps for want of memory"
    if type(error).__name__ == _OUT_OF_GPU_MEMORY:
        reason = one_line(str(error)).partition(". ")[0]
        return f"{reason}: use smaller images or batches, or MODEL.DEVICE cpu"
    if isinstance(error, MemoryError):
        return f"there is not enough memory{f' ({error})' if str(error) else ''}"
    if isinstance(error, RuntimeError):
        text = one_line(str(error))
        remedies = [remedy for part, remedy in _OF_THE_MACHINE.items() if part in text]
        return f"{text.partition('. ')[0]}: {remedies[0]}" if remedies else None
    if isinstance(error, (ValueError, OSError, FloatingPointError)):
        text = str(error)
        if _IN_WORKER in text:  # of a data loader: the error itself is below the last line of code
            lines = text.rstrip().splitlines()
            code = max(i for i, line in enumerate(lines) if line.startswith(" "))
            text = "\n".join(lines[code + 1 :]).partition(": ")[2]
        return one_line(text) or type(error).__name__
    return None


def one_line(text: str) -> str:
    """Return a text as one line that a terminal shows as it is."""
    from vrd_d2.inference.batch_records import printable

    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return printable("; ".join(lines).replace(":; ", ": "))


def _open_closed_streams() -> None:
    """Put an end to what is printed where the output was closed, as a service may have it.

    Nor may a file that is opened later get the number of a closed stream: libraries print to it.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))


def _print_any_name() -> None:
    """Let the output take names of any letters: what its encoding lacks is written as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # also one of a test; not that of a notebook
            stream.reconfigure(errors="backslashreplace")


def _print_fault() -> None:
    import traceback

    traceback.print_exc()
    torch = sys.modules.get("torch")
    versions = f"vrd_d2 {__version__}, Python {platform.python_version()}"
    versions += f", torch {torch.__version__}" if torch else ""
    print(
        f"This is a fault of the program ({versions}). Please report it, with the command and the "
        "lines above.",
        file=sys.stderr,
    )
