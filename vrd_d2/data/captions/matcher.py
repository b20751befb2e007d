"""Match the words of a vocabulary in captions, for a knowledge base of distant supervision.

A triplet that is missing costs little in a large corpus, a wrong one becomes a wrong label: where
a sentence can be read in two ways ("a man with a dog on a bench": who is on the bench?), nothing
is said.
"""

from collections.abc import Sequence

from vrd_d2.data.captions.base import Triplet
from vrd_d2.data.captions.chunks import RELATIONAL, Chunk, Chunker, Kind
from vrd_d2.data.captions.lexicon import Lexicon
from vrd_d2.data.captions.words import split_words

Nouns = list[int | None]


class VocabularyMatcher:
    """Finds "noun phrase, predicate, noun phrase" by the words of a vocabulary alone.

    Args:
        lexicon: the words.
    """

    name = "matcher"

    def __init__(self, lexicon: Lexicon):
        self._chunker = Chunker(lexicon)

    def parse(self, captions: Sequence[str]) -> list[list[Triplet]]:
        return [_Clauses(self._chunker(split_words(caption))).triplets for caption in captions]


class _Clauses:
    """Walks over the chunks of a caption.

    subjects: the nouns that the clause is about. choices: how many noun phrases a preposition or
    participle could belong to by now; what could belong to several is passed over. verb_subjects:
    who does what the last verb says, for "... and holding a cup". Lost: nothing more is
    understood until a new clause begins.
    """

    def __init__(self, chunks: list[Chunk]):
        self._chunks = chunks
        self.triplets: list[Triplet] = []
        self._reset()
        position = 0
        while position < len(chunks):
            position = self._step(position)

    def _reset(self) -> None:
        self.subjects: Nouns | None = None
        self.verb_subjects: Nouns | None = None
        self.last: int | None = None
        self.choices = 0
        self.relative = self.negated = self.lost = False

    def _kind(self, position: int) -> Kind | None:
        return self._chunks[position].kind if 0 <= position < len(self._chunks) else None

    def _step(self, position: int) -> int:
        chunk = self._chunks[position]
        if chunk.kind is Kind.NOUN:
            return self._subject(position)
        if chunk.kind in (Kind.PREPOSITION, Kind.PARTICIPLE, Kind.VERB):
            return self._relation(position)
        if chunk.kind is Kind.STOP:
            self._reset()
        elif chunk.kind is Kind.NOT:
            self.negated = True
        elif chunk.kind is Kind.UNCERTAIN:
            self.lost = True
        elif chunk.kind is Kind.WHO:
            self.relative = True
        return position + 1

    def _subject(self, position: int) -> int:
        """Read a noun phrase that no predicate waits for: a clause begins, or nothing is clear."""
        chunk = self._chunks[position]
        before = self._kind(position - 1)
        if chunk.pronoun and self._kind(position + 1) is Kind.BE and self.subjects is None:
            if self._kind(position + 2) is Kind.NOUN:
                return position + 2  # "there is a dog", "this is a dog": a dog
        elif before in (Kind.AND, Kind.COMMA) and self.subjects is not None:
            self._reset()
        if self.subjects is not None or (before is Kind.NOT and self._kind(position - 2)):
            self.lost = True
            return position + 1
        self.subjects, position = self._listed(position)
        self.last, self.choices = self.subjects[-1], 1
        return position

    def _listed(self, position: int) -> tuple[Nouns, int]:
        """Read a list, "a man, a woman and a dog", from its first noun phrase on."""
        nouns: Nouns = [self._chunks[position].index]
        end = position + 1
        pending: Nouns = []
        while True:
            joint = end
            while self._kind(joint) in (Kind.COMMA, Kind.AND):
                joint += 1
            joints = [self._kind(i) for i in range(end, joint)]
            if not joints or self._kind(joint) is not Kind.NOUN:
                return nouns, end if not pending else position + 1
            pending.append(self._chunks[joint].index)
            if Kind.AND in joints:
                return nouns + pending, joint + 1
            end = joint + 1

    def _relation(self, position: int) -> int:
        chunk = self._chunks[position]
        subjects = self._subjects_of(chunk, self._kind(position - 1))
        negated, self.negated = self.negated, False
        if chunk.kind is not Kind.PREPOSITION:
            self.verb_subjects = subjects
        position += 1
        if self._kind(position) is Kind.NOT:
            negated, position = True, position + 1
        if self._kind(position) is not Kind.NOUN:
            return position
        objects, end = self._objects(position, chunk)
        if subjects is not None and not negated and not self.lost:
            self._state(chunk, subjects, objects)
        self.last = objects[-1]
        self.choices += 1
        return end

    def _subjects_of(self, chunk: Chunk, before: Kind | None) -> Nouns | None:
        """Return what a predicate is said of; None if that is not clear."""
        if self.subjects is None or self.lost:
            return None
        clear = self.choices == 1
        relative, self.relative = self.relative, False
        if relative and not clear:
            return None
        if before is Kind.NOT:
            before = Kind.BE
        if chunk.kind is Kind.PREPOSITION:
            if chunk.of and before is Kind.NOUN:
                return [self.last]
            if before is Kind.BE:
                return self.subjects
            # "a man and a dog on a leash": the last one alone is certain.
            return [self.last] if clear and before is Kind.NOUN else None
        if before in (Kind.AND, Kind.COMMA):
            return self.verb_subjects
        if chunk.kind is Kind.VERB or before is Kind.BE:
            return self.subjects
        return self.subjects if clear and before in (Kind.NOUN, Kind.WHO) else None

    def _objects(self, position: int, predicate: Chunk) -> tuple[Nouns, int]:
        """Return the nouns that a predicate is about, and the position behind them.

        In "wearing a hat and a cup on a table" a new clause begins at "a cup"; in "wearing a hat
        and gloves" it does not.
        """
        single = [self._chunks[position].index]
        nouns, end = self._listed(position)
        if end == position + 1:
            return single, end
        last = self._chunks[end - 1]
        if self._kind(end) in RELATIONAL:
            if last.determined:
                return single, position + 1
            self.choices += 1
            return nouns, end
        if predicate.kind is Kind.PREPOSITION and last.determined:
            return single, position + 1
        return nouns, end

    def _state(self, chunk: Chunk, subjects: Nouns, objects: Nouns) -> None:
        index = chunk.index if chunk.passive is None else chunk.passive
        if index is None:
            return
        if chunk.passive is not None:
            subjects, objects = objects, subjects
        self.triplets += [
            (s, index, o) for s in subjects for o in objects if s is not None and o is not None
        ]
