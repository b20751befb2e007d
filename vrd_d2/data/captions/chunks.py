"""Words of a sentence into chunks: noun phrases, verbs, prepositions, and what joins them.

There is no part-of-speech tagger here. A noun phrase is a run of words between words of the
closed classes and forms of known verbs; its last word must be a name of the vocabulary, so that
"white brick building exterior" is not a building.
"""

from dataclasses import dataclass
from enum import Enum, auto

from vrd_d2.data.captions import words as words
from vrd_d2.data.captions.lexicon import Lexicon, Phrase


class Kind(Enum):
    """What a chunk is."""

    NOUN = auto()
    VERB = auto()  # a form that says when: "wears", "holds"
    PARTICIPLE = auto()  # "wearing", "parked", also after "is"
    PREPOSITION = auto()
    BE = auto()
    AND = auto()
    COMMA = auto()
    WHO = auto()  # who, which, that
    NOT = auto()
    UNCERTAIN = auto()  # what follows in this statement is no fact
    STOP = auto()


RELATIONAL = frozenset((Kind.VERB, Kind.PARTICIPLE, Kind.PREPOSITION, Kind.BE))
# "is seen behind" is "is behind".
_PRESENTED = frozenset(("seen", "shown", "pictured", "visible"))


@dataclass(slots=True)
class Chunk:
    """A piece of a sentence.

    Attributes:
        index: id of the object class or predicate; None if the vocabulary has none.
        passive: id of the predicate that holds from the object to the subject instead.
        determined: a noun phrase begins with a determiner.
        pronoun: a noun phrase is "it", "this", "there".
        of: the preposition is "of".
    """

    kind: Kind
    index: int | None = None
    passive: int | None = None
    determined: bool = False
    pronoun: bool = False
    of: bool = False


class Chunker:
    """Splits a tokenised sentence by the words of a lexicon."""

    def __init__(self, lexicon: Lexicon):
        self._lexicon = lexicon

    def __call__(self, text: list[str]) -> list[Chunk]:
        return _Pass(self._lexicon, text).run()


