"""Visual maps of a frozen encoder on disk: an epoch after the first does not run it again."""

import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

MANIFEST = "encoder.json"


def fingerprint(module: nn.Module, settings: object) -> str:
    """Return a hash of weights, names and shapes, and of what else the output depends on."""
    digest = hashlib.sha256(repr((type(module).__name__, settings)).encode())
    for name, value in sorted(module.state_dict().items()):
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


class FeatureCache:
    """Half-precision maps, one file an image, under the hash of the very pixels that went in.

    An image that is resized, flipped or replaced has other pixels and so another file: nothing in
    the cache can be out of date but the encoder, and a folder written by another encoder is
    refused.

    Args:
        folder: where the files lie; made where it is missing. It grows by about 2 bytes times the
            size of a map for each image and size, and may be deleted at any time.
        encoder: fingerprint of the encoder and its normalisation.

    Raises:
        ValueError: the folder belongs to another encoder.
    """

    def __init__(self, folder: str | os.PathLike, encoder: str):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        manifest = self.folder / MANIFEST
        # Listed before the manifest is looked for: what another process that starts at the same
        # time has put there by now lies beside its manifest or is hidden.
        others = [path for path in self.folder.iterdir() if not path.name.startswith(".")]
        if not manifest.is_file():
            if others:
                raise ValueError(
                    f"MODEL.VISUAL.FEATURE_CACHE: {self.folder} holds other files and no "
                    f"{MANIFEST}: name an empty folder"
                )
            _write(manifest, json.dumps({"encoder": encoder}).encode())
        stored = json.loads(manifest.read_text(encoding="utf-8")).get("encoder")
        if stored != encoder:
            raise ValueError(
                f"MODEL.VISUAL.FEATURE_CACHE: the maps in {self.folder} were made by another "
                f"encoder or other weights ({stored}, now {encoder}): delete the "
                "folder or name another one"
            )

    def get(
        self, images: list[Tensor], encode: Callable[[list[int]], list[Tensor]]
    ) -> list[Tensor]:
        """Return maps of images, read where they are stored, else encoded and stored.

        Args:
            images: uint8 (3, H, W) in main memory.
            encode: indices of the missing images -> their maps (D, h, w).

        Returns:
            Maps in float32, all rounded to half precision, so that the first epoch sees what the
            others see.
        """
        paths = [self._path(image) for image in images]
        found = [_read(path) for path in paths]
        missing = [index for index, feature_map in enumerate(found) if feature_map is None]
        if missing:
            for index, feature_map in zip(missing, encode(missing), strict=True):
                half = feature_map.to("cpu", torch.float16)
                found[index] = half
                paths[index].parent.mkdir(exist_ok=True)
                _write(paths[index], _npy(half.numpy()))
        return [feature_map.float() for feature_map in found]

    def _path(self, image: Tensor) -> Path:
        digest = hashlib.blake2b(repr(tuple(image.shape)).encode(), digest_size=16)
        digest.update(image.contiguous().numpy().data)
        name = digest.hexdigest()
        # Two levels: file systems slow down with 100,000 files in one folder.
        return self.folder / name[:2] / f"{name[2:]}.npy"


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    # Complete or not at all, also when killed or when several processes write the same image.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def _read(path: Path) -> Tensor | None:
    try:
        return torch.from_numpy(np.load(path))
    except FileNotFoundError:
        return None
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"MODEL.VISUAL.FEATURE_CACHE: {path} is damaged ({error}): delete it"
        ) from error
