"""The texts of UnionCLIP: strings of triplets, the null text, names of objects, and their vectors.

Shapes: C object classes, K predicates, D width of the joint space. A class pair is known by its
code, subject * C + object.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.utils import comm
from torch import Tensor, nn

from vrd_d2.data.vocabulary import Vocabulary
from vrd_d2.modeling.encoders.feature_cache import fingerprint
from vrd_d2.modeling.processes import gather_rows, gather_sizes
from vrd_d2.modeling.text.language import format_prompts
from vrd_d2.modeling.union_clip.encoders import PhraseEncoder
from vrd_d2.modeling.union_clip.text_bank import TextBank


class UnionTexts:
    """Texts by class ids: all of a batch in training, out of a bank in inference.

    Args:
        encoder: texts -> rows of length 1. Not owned: it is part of the model.
        vocabulary: names of the ids.
        relation_prompts, entity_prompts: templates, whose embeddings are averaged.
        null_text: the text of regions without a relation.
        bank_folder: of the bank's file, or "" for a bank in memory.

    Raises:
        ValueError: a template has an unknown field.
    """

    def __init__(
        self,
        encoder: PhraseEncoder,
        vocabulary: Vocabulary,
        *,
        relation_prompts: Sequence[str],
        entity_prompts: Sequence[str],
        null_text: str,
        bank_folder: str = "",
    ):
        self._encoder = encoder
        self._vocabulary = vocabulary
        self._relation_prompts = list(relation_prompts)
        self._entity_prompts = list(entity_prompts)
        format_prompts(self._relation_prompts, subject="a", predicate="b", object="c")
        format_prompts(self._entity_prompts, object="a")  # both fail early
        self._null_text = null_text
        self._bank_folder = bank_folder
        self._version: tuple = ()
        self._bank: TextBank | None = None
        self._null: Tensor | None = None
        self._classes: Tensor | None = None

    def with_vocabulary(self, vocabulary: Vocabulary) -> "UnionTexts":
        """Return the same texts of other names, in memory; this instance stays as it is."""
        other = copy.copy(self)
        other._vocabulary, other._bank_folder = vocabulary, ""
        other._version, other._bank, other._null, other._classes = (), None, None, None
        return other

    def code(self, subjects: Tensor, objects: Tensor) -> Tensor:
        """Return the codes of class pairs."""
        return subjects * len(self._vocabulary.objects) + objects

    def of_batch(self, codes: Tensor) -> tuple[Tensor, list[int], Tensor]:
        """Embed the texts of the class pairs of all processes, spread among them, null text last.

        Args:
            codes: of this process's annotated pairs.

        Returns:
            this process's share (m, D), with gradient; the sizes of all shares; the distinct
            codes of the whole batch, sorted. Columns i * K to (i + 1) * K are the i-th code's.
        """
        codes = codes.unique()
        known = gather_rows(codes, gather_sizes(len(codes), codes.device)).unique()
        shares = known.tensor_split(comm.get_world_size())
        texts = self._strings(shares[comm.get_rank()].tolist())
        if comm.get_rank() == len(shares) - 1:
            texts += [self._null_text] * len(self._relation_prompts)
        sizes = [len(share) * len(self._vocabulary.predicates) for share in shares]
        sizes[-1] += 1
        # What is in the bank will be out of date, and texts of passing weights are worth no file.
        self._bank_folder = ""
        return self._embed(texts, len(self._relation_prompts), cache=True), sizes, known

    def blocks(self, codes: Sequence[int]) -> list[Tensor]:
        """Return texts (K, D) of distinct class pairs, encoded once: see :class:`TextBank`."""
        self._refresh()
        return self._bank.blocks(codes)

    @property
    def null(self) -> Tensor:
        """Return the null text, (D,)."""
        self._refresh()
        return self._null

    @torch.no_grad()
    def classes(self, head: nn.Module) -> Tensor:
        """Return the names of the object classes, (C, D).

        Args:
            head: on top of the encoder's frozen part.
        """
        self._refresh()
        if self._classes is None:
            names = self._vocabulary.objects
            prompts = [format_prompts(self._entity_prompts, object=name) for name in names]
            texts = list(dict.fromkeys(text for group in prompts for text in group))
            rows = self._encoder.embed(self._encoder.states(texts), head=head)
            index = torch.tensor([[texts.index(text) for text in group] for group in prompts])
            self._classes = F.normalize(rows[index.to(rows.device)].mean(1), dim=-1)
        return self._classes

    def _strings(self, codes: Sequence[int]) -> list[str]:
        """Return all prompts of all predicates of class pairs, code by code."""
        names = self._vocabulary
        return [
            prompt
            for subject, obj in (divmod(code, len(names.objects)) for code in codes)
            for predicate in names.predicates
            for prompt in format_prompts(
                self._relation_prompts,
                subject=names.objects[subject],
                predicate=predicate,
                object=names.objects[obj],
            )
        ]

    def _embed(self, texts: list[str], templates: int, *, cache: bool = False) -> Tensor:
        """Return rows (n, D) of length 1 of n * templates texts, averaged over the templates."""
        rows = self._encoder(texts, cache=cache)
        if templates == 1:
            return rows
        return F.normalize(rows.reshape(-1, templates, rows.shape[1]).mean(1), dim=-1)

    def _encode(self, codes: list[int]) -> Tensor:
        rows = self._embed(self._strings(codes), len(self._relation_prompts))
        return rows.reshape(len(codes), len(self._vocabulary.predicates), -1)

    @torch.no_grad()
    def _refresh(self) -> None:
        """Forget texts of other weights than today's."""
        version = self._encoder.version()
        if version == self._version:
            return
        self._version = version
        self._null, self._classes = self._embed([self._null_text], 1)[0], None
        names, key = self._vocabulary, ""
        if self._bank_folder:
            settings = (names.objects, names.predicates, self._relation_prompts)
            key = fingerprint(self._encoder, settings)
        self._bank = TextBank(
            self._encode,
            num_classes=len(names.objects),
            num_predicates=len(names.predicates),
            width=len(self._null),
            folder=self._bank_folder,
            key=key,
            device=self._encoder.device,
        )
