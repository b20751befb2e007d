"""The frozen CLIP model: its ViT as a dense backbone, its text tower as a cached encoder.

Shapes: N images, D width of the joint embedding space, stride = patch size of the ViT.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from vrd_d2 import assets
from vrd_d2.addresses import refuse_address
from vrd_d2.checkpoint.downloads import downloading, hub_address, network
from vrd_d2.data.source_files import read_json
from vrd_d2.modeling.encoders.clip_activation import check_activation
from vrd_d2.modeling.encoders.tokens import tokenize
from vrd_d2.modeling.encoders.visual_encoder import batch_size_on, encode_by_size, map_shape

# Imported where a model is built: it brings transformers and torchvision's models along.
if TYPE_CHECKING:
    from open_clip.transformer import VisionTransformer

# Models that ship with the package: name -> pretrained tag -> weights.
SHIPPED = {"scenes_clip": {"scenes": assets.path("scenes_clip.safetensors")}}


@dataclass(frozen=True)
class ClipParts:
    """A loaded CLIP model and what is needed to feed it.

    Attributes:
        model: open_clip's model, in eval mode, without gradients.
        tokenizer: list of texts -> (n, context) int64.
        mean, std: RGB normalisation of pixels in 0..1.
    """

    model: nn.Module
    tokenizer: object
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def load_clip(name: str, pretrained: str = "", *, cache_dir: str = "") -> ClipParts:
    """Load a CLIP model by an open_clip name, a shipped name or a local path.

    Args:
        name: open_clip model name, "scenes_clip", or the path of an open_clip model-config JSON. A
            relative ``bpe_path`` of its tokenizer is resolved against the JSON's folder.
        pretrained: an open_clip tag of that name, a local weights file, or "" for random weights.
        cache_dir: folder for downloads; "" is open_clip's default.

    Raises:
        ValueError: unknown name or tag, weights that do not fit, or weights that are not there.
    """
    import open_clip

    config_path = assets.path(f"{name}.json") if name in SHIPPED else Path(name)
    tokenizer_options = {}
    if config_path.suffix == ".json":
        name, tokenizer_options = _add_model_config(config_path)
    name = name.replace("/", "-")
    if name not in open_clip.list_models():
        known = [*SHIPPED, *open_clip.list_models()]
        near = ", ".join(difflib.get_close_matches(name, known, n=5, cutoff=0.4)) or "none"
        raise ValueError(
            f"MODEL.CLIP.NAME: no model {name!r}; near: {near}. Give a name of "
            "open_clip.list_models(), 'scenes_clip', or the path of a model-config JSON."
        )
    weights = _find_weights(name, pretrained)
    if weights == pretrained and Path(pretrained).is_file():
        own = config_path if config_path.suffix == ".json" else None
        check_activation(name, Path(pretrained), config=own)
    if weights and not Path(weights).is_file():
        _download(name, weights, cache_dir)
    text = open_clip.get_model_config(name)["text_cfg"]
    asks_hub = bool(text.get("hf_model_name") or text.get("hf_tokenizer_name"))
    with network(hub=asks_hub) as state:
        try:
            model = open_clip.create_model(name, pretrained=weights, cache_dir=cache_dir or None)
            tokenizer = open_clip.get_tokenizer(name, **tokenizer_options)
        except ModuleNotFoundError:  # of the text model
            raise
        except Exception as error:  # open_clip raises many types for one cause: no usable weights
            source = f" or its text model from {hub_address()}" if asks_hub else ""
            raise ValueError(
                f"MODEL.CLIP.PRETRAINED: the weights {pretrained!r} of {name}{source} could not be "
                f"loaded ({state.reason(error)}). A file that does not fit belongs to another "
                "MODEL.CLIP.NAME; one that is broken must be got again"
            ) from error
    model.eval().requires_grad_(False)
    # Taken from open_clip: models differ (OpenAI's, LAION's and SigLIP's constants).
    preprocess = model.visual.preprocess_cfg
    return ClipParts(model, tokenizer, tuple(preprocess["mean"]), tuple(preprocess["std"]))


def _add_model_config(path: Path) -> tuple[str, dict]:
    import open_clip

    refuse_address(path, "MODEL.CLIP.NAME")
    if not path.is_file():
        raise ValueError(f"MODEL.CLIP.NAME: there is no model config {path}")
    config = read_json(path)
    try:
        options = dict(config["text_cfg"].get("tokenizer_kwargs") or {})
        config["embed_dim"], config["vision_cfg"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"MODEL.CLIP.NAME: {path} is no open_clip model config (needs embed_dim, vision_cfg, "
            f"text_cfg): {error!r}"
        ) from error
    if "bpe_path" in options:
        options["bpe_path"] = str((path.parent / options["bpe_path"]).resolve())
    open_clip.add_model_config(path)
    return path.stem, options


def _find_weights(name: str, pretrained: str) -> str | None:
    import open_clip

    if not pretrained:
        return None
    shipped = SHIPPED.get(name, {})
    if pretrained in shipped:
        return str(shipped[pretrained])
    tags = [*shipped, *open_clip.list_pretrained_tags_by_model(name)]
    if pretrained in tags:
        wanted = open_clip.get_pretrained_cfg(name, pretrained).get("quick_gelu", False)
        if wanted and not open_clip.get_model_config(name).get("quick_gelu", False):
            raise ValueError(
                f"MODEL.CLIP.PRETRAINED: the weights {pretrained!r} were trained with QuickGELU, "
                f"which {name} does not have: set MODEL.CLIP.NAME to {name}-quickgelu"
            )
        return pretrained
    if Path(pretrained).is_file():
        return pretrained
    refuse_address(pretrained, "MODEL.CLIP.PRETRAINED")
    raise ValueError(
        f"MODEL.CLIP.PRETRAINED: {pretrained!r} is neither a file nor a tag of {name}; its tags: "
        f"{', '.join(tags) or 'none'}"
    )


def _download(name: str, tag: str, cache_dir: str) -> None:
    """Download the weights of a tag unless they are in open_clip's cache."""
    import open_clip

    config = open_clip.get_pretrained_cfg(name, tag)
    hub, address = config.get("hf_hub", ""), config.get("url", "")
    partial = None
    if hub:
        address = hub_address(hub.rstrip("/"))
    elif address:
        partial = Path(cache_dir or Path.home() / ".cache/clip", Path(address).name)
    there = partial is not None and partial.exists()
    remedy = (
        "without internet, get the weights file elsewhere, copy it here and set "
        "MODEL.CLIP.PRETRAINED to its path"
    )
    what = f"MODEL.CLIP.PRETRAINED: the weights {tag!r} of {name}"
    try:
        with downloading(what, address, remedy, hub=bool(hub)):
            open_clip.download_pretrained(config, cache_dir=cache_dir or None)
    except BaseException:
        # open_clip writes in place, and would take what is cut for the whole.
        if partial is not None and not there:
            partial.unlink(missing_ok=True)
        raise


