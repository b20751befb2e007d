"""The knowledge base of distant supervision: how often a (subject, predicate, object) was told.

VisualDS (Yao et al. 2021) and RelCLIP under distant supervision take as labels of a pair of
objects every predicate that the base holds for their classes. Captions become a base by
``datasets/prepare_knowledge_base.py``.
"""

import itertools
import json
import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch

from vrd_d2.data.vocabulary import Vocabulary

Ids = np.ndarray | torch.Tensor
VERSION = 1
_TEXTS = ("objects", "predicates", "sources")
_SHOWN = 3  # differences of two vocabularies that an error quotes


class KnowledgeBase:
    """Counts of triplets, sparse: only what was told takes memory.

    Args:
        vocabulary: names of the C object classes and K predicates.
        triplets: integers (T, 3), rows (subject class, predicate, object class); any order,
            repeated rows add up.
        counts: integers (T,), how often each was told, at least 1.
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
        self._pairs = torch.from_numpy(known)
        self._starts = torch.from_numpy(np.append(starts, len(keys)).astype(np.int64))
        self._predicates = torch.from_numpy(keys % predicates)
        self._counts = torch.from_numpy(totals)

    @classmethod
    def from_counts(
        cls,
        vocabulary: Vocabulary,
        counts: Mapping[tuple[int, int, int], int],
        *,
        sources: Iterable[str] = (),
    ) -> "KnowledgeBase":
        """A base from a mapping (subject class, predicate, object class) -> count."""
        numbers = np.fromiter(counts.values(), np.int64, len(counts))
        return cls(vocabulary, np.array(list(counts), np.int64), numbers, sources=sources)

    def __len__(self) -> int:
        """Number of different triplets."""
        return len(self._counts)

    @property
    def pairs(self) -> int:
        """Number of (subject class, object class) that have at least one predicate."""
        return len(self._pairs)

    @property
    def triplets(self) -> np.ndarray:
        """int64 (T, 3), rows (subject class, predicate, object class), each once."""
        pairs = torch.repeat_interleave(self._pairs, self._starts.diff())
        classes = len(self.vocabulary.objects)
        return torch.stack([pairs // classes, self._predicates, pairs % classes], 1).numpy()

    @property
    def triplet_counts(self) -> np.ndarray:
        """int64 (T,), counts in the order of :attr:`triplets`."""
        return self._counts.numpy()

    def counts(self, subjects: Ids, objects: Ids, *, min_count: int = 1) -> Ids:
        """How often each predicate was told of pairs of classes.

        Args:
            subjects, objects: integer ids of object classes, (N,): arrays or tensors of any
                device, which the result is, too.
            min_count: rarer triplets count as 0.

        Returns:
            int64 (N, K).

        Raises:
            ValueError: shapes differ, or an id is not in the vocabulary.
        """
        if isinstance(subjects, np.ndarray):
            tensors = torch.from_numpy(subjects), torch.from_numpy(np.asarray(objects))
            return self.counts(*tensors, min_count=min_count).numpy()
        classes, predicates = len(self.vocabulary.objects), len(self.vocabulary.predicates)
        self._check_ids(subjects, objects)
        device = subjects.device
        pairs, starts = self._pairs.to(device), self._starts.to(device)
        found = torch.zeros(len(subjects), predicates, dtype=torch.int64, device=device)
        if not len(pairs) or not len(subjects):
            return found
        wanted = subjects.long() * classes + objects.long()
        place = torch.searchsorted(pairs, wanted).clamp_(max=len(pairs) - 1)
        rows = (pairs[place] == wanted).nonzero()[:, 0]
        first, last = starts[place[rows]], starts[place[rows] + 1]
        # All entries of all found rows, one below the other.
        lengths = last - first
        ends = lengths.cumsum(0)
        entries = torch.arange(int(lengths.sum()), device=device)
        entries = entries + torch.repeat_interleave(first - (ends - lengths), lengths)
        told = self._counts.to(device)[entries]
        told = torch.where(told >= min_count, told, 0)
        found[torch.repeat_interleave(rows, lengths), self._predicates.to(device)[entries]] = told
        return found

    def candidates(self, subjects: Ids, objects: Ids, *, min_count: int = 1) -> Ids:
        """Which predicates the base holds for pairs of classes: bool (N, K); see :meth:`counts`."""
        return self.counts(subjects, objects, min_count=min_count) > 0

    def weights(
        self, subjects: Ids, objects: Ids, *, by_count: bool = False, min_count: int = 1
    ) -> Ids:
        """Labels of pairs of classes under distant supervision.

        Args:
            subjects, objects, min_count: as in :meth:`counts`.
            by_count: False gives all candidates the same weight (RelCLIP (KB)), True weighs them
                by their counts (the training-free KB prior).

        Returns:
            float32 (N, K). A row sums to 1; a pair without candidates is background, a row of
            zeros.
        """
        if isinstance(subjects, np.ndarray):
            tensors = torch.from_numpy(subjects), torch.from_numpy(np.asarray(objects))
            return self.weights(*tensors, by_count=by_count, min_count=min_count).numpy()
        told = self.counts(subjects, objects, min_count=min_count)
        told = (told if by_count else told > 0).float()
        return told / told.sum(1, keepdim=True).clamp(min=1)

    def _check_ids(self, subjects: torch.Tensor, objects: torch.Tensor) -> None:
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
        """Make sure that the base has a model's vocabulary.

        Raises:
            ValueError: with the first names that differ.
        """
        for kind in ("objects", "predicates"):
            mine, wanted = getattr(self.vocabulary, kind), getattr(vocabulary, kind)
            if mine == wanted:
                continue
            longest = itertools.zip_longest(mine, wanted)
            differing = [i for i, (name, other) in enumerate(longest) if name != other]
            examples = ", ".join(
                f"{kind}[{i}] is {_at(mine, i)}, of the model {_at(wanted, i)}"
                for i in differing[:_SHOWN]
            )
            raise ValueError(
                f"the knowledge base has another vocabulary than the model: {len(mine)} {kind} "
                f"and {len(wanted)}, {len(differing)} of them differ ({examples}): make it again "
                "for the model's vocabulary (datasets/prepare_knowledge_base.py)"
            )

    def save(self, path: str | os.PathLike) -> None:
        """Write a compressed ``.npz``, which appears when it is complete.

        It holds "version", "objects", "predicates", "sources" (JSON texts), "triplets" (T, 3) and
        "counts" (T,).
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".writing")
        texts = (self.vocabulary.objects, self.vocabulary.predicates, self.sources)
        with partial.open("wb") as file:
            np.savez_compressed(
                file,
                version=np.array(VERSION),
                triplets=self.triplets.astype(np.int32),
                counts=self.triplet_counts,
                **{k: np.array(json.dumps(v)) for k, v in zip(_TEXTS, texts, strict=True)},
            )
        os.replace(partial, path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "KnowledgeBase":
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: there is no such file, or it is none of these; with the remedy.
        """
        remedy = "make one with datasets/prepare_knowledge_base.py"
        try:
            with np.load(path, allow_pickle=False) as content:
                version = int(content["version"])
                if version != VERSION:
                    raise ValueError(
                        f"{path} has version {version} of the knowledge base's format, this "
                        f"program reads {VERSION}: {remedy}"
                    )
                texts = {key: json.loads(str(content[key])) for key in _TEXTS}
                triplets, counts = content["triplets"], content["counts"]
        except FileNotFoundError as error:
            raise ValueError(f"there is no knowledge base {path}: {remedy}") from error
        except (KeyError, zipfile.BadZipFile, EOFError, AttributeError, TypeError) as error:
            raise ValueError(f"{path} is no knowledge base ({error}): {remedy}") from error
        except ValueError as error:
            if "version" in str(error):
                raise
            raise ValueError(f"{path} is no knowledge base ({error}): {remedy}") from error
        try:
            vocabulary = Vocabulary(texts["objects"], texts["predicates"])
            return cls(vocabulary, triplets, counts, sources=texts["sources"])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def merge(bases: Iterable[KnowledgeBase]) -> KnowledgeBase:
    """The sum of bases of one vocabulary.

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
