"""Words for relations: prompts, their embeddings, and the word vectors of active sampling.

Shapes: C object classes, K predicates, N relation instances, D text width, W word-vector width.
"""

import gzip
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vrd_d2.data.vocabulary import Vocabulary

logger = logging.getLogger(__name__)


def format_prompts(templates: list[str], **names: str) -> list[str]:
    """Fill {subject}, {predicate}, {object} into every template.

    Raises:
        ValueError: a template has a field that is not given.
    """
    try:
        return [template.format(**names) for template in templates]
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"MODEL.TEXT: the prompts {templates} may only use the fields "
            f"{', '.join('{' + name + '}' for name in names)} ({error!r})"
        ) from error


class RelationText:
    """Text embeddings of entities and relations by class ids (RelCLIP, section 3.2).

    Args:
        encoder: texts -> (n, D) L2-normalised rows; it caches, so each distinct text is encoded
        once. vocabulary: names of the ids.
        entity_prompts, relation_prompts: templates, whose embeddings are averaged.
    """

    def __init__(
        self,
        encoder: Callable[..., Tensor],
        vocabulary: Vocabulary,
        *,
        entity_prompts: list[str],
        relation_prompts: list[str],
    ):
        self._encoder = encoder
        self._vocabulary = vocabulary
        self._relation_prompts = list(relation_prompts)
        self._entities = self._embed(
            [format_prompts(entity_prompts, object=name) for name in vocabulary.objects], "cpu"
        )
        format_prompts(relation_prompts, subject="a", predicate="b", object="c")  # fail early
        self._rows: dict[tuple[int, int, int], int] = {}
        self._relations = self._entities.new_empty((0, self._entities.shape[1]))

    def _embed(self, prompts: list[list[str]], device: torch.device | str) -> Tensor:
        flat = [prompt for group in prompts for prompt in group]
        rows = self._encoder(flat, device=device).reshape(len(prompts), len(prompts[0]), -1)
        return F.normalize(rows.mean(1), dim=-1)

    @property
    def entity_table(self) -> Tensor:
        """(C, D) embeddings of all object classes, rows of length 1."""
        return self._entities

    def entities(self, classes: Tensor) -> Tensor:
        """t_i: (N,) class ids -> (N, D)."""
        self._entities = self._entities.to(classes.device)
        return self._entities[classes]

    def relations(self, subjects: Tensor, weights: Tensor, objects: Tensor) -> Tensor:
        """t_ij = sum_r w_r t(a_i, r, a_j), the weighted labels of section 3.4.

        Args:
            subjects, objects: (N,) class ids.
            weights: (N, K) with at least one positive entry a row; normalised here to sum 1.

        Returns:
            (N, D); rows of one-hot weights have length 1.
        """
        instances, predicates = weights.nonzero(as_tuple=True)
        keys = list(
            zip(
                subjects[instances].tolist(),
                predicates.tolist(),
                objects[instances].tolist(),
                strict=True,
            )
        )
        self._add([key for key in dict.fromkeys(keys) if key not in self._rows], weights.device)
        self._relations = self._relations.to(weights.device)
        rows = torch.tensor([self._rows[key] for key in keys], device=weights.device).long()
        share = weights / weights.sum(1, keepdim=True).clamp(min=1e-12)
        result = self._relations.new_zeros((len(weights), self._relations.shape[1]))
        return result.index_add(
            0, instances, self._relations[rows] * share[instances, predicates][:, None]
        )

    def _add(self, keys: list[tuple[int, int, int]], device: torch.device) -> None:
        if not keys:
            return
        names = self._vocabulary
        prompts = [
            format_prompts(
                self._relation_prompts,
                subject=names.objects[s],
                predicate=names.predicates[p],
                object=names.objects[o],
            )
            for s, p, o in keys
        ]
        self._rows.update({key: len(self._rows) + i for i, key in enumerate(keys)})
        new = self._embed(prompts, device)
        self._relations = torch.cat([self._relations.to(device), new])


