"""Names of a vocabulary as they occur in running text: plurals, verb forms, aliases."""

from collections.abc import Iterator, Mapping, Sequence

from vrd_d2.data.captions import words as words
from vrd_d2.data.vocabulary import Vocabulary

Phrase = tuple[str, ...]
_SKIPPED = words.ARTICLES | words.BE


class Lexicon:
    """Ids of the object classes and predicates that words stand for.

    A name itself comes first, then its aliases, then inflected forms: "wears" is the predicate
    "wears" where there is one, and a form of "wearing" where there is not.

    Args:
        vocabulary: names.
        object_aliases, predicate_aliases: alias -> canonical name, as
            :func:`~vrd_d2.data.names.read_aliases` returns them.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        object_aliases: Mapping[str, str] | None = None,
        predicate_aliases: Mapping[str, str] | None = None,
    ):
        self.vocabulary = vocabulary
        self._nouns: dict[Phrase, int] = {}
        self._exact: dict[Phrase, int] = {}
        self._verbal: dict[Phrase, list[tuple[int, bool]]] = {}
        self._fill_nouns(object_aliases or {})
        self._fill_predicates(predicate_aliases or {})
        self._longest_noun = max(map(len, self._nouns))
        phrases = {phrase for phrase in self._exact if phrase[0] not in self.verbs}
        phrases.update((word,) for word in words.PREPOSITIONS)
        phrases.update(words.MULTIWORD_PREPOSITIONS)
        self._prepositions = phrases - {("and",), ("or",)}
        self._longest_preposition = max(map(len, self._prepositions))
        self._first_words = {phrase[0] for phrase in self._prepositions}

    def _fill_nouns(self, aliases: Mapping[str, str]) -> None:
        named = list(_named(self.vocabulary.objects, aliases))
        for inflect in (str, words.plural):
            for name, index in named:
                phrase = tuple(words.split_words(inflect(name)))
                if phrase and not words.DETERMINERS & set(phrase) and not words.BE & set(phrase):
                    self._nouns.setdefault(phrase, index)

    def _fill_predicates(self, aliases: Mapping[str, str]) -> None:
        phrases: list[tuple[Phrase, int]] = []
        for name, index in _named(self.vocabulary.predicates, aliases):
            phrase = tuple(word for word in words.split_words(name) if word not in _SKIPPED)
            if phrase:
                phrases.append((phrase, index))
                self._exact.setdefault(phrase, index)
        known = words.verb_table()
        verbs = {
            words.base_form(phrase[0])
            for phrase, _ in phrases
            if phrase[0] not in known
            and phrase[0] not in words.PREPOSITIONS | words.NO_VERBS | words.DETERMINERS
            and (len(phrase) == 1 or phrase[0].endswith(("ing", "ed")))
        }
        # Form -> (base form, kind) of all verbs, those of the vocabulary among them.
        self.verbs = words.verb_table(verbs)
        for phrase, index in phrases:
            if phrase[0] in self.verbs and phrase[0] not in words.NO_VERBS:
                base, kind = self.verbs[phrase[0]]
                entry = (index, kind == "participle")
                self._verbal.setdefault((base, *phrase[1:]), []).append(entry)

    def noun(self, phrase: Sequence[str]) -> int | None:
        """Return the id of the object class that the last words of a noun phrase name.

        The longest name that fits counts; None if the last word is no name.
        """
        for length in range(min(self._longest_noun, len(phrase)), 0, -1):
            found = self._nouns.get(tuple(phrase[-length:]))
            if found is not None:
                before = phrase[-length - 1] if length < len(phrase) else ""
                joined = self._nouns.get((before + phrase[-length],)) if length == 1 else None
                if joined is not None:  # "side walk", "surf board"
                    return joined
                return None if _misleads(phrase, len(phrase) - length) else found
        return self._nouns.get(("".join(phrase[-2:]),)) if len(phrase) > 1 else None

    def is_noun(self, word: str) -> bool:
        """Return whether a word alone names an object class."""
        return (word,) in self._nouns

    def preposition_at(self, text: Sequence[str], start: int) -> tuple[Phrase, int] | None:
        """Return the longest prepositional phrase from a word on, and the position behind it.

        Articles are left out: ("on", "top", "of") in "on the top of a".
        """
        if text[start] not in self._first_words:
            return None
        phrase: list[str] = []
        found = None
        for position in range(start, len(text)):
            if text[position] in words.ARTICLES:
                continue
            phrase.append(text[position])
            if tuple(phrase) in self._prepositions:
                found = tuple(phrase), position + 1
            if len(phrase) == self._longest_preposition:
                break
        return found

    def preposition(self, phrase: Phrase) -> int | None:
        """Return the id of the predicate that is a phrase without a verb."""
        return self._exact.get(phrase)

    def verb(self, form: str, preposition: Phrase = ()) -> int | None:
        """Return the id of the predicate of a verb and the preposition that follows it at once.

        A predicate named by a participle ("painted on") has no active forms ("painting on").
        A verb that only says how something is where it is leaves its preposition: "kneeling
        behind" is "behind".
        """
        found = self._inflected(form, preposition)
        if found is None and preposition in words.SPATIAL:
            stative = self.verbs[form][0] in words.STATIVE
            return self._exact.get(preposition) if stative else None
        return found

    def _inflected(self, form: str, preposition: Phrase) -> int | None:
        found = self._exact.get((form, *preposition))
        if found is not None:
            return found
        base, kind = self.verbs[form]
        for lemma in [base, "lie"] if base == "lay" and preposition else [base]:
            for index, participle in self._verbal.get((lemma, *preposition), ()):
                if not participle or kind == "participle":
                    return index
        return None

    def find_object(self, name: str) -> int | None:
        """Return the id of the object class that a whole name stands for."""
        return self._nouns.get(tuple(words.split_words(name)))

    def find_predicate(self, name: str) -> int | None:
        """Return the id of the predicate that a name, an alias or another form stands for."""
        phrase = tuple(word for word in words.split_words(name) if word not in _SKIPPED)
        if phrase and phrase[0] in self.verbs and phrase not in self._exact:
            return self._inflected(phrase[0], phrase[1:])
        return self._exact.get(phrase)

    def passive(self, form: str) -> int | None:
        """Return the id of the predicate whose passive is a participle followed by "by"."""
        base, kind = self.verbs[form]
        if kind != "participle" or base in words.INTRANSITIVE:
            return None
        return next((index for index, bare in self._verbal.get((base,), ()) if not bare), None)


def _misleads(phrase: Sequence[str], start: int) -> bool:
    """Return whether the words before the name at a position make it another thing."""
    if words.MISLEADING & set(phrase[:start]):
        return True
    head = phrase[start]
    return start > 0 and any(
        (phrase[start - 1], singular) in words.MISLEADING_PAIRS for singular in (head, head[:-1])
    )


def _named(names: Sequence[str], aliases: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """Yield names with their ids, then the aliases that stand for one of them."""
    ids = {" ".join(words.split_words(name)): index for index, name in enumerate(names)}
    yield from ((name, index) for index, name in enumerate(names))
    for alias, canonical in aliases.items():
        index = ids.get(" ".join(words.split_words(canonical)))
        if index is not None:
            yield alias, index
