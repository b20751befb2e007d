"""A packed file of predictions that several processes write together."""

import gzip
import shutil
from io import TextIOBase
from pathlib import Path

from vrd_d2.data.atomic_files import atomic_write


class PredictionFile:
    """The part of one process; the main process joins the parts.

    Args:
        folder: gets predictions.jsonl.gz; nothing is opened before the first line.
        rank: number of this process.

    Attributes:
        path: of the file.
    """

    def __init__(self, folder: str | Path, rank: int = 0) -> None:
        self._folder, self._rank = Path(folder), rank
        self.path = self._folder / "predictions.jsonl.gz"
        self._file: TextIOBase | None = None

    def _part(self, rank: int) -> Path:
        return self._folder / f"predictions.{rank}.jsonl.gz"

    def write(self, line: str) -> None:
        """Add a line, with its end, to the part of this process."""
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            part = self._part(self._rank)
            self._file = gzip.open(part, "wt", encoding="utf-8", compresslevel=3)  # noqa: SIM115
        self._file.write(line)

    def close(self) -> None:
        """End the part of this process."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def discard(self) -> None:
        """Delete the part of this process."""
        self.close()
        self._part(self._rank).unlink(missing_ok=True)

    def join(self, processes: int) -> Path:
        """Make one file of the closed parts; it is complete or not there.

        Packed files in a row are a packed file.
        """
        parts = [part for part in map(self._part, range(processes)) if part.exists()]
        with atomic_write(self.path) as unfinished, unfinished.open("wb") as whole:
            for part in parts:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, whole)
        for part in parts:
            part.unlink()
        return self.path
