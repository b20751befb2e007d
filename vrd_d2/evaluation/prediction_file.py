"""A packed file of predictions that several processes write together."""

import gzip
import shutil
from io import TextIOBase
from pathlib import Path

from detectron2.utils import comm


class PredictionFile:
    """Every process writes lines to a part of its own; the main one joins the parts."""

    def __init__(self, folder: str | Path) -> None:
        """``folder`` gets predictions.jsonl.gz; nothing is opened before the first line."""
        self._folder = Path(folder)
        self._file: TextIOBase | None = None

    def _part(self, rank: int) -> Path:
        return self._folder / f"predictions.{rank}.jsonl.gz"

    def write(self, line: str) -> None:
        """Adds a line, with its end, to the part of this process."""
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            part = self._part(comm.get_rank())
            self._file = gzip.open(part, "wt", encoding="utf-8", compresslevel=3)  # noqa: SIM115
        self._file.write(line)

    def close(self) -> None:
        """Ends the part of this process."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def discard(self) -> None:
        """Deletes the part of this process."""
        self.close()
        self._part(comm.get_rank()).unlink(missing_ok=True)

    def join(self, processes: int) -> Path:
        """Makes one file of the closed parts: packed files in a row are a packed file."""
        path = self._folder / "predictions.jsonl.gz"
        with path.open("wb") as whole:
            for part in map(self._part, range(processes)):
                if part.exists():
                    with part.open("rb") as file:
                        shutil.copyfileobj(file, whole)
                    part.unlink()
        return path
