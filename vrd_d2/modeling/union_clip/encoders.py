"""The two sides of UnionCLIP: crops and phrases into CLIP's joint space.

Each side is a frozen lower part, whose states are computed without gradient and can be cached, an
upper part that may be trained, and perhaps an MLP on top. With gradient, what is trained runs over
a chunk at a time and is run again in the backward pass, so that memory is that of one chunk while
the gradient is that of the whole batch.

Shapes: n crops or texts, L tokens, D width of the joint space.
"""

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from vrd_d2.modeling.encoders.clip import ClipParts
from vrd_d2.modeling.encoders.feature_cache import FeatureCache, fingerprint
from vrd_d2.modeling.encoders.tokens import tokenize
from vrd_d2.modeling.encoders.visual_encoder import batch_size_on
from vrd_d2.modeling.union_clip.split_towers import split_image_tower, split_text_tower

# States (and lengths) -> (n, D).
Head = Callable[..., Tensor]


class AdapterMLP(nn.Module):
    """A 2-layer MLP on top of a frozen encoder: (n, D) -> (n, D).

    Args:
        dim: D.
        residual: add its output, zero at the start, to its input, so that training sets out from
            zero-shot CLIP; else the MLP alone, which starts at random.
    """

    def __init__(self, dim: int, *, residual: bool):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.residual = residual
        if residual:
            nn.init.zeros_(self.layers[-1].weight)
            nn.init.zeros_(self.layers[-1].bias)

    def forward(self, rows: Tensor) -> Tensor:
        return rows + self.layers(rows) if self.residual else self.layers(rows)


class _Encoder(nn.Module):
    """Common part of both sides: which parts are trained, and chunks."""

    def __init__(
        self, lower: nn.Module, upper: nn.Module, adapter: nn.Module | None, *, chunk: int
    ):
        super().__init__()
        if chunk < 1:
            raise ValueError(
                f"MODEL.UNION_CLIP.CROP_CHUNK and TEXT_CHUNK must be at least 1, got {chunk}"
            )
        self.lower = lower.requires_grad_(False)
        self.upper = upper.requires_grad_(True)
        self.adapter = nn.Identity() if adapter is None else adapter
        self.chunk = chunk

    def train(self, mode: bool = True) -> "_Encoder":
        """Set the mode; towers stay in eval mode: no patch dropout, fixed batch norms."""
        super().train(mode)
        self.lower.eval()
        self.upper.eval()
        return self

    def untrained_copy(self) -> nn.Module | None:
        """Return the upper part as it is now, frozen; None where no part of it is trained."""
        if not any(True for _ in self.upper.parameters()):
            return None
        return copy.deepcopy(self.upper).requires_grad_(False).eval()

    def _head(self, *states: Tensor) -> Tensor:
        return self.adapter(self.upper(*states))

    def _no_rows(self, *states: Tensor) -> Tensor:
        """Return (0, D), with a gradient of zeros to everything that is trained.

        A process without crops or texts must still take part in DDP; attention takes no empty
        batch, so it is given a state that is thrown away.
        """
        return self._head(*states)[:0]

    def _run(self, function: Head, chunks: list[tuple]) -> list[Tensor]:
        # One chunk has nothing to save, and so need not be run twice.
        if len(chunks) == 1 or not torch.is_grad_enabled():
            return [function(*chunk) for chunk in chunks]
        return [
            checkpoint(function, *chunk, use_reentrant=False, preserve_rng_state=False)
            for chunk in chunks
        ]


class CropEncoder(_Encoder):
    """Crops into the joint space.

    Args:
        parts: of :func:`~vrd_d2.modeling.encoders.clip.load_clip`; its image tower is taken apart.
        trained_blocks: see :func:`~vrd_d2.modeling.union_clip.split_towers.split_image_tower`.
        adapter: an MLP on top, or None.
        chunk: crops that go through the tower at a time.
        cache_folder: of the lower part's states, one file a crop; "" is no cache.
    """

    def __init__(
        self,
        parts: ClipParts,
        *,
        trained_blocks: int,
        adapter: nn.Module | None,
        chunk: int,
        cache_folder: str = "",
    ):
        visual = parts.model.visual
        super().__init__(*split_image_tower(visual, trained_blocks), adapter, chunk=chunk)
        side = visual.image_size
        self.size: tuple[int, int] = tuple(side) if isinstance(side, Sequence) else (side, side)
        shape = (3, 1, 1)
        self.register_buffer("mean", torch.tensor(parts.mean).view(shape), False)
        self.register_buffer("std", torch.tensor(parts.std).view(shape), False)
        self._cache_folder = cache_folder
        # Made at first use: the weights, which are its key, may still be loaded.
        self._cache: FeatureCache | None = None

    @torch.no_grad()
    def states(self, crops: Tensor) -> Tensor:
        """Return states of the frozen part: uint8 RGB (n, 3, H, W) -> (n, ...) float32."""
        if not self._cache_folder:
            return self._states(crops)
        if self._cache is None:
            settings = (self.mean.tolist(), self.std.tolist())
            shape = self._states(crops[:1]).shape[1:]
            self._cache = FeatureCache(
                self._cache_folder,
                fingerprint(self.lower, settings),
                shape_of=lambda crop: tuple(shape),
            )
        crops = crops.cpu()
        # In float32 whatever is around it, since all runs share what is stored.
        with torch.autocast(self.mean.device.type, enabled=False):
            rows = self._cache.get(list(crops), lambda missing: self._missing(crops[missing]))
        return torch.stack(rows).to(self.mean.device) if rows else self._states(crops)

    def _missing(self, crops: Tensor) -> list[Tensor]:
        """Return states that are going to be stored."""
        chunks = crops.split(batch_size_on(self.mean.device, self.chunk))
        return [row for chunk in chunks for row in self._states(chunk)]

    def _states(self, crops: Tensor) -> Tensor:
        if not len(crops):
            # An empty batch breaks reshapes of the towers; a crop shows the shape of its state.
            return self._states(crops.new_zeros((1, *crops.shape[1:])))[:0]
        chunks = crops.to(self.mean.device).split(self.chunk)
        return torch.cat(
            [self.lower((chunk.float() / 255 - self.mean) / self.std) for chunk in chunks]
        )

    def embed(self, states: Tensor, *, head: Head | None = None) -> Tensor:
        """Embed states (n, ...) as rows of length 1, (n, D); with gradient to what is trained.

        Args:
            states: of :meth:`states`.
            head: used instead of the upper part and the MLP.
        """
        if len(states) == 0:
            return self._no_rows(states.new_zeros((1, *states.shape[1:])))
        chunks = [(chunk,) for chunk in states.split(self.chunk)]
        return F.normalize(torch.cat(self._run(head or self._head, chunks)), dim=-1)


