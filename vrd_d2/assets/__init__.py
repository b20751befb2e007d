"""Files that ship with the package: pages, the small CLIP, a detector of drawn scenes, configs."""

import os
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent
_CONFIGS = "configs"


def path(name: str) -> Path:
    """Return the path of a file of this folder.

    Raises:
        FileNotFoundError: the file is not installed.
    """
    found = _FOLDER / name
    if not found.exists():
        raise FileNotFoundError(f"{found} is missing from the installation: install vrd_d2 again")
    return found


def config_path(name: str | Path) -> Path:
    """Return the path of a config: the name itself, or that of a config that ships with vrd_d2.

    Args:
        name: a path, or one below the repository, such as configs/relclip_sgdet.yaml, which is
            found from any folder. It is returned as it is where neither exists.
    """
    path = Path(name)
    return path if path.exists() else shipped_config(path) or path


def shipped_config(name: str | Path) -> Path | None:
    """Return the path of a config that ships with vrd_d2; None where there is none of that name.

    Args:
        name: below the repository, such as configs/relclip_sgdet.yaml; leading ../ do not count.
    """
    below = Path(*(part for part in Path(name).parts if part != os.pardir))
    if below.is_absolute() or below.parts[:1] != (_CONFIGS,):
        return None
    root = checkout()
    # setup.py installs them in share/vrd_d2 of the environment, which the package is below.
    roots = [root] if root else [parent / "share/vrd_d2" for parent in _FOLDER.parents]
    return next((root / below for root in roots if (root / below).is_file()), None)


def checkout() -> Path | None:
    """Return the root of the checkout that the package is imported from; None if installed."""
    root = _FOLDER.parents[1]
    return root if (root / "setup.py").is_file() and (root / _CONFIGS).is_dir() else None
