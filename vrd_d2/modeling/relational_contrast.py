"""Relational Contrastive Learning (RCL): an auxiliary loss on the embeddings of a relation head.

Shapes: N queries (positive relation instances), D width of a space of embeddings.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from vrd_d2.modeling.contrastive import contrastive_loss, negative_weights, one_positive_each
from vrd_d2.modeling.processes import gather_rows, gather_sizes
from vrd_d2.modeling.structures import HeadOutput, PairBatch
from vrd_d2.modeling.text.language import RelationText


@dataclass(frozen=True)
class Level:
    """One level of contrast: the parts of the triplet that Eq. (2), (3) leave."""

    key: str
    parts: tuple[str, ...]

    def embed(self, relation: Tensor, subject: Tensor, obj: Tensor) -> Tensor:
        """Return relations less the parts that the level excludes, L2-normalised: (N, D)."""
        if "subject" not in self.parts:
            relation = relation - subject
        if "object" not in self.parts:
            relation = relation - obj
        return F.normalize(relation, dim=-1)


LEVELS = {
    "subject-predicate": Level("sp", ("subject", "predicate")),
    "predicate-object": Level("po", ("predicate", "object")),
    "predicate": Level("p", ("predicate",)),
    "subject-predicate-object": Level("spo", ("subject", "predicate", "object")),
}


@dataclass(frozen=True)
class Triplets:
    """Embeddings of relation, subject and object of N instances in one space, each (N, D)."""

    relation: Tensor
    subject: Tensor
    obj: Tensor


class RelationalContrast(nn.Module):
    """Relational Contrastive Learning (RelCLIP, section 3.3).

    Args:
        levels: names out of ``LEVELS``; an empty list is no RCL at all.
        visual_dim: Dv, width of the visual embeddings.
        text_dim: Dt, width of the text embeddings.
        temperature: tau of Eq. (4).
        gamma: share of the visual-to-text direction, Eq. (5).
        epsilon, eta, sampling, weighted: see :func:`negative_weights`.
        loss_weight: factor of every loss.
        memory_bank: past samples that are further negatives (future work of the paper; a queue as
            in MoCo, He et al. 2020); 0 is none.
        phrase_dim: W, width of the word embeddings; needed with a memory bank.
    """

    def __init__(
        self,
        *,
        levels: list[str],
        visual_dim: int,
        text_dim: int,
        temperature: float = 0.07,
        gamma: float = 0.5,
        epsilon: float = 0.7,
        eta: float = 0.0,
        sampling: bool = True,
        weighted: bool = True,
        loss_weight: float = 1.0,
        memory_bank: int = 0,
        phrase_dim: int = 0,
    ):
        super().__init__()
        unknown = set(levels) - set(LEVELS)
        if unknown or len(set(levels)) != len(levels):
            raise ValueError(
                f"MODEL.RCL.LEVELS is {levels}: give each level once, out of {list(LEVELS)}"
            )
        if temperature <= 0 or not 0 <= gamma <= 1:
            raise ValueError(
                "MODEL.RCL needs TEMPERATURE > 0 and 0 <= GAMMA <= 1, got "
                f"TEMPERATURE {temperature} and GAMMA {gamma}"
            )
        self.levels = [LEVELS[name] for name in levels]
        self.visual = nn.ModuleDict(
            {level.key: nn.Linear(visual_dim, text_dim, bias=False) for level in self.levels}
        )
        self.text = nn.ModuleDict(
            {level.key: nn.Linear(text_dim, text_dim, bias=False) for level in self.levels}
        )
        for projection in [*self.visual.values(), *self.text.values()]:
            # Orthogonal: at the start the projections leave CLIP's cosines as they are.
            nn.init.orthogonal_(projection.weight)
        self.temperature = temperature
        self.gamma = gamma
        self.sampling = {
            "epsilon": epsilon,
            "eta": eta,
            "sampling": sampling,
            "weighted": weighted,
        }
        self.loss_weight = loss_weight
        self.banks = nn.ModuleDict()
        if memory_bank:
            self.banks.update(
                {
                    level.key: MemoryBank(memory_bank, (visual_dim, text_dim, phrase_dim))
                    for level in self.levels
                }
            )

    def forward(
        self, visual: Triplets, text: Triplets, phrases: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the losses of the positive relation instances of a batch.

        Args:
            visual: v_ij, v_i, v_j, each (N, Dv).
            text: t_ij, t_i, t_j, each (N, Dt).
            phrases: level key -> (N, W) L2-normalised word embedding of the level's words.

        Returns:
            {"loss_rcl_<level key>": scalar}; zeros, connected to the graph, where N is 0.
        """
        losses = {}
        for level in self.levels:
            v = level.embed(visual.relation, visual.subject, visual.obj)
            t = level.embed(text.relation, text.subject, text.obj)
            loss = self.level_loss(level.key, v, t, phrases[level.key])
            losses[f"loss_rcl_{level.key}"] = loss * self.loss_weight
        return losses

    def level_loss(self, key: str, visual: Tensor, text: Tensor, phrases: Tensor) -> Tensor:
        """Return Eq. (5) of one level, the mean over the queries.

        Under several processes the samples of all of them are candidates for negatives, and the
        average over the processes of what this returns is the loss of the whole batch.

        Args:
            key: of the level.
            visual: (N, Dv) and
            text: (N, Dt) embeddings less what the level excludes, before W.
            phrases: (N, W).
        """
        with torch.autocast(visual.device.type, enabled=False):
            visual, text = visual.float(), text.float()
            v, t = self._project(key, visual, text)
            sizes = gather_sizes(len(v), v.device)
            first = sum(sizes[: comm.get_rank()])
            all_v, all_t = gather_rows(v, sizes), gather_rows(t, sizes)
            all_phrases = gather_rows(phrases, sizes)
            if key in self.banks:
                bank = self.banks[key]
                past_visual, past_text, past_phrases = bank.rows()
                with torch.no_grad():
                    # What is stored is before W, so that old samples pass through today's W.
                    past_v, past_t = self._project(key, past_visual, past_text)
                bank.add(gather_rows(visual, sizes), gather_rows(text, sizes), all_phrases)
                all_v, all_t = torch.cat([all_v, past_v]), torch.cat([all_t, past_t])
                all_phrases = torch.cat([all_phrases, past_phrases])
            # Rounding makes the cosine of equal phrases exceed 1, and epsilon may be 1.
            similarity = (phrases @ all_phrases.T).clamp(-1, 1)
            weights = negative_weights(similarity, first=first, **self.sampling)
            targets = one_positive_each(weights, first).float()
            to_text = v @ all_t.T / self.temperature
            to_visual = t @ all_v.T / self.temperature
            losses = self.gamma * contrastive_loss(to_text, targets, weights)
            losses = losses + (1 - self.gamma) * contrastive_loss(to_visual, targets, weights)
            self._log(key, similarity, weights, targets)
            return losses.sum() * len(sizes) / max(sum(sizes), 1)

    def _project(self, key: str, visual: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        v, t = self.visual[key](visual), self.text[key](text)
        return F.normalize(v, dim=-1), F.normalize(t, dim=-1)

    def _log(self, key: str, similarity: Tensor, weights: Tensor, targets: Tensor) -> None:
        """Write the negatives and excluded synonyms of a query to the trainer's scalars."""
        if not (has_event_storage() and len(weights)):
            return
        others = targets == 0
        negatives = ((weights > 0) & others).sum(1).float().mean()
        synonyms = ((similarity > self.sampling["epsilon"]) & others).sum(1).float().mean()
        storage = get_event_storage()
        storage.put_scalar(f"rcl/negatives_{key}", negatives.item())
        storage.put_scalar(f"rcl/synonyms_{key}", synonyms.item())
        storage.put_scalar("rcl/temperature", self.temperature)


def rcl_losses(
    contrast: RelationalContrast,
    output: HeadOutput,
    batch: PairBatch,
    *,
    text: RelationText,
    phrases: Callable[..., Tensor],
) -> dict[str, Tensor]:
    """Return the losses of RCL on the positive pairs that a relation head was given and has left.

    Args:
        contrast: with at least one level.
        output: of any relation head, with embeddings of entities and relations.
        batch: input of the head, in training.
        text: embeddings of labels.
        phrases: word embeddings of active sampling.

    Raises:
        ValueError: the head returns no embeddings of entities.
    """
    if output.entities is None:
        raise ValueError(
            "MODEL.RCL.LEVELS is set, but this relation head returns no embeddings of entities: "
            "set it to [], or choose another MODEL.RELATION_HEAD.NAME"
        )
    batch = batch.select_pairs(output.pair_index)
    targets, classes = torch.cat(batch.targets), torch.cat(batch.gt_classes)
    positive = targets.sum(1) > 0
    if batch.loss_mask is not None:
        positive &= torch.cat(batch.loss_mask)
    positive = positive.nonzero()[:, 0]
    subject, obj = batch.indices[positive].unbind(1)
    weights = targets[positive]
    visual = Triplets(output.relations[positive], output.entities[subject], output.entities[obj])
    subject, obj = classes[subject], classes[obj]
    labels = Triplets(
        text.relations(subject, weights, obj), text.entities(subject), text.entities(obj)
    )
    words = {level.key: phrases(level.parts, subject, weights, obj) for level in contrast.levels}
    return contrast(visual, labels, words)


class MemoryBank(nn.Module):
    """A queue of past rows, the oldest overwritten first; part of the checkpoint.

    Args:
        size: rows that are stored.
        widths: of the matrices that lie side by side.
    """

    def __init__(self, size: int, widths: tuple[int, ...]):
        super().__init__()
        self.widths = widths
        self.register_buffer("queue", torch.zeros((size, sum(widths))))
        self.register_buffer("added", torch.zeros((), dtype=torch.int64))

    def rows(self) -> tuple[Tensor, ...]:
        """Return the matrices (n, width) that were added, n at most the size."""
        # A copy: the loss still reads these rows when the next ones overwrite them.
        stored = self.queue[: min(int(self.added), len(self.queue))].clone()
        return stored.split(self.widths, dim=1)

    @torch.no_grad()
    def add(self, *matrices: Tensor) -> None:
        """Append rows, (n, width) each."""
        rows = torch.cat(matrices, dim=1)[-len(self.queue) :]
        at = (int(self.added) + torch.arange(len(rows), device=rows.device)) % len(self.queue)
        self.queue[at] = rows.to(self.queue.dtype)
        self.added += len(rows)
