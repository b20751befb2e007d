"""CLIP's towers in two parts: a frozen lower one, whose output can be cached, and a trained one.

The last K "blocks" of a tower, its final norm and its projection are the upper part ("attention"
of the contrastive fine-tuning paper, section 4: K = 2). K = 0 leaves nothing above: the lower part
is the whole tower. Blocks are

- of a ViT and of the text tower: transformer blocks;
- of a ResNet: the stem, its four stages, and the attention pool, which holds the projection; so
  K = 2 trains the last stage and the attention pool. Statistics of batch norms stay.

Shapes: n crops or texts, L tokens, w width of a tower, D width of the joint embedding space.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

# Imported where a model is built.
if TYPE_CHECKING:
    import open_clip
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer


def split_image_tower(visual: nn.Module, trained_blocks: int) -> tuple[nn.Module, nn.Module]:
    """Return a lower part, (n, 3, H, W) -> states (n, ...), and an upper, states -> (n, D).

    Args:
        visual: an open_clip image tower; any kind for 0 blocks.
        trained_blocks: K.

    Raises:
        ValueError: the tower has not so many blocks, or is of a kind that cannot be split.
    """
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.transformer import VisionTransformer

    if trained_blocks == 0:
        return visual, nn.Identity()
    if isinstance(visual, ModifiedResNet):
        stem = nn.Sequential(
            *(visual.conv1, visual.bn1, visual.act1, visual.conv2, visual.bn2, visual.act2),
            *(visual.conv3, visual.bn3, visual.act3, visual.avgpool),
        )
        stages = [stem, visual.layer1, visual.layer2, visual.layer3, visual.layer4, visual.attnpool]
        _check_count(trained_blocks, len(stages), "image")
        return nn.Sequential(*stages[:-trained_blocks]), nn.Sequential(*stages[-trained_blocks:])
    if (
        not isinstance(visual, VisionTransformer)
        or visual.attn_pool is not None
        or visual.pool_type != "tok"
        or not _plain(visual.transformer.resblocks)
    ):
        raise ValueError(
            f"MODEL.CLIP.NAME: the image tower, a {type(visual).__name__}, cannot be trained in "
            "part: choose a ResNet of CLIP or a plain ViT (RN50, ViT-B-32, ViT-H-14, ...), or "
            "MODEL.UNION_CLIP.FINETUNE mlp"
        )
    _check_count(trained_blocks, len(visual.transformer.resblocks), "image")
    return ViTLower(visual, trained_blocks), ViTUpper(visual, trained_blocks)


def split_text_tower(model: nn.Module, trained_blocks: int) -> tuple[nn.Module, nn.Module]:
    """Return a lower part, ids (n, L) -> states (n, L, w), and an upper, with lengths -> (n, D).

    For 0 blocks the states are the embeddings themselves, (n, 1, D).

    Args:
        model: open_clip's CLIP.
        trained_blocks: K.

    Raises:
        ValueError: the tower has not so many blocks, or is not CLIP's causal transformer.
    """
    import open_clip

    blocks = getattr(getattr(model, "transformer", None), "resblocks", None)
    if (
        not isinstance(model, open_clip.CLIP)
        or model.text_pool_type != "argmax"
        or model.attn_mask is None
        or not _plain(blocks)
    ):
        raise ValueError(
            f"MODEL.CLIP.NAME: the text tower of a {type(model).__name__} is not CLIP's causal "
            "transformer, which UnionCLIP needs: choose RN50, ViT-B-32, ViT-H-14, ..."
        )
    _check_count(trained_blocks, len(blocks), "text")
    lower, upper = TextLower(model, trained_blocks), TextUpper(model, max(trained_blocks, 1))
    if trained_blocks:
        return lower, upper
    return WholeText(TextLower(model, 1), upper), SingleState()


def _plain(blocks: nn.Module | None) -> bool:
    from open_clip.transformer import ResidualAttentionBlock

    return all(type(block) is ResidualAttentionBlock for block in blocks)


def _check_count(trained: int, blocks: int, tower: str) -> None:
    if not 0 <= trained <= blocks:
        raise ValueError(
            f"MODEL.UNION_CLIP.TRAINED_BLOCKS is {trained}: the {tower} tower has {blocks} blocks"
        )


class ViTLower(nn.Module):
    """Patches, positions and all but the last blocks: (n, 3, H, W) -> (n, 1 + patches, w)."""

    def __init__(self, visual: "VisionTransformer", trained_blocks: int):
        super().__init__()
        self.conv1 = visual.conv1
        self.class_embedding = visual.class_embedding
        self.positional_embedding = visual.positional_embedding
        self.ln_pre = visual.ln_pre
        self.blocks = visual.transformer.resblocks[:-trained_blocks]

    def forward(self, images: Tensor) -> Tensor:
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        first = self.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        states = torch.cat([first, patches], dim=1) + self.positional_embedding.to(patches.dtype)
        states = self.ln_pre(states)
        for block in self.blocks:
            states = block(states)
        return states


class ViTUpper(nn.Module):
    """The last blocks, final norm and projection of the class token: (n, L, w) -> (n, D)."""

    def __init__(self, visual: "VisionTransformer", trained_blocks: int):
        super().__init__()
        self.blocks = visual.transformer.resblocks[-trained_blocks:]
        self.ln_post = visual.ln_post
        self.proj = visual.proj

    def forward(self, states: Tensor) -> Tensor:
        for block in self.blocks[:-1]:
            states = block(states)
        first = torch.zeros(len(states), dtype=torch.int64, device=states.device)
        pooled = self.ln_post(last_block(self.blocks[-1], states, first))
        return pooled if self.proj is None else pooled @ self.proj


class TextLower(nn.Module):
    """Embeddings and all but the last blocks: (n, L) token ids -> (n, L, w)."""

    def __init__(self, model: "open_clip.CLIP", trained_blocks: int):
        super().__init__()
        blocks = model.transformer.resblocks
        self.token_embedding = model.token_embedding
        self.positional_embedding = model.positional_embedding
        self.blocks = blocks[: len(blocks) - trained_blocks]
        self.register_buffer("attn_mask", model.attn_mask, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        states = self.token_embedding(tokens) + self.positional_embedding[:length]
        for block in self.blocks:
            states = block(states, attn_mask=self.attn_mask[:length, :length])
        return states


class TextUpper(nn.Module):
    """The last blocks, final norm and projection of the end-of-text token.

    States are padded behind the length of a text; the padding is not read.
    """

    def __init__(self, model: "open_clip.CLIP", trained_blocks: int):
        super().__init__()
        self.blocks = model.transformer.resblocks[-trained_blocks:]
        self.ln_final = model.ln_final
        self.text_projection = model.text_projection
        self.register_buffer("attn_mask", model.attn_mask, persistent=False)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        length = states.shape[1]
        for block in self.blocks[:-1]:
            states = block(states, attn_mask=self.attn_mask[:length, :length])
        padding = torch.arange(length, device=states.device) >= lengths[:, None]
        pooled = self.ln_final(last_block(self.blocks[-1], states, lengths - 1, padding))
        if self.text_projection is None:
            return pooled
        if isinstance(self.text_projection, nn.Linear):
            return self.text_projection(pooled)
        return pooled @ self.text_projection


class WholeText(nn.Module):
    """A whole text tower as a lower part: (n, L) token ids -> (n, 1, D)."""

    def __init__(self, lower: TextLower, upper: TextUpper):
        super().__init__()
        self.lower, self.upper = lower, upper

    def forward(self, tokens: Tensor) -> Tensor:
        return self.upper(self.lower(tokens), tokens.argmax(dim=1) + 1)[:, None]


class SingleState(nn.Module):
    """The upper part over a whole tower: (n, 1, D) -> (n, D)."""

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        return states[:, 0]


def last_block(
    block: "ResidualAttentionBlock",
    states: Tensor,
    positions: Tensor,
    padding: Tensor | None = None,
) -> Tensor:
    """Apply a transformer block for the one token that is read after it; exact, nearly free.

    Args:
        block: of open_clip.
        states: (n, L, w).
        positions: (n,) index of that token.
        padding: (n, L) True at tokens that must not be attended to.

    Returns:
        (n, w).
    """
    texts = torch.arange(len(states), device=states.device)
    normed = block.ln_1(states)
    attended, _ = block.attn(
        normed[texts, positions][:, None],
        normed,
        normed,
        need_weights=False,
        key_padding_mask=padding,
    )
    pooled = states[texts, positions] + block.ls_1(attended[:, 0])
    return pooled + block.ls_2(block.mlp(block.ln_2(pooled)))
