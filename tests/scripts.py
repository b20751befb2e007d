"""Scripts of tools/ and datasets/ as modules, which they are not on the import path."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load_script(path: Path) -> ModuleType:
    """Execute a script, by path, since Detectron2 brings a top-level package `tools` of its own."""
    name = f"script_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # data classes and worker processes look their module up
    spec.loader.exec_module(module)
    return module
