"""Build the caption parser that a name stands for."""

from collections.abc import Mapping

from vrd_d2.data.captions.base import CaptionParser
from vrd_d2.data.captions.lexicon import Lexicon
from vrd_d2.data.captions.matcher import VocabularyMatcher
from vrd_d2.data.vocabulary import Vocabulary


def make_parser(
    kind: str,
    vocabulary: Vocabulary,
    *,
    object_aliases: Mapping[str, str] | None = None,
    predicate_aliases: Mapping[str, str] | None = None,
    model: str = "en_core_web_sm",
) -> CaptionParser:
    """Make a parser by its name.

    Args:
        kind: "matcher" (no further packages), "spacy", or "auto": spaCy if it and the model are
            installed, else the matcher.
        vocabulary: names that triplets are made of.
        object_aliases, predicate_aliases: alias -> canonical name, as
            :func:`~vrd_d2.data.names.read_aliases` returns them.
        model: spaCy's model, a package or a folder.

    Raises:
        ValueError: unknown kind; or "spacy" is asked for and cannot be loaded, with the remedy.
    """
    if kind not in ("auto", "matcher", "spacy"):
        raise ValueError(f"unknown caption parser {kind!r}: choose auto, matcher or spacy")
    lexicon = Lexicon(vocabulary, object_aliases, predicate_aliases)
    if kind != "matcher":
        from vrd_d2.data.captions.dependencies import DependencyParser

        try:
            return DependencyParser(lexicon, model)
        except ValueError:
            if kind == "spacy":
                raise
    return VocabularyMatcher(lexicon)
