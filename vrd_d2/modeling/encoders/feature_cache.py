"""Visual maps of a frozen encoder on disk: an epoch after the first does not run it again."""

import hashlib
import io
import json
import logging
import math
import os
import re
import stat
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vrd_d2.data.atomic_files import file_lock, write_bytes, write_text
from vrd_d2.data.record_values import member
from vrd_d2.data.source_files import read_json

MANIFEST = "encoder.json"
KEY = "MODEL.VISUAL.FEATURE_CACHE"
_FOLDER = re.compile(r"[0-9a-f]{2}")
_MAP = re.compile(r"[0-9a-f]{30}\.npy")
_OLD_UNFINISHED = re.compile(r"\.([0-9a-f]{30}\.npy|encoder\.json)\.[0-9]+")  # of version 0.1
_ABANDONED = 3600.0  # seconds after which no process of version 0.1 is still writing such a file
_NAMED = 10  # damaged files that are named one by one

logger = logging.getLogger(__name__)


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
    refused. A file that is no such map is named in the log, and its image is encoded again. Where
    nothing can be stored, such as on a full disk, that is said once and images are encoded.

    Args:
        folder: where the files lie; made where it is missing. It grows by about 2 bytes times the
            size of a map for each image and size, and may be deleted at any time. Several
            processes may share it.
        encoder: fingerprint of the encoder and its normalisation.
        shape_of: image -> shape that its map has, by which a foreign map is recognized; None
            accepts any.

    Raises:
        ValueError: the folder belongs to another encoder, holds something else, or cannot be made.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        encoder: str,
        *,
        shape_of: Callable[[Tensor], tuple[int, ...]] | None = None,
    ):
        self.folder = Path(folder)
        self._shape_of = shape_of
        self._damaged = 0
        self._told_full = False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            stored = self._encoder()
            if stored is None:
                # Of processes that start at once with different encoders, one becomes the owner.
                with file_lock(self.folder / ".lock"):
                    stored = self._encoder() or self._own(encoder)
        except OSError as error:
            raise ValueError(
                f"{KEY}: the folder {self.folder} cannot be used ({error.strerror}): name another"
            ) from error
        if stored != encoder:
            raise ValueError(
                f"{KEY}: the maps in {self.folder} were made by another encoder or other weights "
                f"({stored}, now {encoder}): delete the folder or name another one"
            )
        self._remove_leftovers()

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

        Raises:
            ValueError: the encoder gives a map that is not finite in half precision.
        """
        paths = [self._path(image) for image in images]
        found = [self._read(path, image) for path, image in zip(paths, images, strict=True)]
        missing = [index for index, feature_map in enumerate(found) if feature_map is None]
        if missing:
            for index, feature_map in zip(missing, encode(missing), strict=True):
                half = feature_map.to("cpu", torch.float16)
                found[index] = half.float()
                if not found[index].sum().isfinite():
                    raise ValueError(
                        f"{KEY}: the encoder gives values that are not finite, or not in half "
                        f'precision: check its weights, or set {KEY} to ""'
                    )
                if self._shape_of is not None and half.shape != self._shape_of(images[index]):
                    self._shape_of = None  # an encoder of which it is not known beforehand
                self._store(paths[index], _npy(half.numpy()))
        return found

    def _path(self, image: Tensor) -> Path:
        digest = hashlib.blake2b(repr(tuple(image.shape)).encode(), digest_size=16)
        digest.update(image.contiguous().numpy().data)
        name = digest.hexdigest()
        # Two levels: file systems slow down with 100,000 files in one folder.
        return self.folder / name[:2] / f"{name[2:]}.npy"

    def _encoder(self) -> str | None:
        """Return the fingerprint in the manifest; None where there is none that can be read."""
        manifest = self.folder / MANIFEST
        if not os.path.lexists(manifest):
            return None
        if not manifest.is_file():
            raise ValueError(f"{KEY}: {manifest} is no regular file: delete it")
        try:
            return member(read_json(manifest), "encoder", str) or None
        except ValueError:
            return None

    def _own(self, encoder: str) -> str:
        """Write the manifest into a folder that has none, or a damaged one."""
        manifest = self.folder / MANIFEST
        entries = [path for path in self.folder.iterdir() if not path.name.startswith(".")]
        damaged = manifest in entries
        if damaged:
            entries.remove(manifest)
            others = [path for path in entries if not _FOLDER.fullmatch(path.name)]
        else:
            others = entries
        if others:
            raise ValueError(
                f"{KEY}: {self.folder} holds other files and no {MANIFEST}: name an empty folder"
            )
        if damaged:
            logger.warning(
                "%s: %s is damaged, so that its maps may be of any encoder: they are made again",
                KEY,
                manifest,
            )
            for path in self._files(_MAP):
                path.unlink(missing_ok=True)
        write_text(manifest, json.dumps({"encoder": encoder}))
        return encoder

    def _files(self, name: re.Pattern) -> list[Path]:
        """Return files of such names in the folders of maps."""
        folders = [path for path in self.folder.iterdir() if _FOLDER.fullmatch(path.name)]
        return [
            path
            for folder in folders
            if _is_folder(folder)
            for path in folder.iterdir()
            if name.fullmatch(path.name)
        ]

    def _remove_leftovers(self) -> None:
        """Remove what killed processes of version 0.1 left; writing removes those of this one."""
        try:
            found = [p for p in self.folder.iterdir() if _OLD_UNFINISHED.fullmatch(p.name)]
            for path in found + self._files(_OLD_UNFINISHED):
                if time.time() - path.lstat().st_mtime > _ABANDONED:
                    path.unlink()
        except OSError:
            pass  # another process is quicker, or the folder is read only

    def _read(self, path: Path, image: Tensor) -> Tensor | None:
        """Return a stored map in float32; None where there is none that can be used."""
        try:
            shape = None if self._shape_of is None else self._shape_of(image)
            return _read_map(path, shape)
        except FileNotFoundError:
            return None
        except Exception as error:  # numpy's reader of headers raises nearly anything
            self._damaged += 1
            if self._damaged <= _NAMED:
                last = "; others are not named" if self._damaged == _NAMED else ""
                reason = getattr(error, "strerror", None) or error
                logger.warning("%s: %s is no map (%s): it is made again%s", KEY, path, reason, last)
            return None

    def _store(self, path: Path, content: bytes) -> None:
        try:
            path.parent.mkdir(exist_ok=True)
            if not _is_folder(path.parent):
                raise NotADirectoryError(f"{path.parent} is a link")
            if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
                path.unlink()  # a link or a pipe, which is not to be written through
            write_bytes(path, content, sync=False)
        except OSError as error:
            if not self._told_full:
                self._told_full = True
                logger.warning(
                    "%s: %s takes no more maps (%s): images are encoded instead, until it does",
                    KEY,
                    self.folder,
                    error.strerror or error,
                )


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _is_folder(path: Path) -> bool:
    """Return whether a path is a folder, and no link to one elsewhere."""
    return stat.S_ISDIR(path.lstat().st_mode)


def _read_map(path: Path, shape: tuple[int, ...] | None) -> Tensor:
    """Read a map of this shape, or of any.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no whole map of finite numbers.
    """
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or not _is_folder(path.parent):
        raise ValueError("it is a folder, a link or a pipe")
    with path.open("rb") as file:
        # Only this version: the others are of dtypes that have names or large headers.
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("it has another version of the format")
        found, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype != np.float16 or fortran_order:
            raise ValueError(f"it holds {dtype}, not float16")
        if shape is not None and found != tuple(shape):
            raise ValueError(f"its shape is {found}, not {tuple(shape)}")
        size, wanted = status.st_size - file.tell(), 2 * math.prod(found)
        if size != wanted:
            raise ValueError(f"it has {size} bytes of numbers, not {wanted}")
        content = np.frombuffer(file.read(size), np.float16).reshape(found)
    feature_map = torch.from_numpy(content.astype(np.float32))
    if not feature_map.sum().isfinite():
        raise ValueError("it holds numbers that are not finite")
    return feature_map