class CLIPViT(Backbone):
    """CLIP's vision transformer as a 2D feature map (RelCLIP, section 3.2, "V(I)").

    The final states of the patch tokens after the last LayerNorm and the visual projection, without
    the class token. At the native size they equal the tokens of open_clip. Images of any size:
    padded right and below to whole patches, position embeddings interpolated (bicubic).
    """

    def __init__(self, visual: "VisionTransformer"):
        from open_clip.transformer import VisionTransformer

        super().__init__()
        if not isinstance(visual, VisionTransformer) or visual.attn_pool is not None:
            raise ValueError(
                f"MODEL.CLIP.NAME: the image tower is a {type(visual).__name__}; the dense "
                "backbone needs an open_clip VisionTransformer without attentional pooling "
                "(ViT-B-32, ViT-B-16, ViT-L-14, ViT-H-14, ...)"
            )
        self.visual = visual.eval().requires_grad_(False)
        self.stride = visual.conv1.kernel_size[0]
        self._out_features = ["clip"]
        self._out_feature_channels = {"clip": visual.output_dim}
        self._out_feature_strides = {"clip": self.stride}

    @property
    def size_divisibility(self) -> int:
        """Return the pixels to a multiple of which an image is padded."""
        return self.stride

    def train(self, mode: bool = True) -> "CLIPViT":
        """Stay in eval mode: the tower is frozen."""
        return super().train(False)

    def _positions(self, height: int, width: int) -> Tensor:
        table = self.visual.positional_embedding
        rows, cols = self.visual.grid_size
        # Under export a question about the size would become a condition on all images, so there
        # it always interpolates; at the native size that changes nothing.
        if not torch.compiler.is_exporting() and (height, width) == (rows, cols):
            return table
        grid = table[1:].float().reshape(1, rows, cols, -1).permute(0, 3, 1, 2).contiguous()
        grid = F.interpolate(grid, size=(height, width), mode="bicubic", align_corners=False)
        return torch.cat([table[:1], grid.flatten(2)[0].T.to(table.dtype)])

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Encode images of one size, without gradient.

        Args:
            images: (N, 3, H, W) RGB, normalised with CLIP's mean and std.

        Returns:
            {"clip": (N, D, ceil(H / stride), ceil(W / stride))}.
        """
        return {"clip": self.encode(images)}

    def encode(self, images: Tensor) -> Tensor:
        """Encode as :meth:`forward`, with gradient: (N, 3, H, W) -> (N, D, h, w)."""
        visual = self.visual
        bottom, right = -images.shape[-2] % self.stride, -images.shape[-1] % self.stride
        # Zeros after normalisation: the mean colour.
        patches = visual.conv1(F.pad(images, (0, right, 0, bottom)))  # N x width x h x w
        n, _, h, w = patches.shape
        tokens = torch.cat(
            [
                visual.class_embedding.to(patches.dtype).expand(n, 1, -1),
                patches.flatten(2).transpose(1, 2),
            ],
            dim=1,
        )
        tokens = visual.ln_pre(tokens + self._positions(h, w).to(tokens.dtype))
        tokens = visual.ln_post(visual.transformer(tokens)[:, 1:])
        if visual.proj is not None:
            tokens = tokens @ visual.proj
        return tokens.transpose(1, 2).reshape(n, -1, h, w)

    def maps(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Encode images: see :func:`~vrd_d2.modeling.encoders.visual_encoder.encode_by_size`."""
        return encode_by_size(
            lambda batch: self(batch)["clip"], images, divisor=self.size_divisibility
        )

    def map_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape (D, h, w) of the map of an image."""
        channels = self._out_feature_channels["clip"]
        return map_shape(height, width, channels, self.stride, self.size_divisibility)

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of the one output, "clip"."""
        return {"clip": ShapeSpec(channels=self._out_feature_channels["clip"], stride=self.stride)}


