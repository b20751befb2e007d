"""Files that ship with the package: pages, the small CLIP, and the detector of drawn scenes."""

from pathlib import Path

_FOLDER = Path(__file__).resolve().parent


def path(name: str) -> Path:
    """Give the path of a file of this folder.

    Raises:
        FileNotFoundError: the installation lacks the file.
    """
    found = _FOLDER / name
    if not found.exists():
        raise FileNotFoundError(f"{found} is missing from the installation: install vrd_d2 again")
    return found
