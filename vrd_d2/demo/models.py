"""The models of the demo, and their variants for words that the user writes."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from detectron2.modeling import META_ARCH_REGISTRY

from vrd_d2.config.loading import load_config
from vrd_d2.data.vocabulary import Vocabulary, get_vocabulary
from vrd_d2.inference.batch_records import printable
from vrd_d2.inference.predictor import Predictor
from vrd_d2.tasks import Task

MAX_NAMES, MAX_NAME_LENGTH = 200, 60
_VOCABULARIES = 8  # of a model that stay in memory with their texts


class DemoModel:
    """A model of the demo; loaded when it is first needed, and used by one caller at a time.

    Args:
        config_file, weights, overrides: as for :class:`~vrd_d2.inference.predictor.Predictor`.
        name: for the list of models; None for one out of the config.

    Attributes:
        task, vocabulary: of the config.
        takes_words: whether it reads predicates that the user writes.
        takes_objects: and names of objects, which neither a detector nor the user's boxes fix.
        explains: whether it has heat maps.

    Raises:
        ValueError: the config or the weights are missing or wrong.
    """

    def __init__(
        self,
        config_file: str | Path,
        weights: str | Path = "",
        overrides: Sequence[str] = (),
        *,
        name: str | None = None,
    ) -> None:
        cfg = load_config(config_file, overrides)
        self._source = config_file, weights, overrides
        if weights and not Path(weights).is_file():
            raise ValueError(f"there is no file of weights {weights}")
        self.task = Task(cfg.MODEL.RELATION.TASK)
        self.vocabulary = get_vocabulary(cfg.MODEL.VOCABULARY)
        architecture = cfg.MODEL.META_ARCHITECTURE
        kind = META_ARCH_REGISTRY.get(architecture)
        self.takes_words = getattr(kind, "open_vocabulary", False)
        names_boxes = self.task.boxes_given and not self.task.classes_given
        self.takes_objects = self.takes_words and names_boxes
        self.explains = getattr(kind, "has_heat_maps", False)
        self.name = name or f"{architecture}, {Path(config_file).stem}"
        self.lock = threading.Lock()
        self._variants: OrderedDict[Vocabulary, Predictor] = OrderedDict()

    @cached_property
    def predictor(self) -> Predictor:
        """The model for its own vocabulary."""
        return Predictor(*self._source)

    def with_words(self, objects: Sequence[str], predicates: Sequence[str]) -> Predictor:
        """Return the model for other names; the last few variants stay in memory.

        Raises:
            ValueError: the model cannot, there are too many names, or one is empty, repeated, long,
                or no text.
        """
        for kind, names in (("objects", objects), ("predicates", predicates)):
            if len(names) > MAX_NAMES:
                raise ValueError(f"{len(names)} {kind}: at most {MAX_NAMES}")
            for name in names:
                if len(name) > MAX_NAME_LENGTH:
                    raise ValueError(f"{name[:20]!r}... is too long: {MAX_NAME_LENGTH} characters")
                if printable(name) != name:  # halves of characters, and what reverses the line
                    raise ValueError(f"{name!r} has characters of no text: write it again")
        vocabulary = Vocabulary(tuple(objects), tuple(predicates))
        if vocabulary == self.predictor.vocabulary:
            return self.predictor
        if vocabulary not in self._variants:
            self._variants[vocabulary] = self.predictor.with_vocabulary(vocabulary)
        self._variants.move_to_end(vocabulary)
        while len(self._variants) > _VOCABULARIES:
            self._variants.popitem(last=False)
        return self._variants[vocabulary]
