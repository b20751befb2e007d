"""Texts of relations: prompts and their embeddings by class ids.

Shapes: C object classes, K predicates, N relation instances, D text width.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vrd_d2.data.vocabulary import Vocabulary


def format_prompts(templates: list[str], **names: str) -> list[str]:
    """Fill {subject}, {predicate}, {object} into every template.

    Raises:
        ValueError: there is no template, or one has a field that is not given.
    """
    if not templates or not all(isinstance(template, str) for template in templates):
        raise ValueError(f"MODEL.TEXT: the prompts are {templates}: give at least one text")
    try:
        return [template.format(**names) for template in templates]
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"MODEL.TEXT: the prompts {templates} may only use the fields "
            f"{', '.join('{' + name + '}' for name in names)} ({error!r})"
        ) from error


class RelationText:
    """Text embeddings of entities and relations by class ids (RelCLIP, section 3.2).

    Args:
        encoder: texts -> (n, D) L2-normalised rows; it caches, so that each distinct text is
            encoded once.
        vocabulary: names of the ids.
        entity_prompts, relation_prompts: templates, whose embeddings are averaged.
    """

    def __init__(
        self,
        encoder: Callable[..., Tensor],
        vocabulary: Vocabulary,
        *,
        entity_prompts: list[str],
        relation_prompts: list[str],
    ):
        self._encoder = encoder
        self._vocabulary = vocabulary
        self._relation_prompts = list(relation_prompts)
        self._entities = self._embed(
            [format_prompts(entity_prompts, object=name) for name in vocabulary.objects], "cpu"
        )
        format_prompts(relation_prompts, subject="a", predicate="b", object="c")  # fail early
        self._rows: dict[tuple[int, int, int], int] = {}
        self._relations = self._entities.new_empty((0, self._entities.shape[1]))

    def _embed(self, prompts: list[list[str]], device: torch.device | str) -> Tensor:
        flat = [prompt for group in prompts for prompt in group]
        rows = self._encoder(flat, device=device).reshape(len(prompts), len(prompts[0]), -1)
        return F.normalize(rows.mean(1), dim=-1)

    @property
    def entity_table(self) -> Tensor:
        """Return the embeddings (C, D) of all object classes, rows of length 1."""
        return self._entities

    def entities(self, classes: Tensor) -> Tensor:
        """Return t_i: (N,) class ids -> (N, D)."""
        self._entities = self._entities.to(classes.device)
        return self._entities[classes]

    def relations(self, subjects: Tensor, weights: Tensor, objects: Tensor) -> Tensor:
        """Return t_ij = sum_r w_r t(a_i, r, a_j), the weighted labels of section 3.4.

        Args:
            subjects, objects: (N,) class ids.
            weights: (N, K) with at least one positive entry a row; normalised here to sum 1.

        Returns:
            (N, D); rows of one-hot weights have length 1.
        """
        instances, predicates = weights.nonzero(as_tuple=True)
        keys = list(
            zip(
                subjects[instances].tolist(),
                predicates.tolist(),
                objects[instances].tolist(),
                strict=True,
            )
        )
        self._add([key for key in dict.fromkeys(keys) if key not in self._rows], weights.device)
        self._relations = self._relations.to(weights.device)
        rows = torch.tensor([self._rows[key] for key in keys], device=weights.device).long()
        share = weights / weights.sum(1, keepdim=True).clamp(min=1e-12)
        result = self._relations.new_zeros((len(weights), self._relations.shape[1]))
        return result.index_add(
            0, instances, self._relations[rows] * share[instances, predicates][:, None]
        )

    def _add(self, keys: list[tuple[int, int, int]], device: torch.device) -> None:
        if not keys:
            return
        names = self._vocabulary
        prompts = [
            format_prompts(
                self._relation_prompts,
                subject=names.objects[s],
                predicate=names.predicates[p],
                object=names.objects[o],
            )
            for s, p, o in keys
        ]
        self._rows.update({key: len(self._rows) + i for i, key in enumerate(keys)})
        new = self._embed(prompts, device)
        self._relations = torch.cat([self._relations.to(device), new])