class PhraseVectors:
    """Word embeddings of "subject predicate" and the like: the mean of the tokens' vectors.

    Args:
        vectors: word -> (W,) array, for all words of the vocabulary that the source knows.
        vocabulary: whose names are split at spaces into words.
    """

    def __init__(self, vectors: dict[str, np.ndarray], vocabulary: Vocabulary):
        width = len(next(iter(vectors.values()))) if vectors else 1
        self._objects = self._sums(vocabulary.objects, vectors, width)
        self._predicates = self._sums(vocabulary.predicates, vectors, width)

    @property
    def width(self) -> int:
        """W, width of a word vector."""
        return self._objects.shape[1] - 1

    @staticmethod
    def _sums(names: Iterable[str], vectors: dict[str, np.ndarray], width: int) -> Tensor:
        # The last column counts the words, so that sums of rows still know their number of tokens.
        rows = np.zeros((len(tuple(names)), width + 1), dtype=np.float32)
        for row, name in zip(rows, names, strict=True):
            for word in split_words(name):
                if word in vectors:
                    row[:-1] += vectors[word]
                    row[-1] += 1
        return torch.from_numpy(rows)

    def __call__(
        self, parts: tuple[str, ...], subjects: Tensor, weights: Tensor, objects: Tensor
    ) -> Tensor:
        """Embed the parts of relation instances.

        Args:
            parts: out of "subject", "predicate", "object".
            subjects, objects: (N,) class ids.
            weights: (N, K) label weights; several labels give their weighted mean.

        Returns:
            (N, W), rows of length 1 (0 where no word has a vector).
        """
        self._objects = self._objects.to(weights.device)
        self._predicates = self._predicates.to(weights.device)
        total = self._objects.new_zeros((len(weights), self._objects.shape[1]))
        if "subject" in parts:
            total = total + self._objects[subjects]
        if "object" in parts:
            total = total + self._objects[objects]
        if "predicate" in parts:
            share = weights / weights.sum(1, keepdim=True).clamp(min=1e-12)
            total = total + share.to(total.dtype) @ self._predicates
        return F.normalize(total[:, :-1] / total[:, -1:].clamp(min=1e-6), dim=-1)


def split_words(name: str) -> list[str]:
    """Words of a class or predicate name."""
    return name.lower().replace("-", " ").replace("_", " ").split()


def vocabulary_words(vocabulary: Vocabulary) -> list[str]:
    """All distinct words of a vocabulary, in order."""
    names = [*vocabulary.objects, *vocabulary.predicates]
    return list(dict.fromkeys(word for name in names for word in split_words(name)))


def clip_word_vectors(
    encoder: Callable[..., Tensor], vocabulary: Vocabulary
) -> dict[str, np.ndarray]:
    """Word vectors out of CLIP's text encoder, for when no table of word vectors is at hand.

    CLIP's texts lie in a narrow cone, where any two are similar, and thresholds made for word2vec
    would cut nothing or all. The mean over the vocabulary is therefore taken off.
    """
    words = vocabulary_words(vocabulary)
    rows = encoder(words, device="cpu")
    rows = F.normalize(rows - rows.mean(0), dim=-1).numpy()
    return dict(zip(words, rows, strict=True))


def load_word_vectors(path: str | Path, vocabulary: Vocabulary) -> dict[str, np.ndarray]:
    """Read the vectors of a vocabulary's words from a GloVe or word2vec text file.

    Args:
        path: .txt or .txt.gz; lines of a word and its numbers; a word2vec header line is skipped.
        vocabulary: only its words are kept; the file is streamed.

    Raises:
        ValueError: no such file, a malformed line (with its number), or not one known word.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"MODEL.TEXT.WORD_VECTORS: there is no file {path}; give a GloVe or word2vec text file "
            "or 'clip'"
        )
    if path.suffix not in (".txt", ".gz", ".vec"):
        raise ValueError(
            f"MODEL.TEXT.WORD_VECTORS: {path} is no text file (.txt, .vec, .txt.gz); save gensim's "
            "vectors with KeyedVectors.save_word2vec_format"
        )
    wanted = set(vocabulary_words(vocabulary))
    vectors: dict[str, np.ndarray] = {}
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            word, _, numbers = line.rstrip().partition(" ")
            if word not in wanted or word in vectors:
                continue
            try:
                vector = np.array(numbers.split(), dtype=np.float32)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: not a word and its numbers") from error
            if vectors and len(vector) != len(next(iter(vectors.values()))):
                raise ValueError(
                    f"{path}, line {number}: {len(vector)} numbers, the lines before have "
                    f"{len(next(iter(vectors.values())))}"
                )
            vectors[word] = vector
    if not vectors:
        raise ValueError(f"{path} has a vector for none of the {len(wanted)} words needed")
    missing = sorted(wanted - set(vectors))
    if missing:
        logger.warning("%s lacks %d words: %s", path, len(missing), ", ".join(missing))
    return vectors