@BACKBONE_REGISTRY.register()
def build_clip_vit_backbone(cfg, input_shape: ShapeSpec | None = None) -> CLIPViT:
    """Build the ViT of MODEL.CLIP as a Detectron2 backbone."""
    parts = load_clip(
        cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED, cache_dir=cfg.MODEL.CLIP.CACHE_DIR
    )
    return CLIPViT(parts.model.visual)


class TextEncoder:
    """The frozen text tower: L2-normalised embeddings, every distinct text encoded once.

    Not an ``nn.Module``: relation models use it in training only, so that its weights belong into
    no checkpoint and into no export.

    On the CPU texts are encoded one by one: the last digits of a row depend on what else is in its
    batch, which after a resume is something else, and a resumed run is to be exactly the same.

    Args:
        parts: of :func:`load_clip`.
        batch_size: texts that are encoded at a time on other devices.
    """

    def __init__(self, parts: ClipParts, *, batch_size: int = 256):
        self._model = parts.model
        self._tokenizer = parts.tokenizer
        self._batch_size = batch_size
        self._rows: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], *, device: torch.device | str = "cpu") -> Tensor:
        """Embed texts.

        Args:
            texts: n strings.
            device: where the tower runs and the result lies; the cache lies in main memory.

        Returns:
            (n, D) float32, rows of length 1.
        """
        missing = list(dict.fromkeys(text for text in texts if text not in self._rows))
        if missing:
            self._model.to(device)
            tokens = tokenize(self._tokenizer, missing)
            # Sorted by length, since a batch is as long as its longest text.
            order = tokens.argmax(dim=1).argsort()
            # In float32 whatever is around it: these rows stay in the cache.
            with torch.autocast(torch.device(device).type, enabled=False):
                for chunk in order.split(batch_size_on(device, self._batch_size)):
                    rows = F.normalize(self._encode(tokens[chunk].to(device)), dim=-1).cpu()
                    self._rows.update(
                        {missing[i]: row for i, row in zip(chunk.tolist(), rows, strict=True)}
                    )
        return torch.stack([self._rows[text] for text in texts]).to(device)

    def _encode(self, tokens: Tensor) -> Tensor:
        import open_clip
        from open_clip.transformer import text_global_pool

        model = self._model
        if not isinstance(model, open_clip.CLIP) or model.text_pool_type != "argmax":
            return model.encode_text(tokens)
        # The tower is causal and reads the end-of-text position, the largest id: what follows it
        # cannot matter, so cutting it off is exact.
        length = int(tokens.argmax(dim=1).max()) + 1
        tokens = tokens[:, :length]
        states = model.token_embedding(tokens) + model.positional_embedding[:length]
        states = model.transformer(states, attn_mask=model.attn_mask[:length, :length])
        pooled = text_global_pool(model.ln_final(states), tokens, model.text_pool_type)
        projection = model.text_projection
        return projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
