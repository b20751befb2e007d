"""The knowledge base of distant supervision: how often each (subject, predicate, object) occurs.

VisualDS (Yao et al. 2021) and RelCLIP under distant supervision take as labels of a pair of
objects every predicate that the base holds for their classes. Captions become a base by
``datasets/prepare_knowledge_base.py``.
"""

import itertools
import json
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from vrd_d2.addresses import refuse_address
from vrd_d2.data.atomic_files import atomic_write
from vrd_d2.data.record_values import text_of
from vrd_d2.data.records.columns import flat_ranges
from vrd_d2.data.source_files import parse_json, require_regular
from vrd_d2.data.vocabulary import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor

    Ids = np.ndarray | Tensor
VERSION = 1
_TEXTS = ("objects", "predicates", "sources")
_SHOWN = 3  # differences of two vocabularies that an error quotes


class KnowledgeBase:
    """Counts of triplets, sparse: only triplets that occur take memory.

    Args:
        vocabulary: names of the C object classes and K predicates.
        triplets: integers (T, 3), rows (subject class, predicate, object class); any order,
            repeated rows add up.
        counts: integers (T,), how often each occurs, at least 1.
        sources: what the counts were made from, for people to read.

    Raises:
        ValueError: shapes do not fit, or the first row that has an unknown id or no count.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        triplets: np.ndarray,
        counts: np.ndarray,
        *,
        sources: Iterable[str] = (),
    ):
        triplets = np.asarray(triplets, np.int64).reshape(-1, 3)
        counts = np.asarray(counts, np.int64).reshape(-1)
        classes, predicates = len(vocabulary.objects), len(vocabulary.predicates)
        _check(triplets, counts, (classes, predicates, classes))
        self.vocabulary = vocabulary
        self.sources = tuple(sources)
        keys = (triplets[:, 0] * classes + triplets[:, 2]) * predicates + triplets[:, 1]
        keys, inverse = np.unique(keys, return_inverse=True)
        pairs = keys // predicates
        # Rows of pairs that occur (subject * C + object, ascending), and where the predicates of
        # each begin: the layout of a sparse matrix by rows.
        known, starts = np.unique(pairs, return_index=True)
        totals = np.zeros(len(keys), np.int64)
        np.add.at(totals, inverse.reshape(-1), counts)
        self._pairs = known
        self._starts = np.append(starts, len(keys)).astype(np.int64)
        self._predicates = keys % predicates
        self._counts = totals

    @classmethod
    def from_counts(
        cls,
        vocabulary: Vocabulary,
        counts: Mapping[tuple[int, int, int], int],
        *,
        sources: Iterable[str] = (),
    ) -> "KnowledgeBase":
        """Make a base from a mapping (subject class, predicate, object class) -> count."""
        numbers = np.fromiter(counts.values(), np.int64, len(counts))
        return cls(vocabulary, np.array(list(counts), np.int64), numbers, sources=sources)

    def __len__(self) -> int:
        """Return the number of different triplets."""
        return len(self._counts)

    @property
    def pairs(self) -> int:
        """Return the number of (subject class, object class) with at least one predicate."""
        return len(self._pairs)

    @property
    def triplets(self) -> np.ndarray:
        """Return int64 (T, 3), rows (subject class, predicate, object class), each once."""
        pairs = np.repeat(self._pairs, np.diff(self._starts))
        classes = len(self.vocabulary.objects)
        return np.stack([pairs // classes, self._predicates, pairs % classes], 1)

    @property
    def triplet_counts(self) -> np.ndarray:
        """Return int64 (T,), counts in the order of :attr:`triplets`."""
        return self._counts

    def counts(self, subjects: "Ids", objects: "Ids", *, min_count: int = 1) -> "Ids":
        """Return how often each predicate occurs between pairs of classes.

        Args:
            subjects, objects: integer ids of object classes, (N,): arrays or tensors of any
                device, which the result is, too.
            min_count: rarer triplets count as 0.

        Returns:
            int64 (N, K).

        Raises:
            ValueError: shapes differ, or an id is not in the vocabulary.
        """
        if not isinstance(subjects, np.ndarray):
            arrays = subjects.cpu().numpy(), objects.cpu().numpy()
            return _on_device(self.counts(*arrays, min_count=min_count), subjects)
        objects = np.asarray(objects)
        classes, predicates = len(self.vocabulary.objects), len(self.vocabulary.predicates)
        self._check_ids(subjects, objects)
        found = np.zeros((len(subjects), predicates), np.int64)
        if not len(self._pairs) or not len(subjects):
            return found
        # Find the pairs that occur among those asked for.
        wanted = subjects.astype(np.int64) * classes + objects.astype(np.int64)
        position = np.searchsorted(self._pairs, wanted).clip(max=len(self._pairs) - 1)
        rows = (self._pairs[position] == wanted).nonzero()[0]
        first = self._starts[position[rows]]
        lengths = self._starts[position[rows] + 1] - first
        # All entries of all found pairs, one below the other.
        entries = flat_ranges(first, lengths)
        counts = self._counts[entries]
        counts = np.where(counts >= min_count, counts, 0)
        found[np.repeat(rows, lengths), self._predicates[entries]] = counts
        return found

    def candidates(self, subjects: "Ids", objects: "Ids", *, min_count: int = 1) -> "Ids":
        """Return which predicates occur between pairs of classes: bool (N, K)."""
        return self.counts(subjects, objects, min_count=min_count) > 0

    def weights(
        self, subjects: "Ids", objects: "Ids", *, by_count: bool = False, min_count: int = 1
    ) -> "Ids":
        """Return the labels of pairs of classes under distant supervision.

        Args:
            subjects, objects, min_count: as in :meth:`counts`.
            by_count: False gives all candidates the same weight (RelCLIP (KB)), True weighs them
                by their counts (the training-free KB prior).

        Returns:
            float32 (N, K). A row sums to 1; a pair without candidates is background, a row of
            zeros.
        """
        if not isinstance(subjects, np.ndarray):
            arrays = subjects.cpu().numpy(), objects.cpu().numpy()
            found = self.weights(*arrays, by_count=by_count, min_count=min_count)
            return _on_device(found, subjects)
        counts = self.counts(subjects, objects, min_count=min_count)
        counts = counts if by_count else (counts > 0).astype(np.int64)
        totals = counts.sum(1, keepdims=True).clip(min=1)
        return counts.astype(np.float32) / totals.astype(np.float32)

    def _check_ids(self, subjects: np.ndarray, objects: np.ndarray) -> None:
        if subjects.ndim != 1 or subjects.shape != objects.shape:
            raise ValueError(
                f"subjects {tuple(subjects.shape)} and objects {tuple(objects.shape)} must be one "
                "list of class ids each, of the same length"
            )
        classes = len(self.vocabulary.objects)
        for name, ids in (("subjects", subjects), ("objects", objects)):
            if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < classes:
                raise ValueError(
                    f"{name} hold the id {int(ids.min() if ids.min() < 0 else ids.max())}, but the "
                    f"knowledge base has {classes} object classes (0 to {classes - 1})"
                )

    def require(self, vocabulary: Vocabulary) -> None:
        """Check that the base has a model's vocabulary.

        Raises:
            ValueError: with the first names that differ.
        """
        for kind in ("objects", "predicates"):
            names, wanted = getattr(self.vocabulary, kind), getattr(vocabulary, kind)
            if names == wanted:
                continue
            longest = itertools.zip_longest(names, wanted)
            differing = [i for i, (name, other) in enumerate(longest) if name != other]
            examples = ", ".join(
                f"{kind}[{i}] is {_at(names, i)}, of the model {_at(wanted, i)}"
                for i in differing[:_SHOWN]
            )
            raise ValueError(
                f"the knowledge base has another vocabulary than the model: {len(names)} {kind} "
                f"and {len(wanted)}, {len(differing)} of them differ ({examples}): make it again "
                "for the model's vocabulary (datasets/prepare_knowledge_base.py)"
            )

    def save(self, path: str | os.PathLike) -> None:
        """Write a compressed ``.npz``, which appears when it is complete.

        It holds "version", "objects", "predicates", "sources" (JSON texts), "triplets" (T, 3) and
        "counts" (T,).
        """
        texts = (self.vocabulary.objects, self.vocabulary.predicates, self.sources)
        with atomic_write(path) as unfinished, unfinished.open("wb") as file:
            np.savez_compressed(
                file,
                version=np.array(VERSION),
                triplets=self.triplets.astype(np.int32),
                counts=self.triplet_counts,
                **{k: np.array(json.dumps(v)) for k, v in zip(_TEXTS, texts, strict=True)},
            )

    @classmethod
    def load(cls, path: str | os.PathLike) -> "KnowledgeBase":
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: there is no such file, or it is none of these; with the remedy.
        """
        refuse_address(path)
        remedy = "make one with datasets/prepare_knowledge_base.py"
        require_regular(path, remedy)
        try:
            with np.load(path, allow_pickle=False) as content:
                version = int(content["version"])
                if version != VERSION:
                    raise ValueError(
                        f"{path} has version {version} of the knowledge base's format, this "
                        f"program reads {VERSION}: {remedy}"
                    )
                texts = {key: parse_json(text_of(content[key])) for key in _TEXTS}
                triplets, counts = content["triplets"], content["counts"]
        except FileNotFoundError as error:
            raise ValueError(f"there is no knowledge base {path}: {remedy}") from error
        except Exception as error:  # zipfile, zlib, json and numpy each have their own
            if isinstance(error, ValueError) and "version" in str(error):
                raise
            raise ValueError(f"{path} is no knowledge base ({error}): {remedy}") from error
        try:
            vocabulary = Vocabulary(texts["objects"], texts["predicates"])
            return cls(vocabulary, triplets, counts, sources=texts["sources"])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def merge(bases: Iterable[KnowledgeBase]) -> KnowledgeBase:
    """Return the sum of bases of one vocabulary.

    Raises:
        ValueError: there is none, or the vocabularies differ.
    """
    bases = list(bases)
    if not bases:
        raise ValueError("no knowledge base to merge: give at least one")
    for base in bases[1:]:
        base.require(bases[0].vocabulary)
    return KnowledgeBase(
        bases[0].vocabulary,
        np.concatenate([base.triplets for base in bases]),
        np.concatenate([base.triplet_counts for base in bases]),
        sources=[source for base in bases for source in base.sources],
    )


def _on_device(array: np.ndarray, like: "Tensor") -> "Tensor":
    """Return the array as a tensor on the device of another."""
    import torch  # it is loaded, as there is a tensor

    return torch.from_numpy(array).to(like.device)


def _at(names: tuple[str, ...], index: int) -> str:
    return repr(names[index]) if index < len(names) else "missing"


def _check(triplets: np.ndarray, counts: np.ndarray, limits: tuple[int, int, int]) -> None:
    if len(triplets) != len(counts):
        raise ValueError(f"{len(triplets)} triplets and {len(counts)} counts: give one each")
    wrong = ((triplets < 0) | (triplets >= limits)).any(1) | (counts < 1)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"triplets[{row}] is {triplets[row].tolist()} with count {counts[row]}: ids must be "
            f"below {list(limits)} (subject, predicate, object) and counts at least 1"
        )
