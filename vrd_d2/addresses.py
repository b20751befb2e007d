"""Internet addresses that are given where a file on this machine is wanted."""

import os
import re

# Of pathlib's paths, too, which have one slash.
_ADDRESS = re.compile(
    r"(https?|ftp|sftp|s3|gs|hdfs|file|detectron2|catalog):/+(?=.)", re.IGNORECASE
)


def is_address(path: object) -> bool:
    """Return whether a text or path is an internet address, and no file of this machine."""
    if not isinstance(path, (str, os.PathLike)):
        return False
    text = os.fspath(path)
    return isinstance(text, str) and bool(_ADDRESS.match(text)) and not os.path.lexists(text)


def refuse_address(path: object, what: str = "") -> None:
    """Raise ValueError, with the remedy, if a path is an address.

    Args:
        path: what is given for a file or folder.
        what: the key or option that it is given as, for the message.
    """
    if is_address(path):
        text = _ADDRESS.sub(lambda match: f"{match[1]}://", os.fspath(path), count=1)
        raise ValueError(
            f"{what}{': ' if what else ''}{text} is an internet address, and a file or folder of "
            "this machine is wanted: download it, and give the path"
        )
