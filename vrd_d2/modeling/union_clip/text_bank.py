"""Text embeddings of (subject, predicate, object) by class pair, encoded once and stored.

Shapes: C object classes, K predicates, D width of the joint space; a block is the (K, D) texts of
one ordered class pair.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class TextBank:
    """Blocks of class pairs in half precision, made at first use, in memory or in one mapped file.

    What an image costs does not depend on the size of the bank: its class pairs are read by their
    code. The file is sparse, C * C * K * D * 2 bytes when full (150 * 150 * 50 texts of width 512:
    1.15 GB), and named by `key`, so that it is never read with other weights. Several processes
    may share it without locks: a block is there when all its rows have length 1, and whoever finds
    one missing writes the same block.

    Args:
        encode: codes (subject * C + object) of n class pairs -> (n, K, D), rows of length 1.
        num_classes, num_predicates, width: C, K, D.
        folder: of the file; "" stores the blocks in memory.
        key: hash of all that the texts depend on: weights, names, prompts.
        device: where blocks are stored or read to.
        batch: class pairs encoded at a time.

    Raises:
        ValueError: the file has another size than its key stands for.
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
        self._file: np.memmap | None = None
        if folder:
            shape = (num_classes * num_classes, num_predicates, width)
            self._file = _map(Path(folder) / f"{key}.f16", shape)

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
        if self._file is None:
            return self._memory.get(code)
        block = torch.from_numpy(np.array(self._file[code]))
        length = block.float().square().sum(1)
        # A hole of the sparse file, or a block that another process is about to write.
        if bool(((length - 1).abs() > 0.01).any()):
            return None
        return block.to(self._device)

    def _write(self, code: int, block: Tensor) -> Tensor:
        if self._file is None:
            self._memory[code] = block.to(self._device)
            return self._memory[code]
        self._file[code] = block.cpu().numpy()
        return block.to(self._device)


def _map(path: Path, shape: tuple[int, int, int]) -> np.memmap:
    size = 2 * int(np.prod(shape))
    path.parent.mkdir(parents=True, exist_ok=True)
    # Opened for appending: of several processes one makes the file and none empties it.
    with path.open("ab") as file:
        if file.tell() == 0:
            file.truncate(size)
    if path.stat().st_size != size:
        raise ValueError(
            f"MODEL.UNION_CLIP.TEXT_BANK: {path} has {path.stat().st_size} bytes and not {size}: "
            "delete it"
        )
    return np.memmap(path, dtype=np.float16, mode="r+", shape=shape)