class _Pass:
    """One sentence on its way: `noun` holds the words of the noun phrase that is open."""

    def __init__(self, lexicon: Lexicon, text: list[str]):
        self.lexicon = lexicon
        self.text = text
        self.chunks: list[Chunk] = []
        self.noun: list[str] = []
        self.determined = False
        self.negated = False

    def run(self) -> list[Chunk]:
        position = 0
        while position < len(self.text):
            position = self._step(position)
        self._close()
        return self.chunks

    def _close(self) -> None:
        """End the open noun phrase, if any."""
        if self.noun or self.determined:
            if self.negated:
                self.chunks.append(Chunk(Kind.NOT))
            colour = not self.determined and self.noun[-1] in words.COLOURS  # "in orange"
            index = self.lexicon.noun(self.noun) if self.noun and not colour else None
            self.chunks.append(Chunk(Kind.NOUN, index, determined=self.determined))
        self.noun = []
        self.determined = self.negated = False

    def _add(self, chunk: Chunk) -> None:
        self._close()
        self.chunks.append(chunk)

    def _next(self, position: int) -> str:
        """Return the word behind a position, adverbs left out; empty at the end."""
        for word in self.text[position + 1 :]:
            if word not in words.ADVERBS:
                return word
        return ""

    def _last(self) -> Kind | None:
        return self.chunks[-1].kind if self.chunks and not self.noun else None

    def _step(self, position: int) -> int:
        """Read the word at a position; returns the next position."""
        word = self.text[position]
        following = self._next(position)
        if word == "'s":
            return self._possessive(position)
        if not word[0].isalnum():
            self._add(Chunk(Kind.COMMA if word in ',()"“”' else Kind.STOP))
        elif word in ("that", "who", "which") and (self.noun or self._last() is Kind.NOUN):
            self._add(Chunk(Kind.WHO))
        elif word in ("and", "while", "&"):
            self._add(Chunk(Kind.AND))
        elif word in words.BE or (word in _PRESENTED and self._last() is Kind.BE):
            self._be()
        elif word in words.HAVE:
            self._have(word, following)
        elif word in words.NEGATIONS:
            self._add(Chunk(Kind.NOT))
        elif (word == "to" and self._is_infinitive(following)) or word in words.UNCERTAIN:
            self._add(Chunk(Kind.UNCERTAIN))
        elif word in ("this", "these", "that", "those") and following in words.BE:
            self._add(Chunk(Kind.NOUN, pronoun=True))
        elif word in words.DETERMINERS or word.isdigit():
            self._determiner(word)
        elif word in words.PRONOUNS:
            self._add(Chunk(Kind.NOUN, pronoun=word in ("it", "they")))
        elif word == "there" and following in words.BE:
            self._add(Chunk(Kind.NOUN, pronoun=True))
        elif self._starts_preposition(position):
            return self._preposition(position)
        elif word in words.ADVERBS:
            self._pause()
        elif (kind := self._verb_kind(position)) is not None:
            return self._verb(kind, position)
        else:
            self.noun.append(word)
        return position + 1

    def _possessive(self, position: int) -> int:
        """Put the owner into the noun phrase: its name must not count as the last word's."""
        if self.noun:
            self.noun, self.determined = ["'s"], True
        elif self.chunks and self.chunks[-1].pronoun:
            self.chunks.append(Chunk(Kind.BE))
        return position + 1

    def _pause(self) -> None:
        """End a noun phrase at an adverb, if it has words ("a very tall man" has only begun)."""
        if self.noun:
            self._close()

    def _determiner(self, word: str) -> None:
        if word in ("all", "both", "each") and self.noun:
            self._close()
            return
        if self.noun:
            self._close()
        self.determined = True
        self.negated |= word == "no"

    def _be(self) -> None:
        self._close()
        if not (self.chunks and self.chunks[-1].kind is Kind.BE):
            self.chunks.append(Chunk(Kind.BE))

    def _have(self, word: str, following: str) -> None:
        self._close()
        if following in words.BE:
            return
        if self.lexicon.verbs.get(following, ("", ""))[1] in ("participle", "past"):
            return  # "has raised", "has parked"
        kind = Kind.PARTICIPLE if word == "having" else Kind.VERB
        self.chunks.append(Chunk(kind, self.lexicon.verb(word)))

    def _is_infinitive(self, following: str) -> bool:
        base, kind = self.lexicon.verbs.get(following, ("", ""))
        return kind == "base" and not (self.lexicon.is_noun(following) or base in words.NOUN_LIKE)

    def _starts_preposition(self, position: int) -> bool:
        found = self.lexicon.preposition_at(self.text, position)
        # "close to", "part of": their first words alone are an adjective and a noun.
        return found is not None and (len(found[0]) > 1 or found[0][0] in words.PREPOSITIONS)

    def _preposition(self, position: int) -> int:
        quantity = self.noun[-1] in words.QUANTIFIERS if self.noun else self.determined
        if self.text[position] == "of" and quantity:
            self.noun = []  # "a group of dogs", "one of the dogs": dogs
            return position + 1
        phrase, end = self.lexicon.preposition_at(self.text, position)
        if (
            self.determined
            and not self.noun
            and self._before() is Kind.BE
            and phrase[0] not in words.PREPOSITIONS
        ):
            self.determined = False  # "is a part of"
        self._close()
        last = self.chunks[-1] if self.chunks else None
        if (
            len(phrase) == 1
            and phrase[0] in words.PARTICLES
            and last is not None
            and last.kind in (Kind.VERB, Kind.PARTICIPLE, Kind.BE)
            and end < len(self.text)
            and self.lexicon.preposition_at(self.text, end)
        ):
            return end
        index = self.lexicon.preposition(phrase)
        self.chunks.append(Chunk(Kind.PREPOSITION, index, of=phrase == ("of",)))
        return end

    def _before(self) -> Kind | None:
        return self.chunks[-1].kind if self.chunks else None

    def _verb_kind(self, position: int) -> Kind | None:
        """Return which kind of verb a word is here; None if it belongs to a noun phrase."""
        word, following = self.text[position], self._next(position)
        preposition = self._preposition_behind(position) is not None
        if word not in self.lexicon.verbs:
            return self._unknown_verb_kind(word, preposition or following in words.DETERMINERS)
        base, kind = self.lexicon.verbs[word]
        noun_like = base in words.NOUN_LIKE or self.lexicon.is_noun(word)
        if base in words.VERB_LIKE:
            noun_like = not following or not following[0].isalnum() or following in words.BE
        goes_on = following in words.DETERMINERS or self._names_predicate(word, position)
        if self.noun and self.noun[-1] != "'s":
            if kind == "ing":
                if word in words.ING_NOUNS or (self.lexicon.is_noun(word) and not goes_on):
                    return None
                return Kind.PARTICIPLE
            if kind in ("past", "participle"):
                if following in words.DETERMINERS:
                    return Kind.VERB
                ends = not following or not following[0].isalnum() or following == "and"
                return Kind.PARTICIPLE if ends or preposition else None
            if (kind == "base") != self._is_plural():
                return None
            return Kind.VERB if goes_on or not noun_like else None
        if self.determined or self.noun:
            return None
        if kind in ("ing", "past", "participle"):
            goes_on = preposition or following in words.DETERMINERS
            return self._free_participle(word, kind, preposition, goes_on)
        if kind == "s" and self._before() in (Kind.WHO, Kind.AND, Kind.NOUN):
            return Kind.VERB if goes_on or not noun_like else None
        return None

    def _is_plural(self) -> bool:
        """Return whether the open noun phrase is a plural: "men", "a man and a woman"."""
        joined = [chunk.kind for chunk in self.chunks[-2:]] == [Kind.NOUN, Kind.AND]
        return joined or words.is_plural(self.noun[-1])

    def _free_participle(
        self, word: str, kind: str, preposition: bool, goes_on: bool
    ) -> Kind | None:
        """Return the kind of a participle that follows no open noun phrase."""
        before = self._before()
        if before is Kind.PREPOSITION:
            return Kind.UNCERTAIN if kind == "ing" and word not in words.ING_NOUNS else None
        if before is Kind.BE or (before is Kind.NOT and kind != "ing"):
            return Kind.PARTICIPLE
        if before in (Kind.NOUN, Kind.WHO, Kind.COMMA, Kind.AND, Kind.NOT):
            if kind == "ing" and word not in words.ING_NOUNS:
                return Kind.PARTICIPLE
            return Kind.PARTICIPLE if preposition else None
        return Kind.PARTICIPLE if goes_on else None

    def _unknown_verb_kind(self, word: str, goes_on: bool) -> Kind | None:
        if not self.noun or self.lexicon.is_noun(word) or word in words.ING_NOUNS:
            return None
        if word.endswith("ing") and len(word) > 5:
            return Kind.PARTICIPLE
        return Kind.PARTICIPLE if word.endswith("ed") and goes_on else None

    def _names_predicate(self, word: str, position: int) -> bool:
        """Return whether a verb and the preposition behind it are a predicate."""
        following = self._preposition_behind(position)
        return bool(following) and self.lexicon.verb(word, following[0]) is not None

    def _preposition_behind(self, position: int) -> tuple[Phrase, int] | None:
        """Return the preposition of a verb; adverbs and particles in between are left out."""
        start = position + 1
        while start < len(self.text):
            found = self.lexicon.preposition_at(self.text, start)
            particle = self.text[start] in words.PARTICLES and start + 1 < len(self.text)
            further = particle and self.lexicon.preposition_at(self.text, start + 1)
            if found and len(found[0]) == 1 and further:
                start += 1
            elif found:
                return found
            elif self.text[start] in words.ADVERBS:
                start += 1
            else:
                return None
        return None

    def _verb(self, kind: Kind, position: int) -> int:
        self._close()
        word = self.text[position]
        found = self._preposition_behind(position)
        phrase, end = found if found else ((), position + 1)
        if word not in self.lexicon.verbs or kind is Kind.UNCERTAIN:
            self.chunks.append(Chunk(kind))
            return end
        index = self.lexicon.verb(word, phrase)
        passive = self.lexicon.passive(word) if phrase == ("by",) and index is None else None
        if kind is Kind.PARTICIPLE and not phrase and self.lexicon.verbs[word][1] == "participle":
            index = None  # "is parked", "painted": nobody does it to what follows
        self.chunks.append(Chunk(kind, index, passive))
        return end
