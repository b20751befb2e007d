"""Weights of the candidate predicates of pairs of objects, image by image, on disk.

Under distant supervision a knowledge base says which predicates a pair of classes may have. A model
that sees the image says how likely each is there: CLIP (KB+EXT) or, in further rounds, the very
model that was trained on the last ones (EM). ``tools/score_candidates.py`` writes them.
"""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vrd_d2.data.atomic_files import atomic_write, write_text
from vrd_d2.data.record_values import member, text_of
from vrd_d2.data.source_files import parse_json, read_json

VERSION = 1
MANIFEST = "candidates.json"
_KEYS = ("pictures", "pair_counts", "pairs", "entry_counts", "predicates", "weights")

logger = logging.getLogger(__name__)


class CandidateWeights:
    """A folder of shards, each the pairs of some images.

    Args:
        folder: made by :meth:`create`, filled by :meth:`add`.

    Raises:
        ValueError: the folder is none of these, or a shard is damaged; with the remedy.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        try:
            self.manifest = read_json(path)
            version = member(self.manifest, "version", int)
            self.num_predicates = member(self.manifest, "predicates", int)
        except ValueError as error:
            raise ValueError(
                f"{self.folder} holds no weights of candidates ({error}): make them with "
                "tools/score_candidates.py"
            ) from error
        if version != VERSION:
            raise ValueError(
                f"{path} has version {version} of the format, this program reads {VERSION}: make "
                "it again with tools/score_candidates.py"
            )
        self._position: dict[str, int] | None = None

    @classmethod
    def create(
        cls, folder: str | os.PathLike, num_predicates: int, settings: dict
    ) -> "CandidateWeights":
        """Begin a folder, or go on with one of the same settings.

        Args:
            folder: where the shards go; made where it is missing.
            num_predicates: K.
            settings: JSON of what the weights depend on.

        Raises:
            ValueError: the folder was begun with other settings.
        """
        path = Path(folder) / MANIFEST
        manifest = {"version": VERSION, "predicates": num_predicates, "settings": settings}
        if path.is_file():
            found = cls(folder).manifest
            if found != manifest:
                old, new = found.get("settings", {}), settings
                differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
                raise ValueError(
                    f"{folder} was begun with other settings ({', '.join(sorted(differing))}): "
                    "delete it or name another folder"
                )
        else:
            write_text(path, json.dumps(manifest, indent=2) + "\n")
        return cls(folder)

    def shard(self, number: int) -> Path:
        """Return the file of a shard."""
        return self.folder / f"{number:06d}.npz"

    def has(self, number: int) -> bool:
        """Return whether a shard is there and whole; one that is damaged is named in the log."""
        path = self.shard(number)
        if not os.path.lexists(path):
            return False
        try:
            self._read(path)
        except ValueError as error:
            logger.warning("%s is damaged (%s): it is made again", path, error)
            return False
        return True

    def add(self, number: int, rows: Sequence[tuple[object, np.ndarray, np.ndarray]]) -> None:
        """Write a shard, which appears when it is complete.

        Args:
            number: of the shard.
            rows: (image id, pairs (P, 2) of annotation indices, weights (P, K)) of each image;
                weights of 0 are no candidates.
        """
        weights = [np.asarray(w, np.float32) for _, _, w in rows]
        entries = [w.nonzero() for w in weights]
        content = {
            "pictures": np.array(json.dumps([str(image_id) for image_id, _, _ in rows])),
            "pair_counts": np.array([len(pairs) for _, pairs, _ in rows], np.int32),
            "pairs": _stack([pairs for _, pairs, _ in rows], np.int32, (0, 2)),
            "entry_counts": _stack([(w > 0).sum(1) for w in weights], np.int32, (0,)),
            "predicates": _stack([entry[1] for entry in entries], np.int16, (0,)),
            "weights": _stack(
                [w[entry] for w, entry in zip(weights, entries, strict=True)], np.float16, (0,)
            ),
        }
        path = self.shard(number)
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is no regular file: delete it")
        with atomic_write(path) as unfinished, unfinished.open("wb") as file:
            np.savez(file, **content)

    def lookup(
        self, image_id: object, subjects: np.ndarray, objects: np.ndarray
    ) -> np.ndarray | None:
        """Return the weights of pairs of one image.

        Args:
            image_id: of the dataset dict.
            subjects, objects: (P,) annotation indices.

        Returns:
            float32 (P, K), zeros for a pair that was not scored; None for such an image.
        """
        if self._position is None:
            self._load()
        position = self._position.get(str(image_id))
        if position is None:
            return None
        first, last = self._pair_starts[position : position + 2]
        keys = self._pairs[first:last].astype(np.int64) @ [1 << 32, 1]
        order = keys.argsort()
        wanted = np.asarray(subjects, np.int64) * (1 << 32) + np.asarray(objects, np.int64)
        result = np.zeros((len(wanted), self.num_predicates), np.float32)
        if not len(keys):
            return result
        at = np.searchsorted(keys[order], wanted).clip(max=len(keys) - 1)
        row = order[at]
        for index in (keys[row] == wanted).nonzero()[0]:
            begin, end = self._entry_starts[first + row[index] : first + row[index] + 2]
            result[index, self._predicates[begin:end]] = self._weights[begin:end]
        return result

    def _load(self) -> None:
        parts = list(self._shards())
        columns = {key: [part[key] for part in parts] for key in _KEYS}
        names = [name for part in columns["pictures"] for name in part]
        self._position = {name: i for i, name in enumerate(names)}
        if len(self._position) < len(names):
            raise ValueError(
                f"{self.folder}: two images have the same image id: datasets that are scored "
                "together need ids that differ"
            )
        self._pair_starts = _starts(columns["pair_counts"])
        self._entry_starts = _starts(columns["entry_counts"])
        self._pairs = _stack(columns["pairs"], np.int32, (0, 2))
        self._predicates = _stack(columns["predicates"], np.int16, (0,))
        self._weights = _stack(columns["weights"], np.float16, (0,))
        lengths = len(names), len(self._pairs), len(self._predicates)
        ends = len(self._pair_starts) - 1, self._pair_starts[-1], self._entry_starts[-1]
        ids = self._predicates
        if (
            lengths != ends
            or len(self._entry_starts) != len(self._pairs) + 1
            or len(self._weights) != len(ids)
            or ((ids < 0) | (ids >= self.num_predicates)).any()
            or np.diff(self._pair_starts).min(initial=0) < 0
            or np.diff(self._entry_starts).min(initial=0) < 0
        ):
            raise ValueError(
                f"{self.folder}: its shards do not fit together: delete the folder and run "
                "tools/score_candidates.py again"
            )

    def _shards(self) -> Iterator[dict]:
        for path in sorted(self.folder.glob("[0-9]*.npz")):
            try:
                yield self._read(path)
            except ValueError as error:
                raise ValueError(
                    f"{path} is damaged ({error}): run tools/score_candidates.py again, which "
                    "makes it again"
                ) from error

    def _read(self, path: Path) -> dict:
        """Return the arrays of a shard, and the list of its images.

        Raises:
            ValueError: it is not whole, or holds what no shard does.
        """
        if not path.is_file():
            raise ValueError("it is no regular file")
        try:
            with np.load(path, allow_pickle=False) as content:
                found = {key: content[key] for key in _KEYS}
            found["pictures"] = parse_json(text_of(found["pictures"]))
            wanted = {
                "pair_counts": (len(found["pictures"]),),
                "pairs": (int(found["pair_counts"].sum()), 2),
                "entry_counts": (int(found["pair_counts"].sum()),),
                "predicates": (int(found["entry_counts"].sum()),),
                "weights": (int(found["entry_counts"].sum()),),
            }
        except Exception as error:  # zipfile, zlib and numpy each have their own
            raise ValueError(str(error) or type(error).__name__) from error
        for key, shape in wanted.items():
            kind = "f" if key == "weights" else "iu"
            if found[key].shape != shape or found[key].dtype.kind not in kind:
                raise ValueError(f"{key} has shape {found[key].shape} of {found[key].dtype}")
            if found[key].size and not 0 <= found[key].min() <= found[key].max() < np.inf:
                raise ValueError(f"{key} has values that are negative or not finite")
        if found["predicates"].size and found["predicates"].max() >= self.num_predicates:
            raise ValueError(f"it has more than {self.num_predicates} predicates")
        return found


def _stack(parts: list[np.ndarray], dtype: type, empty: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([np.zeros(empty, dtype), *(part.astype(dtype) for part in parts)])


def _starts(counts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), _stack(counts, np.int64, (0,)).cumsum()])
