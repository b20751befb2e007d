"""Captions into triplets by spaCy's dependency parse.

Needs the extra ``captions`` and an English model with a tagger and a parser::

    pip install spacy && python -m spacy download en_core_web_sm

Labels are those of spaCy's English models (ClearNLP: nsubj, dobj, prep, pobj, acl, agent, ...).
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from vrd_d2.data.captions import words as words
from vrd_d2.data.captions.lexicon import Lexicon, Phrase

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

    from vrd_d2.data.captions.base import Triplet

_NOUNS = ("NOUN", "PROPN", "ADJ", "NUM")


class DependencyParser:
    """Finds triplets in the parse of a caption.

    Args:
        lexicon: names of the vocabulary.
        model: spaCy's model, a package or a folder.

    Raises:
        ValueError: spaCy or the model is missing, or the model has no parser.
    """

    def __init__(self, lexicon: Lexicon, model: str = "en_core_web_sm"):
        self._lexicon = lexicon
        self._model = model
        self._pipeline = _load(model)
        self.name = f"spacy {model}"

    def __getstate__(self) -> dict:
        # A pipeline is large to send to another process; each process loads its own.
        return {**self.__dict__, "_pipeline": None}

    def parse(self, captions: Sequence[str]) -> list[list["Triplet"]]:
        """Return the triplets of each caption; see :class:`.captions.base.CaptionParser`."""
        if self._pipeline is None:
            self._pipeline = _load(self._model)
        # Capitals make the models see names of people and places.
        lowered = (caption.lower().strip() for caption in captions)
        return [find_triplets(doc, self._lexicon) for doc in self._pipeline.pipe(lowered)]


def _load(model: str):
    try:
        import spacy
    except ModuleNotFoundError as error:
        raise ValueError(
            "spaCy is not installed: pip install spacy, or choose the matcher"
        ) from error
    try:
        pipeline = spacy.load(model, exclude=["ner", "lemmatizer"])
    except OSError as error:
        raise ValueError(
            f"spaCy has no model {model!r}: python -m spacy download {model}, give the folder of "
            "one, or choose the matcher"
        ) from error
    if "parser" not in pipeline.pipe_names:
        raise ValueError(f"the spaCy model {model!r} has no dependency parser: choose another")
    return pipeline


def find_triplets(doc: "Doc", lexicon: Lexicon) -> list["Triplet"]:
    """Return the triplets (subject class, predicate, object class) of a parsed caption."""
    found: list[Triplet] = []
    for token in doc:
        if token.pos_ in ("VERB", "AUX") and token.dep_ not in ("aux", "auxpass"):
            found += _of_verb(token, lexicon)
        elif token.pos_ in ("NOUN", "PROPN"):
            found += _of_noun(token, lexicon)
    return found


def _of_noun(noun: "Token", lexicon: Lexicon) -> Iterator["Triplet"]:
    """Find prepositions of a noun phrase: "a cup on a table"."""
    subject = _noun(noun, lexicon)
    doubtful = _is_doubtful(noun)
    for phrase, target in _prepositions(noun):
        if doubtful and phrase != ("of",):
            continue
        if phrase == ("of",) and noun.lower_ in words.QUANTIFIERS:
            continue
        predicate = lexicon.preposition(phrase)
        for objects in _listed(target):
            triplet = (subject, predicate, _noun(objects, lexicon))
            if None not in triplet:
                yield triplet


def _of_verb(verb: "Token", lexicon: Lexicon) -> Iterator["Triplet"]:
    """Find what a verb joins: "a man (is) riding a horse", "a horse ridden by a man"."""
    if any(child.dep_ == "neg" or child.tag_ == "MD" for child in verb.children):
        return
    subjects = [_noun(token, lexicon) for token in _subjects(verb)]
    for predicate, inverse, target in _predicates(verb, lexicon):
        for token in _listed(target):
            object_id = _noun(token, lexicon)
            for subject in subjects:
                triplet = (object_id, predicate, subject) if inverse else (
                    subject, predicate, object_id
                )  # fmt: skip
                if None not in triplet:
                    yield triplet


def _predicates(verb: "Token", lexicon: Lexicon) -> Iterator[tuple[int | None, bool, "Token"]]:
    """(predicate, whether it holds from the target to the subject, target)."""
    form = verb.lower_
    being = form in words.BE
    if not being and form not in lexicon.verbs:
        return
    for child in verb.children:
        if child.dep_ in ("dobj", "obj") and not being:
            yield lexicon.verb(form), False, child
    direct = any(child.dep_ in ("dobj", "obj", "attr") for child in verb.children)
    for phrase, target in _prepositions(verb):
        if being:
            if not direct:
                yield lexicon.preposition(phrase), False, target
            continue
        predicate = None if direct else lexicon.verb(form, phrase)
        if predicate is None and phrase == ("by",):
            yield lexicon.passive(form), True, target
        else:
            yield predicate, False, target


def _subjects(verb: "Token") -> list["Token"]:
    """Return the nouns that a verb is said of."""
    own = [token for token in verb.children if token.dep_ in ("nsubj", "nsubjpass")]
    if own:
        if own[0].tag_ in ("WDT", "WP"):  # "a man who wears"
            return [verb.head] if verb.dep_ == "relcl" else []
        if own[0].dep_ == "nsubj" and any(token.dep_ == "auxpass" for token in verb.children):
            return []
        return list(_listed(own[0]))
    if verb.dep_ == "acl":
        return [] if _is_doubtful(verb.head) else [verb.head]
    if verb.dep_ == "relcl" and any(token.lower_ == "that" for token in verb.children):
        return [verb.head]
    if verb.dep_ in ("conj", "advcl") and verb.head.pos_ in ("VERB", "AUX") and verb.tag_ != "VB":
        return _subjects(verb.head)
    return []


def _is_doubtful(noun: "Token") -> bool:
    """Return whether what follows a noun may belong to an earlier one.

    "a man in a hat riding a bike" has the same words as "a man on a bike with a basket",
    and small models mix them up.
    """
    first = noun
    while first.dep_ == "conj":
        first = first.head
    if first.dep_ == "pobj":
        return first.head.head.lower_ not in words.QUANTIFIERS
    return first.dep_ in ("dobj", "obj")


def _prepositions(head: "Token") -> Iterator[tuple[Phrase, "Token"]]:
    """(words of a preposition, its object), "in front of" being one."""
    for child in head.children:
        if child.dep_ in ("prep", "agent"):
            yield from _extended((child.lower_,), child)
        elif child.dep_ in ("advmod", "acomp", "amod", "prt") and child.i > head.i:
            for inner in child.children:  # "next to", "close to", "up at"
                if inner.dep_ == "prep":
                    first = () if child.lower_ in words.PARTICLES else (child.lower_,)
                    yield from _extended((*first, inner.lower_), inner)


def _extended(phrase: Phrase, preposition: "Token") -> Iterator[tuple[Phrase, "Token"]]:
    for child in preposition.children:
        if child.dep_ == "pobj":
            further = [token for token in child.children if token.lower_ == "of"]
            longer = (*phrase, child.lower_, "of")
            if further and longer in words.MULTIWORD_PREPOSITIONS:
                yield from _extended(longer, further[0])
            else:
                yield phrase, child
        elif child.dep_ == "prep" and child.i == preposition.i + 1:
            yield from _extended((*phrase, child.lower_), child)


def _listed(noun: "Token") -> Iterator["Token"]:
    """Yield a noun and those that "and" joins to it."""
    yield noun
    for token in noun.children:
        if token.dep_ == "conj" and token.pos_ in ("NOUN", "PROPN"):
            yield from _listed(token)


def _noun(token: "Token", lexicon: Lexicon) -> int | None:
    """Return the id of the object class that a noun with its modifiers names."""
    if token.pos_ not in _NOUNS or any(child.lower_ == "no" for child in token.children):
        return None
    if token.lower_ in words.QUANTIFIERS:
        # "a group of people": people
        for child in token.children:
            if child.lower_ == "of":
                return next((_noun(t, lexicon) for t in child.children if t.dep_ == "pobj"), None)
    return lexicon.noun(words.split_words(token.doc[token.left_edge.i : token.i + 1].text))