class PhraseEncoder(_Encoder):
    """Texts into the joint space.

    Args:
        parts: of :func:`~vrd_d2.modeling.encoders.clip.load_clip`; its text tower is taken apart.
        trained_blocks: see :func:`~vrd_d2.modeling.union_clip.split_towers.split_text_tower`.
        adapter: an MLP on top, or None.
        chunk: texts that go through the tower at a time.
        cache_bytes: main memory for states of the lower part; those that come when it is full
            are computed each time.
    """

    def __init__(
        self,
        parts: ClipParts,
        *,
        trained_blocks: int,
        adapter: nn.Module | None,
        chunk: int,
        cache_bytes: int = 0,
    ):
        super().__init__(*split_text_tower(parts.model, trained_blocks), adapter, chunk=chunk)
        self._tokenizer = parts.tokenizer
        self._cache_bytes = cache_bytes
        self._cached: dict[str, Tensor] = {}
        self._cached_bytes = 0
        self._cached_version: tuple[int, ...] = ()

    def version(self) -> tuple:
        """Return what changes whenever weights of this side are loaded, stepped or moved."""
        return (self.device, *(parameter._version for parameter in self.parameters()))

    @property
    def device(self) -> torch.device:
        """Return where the encoder lies."""
        return next(self.lower.parameters()).device

    @torch.no_grad()
    def states(self, texts: Sequence[str], *, cache: bool = False) -> list[Tensor]:
        """Return states of the frozen part, one a text: (L, w), or (1, D) if all is frozen.

        Args:
            texts: n distinct strings.
            cache: look them up in main memory, and store there what is new.
        """
        found: dict[str, Tensor] = {}
        if cache:
            version = tuple(parameter._version for parameter in self.lower.parameters())
            if version != self._cached_version:
                self._cached, self._cached_bytes, self._cached_version = {}, 0, version
            found = {text: self._cached[text] for text in texts if text in self._cached}
        missing = [text for text in texts if text not in found]
        if missing:
            chunk = batch_size_on(self.device, self.chunk) if cache else self.chunk
            found.update(zip(missing, self._states(missing, chunk), strict=True))
        if cache:
            for text in missing:
                size = found[text].nbytes
                if self._cached_bytes + size <= self._cache_bytes:
                    self._cached[text] = found[text].cpu()
                    self._cached_bytes += size
        return [found[text].to(self.device) for text in texts]

    def _states(self, texts: Sequence[str], at_once: int) -> list[Tensor]:
        tokens = tokenize(self._tokenizer, texts).to(self.device)
        lengths = tokens.argmax(dim=1) + 1  # the end of text has the largest id
        rows: list[Tensor | None] = [None] * len(texts)
        # In float32 whatever is around it: these rows may stay in the cache.
        with torch.autocast(self.device.type, enabled=False):
            # Sorted by length, since a batch is as long as its longest text.
            for chunk in lengths.argsort().split(at_once):
                # The tower is causal: cutting off what follows the end of text is exact.
                states = self.lower(tokens[chunk, : int(lengths[chunk].max())])
                for index, row in zip(chunk.tolist(), states, strict=True):
                    # A copy: a slice would hold the whole chunk in memory.
                    rows[index] = row[: int(lengths[index])].clone()
        return rows

    def embed(self, states: Sequence[Tensor], *, head: Head | None = None) -> Tensor:
        """Embed states of n texts as rows of length 1, (n, D); with gradient to what is trained.

        Args:
            states: of :meth:`states`.
            head: used instead of the upper part and the MLP.
        """
        if not states:
            with torch.no_grad():
                state = self.lower(torch.zeros((1, 1), dtype=torch.int64, device=self.device))
            return self._no_rows(state, torch.ones(1, dtype=torch.int64, device=self.device))
        lengths = torch.tensor([len(state) for state in states], device=self.device)
        order = lengths.argsort().long()
        chunks = [
            (pad_sequence([states[i] for i in chunk.tolist()], batch_first=True), lengths[chunk])
            for chunk in order.split(self.chunk)
        ]
        rows = torch.cat(self._run(head or self._head, chunks))
        return F.normalize(rows[order.argsort()], dim=-1)

    def forward(self, texts: Sequence[str], *, cache: bool = False) -> Tensor:
        """Embed texts, each distinct one once: n strings -> (n, D), rows of length 1."""
        distinct = {text: index for index, text in enumerate(dict.fromkeys(texts))}
        rows = self.embed(self.states(list(distinct), cache=cache))
        if len(distinct) == len(texts):
            return rows
        return rows[torch.tensor([distinct[text] for text in texts], device=rows.device)]
