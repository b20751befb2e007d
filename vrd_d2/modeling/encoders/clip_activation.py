"""Whether weights of CLIP were trained with QuickGELU, which no weights file says in itself.

OpenAI's models compute x * sigmoid(1.702 x) where others have GELU. Weights of one load into a
model with the other without an error, and give other features.
"""

import hashlib
import logging
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vrd_d2.checkpoint.weights_files import read_tensors
from vrd_d2.data.source_files import read_json

logger = logging.getLogger(__name__)
_KINDS = {True: "QuickGELU", False: "GELU"}
_QUICK = "-quickgelu"
# Beside weights of open_clip on the Hugging Face hub.
_CONFIG = "open_clip_config.json"
# Numbers that OpenAI's models have among their weights.
_OF_OPENAI = {"input_resolution", "context_length", "vocab_size"}


def check_activation(name: str, weights: Path, *, config: Path | None = None) -> None:
    """Check that a local weights file was trained with the activation that a model has.

    What cannot be known is a warning, unless the model's own config states its activation.

    Args:
        name: of a model that open_clip knows.
        weights: the file.
        config: JSON of the model, where `name` is not one of open_clip's own.

    Raises:
        ValueError: it was trained with the other one, or is a TorchScript archive.
    """
    import open_clip

    model = open_clip.get_model_config(name)
    has = bool(model.get("quick_gelu", False))
    if config is not None:
        remedy = f'set "quick_gelu": {str(not has).lower()} in {config}'
    else:
        other = name.removesuffix(_QUICK) if name.endswith(_QUICK) else name + _QUICK
        if other not in open_clip.list_models():
            return  # there is one kind of this model
        remedy = f"set MODEL.CLIP.NAME to {other}"
    needs, source = _trained_with(weights, released=_released())
    if needs is not None and needs != has:
        raise ValueError(
            f"MODEL.CLIP.PRETRAINED: {weights} was trained with {_KINDS[needs]} ({source}), and "
            f"{name} has {_KINDS[has]}: {remedy}"
        )
    if needs is None and (config is None or "quick_gelu" not in model):
        logger.warning(
            "MODEL.CLIP.PRETRAINED: %s does not say whether it was trained with QuickGELU (as "
            "OpenAI's weights) or GELU; %s has %s. If that is wrong, so are all results: %s%s",
            weights,
            name,
            _KINDS[has],
            remedy,
            "" if config is None else f"; else state {str(has).lower()} there",
        )


def _trained_with(weights: Path, released: Iterable[Mapping[str, Any]]) -> tuple[bool | None, str]:
    """Return whether weights were trained with QuickGELU, None if unknown, and who says so."""
    if zipfile.is_zipfile(weights):
        with zipfile.ZipFile(weights) as file:
            if any(entry.endswith("/constants.pkl") for entry in file.namelist()):
                raise ValueError(
                    f"MODEL.CLIP.PRETRAINED: {weights} is a TorchScript archive, a program, as "
                    "OpenAI publishes its models (with QuickGELU): set MODEL.CLIP.PRETRAINED to "
                    f"openai and MODEL.CLIP.NAME to a name that ends in {_QUICK}, or save the "
                    "weights alone, without input_resolution, context_length and vocab_size"
                )
    beside = weights.parent / _CONFIG
    if weights.name.startswith("open_clip") and beside.is_file():
        content = read_json(beside)
        stated = content.get("model_cfg") if isinstance(content, dict) else None
        if isinstance(stated, dict):
            return bool(stated.get("quick_gelu", False)), str(beside)
    for known in released:
        url = known.get("url") or ""
        if Path(url).name != weights.name:
            continue
        digest = re.search(r"/([0-9a-f]{64})/", url)
        # OpenAI's short names stand for anything; others end in a part of their hash.
        if digest is None or digest[1] == _sha256(weights):
            return bool(known.get("quick_gelu", False)), "as its name says: it is at " + url
    if weights.suffix != ".safetensors" and _names(weights) >= _OF_OPENAI:
        return True, "it is of OpenAI's form"
    return None, ""


def _released() -> list[Mapping[str, Any]]:
    import open_clip

    return [open_clip.get_pretrained_cfg(*pair) for pair in open_clip.list_pretrained()]


def _names(weights: Path) -> set[str]:
    try:
        content = read_tensors(str(weights), mmap=zipfile.is_zipfile(weights))
    except ValueError:
        return set()  # open_clip says what is wrong
    content = content.get("state_dict", content)
    return set(content) if isinstance(content, Mapping) else set()


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
