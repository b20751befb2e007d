"""Tokens of texts, with a word on texts that are longer than the encoder reads."""

import logging
from collections.abc import Callable, Sequence

from torch import Tensor

logger = logging.getLogger(__name__)


def tokenize(tokenizer: Callable[..., Tensor], texts: Sequence[str]) -> Tensor:
    """Return the tokens of n texts, (n, context) int64, and log which texts were cut.

    What is cut off changes nothing, so that texts with a common beginning become the same.

    Args:
        tokenizer: of open_clip; takes ``context_length``.
        texts: n strings.
    """
    tokens = tokenizer(list(texts))
    context = tokens.shape[1]
    padding = tokenizer([""])[0, -1]
    # A text that fills the context ends there, or was cut.
    full = [texts[i] for i in (tokens[:, -1] != padding).nonzero()[:, 0].tolist()]
    if full:
        longer = tokenizer(full, context_length=context + 1)[:, -1] != padding
        cut = [text for text, is_cut in zip(full, longer.tolist(), strict=True) if is_cut]
        if cut:
            logger.warning(
                "%d of %d texts have more than the %d tokens that the text encoder reads, and are "
                "cut off there, so that texts with the same beginning become the same: shorten the "
                "names of classes and predicates, such as in %.200r",
                len(cut), len(texts), context, cut[0],
            )  # fmt: skip
    return tokens
