"""Text embeddings of (subject, predicate, object) by class pair, encoded once and stored.

Shapes: C object classes, K predicates, D width of the joint space; a block is the (K, D) texts of
one ordered class pair.
"""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

KEY = "MODEL.UNION_CLIP.TEXT_BANK"

logger = logging.getLogger(__name__)


class TextBank:
    """Blocks of class pairs in half precision, made at first use, in memory or in one file.

    What an image costs does not depend on the size of the bank: its class pairs are read by their
    code. The file is sparse, C * C * K * D * 2 bytes when full (150 * 150 * 50 texts of width 512:
    1.15 GB), and named by `key`, so that it is never read with other weights. Several processes
    may share it without locks: a block is there when all its rows have length 1, and whoever finds
    one missing or damaged writes the same block. Where the file takes no more, such as on a full
    disk, that is said once and further blocks are stored in memory.

    Args:
        encode: codes (subject * C + object) of n class pairs -> (n, K, D), rows of length 1.
        num_classes, num_predicates, width: C, K, D.
        folder: of the file; "" stores the blocks in memory.
        key: hash of all that the texts depend on: weights, names, prompts.
        device: where blocks are stored or read to.
        batch: class pairs encoded at a time.

    Raises:
        ValueError: the folder or the file cannot be used.
    """

    def __init__(
        self,
        encode: Callable[[list[int]], Tensor],
        *,
        num_classes: int,
        num_predicates: int,
        width: int,
        folder: str = "",
        key: str = "",
        device: torch.device | str = "cpu",
        batch: int = 64,
    ):
        self._encode = encode
        self._device = device
        self._batch = batch
        self._memory: dict[int, Tensor] = {}
        self._shape = (num_predicates, width)
        self._bytes = 2 * num_predicates * width  # of a block
        self._file: Path | None = None
        self._told_full = False
        if folder:
            self._file = Path(folder) / f"{key}.f16"
            _make(self._file, num_classes * num_classes * self._bytes)

    def blocks(self, codes: Sequence[int]) -> list[Tensor]:
        """Return blocks (K, D) in float16 of class pairs, encoded where they are missing.

        Args:
            codes: distinct.
        """
        found = [self._read(code) for code in codes]
        missing = [index for index, block in enumerate(found) if block is None]
        for start in range(0, len(missing), self._batch):
            chunk = missing[start : start + self._batch]
            rows = self._encode([codes[index] for index in chunk])
            for index, block in zip(chunk, rows, strict=True):
                found[index] = self._write(codes[index], block.detach().half())
        return found

    def _read(self, code: int) -> Tensor | None:
        if code in self._memory or self._file is None:
            return self._memory.get(code)
        # Not mapped into memory: there a full disk would end the process without a word.
        with self._file.open("rb", buffering=0) as file:
            file.seek(code * self._bytes)
            content = file.read(self._bytes)
        if len(content) < self._bytes:
            return None
        block = torch.from_numpy(np.frombuffer(content, np.float16).reshape(self._shape).copy())
        length = block.float().square().sum(1)
        # A hole of the sparse file, or a block that another process is about to write. Numbers
        # that are none fail every comparison.
        if not bool(((length - 1).abs() <= 0.01).all()):
            return None
        return block.to(self._device)

    def _write(self, code: int, block: Tensor) -> Tensor:
        stored = block.to(self._device)
        if self._file is None:
            self._memory[code] = stored
            return stored
        try:
            with self._file.open("r+b", buffering=0) as file:
                file.seek(code * self._bytes)
                written = file.write(block.cpu().numpy().tobytes())
            if written < self._bytes:
                raise OSError(f"{written} of {self._bytes} bytes were written")
        except OSError as error:
            self._memory[code] = stored
            if not self._told_full:
                self._told_full = True
                logger.warning(
                    "%s: %s takes no more texts (%s): they are stored in memory",
                    KEY,
                    self._file,
                    error.strerror or error,
                )
        return stored


def _make(path: Path, size: int) -> None:
    """Make a sparse file; an older one of another size is damaged, and gets this size."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
            raise ValueError(f"{KEY}: {path} is no regular file: delete it")
        # Opened for appending: of several processes one makes the file and none empties it.
        with path.open("ab") as file:
            found = file.tell()
            if found not in (0, size):
                logger.warning(
                    "%s: %s has %d bytes and not %d: what is damaged in it is made again",
                    KEY,
                    path,
                    found,
                    size,
                )
            if found != size:
                file.truncate(size)
    except OSError as error:
        raise ValueError(
            f"{KEY}: {path} cannot be used ({error.strerror}): name another folder"
        ) from error
