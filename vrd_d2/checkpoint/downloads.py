"""Downloads of weights, and one line that says what to do where there is no network."""

import contextlib
import logging
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlparse

from detectron2.utils.file_io import PathManager

from vrd_d2.checkpoint.weights_files import first_line

TIMEOUT = 30.0  # seconds without an answer
_HUB_TIMEOUT = 10.0  # seconds; the hub's own client would try for a minute
# They repeat, once for each try, what the error says at the end.
_LOUD = ("huggingface_hub.utils._http", "iopath.common.download", "timm.models._hub")


class Network:
    """What is known of the network while something is downloaded.

    Attributes:
        unreachable: why Hugging Face cannot be reached; "" if it can, or is not asked.
    """

    def __init__(self, unreachable: str = ""):
        self.unreachable = unreachable

    def reason(self, error: BaseException) -> str:
        """Return on one line why a download failed: the innermost error that says so."""
        chain: list[BaseException] = []
        following: BaseException | None = error
        while following is not None and following not in chain:
            chain.append(following)
            following = following.__cause__ or following.__context__
        if self.unreachable and any(_of_hub(found) for found in chain):
            return self.unreachable
        for found in reversed(chain):
            if isinstance(found, urllib.error.HTTPError):
                return f"HTTP {found.code} {found.reason}"
            if isinstance(found, urllib.error.URLError) and isinstance(found.reason, str):
                return found.reason
            status = getattr(getattr(found, "response", None), "status_code", None)
            if isinstance(status, int):
                return f"HTTP {status}"
            if isinstance(found, TimeoutError):
                return f"no answer within {TIMEOUT:g} seconds"
            if isinstance(found, OSError) and found.strerror:
                return found.strerror
        return first_line(error)


@contextlib.contextmanager
def network(*, hub: bool = False) -> Iterator[Network]:
    """Let a library download: no endless waiting, and no warning for each try.

    Args:
        hub: whether it asks Hugging Face. Where that cannot be reached, its cache is all there is.
    """
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        unreachable = _hub_problem() if hub else ""
        with _quiet(), _offline(bool(unreachable)):
            yield Network(unreachable)
    finally:
        socket.setdefaulttimeout(previous)


@contextlib.contextmanager
def downloading(what: str, address: str, remedy: str, *, hub: bool = False) -> Iterator[None]:
    """Turn whatever a download raises into a ValueError with address, reason and remedy."""
    with network(hub=hub) as state:
        try:
            yield
        except Exception as error:  # libraries raise many types
            raise ValueError(
                f"{what} could not be downloaded from {address} ({state.reason(error)}): {remedy}"
            ) from error


def local_file(path: str) -> str:
    """Return the file of weights that a path or an address (https://, detectron2://) names.

    Raises:
        ValueError: there is no such file, or it cannot be downloaded.
    """
    if "://" not in path:
        if not PathManager.isfile(path):
            raise ValueError(f"there is no weights file {path}")
        return path
    address = urlparse(path)._replace(query="").geturl()  # Detectron2 has options there
    remedy = "without internet, get the file elsewhere, copy it here and give its path"
    with downloading("the weights", address, remedy):
        found = PathManager.get_local_path(address)
    if not os.path.isfile(found):
        raise ValueError(
            f"there is no weights file {path}: give a path, or an address with https:// or "
            "detectron2://"
        )
    return found


def hub_address(name: str = "") -> str:
    """Return the address of a repository of Hugging Face, or of its mirror (HF_ENDPOINT)."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{name}".rstrip("/")


def _hub_problem() -> str:
    """Return why Hugging Face cannot be reached, "" if it can or nobody wants to."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return ""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_HUB_TIMEOUT):
            return ""
    except urllib.error.HTTPError:
        return ""  # it answers
    except TimeoutError:
        return f"no answer within {_HUB_TIMEOUT:g} seconds"
    except urllib.error.URLError as error:
        cause = error.reason
        if isinstance(cause, TimeoutError):
            return f"no answer within {_HUB_TIMEOUT:g} seconds"
        # Certificates and proxies the hub's client may know better.
        if isinstance(cause, (socket.gaierror, ConnectionError)) or getattr(cause, "errno", None):
            return getattr(cause, "strerror", None) or str(cause)
        return ""
    except (OSError, ValueError) as error:
        return first_line(error)


@contextlib.contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """Let Hugging Face's client read its cache alone."""
    if not wanted:
        yield
        return
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _of_hub(error: BaseException) -> bool:
    return type(error).__module__.startswith("huggingface_hub")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop the lines of libraries about each try."""

    def drop(record: logging.LogRecord) -> bool:
        return False

    def drop_failed(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("Failed to download")

    filters = [(logging.getLogger(name), drop) for name in _LOUD]
    filters.append((logging.getLogger(), drop_failed))  # of open_clip
    for logger, function in filters:
        logger.addFilter(function)
    try:
        yield
    finally:
        for logger, function in filters:
            logger.removeFilter(function)
